//! Attributes that a client sets: what it says, and doing it.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, Uid, fchownat};

use super::{Export, Identity, Node};
use crate::proto::{Attribute, Bitmap, FileType, Status, share};
use crate::sys;
use crate::xdr::{Malformed, Reader};

const MODE_MAX: u32 = 0o7777;
const OWNER_BYTES_MAX: usize = 1024;
const ATTRIBUTES_BYTES_MAX: usize = 4096;

/// A time to be set (`settime4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetTime {
    Now,
    At { s: i64, ns: u32 },
}

impl SetTime {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Status> {
        if !reader.bool()? {
            return Ok(Self::Now);
        }
        let (s, ns) = (reader.i64()?, reader.u32()?);
        if ns < 1_000_000_000 { Ok(Self::At { s, ns }) } else { Err(Status::Inval) }
    }

    fn host(this: Option<Self>) -> libc::timespec {
        match this {
            None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            Some(Self::Now) => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            Some(Self::At { s, ns }) => libc::timespec { tv_sec: s, tv_nsec: ns.into() },
        }
    }
}

/// Which attributes are to become what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changes {
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) access: Option<SetTime>,
    pub(crate) modify: Option<SetTime>,
}

impl Changes {
    /// What a client says, all of it. What cannot be set is refused when it was decoded, so that what follows is found.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Result<Self, Status>, Malformed> {
        let wanted = Bitmap::read(reader)?;
        let values = Reader::new(reader.opaque(ATTRIBUTES_BYTES_MAX)?);
        match Self::decode(wanted, values) {
            Err(Status::BadXdr) => Err(Malformed),
            other => Ok(other),
        }
    }

    fn decode(wanted: Bitmap, mut values: Reader<'_>) -> Result<Self, Status> {
        if !wanted.without(Bitmap::SUPPORTED).is_empty() {
            return Err(Status::AttrNotSupp);
        }
        if !wanted.without(Bitmap::SETTABLE).is_empty() {
            return Err(Status::Inval);
        }
        let mut changes = Self::default();
        let has = |attribute| wanted.has(attribute);
        if has(Attribute::Size) {
            changes.size = Some(values.u64()?);
        }
        if has(Attribute::Mode) {
            changes.mode = Some(values.u32()?).filter(|mode| *mode <= MODE_MAX);
            changes.mode.ok_or(Status::Inval)?;
        }
        if has(Attribute::Owner) {
            changes.owner = Some(number(values.opaque(OWNER_BYTES_MAX)?)?);
        }
        if has(Attribute::OwnerGroup) {
            changes.group = Some(number(values.opaque(OWNER_BYTES_MAX)?)?);
        }
        if has(Attribute::TimeAccessSet) {
            changes.access = Some(SetTime::read(&mut values)?);
        }
        if has(Attribute::TimeModifySet) {
            changes.modify = Some(SetTime::read(&mut values)?);
        }
        if values.remaining() > 0 { Err(Status::BadXdr) } else { Ok(changes) }
    }

    /// Without what creating a file has done already.
    pub(crate) fn after_creation(self) -> Self {
        Self { mode: None, size: self.size.filter(|size| *size > 0), ..self }
    }

    /// Which attributes these are.
    pub(crate) fn bitmap(&self) -> Bitmap {
        let mut bitmap = Bitmap::EMPTY;
        let mut note = |is_there, attribute| {
            if is_there {
                bitmap.insert(attribute);
            }
        };
        note(self.size.is_some(), Attribute::Size);
        note(self.mode.is_some(), Attribute::Mode);
        note(self.owner.is_some(), Attribute::Owner);
        note(self.group.is_some(), Attribute::OwnerGroup);
        note(self.access.is_some(), Attribute::TimeAccessSet);
        note(self.modify.is_some(), Attribute::TimeModifySet);
        bitmap
    }
}

/// A user or group. Names would need a table that both sides have; AUTH_SYS says numbers, and so do attributes.
fn number(text: &[u8]) -> Result<u32, Status> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok()).ok_or(Status::BadOwner)?;
    // The kernel takes -1 for "leave it as it is".
    if number == u32::MAX { Err(Status::BadOwner) } else { Ok(number) }
}

impl Export {
    /// Sets attributes, as the caller, for good: the size through `file`, if it is open for writing already. Returns those that were set, also if others were not.
    pub(crate) fn set(
        &self,
        who: &Identity,
        node: &Node,
        file: Option<&File>,
        changes: &Changes,
    ) -> (Bitmap, Result<(), Status>) {
        let mut set = Bitmap::EMPTY;
        let outcome = self.set_each(who, node, file, changes, &mut set);
        if set.is_empty() {
            return (set, outcome);
        }
        node.touch();
        (set, outcome.and_then(|()| self.settle(node)))
    }

    fn set_each(
        &self,
        who: &Identity,
        node: &Node,
        file: Option<&File>,
        changes: &Changes,
        set: &mut Bitmap,
    ) -> Result<(), Status> {
        who.take()?;
        if let Some(size) = changes.size {
            self.set_size(who, node, file, size)?;
            set.insert(Attribute::Size);
        }
        // The owner before the mode: a new owner takes the bits for set-user-id away.
        if changes.owner.is_some() || changes.group.is_some() {
            let (owner, group) = (changes.owner.map(Uid::from_raw), changes.group.map(Gid::from_raw));
            fchownat(node.path(), "", owner, group, AtFlags::AT_EMPTY_PATH)?;
            *set = set
                .union(Changes { owner: changes.owner, group: changes.group, ..Changes::default() }.bitmap());
        }
        if let Some(mode) = changes.mode {
            if node.kind() == FileType::SymbolicLink {
                return Err(Status::Inval);
            }
            let number = node.path().as_raw_fd().to_string();
            let mode = Mode::from_bits_truncate(mode);
            fchmodat(&self.descriptors, number.as_str(), mode, FchmodatFlags::FollowSymlink)?;
            set.insert(Attribute::Mode);
        }
        if changes.access.is_some() || changes.modify.is_some() {
            sys::set_times(
                node.path().as_fd(),
                SetTime::host(changes.access),
                SetTime::host(changes.modify),
            )?;
            *set = set.union(
                Changes { access: changes.access, modify: changes.modify, ..Changes::default() }.bitmap(),
            );
        }
        Ok(())
    }

    fn set_size(&self, who: &Identity, node: &Node, file: Option<&File>, size: u64) -> Result<(), Status> {
        if i64::try_from(size).is_err() {
            return Err(Status::FBig);
        }
        match file {
            Some(file) => Ok(file.set_len(size)?),
            None => Ok(self.open_file(who, node, share::WRITE)?.set_len(size)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::Writer;

    fn decoded(bitmap: Bitmap, values: &Writer) -> Result<Result<Changes, Status>, Malformed> {
        let mut out = Writer::new();
        bitmap.write(&mut out);
        out.opaque(values.as_bytes());
        Changes::read(&mut Reader::new(out.as_bytes()))
    }

    #[test]
    fn values_are_those_of_the_bitmap_and_no_more() {
        let mut values = Writer::new();
        values.u64(10);
        values.u32(0o640);
        values.opaque(b"1000");
        let bitmap = Bitmap::of(&[Attribute::Size, Attribute::Mode, Attribute::Owner]);
        let changes = decoded(bitmap, &values).unwrap().unwrap();
        assert_eq!((changes.size, changes.mode, changes.owner), (Some(10), Some(0o640), Some(1000)));
        assert_eq!(changes.bitmap(), bitmap);
        values.u32(0);
        assert!(decoded(bitmap, &values).is_err(), "there is more");
        assert!(decoded(Bitmap::of(&[Attribute::Size]), &Writer::new()).is_err(), "there is less");
    }

    #[test]
    fn what_cannot_be_set_is_told_apart() {
        let refused =
            |attribute, values: &Writer| decoded(Bitmap::of(&[attribute]), values).unwrap().unwrap_err();
        let mut word = Writer::new();
        word.u32(0o10000);
        assert_eq!(refused(Attribute::Type, &word), Status::Inval, "it is read-only");
        assert_eq!(refused(Attribute::Mode, &word), Status::Inval, "no such mode");
        for owner in ["root", "", "-1", "4294967295", "1000@example.com"] {
            let mut values = Writer::new();
            values.opaque(owner.as_bytes());
            assert_eq!(refused(Attribute::Owner, &values), Status::BadOwner, "{owner}");
        }
        let acl = Bitmap::from_words([1 << 12, 0, 0]);
        assert_eq!(decoded(acl, &word).unwrap().unwrap_err(), Status::AttrNotSupp);
    }
}
