//! The network of one instance without a cloud: all parts put together, up until it is dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use types::MacAddress;

use crate::bound::metadata_listener;
use crate::dns::Names;
use crate::error::Error;
use crate::namespace::{Namespace, Worker};
use crate::plan::{METADATA, Plan, RESOLVER, host_name};
use crate::publish::{Forwarder, Publish};
use crate::tap::{self, Port, Tap};
use crate::uplink::{Exposure, HostAccess, Uplink};
use crate::{dhcp, dns, sysctl};

const TAP: &str = "tap0";
/// Ethernet's own, where there is no uplink to say otherwise.
const MTU_DEFAULT: u16 = 1500;

/// What an instance's network is to be.
#[derive(Debug, Clone)]
pub struct StandaloneSpec {
    pub mac: MacAddress,
    /// Queues of the tap, one for each pair that the guest's interface has.
    pub queue_pairs: u16,
    /// What the instance's name ends in, such as `ec2.internal`.
    pub domain: String,
    /// Whether there is a way to the outside, and whether it also leads to this machine.
    pub uplink: Option<HostAccess>,
    pub publish: Vec<Publish>,
    /// Where the host's resolvers are named, `/etc/resolv.conf` as a rule.
    pub resolv_conf: PathBuf,
}

/// The network of one instance. Dropping it removes all of it.
#[derive(Debug)]
pub struct Standalone {
    // Fields are dropped in this order: what serves, then what it serves on.
    _services: Vec<Worker>,
    uplink: Option<Uplink>,
    vpc: Namespace,
    tap: Option<Tap>,
    plan: Plan,
    domain: String,
    mtu: u16,
    published: Vec<Publish>,
}

impl Standalone {
    /// Makes the network, in the namespace of the calling thread.
    ///
    /// # Errors
    /// Those of its parts; then nothing is left of it.
    pub fn start(spec: StandaloneSpec) -> Result<Self, Error> {
        let host = Namespace::current()?;
        let routes = host.netlink(async |netlink| netlink.routes().await)?;
        let plan = Plan::choose(&routes.iter().map(|route| route.range).collect::<Vec<_>>())?;
        let vpc = Namespace::create()?;
        make_router(&vpc, &plan)?;
        let uplink =
            spec.uplink.map(|access| Uplink::create(&host, &vpc, access, Exposure::Hidden)).transpose()?;
        let mtu = uplink.as_ref().map_or(MTU_DEFAULT, Uplink::mtu);
        let tap = Tap::create(&vpc, TAP, spec.queue_pairs)?;
        let address = plan.first_address();
        let port = Port { address, mac: spec.mac, router: plan.router(), mtu };
        tap::connect(&vpc, TAP, port)?;

        let dns = dns::Server::bind(
            &vpc,
            &[plan.resolver(), RESOLVER],
            Names::new(zone(&plan, address, &spec.domain)?),
            spec.resolv_conf,
        )?;
        let lease = lease(&plan, address, spec.mac, &spec.domain, mtu);
        let dhcp = dhcp::Server::bind(&vpc, TAP, watch::channel(lease).1)?;
        let forwarders = spec.publish.iter().map(|publish| Forwarder::bind(&host, *publish, address));
        let forwarders = forwarders.collect::<Result<Vec<_>, _>>()?;
        let published = forwarders.iter().map(Forwarder::publish).collect();
        let services =
            vec![host.spawn("dns", || dns.serve())?, vpc.spawn("vpc", || serve_vpc(dhcp, forwarders))?];
        Ok(Self {
            _services: services,
            uplink,
            vpc,
            tap: Some(tap),
            plan,
            domain: spec.domain,
            mtu,
            published,
        })
    }

    /// The tap's queues, once. The network's end of them is served from the start.
    pub fn take_queues(&mut self) -> Option<Vec<OwnedFd>> {
        self.tap.take().map(Tap::into_queues)
    }

    /// The namespace that the instance's packets are routed in.
    pub fn vpc(&self) -> &Namespace {
        &self.vpc
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The instance's address.
    pub fn address(&self) -> Ipv4Addr {
        self.plan.first_address()
    }

    /// The instance's full name.
    pub fn host_name(&self) -> String {
        format!("{}.{}", host_name(self.address()), self.domain)
    }

    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The published ports, with those that the host chose.
    pub fn published(&self) -> &[Publish] {
        &self.published
    }

    /// What of the host may keep the instance from the outside, in words for its owner.
    pub fn obstacles(&self) -> &[String] {
        self.uplink.as_ref().map_or(&[], Uplink::obstacles)
    }

    /// A socket that takes what the instance asks the metadata service, not blocking. Serve it on a
    /// thread of [`Standalone::vpc`], or on any other.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn metadata_listener(&self) -> Result<TcpListener, Error> {
        metadata_listener(&self.vpc, TAP)
    }
}

/// Makes a namespace forward, and gives it the addresses that all instances of a VPC know.
fn make_router(vpc: &Namespace, plan: &Plan) -> Result<(), Error> {
    vpc.run(|| sysctl::set("ipv4/ip_forward", "1"))??;
    vpc.netlink(async |netlink| {
        let lo = netlink.index("lo").await?;
        for address in [plan.router(), plan.resolver(), RESOLVER, METADATA] {
            netlink.add_address(lo, Ipv4Net::from(address)).await?;
        }
        // What no instance has must not leave by the default route, nor be claimed by proxy ARP, and
        // neither must the link-local services of the network that the host is in.
        netlink.add_unreachable_route(plan.vpc()).await?;
        netlink.add_unreachable_route(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)).await
    })
}

/// The names of a VPC with one instance.
fn zone(plan: &Plan, address: Ipv4Addr, domain: &str) -> Result<dns::Zone, Error> {
    let mut zone = dns::Zone::new(domain, &[plan.vpc()])?;
    zone.add(&host_name(address), address)?;
    Ok(zone)
}

fn lease(plan: &Plan, address: Ipv4Addr, mac: MacAddress, domain: &str, mtu: u16) -> dhcp::Lease {
    dhcp::Lease {
        resolvers: vec![plan.resolver()],
        domain: domain.to_owned(),
        ..dhcp::Lease::new(mac, address, plan.subnet(), plan.router(), host_name(address), mtu)
    }
}

async fn serve_vpc(dhcp: dhcp::Server, forwarders: Vec<Forwarder>) {
    let mut services = tokio::task::JoinSet::new();
    services.spawn(dhcp.serve());
    for forwarder in forwarders {
        services.spawn(forwarder.serve());
    }
    services.join_all().await;
}
