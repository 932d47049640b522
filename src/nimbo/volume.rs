//! `nimbo volume`: disks that last, in folders of their own.
//!
//! Each subcommand is a file here; what they do is the crate `volume`. One process at a time has a volume open, so what reads a volume
//! that is being served asks the server: `serve` speaks NBD, which standard tools know.

mod check;
mod copy;
mod create;
mod info;
mod key;
mod limits;
mod serve;
mod stop;

use std::path::Path;
use std::process::ExitCode;

use ::volume::Volume;
use anyhow::{Context as _, bail};
pub(crate) use key::Keys;

/// Makes, checks, copies and serves volumes: disks of a folder each, thin and crash-proof
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(create::Args),
    Import(copy::ImportArgs),
    Export(copy::ExportArgs),
    Serve(serve::Args),
    Info(info::Args),
    Check(check::Args),
    Key(key::Args),
}

/// Does what `command` says.
pub(crate) fn main(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(args) => create::main(args),
        Command::Import(args) => copy::import(args),
        Command::Export(args) => copy::export(args),
        Command::Serve(args) => serve::main(args),
        Command::Info(args) => info::main(args),
        Command::Check(args) => check::main(args),
        Command::Key(args) => key::main(args),
    }
}

/// Opens the volume in `folder`; if it is encrypted, with a key of these.
pub(crate) fn open(folder: &Path, keys: &Keys) -> anyhow::Result<Volume> {
    find(folder)?;
    Volume::open_with(folder, keys.stores())
        .with_context(|| format!("cannot open the volume {}", folder.display()))
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
