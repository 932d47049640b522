//! Streams of HTTP/2, each a transport of its own, and the link that carries them.
//!
//! A link's streams are told that there is something to look at by [`Outcome::Posted`], and look for themselves. What streams write goes out together: a link that was written to is posted,
//! too, and sends when all that had something to say at the same time have said it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use types::Instant;

use super::tls::Secured;
use super::{Transport, gone};
use crate::engine::{Buffer, Data, Outcome, Ring};
use crate::http2::{Fault, Session, Taken};

pub(crate) type SharedLink = Rc<RefCell<Link>>;

/// A connection of HTTP/2.
pub(crate) struct Link {
    transport: Transport,
    token: u64,
    session: Session,
    /// In the order of their streams, which must begin in it (RFC 9113, 5.1.1).
    owners: BTreeMap<u32, Owner>,
    stage: Stage,
    is_posted: bool,
    fault: Option<Fault>,
    /// Since when nothing came and went.
    pub(crate) still_since: Instant,
    pub(crate) began: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Up,
    /// All was said, and the other end may say so, too.
    Ended,
    Cut,
}

/// Whoever uses a stream.
struct Owner {
    token: u64,
    is_posted: bool,
}

impl Link {
    /// Of a client's connection, which is quiet and has this token.
    pub(crate) fn accepted(transport: Transport, token: u64, now: Instant) -> Self {
        Self::new(transport, token, Session::server(now), Stage::Up, now)
    }

    /// To a target.
    pub(crate) fn connecting(
        mut transport: Transport,
        token: u64,
        ring: &mut Ring,
        to: SocketAddr,
        now: Instant,
    ) -> Self {
        transport.connect(ring, to);
        let session = Session::client(transport.is_tls(), now);
        Self::new(transport, token, session, Stage::Connecting, now)
    }

    fn new(transport: Transport, token: u64, session: Session, stage: Stage, now: Instant) -> Self {
        let owners = BTreeMap::new();
        Self {
            transport,
            token,
            session,
            owners,
            stage,
            is_posted: false,
            fault: None,
            still_since: now,
            began: now,
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }

    pub(super) fn server_name(&self) -> Option<String> {
        self.transport.server_name()
    }

    pub(super) fn secured(&self) -> Option<Secured> {
        self.transport.secured()
    }

    pub(super) fn own(&mut self, id: u32, token: u64) {
        self.owners.insert(id, Owner { token, is_posted: false });
    }

    /// Begins a stream; there must be room.
    pub(crate) fn open(&mut self, to_head: bool) -> u32 {
        self.session.open(to_head)
    }

    pub(crate) fn has_room(&self) -> bool {
        matches!(self.stage, Stage::Connecting | Stage::Up) && self.session.has_room()
    }

    /// Nobody uses it.
    pub(crate) fn is_idle(&self) -> bool {
        self.session.is_idle_now()
    }

    /// Nothing more will be heard of it.
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Cut && self.transport.is_quiet() && !self.is_posted
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// Why it was ended here, told once.
    pub(crate) fn fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Serves no more requests than there are.
    pub(crate) fn go_away(&mut self, ring: &mut Ring) {
        self.session.go_away();
        self.post(ring);
    }

    pub(crate) fn cut(&mut self, ring: &mut Ring) {
        if self.stage != Stage::Cut {
            self.stage = Stage::Cut;
            self.transport.cut(ring);
            self.session.fail_all();
            self.tell(ring);
        }
    }

    /// What has come of the link's own token. Answers with the streams of requests that have come with it, which are to be owned.
    pub(crate) fn completed(&mut self, ring: &mut Ring, outcome: Outcome, now: Instant) -> Vec<u32> {
        self.still_since = now;
        if matches!(outcome, Outcome::Posted) {
            // The transport may have been posted as well, and then looks again for nothing.
            self.is_posted = false;
        }
        match self.transport.completed(ring, outcome) {
            Some(Outcome::Connected(Ok(())))
                if self.stage == Stage::Connecting && (!self.is_tls() || self.transport.speaks_http2()) =>
            {
                self.stage = Stage::Up;
                self.tell_all(ring);
                self.receive(ring);
            }
            Some(Outcome::Received(Ok(Some(buffer)))) if buffer.len() > 0 => {
                return self.received(ring, buffer, now);
            }
            // All memory is in use by others, who give it back.
            Some(Outcome::Received(Ok(None))) => self.receive(ring),
            Some(Outcome::Sent(sent, data)) => {
                ring.let_go(data);
                if sent.is_err() {
                    self.cut(ring);
                }
            }
            // Also a target that speaks another protocol.
            Some(Outcome::Connected(_) | Outcome::Received(_)) => {
                self.cut(ring);
                self.tell_all(ring);
            }
            _ => {}
        }
        self.flush(ring);
        Vec::new()
    }

    /// Goes on with bytes that came before it was a link.
    pub(crate) fn received(&mut self, ring: &mut Ring, buffer: Buffer, now: Instant) -> Vec<u32> {
        if self.stage == Stage::Up
            && let Err(fault) = self.session.receive(ring.bytes(&buffer), now)
        {
            self.fault = Some(fault);
        }
        ring.give_back(buffer);
        self.receive(ring);
        self.tell(ring);
        self.post(ring);
        self.session.opened()
    }

    fn receive(&mut self, ring: &mut Ring) {
        if self.stage != Stage::Cut {
            self.transport.receive(ring, true);
        }
    }

    /// Tells the owners of streams that have changed.
    fn tell(&mut self, ring: &mut Ring) {
        for id in self.session.changed() {
            self.tell_one(ring, id);
        }
    }

    fn tell_all(&mut self, ring: &mut Ring) {
        let ids: Vec<u32> = self.owners.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tell_one(ring, id));
    }

    fn tell_one(&mut self, ring: &mut Ring, id: u32) {
        if let Some(owner) = self.owners.get_mut(&id)
            && !std::mem::replace(&mut owner.is_posted, true)
        {
            ring.post(owner.token);
        }
    }

    fn post(&mut self, ring: &mut Ring) {
        if !std::mem::replace(&mut self.is_posted, true) {
            ring.post(self.token);
        }
    }

    /// Sends what there is, unless something is under way, behind which it waits.
    fn flush(&mut self, ring: &mut Ring) {
        if self.stage != Stage::Up || self.transport.is_sending() || self.is_posted {
            return;
        }
        if self.session.has_output() {
            let mut out = ring.spare();
            self.session.output(&mut out);
            self.transport.send(ring, Data::Bytes(out));
            self.tell(ring);
        } else if self.session.is_over() {
            self.stage = Stage::Ended;
            self.transport.end(ring);
        }
    }
}

/// One stream of a link.
pub(super) struct Stream {
    link: SharedLink,
    id: u32,
    is_connecting: bool,
    is_cut: bool,
}

impl Stream {
    pub(super) fn new(link: SharedLink, id: u32) -> Self {
        Self { link, id, is_connecting: false, is_cut: false }
    }

    pub(super) fn link(&self) -> &SharedLink {
        &self.link
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.link.borrow().owners.get(&self.id).is_none_or(|owner| !owner.is_posted)
    }

    pub(super) fn connect(&mut self, ring: &mut Ring) {
        self.is_connecting = true;
        let mut link = self.link.borrow_mut();
        if link.stage != Stage::Connecting {
            link.tell_one(ring, self.id);
        }
    }

    pub(super) fn receive(&mut self, ring: &mut Ring) {
        let mut link = self.link.borrow_mut();
        if link.session.is_readable(self.id) {
            link.tell_one(ring, self.id);
        }
    }

    pub(super) fn send(&mut self, ring: &mut Ring, data: Data) {
        let mut link = self.link.borrow_mut();
        link.session.write(self.id, ring.data(&data));
        ring.let_go(data);
        if link.session.is_drained(self.id) {
            link.tell_one(ring, self.id);
        }
        link.tell(ring);
        link.post(ring);
    }

    pub(super) fn end(&mut self, ring: &mut Ring) {
        let mut link = self.link.borrow_mut();
        link.session.finish(self.id);
        link.tell(ring);
        link.post(ring);
    }

    /// `waits`: the owner waits for something.
    pub(super) fn cut(&mut self, ring: &mut Ring, waits: bool) {
        self.is_cut = true;
        let mut link = self.link.borrow_mut();
        link.session.release(self.id);
        if waits {
            link.tell_one(ring, self.id);
        }
        link.tell(ring);
        link.post(ring);
    }

    pub(super) fn completed(&mut self, ring: &mut Ring, receives: bool, sends: bool) -> Option<Outcome> {
        let mut link = self.link.borrow_mut();
        let id = self.id;
        if let Some(owner) = link.owners.get_mut(&id) {
            owner.is_posted = false;
        }
        if self.is_cut {
            let is_more = receives && sends;
            if is_more {
                link.tell_one(ring, id);
            }
            return match (sends, receives) {
                (true, _) if self.is_connecting => Some(Outcome::Connected(Err(gone()))),
                (true, _) => Some(Outcome::Sent(Err(gone()), Data::Bytes(Vec::new()))),
                (false, true) => Some(Outcome::Received(Err(gone()))),
                (false, false) => None,
            };
        }
        if self.is_connecting {
            return match link.stage {
                Stage::Connecting => None,
                _ => {
                    self.is_connecting = false;
                    let is_dead = link.session.is_dead(id);
                    Some(Outcome::Connected(if is_dead { Err(gone()) } else { Ok(()) }))
                }
            };
        }
        let has_sent = sends && link.session.is_drained(id);
        if has_sent {
            if receives && link.session.is_readable(id) {
                link.tell_one(ring, id);
            }
            let sent = if link.session.is_dead(id) { Err(gone()) } else { Ok(()) };
            return Some(Outcome::Sent(sent, Data::Bytes(Vec::new())));
        }
        if !receives {
            return None;
        }
        let taken = link.session.take(id);
        if link.session.has_output() {
            link.post(ring);
        }
        match taken {
            Taken::Nothing => None,
            Taken::Bytes(bytes) => Some(Outcome::Received(Ok(Some(Buffer::from(bytes))))),
            Taken::End => Some(Outcome::Received(Ok(Some(Buffer::END)))),
            Taken::Failed => Some(Outcome::Received(Err(gone()))),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut link = self.link.borrow_mut();
        link.session.release(self.id);
        link.owners.remove(&self.id);
    }
}
