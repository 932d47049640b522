//! The disk's side: serves the queues of one guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::QueueT;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::message::{
    CONFIG_CHANGED, Form, Malformed, Message, Region, Request, encode_in_flight, receive, send,
};
use super::{PROTOCOL_FEATURES, protocol};
use crate::memory::{Memory, is_sealed};
use crate::poll::event_fd;
use crate::virtio::block::{Block, BlockSpec};
use crate::virtio::in_flight::{InFlightRegion, RegionSpec};
use crate::virtio::queue::layout;
use crate::virtio::worker::WorkerThread;
use crate::virtio::{
    Activation, ActiveQueue, DeviceSignals, Interrupt, InterruptVectors, QueueError, RegionError,
    VirtioDevice, feature,
};

const QUEUE_SIZE_MAX: u16 = 32768;
/// A frontend that hears nothing for so long is left: whoever serves others too must come to an end.
const PATIENCE: Duration = Duration::from_secs(10);
const PROTOCOL: u64 =
    protocol::MQ | protocol::REPLY_ACK | protocol::BACKEND_REQ | protocol::CONFIG | protocol::IN_FLIGHT;

/// Why a connection ended otherwise than by the frontend's wish.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot {operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("the frontend speaks another protocol: {reason}")]
    Protocol { reason: String },
    #[error("the frontend names ring {ring}; there are {count}")]
    Ring { ring: u32, count: usize },
    #[error("the frontend's ring {ring}")]
    Layout { ring: usize, source: QueueError },
    #[error("the frontend places a ring at {at:#x}, which is outside of the memory that it told")]
    Address { at: u64 },
    #[error("the frontend's memory can be cut short; it must be a memfd with F_SEAL_SHRINK")]
    NotSealed,
    #[error("the frontend's memory at {guest:#x} cannot be mapped: {reason}")]
    Memory { guest: u64, reason: String },
    #[error("the frontend's region of what is in flight")]
    InFlight { source: RegionError },
    #[error("the frontend's region of what is in flight has no place for ring {ring} of {size}")]
    InFlightRing { ring: usize, size: u16 },
    #[error(
        "who served the disk before ended without {writes} writes being flushed; they may be lost, and the guest cannot go on as if \
         nothing were"
    )]
    Unflushed { writes: u64 },
}

impl From<Malformed> for BackendError {
    fn from(malformed: Malformed) -> Self {
        BackendError::Protocol { reason: malformed.to_string() }
    }
}

/// A disk for one guest in another process.
pub struct Backend {
    stream: UnixStream,
    block: Arc<Block>,
    /// One for each ring.
    workers: Vec<WorkerThread>,
    rings: Vec<RingState>,
    features: u64,
    protocol: u64,
    memory: Option<Memory>,
    regions: Vec<Region>,
    in_flight: Option<Arc<InFlightRegion>>,
    channel: Option<UnixStream>,
    /// Written to when the configuration space is another.
    config: InterruptVectors,
}

/// A ring as the frontend has told it so far.
#[derive(Default)]
struct RingState {
    size: u16,
    /// Guest addresses of descriptors, available and used ring.
    places: [u64; 3],
    base: u16,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    error: Option<EventFd>,
    is_enabled: bool,
    is_running: bool,
}

impl Backend {
    /// Takes a connection of a frontend for the disk that `spec` says; `enter` runs first on each of its threads.
    ///
    /// # Errors
    /// When the disk or the host has no queue or thread to give.
    pub fn new(stream: UnixStream, spec: BlockSpec, enter: fn()) -> io::Result<Self> {
        let (block, parts) = Block::new(spec)?;
        let workers: Vec<WorkerThread> = parts
            .workers
            .into_iter()
            .map(|part| WorkerThread::spawn(part, enter))
            .collect::<io::Result<_>>()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let config: InterruptVectors = Arc::from([EventFd::new(EFD_NONBLOCK)?]);
        let interrupt = Interrupt::new(config.clone());
        interrupt.choose(0);
        block.attach(Arc::new(DeviceSignals::new(interrupt, None)));
        Ok(Backend {
            stream,
            block,
            rings: workers.iter().map(|_| RingState::default()).collect(),
            workers,
            features: 0,
            protocol: 0,
            memory: None,
            regions: Vec::new(),
            in_flight: None,
            channel: None,
            config,
        })
    }

    /// The disk, whose size may change: see [`Block::refresh_size`].
    pub fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// Serves until the frontend closes the connection, or the caller shuts it down for reading. Then all that was asked is carried out,
    /// answered and flushed, nothing touches the frontend's memory any more, and only then the connection is closed: who sees its end can
    /// have the guest served by another.
    ///
    /// # Errors
    /// [`BackendError`]
    pub fn serve(mut self) -> Result<(), BackendError> {
        let outcome = self.converse();
        (0..self.rings.len()).for_each(|index| self.stop(index));
        outcome
    }

    fn converse(&mut self) -> Result<(), BackendError> {
        let failed = |operation| move |source| BackendError::Io { operation, source };
        loop {
            let (is_asked, is_changed) = self.wait().map_err(failed("wait for the frontend"))?;
            if is_changed {
                let _ = self.config[0].read();
                if let Some(channel) = &self.channel {
                    send(channel, CONFIG_CHANGED, Form::Plain, &[], &[])
                        .map_err(failed("tell the frontend of another size"))?;
                }
            }
            if is_asked {
                let Some(message) = receive(&self.stream).map_err(failed("hear the frontend"))? else {
                    return Ok(());
                };
                self.obey(message)?;
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut watched = [
            PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(event_fd(&self.config[0]), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => return Ok((false, false)),
            result => result?,
        };
        let [asked, changed] = watched.map(|watched| watched.any().unwrap_or(false));
        Ok((asked, changed))
    }

    fn obey(&mut self, message: Message) -> Result<(), BackendError> {
        let Message { number, wants_confirmation, body, descriptors, .. } = message;
        let failed = |source| BackendError::Io { operation: "answer the frontend", source };
        let request = Request::decode(number, &body)?;
        if let Request::GetInFlight(RegionSpec { queues, queue_size, .. }) = request {
            let region = InFlightRegion::create(queues, queue_size);
            let (file, spec) = region.map_err(|source| BackendError::Io {
                operation: "make a region of what is in flight",
                source,
            })?;
            return send(&self.stream, number, Form::Reply, &encode_in_flight(&spec), &[file.as_fd()])
                .map_err(failed);
        }
        let reply = self.carry_out(request, descriptors)?;
        let confirmation = wants_confirmation && self.protocol & protocol::REPLY_ACK != 0;
        match reply.or_else(|| confirmation.then(|| vec![0; 8])) {
            Some(reply) => send(&self.stream, number, Form::Reply, &reply, &[]).map_err(failed),
            None => Ok(()),
        }
    }

    /// Says what is to be answered, if it is more than that it is done.
    fn carry_out(
        &mut self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<Vec<u8>>, BackendError> {
        let number = |number: u64| Some(number.to_le_bytes().to_vec());
        match request {
            Request::GetFeatures => return Ok(number(self.offered())),
            Request::SetFeatures(features) => {
                let known = self.offered();
                self.with_all_stopped(|backend| {
                    backend.features = features & known;
                    Ok(())
                })?;
            }
            Request::SetOwner => {}
            Request::GetProtocolFeatures => return Ok(number(PROTOCOL)),
            Request::SetProtocolFeatures(features) => self.protocol = features & PROTOCOL,
            Request::GetQueueCount => return Ok(number(self.rings.len() as u64)),
            Request::SetMemory(regions) => {
                let memory = map(&regions, descriptors)?;
                self.with_all_stopped(|backend| {
                    backend.memory = Some(memory);
                    backend.regions = regions;
                    Ok(())
                })?;
            }
            Request::SetInFlight(spec) => {
                let region = in_flight(&spec, descriptors)?;
                self.with_all_stopped(|backend| {
                    backend.in_flight = Some(Arc::new(region));
                    Ok(())
                })?;
            }
            Request::SetBackendChannel => {
                self.channel = descriptors.into_iter().next().map(UnixStream::from);
                if let Some(channel) = &self.channel {
                    let operation = "bound the time that the frontend may take to hear";
                    let bounded = channel.set_write_timeout(Some(PATIENCE));
                    bounded.map_err(|source| BackendError::Io { operation, source })?;
                }
            }
            Request::GetConfig { offset, bytes } => return Ok(Some(self.config(offset, bytes))),
            ring => return self.carry_out_for_ring(ring, descriptors),
        }
        Ok(None)
    }

    fn carry_out_for_ring(
        &mut self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<Vec<u8>>, BackendError> {
        let event = || descriptors.into_iter().next().map(event).transpose();
        match request {
            Request::SetRingSize { ring, size } => {
                let size = u16::try_from(size).unwrap_or(0);
                self.change(ring, |state| state.size = size)?;
            }
            Request::SetRingAddresses { ring, descriptors, used, available } => {
                let places = [descriptors, available, used].map(|at| self.guest_address(at));
                let [descriptors, available, used] = places;
                let places = [descriptors?, available?, used?];
                self.change(ring, |state| state.places = places)?;
            }
            Request::SetRingBase { ring, base } => {
                let base = u16::try_from(base).unwrap_or(0);
                self.change(ring, |state| state.base = base)?;
            }
            Request::GetRingBase { ring } => {
                let index = self.index(ring)?;
                self.stop(index);
                // It runs again when it is given a kick again.
                self.rings[index].kick = None;
                let state = u64::from(ring) | u64::from(self.rings[index].base) << 32;
                return Ok(Some(state.to_le_bytes().to_vec()));
            }
            Request::SetRingKick { ring, .. } => {
                let kick = event()?;
                self.change(u32::from(ring), |state| state.kick = kick)?;
            }
            Request::SetRingCall { ring, .. } => {
                let call = event()?;
                self.change(u32::from(ring), |state| state.call = call)?;
            }
            Request::SetRingError { ring, .. } => {
                let error = event()?;
                self.change(u32::from(ring), |state| state.error = error)?;
            }
            Request::EnableRing { ring, enabled } => self.change(ring, |state| state.is_enabled = enabled)?,
            other => return Err(Malformed::Unknown { number: other.encode().0 }.into()),
        }
        Ok(None)
    }

    fn offered(&self) -> u64 {
        let transport = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;
        self.block.features() | transport | PROTOCOL_FEATURES
    }

    /// A piece of the configuration space, after what was asked.
    fn config(&self, offset: u32, bytes: u32) -> Vec<u8> {
        // What a message holds at most; the space is shorter.
        let bytes = bytes.min(256);
        let mut piece = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.block.read_config(u64::from(offset), &mut piece);
        let mut reply = Vec::new();
        [offset, bytes, 0].iter().for_each(|word| reply.extend(word.to_le_bytes()));
        reply.extend(piece);
        reply
    }

    fn index(&self, ring: u32) -> Result<usize, BackendError> {
        let index = usize::try_from(ring).ok().filter(|index| *index < self.rings.len());
        index.ok_or(BackendError::Ring { ring, count: self.rings.len() })
    }

    fn guest_address(&self, at: u64) -> Result<u64, BackendError> {
        let place = self.regions.iter().find_map(|region| {
            let inside = at.checked_sub(region.frontend).filter(|inside| *inside < region.bytes)?;
            region.guest.checked_add(inside)
        });
        place.ok_or(BackendError::Address { at })
    }

    /// Changes a ring, which stands still meanwhile, and runs afterwards if it can.
    fn change(&mut self, ring: u32, change: impl FnOnce(&mut RingState)) -> Result<(), BackendError> {
        let index = self.index(ring)?;
        self.stop(index);
        change(&mut self.rings[index]);
        self.start(index)
    }

    fn with_all_stopped(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        (0..self.rings.len()).for_each(|index| self.stop(index));
        change(self)?;
        (0..self.rings.len()).try_for_each(|index| self.start(index))
    }

    /// Waits until all that was taken is answered. Then the ring's base is where the answers stand, since each request has its own.
    fn stop(&mut self, index: usize) {
        if !std::mem::take(&mut self.rings[index].is_running) {
            return;
        }
        self.workers[index].pause();
        self.workers[index].stop();
        if let Some(used) = self.used_index(index) {
            self.rings[index].base = used;
        }
    }

    fn used_index(&self, index: usize) -> Option<u16> {
        let at = GuestAddress(self.rings[index].places[2].checked_add(2)?);
        self.memory.as_ref()?.read_obj::<u16>(at).ok().map(u16::from_le)
    }

    /// Serves a ring of which all is known.
    fn start(&mut self, index: usize) -> Result<(), BackendError> {
        let failed = |operation| move |source| BackendError::Io { operation, source };
        let Some(memory) = self.memory.clone() else { return Ok(()) };
        let Some(used) = self.used_index(index) else { return Ok(()) };
        let ring = &mut self.rings[index];
        let (Some(kick), true) = (&ring.kick, ring.is_enabled && ring.size > 0) else { return Ok(()) };
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let in_flight = match &self.in_flight {
            None => None,
            Some(region) => {
                let part = region.queue(number, ring.size);
                Some(part.ok_or(BackendError::InFlightRing { ring: index, size: ring.size })?)
            }
        };
        let mut queue = layout(QUEUE_SIZE_MAX, ring.size, ring.places)
            .map_err(|source| BackendError::Layout { ring: index, source })?;
        queue.set_next_avail(ring.base);
        queue.set_next_used(used);
        let copy = |event: &EventFd| event.try_clone().map_err(failed("keep an eventfd"));
        let calls: InterruptVectors = ring.call.as_ref().map(copy).transpose()?.into_iter().collect();
        let interrupt = Interrupt::new(calls);
        interrupt.choose(0);
        let none = Interrupt::new(Arc::from([]));
        let signals = Arc::new(DeviceSignals::new(none, ring.error.as_ref().map(copy).transpose()?));
        let active = ActiveQueue {
            index: number,
            queue,
            kick: copy(kick)?,
            interrupt,
            memory: memory.clone(),
            in_flight,
        };
        ring.is_running = true;
        let features = self.features;
        self.workers[index].start(Activation { queues: vec![active], features, memory, signals });
        Ok(())
    }
}

/// Maps what a frontend says its guest's memory is.
fn map(regions: &[Region], files: Vec<OwnedFd>) -> Result<Memory, BackendError> {
    if files.len() != regions.len() {
        let reason = format!("{} regions of memory with {} files", regions.len(), files.len());
        return Err(BackendError::Protocol { reason });
    }
    let mut mapped = Vec::new();
    for (region, file) in regions.iter().zip(files) {
        if !is_sealed(&file) {
            return Err(BackendError::NotSealed);
        }
        let memory = |reason: String| BackendError::Memory { guest: region.guest, reason };
        let bytes = usize::try_from(region.bytes).map_err(|error| memory(error.to_string()))?;
        let file = File::from(file);
        let length = file.metadata().map_err(|error| memory(error.to_string()))?.len();
        // Whoever touches what is mapped beyond a file's end is ended by a signal.
        if region.offset.checked_add(region.bytes).is_none_or(|end| end > length) {
            return Err(memory(format!("its file has {length} bytes")));
        }
        let place = FileOffset::new(file, region.offset);
        let piece = GuestRegionMmap::from_range(GuestAddress(region.guest), bytes, Some(place));
        mapped.push(piece.map_err(|error| memory(error.to_string()))?);
    }
    let memory = GuestMemoryMmap::from_regions(mapped);
    let guest = regions.first().map_or(0, |region| region.guest);
    memory.map(Arc::new).map_err(|error| BackendError::Memory { guest, reason: error.to_string() })
}

/// Takes a region in which something may be in flight.
fn in_flight(spec: &RegionSpec, files: Vec<OwnedFd>) -> Result<InFlightRegion, BackendError> {
    let Ok([file]) = <[OwnedFd; 1]>::try_from(files) else {
        let reason = "a region of what is in flight comes with one file".to_owned();
        return Err(BackendError::Protocol { reason });
    };
    let region = InFlightRegion::map(file, spec).map_err(|source| BackendError::InFlight { source })?;
    match region.unflushed() {
        0 => Ok(region),
        writes => Err(BackendError::Unflushed { writes }),
    }
}

/// Takes what a frontend says is an eventfd. It may be something else, on which a write would wait for ever.
fn event(descriptor: OwnedFd) -> Result<EventFd, BackendError> {
    use std::os::fd::{FromRawFd, IntoRawFd};
    let flags = fcntl(&descriptor, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    flags
        .and_then(|flags| fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)))
        .map_err(|error| BackendError::Io { operation: "take an eventfd", source: error.into() })?;
    // SAFETY: the descriptor is owned, and owned by nobody else afterwards.
    Ok(unsafe { EventFd::from_raw_fd(descriptor.into_raw_fd()) })
}
