//! Kernels that stand in files of their own.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{BootFile, BootImage, ReadError};
use crate::machine::BootSource;

/// A kernel that is given, not found: opened once, read at every start.
#[derive(Debug)]
pub struct KernelFiles {
    pub kernel: File,
    pub initrd: Option<File>,
    pub command_line: String,
}

/// An open file, as long as it is now.
struct Opened {
    file: File,
    size_bytes: u64,
}

impl BootFile for Opened {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        Ok(self.file.read_exact_at(into, offset)?)
    }
}

impl BootSource for KernelFiles {
    fn image(&self) -> Result<BootImage, ReadError> {
        let initrds = self.initrd.iter().map(open).collect::<Result<_, _>>()?;
        Ok(BootImage { kernel: open(&self.kernel)?, initrds, command_line: self.command_line.clone() })
    }
}

fn open(file: &File) -> Result<Box<dyn BootFile>, ReadError> {
    let file = file.try_clone()?;
    let size_bytes = file.metadata()?.len();
    Ok(Box::new(Opened { file, size_bytes }))
}
