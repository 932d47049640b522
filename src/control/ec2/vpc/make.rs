//! What comes with a VPC, and what an account has from its beginning.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc.html>.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use types::{
    DhcpOptionsId, InternetGatewayId, NetworkAclId, RouteTableId, SecurityGroupId, SubnetId, VpcId, Zone,
};

use crate::records::{
    DhcpOptions, Direction, InternetGateway, NameServer, NetworkAcl, NetworkAclAssociation, NetworkAclEntry,
    Peer, Route, RouteTable, RouteTableAssociation, RouteTarget, SecurityGroup, SecurityGroupRule, Subnet,
    Traffic, Vpc, VpcRange,
};
use crate::state::Transaction;

/// Of the default VPC.
const DEFAULT_RANGE: Ipv4Net = range([172, 31, 0, 0], 16);
/// Of a subnet of the default VPC.
pub(super) const DEFAULT_SUBNET_PREFIX: u8 = 20;
const ANYWHERE: Ipv4Net = range([0, 0, 0, 0], 0);

/// The number of the entry by which a default network ACL allows everything.
const ALLOW_ALL: u16 = 100;

const fn range(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// Makes a VPC with its main route table, default network ACL and default security group.
pub(in crate::ec2) fn vpc(tx: &mut Transaction<'_>, cidr: Ipv4Net, is_default: bool) -> VpcId {
    let id = tx.new_id();
    let ranges = vec![VpcRange { id: tx.new_id(), cidr }];
    let dhcp_options = Some(provided_dhcp_options(tx));
    tx.put(Vpc { id, ranges, is_default, dhcp_options, dns_support: true, dns_hostnames: is_default });
    let association = RouteTableAssociation { id: tx.new_id(), subnet: None };
    let table: RouteTableId = tx.new_id();
    tx.put(RouteTable { id: table, vpc: id, routes: Vec::new(), associations: vec![association] });
    let acl: NetworkAclId = tx.new_id();
    let entries = [Direction::Ingress, Direction::Egress].map(|direction| NetworkAclEntry {
        direction,
        number: ALLOW_ALL,
        allows: true,
        traffic: Traffic::All,
        range: ANYWHERE,
    });
    tx.put(NetworkAcl {
        id: acl,
        vpc: id,
        is_default: true,
        entries: entries.into(),
        associations: Vec::new(),
    });
    let group: SecurityGroupId = tx.new_id();
    let rules = vec![rule(tx, Direction::Ingress, Peer::Group(group)), allow_all_out(tx)];
    tx.put(SecurityGroup {
        id: group,
        vpc: id,
        name: SecurityGroup::DEFAULT_NAME.to_owned(),
        description: "default VPC security group".to_owned(),
        rules,
    });
    id
}

/// What every new security group allows.
pub(in crate::ec2) fn allow_all_out(tx: &mut Transaction<'_>) -> SecurityGroupRule {
    rule(tx, Direction::Egress, Peer::Range(ANYWHERE))
}

fn rule(tx: &mut Transaction<'_>, direction: Direction, peer: Peer) -> SecurityGroupRule {
    let id = tx.new_id();
    SecurityGroupRule { id, direction, traffic: Traffic::All, peer, description: None }
}

/// Makes a subnet, under the VPC's default network ACL.
pub(in crate::ec2) fn subnet(
    tx: &mut Transaction<'_>,
    vpc: VpcId,
    zone: Zone,
    cidr: Ipv4Net,
    is_default: bool,
) -> SubnetId {
    let id = tx.new_id();
    tx.put(Subnet {
        id,
        vpc,
        zone,
        cidr,
        is_default_for_zone: is_default,
        maps_public_addresses: is_default,
    });
    let association = NetworkAclAssociation { id: tx.new_id(), subnet: id };
    let default = tx.tables().network_acls.linked_to(vpc).find(|acl| acl.is_default).map(|acl| acl.id);
    if let Some(default) = default {
        tx.update::<NetworkAcl>(default, |acl| acl.associations.push(association));
    }
    id
}

/// Makes a VPC that instances can be launched into by who never heard of VPCs: with a subnet in each zone and a way to the Internet.
pub(in crate::ec2) fn default_vpc(tx: &mut Transaction<'_>) -> VpcId {
    let vpc = vpc(tx, DEFAULT_RANGE, true);
    let gateway: InternetGatewayId = tx.new_id();
    tx.put(InternetGateway { id: gateway, vpc: Some(vpc) });
    let main = tx.tables().route_tables.linked_to(vpc).find(|table| table.is_main()).map(|table| table.id);
    if let Some(main) = main {
        let to_internet = Route { destination: ANYWHERE, target: RouteTarget::InternetGateway(gateway) };
        tx.update::<RouteTable>(main, |table| table.routes.push(to_internet));
    }
    let ranges = DEFAULT_RANGE.subnets(DEFAULT_SUBNET_PREFIX).into_iter().flatten();
    for (zone, cidr) in tx.space().region.zones().into_iter().zip(ranges) {
        subnet(tx, vpc, zone, cidr, true);
    }
    vpc
}

/// The options that every VPC has at first: one set for all, made with the first.
fn provided_dhcp_options(tx: &mut Transaction<'_>) -> DhcpOptionsId {
    let region = tx.space().region;
    // Source: https://docs.aws.amazon.com/vpc/latest/userguide/DHCPOptionSetConcepts.html
    let domain_name = if region.name() == "us-east-1" {
        "ec2.internal".to_owned()
    } else {
        format!("{region}.compute.internal")
    };
    let is_it = |options: &DhcpOptions| {
        options.domain_name.as_ref() == Some(&domain_name)
            && options.domain_name_servers == [NameServer::Provided]
    };
    if let Some(options) = tx.tables().dhcp_options.iter().find(|options| is_it(options)) {
        return options.id;
    }
    let id = tx.new_id();
    tx.put(DhcpOptions {
        id,
        domain_name: Some(domain_name),
        domain_name_servers: vec![NameServer::Provided],
        ntp_servers: Vec::new(),
        netbios_name_servers: Vec::new(),
        netbios_node_type: None,
    });
    id
}
