//! `nimbo volume restore` and `nimbo volume fill`: volumes made from snapshots.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::volume::Volume;
use ::volume::snapshot::{CHUNK_BYTES, Progress as Reach, SnapshotName};
use anyhow::{Context as _, bail};
use types::ByteSize;

use super::served::Reached;
use super::stop::{StopFlag, StopSignals};
use super::store::{Access, Store};
use crate::progress::Progress;

const RESTORE_EXAMPLES: &str = "\
The volume can be used at once, whatever its size: what is read and not there yet is fetched from the object store. Until
all is there (--fill, or later nimbo volume fill), the store is needed to use it. The snapshot may be deleted meanwhile:
what the volume lacks is kept for it.

Exit status:
  0  the volume is there; with --fill, with all that it holds
  1  it is not, or not all of it; a message tells why

Examples:
  nimbo volume restore 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210 /srv/volumes/web
  nimbo volume restore 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210 web --size 100G --fill --limit 50M";

#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// The folder that becomes the volume; it must be new, or empty
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    #[command(flatten)]
    access: Access,
    /// Make the volume larger than the snapshot
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Fetch all that the snapshot holds before it is done
    #[arg(long)]
    fill: bool,
    /// Fetch at most so many bytes a second
    #[arg(long, value_name = "SIZE", requires = "fill")]
    limit: Option<ByteSize>,
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    let store = args.access.store.open()?;
    Volume::create_from(&args.folder, &store.objects, args.name, args.size.map(ByteSize::bytes))
        .with_context(|| format!("cannot make the volume {}", args.folder.display()))?;
    if args.fill {
        let volume = args.access.open_volume_with(&store, &args.folder)?;
        fetch_all(&args.folder, &volume, &store, args.limit, &stop)?;
    }
    Ok(ExitCode::SUCCESS)
}

const FILL_EXAMPLES: &str = "\
From then on the volume needs no object store, and what was kept there for it alone is removed. What was fetched before stays:
after Ctrl-C the next call goes on.

Exit status:
  0  all is there
  1  it is not; a message tells why

Examples:
  nimbo volume fill /srv/volumes/web
  nimbo volume fill /srv/volumes/web --objects s3://backups/nimbo --limit 50M";

#[derive(Debug, clap::Args)]
#[command(after_help = FILL_EXAMPLES)]
pub(crate) struct FillArgs {
    /// The volume
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    #[command(flatten)]
    access: Access,
    /// Fetch at most so many bytes a second
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteSize>,
}

pub(super) fn fill(args: &FillArgs) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    match args.access.reach(&args.folder)? {
        Reached::Here(volume) => {
            let store = args.access.store.open()?;
            fetch_all(&args.folder, &volume, &store, args.limit, &stop)?;
        }
        Reached::Served(mut client) => {
            let filled = client.fill(args.access.store.location(), args.limit, &stop);
            filled.with_context(|| format!("cannot fill the volume {}", args.folder.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fetch_all(
    folder: &Path,
    volume: &Volume,
    store: &Store,
    limit: Option<ByteSize>,
    stop: &StopFlag,
) -> anyhow::Result<()> {
    let progress = Progress::start(format!("filling {}", folder.display()));
    let fetched = fetch(volume, store, limit.map(ByteSize::bytes), &|reached| {
        progress.reach(reached.done * CHUNK_BYTES, reached.total * CHUNK_BYTES);
        !stop.is_up()
    });
    fetched.with_context(|| format!("cannot fill the volume {}", folder.display()))?;
    progress.finish();
    Ok(())
}

/// Fetches what the volume lacks, at most so many bytes a second; `tell` says whether to go on.
pub(super) fn fetch(
    volume: &Volume,
    store: &Store,
    bytes_per_second: Option<u64>,
    tell: &(dyn Fn(Reach) -> bool + Sync),
) -> anyhow::Result<()> {
    let origin = volume.origin();
    if !volume.fill(bytes_per_second, tell)? {
        bail!("it was stopped; the same again goes on");
    }
    // The snapshot may have been deleted, and kept for this volume.
    if let Some(origin) = origin {
        let collected = store.exclusive()?.snapshots.collect(origin);
        collected.context("the volume has all, but what was kept for it cannot be removed")?;
    }
    Ok(())
}
