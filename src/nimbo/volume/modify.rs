//! `nimbo volume modify`

use std::path::PathBuf;
use std::process::ExitCode;

use ::volume::BlockBackend as _;
use anyhow::{Context as _, bail};
use types::ByteSize;

use super::limits::KindArgs;
use super::served::Reached;
use super::store::Access;

const EXAMPLES: &str = "\
A volume that nimbo volume serve or nimbo run has open goes on being used, and its guests see the new size at once; to make use of it is theirs, for
instance by resize2fs. Clients by NBD see it when they connect anew. A volume never becomes smaller.

The limits are those of the process that serves the volume, and end with it.

Exit status:
  0  done
  1  the volume is as it was; a message tells why

Examples:
  nimbo volume modify /srv/volumes/web --size 20G
  nimbo volume modify /srv/volumes/web --type gp3 --iops 6000
  nimbo volume modify /srv/volumes/web --no-limits";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("change").required(true).multiple(true).args(["size", "kind", "no_limits"]))]
pub(crate) struct Args {
    /// The volume
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// How large it is to be: a whole number and K, M, G or T, at most 64T
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    #[command(flatten)]
    kind: KindArgs,
    /// Give as much as the machine does
    #[arg(long, conflicts_with = "kind")]
    no_limits: bool,
    #[command(flatten)]
    access: Access,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let cannot = || format!("cannot modify the volume {}", args.folder.display());
    let limits = args.kind.spec();
    match args.access.reach(&args.folder)? {
        Reached::Here(_) if limits.is_some() || args.no_limits => {
            bail!(
                "nobody serves {}, and so nothing limits it: give the limits to nimbo volume serve",
                args.folder.display()
            );
        }
        Reached::Here(volume) => {
            let size = args.size.map_or(volume.size_bytes(), ByteSize::bytes);
            volume.grow(size).with_context(cannot)?;
        }
        Reached::Served(mut client) => {
            // A larger volume may have more.
            if let Some(size) = args.size {
                client.resize(size).with_context(cannot)?;
            }
            if limits.is_some() || args.no_limits {
                client.limit(limits).with_context(cannot)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
