//! The kernel from the guest's own disk, looked for anew at every start.

use std::error::Error;
use std::sync::Arc;

use vmm::boot::BootImage;
use vmm::boot::disk::{BootDisk, BootDiskError, BootFile};
use vmm::machine::BootSource;
use volume::BlockBackend;

/// The serial port is the only console here.
pub(crate) const CONSOLE: &str = "console=ttyS0";

/// The kernel that the guest's own disk names.
pub(crate) struct KernelOnDisk {
    pub(crate) disk: Arc<dyn BlockBackend>,
    /// Instead of the one that the disk names.
    pub(crate) command_line: Option<String>,
    /// No file of it is larger: it could not be loaded.
    pub(crate) memory_bytes: u64,
}

impl BootSource for KernelOnDisk {
    fn image(&self) -> Result<BootImage, Box<dyn Error + Send + Sync>> {
        let disk = BootDisk::open(&self.disk)?;
        // An open disk has an entry.
        let entry = disk.entries().first().ok_or("the disk's boot loader configuration is empty")?;
        tracing::info!(
            configuration = disk.configuration(),
            entry = entry.title,
            kernel = entry.kernel.path,
            "booting from the disk"
        );
        let read = |file: &BootFile| disk.read(file, self.memory_bytes);
        let initrds = entry.initrds.iter().map(read).collect::<Result<Vec<_>, BootDiskError>>()?;
        Ok(BootImage {
            kernel: read(&entry.kernel)?,
            initrd: joined(initrds),
            command_line: self.command_line.clone().unwrap_or_else(|| with_console(&entry.command_line)),
        })
    }
}

/// Archives one behind the other, each at a multiple of four as the kernel wants them (initramfs buffer format).
fn joined(archives: Vec<Vec<u8>>) -> Vec<u8> {
    archives
        .into_iter()
        .reduce(|mut all, next| {
            all.resize(all.len().next_multiple_of(4), 0);
            all.extend(next);
            all
        })
        .unwrap_or_default()
}

/// The command line, with a console where it names none: nobody could see a screen.
fn with_console(command_line: &str) -> String {
    let names_one = command_line.split_whitespace().any(|word| word.starts_with("console="));
    if names_one { command_line.to_owned() } else { format!("{command_line} {CONSOLE}").trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_keeps_its_own_console() {
        assert_eq!(with_console("root=/dev/vda1 console=tty0"), "root=/dev/vda1 console=tty0");
        assert_eq!(with_console("root=/dev/vda1 ro"), "root=/dev/vda1 ro console=ttyS0");
        assert_eq!(with_console(""), "console=ttyS0");
    }

    #[test]
    fn archives_are_aligned() {
        assert_eq!(
            joined(vec![b"12345".to_vec(), b"67".to_vec()]),
            [b"12345".as_slice(), &[0; 3], b"67"].concat()
        );
        assert_eq!(joined(vec![b"12345".to_vec()]), b"12345");
        assert_eq!(joined(Vec::new()), b"");
    }
}
