//! Attributes, as they are asked for: one system call for a file's, and one for those of its file system.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use nix::sys::statfs::{Statfs, fstatfs};

use super::{Export, Node};
use crate::proto::{Attribute, Bitmap, FileType, IO_BYTES_MAX, NAME_BYTES_MAX, Status};
use crate::sys;
use crate::xdr::Writer;

/// Those that are known without asking the host for the file's.
const WITHOUT_STATUS: Bitmap = Bitmap::of(&[
    Attribute::SupportedAttrs,
    Attribute::Type,
    Attribute::FhExpireType,
    Attribute::LinkSupport,
    Attribute::SymlinkSupport,
    Attribute::NamedAttr,
    Attribute::FsId,
    Attribute::UniqueHandles,
    Attribute::LeaseTime,
    Attribute::RdattrError,
    Attribute::AclSupport,
    Attribute::CanSetTime,
    Attribute::CaseInsensitive,
    Attribute::CasePreserving,
    Attribute::ChownRestricted,
    Attribute::FileHandle,
    Attribute::FileId,
    Attribute::Homogeneous,
    Attribute::MaxFileSize,
    Attribute::MaxLink,
    Attribute::MaxName,
    Attribute::MaxRead,
    Attribute::MaxWrite,
    Attribute::NoTrunc,
    Attribute::SpaceAvail,
    Attribute::SpaceFree,
    Attribute::SpaceTotal,
    Attribute::TimeDelta,
    Attribute::MountedOnFileId,
    Attribute::SuppattrExclCreat,
]);

/// What is known of a file at a moment, for as many attributes as were wanted.
pub(crate) struct Facts {
    node: Arc<Node>,
    wanted: Bitmap,
    status: Option<libc::statx>,
    space: Option<Statfs>,
    /// Of the node, from before the status was asked for: a change in between is told again, and not missed.
    changes: u64,
}

impl Facts {
    /// Seconds of the two times that an exclusive creation keeps its verifier in.
    pub(crate) fn times(&self) -> Option<(i64, i64)> {
        self.status.as_ref().map(|status| (status.stx_atime.tv_sec, status.stx_mtime.tv_sec))
    }

    /// A number that is another one after each change of the file.
    ///
    /// The host's time of the last change may stand still for some milliseconds, within which changes of ours are counted. A file that is
    /// closed and forgotten within them loses its count: a client that looked in between does not see the last of these changes.
    pub(crate) fn change(&self) -> u64 {
        self.status.as_ref().map_or(0, |status| {
            let ns = u64::from(status.stx_ctime.tv_nsec);
            let since_epoch = status.stx_ctime.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000);
            since_epoch.wrapping_add(ns).wrapping_add(self.changes)
        })
    }

    /// Writes the wanted ones (`fattr4`).
    pub(crate) fn write(&self, export: &Export, lease_s: u32, out: &mut Writer) {
        self.wanted.write(out);
        let length = out.len();
        out.u32(0);
        for (number, word) in self.wanted.words().into_iter().enumerate() {
            let mut left = word;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let number = u32::try_from(number).unwrap_or(0) * 32 + bit;
                if let Some(attribute) = Attribute::from_number(number) {
                    self.one(attribute, export, lease_s, out);
                }
            }
        }
        out.patch(length, u32::try_from(out.len() - length - 4).unwrap_or(u32::MAX));
    }

    fn one(&self, attribute: Attribute, export: &Export, lease_s: u32, out: &mut Writer) {
        match attribute {
            Attribute::SupportedAttrs => Bitmap::SUPPORTED.write(out),
            Attribute::SuppattrExclCreat => Bitmap::EXCLUSIVE.write(out),
            Attribute::Type => out.u32(self.node.kind().number()),
            Attribute::FhExpireType | Attribute::AclSupport => out.u32(0),
            Attribute::RdattrError => out.u32(Status::Ok.number()),
            Attribute::NamedAttr | Attribute::CaseInsensitive => out.bool(false),
            Attribute::LinkSupport
            | Attribute::SymlinkSupport
            | Attribute::UniqueHandles
            | Attribute::CanSetTime
            | Attribute::CasePreserving
            | Attribute::ChownRestricted
            | Attribute::Homogeneous
            | Attribute::NoTrunc => out.bool(true),
            Attribute::FsId => {
                out.u64(export.id);
                out.u64(0);
            }
            Attribute::LeaseTime => out.u32(lease_s),
            Attribute::FileHandle => out.opaque(self.node.handle()),
            Attribute::FileId | Attribute::MountedOnFileId => out.u64(self.node.file_id()),
            Attribute::MaxFileSize => out.u64(i64::MAX.cast_unsigned()),
            Attribute::MaxLink => out.u32(export.links_max),
            Attribute::MaxName => out.length(NAME_BYTES_MAX),
            Attribute::MaxRead | Attribute::MaxWrite => out.u64(u64::from(IO_BYTES_MAX)),
            Attribute::TimeDelta => time(out, 0, 1),
            Attribute::SpaceAvail | Attribute::SpaceFree | Attribute::SpaceTotal => {
                self.space(attribute, out)
            }
            // Nothing of these is wanted when they are set.
            Attribute::TimeAccessSet | Attribute::TimeModifySet => {}
            _ => self.of_status(attribute, out),
        }
    }

    fn of_status(&self, attribute: Attribute, out: &mut Writer) {
        let Some(status) = &self.status else { return };
        match attribute {
            Attribute::Change => out.u64(self.change()),
            Attribute::Size => out.u64(status.stx_size),
            Attribute::Mode => out.u32(u32::from(status.stx_mode) & !libc::S_IFMT),
            Attribute::NumLinks => out.u32(status.stx_nlink),
            Attribute::Owner => decimal(out, status.stx_uid),
            Attribute::OwnerGroup => decimal(out, status.stx_gid),
            Attribute::RawDev => {
                out.u32(status.stx_rdev_major);
                out.u32(status.stx_rdev_minor);
            }
            Attribute::SpaceUsed => out.u64(status.stx_blocks.saturating_mul(512)),
            Attribute::TimeAccess => time(out, status.stx_atime.tv_sec, status.stx_atime.tv_nsec),
            Attribute::TimeMetadata => time(out, status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec),
            Attribute::TimeModify => time(out, status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
            _ => {}
        }
    }

    fn space(&self, attribute: Attribute, out: &mut Writer) {
        let Some(space) = &self.space else { return };
        let blocks = match attribute {
            Attribute::SpaceAvail => space.blocks_available(),
            Attribute::SpaceFree => space.blocks_free(),
            _ => space.blocks(),
        };
        out.u64(blocks.saturating_mul(space.block_size().unsigned_abs()));
    }
}

impl Export {
    /// What is known of a file, of what is `wanted` and served.
    ///
    /// # Errors
    /// `Stale` if it has lost its last name and nobody has it open.
    pub(crate) fn facts(&self, node: &Arc<Node>, wanted: Bitmap) -> Result<Facts, Status> {
        let wanted = wanted.and(Bitmap::SUPPORTED);
        let changes = node.changes();
        let status = match wanted.without(WITHOUT_STATUS).is_empty() {
            true => None,
            false => Some(sys::status(node.path().as_fd(), libc::STATX_BASIC_STATS)?),
        };
        // The table of nodes has one, and who asks another.
        let is_open = Arc::strong_count(node) > 2;
        if !is_open && status.is_some_and(|status| status.stx_nlink == 0) {
            self.nodes.forget(node.key(), 1);
            return Err(Status::Stale);
        }
        let space = match wanted.intersects(Bitmap::SPACE) {
            true => Some(fstatfs(node.path())?),
            false => None,
        };
        Ok(Facts { node: Arc::clone(node), wanted, status, space, changes })
    }

    /// The number of a file's last change.
    pub(crate) fn change(&self, node: &Arc<Node>) -> Result<u64, Status> {
        self.facts(node, Bitmap::of(&[Attribute::Change])).map(|facts| facts.change())
    }
}

fn time(out: &mut Writer, s: i64, ns: u32) {
    out.i64(s);
    out.u32(ns);
}

/// A number as text, without asking for memory: it is in nearly every answer.
fn decimal(out: &mut Writer, number: u32) {
    let mut digits = [0; 10];
    let (mut start, mut left) = (digits.len(), number);
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            return out.opaque(&digits[start..]);
        }
    }
}

/// What a folder's listing tells of an entry's type, for who wants no more.
pub(super) const fn type_of_entry(kind: u8) -> Option<FileType> {
    match kind {
        libc::DT_REG => Some(FileType::Regular),
        libc::DT_DIR => Some(FileType::Directory),
        libc::DT_LNK => Some(FileType::SymbolicLink),
        libc::DT_BLK => Some(FileType::BlockDevice),
        libc::DT_CHR => Some(FileType::CharacterDevice),
        libc::DT_FIFO => Some(FileType::Fifo),
        libc::DT_SOCK => Some(FileType::Socket),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_ours_is_another_number_while_the_hosts_clock_stands() {
        let folder = tempfile::tempdir().unwrap();
        let export = Export::open(folder.path(), [0; 32], 16).unwrap();
        let root = export.root();
        let before = export.change(&root).unwrap();
        assert_eq!(export.change(&root), Ok(before));
        root.touch();
        assert_eq!(export.change(&root), Ok(before + 1));
    }

    #[test]
    fn numbers_are_texts() {
        for number in [0, 7, 10, 65534, u32::MAX] {
            let mut out = Writer::new();
            decimal(&mut out, number);
            let mut expected = Writer::new();
            expected.opaque(number.to_string().as_bytes());
            assert_eq!(out.as_bytes(), expected.as_bytes());
        }
    }
}
