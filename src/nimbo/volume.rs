//! `nimbo volume`: disks that last, in folders of their own.
//!
//! Each subcommand is a file here; what they do is the crate `volume`. One process at a time has a volume open: others ask that one ([`served`]), or
//! read what it serves by NBD, which standard tools know. Snapshots are in an object store ([`store`]).

mod blocks;
mod check;
mod copy;
mod copy_snapshot;
mod create;
mod failure;
mod info;
mod key;
mod limits;
mod modify;
pub(crate) mod output;
mod restore;
mod serve;
mod served;
mod snapshot;
mod snapshots;
pub(crate) mod stop;
mod store;
mod write_snapshot;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
pub(crate) use failure::is_final;
pub(crate) use served::{CONTROL, ServeOptions, ServedVolume, WhenFull, api, snapshot_status};
pub(crate) use store::{Access, Location, Store};

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Makes an empty volume
    Create(create::Args),
    /// Makes a volume of a disk image, raw or qcow2
    Import(copy::ImportArgs),
    /// Makes a disk image of a volume, raw or qcow2
    Export(copy::ExportArgs),
    /// Serves volumes and snapshots to other programs as network block devices (NBD)
    Serve(serve::Args),
    /// Prints how large a volume is, and what it takes
    Info(info::Args),
    /// Makes a volume larger, or changes what it gives in a second, also while it is used
    Modify(modify::Args),
    /// Verifies a volume that nobody uses
    Check(check::Args),
    /// Makes keys that volumes can be encrypted with, and changes which one a volume needs
    Key(key::Args),
    /// Makes a snapshot of a volume, also while it is used, or goes on with it
    Snapshot(snapshot::Args),
    /// Prints which snapshots there are
    Snapshots(snapshots::ListArgs),
    /// Makes a volume of a snapshot
    Restore(restore::RestoreArgs),
    /// Fetches all that a volume lacks of the snapshot that it was made from
    Fill(restore::FillArgs),
    /// Deletes a snapshot, and what no other one needs
    DeleteSnapshot(snapshots::DeleteArgs),
    /// Copies a snapshot to another object store
    CopySnapshot(copy_snapshot::Args),
    /// Prints which blocks of a snapshot hold something
    Blocks(blocks::BlocksArgs),
    /// Prints which blocks differ between two snapshots
    Changed(blocks::ChangedArgs),
    /// Writes a block of a snapshot to standard output
    ReadBlock(blocks::ReadArgs),
    /// Makes a snapshot of blocks that standard input brings
    WriteSnapshot(write_snapshot::Args),
}

/// Does what `command` says.
pub(crate) fn main(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(args) => create::main(args),
        Command::Import(args) => copy::import(args),
        Command::Export(args) => copy::export(args),
        Command::Serve(args) => serve::main(args),
        Command::Info(args) => info::main(args),
        Command::Modify(args) => modify::main(args),
        Command::Check(args) => check::main(args),
        Command::Key(args) => key::main(args),
        Command::Snapshot(args) => snapshot::main(args),
        Command::Snapshots(args) => snapshots::list(args),
        Command::Restore(args) => restore::restore(args),
        Command::Fill(args) => restore::fill(args),
        Command::DeleteSnapshot(args) => snapshots::delete(args),
        Command::CopySnapshot(args) => copy_snapshot::main(args),
        Command::Blocks(args) => blocks::blocks(args),
        Command::Changed(args) => blocks::changed(args),
        Command::ReadBlock(args) => blocks::read(args),
        Command::WriteSnapshot(args) => write_snapshot::main(args),
    }
}

/// Makes sure that there is a volume, before anything is made beside what else is there.
fn find(folder: &Path) -> anyhow::Result<()> {
    if !folder.is_dir() {
        bail!("there is no folder {}; nimbo volume create makes a volume", folder.display());
    }
    let manifest = folder.join("volume");
    if !manifest.try_exists().with_context(|| format!("cannot look into {}", folder.display()))? {
        bail!("the folder {} holds no volume; nimbo volume create makes one", folder.display());
    }
    Ok(())
}
