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

/// Makes, checks, copies and serves volumes: disks of a folder each, thin and crash-proof; and their snapshots
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(create::Args),
    Import(copy::ImportArgs),
    Export(copy::ExportArgs),
    Serve(serve::Args),
    Info(info::Args),
    Modify(modify::Args),
    Check(check::Args),
    Key(key::Args),
    Snapshot(snapshot::Args),
    Snapshots(snapshots::ListArgs),
    Restore(restore::RestoreArgs),
    Fill(restore::FillArgs),
    DeleteSnapshot(snapshots::DeleteArgs),
    CopySnapshot(copy_snapshot::Args),
    Blocks(blocks::BlocksArgs),
    Changed(blocks::ChangedArgs),
    ReadBlock(blocks::ReadArgs),
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
