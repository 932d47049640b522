//! `nimbo volume snapshot`

use std::path::PathBuf;
use std::process::ExitCode;

use ::volume::Volume;
use ::volume::snapshot::{CHUNK_BYTES, Progress as Reach, SnapshotName};
use anyhow::Context as _;

use super::served::Reached;
use super::stop::{StopFlag, StopSignals};
use super::store::{Access, Location, Store};
use crate::progress::Progress;

const EXAMPLES: &str = "\
Puts what changed since the last snapshot into the object store, in chunks of 512 KiB, and prints the snapshot's name. It is
complete, and durable, when the name is printed. It holds what the volume held when it was begun: if one was begun
earlier and stopped, by Ctrl-C or otherwise, that one is brought to its end; --cancel gives it up instead.

A volume that nimbo volume serve or nimbo run has open goes on being used: whoever has it makes the snapshot, of one moment.

Exit status:
  0  the snapshot is complete, or with --cancel nothing is left of it
  1  it is not; a message tells why

Examples:
  nimbo volume snapshot /srv/volumes/web
  nimbo volume snapshot /srv/volumes/web --objects s3://backups/nimbo
  nimbo volume snapshot /srv/volumes/web --cancel";

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
    let cannot = || format!("cannot make a snapshot of {}", args.folder.display());
    match (args.access.reach(&args.folder)?, args.cancel) {
        (Reached::Here(volume), true) => cancel(&volume, args.access.store.location(), None)?,
        (Reached::Here(volume), false) => {
            println!("{}", make(&volume, args, &stop).with_context(cannot)?);
            compact(&volume, &|| stop.is_up())?;
        }
        (Reached::Served(mut client), true) => client.cancel_snapshot(args.access.store.location())?,
        (Reached::Served(mut client), false) => {
            println!("{}", client.make_snapshot(args.access.store.location(), &stop).with_context(cannot)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn make(volume: &Volume, args: &Args, stop: &StopFlag) -> anyhow::Result<SnapshotName> {
    let store = args.access.store.create()?;
    let verb = if volume.pending_snapshots().is_empty() { "making" } else { "going on with" };
    let name = volume.begin_snapshot()?;
    let progress = Progress::start(format!("{verb} snapshot {name}"));
    finish(volume, &store, name, &|reached| {
        progress.reach(reached.done * CHUNK_BYTES, reached.total * CHUNK_BYTES);
        !stop.is_up()
    })?;
    progress.finish();
    Ok(name)
}

/// Brings a snapshot that was begun to its end; `tell` says whether to go on.
pub(super) fn finish(
    volume: &Volume,
    store: &Store,
    name: SnapshotName,
    tell: &(dyn Fn(Reach) -> bool + Sync),
) -> anyhow::Result<()> {
    volume.upload_snapshot(name, &store.objects, tell)?;
    // Its parent may have been deleted meanwhile, and kept for it.
    let collected = store.exclusive()?.snapshots.collect(name);
    collected.context("the snapshot is complete, but what it kept of deleted ones cannot be removed")?;
    Ok(())
}

/// Merges layers that only an earlier snapshot needed apart. What is not merged when `stop` says so is merged the next time.
pub(super) fn compact(volume: &Volume, stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
    volume.compact(stop).context("cannot merge the volume's layers")
}

/// Gives up a snapshot that was begun, without a name the oldest, if one was.
pub(super) fn cancel(volume: &Volume, location: &Location, name: Option<SnapshotName>) -> anyhow::Result<()> {
    let pending = volume.pending_snapshots();
    let Some(name) = pending.into_iter().find(|pending| name.is_none_or(|name| name == *pending)) else {
        return Ok(());
    };
    let cancelled = volume.cancel_snapshot(name, &location.open()?.exclusive()?.snapshots);
    cancelled.context("cannot give up the snapshot that was begun")
}
