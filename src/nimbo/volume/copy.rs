//! `nimbo volume import` and `nimbo volume export`: whole disks in and out.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ::volume::crypt::{KeyName, KeyStore};
use ::volume::import::{Format, Progress as Reached, import_encrypted_volume, import_volume};
use anyhow::bail;
use types::ByteSize;

use super::key::Keys;
use super::stop::StopSignals;
use super::store::Access;
use crate::progress::Progress;

const IMPORT_EXAMPLES: &str = "\
What the image does not hold, and what is only zeroes, takes no space in the volume either. The folder gets its name
when all of it is there; nothing is left of an import that failed or was stopped by Ctrl-C.

Exit status:
  0  the volume is there
  1  it is not; a message tells why

Examples:
  nimbo volume import /srv/volumes/web debian-12-genericcloud-amd64.qcow2 --size 20G
  nimbo volume import old-disk disk.raw
  nimbo volume import db disk.raw --encrypt-with web";

#[derive(Debug, clap::Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(crate) struct ImportArgs {
    /// The folder that becomes the volume; it must be new, or empty
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The image, which is only read
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Make the volume larger than the image
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Encrypt the volume by this key of the key file; see nimbo volume key
    #[arg(long, value_name = "KEY")]
    encrypt_with: Option<KeyName>,
    #[command(flatten)]
    keys: Keys,
}

pub(super) fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    let progress = Progress::start(format!("importing {}", args.image.display()));
    let (image, folder, size) = (&args.image, &args.folder, args.size.map(ByteSize::bytes));
    let tell = |reached: Reached| progress.reach(reached.done_bytes, reached.total_bytes);
    match &args.encrypt_with {
        None => import_volume(image, folder, size, &tell, &|| stop.is_up())?,
        Some(name) => {
            let keys: Arc<dyn KeyStore> = Arc::new(args.keys.open()?);
            import_encrypted_volume(image, folder, size, (&keys, name), &tell, &|| stop.is_up())?
        }
    };
    progress.finish();
    Ok(ExitCode::SUCCESS)
}

const EXPORT_EXAMPLES: &str = "\
What the volume does not hold is not read, and what is only zeroes takes no space. The file gets its name when all of it is there.
For another format, or while others use the volume, serve it and let qemu-img convert it.

Exit status:
  0  the file is there
  1  it is not; a message tells why

Examples:
  nimbo volume export /srv/volumes/web web.raw
  nimbo volume export /srv/volumes/web web.qcow2
  nimbo volume serve /srv/volumes/web --read-only --nbd unix:/tmp/web.sock &
  qemu-img convert -p -O vmdk 'nbd+unix:///web?socket=/tmp/web.sock' web.vmdk";

#[derive(Debug, clap::Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct ExportArgs {
    /// The volume, which nobody else uses meanwhile
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The image to make; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to make; without it, qcow2 if the file is called so, and raw otherwise
    #[arg(long, value_name = "FORMAT")]
    format: Option<ImageFormat>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ImageFormat {
    Raw,
    Qcow2,
}

impl ExportArgs {
    fn format(&self) -> Format {
        match self.format {
            Some(ImageFormat::Raw) => Format::Raw,
            Some(ImageFormat::Qcow2) => Format::Qcow2,
            None if self.file.extension().is_some_and(|extension| extension == "qcow2") => Format::Qcow2,
            None => Format::Raw,
        }
    }
}

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    let volume = args.access.open_volume(&args.folder)?;
    if args.file.symlink_metadata().is_ok() {
        bail!("there is a file {} already; remove it, or choose another name", args.file.display());
    }
    let progress = Progress::start(format!("exporting {}", args.folder.display()));
    let tell = |reached: Reached| progress.reach(reached.done_bytes, reached.total_bytes);
    let target = (&*args.file, args.format());
    ::volume::import::export(&volume, &args.folder, target, &tell, &|| stop.is_up())?;
    progress.finish();
    Ok(ExitCode::SUCCESS)
}
