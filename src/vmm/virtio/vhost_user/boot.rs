//! Reading a disk that another process serves, before there is a guest: what firmware does to load a kernel.
//!
//! A [`BootReader`] is the driver of one queue, in a small memory of its own. Each thread that reads has a slot there, and asks for one
//! piece at a time; so as many are asked for at once as there are readers, up to [`SLOTS`]. It negotiates nothing
//! that a device of virtio 1 could lack, so any backend will do. When a [`BootSession`] is over the queue is stopped, and the guest's
//! driver finds a device that nobody has used.
//!
//! ```text
//! 0x0000  descriptors, three a slot: header, data, status     0x3000  headers, 16 bytes a slot     0x10_0000  data, 1 MiB a slot
//! 0x1000  available ring     0x2000  used ring                0x3800  status, a byte a slot
//! ```
//!
//! The memory has addresses that no guest's has, so that a backend can be told of both.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use volume::{BlockBackend, BlockQueue, SECTOR_BYTES};

use super::connection::table;
use super::frontend::RemoteDisk;
use crate::memory::{self, Memory, RAM_BYTES_MAX, sealed_file};
use crate::poll::event_fd;
use crate::virtio::queue::layout;
use crate::virtio::{ActiveQueue, Interrupt, InterruptVectors, feature};

/// A read that takes so long is given up. What it asks for may have to be fetched from far away first.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many reads are under way at once: a kernel is loaded by as many threads.
const SLOTS: u16 = 4;
/// Of a slot: header, data, status.
const DESCRIPTORS_EACH: u16 = 3;
/// A power of two that has room for those of all slots.
const SIZE: u16 = 16;
/// Beyond all RAM.
const DESCRIPTORS: u64 = RAM_BYTES_MAX * 2;
const AVAILABLE: u64 = DESCRIPTORS + 0x1000;
const USED: u64 = DESCRIPTORS + 0x2000;
const HEADERS: u64 = DESCRIPTORS + 0x3000;
const STATUSES: u64 = DESCRIPTORS + 0x3800;
const DATA: u64 = DESCRIPTORS + 0x10_0000;
const DATA_BYTES: u64 = 1 << 20;
const MEMORY_BYTES: u64 = (1 << 20) + SLOTS as u64 * DATA_BYTES;

/// Descriptor flags (virtio 1.2, 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// What no device answers (virtio 1.2, 5.2.6).
const NO_STATUS: u8 = 0xff;

/// The way to a disk before the guest's. It is made before the process is jailed.
pub struct BootReader {
    remote: Arc<RemoteDisk>,
    memory: Memory,
    kick: EventFd,
    vectors: InterruptVectors,
    /// Nobody looks at it.
    error: EventFd,
}

impl BootReader {
    /// # Errors
    /// When the host has no memory or descriptor to give.
    pub fn new(remote: Arc<RemoteDisk>) -> io::Result<Arc<Self>> {
        let event = || EventFd::new(EFD_NONBLOCK);
        let place = FileOffset::new(sealed_file("boot", MEMORY_BYTES)?, 0);
        let bytes = usize::try_from(MEMORY_BYTES).map_err(io::Error::other)?;
        let region = GuestRegionMmap::from_range(GuestAddress(DESCRIPTORS), bytes, Some(place));
        let memory = GuestMemoryMmap::from_regions(vec![region.map_err(io::Error::other)?]);
        let memory = Arc::new(memory.map_err(io::Error::other)?);
        remote.memories().boot = Some(Arc::clone(&memory));
        let vectors = Arc::from([event()?]);
        Ok(Arc::new(BootReader { remote, memory, kick: event()?, vectors, error: event()? }))
    }

    /// Has the backend serve the queue, while no driver uses the disk.
    ///
    /// # Errors
    /// When it has ended or does not answer.
    pub fn begin(self: &Arc<Self>) -> io::Result<BootSession> {
        self.remote.adopt();
        let mut connection = self.remote.connection();
        let Some(backend) = connection.as_mut().filter(|backend| !backend.has_ended()) else {
            return Err(io::Error::other("whoever served the disk has ended"));
        };
        memory::clear(&self.memory)?;
        // What an earlier session was told late.
        let _ = (self.kick.read(), self.vectors[0].read());
        let queue = layout(SIZE, SIZE, [DESCRIPTORS, AVAILABLE, USED]).map_err(io::Error::other)?;
        let interrupt = Interrupt::new(self.vectors.clone());
        interrupt.choose(0);
        let (kick, memory) = (self.kick.try_clone()?, Arc::clone(&self.memory));
        let active = ActiveQueue { index: 0, queue, kick, interrupt, memory, in_flight: None };
        backend.set_guest(feature::VERSION_1, table(self.remote.memories().all())?)?;
        if let Some(kept) = backend.new_region(1, SIZE)? {
            backend.set_region(&kept)?;
        }
        backend.give(&self.memory, &active, 0, &self.error)?;
        Ok(BootSession { reader: Arc::clone(self), turns: Mutex::default(), news: Condvar::new() })
    }
}

/// A disk that can be read, until this is dropped.
pub struct BootSession {
    reader: Arc<BootReader>,
    turns: Mutex<Turns>,
    /// A slot is free, or a read was answered, or somebody is to look out for answers.
    news: Condvar,
}

/// Who reads, and how far the queue has come.
#[derive(Default)]
struct Turns {
    slots: [Slot; SLOTS as usize],
    /// How many reads were asked for, and how many answers were seen.
    asked: u16,
    answered: u16,
    /// One of those that wait looks out for answers, for all.
    has_lookout: bool,
    /// Why a slot may still be answered that nobody waits for any more.
    failure: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Free,
    Taken,
    Asked,
}

impl BootSession {
    /// Reads whole blocks into the slot's data, as many as there is room for.
    fn read_blocks(&self, slot: u16, offset: u64, bytes: u64) -> io::Result<()> {
        let ram = &*self.reader.memory;
        let put = |address: u64, bytes: &[u8]| {
            ram.write_slice(bytes, GuestAddress(address)).map_err(io::Error::other)
        };
        let length = u32::try_from(bytes).map_err(io::Error::other)?;
        let (header, status) = (HEADERS + 16 * u64::from(slot), STATUSES + u64::from(slot));
        // The header: VIRTIO_BLK_T_IN and the sector.
        put(header, &[0u64, offset / SECTOR_BYTES].map(u64::to_le_bytes).concat())?;
        put(status, &[NO_STATUS])?;
        let first = slot * DESCRIPTORS_EACH;
        let descriptors = [
            (header, 16, NEXT, first + 1),
            (data(slot), length, NEXT | WRITE, first + 2),
            (status, 1, WRITE, 0),
        ];
        for ((address, length, flags, next), index) in descriptors.into_iter().zip(u64::from(first)..) {
            let descriptor = [
                &address.to_le_bytes()[..],
                &u32::to_le_bytes(length),
                &u16::to_le_bytes(flags),
                &u16::to_le_bytes(next),
            ];
            put(DESCRIPTORS + 16 * index, &descriptor.concat())?;
        }
        let mut turns = self.turns();
        put(AVAILABLE + 4 + 2 * u64::from(turns.asked % SIZE), &first.to_le_bytes())?;
        turns.asked = turns.asked.wrapping_add(1);
        turns.slots[usize::from(slot)] = Slot::Asked;
        let asked = turns.asked.to_le();
        let told = ram.store(asked, GuestAddress(AVAILABLE + 2), Ordering::Release);
        let told = told.map_err(io::Error::other).and_then(|()| self.reader.kick.write(1));
        told.and_then(|()| self.wait_for(slot, turns))
            .inspect_err(|error| self.turns().failure = Some(error.to_string()))?;
        match ram.read_obj::<u8>(GuestAddress(status)).map_err(io::Error::other)? {
            0 => Ok(()),
            status => Err(io::Error::other(format!(
                "whoever serves the disk answers a read of {bytes} bytes at {offset} with status {status}"
            ))),
        }
    }

    /// Waits until what the slot has asked for is answered.
    fn wait_for<'a>(&'a self, slot: u16, mut turns: MutexGuard<'a, Turns>) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            self.see_answers(&mut turns)?;
            if turns.slots[usize::from(slot)] != Slot::Asked {
                return Ok(());
            }
            if turns.has_lookout {
                turns = self.news.wait(turns).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            turns.has_lookout = true;
            drop(turns);
            let looked = self.look_out(until);
            turns = self.turns();
            turns.has_lookout = false;
            self.news.notify_all();
            looked?;
        }
    }

    /// Notes which reads were answered.
    fn see_answers(&self, turns: &mut Turns) -> io::Result<()> {
        let ram = &*self.reader.memory;
        let used: u16 = ram.load(GuestAddress(USED + 2), Ordering::Acquire).map_err(io::Error::other)?;
        while turns.answered != u16::from_le(used) {
            let element = USED + 4 + 8 * u64::from(turns.answered % SIZE);
            let first: u32 = ram.read_obj(GuestAddress(element)).map_err(io::Error::other)?;
            let first = u32::from_le(first);
            let slot = usize::try_from(first / u32::from(DESCRIPTORS_EACH)).ok();
            let slot = slot.filter(|_| first.is_multiple_of(DESCRIPTORS_EACH.into()));
            match slot.and_then(|slot| turns.slots.get_mut(slot)) {
                Some(slot) if *slot == Slot::Asked => *slot = Slot::Taken,
                _ => {
                    let what = format!("whoever serves the disk answers what nobody asked for ({first})");
                    return Err(io::Error::other(what));
                }
            }
            turns.answered = turns.answered.wrapping_add(1);
            self.news.notify_all();
        }
        Ok(())
    }

    /// Waits until there may be an answer.
    fn look_out(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let is_there = self.reader.remote.connection().as_ref().is_some_and(|backend| !backend.has_ended());
        if left.is_zero() || !is_there {
            let seconds = PATIENCE.as_secs();
            let what = if is_there {
                format!("does not answer a read within {seconds} s")
            } else {
                "has ended".into()
            };
            return Err(io::Error::other(format!("whoever serves the disk {what}")));
        }
        // So often it is looked after.
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(1))).unwrap_or(PollTimeout::ZERO);
        let call = event_fd(&self.reader.vectors[0]);
        match poll(&mut [PollFd::new(call, PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            result => drop(result?),
        }
        let _ = self.reader.vectors[0].read();
        Ok(())
    }

    fn take_slot(&self) -> io::Result<SlotTurn<'_>> {
        let mut turns = self.turns();
        loop {
            if let Some(failure) = &turns.failure {
                return Err(io::Error::other(failure.clone()));
            }
            if let Some((slot, state)) = (0..).zip(&mut turns.slots).find(|(_, slot)| **slot == Slot::Free) {
                *state = Slot::Taken;
                return Ok(SlotTurn { session: self, slot });
            }
            turns = self.news.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that is a reader's own until this is dropped.
struct SlotTurn<'a> {
    session: &'a BootSession,
    slot: u16,
}

impl Drop for SlotTurn<'_> {
    fn drop(&mut self) {
        let mut turns = self.session.turns();
        // One that may still be answered is nobody's any more.
        let slot = &mut turns.slots[usize::from(self.slot)];
        if *slot == Slot::Taken {
            *slot = Slot::Free;
        }
        drop(turns);
        self.session.news.notify_all();
    }
}

/// Where a slot's data is.
fn data(slot: u16) -> u64 {
    DATA + DATA_BYTES * u64::from(slot)
}

impl BlockBackend for BootSession {
    fn size_bytes(&self) -> u64 {
        self.reader.remote.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    /// It is read by the host alone.
    fn open_queue(&self, _depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size_bytes());
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let block = self.reader.remote.block_bytes();
        let turn = self.take_slot()?;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let start = at - at % block;
            let within = at - start;
            let wanted = (buffer.len() - done) as u64 + within;
            let bytes = wanted.next_multiple_of(block).min(DATA_BYTES);
            self.read_blocks(turn.slot, start, bytes)?;
            let part = usize::try_from((bytes - within).min((buffer.len() - done) as u64))
                .map_err(io::Error::other)?;
            let into = &mut buffer[done..done + part];
            let from = GuestAddress(data(turn.slot) + within);
            self.reader.memory.read_slice(into, from).map_err(io::Error::other)?;
            done += part;
        }
        Ok(())
    }
}

impl Drop for BootSession {
    /// The device is as if nobody had used it.
    fn drop(&mut self) {
        let mut connection = self.reader.remote.connection();
        let is_stopped = connection.as_mut().is_some_and(|backend| backend.stop(0).is_ok());
        if !is_stopped {
            // Whoever does not stop a queue serves no other. The guest's driver finds that nobody serves its disk.
            *connection = None;
        }
        // What is not given back is not missed.
        let _ = memory::clear(&self.reader.memory);
    }
}
