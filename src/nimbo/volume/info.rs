//! `nimbo volume info`

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::volume::BlockBackend as _;
use anyhow::Context as _;
use indicatif::HumanBytes;
use serde::Serialize;
use types::ByteSize;

use super::store::Access;

const EXAMPLES: &str = "\
A volume that is being served cannot be looked at meanwhile: one process at a time has it open.

Exit status:
  0  printed
  1  it could not be opened; a message tells why

Examples:
  nimbo volume info /srv/volumes/data
  nimbo volume info /srv/volumes/data --json";

/// Prints how large a volume is, and what it takes
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The volume
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// For programs: one JSON object, amounts in bytes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Serialize)]
struct Info {
    size_bytes: u64,
    /// The key that it is encrypted with.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    layers: usize,
    /// What the files of the folder take on their file system.
    disk_bytes: u64,
    /// The memory that the map takes while the volume is open.
    map_bytes: usize,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let volume = args.access.open_volume(&args.folder)?;
    let info = Info {
        size_bytes: volume.size_bytes(),
        key: volume.key().map(|key| key.to_string()),
        layers: volume.layers().len(),
        disk_bytes: disk_bytes(&args.folder)
            .with_context(|| format!("cannot look into {}", args.folder.display()))?,
        map_bytes: volume.map_bytes(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&info)?);
    } else {
        println!("size        {}", ByteSize::from_bytes(info.size_bytes));
        if let Some(key) = &info.key {
            println!("encrypted   with the key {key}");
        }
        println!("layers      {}", info.layers);
        println!("disk space  {}", HumanBytes(info.disk_bytes));
        println!("map         {} of memory while it is open", HumanBytes(info.map_bytes as u64));
    }
    Ok(ExitCode::SUCCESS)
}

fn disk_bytes(folder: &Path) -> std::io::Result<u64> {
    // stat(2) counts in units of 512 bytes, whatever the file system's are.
    fs::read_dir(folder)?.try_fold(0, |sum, file| Ok(sum + file?.metadata()?.blocks() * 512))
}
