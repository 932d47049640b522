//! Which addresses a VPC uses, and what it may be called.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::Error;

/// Where an instance asks for what is known about it.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where an instance can resolve names whatever its VPC; the other place is [`Plan::resolver`].
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

const VPC_PREFIX: u8 = 16;
const SUBNET_PREFIX: u8 = 20;
/// Addresses at the start of a subnet that are not given out: the network, the router, the resolver,
/// and one kept for later (AWS, "Subnet CIDR blocks").
const RESERVED: u32 = 4;
/// Routes shorter than this are a way out and not a network: the default route, or the two halves by
/// which a VPN replaces it.
pub(crate) const NETWORK_PREFIX_MIN: u8 = 8;

/// The addresses of a VPC with one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    vpc: Ipv4Net,
    subnet: Ipv4Net,
}

impl Plan {
    /// The first plan whose range no network in `routed` touches, so that an instance can still reach
    /// what the host can: 10.0.0.0/16, then 172.31.0.0/16, then the other sixteens of 10/8 and 172.16/12.
    ///
    /// # Errors
    /// When `routed` covers all of them.
    pub fn choose(routed: &[Ipv4Net]) -> Result<Self, Error> {
        let is_free = |range: &Ipv4Net| {
            let networks = routed.iter().filter(|network| network.prefix_len() >= NETWORK_PREFIX_MIN);
            !networks.into_iter().any(|network| overlap(network, range))
        };
        let range = candidates().find(is_free).ok_or_else(|| Error::NoFreeRange {
            tried: "every /16 of 10.0.0.0/8 and 172.16.0.0/12".to_owned(),
        })?;
        Ok(Self { vpc: range, subnet: narrowed(range, SUBNET_PREFIX) })
    }

    /// Of a subnet of a VPC. `vpc` is the range that it was made with, which names are resolved in.
    pub const fn of(vpc: Ipv4Net, subnet: Ipv4Net) -> Self {
        Self { vpc, subnet }
    }

    pub fn vpc(&self) -> Ipv4Net {
        self.vpc
    }

    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The subnet's router, which also answers DHCP.
    pub fn router(&self) -> Ipv4Addr {
        offset(self.subnet, 1)
    }

    /// Where names are resolved: the VPC's second address.
    pub fn resolver(&self) -> Ipv4Addr {
        offset(self.vpc, 2)
    }

    /// The first address that an instance can have.
    pub fn first_address(&self) -> Ipv4Addr {
        offset(self.subnet, RESERVED)
    }
}

/// The name of the host with this address, as AWS gives it: `ip-10-0-0-4`.
pub fn host_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}")
}

fn candidates() -> impl Iterator<Item = Ipv4Net> {
    let ten = |second| (10, second);
    let private_b = |second| (172, second);
    let preferred = [ten(0), private_b(31)].into_iter();
    let others = (1..=255).map(ten).chain((16..=30).map(private_b));
    preferred.chain(others).map(|(a, b)| narrowed(Ipv4Net::from(Ipv4Addr::new(a, b, 0, 0)), VPC_PREFIX))
}

/// The range of `prefix` bits that begins where `range` does.
fn narrowed(range: Ipv4Net, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(range.network(), prefix)
}

fn offset(range: Ipv4Net, count: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).wrapping_add(count))
}

pub(crate) fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_addresses_stand_where_aws_has_them() {
        let plan = Plan::choose(&[]).unwrap();
        assert_eq!(plan.vpc().to_string(), "10.0.0.0/16");
        assert_eq!(plan.subnet().to_string(), "10.0.0.0/20");
        assert_eq!(plan.router(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(plan.resolver(), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(plan.first_address(), Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(host_name(plan.first_address()), "ip-10-0-0-4");
    }

    #[test]
    fn a_range_that_the_host_uses_is_passed_over() {
        for (routed, chosen) in [
            (nets(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "192.168.1.0/24"]), "10.0.0.0/16"),
            (nets(&["10.0.3.7/32"]), "172.31.0.0/16"),
            (nets(&["10.0.0.0/8"]), "172.31.0.0/16"),
            (nets(&["10.0.0.0/8", "172.31.0.0/20"]), "172.16.0.0/16"),
            (nets(&["10.0.0.0/16", "172.31.0.0/16", "10.1.0.0/17"]), "10.2.0.0/16"),
        ] {
            assert_eq!(Plan::choose(&routed).unwrap().vpc().to_string(), chosen, "{routed:?}");
        }
    }

    #[test]
    fn a_host_that_uses_everything_is_told_what_was_tried() {
        let error = Plan::choose(&nets(&["10.0.0.0/8", "172.16.0.0/12"])).unwrap_err();
        assert!(error.to_string().contains("172.16.0.0/12"), "{error}");
    }
}
