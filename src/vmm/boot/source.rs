//! Kernels that stand in files of their own.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::BootImage;
use crate::machine::BootSource;

/// A kernel that is given, not found: opened once, read at every start.
#[derive(Debug)]
pub struct KernelFiles {
    pub kernel: File,
    pub initrd: Option<File>,
    pub command_line: String,
}

/// Neither a kernel nor an initrd is larger; a file that is must be something else.
const FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("the {what} of {bytes} bytes is larger than any can be")]
    Size { what: &'static str, bytes: u64 },
    #[error("cannot read the {what}")]
    Read { what: &'static str, source: std::io::Error },
}

impl BootSource for KernelFiles {
    fn image(&self) -> Result<BootImage, Box<dyn Error + Send + Sync>> {
        let kernel = read("kernel", &self.kernel)?;
        let initrd = self.initrd.as_ref().map(|file| read("initrd", file)).transpose()?.unwrap_or_default();
        Ok(BootImage { kernel, initrd, command_line: self.command_line.clone() })
    }
}

fn read(what: &'static str, file: &File) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { what, source };
    let bytes = file.metadata().map_err(failed)?.len();
    let length = usize::try_from(bytes).ok().filter(|_| bytes <= FILE_BYTES_MAX);
    let mut content = vec![0; length.ok_or(FileError::Size { what, bytes })?];
    file.read_exact_at(&mut content, 0).map_err(failed)?;
    Ok(content)
}
