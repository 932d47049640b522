//! The way from a VPC to the outside: a pair of linked interfaces and masquerading.
//!
//! ```text
//! VPC                                   host
//! uplink 169.254.128.1/31 ───────────── nimbo0 169.254.128.0/31 ──▶ by the host's own routes
//! uplink 169.254.128.3/31               (another VPC: nimbo1, 169.254.128.2/31)
//! ```
//!
//! What leaves a [hidden](Exposure::Hidden) VPC is masqueraded in it, so its own range is never seen in the host, and any number of
//! VPCs can use the same one. A [public](Exposure::Public) one's packets have public addresses already, to which the host has
//! routes ([`Uplink::lead`]). The host masquerades again what leaves it, for the addresses of each uplink.
//!
//! What an uplink changes in the host, and how it is undone:
//! - The interface `nimboN` with its addresses and routes. Its name reserves the number: the kernel
//!   makes a name only once. It goes with the VPC's namespace.
//! - The nftables table `ip nimboN`.
//! - Forwarding of IPv4 is switched on for `nimboN`, and for each interface with a route on which it
//!   was off, behind a fence in the table `ip nimbo`: what arrives there and is not for an uplink is dropped,
//!   as when forwarding was off. The last uplink's end switches it off again.
//!
//! - What on its [LAN](Exposure::Public) it answers for, which the kernel is told to be uplinks'.
//!
//! Which interfaces forward because of uplinks, their settings say themselves: forwarding is on there by a number of ours, and the kernel
//! asks only whether it is zero. So it is written down by the change itself, lasts as long, and cannot be lost with a ruleset that somebody flushes.
//! Where somebody else has switched it on since, by a number of his own, it is his.
//!
//! A killed process leaves its table and the fence behind, which do nothing without the interface; the next uplink that is made or
//! ended removes them, and so does [`remove_leftovers`]. Processes take turns by a lock on the namespace itself.
//!
//! The host's own firewall is neither changed nor got around. If it drops forwarded packets, which a
//! second table cannot overrule, [`Uplink::obstacles`] says so and what its owner can do about it.

mod lan;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::netlink::tables::Way;
use crate::netlink::{Link, Route};
use crate::plan::overlap;
use crate::{nft, sysctl};
pub(crate) use rules::is_uplink;
use rules::{Found, INSIDE};

/// The first address of the range that uplinks are numbered from. Link-local addresses are nobody
/// else's: not of a private network, nor of carriers (100.64.0.0/10), which some VPNs filter.
const TRANSIT: Ipv4Addr = Ipv4Addr::new(169, 254, 128, 0);
/// Somewhere outside: an address for documentation (RFC 5737), which nobody has.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The MTU where the host has no route out.
const MTU_DEFAULT: u16 = 1500;
/// How many uplinks fit between [`TRANSIT`] and the addresses of metadata and resolver.
const SLOTS: u16 = 4096;

/// What the setting of an interface is where forwarding is on because of uplinks.
const ON_FOR_UPLINKS: &str = "2";

/// Whether an instance may open connections to the machine that it runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostAccess {
    /// As in a cloud: the instance reaches the world, and not its host.
    #[default]
    Denied,
    Allowed,
}

/// How a VPC is seen from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exposure {
    /// As one address, that of the uplink, which nobody can open connections to.
    Hidden,
    /// At its public addresses, which are reached by the host, by the VPCs behind other uplinks, and from the interface `lan`, if one is named.
    Public { lan: Option<String> },
}

impl Exposure {
    fn lan(&self) -> Option<&str> {
        match self {
            Self::Public { lan } => lan.as_deref(),
            Self::Hidden => None,
        }
    }
}

/// An uplink, in place until it is dropped.
#[derive(Debug)]
pub struct Uplink {
    host: Namespace,
    name: String,
    slot: u16,
    mtu: u16,
    access: HostAccess,
    exposure: Exposure,
    /// The interfaces that forwarded because of uplinks, and were fenced, when it was last seen to.
    fenced: Vec<String>,
    obstacles: Vec<String>,
    /// Dropping it leaves it in place.
    is_kept: bool,
}

impl Uplink {
    /// Connects `vpc`, which has no uplink, to the outside through `host`.
    ///
    /// # Errors
    /// When `nft` is missing, the caller lacks the privilege, or the kernel lacks masquerading.
    pub fn create(
        host: &Namespace,
        vpc: &Namespace,
        access: HostAccess,
        exposure: Exposure,
    ) -> Result<Self, Error> {
        let held = host.try_clone()?;
        let turn = take_turn(host)?;
        let found = sweep(host)?;
        let survey = Survey::of(host)?;
        let mtu = survey.outward_mtu();
        let slot = claim_slot(host, vpc, &survey, mtu)?;
        let obstacles = found.droppers.iter().map(|dropper| dropper.advice(exposure.lan())).collect();
        let name = name(slot);
        let fenced = Vec::new();
        let mut uplink =
            Self { host: held, name, slot, mtu, access, exposure, fenced, obstacles, is_kept: false };
        let outcome = uplink.set_up(vpc, &survey, found.shared);
        // A half-made uplink is removed by dropping it, which takes a turn of its own.
        drop(turn);
        outcome.map(|()| uplink)
    }

    /// The uplink that `vpc` has, if it has one. It is kept: dropping it leaves it in place. Whom it lets through counts from when it next
    /// [admits](Self::admit) addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(
        host: &Namespace,
        vpc: &Namespace,
        access: HostAccess,
        exposure: Exposure,
    ) -> Result<Option<Self>, Error> {
        let links = vpc.netlink(async |netlink| netlink.links().await)?;
        let Some(inner) = links.into_iter().find(|link| link.name == INSIDE) else { return Ok(None) };
        let links = host.netlink(async |netlink| netlink.links().await)?;
        let outer = links.into_iter().find(|link| Some(link.index) == inner.peer);
        let slot = outer.as_ref().and_then(|link| link.name.strip_prefix(rules::PREFIX)?.parse().ok());
        let uplink = |slot| {
            let obstacles = Vec::new();
            Ok(Self {
                host: host.try_clone()?,
                name: name(slot),
                slot,
                mtu: inner.mtu,
                access,
                exposure,
                fenced: Vec::new(),
                obstacles,
                is_kept: true,
            })
        };
        slot.map(uplink).transpose()
    }

    /// Has the host take what comes from the VPC under `addresses`, and under no others, and forward what uplinks need, whatever somebody
    /// else has made of its rules and settings.
    ///
    /// # Errors
    /// What `nft` and the kernel say.
    pub fn admit(&mut self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), Error> {
        let _turn = take_turn(&self.host)?;
        self.enforce(addresses, &Survey::of(&self.host)?, false)
    }

    /// Has the host forward by all interfaces that it has routes by, behind the fence if nobody else wants it. Another one may have come since, such as
    /// that of a Wi-Fi, or somebody else who wants it.
    ///
    /// # Errors
    /// What `nft` and the kernel say.
    pub fn follow_routes(&mut self) -> Result<(), Error> {
        let survey = Survey::of(&self.host)?;
        let Forwarding { off, ours } = self.host.run(|| survey.forwarding())??;
        if off.is_empty() && ours == self.fenced {
            return Ok(());
        }
        let _turn = take_turn(&self.host)?;
        self.forward(&survey, Vec::new(), false)
    }

    /// Has the host send what is for `addresses`, and for no others, to the VPC: what is its own, as it would send it to the outside. On its LAN
    /// it answers for them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lead(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), Error> {
        let (_, gateway) = transit(self.slot);
        let _turn = take_turn(&self.host)?;
        let source = self.host.run(outward_address)?;
        self.host.netlink(async |netlink| {
            let link = netlink.index(&self.name).await?;
            let ranges = addresses.iter().map(|address| Ipv4Net::from(*address)).collect();
            netlink.set_routes(&ranges, Way::Via { link, gateway, source }).await?;
            lan::answer(netlink, self.exposure.lan(), addresses).await
        })
    }

    /// What the host's rules are that are this uplink's or all uplinks', word by word in no order: that of a set's elements is the kernel's.
    ///
    /// # Errors
    /// What `nft` says.
    pub(crate) fn rules(&self) -> Result<Vec<String>, Error> {
        let mut words = Vec::new();
        for table in [&self.name, rules::PREFIX] {
            let text = nft::table(&self.host, table)?.unwrap_or_default();
            words.extend(text.split([' ', ',', '\t', '\n']).map(str::to_owned));
        }
        words.sort_unstable();
        Ok(words)
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

    /// It stays in place when it is dropped: as long as the VPC's namespace lasts, or until it is [removed](Uplink::remove).
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    /// Ends it, kept or not.
    ///
    /// # Errors
    /// What the kernel says. It can be removed again: what is gone is no error.
    pub fn remove(mut self) -> Result<(), Error> {
        self.is_kept = true;
        let _turn = take_turn(&self.host)?;
        self.take_down()
    }

    fn set_up(&mut self, vpc: &Namespace, survey: &Survey, has_fence: bool) -> Result<(), Error> {
        let (outer, inner) = transit(self.slot);
        self.number(vpc, outer, inner)?;
        let inside = match self.exposure {
            Exposure::Hidden => rules::hidden(),
            Exposure::Public { .. } => Vec::new(),
        };
        // The kernel takes its time for either.
        thread::scope(|scope| {
            let work = || nft::apply(vpc, "vpc", &inside);
            let thread = thread::Builder::new().name("nft".to_owned()).spawn_scoped(scope, work);
            let thread = thread.map_err(Error::while_doing("start a thread"))?;
            let outside = self.enforce(&BTreeSet::new(), survey, has_fence);
            let inside = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            inside.and(outside)
        })
    }

    /// Puts the host's rules in force. Needs a turn.
    fn enforce(
        &mut self,
        addresses: &BTreeSet<Ipv4Addr>,
        survey: &Survey,
        has_fence: bool,
    ) -> Result<(), Error> {
        let (_, inner) = transit(self.slot);
        let known: Vec<_> = addresses.iter().copied().chain([inner]).collect();
        let own = rules::uplink(&self.name, &known, self.access, &self.exposure);
        self.forward(survey, own, has_fence)?;
        self.host.run(|| sysctl::set(&forwarding(&self.name), "1"))?
    }

    /// Has the host forward by all interfaces that it has routes by, once the fence and `rules` are in force. Needs a turn.
    fn forward(&mut self, survey: &Survey, rules: Vec<Value>, has_fence: bool) -> Result<(), Error> {
        let Forwarding { off, ours } = self.host.run(|| survey.forwarding())??;
        let mut fenced = [ours, off.clone()].concat();
        fenced.sort_unstable();
        let mut commands = rules::fence(&fenced, has_fence);
        commands.extend(rules);
        nft::apply(&self.host, &self.name, &commands)?;
        self.fenced = fenced;
        self.host.run(|| off.iter().try_for_each(|name| sysctl::set(&forwarding(name), ON_FOR_UPLINKS)))?
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

    fn take_down(&self) -> Result<(), Error> {
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
        if let Err(error) = take_turn(&self.host).and_then(|_turn| self.take_down()) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(uplink = self.name, error, "cannot remove an uplink");
        }
    }
}

/// The host's interfaces and routes before an uplink is added.
struct Survey {
    links: Vec<Link>,
    routes: Vec<Route>,
}

/// Which of the host's interfaces forward.
#[derive(Default)]
struct Forwarding {
    /// Those that do not, though packets of an instance may leave by them: no answer would come back.
    off: Vec<String>,
    /// Those that do because of uplinks, by their names.
    ours: Vec<String>,
}

impl Survey {
    fn of(host: &Namespace) -> Result<Self, Error> {
        host.netlink(async |netlink| {
            Ok(Self { links: netlink.links().await?, routes: netlink.routes().await? })
        })
    }

    fn outward_mtu(&self) -> u16 {
        let out =
            self.routes.iter().find(|route| route.range.prefix_len() == 0).and_then(|route| route.device);
        let link = self.links.iter().find(|link| Some(link.index) == out);
        link.map_or(MTU_DEFAULT, |link| link.mtu)
    }

    /// The host's interfaces, and whether packets of an instance may leave by each.
    fn interfaces(&self) -> impl Iterator<Item = (&str, bool)> {
        let has_route = |link: &Link| self.routes.iter().any(|route| route.device == Some(link.index));
        let all = self.links.iter().map(move |link| (link.name.as_str(), has_route(link)));
        all.filter(|(name, _)| *name != "lo" && !rules::is_uplink(name))
    }

    /// To be called in the host's namespace.
    fn forwarding(&self) -> Result<Forwarding, Error> {
        let mut found = Forwarding::default();
        for (name, has_route) in self.interfaces() {
            match sysctl::get(&forwarding(name))?.as_deref() {
                Some("0") if has_route => found.off.push(name.to_owned()),
                Some(ON_FOR_UPLINKS) => found.ours.push(name.to_owned()),
                // Not needed, somebody else's, or gone meanwhile.
                Some(_) | None => {}
            }
        }
        found.ours.sort_unstable();
        Ok(found)
    }
}

/// The address by which the calling thread's namespace would reach the outside, if there is a way. Nothing is sent.
pub fn outward_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((OUTSIDE, 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(own) => Some(*own.ip()),
        SocketAddr::V6(_) => None,
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
    host.netlink(async |netlink| lan::answer(netlink, None, &BTreeSet::new()).await)?;
    let is_last_gone = !links.iter().any(|link| rules::is_uplink(&link.name));
    if is_last_gone {
        // Before the fence falls.
        host.run(|| links.iter().try_for_each(|link| stop_forwarding(&link.name)))??;
        commands.extend(found.shared.then(|| rules::delete(rules::PREFIX)));
        found.shared = false;
    }
    if !commands.is_empty() {
        nft::apply(host, rules::PREFIX, &commands)?;
    }
    Ok(found)
}

/// If it is on because of uplinks. To be called in the host's namespace.
fn stop_forwarding(interface: &str) -> Result<(), Error> {
    match sysctl::get(&forwarding(interface))?.as_deref() {
        Some(ON_FOR_UPLINKS) => sysctl::set(&forwarding(interface), "0"),
        Some(_) | None => Ok(()),
    }
}

/// Takes back what uplinks whose processes were killed have changed of `host`.
///
/// # Errors
/// What `nft` and the kernel say.
pub fn remove_leftovers(host: &Namespace) -> Result<(), Error> {
    let _turn = take_turn(host)?;
    sweep(host).map(drop)
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
