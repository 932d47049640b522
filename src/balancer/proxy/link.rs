//! Connections of HTTP/2, whose streams are clients, or what targets are asked on, like connections of HTTP/1.1.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::target::Way;
use super::{CONNECT_TIME, Entrance, LINGER_TIME, Owner, Worker};
use crate::engine::{Buffer, Outcome};
use crate::http2::Fault;
use crate::transport::{Link, SharedLink, Transport};

/// A connection of many streams.
pub(super) struct Carrier {
    link: SharedLink,
    end: End,
}

/// Who is at its other end.
enum End {
    Client { peer: SocketAddr, entrance: Rc<Entrance>, connection: u128 },
    Target(Way),
}

impl Worker {
    /// A client turns out to speak HTTP/2, with these bytes: its streams will be the clients.
    pub(super) fn carry(&mut self, place: usize, buffer: Buffer) {
        // Before its first bytes are told, nothing is under way but what it asks for itself.
        if !self.clients[place].transport.is_quiet() {
            self.ring.give_back(buffer);
            self.cut_client(place);
            return;
        }
        let client = self.clients.remove(place);
        let place = self.links.vacant_key();
        let token = Owner::Link.token(place);
        let (peer, entrance, connection) = (client.peer, client.entrance, client.connection);
        let mut link = Link::accepted(client.transport.known_as(token), token, self.now);
        let opened = link.received(&mut self.ring, buffer, self.now);
        let link = Rc::new(RefCell::new(link));
        self.links.insert(Carrier { link, end: End::Client { peer, entrance, connection } });
        self.take_opened(place, opened);
        self.count_fault(place);
    }

    fn take_opened(&mut self, place: usize, opened: Vec<u32>) {
        for id in opened {
            let Some(Carrier { link, end: End::Client { peer, entrance, connection } }) =
                self.links.get(place)
            else {
                return;
            };
            let (peer, entrance, connection) = (*peer, Rc::clone(entrance), *connection);
            let token = Owner::Client.token(self.clients.vacant_key());
            let transport = Transport::stream(Rc::clone(link), id, token);
            self.add_client(transport, peer, entrance, connection);
        }
    }

    pub(super) fn link_completed(&mut self, place: usize, outcome: Outcome) {
        let Some(carrier) = self.links.get(place) else { return };
        let opened = carrier.link.borrow_mut().completed(&mut self.ring, outcome, self.now);
        self.take_opened(place, opened);
        self.count_fault(place);
        self.let_link_go(place);
    }

    fn count_fault(&self, place: usize) {
        let Some(carrier) = self.links.get(place) else { return };
        if let (Some(Fault::Flood(flood)), End::Client { .. }) =
            (carrier.link.borrow_mut().fault(), &carrier.end)
        {
            self.counters.flood(flood);
        }
    }

    /// A stream to a target, and whether its connection was there before.
    pub(super) fn stream_to(&mut self, way: Way, to_head: bool) -> io::Result<(Transport, bool)> {
        let token = Owner::Target.token(self.upstreams.vacant_key());
        let has_room = |place: &&usize| self.links[**place].link.borrow().has_room();
        let there = self.ways.get(&way).and_then(|places| places.iter().find(has_room)).copied();
        let place = match there {
            Some(place) => place,
            None => self.link_to(way)?,
        };
        let link = &self.links[place].link;
        let is_used = !link.borrow().is_connecting();
        let id = link.borrow_mut().open(to_head);
        let mut transport = Transport::stream(Rc::clone(link), id, token);
        transport.connect(&mut self.ring, way.address);
        Ok((transport, is_used))
    }

    fn link_to(&mut self, way: Way) -> io::Result<usize> {
        let place = self.links.vacant_key();
        let token = Owner::Link.token(place);
        let transport = self.transport_to(way, token)?;
        let link = Link::connecting(transport, token, &mut self.ring, way.address, self.now);
        self.links.insert(Carrier { link: Rc::new(RefCell::new(link)), end: End::Target(way) });
        self.ways.entry(way).or_default().push(place);
        Ok(place)
    }

    /// Forgets it if nothing will be heard of it.
    fn let_link_go(&mut self, place: usize) {
        let Some(Carrier { link, end }) = self.links.get(place) else { return };
        if !link.borrow().is_over() {
            return;
        }
        if let End::Target(way) = end
            && let Some(places) = self.ways.get_mut(way)
        {
            places.retain(|other| *other != place);
        }
        self.links.remove(place);
    }

    /// Clients of a listener that is there no more are told to ask elsewhere.
    pub(super) fn leave_gone_listeners(&mut self) {
        for (_, carrier) in &self.links {
            if let End::Client { entrance, .. } = &carrier.end
                && entrance.listener.get().is_none()
            {
                carrier.link.borrow_mut().go_away(&mut self.ring);
            }
        }
    }

    pub(super) fn sweep_link(&mut self, place: usize, idle_max: Duration) {
        let age_max = Duration::from_secs(self.attributes().client_keep_alive_s.into());
        let carrier = &self.links[place];
        let mut link = carrier.link.borrow_mut();
        let still = self.now.since(link.still_since);
        let is_old = self.now.since(link.began) > age_max;
        match &carrier.end {
            _ if link.has_ended() && still > LINGER_TIME => link.cut(&mut self.ring),
            _ if link.is_connecting() && still > CONNECT_TIME => link.cut(&mut self.ring),
            End::Target(_) if link.is_idle() && still > idle_max => link.cut(&mut self.ring),
            End::Client { .. } if is_old || (link.is_idle() && still > idle_max) => {
                link.go_away(&mut self.ring)
            }
            _ => {}
        }
        drop(link);
        self.let_link_go(place);
    }
}
