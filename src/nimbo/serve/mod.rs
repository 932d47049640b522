//! `nimbo serve`: the API of a region, and what it decides.

mod credentials;
pub(crate) mod down;
mod drops;
mod explain;
mod front;
mod notices;
mod public;
mod random;
mod resolver;
mod room;
pub(crate) mod state_folder;
mod tls;
mod why;
mod zones;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use aws::api::Api;
use aws::server::Limits;
use aws::sigv4::{Credentials, Verifier};
use control::SeedImage;
use control::ledger::Ledger;
use control::plane::Plane;
use control::ports::{Balancers, Disks, Machines, Networks};
use control::simulation::{Delays, Simulation};
use control::store::{Memory, Store};
use tokio::net::TcpListener;
use types::{AccountId, Region, SystemClock};

use crate::client::Place;
use crate::credentials_file;
use crate::doctor::{self, Kvm};
use crate::host::{Host, HostSpec};
use crate::run::lab;
use crate::signals::StopSignals;
use crate::volume::Location;
pub(crate) use credentials::SIMULATED;
use credentials::{Kept, Simulated};
pub(crate) use drops::PATH as DROPS_PATH;
pub(crate) use explain::PATH as EXPLAIN_PATH;
use front::Front;
pub(crate) use notices::PATH as NOTICES_PATH;
use public::Public;
use random::Kernel;
use resolver::{Resolver, ResolverAt};
use room::Room;
use state_folder::StateFolder;
use tls::{Tls, TlsArgs};
pub(crate) use why::PATH as WHY_PATH;
pub(crate) use zones::PATH as ZONES_PATH;

/// Where a server has its sockets if nobody says otherwise.
pub(crate) const RUN_FOLDER: &str = "/run/nimbo";

const EXAMPLES: &str = "\
With --simulate nothing is run: instances only say that they are, and nothing is kept but in the folder that --state names. Requests
are signed with the access key `test` and the secret `test`, or with an account's twelve digits as the access key.

nimbo env prints what clients need to know.

Exit status:
  0  it was told to end
  1  it cannot serve, or not any more; a message tells why
  2  the command line is wrong

Examples:
  nimbo serve --simulate
  nimbo serve --simulate --state ~/nimbo
  nimbo serve --simulate --state ~/nimbo --listen 0.0.0.0:4566 --tls-self-signed
  aws --endpoint-url http://127.0.0.1:4566 ec2 describe-vpcs";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Decide everything and run nothing: no root, no KVM
    #[arg(long)]
    simulate: bool,
    /// Where it keeps what it knows; one server at a time has it. With --simulate nothing is kept if this is not given
    /// [default: /var/lib/nimbo]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where its instances have their sockets
    #[arg(long, value_name = "FOLDER", default_value = RUN_FOLDER)]
    run: PathBuf,
    /// Where its snapshots are kept: a folder, or s3://BUCKET/PREFIX with AWS_... in the environment. It stays the one that was named first, as long as there
    /// is anything in it [default: objects in the state folder]
    #[arg(long, value_name = "LOCATION", conflicts_with = "simulate")]
    objects: Option<Location>,
    /// Let volumes give no more operations and bytes a second than EBS's of their type and size do
    #[arg(long, conflicts_with = "simulate")]
    enforce_limits: bool,
    /// Run instances on this machine whatever its KVM is good for
    #[arg(long, conflicts_with = "simulate")]
    here: bool,
    /// Where to listen: by TLS, if that is not this machine's own address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    #[command(flatten)]
    tls: TlsArgs,
    /// The region that clients work in if they do not say which: all others are there too
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: Region,
    /// The account that the first access key belongs to
    #[arg(long, value_name = "ACCOUNT", default_value = "000000000000")]
    account: AccountId,
    /// The images that everybody finds in every region, instead of a Debian: a JSON list of objects with `name`, `owner`, `size_gib` and,
    /// if you like, `description`, `owner_alias`, `root_device_name`
    #[arg(long, value_name = "FILE", requires = "simulate")]
    seed_images: Option<PathBuf>,
    /// Take as long for everything as AWS does, or so many times as long: --delays=0.1
    #[arg(long, value_name = "FACTOR", requires = "simulate", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = factor)]
    delays: Option<f64>,
    #[command(flatten)]
    room: Room,
    #[command(flatten)]
    public: Public,
    /// Where this machine's own resolver may ask for instances' public names, or none; a simulation has it nowhere if this is not given
    /// [default: 127.0.0.55:53]
    #[arg(long, value_name = "ADDRESS:PORT")]
    resolver: Option<ResolverAt>,
}

/// A number that times can be multiplied with.
fn factor(text: &str) -> Result<f64, String> {
    let is_one = |factor: &f64| factor.is_finite() && (0.0..=1000.0).contains(factor);
    text.parse().ok().filter(is_one).ok_or_else(|| format!("{text:?} is no number from 0 to 1000"))
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.simulate {
        check_machine(args.here)?;
        args.public.check()?;
    }
    let default = (!args.simulate).then_some(Path::new(state_folder::DEFAULT));
    let folder = args.state.as_deref().or(default);
    let folder = folder.map(|path| StateFolder::open(path, args.simulate)).transpose()?;
    let tls = args.tls.set_up(folder.as_ref().map(StateFolder::path), args.listen)?;
    if tls.is_none() && !args.listen.ip().is_loopback() {
        bail!(
            "--listen {} is reached from elsewhere, and that takes TLS: add --tls-self-signed, or --tls-certificate and --tls-key",
            args.listen
        );
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(args, folder.as_ref(), tls))?;
    // All that uses the store ends before the folder does, and closes it.
    drop(runtime);
    Ok(ExitCode::SUCCESS)
}

/// Whether this machine can run instances, and if not, what to do.
fn check_machine(here: bool) -> anyhow::Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("nimbo serve runs instances as root: become root, or try it with --simulate");
    }
    if here || lab::is_here() {
        return doctor::open_kvm();
    }
    match doctor::try_kvm() {
        Kvm::Hardware => Ok(()),
        Kvm::Forbidden(why) => bail!(why),
        Kvm::Unusable(why) => bail!("{why}; nimbo serve --simulate runs nothing and decides everything"),
    }
}

async fn serve(args: &Args, folder: Option<&StateFolder>, tls: Option<Tls>) -> anyhow::Result<()> {
    let mut signals = StopSignals::catch()?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
    let address = listener.local_addr().context("cannot tell the address that it listens at")?;
    let clock = Arc::new(SystemClock);
    let store: Arc<dyn Store> = match folder {
        Some(folder) => folder.store(),
        None => Arc::new(Memory::new()),
    };
    let resolver = Resolver::open(args.resolver, args.simulate)?;
    let ledger = Ledger::open(store, clock.clone(), Box::new(Kernel::open()?)).await?;
    let Hosts { machines, disks, networks, balancers, simulation } = host(args, folder)?;
    ledger.set_public_pool(args.public.public_pool);
    let plane = Plane::new(ledger, Arc::clone(&machines), args.room.overcommit());
    let seeds = match &args.seed_images {
        Some(path) => read_seeds(path)?,
        None if args.simulate => control::default_seed(),
        // Nothing stands behind a name.
        None => Vec::new(),
    };
    control::seed_images(&plane, &seeds).await.map_err(|error| anyhow!("{}", error.message))?;
    if let Some(simulation) = &simulation {
        let ((), as_of) = plane.ledger.read(|state| simulation.adopt(state));
        plane.ledger.settled(as_of).await?;
    }
    let work = control::reconcile::run(Arc::clone(&plane), machines, disks, networks.clone(), balancers);
    let verifier = Verifier::new(keys(args, folder)?, clock);
    let front = Arc::new(Front {
        api: Api { table: control::table(), verifier, context: Arc::clone(&plane) },
        region: args.region,
        state: folder.map(|folder| folder.path().to_owned()),
        networks,
        simulated: simulation.map(|host| front::Simulated { host, seeds }),
    });
    let _place = folder.map(|folder| folder.announce(&place(address, tls.as_ref()))).transpose()?;
    announce(address, tls.as_ref());
    let limits = Limits::default();
    let resolved = async {
        match resolver {
            Some(resolver) => resolver.serve(&plane).await,
            None => std::future::pending().await,
        }
    };
    let served = async {
        match tls {
            Some(tls) => aws::server::serve_through(Arc::new(tls), listener, front, limits).await,
            None => aws::server::serve(listener, front, limits).await,
        }
    };
    tokio::select! {
        () = served => Ok(()),
        stopped = plane.ledger.stopped() => Err(stopped.into()),
        stopped = work => Ok(stopped?),
        stopped = resolved => match stopped? {},
        () = signals.next() => Ok(()),
    }
}

/// Who does what is decided: this machine, or nobody.
struct Hosts {
    machines: Arc<dyn Machines>,
    disks: Arc<dyn Disks>,
    /// None: what is not there needs no network.
    networks: Option<Arc<dyn Networks>>,
    balancers: Arc<dyn Balancers>,
    simulation: Option<Arc<Simulation>>,
}

fn host(args: &Args, folder: Option<&StateFolder>) -> anyhow::Result<Hosts> {
    if let Some(folder) = folder.filter(|_| !args.simulate) {
        let host = Host::open(HostSpec {
            limits_volumes: args.enforce_limits,
            objects: args.objects.as_ref(),
            lan: args.public.lan_interface.as_deref(),
            ..HostSpec::plain(folder.path(), &args.run)
        })?;
        let (disks, networks, balancers) = (host.disks(), host.networks(), host.balancers());
        let networks = Some(networks as Arc<dyn Networks>);
        return Ok(Hosts { machines: host, disks, networks, balancers, simulation: None });
    }
    let delays = args.delays.map_or(Delays::default(), Delays::like_aws);
    let host = Arc::new(Simulation::with(delays).limited_to(args.room.capacity()));
    let (machines, disks, balancers) = (host.clone(), host.clone(), host.clone());
    Ok(Hosts { machines, disks, networks: None, balancers, simulation: Some(host) })
}

/// Whose signatures are known.
fn keys(args: &Args, folder: Option<&StateFolder>) -> anyhow::Result<Arc<dyn Credentials>> {
    match folder {
        Some(folder) if !args.simulate => Ok(Arc::new(Kept::open_or_make(folder.path(), args.account)?)),
        Some(folder) => {
            let kept = Kept::open(folder.path().join(credentials_file::NAME))?;
            Ok(Arc::new(Simulated::new(args.account, Some(kept))))
        }
        None => Ok(Arc::new(Simulated::new(args.account, None))),
    }
}

/// Says on standard output that it serves, and where.
fn announce(address: SocketAddr, tls: Option<&Tls>) {
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!("{scheme}://{address}");
    if let Some(authority) = tls.and_then(|tls| tls.authority.as_deref()) {
        eprintln!("nimbo: clients need its authority: export AWS_CA_BUNDLE={}", authority.display());
    }
}

/// How clients on this machine reach it.
fn place(address: SocketAddr, tls: Option<&Tls>) -> Place {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    Place {
        process: std::process::id(),
        endpoint: format!("{scheme}://{}", SocketAddr::new(ip, address.port())),
        certificate_authority: tls.and_then(|tls| tls.authority.clone()),
    }
}

/// The images that a file names, in JSON.
fn read_seeds(path: &Path) -> anyhow::Result<Vec<SeedImage>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} names no images as it should", path.display()))
}
