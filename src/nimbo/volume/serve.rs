//! `nimbo volume serve`: volumes as network block devices, until a signal ends it.

use std::fmt;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use ::volume::nbd::{Export, Listener, Server};
use ::volume::snapshot::{SnapshotDisk, SnapshotName};
use ::volume::{BlockBackend as _, Limited};
use anyhow::{Context as _, anyhow, bail};
use vmm::jail::Jail;

use super::limits::LimitArgs;
use super::served::{ServeOptions, ServedVolume, WhenFull, check};
use super::stop::StopSignals;
use super::store::Access;
use crate::socket::SocketPath;
use crate::vhost_user::{self, Guests};

/// The port that IANA has given to NBD.
const NBD_ADDRESS: &str = "127.0.0.1:10809";

const EXAMPLES: &str = "\
The addresses by which clients reach the volumes are printed once they can be reached: one line for each, with its NBD
URL. A volume's name is that of its folder, unless NAME= stands before it. A client that dies takes nothing with it. What
has the form of a snapshot's name is that snapshot, read-only; a folder of such a name can be given as ./FOLDER.

NBD knows no passwords: whoever can connect can read and write. A Unix socket can be used by its owner alone; on TCP,
listen on addresses that only your own machines can reach.

Ctrl-C, or SIGTERM, ends it: what has arrived is carried out, everything is flushed, connections are closed.

Exit status:
  0  it was asked to end, and everything is on stable storage
  1  it could not serve, or the last flush failed; a message tells why

Examples:
  nimbo volume serve /srv/volumes/data --nbd unix:/run/data.sock
  nimbo volume serve /srv/volumes/web db=/srv/volumes/postgres --nbd 127.0.0.1:10809
  nimbo volume serve /srv/volumes/web --enforce-limits --type gp3 --iops 6000
  qemu-img info nbd://127.0.0.1/db
  nimbo volume serve /srv/volumes/data --vhost-user /run/data.sock & nimbo run --image tiny.raw --disk /run/data.sock
  nbd-client -unix /run/data.sock -N data /dev/nbd0
  nimbo volume serve friday=0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The volumes, or names of snapshots
    #[arg(value_name = "[NAME=]FOLDER | [NAME=]SNAPSHOT", required = true)]
    volumes: Vec<Served>,
    /// Where to listen for clients that speak NBD; 127.0.0.1:10809 unless there is --vhost-user
    #[arg(long, value_name = "unix:PATH | HOST:PORT")]
    nbd: Option<Address>,
    /// Make a socket for microVMs, whose disk the volume becomes: nimbo run --disk PATH. Several may use it at a time
    #[arg(long, value_name = "PATH")]
    vhost_user: Option<PathBuf>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Give up all that serving a volume to microVMs does not need: every file but the volume, the keys and the object store, which --objects names; the network, if
    /// that is a folder; and what root may do
    #[arg(long, requires = "vhost_user", conflicts_with = "nbd")]
    jail: bool,
    /// What becomes of a write when the file system that the volume is on is full
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    when_full: WhenFull,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    limits: LimitArgs,
}

/// A disk and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Served {
    name: Option<String>,
    disk: Disk,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Disk {
    Volume(PathBuf),
    Snapshot(SnapshotName),
}

impl From<&str> for Disk {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Volume(text.into()), Self::Snapshot)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(folder) => folder.display().fmt(f),
            Self::Snapshot(name) => name.fmt(f),
        }
    }
}

impl FromStr for Served {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            // A path may have the sign in it, but not before its first slash, unless that stands for a name.
            Some((name, folder)) if !name.contains('/') => {
                if name.is_empty() || name.len() > 255 {
                    return Err("a name has 1 to 255 bytes".to_owned());
                }
                Ok(Self { name: Some(name.to_owned()), disk: folder.into() })
            }
            _ => Ok(Self { name: None, disk: text.into() }),
        }
    }
}

impl Served {
    fn name(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let folder = match &self.disk {
            Disk::Snapshot(name) => return Ok(name.to_string()),
            Disk::Volume(folder) => folder,
        };
        let folder =
            folder.canonicalize().with_context(|| format!("cannot find the volume {}", folder.display()))?;
        let name = folder.file_name().and_then(|name| name.to_str());
        name.map(str::to_owned)
            .ok_or_else(|| anyhow!("{} gives no name; put one before it: NAME={0}", self.disk))
    }
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected unix:PATH or HOST:PORT".to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(expected()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(expected());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

/// A disk that is open.
enum Opened {
    Volume(ServedVolume),
    Snapshot(Arc<Guests>),
}

/// By their names, in the order in which they were given.
type Disks = Vec<(String, Opened)>;

impl Opened {
    fn guests(&self) -> &Arc<Guests> {
        match self {
            Opened::Volume(volume) => volume.guests(),
            Opened::Snapshot(guests) => guests,
        }
    }
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?;
    let limits = args.limits.spec()?;
    let (socket, for_guests) = args.vhost_user.as_deref().map(listen_for_guests).transpose()?.unzip();
    let socket = match socket {
        Some(socket) if args.jail => {
            jail(args)?;
            // It cannot be seen any more: whoever started this removes it, or the next one that listens there.
            socket.leave();
            None
        }
        socket => socket,
    };
    let mut disks: Disks = Vec::new();
    for served in &args.volumes {
        let name = served.name()?;
        if disks.iter().any(|(known, _)| *known == name) {
            bail!("two volumes would be called {name}; put another name before one: NAME={}", served.disk);
        }
        let opened = match &served.disk {
            Disk::Volume(folder) => {
                let options = ServeOptions {
                    name: name.clone(),
                    read_only: args.read_only,
                    limits,
                    when_full: args.when_full,
                };
                Opened::Volume(ServedVolume::open(&args.access, folder, options)?)
            }
            Disk::Snapshot(snapshot) => {
                let disk = Arc::new(SnapshotDisk::new(args.access.open_snapshot(*snapshot)?));
                let limits = check(limits, disk.size_bytes())?;
                let disk = Limited::new(disk, limits).context("cannot limit the snapshot")?;
                Opened::Snapshot(Arc::new(Guests::new(name.clone(), Arc::new(disk))))
            }
        };
        disks.push((name, opened));
    }
    let guests = for_guests.map(|listener| serve_guests(listener, &disks)).transpose()?;
    if let (Some(path), [(name, _)]) = (&args.vhost_user, &disks[..]) {
        println!("{name}: --disk {}", path.display());
    }
    let default = || Address::Tcp(NBD_ADDRESS.to_owned());
    let clients = match args.nbd.clone().or_else(|| guests.is_none().then(default)) {
        Some(address) => Some(serve_clients(&address, &disks)?),
        None => None,
    };
    stop.wait()?;
    drop((guests, clients, socket));
    disks.into_iter().try_for_each(|(_, opened)| match opened {
        Opened::Volume(volume) => volume.close(),
        Opened::Snapshot(_) => Ok(()),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Over NBD, until what is returned is dropped.
fn serve_clients(
    address: &Address,
    disks: &[(String, Opened)],
) -> anyhow::Result<(Server, Option<SocketPath>)> {
    let export =
        |(name, opened): &(String, Opened)| Export { name: name.clone(), disk: opened.guests().disk() };
    let (listener, base, socket) = listen(address)?;
    let server =
        Server::start(listener, disks.iter().map(export).collect()).context("cannot start the server")?;
    for (name, _) in disks {
        println!("{name}: {}", base.url(name));
    }
    Ok((server, socket))
}

/// Leaves this process what it needs to serve its volume.
fn jail(args: &Args) -> anyhow::Result<()> {
    let mut spec = args.access.files()?;
    let folders = args.volumes.iter().filter_map(|served| match &served.disk {
        Disk::Volume(folder) => Some(folder.clone()),
        Disk::Snapshot(_) => None,
    });
    spec.writable.extend(folders);
    if let Some(path) = spec.writable.iter().chain(&spec.readable).find(|path| path.is_relative()) {
        bail!("the current folder is not in the jail: give {} from the root on", path.display());
    }
    let report = Jail::enter_with_files(&spec).context("cannot jail this process")?;
    for shortfall in report.shortfalls {
        eprintln!("nimbo: the jail lacks {shortfall}");
    }
    Ok(())
}

/// A socket to which microVMs connect; they wait there until somebody answers.
fn listen_for_guests(path: &Path) -> anyhow::Result<(SocketPath, UnixListener)> {
    let (socket, listener) = SocketPath::listen(path, "the socket for microVMs")?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect the socket {}", path.display()))?;
    Ok((socket, listener))
}

/// Over vhost-user, until what is returned is dropped.
fn serve_guests(listener: UnixListener, disks: &[(String, Opened)]) -> anyhow::Result<vhost_user::Server> {
    let [(_, opened)] = disks else {
        bail!("a socket for microVMs serves one volume; serve each by a command of its own");
    };
    vhost_user::Server::start(listener, Arc::clone(opened.guests()))
}

/// What the URLs of exports have in common.
enum UrlBase {
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
}

impl UrlBase {
    /// As the NBD URL specification has it.
    fn url(&self, name: &str) -> String {
        let name = percent_encoded(name.as_bytes());
        match self {
            UrlBase::Unix(path) => {
                let path = percent_encoded(path.as_os_str().as_encoded_bytes());
                format!("nbd+unix:///{name}?socket={path}")
            }
            UrlBase::Tcp(address) => format!("nbd://{address}/{name}"),
        }
    }
}

/// RFC 3986, section 2.3; slashes stay, as they may in a query.
fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
            text + &char::from(*byte).to_string()
        }
        _ => format!("{text}%{byte:02X}"),
    })
}

fn listen(address: &Address) -> anyhow::Result<(Listener, UrlBase, Option<SocketPath>)> {
    match address {
        Address::Unix(path) => {
            let absolute = path::absolute(path).context("cannot find the current folder")?;
            let (socket, listener) = SocketPath::listen(path, "the NBD socket")?;
            // Whatever the umask is.
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .with_context(|| format!("cannot protect the socket {}", path.display()))?;
            Ok((Listener::Unix(listener), UrlBase::Unix(absolute), Some(socket)))
        }
        Address::Tcp(address) => {
            let listener =
                TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
            let local = listener.local_addr().with_context(|| format!("cannot listen on {address}"))?;
            if !local.ip().is_loopback() {
                eprintln!("nimbo: whoever can reach {local} can read and write what is served there");
            }
            Ok((Listener::Tcp(listener), UrlBase::Tcp(local), None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_may_have_a_name_of_its_own() {
        let served = |text: &str| text.parse::<Served>().unwrap();
        let named = |name: Option<&str>, folder: &str| Served {
            name: name.map(str::to_owned),
            disk: Disk::Volume(folder.into()),
        };
        assert_eq!(served("/srv/data"), named(None, "/srv/data"));
        assert_eq!(served("db=/srv/data"), named(Some("db"), "/srv/data"));
        assert_eq!(served("./a=b"), named(None, "./a=b"));
        assert!("=/srv/data".parse::<Served>().is_err());
        let snapshot = "0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210";
        let disk = Disk::Snapshot(snapshot.parse().unwrap());
        assert_eq!(served(snapshot), Served { name: None, disk: disk.clone() });
        assert_eq!(served(&format!("db={snapshot}")), Served { name: Some("db".to_owned()), disk });
        assert_eq!(served(&format!("./{snapshot}")), named(None, &format!("./{snapshot}")));
    }

    #[test]
    fn an_address_is_a_path_or_a_host_with_a_port() {
        assert_eq!("unix:/run/a b".parse(), Ok(Address::Unix("/run/a b".into())));
        for good in ["localhost:0", "[::1]:10809", "0.0.0.0:1"] {
            assert_eq!(good.parse(), Ok(Address::Tcp(good.to_owned())));
        }
        for bad in ["", "unix:", "localhost", ":1", "localhost:70000", "/run/socket"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_are_what_clients_take() {
        let unix = UrlBase::Unix("/run/a b.sock".into());
        assert_eq!(unix.url("größe"), "nbd+unix:///gr%C3%B6%C3%9Fe?socket=/run/a%20b.sock");
        let tcp = UrlBase::Tcp("[::1]:10809".parse().unwrap());
        assert_eq!(tcp.url("data"), "nbd://[::1]:10809/data");
    }
}
