//! One connection.
//!
//! ```text
//!  host connects: Greeting ──"CONNECT"──▶ Requested ──Response──▶ Open
//!  guest connects: Request ▶ Asked ──a service────────────▶ Open
//!  Open: either side may stop sending; when the guest wants no more of either, or anything goes wrong, it is reset
//! ```
//!
//! A connection says what it owes the guest; [`Connection::next_packet`] pays one packet at a time, when the guest has
//! a buffer for it. Nothing here knows of queues.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use volume::IoBuffer;

use super::request::{Credit, NO_MORE_RECEIVING, NO_MORE_SENDING, Operation, Packet, Ports};
use super::{BACKLOG_BYTES, stream};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Requested,
    Asked,
    Open,
}

/// What becomes of a connection after something happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    Lives,
    /// It is over, and the guest is told by a reset.
    Reset,
    /// It is over, and the guest knows it or never knew of it.
    Ends,
}

pub(super) struct Connection {
    pub(super) ports: Ports,
    stream: UnixStream,
    phase: Phase,
    /// A request or a response that the guest has not got yet.
    owes_opening: bool,
    owes_credit: bool,
    /// The guest's bytes that the host has not taken yet.
    backlog: VecDeque<u8>,
    /// Bytes that the host has taken, and as many as the guest was told of, modulo 2^32.
    forwarded: u32,
    forwarded_told: u32,
    /// Bytes that the guest was sent, modulo 2^32, and what it said of its room.
    sent: u32,
    guest: Credit,
    asked_for_credit: bool,
    /// The stream may have bytes: it has not said otherwise since it last told of some.
    may_read: bool,
    guest_receives: bool,
    guest_sends: bool,
    /// The stream was told that no more comes: once, since to tell it wakes us.
    is_ended: bool,
    /// What the host wants no more of, as `SHUTDOWN`'s flags, and whether the guest was told.
    host_done: u32,
    host_done_told: u32,
}

impl Connection {
    fn new(ports: Ports, stream: UnixStream, phase: Phase) -> Self {
        Connection {
            ports,
            stream,
            phase,
            owes_opening: false,
            owes_credit: false,
            backlog: VecDeque::new(),
            forwarded: 0,
            forwarded_told: 0,
            sent: 0,
            guest: Credit::default(),
            asked_for_credit: false,
            may_read: true,
            guest_receives: true,
            guest_sends: true,
            is_ended: false,
            host_done: 0,
            host_done_told: 0,
        }
    }

    /// A client of the host's that has still to say which of the guest's ports it wants.
    pub(super) fn from_host(host_port: u32, stream: UnixStream) -> Self {
        Self::new(Ports { host: host_port, guest: 0 }, stream, Phase::Greeting)
    }

    /// A wish of the guest's; who can fulfil it has been told, and answers by `stream`.
    pub(super) fn from_guest(request: &Packet, stream: UnixStream) -> Self {
        Connection { guest: request.credit, ..Self::new(request.ports, stream, Phase::Asked) }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The client's wish is read, but the guest has not been asked yet.
    pub(super) fn is_greeting(&self) -> bool {
        self.phase == Phase::Greeting
    }

    /// Reads which port the client wants. Some port, when that became clear just now.
    pub(super) fn greet(&mut self) -> io::Result<Option<u32>> {
        let port = stream::greeting(&self.stream)?;
        if let Some(port) = port {
            self.ports.guest = port;
            (self.phase, self.owes_opening) = (Phase::Requested, true);
        }
        Ok(port)
    }

    /// The guest waits for a service.
    pub(super) fn is_asked(&self) -> bool {
        self.phase == Phase::Asked
    }

    /// Puts the service in the place of the stream that it was awaited on. Whether it is there now.
    ///
    /// # Errors
    /// When the guest is refused.
    pub(super) fn take_service(&mut self) -> io::Result<bool> {
        let Some(service) = stream::service(&self.stream)? else { return Ok(false) };
        self.stream = service;
        (self.phase, self.owes_opening) = (Phase::Open, true);
        Ok(true)
    }

    /// The stream became readable, or writable, or was closed.
    pub(super) fn woken(&mut self) -> Fate {
        if self.phase == Phase::Requested && stream::is_hung_up(&self.stream) {
            // The client gave up. A guest that answers nothing must not keep its place for ever.
            return if self.owes_opening { Fate::Ends } else { Fate::Reset };
        }
        self.may_read = true;
        self.flush()
    }

    /// Takes a packet from the guest, with its payload.
    pub(super) fn take(&mut self, packet: &Packet, payload: &[IoBuffer]) -> Fate {
        self.guest = packet.credit;
        self.asked_for_credit = false;
        match (self.phase, packet.operation) {
            (_, Operation::Reset) => Fate::Ends,
            (Phase::Requested, Operation::Response) => self.opened(),
            (Phase::Open, Operation::Data) => self.take_data(packet.length, payload),
            (Phase::Open, Operation::Shutdown) => {
                self.guest_receives &= packet.flags & NO_MORE_RECEIVING == 0;
                self.guest_sends &= packet.flags & NO_MORE_SENDING == 0;
                self.flush()
            }
            (_, Operation::CreditUpdate) => Fate::Lives,
            (_, Operation::CreditRequest) => {
                self.owes_credit = true;
                Fate::Lives
            }
            (_, Operation::Request | Operation::Response | Operation::Data | Operation::Shutdown) => {
                Fate::Reset
            }
        }
    }

    fn opened(&mut self) -> Fate {
        self.phase = Phase::Open;
        let line = format!("OK {}\n", self.ports.host);
        // A fresh socket has room for a line; if it has not, its client is gone.
        match (&self.stream).write(line.as_bytes()) {
            Ok(written) if written == line.len() => Fate::Lives,
            _ => Fate::Reset,
        }
    }

    fn take_data(&mut self, length: u32, payload: &[IoBuffer]) -> Fate {
        let kept = u32::try_from(self.backlog.len()).unwrap_or(u32::MAX);
        if !self.guest_sends || length > BACKLOG_BYTES.saturating_sub(kept) {
            return Fate::Reset;
        }
        let mut passed = 0;
        if self.backlog.is_empty() && length > 0 {
            match stream::send(&self.stream, payload) {
                Ok(sent) => passed = sent,
                Err(error) if is_for_later(&error) => {}
                Err(_) => return Fate::Reset,
            }
        }
        self.pass(passed);
        for piece in payload {
            let skipped = passed.min(piece.len());
            passed -= skipped;
            let rest = piece.part(skipped, usize::MAX);
            let start = self.backlog.len();
            self.backlog.resize(start + rest.len(), 0);
            let (front, back) = self.backlog.as_mut_slices();
            if start < front.len() {
                let copied = rest.copy_to(&mut front[start..]);
                rest.part(copied, usize::MAX).copy_to(back);
            } else {
                let start = start - front.len();
                rest.copy_to(&mut back[start..]);
            }
        }
        Fate::Lives
    }

    /// The host took so many bytes. The guest hears of it at the latest when half of its room is used up.
    fn pass(&mut self, bytes: usize) {
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(bytes).unwrap_or(0));
        self.owes_credit |= self.forwarded.wrapping_sub(self.forwarded_told) >= BACKLOG_BYTES / 2;
    }

    /// Writes what is kept for the host, and ends what the guest wants ended when all is written.
    fn flush(&mut self) -> Fate {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match (&self.stream).write(front) {
                Ok(written) => {
                    self.backlog.drain(..written);
                    self.pass(written);
                }
                Err(error) if is_for_later(&error) => return Fate::Lives,
                Err(_) => return Fate::Reset,
            }
        }
        if !self.guest_sends {
            if !self.guest_receives {
                return Fate::Reset;
            }
            if !std::mem::replace(&mut self.is_ended, true) {
                // The socket may be closed by now, and then there is nothing to end.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        Fate::Lives
    }

    /// How many bytes the guest has room for.
    fn room(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.guest.forwarded);
        usize::try_from(self.guest.allocated.saturating_sub(under_way)).unwrap_or(0)
    }

    /// The next packet that the guest is owed, if any is; data are in `room`, which is what a packet's payload may
    /// fill, first cut to what the guest takes by `cut`.
    pub(super) fn next_packet(
        &mut self,
        cut: impl FnOnce(usize) -> Vec<IoBuffer>,
    ) -> Result<Option<Packet>, Fate> {
        if std::mem::take(&mut self.owes_opening) {
            let is_ours = self.phase == Phase::Requested;
            return Ok(Some(self.packet(if is_ours { Operation::Request } else { Operation::Response })));
        }
        if self.phase != Phase::Open {
            return Ok(None);
        }
        if self.owes_credit {
            return Ok(Some(self.packet(Operation::CreditUpdate)));
        }
        if self.may_read && self.guest_receives && self.host_done & NO_MORE_SENDING == 0 {
            let room = self.room();
            if room > 0 {
                if let Some(length) = self.read(&cut(room))? {
                    let packet = Packet { length, ..self.packet(Operation::Data) };
                    self.sent = self.sent.wrapping_add(length);
                    return Ok(Some(packet));
                }
            } else if !std::mem::replace(&mut self.asked_for_credit, true) {
                return Ok(Some(self.packet(Operation::CreditRequest)));
            }
        }
        if self.host_done != self.host_done_told {
            self.host_done_told = self.host_done;
            return Ok(Some(Packet { flags: self.host_done, ..self.packet(Operation::Shutdown) }));
        }
        Ok(None)
    }

    /// Reads into `room`; `None` when there is nothing now, or no more at all.
    fn read(&mut self, room: &[IoBuffer]) -> Result<Option<u32>, Fate> {
        if room.is_empty() {
            return Ok(None);
        }
        match stream::receive(&self.stream, room) {
            Ok(0) => {
                self.may_read = false;
                let hung_up = if stream::is_hung_up(&self.stream) { NO_MORE_RECEIVING } else { 0 };
                self.host_done |= NO_MORE_SENDING | hung_up;
                Ok(None)
            }
            Ok(length) => Ok(u32::try_from(length).ok()),
            Err(error) if is_for_later(&error) => {
                self.may_read = false;
                Ok(None)
            }
            Err(_) => Err(Fate::Reset),
        }
    }

    /// A packet without payload. It tells the guest what the host has taken.
    fn packet(&mut self, operation: Operation) -> Packet {
        (self.forwarded_told, self.owes_credit) = (self.forwarded, false);
        let credit = Credit { allocated: BACKLOG_BYTES, forwarded: self.forwarded };
        Packet { operation, ports: self.ports, length: 0, flags: 0, credit }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
