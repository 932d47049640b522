//! What routers consist of: routing tables and the rules that choose one, addresses and neighbours; listed, added and deleted.
//!
//! What is listed comes with the kernel's own message for it, by which it is deleted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};
use types::MacAddress;

use super::{Index, Netlink, failed, into_io};
use crate::error::Error;

/// The tables that every namespace has (`include/uapi/linux/rtnetlink.h`).
pub(crate) const TABLE_DEFAULT: u32 = 253;
pub(crate) const TABLE_MAIN: u32 = 254;
pub(crate) const TABLE_LOCAL: u32 = 255;

/// Who the kernel is told to have made what a host answers for: a number that no routing daemon has (iproute2's `rt_protos`).
const OF_UPLINKS: RouteProtocol = RouteProtocol::Other(78);

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To what is directly on `link`; the router's own packets have `source`.
    Direct { link: Index, source: Ipv4Addr },
    /// To a neighbour, which is on `link` whatever its address; the router's own packets have `source`, if one is named.
    Via { link: Index, gateway: Ipv4Addr, source: Option<Ipv4Addr> },
    /// Nowhere, without a word.
    Blackhole,
    /// Out of this table: the next rule decides.
    Throw,
    /// What nobody here has made.
    Other,
}

impl Way {
    /// Whether both lead to the same place, whatever the router's own packets have as their source.
    fn leads_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Via { link, gateway, .. }, Self::Via { link: to, gateway: by, .. }) => {
                (link, gateway) == (to, by)
            }
            _ => self == other,
        }
    }
}

/// A rule that chooses a table: for all packets, or for those with a mark, or from an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) priority: u32,
    pub(crate) mark: Option<u32>,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) table: u32,
}

/// Something that the kernel has, and its message.
pub(crate) type Listed<T, M> = Vec<(T, M)>;

impl Netlink {
    /// The IPv4 routes of all tables but the local one, which the kernel keeps by itself.
    pub(crate) async fn table_routes(&self) -> Result<Listed<(u32, Ipv4Net, Way), RouteMessage>, Error> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<_> =
            self.handle.route().get(all).execute().try_collect().await.map_err(failed("list routes"))?;
        let listed = messages.into_iter().filter_map(|message| Some((table_route(&message)?, message)));
        Ok(listed.filter(|((table, ..), _)| *table != TABLE_LOCAL).collect())
    }

    /// Has `range` lead there, wherever it led before.
    pub(crate) async fn put_route(&self, table: u32, range: Ipv4Net, way: Way) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .table_id(table);
        let route = match way {
            Way::Direct { link, source } => {
                route.output_interface(link.0).pref_source(source).scope(RouteScope::Link)
            }
            Way::Via { link, gateway, source } => {
                let route = route.output_interface(link.0).gateway(gateway).onlink();
                source.into_iter().fold(route, RouteMessageBuilder::<Ipv4Addr>::pref_source)
            }
            Way::Blackhole => route.kind(RouteType::BlackHole),
            Way::Throw => route.kind(RouteType::Throw),
            Way::Other => return Ok(()),
        };
        let request = self.handle.route().add(route.build()).replace();
        request.execute().await.map_err(failed(format_args!("put a route to {range} into table {table}")))
    }

    /// Has `ranges`, and no others, lead this way in the main table.
    pub(crate) async fn set_routes(&self, ranges: &BTreeSet<Ipv4Net>, way: Way) -> Result<(), Error> {
        let mut wanted = ranges.clone();
        for ((table, range, found), message) in self.table_routes().await? {
            if table != TABLE_MAIN || !found.leads_like(way) {
                continue;
            }
            if !ranges.contains(&range) {
                self.delete_route(message).await?;
            } else if found == way {
                wanted.remove(&range);
            }
        }
        for range in wanted {
            self.put_route(TABLE_MAIN, range, way).await?;
        }
        Ok(())
    }

    pub(crate) async fn delete_route(&self, message: RouteMessage) -> Result<(), Error> {
        done_or_gone(self.handle.route().del(message).execute().await, "delete a route")
    }

    /// The rules for IPv4. None: one that nobody here has made.
    pub(crate) async fn rules(&self) -> Result<Listed<Option<Rule>, RuleMessage>, Error> {
        let request = self.handle.rule().get(IpVersion::V4).execute();
        let messages: Vec<_> = request.try_collect().await.map_err(failed("list routing rules"))?;
        Ok(messages.into_iter().map(|message| (rule(&message), message)).collect())
    }

    pub(crate) async fn add_rule(&self, rule: Rule) -> Result<(), Error> {
        let request = self.handle.rule().add().v4().action(RuleAction::ToTable);
        let request = request.priority(rule.priority).table_id(rule.table);
        let request = match rule.mark {
            Some(mark) => request.fw_mark(mark),
            None => request,
        };
        let request = match rule.source {
            Some(source) => request.source_prefix(source, 32),
            None => request,
        };
        request.execute().await.map_err(failed(format_args!("add a rule for routing table {}", rule.table)))
    }

    pub(crate) async fn delete_rule(&self, message: RuleMessage) -> Result<(), Error> {
        done_or_gone(self.handle.rule().del(message).execute().await, "delete a routing rule")
    }

    /// The IPv4 addresses of a link.
    pub(crate) async fn addresses(&self, link: Index) -> Result<Listed<Ipv4Net, AddressMessage>, Error> {
        let request = self.handle.address().get().set_link_index_filter(link.0).execute();
        let messages: Vec<_> = request.try_collect().await.map_err(failed("list addresses"))?;
        let address = |message: &AddressMessage| {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            })?;
            Ipv4Net::new(local, message.header.prefix_len).ok()
        };
        Ok(messages.into_iter().filter_map(|message| Some((address(&message)?, message))).collect())
    }

    pub(crate) async fn delete_address(&self, message: AddressMessage) -> Result<(), Error> {
        done_or_gone(self.handle.address().del(message).execute().await, "delete an address")
    }

    /// The IPv4 neighbours whose hardware addresses were written down for good.
    pub(crate) async fn neighbours(
        &self,
    ) -> Result<Listed<(Index, Ipv4Addr, MacAddress), NeighbourMessage>, Error> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
        let messages: Vec<_> = request.try_collect().await.map_err(failed("list neighbours"))?;
        let permanent =
            messages.into_iter().filter(|message| message.header.state == NeighbourState::Permanent);
        Ok(permanent.filter_map(|message| Some((neighbour(&message)?, message))).collect())
    }

    /// Says for good which hardware address has `address`, whichever had it before.
    pub(crate) async fn put_neighbour(
        &self,
        link: Index,
        address: Ipv4Addr,
        mac: MacAddress,
    ) -> Result<(), Error> {
        let request = self.handle.neighbours().add(link.0, IpAddr::V4(address));
        let request = request.link_layer_address(&mac.octets()).state(NeighbourState::Permanent).replace();
        request.execute().await.map_err(failed(format_args!("put neighbour {address}")))
    }

    /// The IPv4 addresses that are answered for on links though others have them, because of uplinks.
    pub(crate) async fn proxies(&self) -> Result<Listed<(Index, Ipv4Addr), NeighbourMessage>, Error> {
        let request = self.handle.neighbours().get().proxies().set_address_family(AddressFamily::Inet);
        let messages: Vec<_> =
            request.execute().try_collect().await.map_err(failed("list addresses that are answered for"))?;
        Ok(messages.into_iter().filter_map(|message| Some((proxy(&message)?, message))).collect())
    }

    /// Answers on a link for an address that others have.
    pub(crate) async fn put_proxy(&self, link: Index, address: Ipv4Addr) -> Result<(), Error> {
        let mut request = self.handle.neighbours().add(link.0, IpAddr::V4(address));
        request.message_mut().header.flags = NeighbourFlags::Proxy;
        request.message_mut().attributes.push(NeighbourAttribute::Protocol(OF_UPLINKS));
        request.execute().await.map_err(failed(format_args!("answer for {address}")))
    }

    pub(crate) async fn delete_neighbour(&self, message: NeighbourMessage) -> Result<(), Error> {
        done_or_gone(self.handle.neighbours().del(message).execute().await, "delete a neighbour")
    }
}

fn table_route(message: &RouteMessage) -> Option<(u32, Ipv4Net, Way)> {
    let mut table = u32::from(message.header.table);
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut link, mut gateway, mut source, mut is_strange) = (None, None, None, message.header.tos != 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => link = Some(Index(*index)),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::CacheInfo(_) => {}
            _ => is_strange = true,
        }
    }
    let way = match (message.header.kind, link, gateway, source) {
        _ if is_strange => Way::Other,
        (RouteType::Unicast, Some(link), None, Some(source)) => Way::Direct { link, source },
        (RouteType::Unicast, Some(link), Some(gateway), source) => Way::Via { link, gateway, source },
        (RouteType::BlackHole, ..) => Way::Blackhole,
        (RouteType::Throw, ..) => Way::Throw,
        _ => Way::Other,
    };
    let range = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some((table, range, way))
}

fn rule(message: &RuleMessage) -> Option<Rule> {
    let table = u32::from(message.header.table);
    let mut found = Rule { priority: 0, mark: None, source: None, table };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => found.priority = *priority,
            RuleAttribute::FwMark(mark) => found.mark = Some(*mark),
            RuleAttribute::Source(IpAddr::V4(source)) if message.header.src_len == 32 => {
                found.source = Some(*source);
            }
            RuleAttribute::Table(table) => found.table = *table,
            RuleAttribute::FwMask(u32::MAX)
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::Protocol(_) => {}
            _ => return None,
        }
    }
    (message.header.action == RuleAction::ToTable).then_some(found)
}

fn neighbour(message: &NeighbourMessage) -> Option<(Index, Ipv4Addr, MacAddress)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(*found),
            NeighbourAttribute::LinkLayerAddress(octets) => mac = <[u8; 6]>::try_from(octets.as_slice()).ok(),
            _ => {}
        }
    }
    Some((Index(message.header.ifindex), address?, MacAddress::new(mac?)))
}

fn proxy(message: &NeighbourMessage) -> Option<(Index, Ipv4Addr)> {
    let is_ours = message.attributes.contains(&NeighbourAttribute::Protocol(OF_UPLINKS));
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => Some(*found),
        _ => None,
    });
    Some((Index(message.header.ifindex), address.filter(|_| is_ours)?))
}

/// What is gone already is no error.
fn done_or_gone(outcome: Result<(), rtnetlink::Error>, operation: &str) -> Result<(), Error> {
    let Err(error) = outcome else { return Ok(()) };
    let error = into_io(error);
    let gone = [libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV];
    match error.raw_os_error() {
        Some(number) if gone.contains(&number) => Ok(()),
        _ => Err(Error::io(operation, error)),
    }
}

/// Every namespace's own rules.
pub(crate) const RULES_OWN: [Rule; 3] = [
    Rule { priority: 0, mark: None, source: None, table: TABLE_LOCAL },
    Rule { priority: 32_766, mark: None, source: None, table: TABLE_MAIN },
    Rule { priority: 32_767, mark: None, source: None, table: TABLE_DEFAULT },
];
