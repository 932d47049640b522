//! DHCP messages (RFC 2131, section 2; options of RFC 2132, 3396 and 3442).
//!
//! ```text
//!   0 op 1/2   1 htype 1   2 hlen 6   3 hops   4 xid   8 secs   10 flags
//!  12 ciaddr  16 yiaddr   20 siaddr  24 giaddr
//!  28 chaddr, 16 bytes    44 sname, 64    108 file, 128    236 magic    240 options: code, length, value …
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::net::link::{Prefix, Route};

const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Servers of old drop what is shorter than a BOOTP message.
const LENGTH_MIN: usize = 300;

mod option {
    pub const MASK: u8 = 1;
    pub const ROUTERS: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const SIZE_MAX: u8 = 57;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const PAD: u8 = 0;
    pub const END: u8 = 255;
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Discover,
    /// The answer to an offer.
    Select {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// Renews, or rebinds, the address that we have.
    Extend {
        address: Ipv4Addr,
    },
}

impl Request {
    /// The message; `secs` is how long we have been trying.
    pub fn encode(&self, xid: u32, mac: [u8; 6], secs: Duration) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        let secs = u16::try_from(secs.as_secs()).unwrap_or(u16::MAX);
        bytes[8..10].copy_from_slice(&secs.to_be_bytes());
        if let Request::Extend { address } = self {
            bytes[12..16].copy_from_slice(&address.octets());
        }
        bytes[28..34].copy_from_slice(&mac);
        bytes.extend(MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            bytes.extend([code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
            bytes.extend(value);
        };
        let kind = if *self == Request::Discover { 1 } else { 3 };
        option(option::MESSAGE_TYPE, &[kind]);
        option(option::CLIENT, &[&[1], mac.as_slice()].concat());
        option(option::SIZE_MAX, &1472u16.to_be_bytes());
        if let Request::Select { address, server } = self {
            option(option::REQUESTED_ADDRESS, &address.octets());
            option(option::SERVER, &server.octets());
        }
        // The classless routes before the routers, as RFC 3442 asks for.
        option(
            option::PARAMETERS,
            &[
                option::MASK,
                option::CLASSLESS_ROUTES,
                option::ROUTERS,
                option::DNS,
                option::HOST_NAME,
                option::DOMAIN,
                option::MTU,
                option::LEASE_TIME,
                option::RENEWAL,
                option::REBINDING,
            ],
        );
        bytes.push(option::END);
        bytes.resize(bytes.len().max(LENGTH_MIN), option::PAD);
        bytes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Offer,
    Ack,
    Nak,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: Kind,
    pub xid: u32,
    pub mac: [u8; 6],
    pub lease: Lease,
}

/// What we are given, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Prefix,
    pub server: Ipv4Addr,
    pub time: Duration,
    /// When to ask the same server for more.
    pub renewal: Duration,
    /// When to ask any server for more.
    pub rebinding: Duration,
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub mtu: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DhcpError {
    #[error("a DHCP message of {length} bytes is cut off")]
    Short { length: usize },
    #[error("not the reply of a DHCP server")]
    NotAReply,
    #[error("DHCP option {code} has a length of {length}, which it cannot have")]
    Option { code: u8, length: usize },
    #[error("DHCP option {code} is missing")]
    Missing { code: u8 },
}

impl Reply {
    /// # Errors
    /// [`DhcpError`] for anything that is not the whole reply of a server.
    pub fn parse(bytes: &[u8]) -> Result<Reply, DhcpError> {
        let short = DhcpError::Short { length: bytes.len() };
        let fixed = bytes.get(..240).ok_or(short)?;
        if fixed[..3] != [2, 1, 6] || fixed[236..] != MAGIC {
            return Err(DhcpError::NotAReply);
        }
        let options = Options::collect(bytes)?;
        let kind = match options.value(option::MESSAGE_TYPE)? {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return Err(DhcpError::NotAReply),
        };
        let mut mac = [0; 6];
        mac.copy_from_slice(&fixed[28..34]);
        let xid = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let yours = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
        Ok(Reply { kind, xid, mac, lease: options.lease(yours)? })
    }
}

/// Options by code; the pieces of one that is too long for one are joined (RFC 3396).
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Reads the options, and those in the fields for file and server name if they overflowed there.
    fn collect(bytes: &[u8]) -> Result<Self, DhcpError> {
        let mut options = Options(BTreeMap::new());
        options.read(&bytes[240..])?;
        let overload = options.0.get(&option::OVERLOAD).and_then(|value| value.first()).copied().unwrap_or(0);
        if overload & 1 != 0 {
            options.read(&bytes[108..236])?;
        }
        if overload & 2 != 0 {
            options.read(&bytes[44..108])?;
        }
        Ok(options)
    }

    fn read(&mut self, mut rest: &[u8]) -> Result<(), DhcpError> {
        while let Some((&code, after)) = rest.split_first() {
            rest = after;
            match code {
                option::PAD => continue,
                option::END => break,
                _ => {}
            }
            let (&length, after) = rest.split_first().ok_or(DhcpError::Option { code, length: 0 })?;
            let length = usize::from(length);
            let value = after.get(..length).ok_or(DhcpError::Option { code, length })?;
            self.0.entry(code).or_default().extend(value);
            rest = &after[length..];
        }
        Ok(())
    }

    fn value(&self, code: u8) -> Result<&[u8], DhcpError> {
        self.0.get(&code).map(Vec::as_slice).ok_or(DhcpError::Missing { code })
    }

    /// The value if it is there, which must then have this length.
    fn exact<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, DhcpError> {
        let Some(value) = self.0.get(&code) else { return Ok(None) };
        let fixed =
            value.as_slice().try_into().map_err(|_| DhcpError::Option { code, length: value.len() })?;
        Ok(Some(fixed))
    }

    fn seconds(&self, code: u8) -> Result<Option<Duration>, DhcpError> {
        Ok(self.exact(code)?.map(|value| Duration::from_secs(u32::from_be_bytes(value).into())))
    }

    fn addresses(&self, code: u8) -> Result<Vec<Ipv4Addr>, DhcpError> {
        let value = self.0.get(&code).map(Vec::as_slice).unwrap_or_default();
        let (addresses, rest) = value.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(DhcpError::Option { code, length: value.len() });
        }
        Ok(addresses.iter().map(|&octets| Ipv4Addr::from(octets)).collect())
    }

    fn lease(&self, yours: Ipv4Addr) -> Result<Lease, DhcpError> {
        let server = self.exact(option::SERVER)?.ok_or(DhcpError::Missing { code: option::SERVER })?;
        // A lease without an end is renewed all the same, once a day.
        let time = self.seconds(option::LEASE_TIME)?.unwrap_or(Duration::from_secs(86_400));
        let rebinding = self.seconds(option::REBINDING)?.unwrap_or(time * 7 / 8).min(time);
        let renewal = self.seconds(option::RENEWAL)?.unwrap_or(time / 2).min(rebinding);
        let length = match self.exact(option::MASK)? {
            None => 32,
            Some(mask) => prefix_length(mask).ok_or(DhcpError::Option { code: option::MASK, length: 4 })?,
        };
        let domain = self.0.get(&option::DOMAIN).and_then(|name| domain_name(name));
        Ok(Lease {
            address: Prefix { address: yours, length },
            server: server.into(),
            time,
            renewal,
            rebinding,
            routes: self.routes()?,
            dns: self.addresses(option::DNS)?,
            domain,
            mtu: self.exact(option::MTU)?.map(u16::from_be_bytes).filter(|&mtu| mtu >= 576),
        })
    }

    /// Where there are classless routes, the routers do not count (RFC 3442).
    fn routes(&self) -> Result<Vec<Route>, DhcpError> {
        let Some(value) = self.0.get(&option::CLASSLESS_ROUTES) else {
            let everywhere = Prefix { address: Ipv4Addr::UNSPECIFIED, length: 0 };
            let first = self.addresses(option::ROUTERS)?.first().copied();
            return Ok(first
                .map(|router| Route { to: everywhere, gateway: Some(router) })
                .into_iter()
                .collect());
        };
        let bad = DhcpError::Option { code: option::CLASSLESS_ROUTES, length: value.len() };
        let mut routes = Vec::new();
        let mut rest = value.as_slice();
        while let Some((&length, after)) = rest.split_first() {
            let significant = usize::from(length).div_ceil(8);
            if length > 32 || after.len() < significant + 4 {
                return Err(bad);
            }
            let mut octets = [0; 4];
            octets[..significant].copy_from_slice(&after[..significant]);
            let network = u32::from(Ipv4Addr::from(octets)) & netmask(length);
            let gateway: [u8; 4] = after[significant..significant + 4].try_into().unwrap_or_default();
            let gateway = Some(Ipv4Addr::from(gateway)).filter(|gateway| !gateway.is_unspecified());
            routes.push(Route { to: Prefix { address: network.into(), length }, gateway });
            rest = &after[significant + 4..];
        }
        Ok(routes)
    }
}

fn netmask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

fn prefix_length(mask: [u8; 4]) -> Option<u8> {
    let mask = u32::from_be_bytes(mask);
    let length = u8::try_from(mask.leading_ones()).ok()?;
    (netmask(length) == mask).then_some(length)
}

/// What may stand in resolv.conf: a server must not be able to write lines of its own there.
fn domain_name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!text.is_empty() && text.chars().all(is_fine)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
