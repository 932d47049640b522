//! DHCP options.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/userguide/DHCPOptionSetConcepts.html>.

use std::net::Ipv4Addr;
use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, Table, ec2};
use types::{DhcpOptionsId, VpcId};

use crate::ec2::errors::{dependency, id, invalid_value, missing, not_found};
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{DhcpOptions, NameServer, Vpc};
use crate::state::{Transaction, View};

/// Of name servers, time servers and NetBIOS name servers each.
const SERVERS_MAX: usize = 4;
/// RFC 2132, section 8.7: what a NetBIOS node can be.
const NODE_TYPES: [u8; 4] = [1, 2, 4, 8];
const PROVIDED: &str = "AmazonProvidedDNS";

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AssociateDhcpOptions>(associate)
        .changes::<ec2::CreateDhcpOptions>(create)
        .changes::<ec2::DeleteDhcpOptions>(delete)
        .looks::<ec2::DescribeDhcpOptions>(describe)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateDhcpOptionsRequest,
) -> Result<ec2::CreateDhcpOptionsResult, Error> {
    let tags = tags::specified(&input.tag_specifications, "dhcp-options")?;
    let id: DhcpOptionsId = tx.new_id();
    tx.put(read(id, &input.dhcp_configurations)?);
    tags::add(tx, id, tags)?;
    let view = tx.view();
    let dhcp_options = view.get(id).map(|record| shown(&Row { view, record }));
    Ok(ec2::CreateDhcpOptionsResult { dhcp_options })
}

/// What a request says of each option; it says something of each at most once.
fn read(id: DhcpOptionsId, configurations: &[ec2::NewDhcpConfiguration]) -> Result<DhcpOptions, Error> {
    if configurations.is_empty() {
        return Err(missing("dhcpConfiguration"));
    }
    let mut options = DhcpOptions {
        id,
        domain_name: None,
        domain_name_servers: Vec::new(),
        ntp_servers: Vec::new(),
        netbios_name_servers: Vec::new(),
        netbios_node_type: None,
    };
    let mut known = Vec::new();
    for configuration in configurations {
        let key = configuration.key.as_deref().ok_or_else(|| missing("dhcpConfiguration.key"))?;
        if known.contains(&key) {
            return Err(invalid_value(key, "dhcpConfiguration.key", "It is there more than once."));
        }
        known.push(key);
        // Several in one text are separated by commas.
        let values = configuration.values.iter().flat_map(|value| value.split(',')).map(str::trim);
        set(&mut options, key, &values.filter(|value| !value.is_empty()).collect::<Vec<_>>())?;
    }
    Ok(options)
}

fn set(options: &mut DhcpOptions, key: &str, values: &[&str]) -> Result<(), Error> {
    match key {
        "domain-name" => options.domain_name = Some((*only(key, values)?).to_owned()),
        "domain-name-servers" => {
            options.domain_name_servers = few(key, values, |value| match value {
                PROVIDED => Some(NameServer::Provided),
                other => other.parse().ok().map(NameServer::At),
            })?;
        }
        "ntp-servers" => options.ntp_servers = few(key, values, |value| value.parse().ok())?,
        "netbios-name-servers" => {
            options.netbios_name_servers = few(key, values, |value| value.parse().ok())?;
        }
        "netbios-node-type" => {
            let value = *only(key, values)?;
            let kind = value.parse().ok().filter(|kind| NODE_TYPES.contains(kind));
            options.netbios_node_type =
                Some(kind.ok_or_else(|| invalid_value(value, key, "A node type is 1, 2, 4 or 8."))?);
        }
        "ipv6-address-preferred-lease-time" => {
            let message = "nimbo's networks have no IPv6: ipv6-address-preferred-lease-time";
            return Err(Error::new("UnsupportedOperation", message));
        }
        other => return Err(invalid_value(other, "dhcpConfiguration.key", "There is no such DHCP option.")),
    }
    Ok(())
}

fn only<'a>(key: &str, values: &'a [&'a str]) -> Result<&'a &'a str, Error> {
    match values {
        [value] => Ok(value),
        others => Err(invalid_value(others.join(","), key, "This option has exactly one value.")),
    }
}

fn few<T>(key: &str, values: &[&str], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Error> {
    if !(1..=SERVERS_MAX).contains(&values.len()) {
        let why = format!("This option has one to {SERVERS_MAX} values.");
        return Err(invalid_value(values.join(","), key, why));
    }
    let value = |value: &&str| {
        read(value).ok_or_else(|| invalid_value(value, key, "This is not the address of a server."))
    };
    values.iter().map(value).collect()
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteDhcpOptionsRequest) -> Result<Empty, Error> {
    let id: DhcpOptionsId = id(&input.dhcp_options_id)?;
    tx.get::<DhcpOptions>(id).ok_or_else(|| not_found(id))?;
    if tx.tables().vpcs.linked_to(id).next().is_some() {
        return Err(dependency(format_args!("The dhcpOptions '{id}'")));
    }
    tx.remove::<DhcpOptions>(id);
    Ok(Empty)
}

fn associate(tx: &mut Transaction<'_>, input: ec2::AssociateDhcpOptionsRequest) -> Result<Empty, Error> {
    let vpc: VpcId = id(&input.vpc_id)?;
    let options = match input.dhcp_options_id.as_str() {
        "default" => None,
        text => {
            let options: DhcpOptionsId = id(text)?;
            tx.get::<DhcpOptions>(options).ok_or_else(|| not_found(options))?;
            Some(options)
        }
    };
    if tx.update::<Vpc>(vpc, |vpc| vpc.dhcp_options = options) { Ok(Empty) } else { Err(not_found(vpc)) }
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeDhcpOptionsRequest>,
) -> Result<ec2::DescribeDhcpOptionsResult, Error> {
    let rows = select::<DhcpOptions>(view, &call.input.dhcp_options_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeDhcpOptions, _>(call, rows)?;
    Ok(ec2::DescribeDhcpOptionsResult { next_token, dhcp_options: Some(rows.iter().map(shown).collect()) })
}

/// Each option that is set, with its values.
fn configurations(options: &DhcpOptions) -> impl Iterator<Item = (&'static str, Vec<String>)> {
    let addresses = |servers: &[Ipv4Addr]| servers.iter().map(Ipv4Addr::to_string).collect();
    let server = |server: &NameServer| match server {
        NameServer::Provided => PROVIDED.to_owned(),
        NameServer::At(address) => address.to_string(),
    };
    let all = [
        ("domain-name", options.domain_name.iter().cloned().collect()),
        ("domain-name-servers", options.domain_name_servers.iter().map(server).collect::<Vec<_>>()),
        ("ntp-servers", addresses(&options.ntp_servers)),
        ("netbios-name-servers", addresses(&options.netbios_name_servers)),
        ("netbios-node-type", options.netbios_node_type.iter().map(u8::to_string).collect()),
    ];
    all.into_iter().filter(|(_, values)| !values.is_empty())
}

fn shown(row: &Row<'_, DhcpOptions>) -> ec2::DhcpOptions {
    let Row { view, record: options } = row;
    let configuration = |(key, values): (&str, Vec<String>)| ec2::DhcpConfiguration {
        key: Some(key.to_owned()),
        values: Some(values.into_iter().map(|value| ec2::AttributeValue { value: Some(value) }).collect()),
    };
    ec2::DhcpOptions {
        owner_id: Some(view.space.account.to_string()),
        tags: Some(tags::shown(view, options.id).unwrap_or_default()),
        dhcp_options_id: Some(options.id.to_string()),
        dhcp_configurations: Some(configurations(options).map(configuration).collect()),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeDhcpOptions.html>.
impl Filtered for Row<'_, DhcpOptions> {
    const NAMES: &'static [&'static str] = &["dhcp-options-id", "key", "owner-id", "value"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "dhcp-options-id" => values.shown(self.record.id),
            "key" => configurations(self.record).for_each(|(key, _)| values.text(key)),
            "owner-id" => values.shown(self.view.space.account),
            "value" => {
                let each = configurations(self.record).flat_map(|(_, each)| each);
                each.for_each(|value| values.text(&value));
            }
            _ => unreachable!("{name} is no filter of DHCP options"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
