//! Names: directories, paths, symbolic links.

use super::super::bytes::{le16, le32};
use super::{Ext4, Ext4Error, FileKind, Inode, ROOT_INODE, corrupt, inode_flags};

/// Directories on the way to a kernel are small.
const DIRECTORY_BYTES_MAX: u64 = 4 << 20;
const LINK_BYTES_MAX: u64 = 4096;
/// As in the kernel.
const LINKS_MAX: usize = 40;
const COMPONENTS_MAX: usize = 256;

impl Ext4 {
    /// The file at an absolute path; symbolic links are followed, within this file system.
    pub(in super::super) fn lookup(&self, path: &str) -> Result<Inode, Ext4Error> {
        let mut parents = vec![self.inode(ROOT_INODE)?];
        let mut pending: Vec<String> = components(path).rev().collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                if parents.len() > 1 {
                    parents.pop();
                }
                continue;
            }
            let directory = parents.last().expect("the root is never popped");
            let inode = self.child(directory, name.as_bytes())?.ok_or(Ext4Error::NotFound)?;
            if inode.kind == FileKind::Link {
                links += 1;
                let target = self.link_target(&inode)?;
                if target.starts_with('/') {
                    parents.truncate(1);
                }
                pending.extend(components(&target).rev());
                if links > LINKS_MAX || pending.len() > COMPONENTS_MAX {
                    return Err(Ext4Error::LinkLoop);
                }
                continue;
            }
            if inode.kind != FileKind::Directory && !pending.is_empty() {
                return Err(Ext4Error::NotFound);
            }
            if parents.len() > COMPONENTS_MAX {
                return Err(Ext4Error::LinkLoop);
            }
            parents.push(inode);
        }
        Ok(parents.pop().expect("the root is never popped"))
    }

    /// The names in a directory, without `.` and `..`.
    pub(in super::super) fn names(&self, directory: &Inode) -> Result<Vec<String>, Ext4Error> {
        let mut names = Vec::new();
        self.entries(directory, |name, _| {
            if name != b"." && name != b".." {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            false
        })?;
        Ok(names)
    }

    fn child(&self, directory: &Inode, wanted: &[u8]) -> Result<Option<Inode>, Ext4Error> {
        let mut found = None;
        self.entries(directory, |name, inode| {
            let matches = name == wanted;
            if matches {
                found = Some(inode);
            }
            matches
        })?;
        found.map(|number| self.inode(number)).transpose()
    }

    /// Calls `visit` for each entry until it returns true. Index blocks of hashed directories look
    /// like blocks without entries, so all are simply read in order.
    fn entries(&self, directory: &Inode, mut visit: impl FnMut(&[u8], u32) -> bool) -> Result<(), Ext4Error> {
        if directory.kind != FileKind::Directory {
            return Err(Ext4Error::WrongKind { expected: "directory" });
        }
        let bytes = self.read(directory, DIRECTORY_BYTES_MAX)?;
        // Inline, there is no entry `.`, and instead of `..` only the parent's number; the two
        // places where the data stands are blocks of their own.
        let blocks: Vec<&[u8]> = if directory.flags & inode_flags::INLINE_DATA != 0 {
            let (first, rest) = bytes.split_at(bytes.len().min(60));
            vec![first.get(4..).unwrap_or_default(), rest]
        } else {
            bytes.chunks(self.block_bytes).collect()
        };
        for block in blocks {
            if block_entries(block, directory.number, &mut visit)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn link_target(&self, link: &Inode) -> Result<String, Ext4Error> {
        // A short target stands where the block map would.
        let is_short = link.size_bytes < 60 && link.flags & inode_flags::EXTENTS == 0;
        let bytes = if is_short {
            link.root[..usize::try_from(link.size_bytes).expect("below 60")].to_vec()
        } else {
            self.read(link, LINK_BYTES_MAX)?
        };
        String::from_utf8(bytes).map_err(|_| corrupt("the target of a symbolic link", link.number))
    }
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned)
}

/// Visits the entries of one block; true when the visitor had enough.
fn block_entries(
    block: &[u8],
    number: u32,
    visit: &mut impl FnMut(&[u8], u32) -> bool,
) -> Result<bool, Ext4Error> {
    let damaged = || corrupt("the directory of an inode", number);
    let mut rest = block;
    while rest.len() >= 8 {
        let (inode, name_len) = (le32(rest, 0), usize::from(rest[6]));
        // A length of 64 KiB does not fit its field.
        let record_len = match le16(rest, 4) {
            0 | u16::MAX => 1 << 16,
            len => usize::from(len),
        };
        if record_len < 8 + name_len || record_len > rest.len() {
            return Err(damaged());
        }
        if inode != 0 && visit(&rest[8..8 + name_len], inode) {
            return Ok(true);
        }
        rest = &rest[record_len..];
    }
    Ok(false)
}
