//! Entries of network ACLs.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/userguide/nacl-rules.html>.

use std::sync::Arc;

use aws::filters::Values;
use aws::service::Empty;
use aws::{Error, Table, ec2};
use ipnet::Ipv4Net;
use types::NetworkAclId;

use super::range;
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::plane::{Plane, Serve as _};
use crate::records::{Direction, NetworkAcl, NetworkAclEntry, PortRange, Traffic};
use crate::state::Transaction;

const NUMBERS: std::ops::RangeInclusive<i32> = 1..=32766;
/// Of the entry that denies what no other matches. It is shown and not kept.
const LAST: i32 = 32767;
/// In one direction. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const ENTRIES_MAX: usize = 20;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateNetworkAclEntry>(create)
        .changes::<ec2::DeleteNetworkAclEntry>(delete)
        .changes::<ec2::ReplaceNetworkAclEntry>(replace)
}

fn create(tx: &mut Transaction<'_>, input: ec2::CreateNetworkAclEntryRequest) -> Result<Empty, Error> {
    let traffic = traffic(&input.protocol, input.port_range.as_ref(), input.icmp_type_code.as_ref())?;
    let entry =
        entry(input.egress, input.rule_number, input.rule_action, traffic, input.cidr_block.as_deref())?;
    let acl = find(tx, &input.network_acl_id)?;
    let Err(place) = acl.place(entry.direction, entry.number) else {
        let message = format!("The network acl entry identified by {} already exists.", entry.number);
        return Err(Error::new("NetworkAclEntryAlreadyExists", message));
    };
    if acl.entries.iter().filter(|other| other.direction == entry.direction).count() >= ENTRIES_MAX {
        let message = format!("The network ACL '{}' has reached its limit of {ENTRIES_MAX} entries.", acl.id);
        return Err(Error::new("NetworkAclEntryLimitExceeded", message));
    }
    tx.update::<NetworkAcl>(acl.id, |acl| acl.entries.insert(place, entry));
    Ok(Empty)
}

fn replace(tx: &mut Transaction<'_>, input: ec2::ReplaceNetworkAclEntryRequest) -> Result<Empty, Error> {
    let traffic = traffic(&input.protocol, input.port_range.as_ref(), input.icmp_type_code.as_ref())?;
    let entry =
        entry(input.egress, input.rule_number, input.rule_action, traffic, input.cidr_block.as_deref())?;
    let acl = find(tx, &input.network_acl_id)?;
    let place = acl.place(entry.direction, entry.number).map_err(|_| no_entry(input.rule_number))?;
    tx.update::<NetworkAcl>(acl.id, |acl| acl.entries[place] = entry);
    Ok(Empty)
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteNetworkAclEntryRequest) -> Result<Empty, Error> {
    let number = number(input.rule_number)?;
    let acl = find(tx, &input.network_acl_id)?;
    let place = acl.place(direction(input.egress), number).map_err(|_| no_entry(input.rule_number))?;
    tx.update::<NetworkAcl>(acl.id, |acl| {
        acl.entries.remove(place);
    });
    Ok(Empty)
}

fn find(tx: &Transaction<'_>, acl: &str) -> Result<NetworkAcl, Error> {
    let acl: NetworkAclId = id(acl)?;
    tx.get::<NetworkAcl>(acl).cloned().ok_or_else(|| not_found(acl))
}

fn no_entry(number: i32) -> Error {
    let message = format!("The network acl entry identified by {number} does not exist");
    Error::new("InvalidNetworkAclEntry.NotFound", message)
}

const fn direction(is_egress: bool) -> Direction {
    if is_egress { Direction::Egress } else { Direction::Ingress }
}

fn number(number: i32) -> Result<u16, Error> {
    let valid = Some(number).filter(|number| NUMBERS.contains(number)).and_then(|it| u16::try_from(it).ok());
    valid.ok_or_else(|| invalid_value(number, "ruleNumber", "Entries have numbers from 1 to 32766."))
}

fn entry(
    is_egress: bool,
    rule_number: i32,
    action: ec2::RuleAction,
    traffic: Traffic,
    cidr: Option<&str>,
) -> Result<NetworkAclEntry, Error> {
    Ok(NetworkAclEntry {
        direction: direction(is_egress),
        number: number(rule_number)?,
        allows: action == ec2::RuleAction::Allow,
        traffic,
        range: range(cidr.ok_or_else(|| missing("cidrBlock"))?, "cidrBlock")?,
    })
}

/// The traffic that a request names. Ports matter for TCP and UDP, types and codes for ICMP: with other protocols they are often there,
/// as zeros, and mean nothing.
fn traffic(
    protocol: &str,
    ports: Option<&ec2::PortRange>,
    icmp: Option<&ec2::IcmpTypeCode>,
) -> Result<Traffic, Error> {
    let number = match protocol {
        "-1" | "all" => return Ok(Traffic::All),
        "icmp" => ICMP,
        "tcp" => TCP,
        "udp" => UDP,
        other => other.parse().map_err(|_| {
            invalid_value(other, "protocol", "It is the number of a protocol, or -1 for all of them.")
        })?,
    };
    Ok(match number {
        ICMP => {
            let icmp = icmp.ok_or_else(|| missing("icmpTypeCode"))?;
            let icmp_type = any_or_byte(icmp.r#type, "icmpTypeCode.type")?;
            Traffic::Icmp { icmp_type, code: any_or_byte(icmp.code, "icmpTypeCode.code")? }
        }
        TCP => Traffic::Tcp { ports: port_range(ports)? },
        UDP => Traffic::Udp { ports: port_range(ports)? },
        other => Traffic::Protocol(other),
    })
}

fn any_or_byte(value: Option<i32>, parameter: &str) -> Result<Option<u8>, Error> {
    match value {
        None => Err(missing(parameter)),
        Some(-1) => Ok(None),
        Some(value) => u8::try_from(value)
            .map(Some)
            .map_err(|_| invalid_value(value, parameter, "It is -1 for all, or from 0 to 255.")),
    }
}

fn port_range(ports: Option<&ec2::PortRange>) -> Result<PortRange, Error> {
    let ports = ports.ok_or_else(|| missing("portRange"))?;
    let port = |port: Option<i32>, parameter: &str| {
        let port = port.ok_or_else(|| missing(parameter))?;
        u16::try_from(port).map_err(|_| invalid_value(port, parameter, "Ports have numbers from 0 to 65535."))
    };
    let (first, last) = (port(ports.from, "portRange.from")?, port(ports.to, "portRange.to")?);
    if first > last {
        let why = "The first port is beyond the last.";
        return Err(invalid_value(format_args!("{first}-{last}"), "portRange", why));
    }
    Ok(PortRange { first, last })
}

/// All entries of an ACL: those of each direction by number, and then the one that denies everything.
pub(super) fn shown(acl: &NetworkAcl) -> impl Iterator<Item = ec2::NetworkAclEntry> {
    [Direction::Egress, Direction::Ingress].into_iter().flat_map(|direction| {
        let entries = acl.entries.iter().filter(move |entry| entry.direction == direction);
        entries.map(shown_entry).chain([last(direction)])
    })
}

fn last(direction: Direction) -> ec2::NetworkAclEntry {
    ec2::NetworkAclEntry {
        cidr_block: Some(Ipv4Net::default().to_string()),
        egress: Some(direction == Direction::Egress),
        protocol: Some("-1".to_owned()),
        rule_action: Some(ec2::RuleAction::Deny),
        rule_number: Some(LAST),
        ..Default::default()
    }
}

fn shown_entry(entry: &NetworkAclEntry) -> ec2::NetworkAclEntry {
    let (protocol, ports, icmp) = match entry.traffic {
        Traffic::All => ("-1".to_owned(), None, None),
        Traffic::Tcp { ports } => (TCP.to_string(), Some(ports), None),
        Traffic::Udp { ports } => (UDP.to_string(), Some(ports), None),
        Traffic::Icmp { icmp_type, code } => (ICMP.to_string(), None, Some((icmp_type, code))),
        Traffic::Protocol(number) => (number.to_string(), None, None),
    };
    let any_or = |value: Option<u8>| Some(value.map_or(-1, i32::from));
    ec2::NetworkAclEntry {
        cidr_block: Some(entry.range.to_string()),
        egress: Some(entry.direction == Direction::Egress),
        icmp_type_code: icmp
            .map(|(icmp_type, code)| ec2::IcmpTypeCode { code: any_or(code), r#type: any_or(icmp_type) }),
        port_range: ports.map(|ports| ec2::PortRange {
            from: Some(i32::from(ports.first)),
            to: Some(i32::from(ports.last)),
        }),
        protocol: Some(protocol),
        rule_action: Some(if entry.allows { ec2::RuleAction::Allow } else { ec2::RuleAction::Deny }),
        rule_number: Some(i32::from(entry.number)),
        ..Default::default()
    }
}

/// What the entries of an ACL have for the filter `entry.FIELD`.
pub(super) fn filter_values(acl: &NetworkAcl, field: &str, values: &mut Values<'_>) {
    for entry in shown(acl) {
        let icmp = entry.icmp_type_code.as_ref();
        let ports = entry.port_range.as_ref();
        let number = match field {
            "icmp.code" => icmp.and_then(|icmp| icmp.code),
            "icmp.type" => icmp.and_then(|icmp| icmp.r#type),
            "port-range.from" => ports.and_then(|ports| ports.from),
            "port-range.to" => ports.and_then(|ports| ports.to),
            "rule-number" => entry.rule_number,
            _ => None,
        };
        number.iter().for_each(|number| values.shown(number));
        match field {
            "cidr" => entry.cidr_block.iter().for_each(|range| values.text(range)),
            "egress" => values.flag(entry.egress == Some(true)),
            "protocol" => entry.protocol.iter().for_each(|protocol| {
                values.text(protocol);
                match protocol.as_str() {
                    "1" => values.text("icmp"),
                    "6" => values.text("tcp"),
                    "17" => values.text("udp"),
                    _ => {}
                }
            }),
            "rule-action" => entry.rule_action.iter().for_each(|action| values.text(action.as_str())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(from: Option<i32>, to: Option<i32>) -> ec2::PortRange {
        ec2::PortRange { from, to }
    }

    #[test]
    fn traffic_is_named_by_number_or_name() {
        let web = ports(Some(80), Some(443));
        let tcp = Traffic::Tcp { ports: PortRange { first: 80, last: 443 } };
        for (protocol, expected) in
            [("6", tcp), ("tcp", tcp), ("-1", Traffic::All), ("47", Traffic::Protocol(47))]
        {
            assert_eq!(traffic(protocol, Some(&web), None), Ok(expected), "{protocol}");
        }
        let ping = ec2::IcmpTypeCode { r#type: Some(8), code: Some(-1) };
        let expected = Traffic::Icmp { icmp_type: Some(8), code: None };
        assert_eq!(traffic("icmp", Some(&ports(Some(0), Some(0))), Some(&ping)), Ok(expected));
    }

    #[test]
    fn what_names_no_traffic_is_refused() {
        for (protocol, ports, code) in [
            ("256", None, "InvalidParameterValue"),
            ("sctp", None, "InvalidParameterValue"),
            ("6", None, "MissingParameter"),
            ("1", None, "MissingParameter"),
            ("17", Some(ports(Some(80), None)), "MissingParameter"),
            ("17", Some(ports(Some(80), Some(79))), "InvalidParameterValue"),
            ("17", Some(ports(Some(-1), Some(79))), "InvalidParameterValue"),
        ] {
            assert_eq!(traffic(protocol, ports.as_ref(), None).unwrap_err().code, code, "{protocol}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(protocol: u8, first: u16, last: u16, icmp: (Option<u8>, Option<u8>), egress: bool) {
            let given = match protocol {
                ICMP => Traffic::Icmp { icmp_type: icmp.0, code: icmp.1 },
                TCP | UDP if first > last => return Ok(()),
                TCP => Traffic::Tcp { ports: PortRange { first, last } },
                UDP => Traffic::Udp { ports: PortRange { first, last } },
                other => Traffic::Protocol(other),
            };
            let range = "10.0.0.0/8".parse().unwrap();
            let entry = NetworkAclEntry { direction: direction(egress), number: 7, allows: true, traffic: given, range };
            let shown = shown_entry(&entry);
            let read = traffic(&shown.protocol.unwrap(), shown.port_range.as_ref(), shown.icmp_type_code.as_ref());
            prop_assert_eq!(read, Ok(given));
        }
    }
}
