//! When a DHCP client says what (RFC 2131, section 4.4).
//!
//! ```text
//!            offer              ack               T1               T2
//! Selecting ──────▶ Requesting ─────▶ Bound ───────────▶ Renewing ─────▶ Rebinding
//!   ▲  ▲ nak, no answer │               ▲       ack          │               │
//!   │  └────────────────┘               └────────────────────┴───────────────┤
//!   └──────────────────────────── nak, lease over ───────────────────────────┘
//! ```
//!
//! [`Client::step`] is the only place where anything changes. It is pure but for the clock values it is given:
//! sockets and interfaces are the caller's.
//!
//! The first repetition comes after half a second, not the four that the RFC suggests: in a virtual network an answer
//! takes microseconds or was lost. Intervals then double, with jitter, up to sixteen seconds.

use std::time::{Duration, Instant};

use super::message::{Kind, Lease, Reply, Request};

const INTERVAL_FIRST: Duration = Duration::from_millis(500);
const INTERVAL_MAX: Duration = Duration::from_secs(16);
/// Unanswered requests for one offer, before looking for another.
const REQUESTS_MAX: u32 = 4;
/// Between repetitions while there still is an address (RFC 2131, section 4.4.5).
const EXTEND_INTERVAL_MIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Selecting { tries: u32 },
    Requesting { offer: Lease, tries: u32 },
    Bound { lease: Lease, since: Instant },
    Renewing { lease: Lease, since: Instant },
    Rebinding { lease: Lease, since: Instant },
}

#[derive(Debug, Clone)]
pub enum Event {
    /// The deadline has passed, or the client has just been made.
    Timeout,
    Received(Reply),
}

/// What the caller must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// To everybody on the link, from no address.
    Broadcast(Vec<u8>),
    /// To this server, from the address that we have; `None` is the broadcast address.
    Send {
        server: Option<std::net::Ipv4Addr>,
        message: Vec<u8>,
    },
    Configure(Lease),
    /// The address is ours no more.
    Forget,
}

#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    xid: u32,
    started: Instant,
    deadline: Instant,
    state: State,
}

impl Client {
    /// A client whose first [`Event::Timeout`] is due now. `seed` makes its transaction ids.
    pub fn new(mac: [u8; 6], seed: u32, now: Instant) -> Self {
        Client { mac, xid: seed, started: now, deadline: now, state: State::Selecting { tries: 0 } }
    }

    /// When the next [`Event::Timeout`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether answers are awaited at all.
    pub fn is_waiting(&self) -> bool {
        !matches!(self.state, State::Bound { .. })
    }

    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Timeout if now < self.deadline => Vec::new(),
            Event::Timeout => self.timeout(now),
            Event::Received(reply) if reply.xid == self.xid && reply.mac == self.mac => {
                self.received(reply, now)
            }
            Event::Received(_) => Vec::new(),
        }
    }

    fn timeout(&mut self, now: Instant) -> Vec<Effect> {
        match self.state.clone() {
            State::Selecting { tries } => self.discover(tries, now),
            State::Requesting { tries, .. } if tries >= REQUESTS_MAX => self.restart(now),
            State::Requesting { offer, tries } => self.request(offer, tries, now),
            State::Bound { lease, since } | State::Renewing { lease, since }
                if now < since + lease.rebinding =>
            {
                self.new_transaction(now, matches!(self.state, State::Bound { .. }));
                self.deadline = retry_at(now, since + lease.rebinding);
                let send = self.extend(&lease, Some(lease.server), now);
                self.state = State::Renewing { lease, since };
                vec![send]
            }
            State::Bound { lease, since }
            | State::Renewing { lease, since }
            | State::Rebinding { lease, since }
                if now < since + lease.time =>
            {
                self.new_transaction(now, !matches!(self.state, State::Rebinding { .. }));
                self.deadline = retry_at(now, since + lease.time);
                let send = self.extend(&lease, None, now);
                self.state = State::Rebinding { lease, since };
                vec![send]
            }
            State::Bound { .. } | State::Renewing { .. } | State::Rebinding { .. } => self.lose(now),
        }
    }

    fn received(&mut self, reply: Reply, now: Instant) -> Vec<Effect> {
        match (self.state.clone(), reply.kind) {
            (State::Selecting { .. }, Kind::Offer) if !reply.lease.address.address.is_unspecified() => {
                self.request(reply.lease, 0, now)
            }
            (State::Requesting { offer, .. }, Kind::Ack)
                if offer.address.address == reply.lease.address.address =>
            {
                self.bind(reply.lease, now)
            }
            (State::Renewing { lease, .. } | State::Rebinding { lease, .. }, Kind::Ack)
                if lease.address.address == reply.lease.address.address =>
            {
                self.bind(reply.lease, now)
            }
            (State::Requesting { .. }, Kind::Nak) => self.restart(now),
            (State::Renewing { .. } | State::Rebinding { .. }, Kind::Nak) => self.lose(now),
            _ => Vec::new(),
        }
    }

    fn discover(&mut self, tries: u32, now: Instant) -> Vec<Effect> {
        self.state = State::Selecting { tries: tries.saturating_add(1) };
        self.deadline = now + self.interval(tries);
        vec![Effect::Broadcast(self.encode(&Request::Discover, now))]
    }

    fn request(&mut self, offer: Lease, tries: u32, now: Instant) -> Vec<Effect> {
        let request = Request::Select { address: offer.address.address, server: offer.server };
        self.deadline = now + self.interval(tries);
        self.state = State::Requesting { offer, tries: tries + 1 };
        vec![Effect::Broadcast(self.encode(&request, now))]
    }

    fn bind(&mut self, lease: Lease, now: Instant) -> Vec<Effect> {
        // A server that grants no time is asked again in a minute, not in a loop.
        self.deadline = now + lease.renewal.max(EXTEND_INTERVAL_MIN.min(lease.time / 2)).max(INTERVAL_FIRST);
        self.state = State::Bound { lease: lease.clone(), since: now };
        vec![Effect::Configure(lease)]
    }

    fn extend(&self, lease: &Lease, server: Option<std::net::Ipv4Addr>, now: Instant) -> Effect {
        let request = Request::Extend { address: lease.address.address };
        Effect::Send { server, message: self.encode(&request, now) }
    }

    fn lose(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::Forget];
        effects.extend(self.restart(now));
        effects
    }

    /// Looks for a server anew. After a refusal the interval is not the shortest: the same could come at once.
    fn restart(&mut self, now: Instant) -> Vec<Effect> {
        self.new_transaction(now, true);
        self.discover(1, now)
    }

    fn new_transaction(&mut self, now: Instant, is_new: bool) {
        if is_new {
            self.xid = next_random(self.xid);
            self.started = now;
        }
    }

    fn encode(&self, request: &Request, now: Instant) -> Vec<u8> {
        request.encode(self.xid, self.mac, now.saturating_duration_since(self.started))
    }

    /// Doubled with each try, and up to an eighth longer, so that machines started together drift apart.
    fn interval(&self, tries: u32) -> Duration {
        let interval = INTERVAL_FIRST.saturating_mul(1 << tries.min(10)).min(INTERVAL_MAX);
        let random = next_random(self.xid ^ tries) % 1024;
        interval + interval * random / 8192
    }
}

/// Half of what is left, but not too soon (RFC 2131, section 4.4.5), and not after the end.
fn retry_at(now: Instant, end: Instant) -> Instant {
    let left = end.saturating_duration_since(now);
    now + (left / 2).max(EXTEND_INTERVAL_MIN).min(left)
}

/// A step of a linear congruential generator, with its high bits folded down: enough for ids and jitter.
fn next_random(seed: u32) -> u32 {
    let next = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    next ^ next >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::Prefix;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn lease() -> Lease {
        Lease {
            address: Prefix { address: Ipv4Addr::new(10, 0, 0, 7), length: 24 },
            server: Ipv4Addr::new(10, 0, 0, 1),
            time: Duration::from_secs(3600),
            renewal: Duration::from_secs(1800),
            rebinding: Duration::from_secs(3150),
            routes: Vec::new(),
            dns: Vec::new(),
            domain: None,
            mtu: None,
        }
    }

    fn reply(client: &Client, kind: Kind) -> Event {
        Event::Received(Reply { kind, xid: client.xid, mac: MAC, lease: lease() })
    }

    fn bound(now: Instant) -> Client {
        let mut client = Client::new(MAC, 1, now);
        client.step(Event::Timeout, now);
        let offer = reply(&client, Kind::Offer);
        assert!(matches!(client.step(offer, now)[..], [Effect::Broadcast(_)]));
        let ack = reply(&client, Kind::Ack);
        assert_eq!(client.step(ack, now), [Effect::Configure(lease())]);
        client
    }

    #[test]
    fn a_lease_is_renewed_then_rebound_then_lost() {
        let start = Instant::now();
        let mut client = bound(start);
        assert_eq!(client.deadline(), start + lease().renewal);
        let mut seen = Vec::new();
        while seen.last() != Some(&Effect::Forget) {
            let now = client.deadline();
            assert!(now <= start + lease().time, "the address was used for too long");
            seen.extend(client.step(Event::Timeout, now).into_iter().take(1));
        }
        let servers: Vec<_> = seen
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send { server, .. } => Some(*server),
                _ => None,
            })
            .collect();
        let renewals = servers.iter().filter(|server| server.is_some()).count();
        assert!(renewals >= 2 && servers[..renewals].iter().all(Option::is_some), "{servers:?}");
        assert!(servers.len() - renewals >= 2, "{servers:?}");
        assert!(matches!(client.state, State::Selecting { .. }));
    }

    #[test]
    fn an_answer_to_a_renewal_counts_from_then() {
        let mut client = bound(Instant::now());
        let later = client.deadline();
        client.step(Event::Timeout, later);
        let ack = reply(&client, Kind::Ack);
        assert_eq!(client.step(ack, later), [Effect::Configure(lease())]);
        assert_eq!(client.deadline(), later + lease().renewal);
    }

    #[test]
    fn a_refused_renewal_gives_the_address_up() {
        let mut client = bound(Instant::now());
        let later = client.deadline();
        client.step(Event::Timeout, later);
        let nak = reply(&client, Kind::Nak);
        assert!(matches!(client.step(nak, later)[..], [Effect::Forget, Effect::Broadcast(_)]));
    }

    #[test]
    fn replies_to_others_are_not_heard() {
        let now = Instant::now();
        let mut client = Client::new(MAC, 1, now);
        client.step(Event::Timeout, now);
        let other_xid =
            Event::Received(Reply { kind: Kind::Offer, xid: client.xid + 1, mac: MAC, lease: lease() });
        let other_mac =
            Event::Received(Reply { kind: Kind::Offer, xid: client.xid, mac: [9; 6], lease: lease() });
        assert!(client.step(other_xid, now).is_empty() && client.step(other_mac, now).is_empty());
    }

    proptest! {
        /// Whatever a server answers, the client has a deadline ahead, and knows whether it has an address.
        #[test]
        fn it_never_stops_nor_spins(history in prop::collection::vec((0u8..4, 0u64..7200), 0..200), time in 0u64..100) {
            let mut now = Instant::now();
            let mut client = Client::new(MAC, 9, now);
            let mut has_address = false;
            for (what, wait) in history {
                let mut lease = lease();
                if time < 50 {
                    (lease.time, lease.renewal, lease.rebinding) = Default::default();
                }
                let event = match what {
                    0 => { now = client.deadline(); Event::Timeout }
                    1 => Event::Received(Reply { kind: Kind::Offer, xid: client.xid, mac: MAC, lease }),
                    2 => Event::Received(Reply { kind: Kind::Ack, xid: client.xid, mac: MAC, lease }),
                    _ => { now += Duration::from_secs(wait); Event::Received(Reply { kind: Kind::Nak, xid: client.xid, mac: MAC, lease }) }
                };
                let was_timeout = matches!(event, Event::Timeout);
                for effect in client.step(event, now) {
                    match effect {
                        Effect::Configure(_) => has_address = true,
                        Effect::Forget => has_address = false,
                        _ => {}
                    }
                }
                if was_timeout {
                    prop_assert!(client.deadline() > now, "{:?}", client.state);
                }
                let is_without = matches!(client.state, State::Selecting { .. } | State::Requesting { .. });
                prop_assert_eq!(has_address, !is_without);
            }
        }
    }
}
