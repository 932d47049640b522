//! `nimbo balancer`: one load balancer, without a cloud.

mod control;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use balancer::config::{LoadBalancer, Protocol};
use balancer::server::Server;
use control::{Control, Question};
use tokio::signal::unix::{SignalKind, signal};

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
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the event loop")?.block_on(serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hang_up = catch(SignalKind::hangup())?;
    let mut secret = [0; 32];
    let random = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret));
    random.context("cannot draw a key for cookies")?;
    let workers = match args.workers {
        Some(workers) => usize::from(workers),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let config = read(&args.config)?;
    if config.listeners.is_empty() {
        bail!("{} has no listeners, so there is nothing to serve", args.config.display());
    }
    let mut server = Server::start(config, workers, args.zone.clone(), secret)
        .with_context(|| format!("cannot serve what {} says", args.config.display()))?;
    for listener in &server.plan().config.listeners {
        let scheme = match listener.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
        };
        println!("{scheme}://{}", listener.address);
    }
    let mut control = args.control.as_deref().map(Control::listen).transpose()?;
    let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = hang_up.recv() => {
                if let Err(error) = reload(&mut server, &args.config) {
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
