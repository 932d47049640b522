//! A volume that is being made of an image: in a folder of another name until it is whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::target::{Target, Writer, data_runs, folder, free_bytes, partial_name};
use super::{ImportError, UNIT_BYTES};
use crate::backend::{BlockBackend, BlockQueue, BlockRequest, SECTOR_BYTES};
use crate::crypt::{KeyName, KeyStore};
use crate::layered::VolumeError;
use crate::sys::AlignedMemory;
use crate::{Stores, Volume};

/// How many writes a thread has in flight.
const DEPTH: u16 = 32;

/// Who has the key of an encrypted volume, and its name.
pub(super) type Key<'a> = (&'a Arc<dyn KeyStore>, &'a KeyName);

pub(super) struct NewVolume {
    /// Closed before the folder gets its name or is removed.
    volume: Option<Volume>,
    path: PathBuf,
    target: PathBuf,
    is_whole: bool,
}

impl NewVolume {
    pub(super) fn create(target: &Path, size_bytes: u64, key: Option<Key<'_>>) -> Result<Self, ImportError> {
        let is_taken = target.read_dir().map_or(target.exists(), |mut files| files.next().is_some());
        if is_taken {
            return Err(ImportError::Exists { path: target.to_owned() });
        }
        let failed = |source: VolumeError| ImportError::Volume { path: target.to_owned(), source };
        let path = partial_name(target);
        // From here on there may be something to remove.
        let mut this = Self { volume: None, path, target: target.to_owned(), is_whole: false };
        this.volume = Some(this.make(size_bytes, key).map_err(failed)?);
        Ok(this)
    }

    fn make(&self, size_bytes: u64, key: Option<Key<'_>>) -> Result<Volume, VolumeError> {
        let Some((keys, name)) = key else {
            Volume::create(&self.path, size_bytes)?;
            return Volume::open(&self.path);
        };
        Volume::create_encrypted(&self.path, size_bytes, &**keys, name)?;
        Volume::open_with(&self.path, Stores { keys: Some(Arc::clone(keys)), objects: None })
    }

    pub(super) fn free_bytes(&self) -> Result<u64, ImportError> {
        let free = File::open(&self.path).and_then(|folder| free_bytes(&folder));
        free.map_err(|source| ImportError::Create { path: self.target.clone(), source })
    }

    fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("it is open until it is finished")
    }

    /// Gives the volume its name, once all that was written is on stable storage.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        OpenVolume { volume: self.volume(), path: &self.target }.flush()?;
        self.volume = None;
        let done = std::fs::rename(&self.path, &self.target).and_then(|()| {
            self.is_whole = true;
            File::open(folder(&self.target))?.sync_all()
        });
        done.map_err(|source| ImportError::Finish { path: self.target.clone(), source })
    }
}

impl Drop for NewVolume {
    fn drop(&mut self) {
        self.volume = None;
        if !self.is_whole {
            // The error that led here is the one to tell.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Target for NewVolume {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, ImportError> {
        VolumeWriter::open(self.volume(), &self.target)
    }
}

/// A volume that is open, and what it is called in messages.
pub(super) struct OpenVolume<'a> {
    pub(super) volume: &'a Volume,
    pub(super) path: &'a Path,
}

impl OpenVolume<'_> {
    pub(super) fn flush(&self) -> Result<(), ImportError> {
        let flush = || {
            let mut queue = self.volume.open_queue(1)?;
            queue.push(0, BlockRequest::Flush).map_err(io::Error::other)?;
            queue.wait()?;
            queue.next_completion().map_or(Ok(()), |completion| completion.result)
        };
        flush().map_err(|source| ImportError::Finish { path: self.path.to_owned(), source })
    }
}

impl Target for OpenVolume<'_> {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, ImportError> {
        VolumeWriter::open(self.volume, self.path)
    }
}

struct VolumeWriter<'a> {
    // The first to be dropped: that waits until nothing of the memory is with the kernel.
    queue: Box<dyn BlockQueue>,
    memory: AlignedMemory,
    target: &'a Path,
}

impl<'a> VolumeWriter<'a> {
    fn open(volume: &Volume, target: &'a Path) -> Result<Box<dyn Writer + 'a>, ImportError> {
        let failed = |source| ImportError::Create { path: target.to_owned(), source };
        let memory = AlignedMemory::zeroed(usize::try_from(UNIT_BYTES).expect("a few megabytes"));
        Ok(Box::new(Self { queue: volume.open_queue(DEPTH).map_err(failed)?, memory, target }))
    }

    /// Takes the end of one write, and returns once there is room for another, or nothing is in flight.
    fn take_completions(&mut self, until_idle: bool) -> Result<(), ImportError> {
        let failed = |offset, source| ImportError::Write { path: self.target.to_owned(), offset, source };
        while self.queue.in_flight() >= if until_idle { 1 } else { usize::from(DEPTH) } {
            self.queue.wait().map_err(|source| failed(0, source))?;
            while let Some(completion) = self.queue.next_completion() {
                completion.result.map_err(|source| failed(completion.token, source))?;
            }
        }
        Ok(())
    }
}

impl Writer for VolumeWriter<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ImportError> {
        let memory = self.memory.buffer();
        memory.copy_from(bytes);
        for (start, data) in data_runs(bytes) {
            self.take_completions(false)?;
            // The end of a disk may be within a sector.
            let len = data.len().next_multiple_of(usize::try_from(SECTOR_BYTES).expect("a sector"));
            memory.part(start + data.len(), len - data.len()).fill_with_zeroes();
            let offset = offset + start as u64;
            let buffers = &[memory.part(start, len)];
            self.queue
                .push(offset, BlockRequest::Write { offset, buffers })
                .expect("there is room for another");
        }
        self.take_completions(true)
    }
}
