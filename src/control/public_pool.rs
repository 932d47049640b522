//! What public addresses are taken from, by all accounts in all regions.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// What nobody can have as an address of his own: this network, the host itself, links, and what is no address of one alone (RFC 6890).
const NOBODYS: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The range that new public addresses are taken from. Those that are had stay with who has them, whatever the range becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicPool(Ipv4Net);

impl PublicPool {
    pub const fn range(self) -> Ipv4Net {
        self.0
    }

    /// All but the first and the last, which a network does not give to hosts; of a range of two or one, all.
    pub fn addresses(self) -> RangeInclusive<Ipv4Addr> {
        let (first, last) = (u32::from(self.0.network()), u32::from(self.0.broadcast()));
        match self.0.prefix_len() {
            31.. => first.into()..=last.into(),
            _ => (first + 1).into()..=(last - 1).into(),
        }
    }
}

/// 198.18.0.0/16, which no network routes (RFC 2544): whoever names none is in nobody's way.
impl Default for PublicPool {
    fn default() -> Self {
        Self(Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 16))
    }
}

impl fmt::Display for PublicPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a range cannot be the pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPool {
    #[error("{0:?} is no range of IPv4 addresses, such as 198.18.0.0/16")]
    NoRange(String),
    #[error("{0} is an address in {1}, and no range")]
    Address(Ipv4Net, Ipv4Net),
    #[error("{0} has addresses of {1}, which nobody can have")]
    Nobodys(Ipv4Net, Ipv4Net),
}

impl FromStr for PublicPool {
    type Err = NoPool;

    fn from_str(text: &str) -> Result<Self, NoPool> {
        let range: Ipv4Net = text.parse().map_err(|_| NoPool::NoRange(text.to_owned()))?;
        if range.trunc() != range {
            return Err(NoPool::Address(range, range.trunc()));
        }
        let overlaps = |other: &&Ipv4Net| other.contains(&range) || range.contains(*other);
        match NOBODYS.iter().find(overlaps) {
            Some(other) => Err(NoPool::Nobodys(range, *other)),
            None => Ok(Self(range)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_hosts_can_have_addresses_of_is_a_pool() {
        let addresses = |text: &str| {
            let (first, last) = text.parse::<PublicPool>().unwrap().addresses().into_inner();
            [first.to_string(), last.to_string()]
        };
        assert_eq!(addresses("192.168.1.192/27"), ["192.168.1.193", "192.168.1.222"]);
        assert_eq!(addresses("192.0.2.4/31"), ["192.0.2.4", "192.0.2.5"]);
        assert_eq!(addresses("192.0.2.4/32"), ["192.0.2.4", "192.0.2.4"]);
        let (first, last) = PublicPool::default().addresses().into_inner();
        assert_eq!([first.octets(), last.octets()], [[198, 18, 0, 1], [198, 18, 255, 254]]);
    }

    #[test]
    fn what_is_none_is_told_why() {
        let why = |text: &str| text.parse::<PublicPool>().unwrap_err().to_string();
        assert!(why("198.18.0.1").contains("is no range"));
        assert_eq!(why("192.168.1.5/24"), "192.168.1.5/24 is an address in 192.168.1.0/24, and no range");
        for range in ["127.1.0.0/16", "0.0.0.0/0", "169.254.0.0/24", "240.0.0.0/8", "168.0.0.0/7"] {
            assert!(why(range).contains("which nobody can have"), "{range}");
        }
    }
}
