//! `nimbo volume info`

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::HumanBytes;

use super::served::Reached;
use super::served::api::VolumeStatus;
use super::store::Access;

const EXAMPLES: &str = "\
Of a volume that nimbo volume serve or nimbo run has open, that process is asked.

Exit status:
  0  printed
  1  it could not be opened; a message tells why

Examples:
  nimbo volume info /srv/volumes/data
  nimbo volume info /srv/volumes/data --json";

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

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (status, who) = match args.access.reach(&args.folder)? {
        Reached::Here(volume) => (VolumeStatus::of(&volume, &args.folder)?, "while it is open"),
        Reached::Served(mut client) => (client.status()?, "now"),
    };
    if args.json {
        println!("{}", serde_json::to_string(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("size        {}", status.size_bytes);
    if let Some(key) = &status.key {
        println!("encrypted   with the key {key}");
    }
    if let Some(origin) = status.origin {
        println!("made from   {origin}, and has not all of it yet");
    }
    for pending in status.pending_snapshot.iter().chain(&status.queued_snapshots) {
        println!("snapshot    {pending} was begun, and is not complete");
    }
    if let Some(limits) = &status.limits {
        println!("limits      {limits}");
    }
    if status.waiting_for_room > 0 {
        println!("full        {} writes wait for room in {}", status.waiting_for_room, args.folder.display());
    }
    println!("layers      {}", status.layers);
    println!("disk space  {}", HumanBytes(status.disk_bytes.bytes()));
    println!("map         {} of memory {who}", HumanBytes(status.map_bytes.bytes()));
    Ok(ExitCode::SUCCESS)
}
