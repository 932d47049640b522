//! A NAT gateway: a namespace behind an interface of a VPC, which sends on what it is sent as its own.
//!
//! ```text
//! VPC                                             gateway
//! 10.0.2.0/24: 0.0.0.0/0 ─▶ tap… ═══ vpc 10.0.1.9   10.0.2.4 ─▶ 10.0.1.9 ─▶ back to the VPC
//! 10.0.1.0/24: 0.0.0.0/0 ─▶ igw…                    ◀─ what answers
//! ```
//!
//! To the VPC it is a guest that routes for others: an interface in a subnet, by whose routes what it sends goes on. It needs no rules there
//! but those of the subnets' ACLs.
//!
//! It deliberately does not: let anything in that nobody behind it asked for.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use types::MacAddress;

use crate::error::Error;
use crate::fabric::MTU;
use crate::namespace::Namespace;
use crate::netlink::tables::{TABLE_MAIN, Way};
use crate::{nft, sysctl};

/// The gateway's own name for its device.
const DEVICE: &str = "vpc";
const TABLE: &str = "nat";

/// What a gateway is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatGatewaySpec {
    /// The device of its interface, in the VPC's namespace.
    pub device: String,
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    /// The router of its subnet.
    pub router: Ipv4Addr,
}

/// A gateway in place. Dropping it leaves it there as long as its file does.
#[derive(Debug)]
pub struct NatGateway {
    namespace: Namespace,
    spec: NatGatewaySpec,
    /// The kernel's count of changes to rules after ours: with another, somebody else may have changed ours.
    transactions: Option<u32>,
}

impl NatGateway {
    /// Takes up the gateway that is pinned at `pin`, or makes it, and links it to the VPC's namespace.
    ///
    /// # Errors
    /// When `nft` is missing, the caller lacks the privilege, or the kernel lacks translation.
    pub fn open(pin: &Path, vpc: &Namespace, spec: NatGatewaySpec) -> Result<Self, Error> {
        let namespace = Namespace::open_pinned(pin)?;
        let mut gateway = Self { namespace, spec, transactions: None };
        gateway.set_up(vpc)?;
        Ok(gateway)
    }

    /// What it was opened as.
    pub fn spec(&self) -> &NatGatewaySpec {
        &self.spec
    }

    /// Has it be again what it was, whatever somebody else has made of it.
    ///
    /// # Errors
    /// As those of [`Self::open`].
    pub fn repair(&mut self, pin: &Path, vpc: &Namespace) -> Result<(), Error> {
        self.namespace.pin_again(pin)?;
        self.set_up(vpc)
    }

    fn set_up(&mut self, vpc: &Namespace) -> Result<(), Error> {
        self.namespace.run(sysctl::forward_by_rules)??;
        if self.transactions != Some(nft::generation(&self.namespace)?) {
            nft::load(&self.namespace, TABLE, &ruleset(self.spec.address))?;
            self.transactions = Some(nft::generation(&self.namespace)?);
        }
        let NatGatewaySpec { device, mac, address, router } = &self.spec;
        self.namespace.netlink(async |netlink| {
            netlink.add_veth(DEVICE, device, vpc, MTU).await?;
            let link = netlink.index(DEVICE).await?;
            netlink.set_mac(link, *mac).await?;
            netlink.add_address(link, Ipv4Net::from(*address)).await?;
            netlink.set_up(link).await?;
            let way = Way::Via { link, gateway: *router, source: None };
            netlink.put_route(TABLE_MAIN, Ipv4Net::default(), way).await
        })
    }
}

/// The table as `nft` reads it, in the place of whatever there is.
fn ruleset(address: Ipv4Addr) -> String {
    format!(
        "table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat;
\t\tip saddr != {address} snat to {address}
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy drop;
\t\tct state invalid drop
\t\taccept
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy drop;
\t}}
}}
"
    )
}
