//! What a client asks for.

use super::write_callback;
use crate::proto::{Attribute, Bitmap, Operation, SessionId, Stateid, Verifier, share};
use crate::xdr::Writer;

/// Operations that are asked for together.
#[derive(Debug, Clone, Default)]
pub struct Compound {
    minor_version: Option<u32>,
    operations: Vec<u8>,
    count: u32,
}

/// A time to be set.
#[derive(Debug, Clone, Copy)]
pub enum Time {
    Now,
    At(i64, u32),
}

/// Attributes to be set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub owner: Option<&'a str>,
    pub group: Option<&'a str>,
    pub access: Option<Time>,
    pub modify: Option<Time>,
}

impl Values<'_> {
    fn write(&self, out: &mut Writer) {
        let mut bitmap = Bitmap::EMPTY;
        let mut values = Writer::new();
        if let Some(size) = self.size {
            bitmap.insert(Attribute::Size);
            values.u64(size);
        }
        if let Some(mode) = self.mode {
            bitmap.insert(Attribute::Mode);
            values.u32(mode);
        }
        for (name, attribute) in [(self.owner, Attribute::Owner), (self.group, Attribute::OwnerGroup)] {
            if let Some(name) = name {
                bitmap.insert(attribute);
                values.opaque(name.as_bytes());
            }
        }
        let times = [(self.access, Attribute::TimeAccessSet), (self.modify, Attribute::TimeModifySet)];
        for (time, attribute) in times {
            let Some(time) = time else { continue };
            bitmap.insert(attribute);
            match time {
                Time::Now => values.u32(0),
                Time::At(s, ns) => {
                    values.u32(1);
                    values.i64(s);
                    values.u32(ns);
                }
            }
        }
        bitmap.write(out);
        out.opaque(values.as_bytes());
    }
}

/// How a file is made by OPEN.
#[derive(Debug, Clone, Copy)]
pub enum How<'a> {
    Unchecked(Values<'a>),
    Guarded(Values<'a>),
    Exclusive(Verifier),
    ExclusiveWith(Verifier, Values<'a>),
}

/// Which file OPEN means.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    Name(&'a [u8]),
    Previous,
    Handle,
    /// Another one, by its number, with nothing behind it.
    Other(u32),
}

/// What OPEN is asked.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    pub access: u32,
    pub deny: u32,
    pub owner: &'a [u8],
    pub how: Option<How<'a>>,
    pub claim: Claim<'a>,
}

impl<'a> Open<'a> {
    /// To read what is there.
    pub fn to_read(name: &'a [u8]) -> Self {
        Self { access: share::READ, deny: 0, owner: b"owner", how: None, claim: Claim::Name(name) }
    }

    /// To read and write what is there, or is made.
    pub fn to_write(name: &'a [u8]) -> Self {
        let values = Values { mode: Some(0o644), ..Values::default() };
        Self { access: share::BOTH, how: Some(How::Unchecked(values)), ..Self::to_read(name) }
    }
}

/// What a lock is for.
#[derive(Debug, Clone, Copy)]
pub enum LockKind {
    Read = 1,
    Write = 2,
}

impl LockKind {
    fn number(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
        }
    }
}

impl Compound {
    pub fn new() -> Self {
        Self::default()
    }

    /// Of another version than 4.1.
    #[must_use]
    pub fn of_version(self, minor: u32) -> Self {
        Self { minor_version: Some(minor), ..self }
    }

    /// How many operations there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.opaque(b"");
        out.u32(self.minor_version.unwrap_or(1));
        out.u32(self.count);
        out.fixed(&self.operations);
    }

    /// An operation by its number, with arguments as they are.
    #[must_use]
    pub fn raw(mut self, operation: u32, arguments: &[u8]) -> Self {
        self.operations.extend_from_slice(&operation.to_be_bytes());
        self.operations.extend_from_slice(arguments);
        self.count += 1;
        self
    }

    fn and(self, operation: Operation, write: impl FnOnce(&mut Writer)) -> Self {
        let mut arguments = Writer::new();
        write(&mut arguments);
        self.raw(operation.number(), arguments.as_bytes())
    }

    /// These after SEQUENCE.
    #[must_use]
    pub fn after_sequence(self, id: SessionId, sequence: u32, slot: u32, is_kept: bool) -> Self {
        let mut all = Self { minor_version: self.minor_version, ..Self::new() }
            .sequence(id, sequence, slot, slot, is_kept);
        all.operations.extend_from_slice(&self.operations);
        all.count += self.count;
        all
    }

    #[must_use]
    pub fn sequence(self, id: SessionId, sequence: u32, slot: u32, highest: u32, is_kept: bool) -> Self {
        self.and(Operation::Sequence, |out| {
            out.fixed(&id);
            [sequence, slot, highest, u32::from(is_kept)].into_iter().for_each(|word| out.u32(word));
        })
    }

    #[must_use]
    pub fn exchange_id(self, verifier: Verifier, owner: &[u8], flags: u32) -> Self {
        self.and(Operation::ExchangeId, |out| {
            out.fixed(&verifier);
            out.opaque(owner);
            [flags, 0, 0].into_iter().for_each(|word| out.u32(word));
        })
    }

    /// With `channel` as both channels: padding, sizes, operations, slots.
    #[must_use]
    pub fn create_session(self, client: u64, sequence: u32, channel: &[u32; 6]) -> Self {
        self.and(Operation::CreateSession, |out| {
            out.u64(client);
            out.u32(sequence);
            out.u32(0);
            for _ in 0..2 {
                channel.iter().for_each(|word| out.u32(*word));
                out.length(0);
            }
            write_callback(out);
        })
    }

    #[must_use]
    pub fn destroy_session(self, id: SessionId) -> Self {
        self.and(Operation::DestroySession, |out| out.fixed(&id))
    }

    #[must_use]
    pub fn destroy_client(self, client: u64) -> Self {
        self.and(Operation::DestroyClientId, |out| out.u64(client))
    }

    #[must_use]
    pub fn bind_connection(self, id: SessionId, direction: u32) -> Self {
        self.and(Operation::BindConnToSession, |out| {
            out.fixed(&id);
            out.u32(direction);
            out.bool(false);
        })
    }

    #[must_use]
    pub fn backchannel(self) -> Self {
        self.and(Operation::BackchannelCtl, write_callback)
    }

    #[must_use]
    pub fn reclaim_complete(self, is_one_file_system: bool) -> Self {
        self.and(Operation::ReclaimComplete, |out| out.bool(is_one_file_system))
    }

    #[must_use]
    pub fn test_stateids(self, stateids: &[Stateid]) -> Self {
        self.and(Operation::TestStateid, |out| {
            out.length(stateids.len());
            stateids.iter().for_each(|stateid| stateid.write(out));
        })
    }

    #[must_use]
    pub fn free_stateid(self, stateid: &Stateid) -> Self {
        self.and(Operation::FreeStateid, |out| stateid.write(out))
    }

    #[must_use]
    pub fn put_root(self) -> Self {
        self.and(Operation::PutRootFh, |_| {})
    }

    #[must_use]
    pub fn put_public(self) -> Self {
        self.and(Operation::PutPubFh, |_| {})
    }

    #[must_use]
    pub fn put_handle(self, handle: &[u8]) -> Self {
        self.and(Operation::PutFh, |out| out.opaque(handle))
    }

    #[must_use]
    pub fn get_handle(self) -> Self {
        self.and(Operation::GetFh, |_| {})
    }

    #[must_use]
    pub fn save(self) -> Self {
        self.and(Operation::SaveFh, |_| {})
    }

    #[must_use]
    pub fn restore(self) -> Self {
        self.and(Operation::RestoreFh, |_| {})
    }

    #[must_use]
    pub fn look_up(self, name: &[u8]) -> Self {
        self.and(Operation::Lookup, |out| out.opaque(name))
    }

    #[must_use]
    pub fn look_up_parent(self) -> Self {
        self.and(Operation::LookupP, |_| {})
    }

    #[must_use]
    pub fn security(self, name: &[u8]) -> Self {
        self.and(Operation::SecInfo, |out| out.opaque(name))
    }

    #[must_use]
    pub fn security_without_name(self, style: u32) -> Self {
        self.and(Operation::SecInfoNoName, |out| out.u32(style))
    }

    #[must_use]
    pub fn access(self, wanted: u32) -> Self {
        self.and(Operation::Access, |out| out.u32(wanted))
    }

    #[must_use]
    pub fn get_attributes(self, wanted: Bitmap) -> Self {
        self.and(Operation::GetAttr, |out| wanted.write(out))
    }

    #[must_use]
    pub fn set_attributes(self, stateid: &Stateid, values: &Values<'_>) -> Self {
        self.and(Operation::SetAttr, |out| {
            stateid.write(out);
            values.write(out);
        })
    }

    /// Attributes as they were answered, by VERIFY or by NVERIFY.
    #[must_use]
    pub fn verify(self, are_wanted: bool, bitmap: Bitmap, values: &[u8]) -> Self {
        let operation = if are_wanted { Operation::Verify } else { Operation::NVerify };
        self.and(operation, |out| {
            bitmap.write(out);
            out.opaque(values);
        })
    }

    #[must_use]
    pub fn open(self, open: &Open<'_>) -> Self {
        self.and(Operation::Open, |out| {
            [0, open.access, open.deny].into_iter().for_each(|word| out.u32(word));
            out.u64(0);
            out.opaque(open.owner);
            out.bool(open.how.is_some());
            match open.how {
                None => {}
                Some(How::Unchecked(values)) => {
                    out.u32(0);
                    values.write(out);
                }
                Some(How::Guarded(values)) => {
                    out.u32(1);
                    values.write(out);
                }
                Some(How::Exclusive(verifier)) => {
                    out.u32(2);
                    out.fixed(&verifier);
                }
                Some(How::ExclusiveWith(verifier, values)) => {
                    out.u32(3);
                    out.fixed(&verifier);
                    values.write(out);
                }
            }
            match open.claim {
                Claim::Name(name) => {
                    out.u32(0);
                    out.opaque(name);
                }
                Claim::Previous => [1, 0].into_iter().for_each(|word| out.u32(word)),
                Claim::Handle => out.u32(4),
                Claim::Other(number) => out.u32(number),
            }
        })
    }

    #[must_use]
    pub fn close(self, stateid: &Stateid) -> Self {
        self.and(Operation::Close, |out| {
            out.u32(0);
            stateid.write(out);
        })
    }

    #[must_use]
    pub fn open_downgrade(self, stateid: &Stateid, access: u32, deny: u32) -> Self {
        self.and(Operation::OpenDowngrade, |out| {
            stateid.write(out);
            [0, access, deny].into_iter().for_each(|word| out.u32(word));
        })
    }

    #[must_use]
    pub fn read(self, stateid: &Stateid, offset: u64, count: u32) -> Self {
        self.and(Operation::Read, |out| {
            stateid.write(out);
            out.u64(offset);
            out.u32(count);
        })
    }

    /// `stable` is 0 for what a COMMIT will follow, 1 for the data, 2 for all of the file.
    #[must_use]
    pub fn write_bytes(self, stateid: &Stateid, offset: u64, stable: u32, bytes: &[u8]) -> Self {
        self.and(Operation::Write, |out| {
            stateid.write(out);
            out.u64(offset);
            out.u32(stable);
            out.opaque(bytes);
        })
    }

    #[must_use]
    pub fn commit(self) -> Self {
        self.and(Operation::Commit, |out| out.fixed(&[0; 12]))
    }

    /// What is neither a regular file nor a link, by its number.
    #[must_use]
    pub fn create(self, kind: u32, name: &[u8], values: &Values<'_>) -> Self {
        self.and(Operation::Create, |out| {
            out.u32(kind);
            if matches!(kind, 3 | 4) {
                out.u64(0);
            }
            out.opaque(name);
            values.write(out);
        })
    }

    #[must_use]
    pub fn create_symbolic_link(self, name: &[u8], text: &[u8]) -> Self {
        self.and(Operation::Create, |out| {
            out.u32(5);
            out.opaque(text);
            out.opaque(name);
            Values::default().write(out);
        })
    }

    #[must_use]
    pub fn read_link(self) -> Self {
        self.and(Operation::ReadLink, |_| {})
    }

    #[must_use]
    pub fn remove(self, name: &[u8]) -> Self {
        self.and(Operation::Remove, |out| out.opaque(name))
    }

    #[must_use]
    pub fn rename(self, old: &[u8], new: &[u8]) -> Self {
        self.and(Operation::Rename, |out| {
            out.opaque(old);
            out.opaque(new);
        })
    }

    #[must_use]
    pub fn link(self, name: &[u8]) -> Self {
        self.and(Operation::Link, |out| out.opaque(name))
    }

    #[must_use]
    pub fn read_directory(self, cookie: u64, verifier: Verifier, bytes_max: u32, wanted: Bitmap) -> Self {
        self.and(Operation::ReadDir, |out| {
            out.u64(cookie);
            out.fixed(&verifier);
            out.u32(bytes_max);
            out.u32(bytes_max);
            wanted.write(out);
        })
    }

    /// Locks for an owner who has locked nothing yet in the file that `open` stands for.
    #[must_use]
    pub fn lock_first(
        self,
        kind: LockKind,
        reclaims: bool,
        place: (u64, u64),
        open: &Stateid,
        owner: &[u8],
    ) -> Self {
        self.and(Operation::Lock, |out| {
            out.u32(kind.number());
            out.bool(reclaims);
            out.u64(place.0);
            out.u64(place.1);
            out.bool(true);
            out.u32(0);
            open.write(out);
            out.u32(0);
            out.u64(0);
            out.opaque(owner);
        })
    }

    #[must_use]
    pub fn lock(self, kind: LockKind, place: (u64, u64), stateid: &Stateid) -> Self {
        self.and(Operation::Lock, |out| {
            out.u32(kind.number());
            out.bool(false);
            out.u64(place.0);
            out.u64(place.1);
            out.bool(false);
            stateid.write(out);
            out.u32(0);
        })
    }

    #[must_use]
    pub fn lock_test(self, kind: LockKind, place: (u64, u64), owner: &[u8]) -> Self {
        self.and(Operation::LockT, |out| {
            out.u32(kind.number());
            out.u64(place.0);
            out.u64(place.1);
            out.u64(0);
            out.opaque(owner);
        })
    }

    #[must_use]
    pub fn unlock(self, place: (u64, u64), stateid: &Stateid) -> Self {
        self.and(Operation::LockU, |out| {
            out.u32(LockKind::Write.number());
            out.u32(0);
            stateid.write(out);
            out.u64(place.0);
            out.u64(place.1);
        })
    }
}
