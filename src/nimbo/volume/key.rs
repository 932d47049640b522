//! `nimbo volume key`, and which key file a command uses.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ::volume::crypt::{KeyFile, KeyName};
use ::volume::{Stores, Volume};
use anyhow::{Context as _, bail};

const EXAMPLES: &str = "\
A key has a name, by which volumes are made with it and remember it. It never leaves its file, which only its owner can
read (mode 0600). Keep a copy of that file elsewhere: without the key, nobody can read the volumes that were made with it.

Exit status:
  0  done
  1  nothing was changed; a message tells why

Examples:
  nimbo volume key new web
  nimbo volume create /srv/volumes/web --size 10G --encrypt-with web
  nimbo volume key change /srv/volumes/web web-2027";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
enum Command {
    /// Adds a new key to the key file, which is made if there is none
    New(NewArgs),
    /// Changes which key a volume needs; its data stay as they are, and its snapshots need the keys that they had
    Change(ChangeArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct NewArgs {
    /// What to call it: letters, digits and . _ : / -
    #[arg(value_name = "NAME")]
    name: KeyName,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct ChangeArgs {
    /// The volume, which nobody uses meanwhile
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The key that it is to need, of the same key file as the one that it needs now
    #[arg(value_name = "NAME")]
    name: KeyName,
    #[command(flatten)]
    keys: Keys,
}

// Which key file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Keys {
    /// The key file [default: nimbo/keys in $XDG_CONFIG_HOME, or ~/.config]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl Keys {
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(file) = &self.keys {
            return Ok(file.clone());
        }
        let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
        match config {
            Some(config) => Ok(config.join("nimbo/keys")),
            None => bail!("neither XDG_CONFIG_HOME nor HOME is set: say with --keys which file has the keys"),
        }
    }

    pub(super) fn open(&self) -> anyhow::Result<KeyFile> {
        Ok(KeyFile::new(self.path()?))
    }

    /// For opening volumes that may be encrypted: the file is looked at only for those.
    pub(super) fn stores(&self) -> Stores {
        let keys = self.open().ok();
        Stores { keys: keys.map(|keys| Arc::new(keys) as _), ..Stores::default() }
    }
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::New(args) => new(args),
        Command::Change(args) => change(args),
    }
}

fn change(args: &ChangeArgs) -> anyhow::Result<ExitCode> {
    super::find(&args.folder)?;
    Volume::change_key(&args.folder, &args.keys.open()?, &args.name)
        .with_context(|| format!("cannot change the key of the volume {}", args.folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn new(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let path = args.keys.path()?;
    if let (None, Some(folder)) = (&args.keys.keys, path.parent()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    KeyFile::new(&path).add(&args.name)?;
    println!("{}: {}", path.display(), args.name);
    Ok(ExitCode::SUCCESS)
}
