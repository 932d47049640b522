//! A name server for this machine: instances' public names, as their public addresses, load balancers' names, and nothing else.
//!
//! It knows no other names and asks nobody, since who asks it may be the one that it would ask: it refuses (RFC 1035, 4.1.1), and resolvers then
//! ask the next one. It changes nothing of how this machine resolves names.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::Context as _;
use control::ledger::Stopped;
use control::plane::Plane;
use control::public_names::{self, PublicNames};
use network::dns::{Names, Server, Zone};

/// A loopback address that no resolver of a distribution has (systemd-resolved's are 127.0.0.53 and 127.0.0.54).
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 55)), 53);

/// Where it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResolverAt {
    Nowhere,
    Address(SocketAddr),
}

impl FromStr for ResolverAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Nowhere),
            text => text
                .parse()
                .map(Self::Address)
                .map_err(|_| format!("{text:?} is neither ADDRESS:PORT, such as {DEFAULT}, nor none")),
        }
    }
}

/// The names of instances, and who answers for them; nobody, if nowhere.
pub(super) struct Resolver {
    names: Names,
    server: Server,
}

impl Resolver {
    /// Listens where the command line says or, on a server that runs instances, at the default.
    ///
    /// # Errors
    /// When it cannot, and the command line said so. At the default somebody else may be, and then there is none.
    pub(super) fn open(at: Option<ResolverAt>, is_simulated: bool) -> anyhow::Result<Option<Self>> {
        let names = Names::new(Zone::default());
        let bind = |at| Ok(Server::bind_at(at, names.clone())?);
        let server: anyhow::Result<Server> = match at {
            None if is_simulated => return Ok(None),
            Some(ResolverAt::Nowhere) => return Ok(None),
            None => bind(DEFAULT),
            Some(ResolverAt::Address(at)) => bind(at),
        };
        match server
            .context("cannot resolve names for this machine: name another address, or --resolver none")
        {
            Ok(server) => Ok(Some(Self { names, server })),
            Err(error) if at.is_none() => {
                eprintln!("nimbo: {error:#}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Answers with the names that there are, until nothing can be written any more.
    ///
    /// # Errors
    /// Always, in the end.
    pub(super) async fn serve(self, plane: &Plane) -> Result<Infallible, Stopped> {
        let Self { names, server } = self;
        let tell = |all: &PublicNames| {
            let mut zone = Zone::default();
            let instances = all.instances.iter();
            let mut added: Vec<_> = instances.map(|(name, address)| zone.add_both(name, *address)).collect();
            let balancers = all.load_balancers.iter();
            added.extend(balancers.map(|(name, addresses)| zone.add_several(name, addresses)));
            for error in added.into_iter().filter_map(Result::err) {
                tracing::warn!(%error, "a public name is not resolved");
            }
            names.replace(zone);
        };
        let told = public_names::follow(plane, tell);
        tokio::select! {
            told = told => told.map(|()| unreachable!("it follows them until it fails")),
            () = server.serve() => std::future::pending().await,
        }
    }
}
