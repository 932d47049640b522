//! What a server answers.

use std::ops::Range;

use super::{ClientError, after_head};
use crate::proto::{Attribute, Bitmap, Operation, Stateid, Status, TAG_BYTES_MAX, Verifier};
use crate::xdr::{Malformed, Reader};

/// An answer to a compound.
#[derive(Debug, Clone)]
pub struct Answer {
    record: Vec<u8>,
    pub status: Status,
    results: Vec<(Operation, Status, Range<usize>)>,
}

/// How a folder was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub before: u64,
    pub after: u64,
}

/// What OPEN answers.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    pub stateid: Stateid,
    pub change: Change,
    pub set: Bitmap,
}

/// What WRITE answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub count: u32,
    pub stable: u32,
    pub verifier: Verifier,
}

/// An entry of a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    pub cookie: u64,
    pub name: Vec<u8>,
    pub attributes: Attributes,
}

/// Attributes that tests look at; the others are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    pub bitmap: Bitmap,
    /// As they were encoded.
    pub values: Vec<u8>,
    pub kind: Option<u32>,
    pub change: Option<u64>,
    pub size: Option<u64>,
    pub error: Option<u32>,
    pub handle: Option<Vec<u8>>,
    pub file_id: Option<u64>,
    pub mode: Option<u32>,
    pub links: Option<u32>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub access: Option<(i64, u32)>,
    pub modify: Option<(i64, u32)>,
    pub supported: Option<Bitmap>,
    pub lease_s: Option<u32>,
    pub space_total: Option<u64>,
}

impl Attributes {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bitmap = Bitmap::read(reader)?;
        let values = reader.opaque(usize::MAX)?;
        let mut these = Self { bitmap, values: values.to_vec(), ..Self::default() };
        let mut values = Reader::new(values);
        for attribute in Attribute::ALL.iter().filter(|attribute| bitmap.has(**attribute)) {
            these.one(*attribute, &mut values)?;
        }
        if values.remaining() > 0 { Err(Malformed) } else { Ok(these) }
    }

    fn one(&mut self, attribute: Attribute, values: &mut Reader<'_>) -> Result<(), Malformed> {
        use Attribute as A;
        let text = |values: &mut Reader<'_>| {
            values.opaque(1024).map(|text| String::from_utf8_lossy(text).into_owned())
        };
        let time = |values: &mut Reader<'_>| Ok((values.i64()?, values.u32()?));
        match attribute {
            A::SupportedAttrs => self.supported = Some(Bitmap::read(values)?),
            A::SuppattrExclCreat => drop(Bitmap::read(values)?),
            A::Type => self.kind = Some(values.u32()?),
            A::Change => self.change = Some(values.u64()?),
            A::Size => self.size = Some(values.u64()?),
            A::RdattrError => self.error = Some(values.u32()?),
            A::FileHandle => self.handle = Some(values.opaque(128)?.to_vec()),
            A::FileId => self.file_id = Some(values.u64()?),
            A::Mode => self.mode = Some(values.u32()?),
            A::NumLinks => self.links = Some(values.u32()?),
            A::Owner => self.owner = Some(text(values)?),
            A::OwnerGroup => self.group = Some(text(values)?),
            A::TimeAccess => self.access = Some(time(values)?),
            A::TimeModify => self.modify = Some(time(values)?),
            A::LeaseTime => self.lease_s = Some(values.u32()?),
            A::SpaceTotal => self.space_total = Some(values.u64()?),
            A::FsId => drop((values.u64()?, values.u64()?)),
            A::TimeMetadata | A::TimeDelta => drop(time(values)?),
            A::MaxFileSize
            | A::MaxRead
            | A::MaxWrite
            | A::RawDev
            | A::SpaceAvail
            | A::SpaceFree
            | A::SpaceUsed
            | A::MountedOnFileId => drop(values.u64()?),
            A::TimeAccessSet | A::TimeModifySet => return Err(Malformed),
            _ => drop(values.u32()?),
        }
        Ok(())
    }
}

/// How many bytes the result of an operation takes that was done.
fn skip(operation: Operation, reader: &mut Reader<'_>) -> Result<(), Malformed> {
    use Operation as Op;
    match operation {
        Op::Access => drop(reader.bytes(8)?),
        Op::Close | Op::Lock | Op::LockU | Op::OpenDowngrade => drop(reader.bytes(16)?),
        Op::Commit => drop(reader.bytes(8)?),
        Op::Create => {
            reader.bytes(20)?;
            Bitmap::read(reader)?;
        }
        Op::GetAttr => {
            Bitmap::read(reader)?;
            reader.opaque(usize::MAX)?;
        }
        Op::GetFh | Op::ReadLink => drop(reader.opaque(usize::MAX)?),
        Op::Link | Op::Remove => drop(reader.bytes(20)?),
        Op::Rename => drop(reader.bytes(40)?),
        Op::Open => {
            reader.bytes(16 + 20 + 4)?;
            Bitmap::read(reader)?;
            reader.u32()?;
        }
        Op::Read => {
            reader.bool()?;
            reader.opaque(usize::MAX)?;
        }
        Op::ReadDir => {
            reader.bytes(8)?;
            while reader.bool()? {
                reader.u64()?;
                reader.opaque(usize::MAX)?;
                Bitmap::read(reader)?;
                reader.opaque(usize::MAX)?;
            }
            reader.bool()?;
        }
        Op::SecInfo | Op::SecInfoNoName | Op::TestStateid => drop(reader.list(usize::MAX, Reader::u32)?),
        Op::Write => drop(reader.bytes(16)?),
        Op::BindConnToSession => drop(reader.bytes(24)?),
        Op::Sequence => drop(reader.bytes(36)?),
        Op::ExchangeId => {
            reader.bytes(8 + 4 + 4 + 4 + 8)?;
            reader.opaque(1024)?;
            reader.opaque(1024)?;
            reader.list(0, Reader::u32)?;
        }
        Op::CreateSession => {
            reader.bytes(16 + 8)?;
            for _ in 0..2 {
                reader.bytes(24)?;
                reader.list(1, Reader::u32)?;
            }
        }
        _ => {}
    }
    Ok(())
}

impl Answer {
    /// What a record says that is an answer.
    ///
    /// # Errors
    /// [`ClientError::Malformed`], also if any of it is not what XDR says; [`ClientError::Rpc`]
    pub fn read(record: Vec<u8>) -> Result<Self, ClientError> {
        let mut reader = after_head(&record)?;
        if reader.remaining() == 0 {
            // Of the procedure that does nothing.
            return Ok(Self { record, status: Status::Ok, results: Vec::new() });
        }
        let status = Status::from_number(reader.u32()?).ok_or(Malformed)?;
        reader.opaque(TAG_BYTES_MAX)?;
        let count = reader.u32()?;
        let mut results = Vec::new();
        for _ in 0..count {
            let operation = Operation::from_number(reader.u32()?).ok_or(Malformed)?;
            let status = Status::from_number(reader.u32()?).ok_or(Malformed)?;
            let start = record.len() - reader.remaining();
            match (operation, status) {
                (_, Status::Ok) if operation == Operation::SetAttr => drop(Bitmap::read(&mut reader)?),
                (_, Status::Ok) => skip(operation, &mut reader)?,
                (Operation::SetAttr, _) => drop(Bitmap::read(&mut reader)?),
                (Operation::Lock | Operation::LockT, Status::Denied) => {
                    reader.bytes(28)?;
                    reader.opaque(1024)?;
                }
                _ => {}
            }
            results.push((operation, status, start..record.len() - reader.remaining()));
        }
        let last = results.last().map_or(status, |(_, status, _)| *status);
        if reader.remaining() > 0 || last != status {
            return Err(Malformed.into());
        }
        Ok(Self { record, status, results })
    }

    /// Unless an operation failed.
    ///
    /// # Errors
    /// [`ClientError::Refused`]
    pub fn ok(self) -> Result<Self, ClientError> {
        match (self.status, self.results.last()) {
            (Status::Ok, _) => Ok(self),
            (status, Some((operation, ..))) => Err(ClientError::Refused { operation: *operation, status }),
            (status, None) => Err(ClientError::Refused { operation: Operation::Illegal, status }),
        }
    }

    /// How many operations were done, the one that failed among them.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// The bytes of the answer.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// What follows the status of operation `place`; nothing if there is none.
    pub fn result(&self, place: usize) -> Reader<'_> {
        let range = self.results.get(place).map_or(0..0, |(.., range)| range.clone());
        Reader::new(&self.record[range])
    }

    /// What follows the status of the last operation of this kind.
    pub fn of(&self, operation: Operation) -> Result<Reader<'_>, ClientError> {
        let found = self.results.iter().rev().find(|(done, ..)| *done == operation).ok_or(Malformed)?;
        Ok(Reader::new(&self.record[found.2.clone()]))
    }

    /// # Errors
    /// Here and below, if there is no such result.
    pub fn handle(&self) -> Result<Vec<u8>, ClientError> {
        Ok(self.of(Operation::GetFh)?.opaque(128)?.to_vec())
    }

    pub fn attributes(&self) -> Result<Attributes, ClientError> {
        Ok(Attributes::read(&mut self.of(Operation::GetAttr)?)?)
    }

    pub fn access(&self) -> Result<(u32, u32), ClientError> {
        let mut result = self.of(Operation::Access)?;
        Ok((result.u32()?, result.u32()?))
    }

    pub fn opened(&self) -> Result<Opened, ClientError> {
        let mut result = self.of(Operation::Open)?;
        let stateid = Stateid::read(&mut result)?;
        let change = change(&mut result)?;
        result.u32()?;
        Ok(Opened { stateid, change, set: Bitmap::read(&mut result)? })
    }

    /// The stateid that an operation gave.
    pub fn stateid(&self, operation: Operation) -> Result<Stateid, ClientError> {
        Ok(Stateid::read(&mut self.of(operation)?)?)
    }

    /// Whether it is the end of the file, and the bytes.
    pub fn bytes(&self) -> Result<(bool, &[u8]), ClientError> {
        let mut result = self.of(Operation::Read)?;
        Ok((result.bool()?, result.opaque(usize::MAX)?))
    }

    pub fn written(&self) -> Result<Written, ClientError> {
        let mut result = self.of(Operation::Write)?;
        Ok(Written { count: result.u32()?, stable: result.u32()?, verifier: result.fixed()? })
    }

    pub fn change(&self, operation: Operation) -> Result<Change, ClientError> {
        Ok(change(&mut self.of(operation)?)?)
    }

    /// The entries of a folder, and whether there are no more.
    pub fn entries(&self) -> Result<(Vec<Entry>, bool), ClientError> {
        let mut result = self.of(Operation::ReadDir)?;
        result.u64()?;
        let mut entries = Vec::new();
        while result.bool()? {
            entries.push(Entry {
                cookie: result.u64()?,
                name: result.opaque(255)?.to_vec(),
                attributes: Attributes::read(&mut result)?,
            });
        }
        Ok((entries, result.bool()?))
    }
}

fn change(reader: &mut Reader<'_>) -> Result<Change, Malformed> {
    reader.bool()?;
    Ok(Change { before: reader.u64()?, after: reader.u64()? })
}
