//! `nimbo volume create`

use std::path::PathBuf;
use std::process::ExitCode;

use ::volume::Volume;
use ::volume::crypt::KeyName;
use anyhow::Context as _;
use types::ByteSize;

use super::key::Keys;

const EXAMPLES: &str = "\
The volume takes next to no space until it is written to, whatever its size, and reads as zeroes. To make one that
holds what an image does, see nimbo volume import.

Exit status:
  0  made
  1  not made; a message tells why

Examples:
  nimbo volume create /srv/volumes/data --size 10G
  nimbo volume create /srv/volumes/web --size 10G --encrypt-with web
  nimbo volume serve /srv/volumes/data --nbd unix:/run/data.sock";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The folder that becomes the volume; made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// How large the disk is: a whole number and K, M, G or T, at most 64T
    #[arg(long, value_name = "SIZE")]
    size: ByteSize,
    /// Encrypt what is written to it, by this key of the key file; see nimbo volume key
    #[arg(long, value_name = "KEY")]
    encrypt_with: Option<KeyName>,
    #[command(flatten)]
    keys: Keys,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (folder, size) = (&args.folder, args.size.bytes());
    let made = match &args.encrypt_with {
        None => Volume::create(folder, size),
        Some(key) => Volume::create_encrypted(folder, size, &args.keys.open()?, key),
    };
    made.with_context(|| format!("cannot make the volume {}", args.folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
