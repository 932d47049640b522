//! Which packets are wanted: a small language, in the words of tcpdump's.
//!
//! ```text
//! any    = all { "or" all }
//! all    = not { [ "and" ] not }
//! not    = "not" not | "(" any ")" | term
//! term   = "in" | "out" | "arp" | "ip" | "ip6" | "tcp" | "udp" | "icmp"
//!        | [ "src" | "dst" ] ( "host" ADDRESS | "net" ADDRESS/LENGTH | "port" PORT [ "-" PORT ] )
//! ```
//!
//! A packet whose ports or addresses cannot be read has none. `icmp` is ICMP for IPv6, too. The addresses of ARP are those that it tells and asks
//! for.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::{Arp, Direction, Network, Packet, Transport};

/// What is in parentheses or negated, in one another.
const DEPTH_MAX: usize = 64;

/// Says of a packet whether it is wanted. The default wants all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Expression);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Term(Term),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Goes(Direction),
    Arp,
    Ip,
    Ip6,
    Tcp,
    Udp,
    Icmp,
    Net(End, IpNet),
    Port(End, RangeInclusive<u16>),
}

/// Which end of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

impl End {
    fn has<T>(self, source: T, destination: T, is_wanted: impl Fn(T) -> bool) -> bool {
        match self {
            End::Source => is_wanted(source),
            End::Destination => is_wanted(destination),
            End::Either => is_wanted(source) || is_wanted(destination),
        }
    }
}

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, not {}", Found(.found.as_deref()))]
pub struct FilterError {
    pub expected: &'static str,
    /// The word in its place; `None` at the end.
    pub found: Option<String>,
}

struct Found<'a>(Option<&'a str>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(word) => write!(f, "{word:?}"),
            None => f.write_str("the end of the filter"),
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Filter(Expression::All(Vec::new()))
    }
}

impl Filter {
    pub fn wants(&self, packet: &Packet, direction: Direction) -> bool {
        self.0.holds(packet, direction)
    }
}

impl Expression {
    fn holds(&self, packet: &Packet, direction: Direction) -> bool {
        match self {
            Expression::Any(parts) => parts.iter().any(|part| part.holds(packet, direction)),
            Expression::All(parts) => parts.iter().all(|part| part.holds(packet, direction)),
            Expression::Not(part) => !part.holds(packet, direction),
            Expression::Term(term) => term.holds(packet, direction),
        }
    }
}

impl Term {
    fn holds(&self, packet: &Packet, direction: Direction) -> bool {
        let transport = match packet.network {
            Network::Ip { transport, .. } => Some(transport),
            _ => None,
        };
        match self {
            Term::Goes(wanted) => *wanted == direction,
            Term::Arp => matches!(packet.network, Network::Arp(_)),
            Term::Ip => matches!(packet.network, Network::Ip { source: IpAddr::V4(_), .. }),
            Term::Ip6 => matches!(packet.network, Network::Ip { source: IpAddr::V6(_), .. }),
            Term::Tcp => matches!(transport, Some(Transport::Tcp { .. })),
            Term::Udp => matches!(transport, Some(Transport::Udp { .. })),
            Term::Icmp => matches!(transport, Some(Transport::Icmp { .. } | Transport::Icmpv6 { .. })),
            Term::Net(end, net) => match packet.network {
                Network::Ip { source, destination, .. } => {
                    end.has(source, destination, |address| net.contains(&address))
                }
                Network::Arp(Arp { sender, target, .. }) => {
                    end.has(sender, target, |address| net.contains(&IpAddr::V4(address)))
                }
                Network::Other { .. } => false,
            },
            Term::Port(end, ports) => match transport {
                Some(Transport::Tcp { source, destination, .. } | Transport::Udp { source, destination }) => {
                    end.has(source, destination, |port| ports.contains(&port))
                }
                _ => false,
            },
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut words = Words { rest: spaced.split_whitespace().peekable(), depth: 0 };
        let expression = words.any()?;
        match words.rest.next() {
            None => Ok(Filter(expression)),
            Some(word) => Err(wrong("and, or, or the end", Some(word))),
        }
    }
}

fn wrong(expected: &'static str, found: Option<&str>) -> FilterError {
    FilterError { expected, found: found.map(str::to_owned) }
}

struct Words<'a> {
    rest: std::iter::Peekable<std::str::SplitWhitespace<'a>>,
    depth: usize,
}

impl Words<'_> {
    fn takes(&mut self, word: &str) -> bool {
        self.rest.next_if_eq(&word).is_some()
    }

    fn any(&mut self) -> Result<Expression, FilterError> {
        let mut parts = vec![self.all()?];
        while self.takes("or") {
            parts.push(self.all()?);
        }
        Ok(Expression::Any(parts))
    }

    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut parts = vec![self.not()?];
        while self.takes("and") || self.rest.peek().is_some_and(|word| !matches!(*word, "or" | ")")) {
            parts.push(self.not()?);
        }
        Ok(Expression::All(parts))
    }

    fn not(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(wrong("fewer parentheses and negations in one another", self.rest.next()));
        }
        let expression = if self.takes("not") {
            Expression::Not(Box::new(self.not()?))
        } else if self.takes("(") {
            let inner = self.any()?;
            match self.rest.next() {
                Some(")") => inner,
                other => return Err(wrong("`)`", other)),
            }
        } else {
            Expression::Term(self.term()?)
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let end = match self.rest.peek() {
            Some(&"src") => End::Source,
            Some(&"dst") => End::Destination,
            _ => End::Either,
        };
        if end != End::Either {
            self.rest.next();
        }
        match (self.rest.next(), end) {
            (Some("host"), _) => self.value("an address such as 10.0.0.4", |word| {
                let address: IpAddr = word.parse().ok()?;
                Some(Term::Net(end, address.into()))
            }),
            (Some("net"), _) => self.value("a range of addresses such as 10.0.0.0/16", |word| {
                Some(Term::Net(end, word.parse().ok()?))
            }),
            (Some("port"), _) => self.value("a port, or several such as 8000-8080", |word| {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                let (first, last) = (first.parse().ok()?, last.parse().ok()?);
                (first <= last).then_some(Term::Port(end, first..=last))
            }),
            (Some("in"), End::Either) => Ok(Term::Goes(Direction::In)),
            (Some("out"), End::Either) => Ok(Term::Goes(Direction::Out)),
            (Some("arp"), End::Either) => Ok(Term::Arp),
            (Some("ip"), End::Either) => Ok(Term::Ip),
            (Some("ip6"), End::Either) => Ok(Term::Ip6),
            (Some("tcp"), End::Either) => Ok(Term::Tcp),
            (Some("udp"), End::Either) => Ok(Term::Udp),
            (Some("icmp"), End::Either) => Ok(Term::Icmp),
            (other, End::Either) => Err(wrong(
                "host, net, port, src, dst, tcp, udp, icmp, arp, ip, ip6, in, out, not or `(`",
                other,
            )),
            (other, _) => Err(wrong("host, net or port", other)),
        }
    }

    fn value(
        &mut self,
        expected: &'static str,
        read: impl Fn(&str) -> Option<Term>,
    ) -> Result<Term, FilterError> {
        let word = self.rest.next();
        word.and_then(read).ok_or_else(|| wrong(expected, word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::tests::{frame, ipv4, tcp};
    use super::*;

    fn wants(filter: &str, frame: &[u8]) -> bool {
        let filter: Filter = filter.parse().unwrap_or_else(|wrong| panic!("{filter}: {wrong}"));
        filter.wants(&Packet::parse(frame, 0), Direction::Out)
    }

    #[test]
    fn packets_are_wanted_by_protocol_end_address_and_port() {
        let http = tcp(51514, 80, 2);
        for filter in [
            "tcp",
            "ip",
            "out",
            "port 80",
            "dst port 80",
            "src port 50000-52000",
            "host 10.0.0.4",
            "dst host 10.0.0.5",
            "net 10.0.0.0/16",
            "src net 10.0.0.4/31",
            "tcp port 80",
            "tcp and not udp",
            "udp or tcp",
            "not(udp or icmp)",
            "udp and icmp or tcp",
            "tcp or udp and icmp",
            "not not tcp",
            "src host 10.0.0.4 dst port 80",
        ] {
            assert!(wants(filter, &http), "{filter}");
        }
        for filter in [
            "udp",
            "icmp",
            "arp",
            "ip6",
            "in",
            "port 81",
            "src port 80",
            "dst port 51514",
            "host 10.0.0.6",
            "src host 10.0.0.5",
            "net 10.1.0.0/16",
            "dst net 10.0.0.4/32",
            "udp port 80",
            "not tcp",
            "(udp or tcp) and icmp",
            "net 2000::/3",
        ] {
            assert!(!wants(filter, &http), "{filter}");
        }
        assert!(
            wants("icmp", &ipv4(1, 0, &[3, 1, 0, 0])) && !wants("port 0-65535", &ipv4(1, 0, &[3, 1, 0, 0]))
        );
        assert!(!wants("port 80", &ipv4(6, 7, &[0, 80, 0, 80])), "a later fragment has no ports");
        let arp = frame(
            0x0806,
            &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 4, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
        );
        assert!(wants("arp src host 10.0.0.4 and dst host 10.0.0.1", &arp) && !wants("ip", &arp));
        assert!(Filter::default().wants(&Packet::parse(&[], 0), Direction::In));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_expected() {
        let told = |text: &str| text.parse::<Filter>().unwrap_err().to_string();
        assert_eq!(told("port"), "expected a port, or several such as 8000-8080, not the end of the filter");
        assert_eq!(told("port 90-80"), "expected a port, or several such as 8000-8080, not \"90-80\"");
        assert_eq!(told("host web"), "expected an address such as 10.0.0.4, not \"web\"");
        assert_eq!(
            told("net 10.0.0.0"),
            "expected a range of addresses such as 10.0.0.0/16, not \"10.0.0.0\""
        );
        assert_eq!(told("src tcp"), "expected host, net or port, not \"tcp\"");
        assert_eq!(told("(tcp"), "expected `)`, not the end of the filter");
        assert_eq!(told("tcp )"), "expected and, or, or the end, not \")\"");
        assert!(
            told("").starts_with("expected host, net, port")
                && told("tcp and").ends_with("the end of the filter")
        );
        assert!(told(&"(".repeat(100_000)).starts_with("expected fewer parentheses"));
        assert!(told(&"not ".repeat(100_000)).starts_with("expected fewer parentheses"));
        assert!(format!("{}tcp", "tcp and ".repeat(10_000)).parse::<Filter>().is_ok());
    }

    const WORDS: [&str; 18] = [
        "and",
        "or",
        "not",
        "(",
        ")",
        "src",
        "dst",
        "host",
        "net",
        "port",
        "tcp",
        "icmp",
        "arp",
        "in",
        "10.0.0.4",
        "10.0.0.0/8",
        "80",
        "1-9",
    ];

    proptest! {
        #[test]
        fn any_words_are_read_and_what_is_read_says_yes_or_its_negation_does(
            words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..12), bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let text = words.join(" ");
            if let Ok(filter) = text.parse::<Filter>() {
                let negated: Filter = format!("not ({text})").parse().unwrap();
                for packet in [Packet::parse(&bytes, 0), Packet::parse(&tcp(80, 5, 0), 0)] {
                    prop_assert_ne!(filter.wants(&packet, Direction::In), negated.wants(&packet, Direction::In));
                }
            }
        }

        #[test]
        fn any_text_is_read(text: String) {
            let _ = text.parse::<Filter>();
        }
    }
}
