//! Reading and writing.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::{Compound, Outcome, Tail};
use crate::fs::regular;
use crate::lock;
use crate::proto::{IO_BYTES_MAX, Stateid, Status, share};
use crate::sys::{self, Durability};
use crate::xdr::padding;

/// Reads of so many bytes go from the page cache to the socket without being copied by us; for fewer, two more system calls cost more.
const SPLICE_BYTES_MIN: usize = 32 << 10;
/// That it is the end, and how many bytes there are.
const READ_HEAD_BYTES: usize = 8;

impl Compound<'_> {
    /// The current file, as a stateid has it open, or as the caller may open it without one.
    ///
    /// # Errors
    /// `OpenMode` if it is not open for `access`.
    pub(super) fn file_for(&self, stateid: Stateid, access: u32) -> Result<Arc<File>, Status> {
        let node = &self.place()?.node;
        if matches!(stateid, Stateid::ANONYMOUS | Stateid::BYPASS) {
            return Ok(Arc::new(self.export().open_file(&self.who, node, access)?));
        }
        let (file, uid) = {
            let mut held = lock(&self.client()?.held);
            let open = held.open_of(&stateid, self.service.clients.boot)?;
            if !Arc::ptr_eq(&open.node, node) {
                return Err(Status::BadStateid);
            }
            if open.access & access == 0 {
                return Err(Status::OpenMode);
            }
            (Arc::clone(&open.file), open.uid)
        };
        // Who opened it may go on, whatever its mode is now; another one must be able to open it himself.
        let mode = if access == share::READ { libc::R_OK } else { libc::W_OK };
        if uid != self.who.uid() && !self.export().may(&self.who, node, mode)? {
            return Err(Status::Access);
        }
        Ok(file)
    }

    pub(super) fn read(&mut self) -> Outcome {
        let stateid = Stateid::read(&mut self.arguments)?;
        let offset = self.arguments.u64()?;
        let count = self.arguments.u32()?.min(IO_BYTES_MAX);
        regular(&self.place()?.node)?;
        let stateid = self.current_or(stateid)?;
        let file = self.file_for(stateid, share::READ)?;
        let count = usize::try_from(count).unwrap_or(0);
        if READ_HEAD_BYTES + count + padding(count) > self.room() {
            return Err(self.too_big.into());
        }
        let head = self.out.len();
        self.out.fixed(&[0; READ_HEAD_BYTES]);
        // No file ends beyond what the host can count.
        let Ok(start) = i64::try_from(offset) else {
            self.out.patch(head, 1);
            return Ok(());
        };
        let got = match self.spliced(&file, start, count)? {
            Some(got) => got,
            None => {
                let got = self.out.fill(count, |bytes| file.read_at(bytes, offset))?;
                self.out.pad(got);
                got
            }
        };
        let size = sys::status(file.as_fd(), libc::STATX_SIZE)?.stx_size;
        let is_end = offset.saturating_add(u64::try_from(got).unwrap_or(0)) >= size;
        self.out.patch(head, u32::from(is_end));
        self.out.patch(head + 4, u32::try_from(got).unwrap_or(0));
        Ok(())
    }

    /// Has what is read follow the answer by the pipe; none if it is to be read into the answer.
    fn spliced(&mut self, file: &File, offset: i64, count: usize) -> Result<Option<usize>, Status> {
        let Some(pipe) = self.pipe.as_mut().filter(|_| self.is_last && count >= SPLICE_BYTES_MIN) else {
            return Ok(None);
        };
        let got = pipe.take_from(file, offset, count)?;
        self.tail = Tail { bytes: got.unwrap_or(0) };
        Ok(got)
    }

    pub(super) fn write(&mut self) -> Outcome {
        let stateid = Stateid::read(&mut self.arguments)?;
        let offset = self.arguments.u64()?;
        let stable = self.arguments.u32()?;
        let bytes = self.arguments.opaque(usize::MAX)?;
        let durability = match stable {
            0 => Durability::Cached,
            1 => Durability::Data,
            2 => Durability::All,
            _ => return Err(Status::BadXdr.into()),
        };
        let node = self.node()?;
        regular(&node)?;
        let stateid = self.current_or(stateid)?;
        let file = self.file_for(stateid, share::WRITE)?;
        // Before the file is written to, so that what fails later is known to be of this verifier's time.
        let verifier = self.export().verifier();
        if durability != Durability::Cached {
            (self.step_aside)();
        }
        // As the caller, since his writing takes the bits for set-user-id away.
        self.who.take()?;
        let written = match bytes {
            [] => 0,
            bytes => self.export().write(&file, bytes, offset, durability)?,
        };
        node.touch();
        self.out.u32(u32::try_from(written).unwrap_or(0));
        self.out.u32(stable);
        self.out.fixed(&verifier);
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Outcome {
        let _offset = self.arguments.u64()?;
        let _count = self.arguments.u32()?;
        let node = self.node()?;
        regular(&node)?;
        (self.step_aside)();
        self.export().sync(&node)?;
        self.out.fixed(&self.export().verifier());
        Ok(())
    }
}
