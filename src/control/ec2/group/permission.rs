//! What a rule permits: as clients write it, and as they are shown it.

use std::fmt;

use aws::{Error, ec2};
use ipnet::{Ipv4Net, Ipv6Net};
use types::{AccountId, SecurityGroupId, VpcId, VpcPeeringConnectionId};

use super::named;
use super::security::{CHARS_MAX, is_plain};
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::ec2::vpc::peering_status;
use crate::records::{
    Peer, PeeringState, PortRange, SecurityGroup, SecurityGroupRule, Traffic, VpcPeeringConnection,
};
use crate::state::{Space, View};

/// ICMP of IPv6. Source: <https://www.iana.org/assignments/protocol-numbers>.
const ICMPV6: u8 = 58;

/// What a rule says, without its id and its direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permission {
    pub traffic: Traffic,
    pub peer: Peer,
    pub description: Option<String>,
}

impl Permission {
    /// Whether a rule permits the same: it may be described otherwise.
    pub(super) fn is_of(&self, rule: &SecurityGroupRule) -> bool {
        rule.traffic == self.traffic && rule.peer == self.peer
    }
}

impl From<&SecurityGroupRule> for Permission {
    fn from(rule: &SecurityGroupRule) -> Self {
        Self { traffic: rule.traffic, peer: rule.peer, description: rule.description.clone() }
    }
}

/// As EC2 speaks of rules in its messages.
impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Peer::Range(range) => write!(f, "peer: {range}, ")?,
            Peer::Range6(range) => write!(f, "peer: {range}, ")?,
            Peer::Group(group) => write!(f, "peer: {group}, ")?,
        }
        let (protocol, first, last) = words(self.traffic);
        match (protocol.as_str(), first, last) {
            ("-1", ..) => f.write_str("ALL, ALLOW"),
            (protocol, Some(first), Some(last)) => {
                write!(f, "{}, from port: {first}, to port: {last}, ALLOW", protocol.to_uppercase())
            }
            (protocol, ..) => write!(f, "{protocol}, ALLOW"),
        }
    }
}

/// Permissions that a request for a group of `vpc` speaks of, one for each peer. Groups that `rules` name are known, whatever has become of them.
///
/// # Errors
/// When one is none, has no peer, or names a group that there is not, or when one is told twice.
pub(super) fn read(
    view: View<'_>,
    vpc: VpcId,
    permissions: &[ec2::IpPermission],
    rules: &[SecurityGroupRule],
) -> Result<Vec<Permission>, Error> {
    let mut read: Vec<Permission> = Vec::new();
    for permission in permissions {
        let traffic = traffic(permission.ip_protocol.as_deref(), permission.from_port, permission.to_port)?;
        let peers = peers(view, vpc, permission, rules)?;
        if peers.is_empty() {
            return Err(missing("IpRanges, Ipv6Ranges, PrefixListIds or UserIdGroupPairs"));
        }
        for (peer, description) in peers {
            let permission = Permission { traffic, peer, description: described(description)? };
            if read.iter().any(|other| other.traffic == traffic && other.peer == peer) {
                let message = "The same permission must not appear multiple times";
                return Err(Error::new("InvalidParameterValue", message));
            }
            read.push(permission);
        }
    }
    Ok(read)
}

/// A rule's description as a client wrote it; an empty one is none.
pub(super) fn described(text: Option<&str>) -> Result<Option<String>, Error> {
    let text = text.filter(|text| !text.is_empty());
    if text.is_some_and(|text| !is_plain(text)) {
        let message = format!(
            "Invalid rule description. Valid descriptions are strings less than {} characters from the following set:  \
             a-zA-Z0-9. _-:/()#,@[]+=&;{{}}!$*",
            CHARS_MAX + 1
        );
        return Err(Error::new("InvalidParameterValue", message));
    }
    Ok(text.map(str::to_owned))
}

type Described<'a> = (Peer, Option<&'a str>);

fn peers<'a>(
    view: View<'_>,
    vpc: VpcId,
    permission: &'a ec2::IpPermission,
    rules: &[SecurityGroupRule],
) -> Result<Vec<Described<'a>>, Error> {
    let mut peers = Vec::new();
    for range in permission.ip_ranges.iter().flatten() {
        let text = range.cidr_ip.as_deref().ok_or_else(|| missing("CidrIp"))?;
        peers.push((range4(text)?, range.description.as_deref()));
    }
    for range in permission.ipv6_ranges.iter().flatten() {
        let text = range.cidr_ipv6.as_deref().ok_or_else(|| missing("CidrIpv6"))?;
        peers.push((range6(text)?, range.description.as_deref()));
    }
    for pair in permission.user_id_group_pairs.iter().flatten() {
        let is_known = |group: &SecurityGroupId| rules.iter().any(|rule| rule.peer == Peer::Group(*group));
        let known = pair.group_id.as_deref().and_then(|text| text.parse().ok()).filter(is_known);
        let group = known.map_or_else(|| group(view, vpc, pair), Ok)?;
        peers.push((Peer::Group(group), pair.description.as_deref()));
    }
    match permission.prefix_list_ids.iter().flatten().next() {
        Some(list) => Err(no_prefix_list(list.prefix_list_id.as_deref().unwrap_or_default())),
        None => Ok(peers),
    }
}

/// What is beyond the prefix is cut off, as EC2 does it.
pub(super) fn range4(text: &str) -> Result<Peer, Error> {
    let range: Option<Ipv4Net> = text.parse().ok();
    range.map(|range| Peer::Range(range.trunc())).ok_or_else(|| malformed(text))
}

/// As [`range4`].
pub(super) fn range6(text: &str) -> Result<Peer, Error> {
    let range: Option<Ipv6Net> = text.parse().ok();
    range.map(|range| Peer::Range6(range.trunc())).ok_or_else(|| malformed(text))
}

fn malformed(text: &str) -> Error {
    Error::new("InvalidParameterValue", format!("CIDR block {text} is malformed"))
}

/// There are no prefix lists here.
pub(super) fn no_prefix_list(list: &str) -> Error {
    Error::new("InvalidPrefixListID.NotFound", format!("The prefix list ID '{list}' does not exist"))
}

fn group(view: View<'_>, vpc: VpcId, pair: &ec2::UserIdGroupPair) -> Result<SecurityGroupId, Error> {
    let own = view.space.account.to_string();
    let group = match pair.user_id.as_deref().filter(|user| *user != own) {
        Some(user) => of_account(view, user, pair.group_id.as_deref())?,
        None => {
            let name = pair.group_name.as_deref().filter(|_| pair.group_id.is_none());
            named(view, pair.group_id.as_deref(), name)?
        }
    };
    let peering = match reached(view, vpc, group) {
        Ok(peering) => peering,
        // Nobody is told that somebody else has it.
        Err(_) if view.get::<SecurityGroup>(group.id).is_none() => return Err(not_found(group.id)),
        Err(error) => return Err(error),
    };
    let is_so = |said: Option<&str>, found: Option<String>| said.is_none() || said == found.as_deref();
    if !is_so(pair.vpc_id.as_deref(), Some(group.vpc.to_string()))
        || !is_so(pair.vpc_peering_connection_id.as_deref(), peering.map(|id| id.to_string()))
    {
        let message = format!("The security group '{}' is not reached as the request says.", group.id);
        return Err(Error::new("InvalidGroup.NotFound", message));
    }
    Ok(group.id)
}

/// The group of another account in this region. Who asks must have a connection to its VPC: see [`reached`].
fn of_account<'a>(view: View<'a>, user: &str, group: Option<&str>) -> Result<&'a SecurityGroup, Error> {
    let account: AccountId =
        user.parse().map_err(|_| invalid_value(user, "userId", "An account has twelve digits."))?;
    let group: SecurityGroupId = id(group.ok_or_else(|| missing("GroupId"))?)?;
    let tables = view.state.space(Space { account, ..view.space });
    let found = tables.and_then(|tables| tables.security_groups.get(group));
    found.map(AsRef::as_ref).ok_or_else(|| not_found(group))
}

/// A group that a rule names, and whose it is: perhaps another account's.
pub(super) fn find(view: View<'_>, group: SecurityGroupId) -> Option<(AccountId, &SecurityGroup)> {
    let own = view.get::<SecurityGroup>(group).map(|group| (view.space.account, group));
    own.or_else(|| {
        let others = view.state.spaces().filter(|(space, _)| space.region == view.space.region);
        let mut found =
            others.filter_map(|(space, tables)| Some((space.account, tables.security_groups.get(group)?)));
        found.next().map(|(account, group)| (account, group.as_ref()))
    })
}

/// The connection by which a VPC reaches a group; none if it is its own.
///
/// # Errors
/// When there is none, and the group is another VPC's.
pub(super) fn reached(
    view: View<'_>,
    vpc: VpcId,
    group: &SecurityGroup,
) -> Result<Option<VpcPeeringConnectionId>, Error> {
    if group.vpc == vpc {
        return Ok(None);
    }
    let connection = connection(view, vpc, group.vpc);
    let active = connection.filter(|connection| connection.state == PeeringState::Active);
    let id = active.map(|connection| connection.id).ok_or_else(|| {
        let message = format!(
            "You have specified two resources that belong to different networks: '{vpc}' and '{}'.",
            group.id
        );
        Error::new("InvalidGroup.NotFound", message)
    })?;
    Ok(Some(id))
}

/// The connection of two VPCs: the active one, or the last that there was.
fn connection(view: View<'_>, vpc: VpcId, other: VpcId) -> Option<&VpcPeeringConnection> {
    let connections = view.tables().peering_connections.linked_to(vpc).map(AsRef::as_ref);
    let is_of_both = |connection: &&VpcPeeringConnection| {
        connection.seen_from(vpc).is_some_and(|(_, peer)| peer.vpc == other)
    };
    let rank =
        |connection: &&VpcPeeringConnection| (connection.state == PeeringState::Active, connection.created);
    connections.filter(is_of_both).max_by_key(rank)
}

/// The connection by which a rule of a group of `vpc` is meant to reach another VPC, and its status.
pub(super) fn way(view: View<'_>, vpc: VpcId, other: VpcId) -> Option<(String, String)> {
    let connection = connection(view, vpc, other)?;
    Some((connection.id.to_string(), peering_status(&connection.state_at(view.now)).to_string()))
}

/// Whether a rule of a group of `vpc` names a group that it does not reach any more.
pub(super) fn is_stale(view: View<'_>, vpc: VpcId, group: SecurityGroupId) -> bool {
    find(view, group).is_none_or(|(_, group)| reached(view, vpc, group).is_err())
}

/// The group that a rule of a group of `vpc` is to name.
pub(super) fn referenced(view: View<'_>, vpc: VpcId, text: &str) -> Result<Peer, Error> {
    let wanted: SecurityGroupId = id(text)?;
    let (account, group) = find(view, wanted).ok_or_else(|| not_found(wanted))?;
    match reached(view, vpc, group) {
        Ok(_) => Ok(Peer::Group(group.id)),
        // Nobody is told that somebody else has it.
        Err(_) if account != view.space.account => Err(not_found(wanted)),
        Err(error) => Err(error),
    }
}

/// Packets, as a protocol and two numbers say which.
///
/// # Errors
/// When there is no such protocol, or the numbers are none of it.
pub(super) fn traffic(
    protocol: Option<&str>,
    first: Option<i32>,
    last: Option<i32>,
) -> Result<Traffic, Error> {
    let protocol = protocol.ok_or_else(|| missing("IpProtocol"))?;
    match protocol.to_ascii_lowercase().as_str() {
        "-1" | "all" => Ok(Traffic::All),
        "tcp" | "6" => Ok(Traffic::Tcp { ports: ports(first, last)? }),
        "udp" | "17" => Ok(Traffic::Udp { ports: ports(first, last)? }),
        "icmp" | "1" => icmp(first, last),
        "icmpv6" | "58" => match (first.unwrap_or(-1), last.unwrap_or(-1)) {
            (-1, -1) => Ok(Traffic::Protocol(ICMPV6)),
            _ => Err(Error::new(
                "UnsupportedOperation",
                "nimbo has no IPv6: rules for icmpv6 are for all types, with FromPort and ToPort -1.",
            )),
        },
        other => other.parse().map(Traffic::Protocol).map_err(|_| {
            let message = format!("Invalid value '{protocol}' for IP protocol. Unknown protocol.");
            Error::new("InvalidParameterValue", message)
        }),
    }
}

fn ports(first: Option<i32>, last: Option<i32>) -> Result<PortRange, Error> {
    let (Some(first), Some(last)) = (first, last) else {
        let message = "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.";
        return Err(Error::new("InvalidParameterValue", message));
    };
    let port =
        |port: i32, name| u16::try_from(port).map_err(|_| invalid_value(port, name, "Ports are 0 to 65535."));
    let range = PortRange { first: port(first, "FromPort")?, last: port(last, "ToPort")? };
    if range.first > range.last {
        return Err(invalid_value(last, "ToPort", format!("It is less than FromPort, {first}.")));
    }
    Ok(range)
}

/// Types and codes in the place of ports; -1 is all of them.
fn icmp(icmp_type: Option<i32>, code: Option<i32>) -> Result<Traffic, Error> {
    let part = |value: Option<i32>, name| match value.unwrap_or(-1) {
        -1 => Ok(None),
        value => u8::try_from(value)
            .map(Some)
            .map_err(|_| invalid_value(value, name, "ICMP types and codes are 0 to 255, or -1 for all.")),
    };
    match (part(icmp_type, "FromPort")?, part(code, "ToPort")?) {
        (None, Some(code)) => {
            Err(invalid_value(code, "ToPort", "All ICMP types, -1, have all codes: it must be -1 too."))
        }
        (icmp_type, code) => Ok(Traffic::Icmp { icmp_type, code }),
    }
}

/// The protocol and the two numbers of packets. Numbers are none where all are meant.
pub(super) fn words(traffic: Traffic) -> (String, Option<i32>, Option<i32>) {
    let ports = |ports: PortRange| (Some(ports.first.into()), Some(ports.last.into()));
    let (protocol, (first, last)) = match traffic {
        Traffic::All => ("-1".to_owned(), (None, None)),
        Traffic::Tcp { ports: range } => ("tcp".to_owned(), ports(range)),
        Traffic::Udp { ports: range } => ("udp".to_owned(), ports(range)),
        Traffic::Icmp { icmp_type, code } => {
            let part = |part: Option<u8>| Some(part.map_or(-1, i32::from));
            ("icmp".to_owned(), (part(icmp_type), part(code)))
        }
        Traffic::Protocol(ICMPV6) => ("icmpv6".to_owned(), (Some(-1), Some(-1))),
        Traffic::Protocol(number) => (number.to_string(), (None, None)),
    };
    (protocol, first, last)
}

/// Permissions as EC2 shows them: those for the same traffic are one with several peers.
pub(super) fn grouped(
    view: View<'_>,
    vpc: VpcId,
    permissions: impl IntoIterator<Item = Permission>,
) -> Vec<ec2::IpPermission> {
    let mut shown: Vec<(Traffic, ec2::IpPermission)> = Vec::new();
    for permission in permissions {
        let place =
            shown.iter().position(|(traffic, _)| *traffic == permission.traffic).unwrap_or_else(|| {
                shown.push((permission.traffic, without_peers(permission.traffic)));
                shown.len() - 1
            });
        add_peer(view, vpc, &mut shown[place].1, permission);
    }
    shown.into_iter().map(|(_, permission)| permission).collect()
}

/// Whose a group is that a rule of a group of `vpc` names, and the group itself if it is another VPC's.
pub(super) fn beyond(
    view: View<'_>,
    vpc: VpcId,
    group: SecurityGroupId,
) -> (AccountId, Option<&SecurityGroup>) {
    let (owner, group) = find(view, group).unzip();
    (owner.unwrap_or(view.space.account), group.filter(|group| group.vpc != vpc))
}

fn without_peers(traffic: Traffic) -> ec2::IpPermission {
    let (protocol, from_port, to_port) = words(traffic);
    ec2::IpPermission {
        ip_protocol: Some(protocol),
        from_port,
        to_port,
        user_id_group_pairs: Some(Vec::new()),
        ip_ranges: Some(Vec::new()),
        ipv6_ranges: Some(Vec::new()),
        prefix_list_ids: Some(Vec::new()),
    }
}

fn add_peer(view: View<'_>, vpc: VpcId, shown: &mut ec2::IpPermission, permission: Permission) {
    let description = permission.description;
    match permission.peer {
        Peer::Range(range) => {
            let range = ec2::IpRange { description, cidr_ip: Some(range.to_string()) };
            shown.ip_ranges.get_or_insert_default().push(range);
        }
        Peer::Range6(range) => {
            let range = ec2::Ipv6Range { description, cidr_ipv6: Some(range.to_string()) };
            shown.ipv6_ranges.get_or_insert_default().push(range);
        }
        Peer::Group(group) => {
            let (owner, other) = beyond(view, vpc, group);
            let (peering, status) = other.and_then(|group| way(view, vpc, group.vpc)).unzip();
            let pair = ec2::UserIdGroupPair {
                description,
                user_id: Some(owner.to_string()),
                group_id: Some(group.to_string()),
                vpc_id: other.map(|group| group.vpc.to_string()),
                vpc_peering_connection_id: peering,
                peering_status: status,
                ..Default::default()
            };
            shown.user_id_group_pairs.get_or_insert_default().push(pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_traffic() -> impl Strategy<Value = Traffic> {
        let ports =
            (any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) });
        let icmp = (any::<Option<u8>>(), any::<Option<u8>>())
            .prop_map(|(icmp_type, code)| Traffic::Icmp { icmp_type, code: icmp_type.and(code) });
        prop_oneof![
            Just(Traffic::All),
            ports.clone().prop_map(|ports| Traffic::Tcp { ports }),
            ports.prop_map(|ports| Traffic::Udp { ports }),
            icmp,
            any::<u8>()
                .prop_filter("these have names", |number| ![1, 6, 17].contains(number))
                .prop_map(Traffic::Protocol),
        ]
    }

    proptest! {
        #[test]
        fn what_is_shown_of_packets_can_be_asked_for(wanted in any_traffic()) {
            let (protocol, first, last) = words(wanted);
            prop_assert_eq!(traffic(Some(&protocol), first, last), Ok(wanted));
        }

        #[test]
        fn any_protocol_and_numbers_are_read_without_a_panic(
            protocol in "-?[0-9]{0,4}|tcp|udp|icmp|icmpv6|all|\\PC*",
            first: Option<i32>,
            last: Option<i32>,
        ) {
            let _ = traffic(Some(&protocol), first, last);
        }
    }

    #[test]
    fn protocols_are_known_by_name_and_number() {
        let ports = PortRange { first: 53, last: 53 };
        for (protocol, wanted) in [
            ("6", Traffic::Tcp { ports }),
            ("UDP", Traffic::Udp { ports }),
            ("all", Traffic::All),
            ("50", Traffic::Protocol(50)),
        ] {
            assert_eq!(traffic(Some(protocol), Some(53), Some(53)), Ok(wanted), "{protocol}");
        }
    }

    #[test]
    fn what_is_no_traffic_is_refused_with_the_value() {
        for (protocol, first, last, told) in [
            ("tcp", Some(-1), Some(22), "-1"),
            ("tcp", Some(80), Some(65536), "65536"),
            ("udp", Some(80), Some(79), "79"),
            ("tcp", None, Some(79), "both"),
            ("icmp", Some(-1), Some(3), "3"),
            ("icmp", Some(256), Some(3), "256"),
            ("256", None, None, "256"),
            ("ftp", None, None, "ftp"),
        ] {
            let error = traffic(Some(protocol), first, last).unwrap_err();
            assert_eq!(error.code, "InvalidParameterValue");
            assert!(error.message.contains(told), "{error}");
        }
    }
}
