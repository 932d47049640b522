use std::collections::HashMap;
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

/// Seconds for which an answer may be kept; AWS's own for instances.
const TTL_S: u32 = 60;
/// The largest datagram that passes every network in one piece (RFC 9715, 3.1).
const UDP_BYTES_MAX: u16 = 1232;

/// The names of one VPC: those below its domain, and the reverse of its ranges. By default it has neither, and knows only of names that it is given.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    domain: Option<Name>,
    ranges: Vec<Ipv4Net>,
    addresses: HashMap<Name, Vec<Ipv4Addr>>,
    names: HashMap<Ipv4Addr, Name>,
}

/// What is to be done with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send this back.
    Answer(Vec<u8>),
    /// Ask somebody who knows.
    Forward,
    /// It is not a query: no answer, since two servers could answer each other for ever.
    Ignore,
}

/// A name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a domain name")]
pub struct NameError {
    name: String,
}

impl Zone {
    /// A zone without names.
    ///
    /// # Errors
    /// When `domain` is not a domain name.
    pub fn new(domain: &str, ranges: &[Ipv4Net]) -> Result<Self, NameError> {
        Ok(Self { domain: Some(parse(domain)?), ranges: ranges.to_vec(), ..Self::default() })
    }

    /// Adds a host below the domain.
    ///
    /// # Errors
    /// When `host` is not a label of a domain name, or there is no domain.
    pub fn add(&mut self, host: &str, address: Ipv4Addr) -> Result<(), NameError> {
        let error = || NameError { name: host.to_owned() };
        let name = self.domain.as_ref().ok_or_else(error)?.prepend_label(host).map_err(|_| error())?;
        self.addresses.insert(name.clone(), vec![address]);
        self.names.insert(address, name);
        Ok(())
    }

    /// Adds a name of another domain, which leads to `address` here whatever it does elsewhere.
    ///
    /// # Errors
    /// When it is not a domain name.
    pub fn add_other(&mut self, name: &str, address: Ipv4Addr) -> Result<(), NameError> {
        self.add_several(name, &[address])
    }

    /// As [`Self::add_other`], with several addresses. Each is the first of an answer now and then.
    ///
    /// # Errors
    /// When it is not a domain name.
    pub fn add_several(&mut self, name: &str, addresses: &[Ipv4Addr]) -> Result<(), NameError> {
        self.addresses.insert(parse(name)?, addresses.to_vec());
        Ok(())
    }

    /// As [`Self::add_other`], and the address leads back to the name.
    ///
    /// # Errors
    /// When it is not a domain name.
    pub fn add_both(&mut self, name: &str, address: Ipv4Addr) -> Result<(), NameError> {
        self.add_other(name, address)?;
        self.names.insert(address, parse(name)?);
        Ok(())
    }

    /// What to do with `query`, a message without the length that stands before it on TCP.
    pub fn answer(&self, query: &[u8]) -> Verdict {
        let Some(header) = Header::read(query) else { return Verdict::Ignore };
        if header.is_response {
            return Verdict::Ignore;
        }
        let Ok(query) = Message::from_vec(query) else {
            return refusal(header.id, ResponseCode::FormErr);
        };
        if query.metadata.op_code != OpCode::Query {
            return refusal(header.id, ResponseCode::NotImp);
        }
        let [question] = query.queries.as_slice() else {
            return refusal(header.id, ResponseCode::FormErr);
        };
        if question.query_class() != DNSClass::IN {
            return Verdict::Forward;
        }
        match self.find(question.name(), question.query_type()) {
            Some(found) => self.respond(&query, question.name(), found),
            None => Verdict::Forward,
        }
    }

    /// `None` for a name that is not ours; otherwise whether it exists, and its records of the type asked for.
    fn find(&self, name: &Name, kind: RecordType) -> Option<(ResponseCode, Vec<RData>)> {
        let found = self.addresses.get(name);
        if found.is_some() || self.domain.as_ref().is_some_and(|domain| domain.zone_of(name)) {
            return Some(match found {
                Some(found) if matches!(kind, RecordType::A | RecordType::ANY) => {
                    (ResponseCode::NoError, found.iter().map(|address| RData::A(A(*address))).collect())
                }
                Some(_) => (ResponseCode::NoError, Vec::new()),
                None if Some(name) == self.domain.as_ref() => (ResponseCode::NoError, Vec::new()),
                None => (ResponseCode::NXDomain, Vec::new()),
            });
        }
        let address = reversed(name)?;
        let found = self.names.get(&address);
        if found.is_none() && !self.ranges.iter().any(|range| range.contains(&address)) {
            return None;
        }
        Some(match found {
            Some(name) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                (ResponseCode::NoError, vec![RData::PTR(PTR(name.clone()))])
            }
            Some(_) => (ResponseCode::NoError, Vec::new()),
            None => (ResponseCode::NXDomain, Vec::new()),
        })
    }

    fn respond(&self, query: &Message, name: &Name, found: (ResponseCode, Vec<RData>)) -> Verdict {
        let (code, mut data) = found;
        // Clients take the first one; queries have numbers that are as good as drawn.
        let first = usize::from(query.metadata.id).checked_rem(data.len()).unwrap_or_default();
        data.rotate_left(first);
        let mut response = Message::response(query.metadata.id, OpCode::Query);
        response.metadata.response_code = code;
        response.metadata.authoritative = true;
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_queries(query.queries.iter().cloned());
        if data.is_empty() {
            response.add_authority(self.authority(name));
        }
        for data in data {
            response.add_answer(Record::from_rdata(name.clone(), TTL_S, data));
        }
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX);
            response.set_edns(edns);
        }
        encode(&response)
    }

    /// By this a resolver knows for how long an absence holds (RFC 2308, 3).
    fn authority(&self, name: &Name) -> Record {
        let domain = self.domain.as_ref().unwrap_or(name);
        let contact = domain.prepend_label("hostmaster").unwrap_or_else(|_| domain.clone());
        let start = SOA::new(domain.clone(), contact, 1, 3600, 900, 604_800, TTL_S);
        Record::from_rdata(domain.clone(), TTL_S, RData::SOA(start))
    }
}

/// The answer to `query` when nobody could be asked.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    without_records(query, ResponseCode::ServFail)
}

/// The answer to `query` when nobody is asked.
pub(super) fn refused(query: &[u8]) -> Option<Vec<u8>> {
    without_records(query, ResponseCode::Refused)
}

fn without_records(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let mut response = Message::error_msg(message.metadata.id, OpCode::Query, code);
    response.metadata.recursion_desired = message.metadata.recursion_desired;
    response.metadata.recursion_available = code != ResponseCode::Refused;
    response.add_queries(message.queries.iter().cloned());
    response.to_vec().ok()
}

/// What the first bytes of a message say, readable also when the rest is not.
struct Header {
    id: u16,
    is_response: bool,
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let [a, b, flags, ..] = *message.get(..12)? else { return None };
        Some(Self { id: u16::from_be_bytes([a, b]), is_response: flags & 0x80 != 0 })
    }
}

fn refusal(id: u16, code: ResponseCode) -> Verdict {
    encode(&Message::error_msg(id, OpCode::Query, code))
}

fn encode(message: &Message) -> Verdict {
    debug_assert_eq!(message.metadata.message_type, MessageType::Response);
    match message.to_vec() {
        Ok(bytes) => Verdict::Answer(bytes),
        Err(error) => {
            tracing::warn!(%error, "a DNS answer cannot be encoded");
            Verdict::Ignore
        }
    }
}

fn parse(name: &str) -> Result<Name, NameError> {
    let mut parsed = Name::from_ascii(name).map_err(|_| NameError { name: name.to_owned() })?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// The address that a name below `in-addr.arpa` is about, if it is about a single one.
fn reversed(name: &Name) -> Option<Ipv4Addr> {
    if name.num_labels() != 6 {
        return None;
    }
    let range = name.parse_arpa_name().ok()?;
    match range {
        ipnet::IpNet::V4(range) if range.prefix_len() == 32 => Some(range.addr()),
        _ => None,
    }
}
