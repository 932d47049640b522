//! The few requests to the kernel's routing tables that this crate makes, with errors that say which.

pub(crate) mod tables;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use types::MacAddress;

use crate::error::Error;
use crate::namespace::Namespace;

/// An interface's index in its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Index(pub(crate) u32);

/// An interface, as much of it as is asked for here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: Index,
    pub(crate) name: String,
    pub(crate) mtu: u16,
    /// Its hardware address, if it has one.
    pub(crate) mac: Option<MacAddress>,
    pub(crate) is_up: bool,
    /// The other end of a pair, in its namespace.
    pub(crate) peer: Option<Index>,
}

/// A route of the main or local table. No `range` bits means the default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) range: Ipv4Net,
    pub(crate) device: Option<Index>,
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// A connection to the kernel in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Must be called in a tokio runtime, which drives the connection until this is dropped.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<_> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("list interfaces"))?;
        let link = |message: netlink_packet_route::link::LinkMessage| {
            let index = Index(message.header.index);
            let is_up = message.header.flags.contains(LinkFlags::Up);
            let mut name = None;
            let mut mtu = None;
            let mut peer = None;
            let mut mac = None;
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::Mtu(bytes) => mtu = Some(u16::try_from(bytes).unwrap_or(u16::MAX)),
                    LinkAttribute::Address(octets) => {
                        mac = <[u8; 6]>::try_from(octets).ok().map(MacAddress::new);
                    }
                    LinkAttribute::Link(index) => peer = Some(Index(index)),
                    _ => {}
                }
            }
            Some(Link { index, name: name?, mtu: mtu?, mac, is_up, peer })
        };
        Ok(messages.into_iter().filter_map(link).collect())
    }

    pub(crate) async fn index(&self, name: &str) -> Result<Index, Error> {
        let request = self.handle.link().get().match_name(name.to_owned()).execute();
        let message = first(request).await.map_err(failed(format_args!("find interface {name}")))?;
        Ok(Index(message.header.index))
    }

    pub(crate) async fn set_up(&self, link: Index) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.0).up().build();
        let request = self.handle.link().set(message);
        request.execute().await.map_err(failed(format_args!("set interface {} up", link.0)))
    }

    pub(crate) async fn set_mtu(&self, link: Index, mtu: u16) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.0).mtu(u32::from(mtu)).build();
        let request = self.handle.link().set(message);
        request.execute().await.map_err(failed(format_args!("set the MTU of interface {} to {mtu}", link.0)))
    }

    pub(crate) async fn set_mac(&self, link: Index, mac: MacAddress) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.0).address(mac.octets().to_vec()).build();
        let request = self.handle.link().set(message);
        request
            .execute()
            .await
            .map_err(failed(format_args!("set the address of interface {} to {mac}", link.0)))
    }

    /// Makes a pair of linked interfaces, `name` here and `peer` in `elsewhere`. `false` if an interface
    /// of that name exists at either end.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        peer: &str,
        elsewhere: &Namespace,
        mtu: u16,
    ) -> Result<bool, Error> {
        let mtu = u32::from(mtu);
        let far_end = LinkUnspec::new_with_name(peer).setns_by_fd(elsewhere.raw_fd()).mtu(mtu).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
            .build();
        match self.handle.link().add(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) => match into_io(error) {
                error if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                error => Err(Error::io(format_args!("add interface {peer}"), error)),
            },
        }
    }

    pub(crate) async fn delete_link(&self, link: Index) -> Result<(), Error> {
        let request = self.handle.link().del(link.0);
        request.execute().await.map_err(failed(format_args!("delete interface {}", link.0)))
    }

    pub(crate) async fn add_address(&self, link: Index, address: Ipv4Net) -> Result<(), Error> {
        let request =
            self.handle.address().add(link.0, IpAddr::V4(address.addr()), address.prefix_len()).replace();
        request.execute().await.map_err(failed(format_args!("add address {address}")))
    }

    /// Routes `range` to what is directly on `link`, using `source` for packets of the router itself.
    pub(crate) async fn add_direct_route(
        &self,
        range: Ipv4Net,
        link: Index,
        source: Ipv4Addr,
    ) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .output_interface(link.0)
            .pref_source(source)
            .scope(RouteScope::Link);
        self.add_route(route.build(), range).await
    }

    pub(crate) async fn add_default_route(&self, gateway: Ipv4Addr) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway);
        self.add_route(route.build(), Ipv4Net::default()).await
    }

    /// Packets for `range` that no longer prefix matches are refused, and ARP for it is not answered.
    pub(crate) async fn add_unreachable_route(&self, range: Ipv4Net) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .kind(RouteType::Unreachable);
        self.add_route(route.build(), range).await
    }

    async fn add_route(&self, route: RouteMessage, range: Ipv4Net) -> Result<(), Error> {
        let request = self.handle.route().add(route);
        request.execute().await.map_err(failed(format_args!("add a route to {range}")))
    }

    /// Says for good which hardware address has `address`, so that nobody is asked.
    pub(crate) async fn add_neighbour(
        &self,
        link: Index,
        address: Ipv4Addr,
        mac: MacAddress,
    ) -> Result<(), Error> {
        let request = self
            .handle
            .neighbours()
            .add(link.0, IpAddr::V4(address))
            .link_layer_address(&mac.octets())
            .state(NeighbourState::Permanent);
        request.execute().await.map_err(failed(format_args!("add neighbour {address}")))
    }

    /// The IPv4 routes, those of the host's own addresses among them.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, Error> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<_> =
            self.handle.route().get(all).execute().try_collect().await.map_err(failed("list routes"))?;
        Ok(messages.iter().filter_map(route).collect())
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut device, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => device = Some(Index(*index)),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    let range = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { range, device, gateway })
}

async fn first<T>(stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<T, rtnetlink::Error> {
    let mut stream = std::pin::pin!(stream);
    stream.next().await.unwrap_or(Err(rtnetlink::Error::RequestFailed))
}

/// The kernel's own error number where there is one, so that callers can tell kinds apart.
fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn failed(operation: impl std::fmt::Display) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| Error::io(operation, into_io(error))
}
