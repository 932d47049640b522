//! The way from a VPC to the outside: a pair of linked interfaces and masquerading.
//!
//! ```text
//! VPC                                   host
//! uplink 169.254.128.1/31 ───────────── nimbo0 169.254.128.0/31 ──▶ by the host's own routes
//! uplink 169.254.128.1/31               (another VPC: nimbo1, 169.254.128.2/31)
//! ```
//!
//! The VPC masquerades what leaves it, so its own range is never seen in the host, and any number of
//! VPCs can use the same one. The host masquerades again, for the one address of each uplink.
//!
//! What an uplink changes in the host, and how it is undone:
//! - The interface `nimboN` with its addresses and routes. Its name reserves the number: the kernel
//!   makes a name only once. It goes with the VPC's namespace.
//! - The nftables table `ip nimboN`.
//! - Forwarding of IPv4 is switched on for `nimboN`, and for each interface with a route on which it
//!   was off. The latter are first written down in a set of the table `ip nimbo`, together with a fence:
//!   what arrives there and is not for an uplink is dropped, as when forwarding was off. The last
//!   uplink's end switches it off again.
//!
//! A killed process leaves its table and the fence behind, which do nothing without the interface; the
//! next uplink that is made or ended removes them. Processes take turns by a lock on the namespace itself.
//!
//! The host's own firewall is neither changed nor got around. If it drops forwarded packets, which a
//! second table cannot overrule, [`Uplink::obstacles`] says so and what its owner can do about it.

mod rules;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::thread;

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;
use crate::namespace::Namespace;
use crate::netlink::{Link, Route};
use crate::plan::{NETWORK_PREFIX_MIN, overlap};
use crate::{nft, sysctl};
use rules::{Found, INSIDE};

/// The first address of the range that uplinks are numbered from. Link-local addresses are nobody
/// else's: not of a private network, nor of carriers (100.64.0.0/10), which some VPNs filter.
const TRANSIT: Ipv4Addr = Ipv4Addr::new(169, 254, 128, 0);
/// The MTU where the host has no route out.
const MTU_DEFAULT: u16 = 1500;
/// How many uplinks fit between [`TRANSIT`] and the addresses of metadata and resolver.
const SLOTS: u16 = 4096;

/// Whether an instance may open connections to the machine that it runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostAccess {
    /// As in a cloud: the instance reaches the world, and not its host.
    #[default]
    Denied,
    Allowed,
}

/// An uplink, in place until it is dropped.
#[derive(Debug)]
pub struct Uplink {
    host: Namespace,
    name: String,
    mtu: u16,
    obstacles: Vec<String>,
    /// Dropping it leaves it in place.
    is_kept: bool,
}

impl Uplink {
    /// Connects `vpc`, which has no uplink, to the outside through `host`. If it is to lead to an address in `vpc`, this
    /// machine has a route there and may open connections.
    ///
    /// # Errors
    /// When `nft` is missing, the caller lacks the privilege, or the kernel lacks masquerading; [`Error::AddressTaken`] when
    /// the host has the address elsewhere.
    pub fn create(
        host: &Namespace,
        vpc: &Namespace,
        access: HostAccess,
        leads_to: Option<Ipv4Addr>,
    ) -> Result<Self, Error> {
        let held = host.try_clone()?;
        let turn = take_turn(host)?;
        let found = sweep(host)?;
        let survey = Survey::of(host, found.shared)?;
        let taken = leads_to.and_then(|address| Some((address, survey.network_with(address)?)));
        if let Some((address, found)) = taken {
            return Err(Error::AddressTaken { address, found });
        }
        let mtu = survey.outward_mtu();
        let slot = claim_slot(host, vpc, &survey, mtu)?;
        let obstacles = found.droppers.iter().map(rules::Dropper::advice).collect();
        let uplink = Self { host: held, name: name(slot), mtu, obstacles, is_kept: false };
        let outcome = uplink.set_up(vpc, transit(slot), access, leads_to, &survey);
        // A half-made uplink is removed by dropping it, which takes a turn of its own.
        drop(turn);
        outcome.map(|()| uplink)
    }

    /// The name of the interface in the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The largest packet that leaves the host in one piece, by its default route.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What in the host's firewall may keep the instance from the outside, in words for its owner.
    pub fn obstacles(&self) -> &[String] {
        &self.obstacles
    }

    /// Leaves the uplink in place: it lasts as long as the VPC's namespace, or until [`Uplink::remove_of`].
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Removes the uplink of `vpc`, if it has one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_of(host: &Namespace, vpc: &Namespace) -> Result<(), Error> {
        let _turn = take_turn(host)?;
        let peer = inside(vpc)?.and_then(|link| link.peer);
        host.netlink(async |netlink| {
            let links = netlink.links().await?;
            match links.iter().find(|link| Some(link.index) == peer && rules::is_uplink(&link.name)) {
                Some(link) => netlink.delete_link(link.index).await,
                None => Ok(()),
            }
        })?;
        sweep(host).map(drop)
    }

    /// The MTU of the uplink that `vpc` has.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn mtu_of(vpc: &Namespace) -> Result<Option<u16>, Error> {
        Ok(inside(vpc)?.map(|link| link.mtu))
    }

    fn set_up(
        &self,
        vpc: &Namespace,
        ends: (Ipv4Addr, Ipv4Addr),
        access: HostAccess,
        leads_to: Option<Ipv4Addr>,
        survey: &Survey,
    ) -> Result<(), Error> {
        let (outer, inner) = ends;
        self.number(vpc, outer, inner)?;
        let off = self.host.run(|| survey.not_forwarding())??;
        let mut inside = rules::vpc();
        let mut outside = rules::add_uplink(&self.name, inner, access);
        outside.extend(rules::add_forwarding(&off, survey.has_fence));
        if leads_to.is_some() {
            inside.extend(rules::admit_host(outer));
            outside.extend(rules::admit_answers(&self.name));
        }
        // The kernel takes its time for either.
        thread::scope(|scope| {
            let work = || nft::apply(vpc, "vpc", &inside);
            let thread = thread::Builder::new().name("nft".to_owned()).spawn_scoped(scope, work);
            let thread = thread.map_err(Error::while_doing("start a thread"))?;
            let outside = nft::apply(&self.host, &self.name, &outside);
            let inside = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            inside.and(outside)
        })?;
        // Only now that it is written down, with the fence in place.
        self.host.run(|| {
            let mut names = off.iter().chain([&self.name]);
            names.try_for_each(|name| sysctl::set(&forwarding(name), "1"))
        })??;
        leads_to.map_or(Ok(()), |address| self.lead_to(address, outer, inner))
    }

    fn number(&self, vpc: &Namespace, outer: Ipv4Addr, inner: Ipv4Addr) -> Result<(), Error> {
        let range = |address| Ipv4Net::new_assert(address, 31);
        self.host.netlink(async |netlink| {
            let link = netlink.index(&self.name).await?;
            netlink.add_address(link, range(outer)).await?;
            netlink.set_up(link).await
        })?;
        vpc.netlink(async |netlink| {
            let link = netlink.index(INSIDE).await?;
            netlink.add_address(link, range(inner)).await?;
            netlink.set_up(link).await?;
            netlink.add_default_route(outer).await
        })
    }

    fn lead_to(&self, address: Ipv4Addr, outer: Ipv4Addr, inner: Ipv4Addr) -> Result<(), Error> {
        let is_added = self.host.netlink(async |netlink| {
            let link = netlink.index(&self.name).await?;
            netlink.add_route_by(Ipv4Net::from(address), inner, link, outer).await
        })?;
        let found = || "another instance of this host has it".to_owned();
        is_added.then_some(()).ok_or_else(|| Error::AddressTaken { address, found: found() })
    }

    fn remove(&self) -> Result<(), Error> {
        self.host.netlink(async |netlink| {
            let links = netlink.links().await?;
            match links.iter().find(|link| link.name == self.name) {
                Some(link) => netlink.delete_link(link.index).await,
                None => Ok(()),
            }
        })?;
        sweep(&self.host).map(drop)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = take_turn(&self.host).and_then(|_turn| self.remove()) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(uplink = self.name, error, "cannot remove an uplink");
        }
    }
}

/// The uplink at its end in a VPC.
fn inside(vpc: &Namespace) -> Result<Option<Link>, Error> {
    let links = vpc.netlink(async |netlink| netlink.links().await)?;
    Ok(links.into_iter().find(|link| link.name == INSIDE))
}

/// The host's interfaces and routes before an uplink is added.
struct Survey {
    links: Vec<Link>,
    routes: Vec<Route>,
    /// The table of all uplinks is there.
    has_fence: bool,
}

impl Survey {
    fn of(host: &Namespace, has_fence: bool) -> Result<Self, Error> {
        host.netlink(async |netlink| {
            Ok(Self { links: netlink.links().await?, routes: netlink.routes().await?, has_fence })
        })
    }

    fn outward_mtu(&self) -> u16 {
        let out =
            self.routes.iter().find(|route| route.range.prefix_len() == 0).and_then(|route| route.device);
        let link = self.links.iter().find(|link| Some(link.index) == out);
        link.map_or(MTU_DEFAULT, |link| link.mtu)
    }

    /// What of the host has an address, or a network that it is of, in words.
    fn network_with(&self, address: Ipv4Addr) -> Option<String> {
        let networks = self.routes.iter().filter(|route| route.range.prefix_len() >= NETWORK_PREFIX_MIN);
        let route = networks
            .filter(|route| route.range.contains(&address))
            .max_by_key(|route| route.range.prefix_len())?;
        let device = self.links.iter().find(|link| Some(link.index) == route.device);
        Some(match device.map(|link| link.name.as_str()) {
            Some(name) if rules::is_uplink(name) => "another instance of this host has it".to_owned(),
            Some(name) => format!("the host's own network {} at {name} has it", route.range),
            None => format!("the host routes {}", route.range),
        })
    }

    /// The interfaces that packets of an instance may leave by.
    fn onward(&self) -> impl Iterator<Item = &str> {
        let has_route = |link: &&Link| self.routes.iter().any(|route| route.device == Some(link.index));
        let names = self.links.iter().filter(has_route).map(|link| link.name.as_str());
        names.filter(|name| *name != "lo" && !rules::is_uplink(name))
    }

    /// Those of them by which no answer would come back. To be called in the host's namespace.
    fn not_forwarding(&self) -> Result<Vec<String>, Error> {
        let mut off = Vec::new();
        for name in self.onward() {
            if !sysctl::is_on(&forwarding(name))? {
                off.push(name.to_owned());
            }
        }
        Ok(off)
    }
}

/// Waits until no other process changes uplinks in `host`, and keeps others waiting until it is dropped.
///
/// The lock is on the namespace itself, which all who mean it open anew, and goes with its holder.
fn take_turn(host: &Namespace) -> Result<Flock<File>, Error> {
    let own = host.run(|| File::open("/proc/thread-self/ns/net"))?;
    let locked = own.and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))
    });
    locked.map_err(Error::while_doing("lock the host's network namespace"))
}

/// Removes what uplinks that are gone have left, and says what was found. Needs a turn.
fn sweep(host: &Namespace) -> Result<Found, Error> {
    let mut found = rules::read(&nft::ruleset(host)?);
    let links = host.netlink(async |netlink| netlink.links().await)?;
    let is_alive = |name: &str| links.iter().any(|link| link.name == name);
    let mut commands: Vec<_> =
        found.uplinks.iter().filter(|name| !is_alive(name)).map(|name| rules::delete(name)).collect();
    let last_is_gone = !links.iter().any(|link| rules::is_uplink(&link.name));
    if found.shared && last_is_gone {
        host.run(|| {
            let present = found.forwarding.iter().filter(|name| is_alive(name));
            present.into_iter().try_for_each(|name| sysctl::set(&forwarding(name), "0"))
        })??;
        commands.push(rules::delete(rules::PREFIX));
        found.shared = false;
    }
    if !commands.is_empty() {
        nft::apply(host, rules::PREFIX, &commands)?;
    }
    Ok(found)
}

/// Makes the pair of interfaces under the first name that is free and whose addresses are.
fn claim_slot(host: &Namespace, vpc: &Namespace, survey: &Survey, mtu: u16) -> Result<u16, Error> {
    let is_routed = |slot| {
        let range = Ipv4Net::new_assert(transit(slot).0, 31);
        // A shorter route, such as the whole link-local range on a LAN, is outdone by ours.
        survey.routes.iter().any(|route| route.range.prefix_len() >= 31 && overlap(&route.range, &range))
    };
    vpc.netlink(async |netlink| {
        for slot in (0..SLOTS).filter(|slot| !is_routed(*slot)) {
            if netlink.add_veth(INSIDE, &name(slot), host, mtu).await? {
                return Ok(slot);
            }
        }
        Err(Error::NoFreeUplink { slots: SLOTS })
    })
}

fn name(slot: u16) -> String {
    format!("{}{slot}", rules::PREFIX)
}

/// The addresses of an uplink's ends, in the host and in the VPC.
fn transit(slot: u16) -> (Ipv4Addr, Ipv4Addr) {
    let outer = u32::from(TRANSIT) + 2 * u32::from(slot);
    (Ipv4Addr::from(outer), Ipv4Addr::from(outer + 1))
}

fn forwarding(interface: &str) -> String {
    format!("ipv4/conf/{interface}/forwarding")
}
