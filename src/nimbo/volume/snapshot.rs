//! `nimbo volume snapshot`

use std::path::PathBuf;
use std::process::ExitCode;

use ::volume::Volume;
use ::volume::snapshot::{CHUNK_BYTES, SnapshotName};
use anyhow::Context as _;

use super::stop::{StopFlag, StopSignals};
use super::store::{Access, Store};
use crate::progress::Progress;

const EXAMPLES: &str = "\
Puts what changed since the last snapshot into the object store, in chunks of 512 KiB, and prints the snapshot's name. It is
complete, and durable, when the name is printed. It holds what the volume held when it was begun: if one was begun
earlier and stopped, by Ctrl-C or otherwise, that one is brought to its end; --cancel gives it up instead.

Exit status:
  0  the snapshot is complete, or with --cancel nothing is left of it
  1  it is not; a message tells why

Examples:
  nimbo volume snapshot /srv/volumes/web
  nimbo volume snapshot /srv/volumes/web --objects s3://backups/nimbo
  nimbo volume snapshot /srv/volumes/web --cancel";

/// Makes a snapshot of a volume that nobody uses, or goes on with it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The volume
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    #[command(flatten)]
    access: Access,
    /// Give up the snapshot that was begun and not brought to its end
    #[arg(long)]
    cancel: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    let volume = args.access.open_volume(&args.folder)?;
    if args.cancel {
        cancel(args, &volume)?;
    } else {
        let name = make(args, &volume, &stop)?;
        println!("{name}");
        // Layers that only an earlier snapshot needed apart. What is not merged now is merged the next time.
        volume.compact(&|| stop.is_up()).context("cannot merge the volume's layers")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn make(args: &Args, volume: &Volume, stop: &StopFlag) -> anyhow::Result<SnapshotName> {
    let cannot = || format!("cannot make a snapshot of {}", args.folder.display());
    let store = args.access.store.create()?;
    let verb = if volume.pending_snapshot().is_some() { "going on with" } else { "making" };
    let name = volume.begin_snapshot().with_context(cannot)?;
    let progress = Progress::start(format!("{verb} snapshot {name}"));
    let tell = |reached: ::volume::snapshot::Progress| {
        progress.reach(reached.done * CHUNK_BYTES, reached.total * CHUNK_BYTES);
        !stop.is_up()
    };
    volume.upload_snapshot(&store.objects, &tell).with_context(cannot)?;
    progress.finish();
    collect(&store, name)?;
    Ok(name)
}

/// Its parent may have been deleted meanwhile, and kept for it.
fn collect(store: &Store, name: SnapshotName) -> anyhow::Result<()> {
    let collected = store.exclusive()?.snapshots.collect(name);
    collected.context("the snapshot is complete, but what it kept of deleted ones cannot be removed")?;
    Ok(())
}

fn cancel(args: &Args, volume: &Volume) -> anyhow::Result<()> {
    if volume.pending_snapshot().is_none() {
        return Ok(());
    }
    let cancelled = volume.cancel_snapshot(&args.access.store.open()?.exclusive()?.snapshots);
    cancelled.with_context(|| format!("cannot give up the snapshot of {}", args.folder.display()))
}
