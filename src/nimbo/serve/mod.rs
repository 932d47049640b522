//! `nimbo serve`: the API of a region, and what it decides.

mod credentials;
mod random;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use aws::api::Api;
use aws::server::Limits;
use aws::sigv4::Verifier;
use control::SeedImage;
use control::ledger::Ledger;
use control::plane::Plane;
use control::simulation::Simulation;
use control::store::Memory;
use tokio::net::TcpListener;
use types::{AccountId, SystemClock};

use crate::signals::StopSignals;
use credentials::Simulated;
use random::Kernel;

const EXAMPLES: &str = "\
With --simulate nothing is kept and nothing is run: instances only say that they are. Requests are signed with the access key
`test` and the secret `test`, or with an account's twelve digits as the access key.

Exit status:
  0  it was told to end
  1  it cannot serve; a message tells why

Examples:
  nimbo serve --simulate
  aws --endpoint-url http://127.0.0.1:4566 ec2 describe-vpcs";

/// Serves the API of AWS
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Decide everything and run nothing: no root, no KVM, nothing kept
    #[arg(long)]
    simulate: bool,
    /// Where to listen: this machine's own addresses only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// The account that the access key `test` belongs to
    #[arg(long, value_name = "ACCOUNT", default_value = "000000000000")]
    account: AccountId,
    /// The images that everybody finds in every region, instead of a Debian: a JSON list of objects with `name`, `owner`, `size_gib` and,
    /// if you like, `description`, `owner_alias`, `root_device_name`
    #[arg(long, value_name = "FILE", requires = "simulate")]
    seed_images: Option<PathBuf>,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.simulate {
        bail!("nimbo serve runs no instances yet: try it with --simulate");
    }
    if !args.listen.ip().is_loopback() {
        bail!(
            "--listen {} is reached from elsewhere, and answers are not encrypted: name a loopback address",
            args.listen
        );
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let mut signals = StopSignals::catch()?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
    let address = listener.local_addr().context("cannot tell the address that it listens at")?;
    let clock = Arc::new(SystemClock);
    let ledger = Ledger::open(Arc::new(Memory::new()), clock.clone(), Box::new(Kernel::open()?)).await?;
    let keys = Arc::new(Simulated::new(args.account));
    let plane = Plane::new(ledger);
    let seeds = match &args.seed_images {
        Some(path) => read_seeds(path)?,
        None => control::default_seed(),
    };
    control::seed_images(&plane, &seeds).await.map_err(|error| anyhow!("{}", error.message))?;
    let host = Arc::new(Simulation::default());
    let work = control::reconcile::run(Arc::clone(&plane), host.clone(), host);
    let api = Api { table: control::table(), verifier: Verifier::new(keys, clock), context: plane };
    println!("http://{address}");
    tokio::select! {
        () = aws::server::serve(listener, Arc::new(api), Limits::default()) => Ok(()),
        stopped = work => Ok(stopped?),
        () = signals.next() => Ok(()),
    }
}

/// The images that a file names, in JSON.
fn read_seeds(path: &Path) -> anyhow::Result<Vec<SeedImage>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} names no images as it should", path.display()))
}
