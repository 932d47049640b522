//! The kernel from the disk: what an instance's own boot loader would start.
//!
//! The disk is looked at as its firmware and boot loader would, at every start, so that a kernel
//! upgrade inside the guest takes effect:
//!
//! ```text
//!   disk ─▶ partitions (GPT, MBR, none) ─▶ ext4 in each ─▶ a configuration ─▶ entries, default first
//!                                                          GRUB │ Boot Loader Specification │ EXTLINUX
//! ```
//!
//! The partition is the first, in the order of what their types say they are for, with a
//! configuration that names a kernel which is there. So it does not matter whether `/boot` is a
//! partition of its own, nor which one is the root: that is the command line's business.
//!
//! All that is read may be a hostile guest's: see the modules for their bounds. Nothing is written.
//! FAT is not read, so neither is what stands only in an EFI system partition: the configuration there
//! leads to one that is read here, except with systemd-boot.

mod bls;
mod bytes;
mod ext4;
mod extlinux;
mod filesystem;
mod grub;
mod partition;
mod report;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vendor_tests;

use std::io;
use std::sync::Arc;

use volume::BlockBackend;

pub use ext4::Ext4Error;
use ext4::{Ext4, Inode};
use filesystem::{Content, content, split_device};
use grub::ScriptError;
use partition::Partition;
pub use report::NoKernel;
use report::Tried;

const GRUB_PATHS: [&str; 4] =
    ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub/grub.cfg", "/grub2/grub.cfg"];
const ENTRIES_PATHS: [&str; 2] = ["/loader/entries", "/boot/loader/entries"];
const EXTLINUX_PATHS: [&str; 6] = [
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/syslinux/syslinux.cfg",
];
/// How much [`BootDisk::copy`] reads at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Why nothing can be booted from a disk.
#[derive(Debug, thiserror::Error)]
pub enum BootDiskError {
    #[error("cannot read the partition table of the disk")]
    Table { source: io::Error },
    #[error(transparent)]
    NoKernel(Box<NoKernel>),
    #[error("cannot read {path} from partition {partition} of the disk")]
    File { path: String, partition: u32, source: Ext4Error },
    #[error("cannot pass on what was read of {path}")]
    Copy { path: String, source: io::Error },
}

/// A file on the disk.
#[derive(Debug, Clone)]
pub struct BootFile {
    /// Its path, as the configuration has it.
    pub path: String,
    pub size_bytes: u64,
    volume: usize,
    inode: Inode,
}

/// One way to boot.
#[derive(Debug, Clone)]
pub struct BootEntry {
    pub title: String,
    pub kernel: BootFile,
    /// To be loaded one behind the other.
    pub initrds: Vec<BootFile>,
    pub command_line: String,
}

/// A disk that something can be booted from.
pub struct BootDisk {
    volumes: Vec<Volume>,
    configuration: String,
    entries: Vec<BootEntry>,
}

/// A partition and what is in it.
struct Volume {
    partition: Partition,
    content: Content,
}

/// An entry of any configuration, with paths as they were written.
struct Named {
    title: String,
    device: String,
    kernel: String,
    initrds: Vec<String>,
    command_line: String,
    /// The folder that relative paths start from.
    folder: String,
}

impl BootDisk {
    /// Looks for kernels on `disk`.
    ///
    /// # Errors
    /// [`BootDiskError::NoKernel`] tells what was looked for and where.
    pub fn open(disk: &Arc<dyn BlockBackend>) -> Result<Self, BootDiskError> {
        let partitions = partition::partitions(&**disk).map_err(|source| BootDiskError::Table { source })?;
        let mut volumes: Vec<Volume> = partitions
            .into_iter()
            .map(|partition| Volume { content: content(disk, &partition), partition })
            .collect();
        volumes.sort_by_key(|volume| volume.partition.kind.rank());
        let mut tried = Tried::default();
        for index in 0..volumes.len() {
            if let Some((configuration, entries)) = search(&volumes, index, &mut tried) {
                let configuration = format!("{configuration} on {}", volumes[index].partition);
                return Ok(Self { volumes, configuration, entries });
            }
        }
        Err(BootDiskError::NoKernel(Box::new(NoKernel::new(&**disk, &volumes, tried))))
    }

    /// What can be booted: at least one entry, the default first.
    pub fn entries(&self) -> &[BootEntry] {
        &self.entries
    }

    /// Which configuration the entries are from, for messages.
    pub fn configuration(&self) -> &str {
        &self.configuration
    }

    /// All of a file that has at most `limit_bytes`.
    ///
    /// # Errors
    /// When it is larger, or cannot be read.
    pub fn read(&self, file: &BootFile, limit_bytes: u64) -> Result<Vec<u8>, BootDiskError> {
        let (fs, fail) = self.locate(file);
        fs.read(&file.inode, limit_bytes).map_err(fail)
    }

    /// Fills the buffer from `offset` in the file, within its size.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_at(&self, file: &BootFile, offset: u64, buffer: &mut [u8]) -> Result<(), BootDiskError> {
        let (fs, fail) = self.locate(file);
        let end = offset.saturating_add(buffer.len() as u64);
        if end > file.size_bytes {
            return Err(fail(Ext4Error::TooLarge { size_bytes: end, limit_bytes: file.size_bytes }));
        }
        fs.read_at(&file.inode, offset, buffer).map_err(fail)
    }

    /// Hands a file to `target`, part by part.
    ///
    /// # Errors
    /// When it cannot be read, or `target` refuses it.
    pub fn copy(&self, file: &BootFile, target: &mut dyn io::Write) -> Result<(), BootDiskError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < file.size_bytes {
            let left = usize::try_from(file.size_bytes - offset).unwrap_or(usize::MAX);
            let part = &mut chunk[..left.min(CHUNK_BYTES)];
            self.read_at(file, offset, part)?;
            target
                .write_all(part)
                .map_err(|source| BootDiskError::Copy { path: file.path.clone(), source })?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn locate<'a>(&'a self, file: &'a BootFile) -> (&'a Ext4, impl Fn(Ext4Error) -> BootDiskError + 'a) {
        let volume = &self.volumes[file.volume];
        let Content::Ext4(fs) = &volume.content else { unreachable!("files are found on ext4 only") };
        let fail = |source| BootDiskError::File {
            path: file.path.clone(),
            partition: volume.partition.number,
            source,
        };
        (fs, fail)
    }
}

/// The entries of the first configuration on a volume that names a kernel which is there.
fn search(volumes: &[Volume], index: usize, tried: &mut Tried) -> Option<(&'static str, Vec<BootEntry>)> {
    let volume = &volumes[index];
    let Content::Ext4(fs) = &volume.content else { return None };
    let mut found = None;
    let paths = GRUB_PATHS.iter().chain(&ENTRIES_PATHS).chain(&EXTLINUX_PATHS);
    for path in paths {
        let named = match configuration(fs, path) {
            Ok(Some(named)) => named,
            Ok(None) => {
                tried.note(&volume.partition, path, "not there");
                continue;
            }
            Err(why) => {
                tried.note(&volume.partition, path, &why);
                continue;
            }
        };
        if named.is_empty() {
            tried.note(&volume.partition, path, "names no kernel");
        }
        let mut entries = Vec::new();
        for entry in named {
            match resolve(volumes, index, &entry) {
                Ok(entry) => entries.push(entry),
                Err(why) => tried.note(&volume.partition, path, &format!("\"{}\": {why}", entry.title)),
            }
        }
        if !entries.is_empty() {
            found = Some((*path, entries));
            break;
        }
    }
    found
}

/// What the configuration at `path` names, if it is there.
fn configuration(fs: &Ext4, path: &str) -> Result<Option<Vec<Named>>, String> {
    if ENTRIES_PATHS.contains(&path) {
        let entries = bls::entries_default_first(fs);
        return Ok((!entries.is_empty()).then(|| entries.into_iter().map(Named::from_bls).collect()));
    }
    let text = fs.text(path).map_err(|error| filesystem::chain(&error))?;
    let Some(text) = text else { return Ok(None) };
    if EXTLINUX_PATHS.contains(&path) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let labels = extlinux::labels(&text).into_iter();
        return Ok(Some(labels.map(|label| Named::from_label(label, folder)).collect()));
    }
    let entries = grub::entries(fs, path, &text).map_err(|error: ScriptError| error.to_string())?;
    Ok(Some(entries.into_iter().map(Named::from_grub).collect()))
}

impl Named {
    fn from_grub(entry: grub::GrubEntry) -> Self {
        Self {
            title: entry.title,
            device: entry.root,
            kernel: entry.kernel,
            initrds: entry.initrds,
            command_line: entry.command_line,
            folder: String::new(),
        }
    }

    fn from_bls(entry: bls::BlsEntry) -> Self {
        Self {
            title: entry.title,
            device: String::new(),
            kernel: entry.kernel,
            initrds: entry.initrds,
            command_line: entry.options,
            folder: String::new(),
        }
    }

    fn from_label(label: extlinux::Label, folder: &str) -> Self {
        Self {
            title: label.title,
            device: String::new(),
            kernel: label.kernel,
            initrds: label.initrds,
            command_line: label.command_line,
            folder: folder.to_owned(),
        }
    }
}

/// Finds the files that an entry names.
fn resolve(volumes: &[Volume], home: usize, named: &Named) -> Result<BootEntry, String> {
    let file = |path: &str| find_file(volumes, home, named, path);
    Ok(BootEntry {
        title: named.title.clone(),
        kernel: file(&named.kernel)?,
        initrds: named.initrds.iter().map(|path| file(path)).collect::<Result<_, _>>()?,
        command_line: named.command_line.clone(),
    })
}

/// Finds a file: on the device that the configuration names, on its own one, or on any other.
fn find_file(volumes: &[Volume], home: usize, named: &Named, path: &str) -> Result<BootFile, String> {
    let (device, path) = split_device(path);
    let device = device.unwrap_or(&named.device);
    let mut order: Vec<usize> = (0..volumes.len()).collect();
    order.sort_by_key(|index| (!volumes[*index].is_called(device), *index != home));
    let absolute = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", named.folder) };
    // A path may be written as it is where /boot is a partition, though it is none here.
    for candidate in [absolute.clone(), format!("/boot{absolute}")] {
        for index in &order {
            let Content::Ext4(fs) = &volumes[*index].content else { continue };
            match fs.regular(&candidate) {
                Ok(Some(inode)) => {
                    let size_bytes = inode.size_bytes;
                    return Ok(BootFile { path: candidate, size_bytes, volume: *index, inode });
                }
                Ok(None) => {}
                Err(error) => return Err(format!("{candidate}: {}", filesystem::chain(&error))),
            }
        }
    }
    Err(format!("{absolute} is not there"))
}

impl Volume {
    /// Whether a boot loader's name for a device, `uuid:…` or `label:…`, means this one.
    fn is_called(&self, device: &str) -> bool {
        let Content::Ext4(fs) = &self.content else { return false };
        match device.split_once(':') {
            Some(("uuid", uuid)) => uuid.eq_ignore_ascii_case(&uuid_text(&fs.uuid)),
            Some(("label", label)) => label == fs.label,
            _ => false,
        }
    }
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
