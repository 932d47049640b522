//! `nimbo volume copy-snapshot`

use std::process::ExitCode;

use ::volume::snapshot::{CHUNK_BYTES, SnapshotName};
use anyhow::Context as _;

use super::stop::StopSignals;
use super::store::Location;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Prints the copy's name: a new one, of the same lineage. What the parent, which is a snapshot in the other store, has already is neither
fetched nor put. If it fails, or is stopped by Ctrl-C, nothing is left.

Exit status:
  0  the copy is complete
  1  it is not; a message tells why

Examples:
  nimbo volume copy-snapshot 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210 \\
      --from /var/lib/nimbo/objects --to s3://backups/nimbo";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// The store that it is in: a folder, or s3://BUCKET/PREFIX with AWS_... in the environment
    #[arg(long, value_name = "LOCATION")]
    from: Location,
    /// The store that it is to be in as well
    #[arg(long, value_name = "LOCATION")]
    to: Location,
    /// A snapshot of the same lineage in the other store, to share with
    #[arg(long, value_name = "NAME")]
    parent: Option<SnapshotName>,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    let snapshot = args.from.open()?.snapshots().open(args.name)?;
    let to = args.to.create()?;
    let progress = Progress::start(format!("copying snapshot {}", args.name));
    let tell = |reached: ::volume::snapshot::Progress| {
        progress.reach(reached.done * CHUNK_BYTES, reached.total * CHUNK_BYTES);
        !stop.is_up()
    };
    let copied = snapshot.copy_to(&to.objects, args.parent, &tell);
    let copied = copied.with_context(|| format!("cannot copy the snapshot to {}", args.to))?;
    progress.finish();
    println!("{copied}");
    Ok(ExitCode::SUCCESS)
}
