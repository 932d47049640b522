//! `nimbo balancer`: one load balancer, from a file or as somebody says who runs many.

mod control;
pub(crate) mod orders;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use balancer::config::{Attributes, LoadBalancer, Protocol};
use balancer::server::Server;
use control::{Control, Question};
use orders::Orders;
use tokio::signal::unix::{SignalKind, signal};

/// How often it is looked whether all workers are there.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

const HELP: &str = "\
It serves as soon as its addresses are printed. SIGHUP has the file read again: requests that come from then on are served
by what it says, and none fails for it: certificates and listeners, too. What is wrong with it is printed, and then nothing changes.

Exit status:
  0  it was ended by SIGINT or SIGTERM
  1  the file is wrong, or it cannot be served
  2  the command line is wrong

Examples:
  nimbo balancer --config shop.json
  pkill -HUP -f 'nimbo balancer --config shop.json'";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// What it is to be, in JSON: docs/balancer.md tells what may stand there
    #[arg(long, value_name = "FILE", required_unless_present = "orders")]
    config: Option<PathBuf>,
    /// Be told what to be at a Unix socket instead, which is made, and tell there how targets are
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["config", "control"])]
    orders: Option<PathBuf>,
    /// Give up all files, and what root may do
    #[arg(long, requires = "orders")]
    jail: bool,
    /// Threads that serve, each on its own; as many as there are processors unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Serves with targets of this zone only
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// A Unix socket that tells how it stands: `curl --unix-socket SOCKET http://localhost/v1/status`
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let mut secret = [0; 32];
    let random = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret));
    random.context("cannot draw a key for cookies")?;
    let workers = match args.workers {
        Some(workers) => usize::from(workers),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    // From here on there may be no files any more.
    let orders = args.orders.as_deref().map(|path| Orders::listen(path, args.jail)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the event loop")?;
    let start = |config| Server::start(config, workers, args.zone.clone(), secret);
    match (orders, &args.config) {
        (Some(orders), _) => {
            let server = start(nothing()).context("cannot serve")?;
            runtime.block_on(follow_orders(orders, server))
        }
        (None, Some(file)) => {
            let config = read(file)?;
            if config.listeners.is_empty() {
                bail!("{} has no listeners, so there is nothing to serve", file.display());
            }
            let server =
                start(config).with_context(|| format!("cannot serve what {} says", file.display()))?;
            runtime.block_on(follow_file(args, file, server))
        }
        (None, None) => bail!("--config or --orders is needed"),
    }
}

/// Before it is told anything.
fn nothing() -> LoadBalancer {
    LoadBalancer {
        listeners: Vec::new(),
        target_groups: BTreeMap::new(),
        attributes: Attributes::default(),
        access_log: None,
        source: None,
    }
}

async fn follow_orders(orders: Orders, server: Server) -> anyhow::Result<ExitCode> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let server = Arc::new(Mutex::new(server));
    let mut look = tokio::time::interval(LOOK_PERIOD);
    let mut following = std::pin::pin!(orders.follow(Arc::clone(&server)));
    loop {
        tokio::select! {
            followed = &mut following => return followed.map(|()| ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = look.tick() => {
                if orders::lock(&server).has_failed() {
                    bail!("a worker has ended by itself");
                }
            }
        }
    }
}

async fn follow_file(args: &Args, file: &Path, mut server: Server) -> anyhow::Result<ExitCode> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hang_up = catch(SignalKind::hangup())?;
    // Whoever reads the addresses may ask there at once.
    let mut control = args.control.as_deref().map(Control::listen).transpose()?;
    for listener in &server.plan().config.listeners {
        let scheme = match listener.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
        };
        println!("{scheme}://{}", listener.address);
    }
    let mut look = tokio::time::interval(LOOK_PERIOD);
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = hang_up.recv() => {
                if let Err(error) = reload(&mut server, file) {
                    eprint!("{}", crate::failure::render(&error));
                }
            }
            Some(question) = next_question(&mut control) => {
                // Whoever has asked may have gone.
                let _ = question.send(server.status());
            }
            _ = look.tick() => {
                if server.has_failed() {
                    bail!("a worker has ended by itself");
                }
            }
        }
    }
}

/// Never one without a control socket.
async fn next_question(control: &mut Option<Control>) -> Option<Question> {
    match control {
        Some(control) => control.question().await,
        None => std::future::pending().await,
    }
}

fn reload(server: &mut Server, file: &Path) -> anyhow::Result<()> {
    let replaced = server.replace(read(file)?);
    replaced.with_context(|| format!("it is served as before, and not as {} says", file.display()))
}

fn read(file: &Path) -> anyhow::Result<LoadBalancer> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no configuration", file.display()))
}
