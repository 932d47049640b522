//! The names by which instances are found at their addresses.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/userguide/vpc-dns.html>.

use std::net::Ipv4Addr;

use types::{Region, VpcId};

use super::elastic;
use crate::records::{NetworkInterface, Vpc};
use crate::state::View;

/// Where EC2 began: its names are shorter.
const FIRST_REGION: &str = "us-east-1";

/// `ip-10-0-0-5.ec2.internal`.
pub(in crate::ec2) fn private(region: Region, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{}", domain(region))
}

/// `ec2.internal`.
pub(in crate::ec2) fn domain(region: Region) -> String {
    match region.name() {
        FIRST_REGION => "ec2.internal".to_owned(),
        region => format!("{region}.compute.internal"),
    }
}

/// `ec2-198-18-0-5.compute-1.amazonaws.com`, in a VPC that gives such names.
pub(in crate::ec2) fn public(view: View<'_>, vpc: VpcId, address: Ipv4Addr) -> Option<String> {
    view.get::<Vpc>(vpc).filter(|vpc| vpc.dns_support && vpc.dns_hostnames)?;
    let [a, b, c, d] = address.octets();
    Some(match view.space.region.name() {
        FIRST_REGION => format!("ec2-{a}-{b}-{c}-{d}.compute-1.amazonaws.com"),
        region => format!("ec2-{a}-{b}-{c}-{d}.{region}.compute.amazonaws.com"),
    })
}

/// The public names of an interface, each with the public address that it is made of.
pub(crate) fn all_public(
    view: View<'_>,
    interface: &NetworkInterface,
) -> impl Iterator<Item = (String, Ipv4Addr)> {
    interface.addresses.iter().filter_map(move |address| {
        let elastic = elastic(view, interface.id, address.ip).map(|(elastic, _)| elastic.public_ip);
        let public = elastic.or(address.public_ip)?;
        Some((self::public(view, interface.vpc, public)?, public))
    })
}
