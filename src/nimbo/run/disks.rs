//! The disks of a microVM, opened for its process.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use types::ByteSize;

use super::args::{Args, Disk};
use crate::cache;
use crate::microvm::handover::Place;
use crate::microvm::reconnect;
use crate::socket;
use crate::vmm_process::{DiskSpec, NamedDisk};
use crate::volume::{ServeOptions, ServedVolume};

/// In the order in which the guest sees them.
pub(super) struct Disks {
    disks: Vec<Opened>,
    volumes: Vec<ServedVolume>,
}

enum Opened {
    /// The image under a temporary layer.
    Image {
        base: File,
        path: PathBuf,
        layer: File,
        size: Option<ByteSize>,
    },
    Raw {
        file: File,
        path: PathBuf,
        read_only: bool,
    },
    /// At this socket, if it has a path, and at the other end of this stream.
    Elsewhere {
        stream: UnixStream,
        path: Option<PathBuf>,
    },
}

/// What is handed to the microVM's process, and what stays here.
pub(super) struct Handed {
    pub(super) disks: Vec<NamedDisk>,
    /// To be closed when the process has ended.
    pub(super) volumes: Vec<ServedVolume>,
    /// Where the server of a disk listens, by the disk's id.
    pub(super) servers: BTreeMap<String, PathBuf>,
}

impl Disks {
    /// Opens the image, and then the others. A volume is served by this process from now on, until the microVM's ends.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub(super) fn open(args: &Args, image: Option<&Path>) -> anyhow::Result<Self> {
        let (mut disks, mut volumes) = (Vec::new(), Vec::new());
        if let Some(path) = image {
            let (base, layer) = (open(path, "image")?, new_layer()?);
            disks.push(Opened::Image { base, path: path.to_owned(), layer, size: args.size });
        }
        for disk in &args.disk {
            disks.push(
                open_disk(disk, args, &mut volumes)
                    .with_context(|| format!("cannot open the disk {}", disk.file.display()))?,
            );
        }
        Ok(Self { disks, volumes })
    }

    /// Whether the microVM's memory must be shared.
    pub(super) fn are_served_elsewhere(&self) -> bool {
        self.disks.iter().any(|disk| matches!(disk, Opened::Elsewhere { .. }))
    }

    /// Hands over what is open.
    pub(super) fn hand(self, hand: &mut impl FnMut(OwnedFd) -> Place) -> Handed {
        let mut servers = BTreeMap::new();
        let mut spec = |(place, disk)| {
            let id = format!("disk{place}");
            let disk = match disk {
                Opened::Image { base, path, layer, size } => {
                    DiskSpec::Layered { base: hand(base.into()), path, layer: hand(layer.into()), size }
                }
                Opened::Raw { file, path, read_only } => {
                    DiskSpec::Raw { file: hand(file.into()), path, read_only }
                }
                Opened::Elsewhere { stream, path } => {
                    let reconnect_ms = if path.is_some() { reconnect::TIME_MS } else { 0 };
                    servers.extend(path.map(|path| (id.clone(), path)));
                    DiskSpec::VhostUser { socket: hand(stream.into()), reconnect_ms }
                }
            };
            NamedDisk { id, disk, is_removable: false }
        };
        let disks = self.disks.into_iter().enumerate().map(&mut spec).collect();
        Handed { disks, volumes: self.volumes, servers }
    }
}

fn open_disk(disk: &Disk, args: &Args, volumes: &mut Vec<ServedVolume>) -> anyhow::Result<Opened> {
    let Disk { file: path, read_only } = disk;
    let kind = fs::metadata(path)?.file_type();
    if kind.is_socket() {
        if *read_only {
            bail!("who serves it says whether it is read-only, not ,ro");
        }
        let stream = socket::connect(path).context("nobody listens there")?;
        return Ok(Opened::Elsewhere { stream, path: Some(path.clone()) });
    }
    if kind.is_dir() {
        let name = path.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let options = ServeOptions { name, read_only: *read_only, limits: None, when_full: args.when_full };
        let volume = ServedVolume::open(&args.access, path, options)?;
        let (ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
        volume.guests().admit(theirs)?;
        volumes.push(volume);
        return Ok(Opened::Elsewhere { stream: ours, path: None });
    }
    let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
    Ok(Opened::Raw { file, path: path.clone(), read_only: *read_only })
}

/// A file without a name, gone with the process however it ends.
fn new_layer() -> anyhow::Result<File> {
    let folder = cache::folder()?;
    let make = || fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder));
    make().with_context(|| format!("cannot make a temporary layer in {}", folder.display()))
}

pub(super) fn open(path: &Path, what: &str) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open the {what} {}", path.display()))
}
