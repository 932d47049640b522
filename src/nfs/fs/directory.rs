//! A folder's entries from any of them on, without holding more than a few of them.
//!
//! A cookie is what the host gives as the place behind an entry, plus three, since 0 is the beginning and RFC 8881 keeps 1 and 2 for
//! itself. Host file systems with hashed folders (ext4, XFS, btrfs) give places that stay when others come and go.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek};

use super::attributes::type_of_entry;
use super::{Export, Identity, Node};
use crate::proto::{FileType, Status};
use crate::sys;

const COOKIE_OFFSET: u64 = 3;
/// Before the name of an entry: inode, place, length, type.
const HEAD: usize = 19;
/// What is asked for at a time: more than any entry has.
const BUFFER_BYTES: usize = 16 << 10;

/// An entry of a folder.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Where to go on behind it.
    pub(crate) cookie: u64,
    pub(crate) file_id: u64,
    /// None if the host's file system does not say.
    pub(crate) kind: Option<FileType>,
    pub(crate) name: &'a [u8],
}

/// An open folder that is being listed.
#[derive(Debug)]
pub(crate) struct Listing {
    folder: File,
    buffer: Vec<u8>,
    /// Of the buffer, what is not looked at yet.
    next: usize,
    end: usize,
}

impl Export {
    /// The entries behind `cookie`.
    pub(crate) fn list(&self, who: &Identity, node: &Node, cookie: u64) -> Result<Listing, Status> {
        node.directory()?;
        who.take()?;
        let folder = self.through_descriptors(node, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        if cookie > 0 {
            let place = cookie.checked_sub(COOKIE_OFFSET).and_then(|place| i64::try_from(place).ok());
            let place = place.ok_or(Status::BadCookie)?;
            lseek(&folder, place, Whence::SeekSet).map_err(|_| Status::BadCookie)?;
        }
        Ok(Listing { folder: folder.into(), buffer: vec![0; BUFFER_BYTES], next: 0, end: 0 })
    }
}

impl Listing {
    /// The next entry, without `.` and `..`; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, Status> {
        loop {
            if self.next == self.end {
                self.end = match sys::entries(self.folder.as_fd(), &mut self.buffer) {
                    // It was removed.
                    Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                        return Err(Status::Stale);
                    }
                    other => other?,
                };
                self.next = 0;
                if self.end == 0 {
                    return Ok(None);
                }
            }
            let start = self.next;
            let length = self.length_at(start).ok_or(Status::ServerFault)?;
            self.next += length;
            if !matches!(name_in(&self.buffer[start..start + length]), b"." | b"..") {
                return Ok(Some(entry(&self.buffer[start..start + length])));
            }
        }
    }

    /// How many bytes the entry at `start` has, all of which are there.
    fn length_at(&self, start: usize) -> Option<usize> {
        let length = self.buffer[..self.end].get(start + 16..start + 18)?;
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        (length > HEAD && start + length <= self.end).then_some(length)
    }
}

fn name_in(entry: &[u8]) -> &[u8] {
    let name = &entry[HEAD..];
    &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())]
}

fn entry(bytes: &[u8]) -> Entry<'_> {
    let word = |start: usize| u64::from_ne_bytes(std::array::from_fn(|place| bytes[start + place]));
    Entry {
        file_id: word(0),
        cookie: word(8).wrapping_add(COOKIE_OFFSET),
        kind: type_of_entry(bytes[18]),
        name: name_in(bytes),
    }
}
