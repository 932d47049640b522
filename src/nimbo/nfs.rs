//! `nimbo nfs`: one folder as a network file system, without a cloud.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ::nfs::server::{Server, ServerSpec};
use anyhow::{Context as _, bail};

use crate::signals::StopSignals;

/// Where what must outlive a restart is kept, unless told.
const STATE: &str = "/var/lib/nimbo/nfs";

const HELP: &str = "\
It serves as soon as its address is printed, and needs root: files are touched as the users of its clients. Clients that use it
when it is restarted go on, and have their locks back, if it is restarted with the same state.

Exit status:
  0  it was ended by SIGINT, SIGTERM or SIGHUP
  1  the folder cannot be served
  2  the command line is wrong

Examples:
  nimbo nfs --export /srv/shared --listen 10.0.0.1:2049
  mount -t nfs4 -o nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2 10.0.0.1:/ /mnt";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The folder; other file systems that are mounted within are not served
    #[arg(long, value_name = "FOLDER")]
    export: PathBuf,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2049")]
    listen: SocketAddr,
    /// Where what must outlive a restart is kept: a key, and which clients there are
    ///
    /// [default: a folder of its own in /var/lib/nimbo/nfs]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Seconds within which a client is heard of, and after a restart comes back
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease: u64,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the event loop")?.block_on(serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::catch()?;
    let folder = args.export.canonicalize();
    let folder = folder.with_context(|| format!("cannot find {}", args.export.display()))?;
    let state = args.state.clone().unwrap_or_else(|| default_state(&folder));
    std::fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
    if state.canonicalize().is_ok_and(|state| state.starts_with(&folder)) {
        bail!(
            "{} lies in {}, where clients could change it: choose another --state",
            state.display(),
            folder.display()
        );
    }
    let lease = Duration::from_secs(args.lease);
    let server = Server::start(&ServerSpec { folder, state, listen: args.listen, lease })?;
    println!("{}", server.address());
    stop.next().await;
    Ok(ExitCode::SUCCESS)
}

/// By the folder's path, so that several folders can be served.
fn default_state(folder: &Path) -> PathBuf {
    let hash = blake3::hash(folder.as_os_str().as_encoded_bytes());
    Path::new(STATE).join(&hash.to_hex()[..16])
}
