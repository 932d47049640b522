//! What a frontend says to a backend, and is answered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::frontend::FrontendError;
use super::message::{CONFIG_CHANGED, Form, Message, Region, Request, decode_in_flight, receive, send};
use super::{PROTOCOL_FEATURES, protocol};
use crate::memory::{GuestRam, Memory};
use crate::poll::event_fd;
use crate::virtio::block::feature as block;
use crate::virtio::in_flight::{InFlightRegion, RegionSpec};
use crate::virtio::{ActiveQueue, feature};

/// A backend that does not answer for so long is taken to be broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long where it has requests to carry out first.
const PATIENCE_WITH_REQUESTS: Duration = Duration::from_secs(60);
/// How long one with which no conversation is possible may take to end.
const PATIENCE_AT_END: Duration = Duration::from_secs(5);

/// virtio 1.2, 5.2.4.
pub(super) const CONFIG_BYTES: u32 = 60;

/// To a backend that has agreed to what is needed.
pub(super) struct Connection {
    stream: UnixStream,
    /// On which it says what it is not asked.
    channel: Option<UnixStream>,
    confirms: bool,
    /// It keeps what is in flight.
    pub(super) tracks: bool,
}

/// What a backend has to offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) features: u64,
    pub(super) queues: u16,
    pub(super) config: Vec<u8>,
}

/// What is in flight at a backend, kept for the next one.
pub(super) struct Kept {
    /// None if it cannot be relied on: then what is in flight is not known here.
    pub(super) region: Option<Arc<InFlightRegion>>,
    file: std::fs::File,
    spec: RegionSpec,
}

impl Connection {
    /// Agrees with the backend upon what both can.
    ///
    /// # Errors
    /// [`FrontendError`]
    pub(super) fn negotiate(stream: UnixStream) -> Result<(Self, Offer), FrontendError> {
        let failed = |operation| move |source| FrontendError::Io { operation, source };
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(failed("bound the time that the disk's backend may take"))?;
        let mut backend = Connection { stream, channel: None, confirms: false, tracks: false };
        let ask = failed("ask the disk's backend");
        let features = backend.number(&Request::GetFeatures).map_err(&ask)?;
        for (bits, what) in [
            (PROTOCOL_FEATURES, "protocol features"),
            (feature::VERSION_1, "virtio 1"),
            (feature::EVENT_IDX, "event indexes"),
            (feature::INDIRECT_DESC, "indirect descriptors"),
        ] {
            if features & bits == 0 {
                return Err(FrontendError::Lacks { what });
            }
        }
        backend.order(&Request::SetOwner, &[]).map_err(&ask)?;
        let known = protocol::MQ
            | protocol::REPLY_ACK
            | protocol::BACKEND_REQ
            | protocol::CONFIG
            | protocol::IN_FLIGHT;
        let agreed = backend.number(&Request::GetProtocolFeatures).map_err(&ask)? & known;
        for (bits, what) in
            [(protocol::REPLY_ACK, "confirmations"), (protocol::CONFIG, "a configuration space")]
        {
            if agreed & bits == 0 {
                return Err(FrontendError::Lacks { what });
            }
        }
        backend.order(&Request::SetProtocolFeatures(agreed), &[]).map_err(&ask)?;
        backend.confirms = true;
        backend.tracks = agreed & protocol::IN_FLIGHT != 0;
        if agreed & protocol::BACKEND_REQ != 0 {
            let (ours, theirs) = UnixStream::pair().map_err(failed("make a pair of sockets"))?;
            backend.order(&Request::SetBackendChannel, &[theirs.as_fd()]).map_err(&ask)?;
            backend.channel = Some(ours);
        }
        let has_several = agreed & protocol::MQ != 0 && features & block::MQ != 0;
        let queues = if has_several { backend.number(&Request::GetQueueCount).map_err(&ask)? } else { 1 };
        let config = backend.config().map_err(&ask)?;
        if config.len() != CONFIG_BYTES as usize {
            return Err(FrontendError::Config { bytes: config.len() });
        }
        let queues = u16::try_from(queues).unwrap_or(u16::MAX);
        Ok((backend, Offer { features, queues, config }))
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn channel(&self) -> Option<&UnixStream> {
        self.channel.as_ref()
    }

    /// Whether the backend has closed the connection. Nothing is said there unasked, and what is left of answers is of no use.
    pub(super) fn has_ended(&self) -> bool {
        self.ends_within(PollTimeout::ZERO)
    }

    /// Ends the conversation. False when the backend, for as long as one can wait, does not: it may still do anything to the memory.
    pub(super) fn hang_up(&self) -> bool {
        // It may have ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self.ends_within(PollTimeout::try_from(PATIENCE_AT_END).unwrap_or(PollTimeout::MAX))
    }

    fn ends_within(&self, timeout: PollTimeout) -> bool {
        // The end of both directions is told whether it is asked for or not.
        let mut watched = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut watched, timeout).is_ok() && watched[0].any().unwrap_or(true)
    }

    /// Has something done, and waits until it is.
    pub(super) fn order(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (number, body) = request.encode();
        if !self.confirms {
            return send(&self.stream, number, Form::Plain, &body, descriptors);
        }
        send(&self.stream, number, Form::Confirmed, &body, descriptors)?;
        match self.reply(request)?.body.get(..8) {
            Some([0, 0, 0, 0, 0, 0, 0, 0]) => Ok(()),
            _ => Err(io::Error::other(format!("the backend refuses {request:?}"))),
        }
    }

    /// Asks what is answered by other than a confirmation.
    fn ask(&mut self, request: &Request) -> io::Result<Message> {
        let (number, body) = request.encode();
        send(&self.stream, number, Form::Plain, &body, &[])?;
        self.reply(request)
    }

    fn number(&mut self, request: &Request) -> io::Result<u64> {
        let reply = self.ask(request)?.body;
        let bytes = reply.try_into().map_err(|_| io::Error::other("the backend's answer is no number"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn reply(&mut self, request: &Request) -> io::Result<Message> {
        let patience = match request {
            // It carries out what it has of the ring.
            Request::GetRingBase { .. } | Request::SetRingCall { .. } => PATIENCE_WITH_REQUESTS,
            _ => PATIENCE,
        };
        if !is_readable(&self.stream, patience)? {
            let what = format!("the backend does not answer {request:?} within {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        let reply = receive(&self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if reply.number != request.encode().0 || !reply.is_reply {
            return Err(io::Error::other("the backend answers something else than it was asked"));
        }
        Ok(reply)
    }

    /// The configuration space.
    pub(super) fn config(&mut self) -> io::Result<Vec<u8>> {
        let reply = self.ask(&Request::GetConfig { offset: 0, bytes: CONFIG_BYTES })?;
        Ok(reply.body.get(12..).unwrap_or_default().to_vec())
    }

    /// A new region for what will be in flight, if the backend keeps that.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn new_region(&mut self, queues: u16, queue_size: u16) -> io::Result<Option<Kept>> {
        if !self.tracks {
            return Ok(None);
        }
        let asked = RegionSpec { bytes: 0, offset: 0, queues, queue_size };
        let Message { body, descriptors, .. } = self.ask(&Request::GetInFlight(asked))?;
        let spec = decode_in_flight(&body).map(|spec| RegionSpec { queues, queue_size, ..spec });
        let (Some(spec), Some(file)) = (spec, descriptors.into_iter().next()) else {
            return Err(io::Error::other("the backend's answer is no region of what is in flight"));
        };
        let file = std::fs::File::from(file);
        let region = InFlightRegion::map(file.try_clone()?.into(), &spec).ok().map(Arc::new);
        Ok(Some(Kept { region, file, spec }))
    }

    /// Gives the backend the region that a former one had, or that it made itself.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn set_region(&mut self, kept: &Kept) -> io::Result<()> {
        self.order(&Request::SetInFlight(kept.spec), &[kept.file.as_fd()])
    }

    /// Has the driver's features and memory used.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn set_guest(
        &mut self,
        features: u64,
        table: (Vec<Region>, Vec<BorrowedFd<'_>>),
    ) -> io::Result<()> {
        self.order(&Request::SetFeatures(features | PROTOCOL_FEATURES), &[])?;
        self.order(&Request::SetMemory(table.0), &table.1)
    }

    /// Has a ring served, whose next request is the one at `base`.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn give(
        &mut self,
        ram: &GuestRam,
        active: &ActiveQueue,
        base: u16,
        error: &EventFd,
    ) -> io::Result<()> {
        let ring = u32::from(active.index);
        let number = u8::try_from(active.index).map_err(io::Error::other)?;
        let [descriptors, available, used] = places(ram, active)?;
        self.order(&Request::SetRingSize { ring, size: u32::from(active.queue.size()) }, &[])?;
        self.order(&Request::SetRingAddresses { ring, descriptors, used, available }, &[])?;
        self.order(&Request::SetRingBase { ring, base: u32::from(base) }, &[])?;
        self.call(active)?;
        self.order(&Request::SetRingError { ring: number, is_given: true }, &[event_fd(error)])?;
        self.order(&Request::SetRingKick { ring: number, is_given: true }, &[event_fd(&active.kick)])?;
        self.order(&Request::EnableRing { ring, enabled: true }, &[])?;
        // Requests may wait whose kick somebody else has taken. The counter can only be at its end when there is a kick.
        let _ = active.kick.write(1);
        Ok(())
    }

    /// Has the driver told by the vector that it has chosen for a ring.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn call(&mut self, active: &ActiveQueue) -> io::Result<()> {
        let number = u8::try_from(active.index).map_err(io::Error::other)?;
        let call: Vec<_> = active.interrupt.event().map(event_fd).into_iter().collect();
        self.order(&Request::SetRingCall { ring: number, is_given: !call.is_empty() }, &call)
    }

    /// Stops a ring, and says where it stands.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn stop(&mut self, ring: u16) -> io::Result<u16> {
        let state = self.number(&Request::GetRingBase { ring: u32::from(ring) })?.to_le_bytes();
        Ok(u16::from_le_bytes([state[4], state[5]]))
    }

    /// Hears what the backend says unasked; true if that is that the configuration is another.
    ///
    /// # Errors
    /// What the conversation ends by.
    pub(super) fn hear(&mut self) -> io::Result<bool> {
        let Some(channel) = &self.channel else { return Ok(false) };
        let mut is_changed = false;
        while is_readable(channel, Duration::ZERO)? {
            let message = receive(channel)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let is_known = message.number == CONFIG_CHANGED;
            is_changed |= is_known;
            if message.wants_confirmation {
                let outcome = u64::from(!is_known);
                send(channel, message.number, Form::Reply, &outcome.to_le_bytes(), &[])?;
            }
        }
        Ok(is_changed)
    }
}

fn is_readable(stream: &UnixStream, patience: Duration) -> io::Result<bool> {
    let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut watched, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// Where the parts of a ring are in this process: descriptors, available and used ring.
///
/// # Errors
/// When the driver placed them outside of its memory.
pub(super) fn places(ram: &GuestRam, active: &ActiveQueue) -> io::Result<[u64; 3]> {
    let place = |guest: u64| {
        let host = ram.get_host_address(GuestAddress(guest)).map_err(io::Error::other)?;
        Ok::<_, io::Error>(host.addr() as u64)
    };
    let queue = &active.queue;
    Ok([place(queue.desc_table())?, place(queue.avail_ring())?, place(queue.used_ring())?])
}

/// The table of memories that a backend is to map, with their files.
///
/// # Errors
/// When the memory is private.
pub(super) fn table<'a>(
    memories: impl IntoIterator<Item = &'a Memory>,
) -> io::Result<(Vec<Region>, Vec<BorrowedFd<'a>>)> {
    let mut regions = Vec::new();
    let mut files = Vec::new();
    for region in memories.into_iter().flat_map(|memory| memory.iter()) {
        let file = region.file_offset().ok_or_else(|| {
            io::Error::other(
                "the guest's memory is private; a disk that is served elsewhere needs shared memory",
            )
        })?;
        regions.push(Region {
            guest: region.start_addr().0,
            bytes: region.len(),
            frontend: region.as_ptr().addr() as u64,
            offset: file.start(),
        });
        files.push(file.file().as_fd());
    }
    Ok((regions, files))
}
