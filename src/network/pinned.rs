//! The network of one instance of a region: as [`Standalone`](crate::Standalone) has it, and lasting longer than who made it.
//!
//! The kernel's part of it (the namespace with its routes and rules, the uplink) is pinned by a file, and is there until it is removed. Who
//! answers in it (DHCP, DNS) does so as long as the value lives; another process [takes it up](Pinned::take_up) with the same
//! specification. The tap is its reader's: it goes with the microVM's process.
//!
//! The instance has the address that it was given, and this machine reaches it there by a route of its own; so no two on a host
//! have the same. It reaches the outside, and no other instance: that takes a VPC.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use types::MacAddress;

use crate::error::Error;
use crate::namespace::{Namespace, Worker};
use crate::plan::{Plan, RESOLVER};
use crate::standalone::{MTU_DEFAULT, TAP, lease, make_router, metadata_listener, zone};
use crate::tap::{self, Port, Tap};
use crate::uplink::{HostAccess, Uplink};
use crate::{dhcp, dns};

/// What an instance's network is to be.
#[derive(Debug, Clone)]
pub struct PinnedSpec {
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    /// Queues of the tap, one for each pair that the guest's interface has.
    pub queue_pairs: u16,
    pub subnet: Ipv4Net,
    /// The range that the VPC was made with.
    pub vpc: Ipv4Net,
    /// What the instance's name ends in, such as `ec2.internal`.
    pub domain: String,
    /// Where the host's resolvers are named, `/etc/resolv.conf` as a rule.
    pub resolv_conf: PathBuf,
}

/// The network of one instance. Dropping it ends what answers in it, and leaves the rest in place.
#[derive(Debug)]
pub struct Pinned {
    // Fields are dropped in this order: what serves, then what it serves on.
    _services: Vec<Worker>,
    vpc: Namespace,
    tap: Option<Tap>,
    mtu: u16,
}

impl Pinned {
    /// Makes the network, pinned by a file at `pin`, and answers in it.
    ///
    /// # Errors
    /// Those of its parts; then nothing is left of it.
    pub fn make(spec: &PinnedSpec, pin: &Path) -> Result<Self, Error> {
        let vpc = Namespace::create()?;
        vpc.pin(pin)?;
        Self::make_in(vpc, spec).inspect_err(|_| {
            if let Err(error) = Self::remove(pin) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "cannot remove a network that was made in part");
            }
        })
    }

    fn make_in(vpc: Namespace, spec: &PinnedSpec) -> Result<Self, Error> {
        let (host, plan) = (Namespace::current()?, Plan::of(spec.vpc, spec.subnet));
        make_router(&vpc, &plan)?;
        let uplink = Uplink::create(&host, &vpc, HostAccess::Denied, Some(spec.address))?;
        let mtu = uplink.mtu();
        let tap = Tap::create(&vpc, TAP, spec.queue_pairs)?;
        tap::connect(&vpc, TAP, Port { address: spec.address, mac: spec.mac, router: plan.router(), mtu })?;
        let services = serve(&host, &vpc, spec, mtu)?;
        for obstacle in uplink.obstacles() {
            tracing::warn!("{obstacle}");
        }
        uplink.keep();
        Ok(Self { _services: services, vpc, tap: Some(tap), mtu })
    }

    /// Answers again in a network that another process has made, whose microVM runs.
    ///
    /// # Errors
    /// [`Error::NotPinned`] when there is none, and those of what answers.
    pub fn take_up(spec: &PinnedSpec, pin: &Path) -> Result<Self, Error> {
        let not_pinned = || Error::NotPinned { path: pin.to_owned() };
        let (host, vpc) = (Namespace::current()?, Namespace::pinned(pin)?.ok_or_else(not_pinned)?);
        let mtu = Uplink::mtu_of(&vpc)?.unwrap_or(MTU_DEFAULT);
        let services = serve(&host, &vpc, spec, mtu)?;
        Ok(Self { _services: services, vpc, tap: None, mtu })
    }

    /// Removes what a file pins, and what there is of its uplink in the host. Nobody may answer in it any more.
    ///
    /// # Errors
    /// What the kernel says. It can be removed again: what is gone is no error.
    pub fn remove(pin: &Path) -> Result<(), Error> {
        if let Some(vpc) = Namespace::pinned(pin)? {
            Uplink::remove_of(&Namespace::current()?, &vpc)?;
        }
        Namespace::unpin(pin)
    }

    /// The tap's queues, once, of a network that was made here.
    pub fn take_queues(&mut self) -> Option<Vec<OwnedFd>> {
        self.tap.take().map(Tap::into_queues)
    }

    /// The namespace that the instance's packets are routed in.
    pub fn vpc(&self) -> &Namespace {
        &self.vpc
    }

    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// As [`Standalone::metadata_listener`](crate::Standalone::metadata_listener).
    ///
    /// # Errors
    /// When it was taken before.
    pub fn metadata_listener(&self) -> Result<TcpListener, Error> {
        metadata_listener(&self.vpc)
    }
}

fn serve(host: &Namespace, vpc: &Namespace, spec: &PinnedSpec, mtu: u16) -> Result<Vec<Worker>, Error> {
    let plan = Plan::of(spec.vpc, spec.subnet);
    let names = zone(&plan, spec.address, &spec.domain)?;
    let dns = dns::Server::bind(vpc, &[plan.resolver(), RESOLVER], names, spec.resolv_conf.clone())?;
    let lease = lease(&plan, spec.address, spec.mac, &spec.domain, mtu);
    let dhcp = dhcp::Server::bind(vpc, TAP, lease)?;
    Ok(vec![host.spawn("dns", || dns.serve())?, vpc.spawn("vpc", || dhcp.serve())?])
}
