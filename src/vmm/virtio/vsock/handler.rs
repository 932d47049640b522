//! The queues of a guest's sockets in service.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use volume::IoBuffer;

use super::connection::{Connection, Fate};
use super::device::Counters;
use super::request::{self, HEADER_BYTES, Operation, Packet, Parsed, Ports};
use super::{CONNECTIONS_MAX, PIECES_MAX, REPLIES_MAX, stream};
use crate::poll::{Interest, Token};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{Activation, Buffers, DeviceError, QueueHandler, Ring};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

const LISTENER: Token = 0;
/// Connection `i` has the token `CONNECTION + i`.
const CONNECTION: Token = 1;

/// Packets that one call moves in each direction before others get their turn.
const PACKETS_PER_TURN: usize = 64;

/// The host's ports for its own connections begin here, beyond any that a service has.
const HOST_PORT_MIN: u32 = 1 << 30;

pub(super) struct VsockHandler {
    guest_cid: u64,
    listener: Option<UnixListener>,
    services: Option<OwnedFd>,
    counters: Arc<Counters>,
    /// To the guest.
    receive: Option<Ring>,
    /// From the guest.
    transmit: Option<Ring>,
    buffers: Buffers,
    connections: Vec<Option<Connection>>,
    by_ports: HashMap<Ports, usize>,
    /// Connections that may have something for the guest, each once, in turn.
    ready: VecDeque<usize>,
    is_ready: Vec<bool>,
    /// Resets for the guest that belong to no connection.
    replies: VecDeque<[u8; HEADER_BYTES]>,
    next_host_port: u32,
    /// There was no descriptor for a client. No edge tells of it again, so it is taken when a connection has ended.
    clients_wait: bool,
}

impl VsockHandler {
    pub(super) fn new(
        guest_cid: u64,
        listener: Option<UnixListener>,
        services: Option<OwnedFd>,
        counters: Arc<Counters>,
    ) -> Self {
        VsockHandler {
            guest_cid,
            listener,
            services,
            counters,
            receive: None,
            transmit: None,
            buffers: Buffers::with_capacity(PIECES_MAX),
            connections: (0..CONNECTIONS_MAX).map(|_| None).collect(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            is_ready: vec![false; CONNECTIONS_MAX],
            replies: VecDeque::new(),
            next_host_port: HOST_PORT_MIN,
            clients_wait: false,
        }
    }

    /// Moves packets in both directions until there is nothing to move or others want their turn.
    fn serve(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        let Some(mut transmit) = self.transmit.take() else { return self.send(context) };
        let outcome = self.hear(&mut transmit, context);
        self.transmit = Some(transmit);
        outcome?;
        self.send(context)
    }

    /// Takes packets from the guest, as long as there is room for resets to answer them with.
    fn hear(&mut self, ring: &mut Ring, context: &WorkerContext) -> Result<(), DeviceError> {
        ring.suppress_kicks();
        for _ in 0..PACKETS_PER_TURN {
            if self.replies.len() >= REPLIES_MAX {
                ring.notify();
                return Ok(());
            }
            let Some(head) = ring.pop_or_allow_kicks()? else { return Ok(()) };
            ring.gather(head, &mut self.buffers)?;
            let parsed = request::parse(&mut self.buffers, self.guest_cid).map_err(|r| ring.bad_chain(r))?;
            self.counters.from_guest_packets.add(1);
            match parsed {
                Parsed::Packet(packet) => self.take(&packet, context),
                Parsed::Unsupported { ports, kind } => {
                    self.counters.errors.add(1);
                    self.replies.push_back(Packet::reset(ports, Some(kind), self.guest_cid));
                }
                Parsed::Stray => self.counters.errors.add(1),
            }
            ring.put_used(head, 0);
        }
        ring.notify();
        ring.kick_self();
        Ok(())
    }

    fn take(&mut self, packet: &Packet, context: &WorkerContext) {
        let Some(&index) = self.by_ports.get(&packet.ports) else {
            return match packet.operation {
                Operation::Request => self.open_from_guest(packet, context),
                Operation::Reset => {}
                _ => {
                    self.counters.errors.add(1);
                    self.reset(packet.ports);
                }
            };
        };
        let Some(connection) = &mut self.connections[index] else { return };
        let payload = window(self.buffers.readable(), 0, packet.length);
        let fate = connection.take(packet, &payload);
        if packet.operation == Operation::Data && fate == Fate::Lives {
            self.counters.from_guest_bytes.add(u64::from(packet.length));
        }
        self.settle(index, fate, context);
    }

    fn open_from_guest(&mut self, packet: &Packet, context: &WorkerContext) {
        let stream = match (&self.services, self.free_place()) {
            (Some(services), Some(place)) => {
                stream::ask_for_service(services, packet.ports.host).ok().map(|stream| (place, stream))
            }
            _ => None,
        };
        match stream {
            Some((place, stream)) => self.keep(place, Connection::from_guest(packet, stream), context),
            None => {
                self.counters.refused.add(1);
                self.reset(packet.ports);
            }
        }
    }

    /// Takes the clients that wait at the listener.
    fn accept(&mut self, context: &WorkerContext) {
        // The listener is watched for edges, so all are taken; a bounded backlog bounds them.
        while let Some(taken) = self.listener.as_ref().map(UnixListener::accept) {
            let stream = match taken {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.clients_wait = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            };
            let Some(place) = self.free_place().filter(|_| stream.set_nonblocking(true).is_ok()) else {
                self.counters.refused.add(1);
                continue;
            };
            let port = self.next_host_port;
            self.next_host_port = port.checked_add(1).unwrap_or(HOST_PORT_MIN);
            self.keep(place, Connection::from_host(port, stream), context);
        }
    }

    fn free_place(&self) -> Option<usize> {
        self.connections.iter().position(Option::is_none)
    }

    fn keep(&mut self, place: usize, connection: Connection, context: &WorkerContext) {
        if watch(&connection, place, context).is_err() {
            self.counters.refused.add(1);
            if !connection.is_greeting() {
                self.reset(connection.ports);
            }
            return;
        }
        self.counters.opened.add(1);
        if !connection.is_greeting() {
            self.by_ports.insert(connection.ports, place);
        }
        self.connections[place] = Some(connection);
        self.mark_ready(place);
    }

    /// The stream of a connection has something to say.
    fn woken(&mut self, index: usize, context: &WorkerContext) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else { return };
        let fate = if connection.is_asked() {
            let taken = connection.take_service();
            // The descriptor that was watched so far is closed, and so no longer watched.
            match taken.and_then(|taken| if taken { watch(connection, index, context) } else { Ok(()) }) {
                Ok(()) => Fate::Lives,
                Err(_) => {
                    self.counters.refused.add(1);
                    Fate::Reset
                }
            }
        } else if connection.is_greeting() {
            match connection.greet() {
                Ok(None) => Fate::Lives,
                Ok(Some(_)) if self.by_ports.contains_key(&connection.ports) => Fate::Ends,
                Ok(Some(_)) => {
                    self.by_ports.insert(connection.ports, index);
                    Fate::Lives
                }
                Err(_) => Fate::Ends,
            }
        } else {
            connection.woken()
        };
        self.settle(index, fate, context);
    }

    fn settle(&mut self, index: usize, fate: Fate, context: &WorkerContext) {
        match fate {
            Fate::Lives => self.mark_ready(index),
            Fate::Reset => {
                if let Some(connection) = &self.connections[index] {
                    let ports = connection.ports;
                    self.reset(ports);
                }
                self.close(index, context);
            }
            Fate::Ends => self.close(index, context),
        }
    }

    fn close(&mut self, index: usize, context: &WorkerContext) {
        let Some(connection) = self.connections[index].take() else { return };
        if self.by_ports.get(&connection.ports) == Some(&index) {
            self.by_ports.remove(&connection.ports);
        }
        // It was watched when it was kept; closing it would do as well.
        let _ = context.unwatch(connection.stream());
        self.counters.closed.add(1);
        if std::mem::take(&mut self.clients_wait) {
            self.accept(context);
        }
    }

    fn reset(&mut self, ports: Ports) {
        self.replies.push_back(Packet::reset(ports, None, self.guest_cid));
    }

    fn mark_ready(&mut self, index: usize) {
        if !std::mem::replace(&mut self.is_ready[index], true) {
            self.ready.push_back(index);
        }
    }

    /// Gives the guest what it is owed, as far as it has buffers, and has it heard again if it was not for that.
    fn send(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        let Some(mut ring) = self.receive.take() else { return Ok(()) };
        let was_deaf = self.replies.len() >= REPLIES_MAX;
        let outcome = self.send_to(&mut ring, context);
        self.receive = Some(ring);
        if let (true, true, Some(transmit)) = (was_deaf, self.replies.len() < REPLIES_MAX, &self.transmit) {
            transmit.kick_self();
        }
        outcome
    }

    fn send_to(&mut self, ring: &mut Ring, context: &WorkerContext) -> Result<(), DeviceError> {
        ring.suppress_kicks();
        for _ in 0..PACKETS_PER_TURN {
            if self.replies.is_empty() && self.ready.is_empty() {
                ring.notify();
                return Ok(());
            }
            let Some(head) = ring.pop_or_allow_kicks()? else { return Ok(()) };
            ring.gather(head, &mut self.buffers)?;
            if self.buffers.readable_bytes() > 0 {
                return Err(ring.bad_chain("a buffer for packets cannot be written by the device"));
            }
            if usize::try_from(self.buffers.writable_bytes()).is_ok_and(|bytes| bytes < HEADER_BYTES) {
                return Err(ring.bad_chain("a buffer for packets is too short for a header"));
            }
            let Some((header, length)) = self.next_packet(context) else {
                ring.unpop();
                continue;
            };
            self.buffers.fill_front(&header);
            self.counters.to_guest_packets.add(1);
            self.counters.to_guest_bytes.add(u64::from(length));
            ring.put_used(head, u32::try_from(HEADER_BYTES).unwrap_or(0) + length);
        }
        ring.notify();
        ring.kick_self();
        Ok(())
    }

    /// The next packet for the guest, its payload in the buffers behind the header's place.
    fn next_packet(&mut self, context: &WorkerContext) -> Option<([u8; HEADER_BYTES], u32)> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Some((reply, 0));
            }
            let index = self.ready.pop_front()?;
            self.is_ready[index] = false;
            let Some(connection) = &mut self.connections[index] else { continue };
            let pieces = self.buffers.writable();
            let cut = |room: usize| window(pieces, HEADER_BYTES, u32::try_from(room).unwrap_or(u32::MAX));
            match connection.next_packet(cut) {
                Ok(Some(packet)) => {
                    self.mark_ready(index);
                    return Some((packet.to_guest(self.guest_cid), packet.length));
                }
                Ok(None) => {}
                Err(fate) => self.settle(index, fate, context),
            }
        }
    }
}

fn watch(connection: &Connection, index: usize, context: &WorkerContext) -> io::Result<()> {
    let token = CONNECTION + u64::try_from(index).map_err(io::Error::other)?;
    context.watch(connection.stream(), token, Interest::ReadWriteEdge)
}

/// The pieces of the `length` bytes behind the first `skip` ones.
fn window(pieces: &[IoBuffer], mut skip: usize, length: u32) -> Vec<IoBuffer> {
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    let mut window = Vec::new();
    for piece in pieces {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        let part = piece.part(skipped, left);
        left -= part.len();
        if !part.is_empty() {
            window.push(part);
        }
    }
    window
}

impl QueueHandler for VsockHandler {
    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError> {
        let features = activation.features;
        for queue in activation.queues {
            match queue.index {
                RECEIVE => self.receive = Some(Ring::new(queue, features)?),
                TRANSMIT => self.transmit = Some(Ring::new(queue, features)?),
                // The event queue would tell of a migration, which does not happen.
                _ => {}
            }
        }
        if let Some(listener) = &self.listener {
            context
                .watch(listener, LISTENER, Interest::ReadEdge)
                .map_err(|source| DeviceError::Host { operation: "watch the vsock listener", source })?;
        }
        self.serve(context)
    }

    fn kicked(&mut self, _index: u16, context: &WorkerContext) -> Result<(), DeviceError> {
        self.serve(context)
    }

    fn ready(&mut self, token: Token, context: &WorkerContext) -> Result<(), DeviceError> {
        match token.checked_sub(CONNECTION).map(usize::try_from) {
            None => self.accept(context),
            Some(Ok(index)) => self.woken(index, context),
            Some(Err(_)) => {}
        }
        self.send(context)
    }

    /// Nothing is ever in flight between two calls.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        // Edges that came meanwhile were not delivered.
        self.accept(context);
        for index in 0..self.connections.len() {
            self.woken(index, context);
        }
        self.serve(context)
    }

    fn stop(&mut self, context: &WorkerContext) {
        (self.receive, self.transmit) = (None, None);
        self.clients_wait = false;
        for index in 0..self.connections.len() {
            self.close(index, context);
        }
        self.ready.clear();
        self.is_ready.fill(false);
        self.replies.clear();
        if let Some(listener) = &self.listener {
            // It is not watched when nothing was started.
            let _ = context.unwatch(listener);
        }
    }
}
