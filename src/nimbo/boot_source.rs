//! The kernel from the guest's own disk, looked for anew at every start.

use std::error::Error;
use std::sync::Arc;

use vmm::boot::BootImage;
use vmm::boot::disk::{BootDisk, BootFile};
use vmm::machine::BootSource;
use vmm::virtio::vhost_user::BootReader;
use volume::BlockBackend;

/// The serial port is the only console here.
pub(crate) const CONSOLE: &str = "console=ttyS0";

/// The guest's own disk.
pub(crate) enum Disk {
    Here(Arc<dyn BlockBackend>),
    /// Another process serves it.
    Elsewhere(Arc<BootReader>),
}

/// The kernel that the guest's own disk names.
pub(crate) struct KernelOnDisk {
    pub(crate) disk: Disk,
    /// Instead of the one that the disk names.
    pub(crate) command_line: Option<String>,
}

impl BootSource for KernelOnDisk {
    fn image(&self) -> Result<BootImage, Box<dyn Error + Send + Sync>> {
        let disk: Arc<dyn BlockBackend> = match &self.disk {
            Disk::Here(disk) => Arc::clone(disk),
            // Until the image is loaded and dropped.
            Disk::Elsewhere(reader) => Arc::new(reader.begin()?),
        };
        let disk = BootDisk::open(&disk)?;
        // An open disk has an entry.
        let entry = disk.entries().first().ok_or("the disk's boot loader configuration is empty")?;
        tracing::info!(
            configuration = disk.configuration(),
            entry = entry.title,
            kernel = entry.kernel.path,
            "booting from the disk"
        );
        let command_line = self.command_line.clone().unwrap_or_else(|| with_console(&entry.command_line));
        let files: Vec<BootFile> = [&entry.kernel].into_iter().chain(&entry.initrds).cloned().collect();
        let disk = Arc::new(disk);
        let mut files = files.into_iter().map(|file| Box::new(OnDisk { disk: disk.clone(), file }) as _);
        // The first is there: it was put there a moment ago.
        let kernel = files.next().ok_or("the entry names no kernel")?;
        Ok(BootImage { kernel, initrds: files.collect(), command_line })
    }
}

/// A file of the guest's disk, read from there.
struct OnDisk {
    disk: Arc<BootDisk>,
    file: BootFile,
}

impl vmm::boot::BootFile for OnDisk {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.disk.read_at(&self.file, offset, into)?)
    }
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
}
