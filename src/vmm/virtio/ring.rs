//! A split virtqueue (virtio 1.2, 2.7) from the device's side.
//!
//! ```text
//!              0        2        4                                 4 + 2·size
//! available    flags    index    heads: u16 × size                 used_event      driver writes
//! used         flags    index    (head: u32, length: u32) × size   avail_event     device writes
//! descriptor   address: u64   length: u32   flags: u16   next: u16                 16 bytes × size
//! ```
//!
//! [`Ring`] finds the three areas in host memory once and then reads and writes them directly; RAM stays mapped for
//! as long as the ring holds its [`Memory`]. Nothing in them is trusted: each index and descriptor is read once,
//! checked, and used from the copy. Chains that were served become visible to the driver together, when
//! [`Ring::notify`] publishes them: virtio-net needs this for a frame that spans several chains.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemory, Permissions};
use vmm_sys_util::eventfd::EventFd;

use super::in_flight::Tracker;
use super::{ActiveQueue, Buffers, DeviceError, Interrupt, QueueError, QueuePosition, feature};
use crate::memory::{GuestRam, Memory};

/// Descriptor flags (virtio 1.2, 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// `avail.flags`: the driver wants no interrupt. `used.flags`: the device wants no kick.
const QUIET: u16 = 1;

const DESCRIPTOR_BYTES: u32 = 16;
const RING_HEADER_BYTES: usize = 4;
const INDEX_OFFSET: usize = 2;
const HEAD_BYTES: usize = 2;
const USED_ELEMENT_BYTES: usize = 8;
const QUEUE_SIZE_MAX: u16 = 32768;

/// One queue in service.
pub struct Ring {
    index: u16,
    size: u16,
    table: Table,
    available: *mut u8,
    used: *mut u8,
    event_idx: bool,
    indirect: bool,
    /// The next chain to take, and how far the driver was last seen to have gone.
    next_available: u16,
    seen_available: u16,
    /// The next place in the used ring, and the place up to which the driver was told.
    next_used: u16,
    told_used: u16,
    /// In flight when another process ended that served the queue before; the last is the next to take.
    left_over: Vec<u16>,
    tracker: Option<Tracker>,
    kick: EventFd,
    interrupt: Interrupt,
    memory: Memory,
}

// SAFETY: the pointers lead into `memory`, which any thread may use, and only this ring's owner uses them.
unsafe impl Send for Ring {}

/// A table of descriptors somewhere in guest memory.
#[derive(Clone, Copy)]
struct Table {
    start: *const u8,
    length: u16,
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Table {
    fn read(self, index: u16) -> Option<Descriptor> {
        if index >= self.length {
            return None;
        }
        // SAFETY: `start` leads to `length` descriptors in RAM that stays mapped; `Descriptor` has no alignment. The
        // driver may write meanwhile: the read is volatile, and any bytes are a descriptor.
        let raw = unsafe { self.start.cast::<Descriptor>().add(usize::from(index)).read_volatile() };
        Some(Descriptor {
            address: u64::from_le(raw.address),
            length: u32::from_le(raw.length),
            flags: u16::from_le(raw.flags),
            next: u16::from_le(raw.next),
        })
    }
}

/// The host's address of `length` bytes at `start`, when they lie in one region.
fn contiguous(ram: &GuestRam, start: u64, length: usize) -> Option<*mut u8> {
    let slice = ram.get_slices(GuestAddress(start), length, Permissions::ReadWrite).ok()?.next()?.ok()?;
    (slice.len() == length).then(|| slice.ptr_guard_mut().as_ptr())
}

impl Ring {
    /// Takes a queue into service; `features` are those that the driver negotiated.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the driver placed the rings where they cannot be.
    pub fn new(active: ActiveQueue, features: u64) -> Result<Self, DeviceError> {
        let ActiveQueue { index, queue, kick, interrupt, memory, in_flight } = active;
        let broken = |source| DeviceError::Queue { index, source };
        let size = queue.size();
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(broken(QueueError::Size { size }));
        }
        let place = |part, at, bytes: usize, alignment: usize| {
            contiguous(&memory, at, bytes)
                .filter(|start| start.align_offset(alignment) == 0)
                .ok_or(broken(QueueError::Placement { part, at }))
        };
        let entries = usize::from(size);
        let table = place("descriptor table", queue.desc_table(), entries * 16, 16)?;
        let available =
            place("available ring", queue.avail_ring(), RING_HEADER_BYTES + HEAD_BYTES * entries + 2, 2)?;
        let used =
            place("used ring", queue.used_ring(), RING_HEADER_BYTES + USED_ELEMENT_BYTES * entries + 2, 4)?;
        let (mut next_available, next_used) = (queue.next_avail(), queue.next_used());
        let (mut tracker, mut left_over) = (None, Vec::new());
        if let Some(in_flight) = in_flight {
            let (resumed, heads) = Tracker::resume(in_flight, next_used);
            left_over.extend(heads.into_iter().rev().filter(|head| *head < size));
            // Chains are taken in the ring's order, so these and those given back are all up to the next.
            next_available = next_used.wrapping_add(u16::try_from(left_over.len()).unwrap_or(size));
            tracker = Some(resumed);
        }
        Ok(Ring {
            index,
            size,
            table: Table { start: table, length: size },
            available,
            used,
            event_idx: features & feature::EVENT_IDX != 0,
            indirect: features & feature::INDIRECT_DESC != 0,
            next_available,
            seen_available: next_available,
            next_used,
            told_used: next_used,
            left_over,
            tracker,
            kick,
            interrupt,
            memory,
        })
    }

    /// The queue's index in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    pub fn size(&self) -> u16 {
        self.size
    }

    /// What the driver writes to when it made chains available.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The head of the next chain that the driver made available.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the available ring is nonsense.
    pub fn pop(&mut self) -> Result<Option<u16>, DeviceError> {
        let index = self.index;
        let broken = |source| DeviceError::Queue { index, source };
        if let Some(head) = self.left_over.pop() {
            return Ok(Some(head));
        }
        if self.next_available == self.seen_available {
            let (from, to) = (self.next_available, self.available_index());
            if from == to {
                return Ok(None);
            }
            if to.wrapping_sub(from) > self.size {
                return Err(broken(QueueError::AvailableIndex { from, to }));
            }
            self.seen_available = to;
        }
        let place = usize::from(self.next_available % self.size);
        let head =
            u16::from_le(self.available_word(RING_HEADER_BYTES + HEAD_BYTES * place).load(Ordering::Relaxed));
        if head >= self.size {
            return Err(broken(QueueError::Head { head }));
        }
        self.next_available = self.next_available.wrapping_add(1);
        if let Some(tracker) = &mut self.tracker {
            tracker.taken(head);
        }
        Ok(Some(head))
    }

    /// As [`Ring::pop`]; when there is none, the driver is shown what it got back and asked to kick for the next.
    ///
    /// # Errors
    /// See [`Ring::pop`].
    pub fn pop_or_allow_kicks(&mut self) -> Result<Option<u16>, DeviceError> {
        loop {
            let head = self.pop()?;
            if head.is_some() {
                return Ok(head);
            }
            self.notify();
            if !self.allow_kicks() {
                return Ok(None);
            }
            self.suppress_kicks();
        }
    }

    /// Puts the chain that was popped last back, to be popped again. Not for a ring of which is kept what is in flight.
    pub fn unpop(&mut self) {
        debug_assert!(self.tracker.is_none(), "what is in flight is kept");
        self.next_available = self.next_available.wrapping_sub(1);
    }

    /// Finds the memory of the chain that begins at `head`, replacing what `buffers` held.
    ///
    /// # Errors
    /// [`DeviceError::BadChain`] when it is no chain, leads out of RAM, or has more pieces than `buffers` takes.
    pub fn gather(&self, head: u16, buffers: &mut Buffers) -> Result<(), DeviceError> {
        buffers.restart(&self.memory);
        self.walk(head, buffers).map_err(|reason| self.bad_chain(reason))
    }

    /// The error of a chain whose form is not the device's.
    pub fn bad_chain(&self, reason: &'static str) -> DeviceError {
        DeviceError::BadChain { index: self.index, reason }
    }

    fn walk(&self, head: u16, buffers: &mut Buffers) -> Result<(), &'static str> {
        let mut table = self.table;
        let mut next = head;
        let mut left = table.length;
        let mut is_indirect = false;
        loop {
            if left == 0 {
                return Err("its descriptors form a loop");
            }
            left -= 1;
            let descriptor = table.read(next).ok_or("a descriptor's number is beyond the table")?;
            if descriptor.flags & INDIRECT != 0 {
                if is_indirect {
                    return Err("an indirect table is in an indirect table");
                }
                table = self.indirect_table(descriptor)?;
                (next, left, is_indirect) = (0, table.length, true);
                continue;
            }
            let is_writable = descriptor.flags & WRITE != 0;
            buffers.add(GuestAddress(descriptor.address), descriptor.length, is_writable)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            next = descriptor.next;
        }
    }

    fn indirect_table(&self, descriptor: Descriptor) -> Result<Table, &'static str> {
        if !self.indirect {
            return Err("it has an indirect table, which was not negotiated");
        }
        if descriptor.flags & NEXT != 0 {
            return Err("an indirect table is followed by more descriptors");
        }
        let bytes = descriptor.length;
        let length = u16::try_from(bytes / DESCRIPTOR_BYTES).map_err(|_| "an indirect table is too long")?;
        if length == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err("an indirect table is not whole descriptors");
        }
        let bytes = usize::from(length) * 16;
        let start = contiguous(&self.memory, descriptor.address, bytes)
            .ok_or("an indirect table is not in the guest's memory")?;
        Ok(Table { start, length })
    }

    /// Gives a chain back, `written` bytes of it filled. The driver sees it after [`Ring::notify`].
    pub fn put_used(&mut self, head: u16, written: u32) {
        let place = usize::from(self.next_used % self.size);
        let element = [u32::from(head).to_le(), written.to_le()];
        // SAFETY: `place` is below the ring's size, so the element lies in the used ring, which is aligned to 4.
        unsafe {
            self.used
                .add(RING_HEADER_BYTES + USED_ELEMENT_BYTES * place)
                .cast::<[u32; 2]>()
                .write_volatile(element);
        }
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(tracker) = &mut self.tracker {
            tracker.given_back(head);
        }
    }

    /// Shows the driver what was given back since the last call, and interrupts it if it wants to hear of it.
    pub fn notify(&mut self) {
        if self.next_used == self.told_used {
            return;
        }
        self.used_word(INDEX_OFFSET).store(self.next_used.to_le(), Ordering::Release);
        if let Some(tracker) = &mut self.tracker {
            tracker.shown(self.next_used);
        }
        // The driver sets its wish and then looks at the index; we set the index and then look at its wish.
        fence(Ordering::SeqCst);
        let is_wanted = if self.event_idx {
            let entries = usize::from(self.size);
            let wish = u16::from_le(
                self.available_word(RING_HEADER_BYTES + HEAD_BYTES * entries).load(Ordering::Relaxed),
            );
            // virtio 1.2, 2.7.7.2: the index that the driver waits for is among those just passed.
            self.next_used.wrapping_sub(wish).wrapping_sub(1) < self.next_used.wrapping_sub(self.told_used)
        } else {
            u16::from_le(self.available_word(0).load(Ordering::Relaxed)) & QUIET == 0
        };
        self.told_used = self.next_used;
        if is_wanted {
            self.interrupt.trigger();
        }
    }

    /// Where the device stands, once the driver was shown all that it got back. For a ring with nothing in flight.
    pub fn position(&mut self) -> QueuePosition {
        self.notify();
        QueuePosition { available: self.next_available, used: self.next_used }
    }

    /// Asks the driver not to kick while the queue is being worked on. With `EVENT_IDX` that is so after each kick.
    pub fn suppress_kicks(&mut self) {
        if !self.event_idx {
            self.used_word(0).store(QUIET.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks the driver to kick again. True when chains came meanwhile, so that the worker must look once more.
    #[must_use]
    pub fn allow_kicks(&mut self) -> bool {
        if self.event_idx {
            let entries = usize::from(self.size);
            self.used_word(RING_HEADER_BYTES + USED_ELEMENT_BYTES * entries)
                .store(self.next_available.to_le(), Ordering::Relaxed);
        } else {
            self.used_word(0).store(0, Ordering::Relaxed);
        }
        // We set our wish and then look at the index; the driver sets the index and then looks at our wish.
        fence(Ordering::SeqCst);
        self.next_available != self.available_index()
    }

    /// Has the worker called again for this queue after everything else that waits: a guest that never stops adding
    /// chains must not keep its worker from its commands.
    pub fn kick_self(&self) {
        // The counter can only be at its end when a kick is pending already.
        let _ = self.kick.write(1);
    }

    /// Keeps what is in flight, where that is wanted.
    pub(super) fn tracker(&self) -> Option<&Tracker> {
        self.tracker.as_ref()
    }

    fn available_index(&self) -> u16 {
        u16::from_le(self.available_word(INDEX_OFFSET).load(Ordering::Acquire))
    }

    fn available_word(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: callers stay within the ring, all words are aligned to 2 as the ring is, and RAM stays mapped.
        unsafe { AtomicU16::from_ptr(self.available.add(offset).cast()) }
    }

    fn used_word(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for the available ring.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::virtio::driver::{Driver, Piece, memory};

    const RING_FEATURES: u64 = feature::EVENT_IDX | feature::INDIRECT_DESC;

    fn ring(features: u64) -> (Driver, Ring) {
        let driver = Driver::new(&memory(), 0, 16);
        let ring = Ring::new(driver.active(), features).unwrap();
        (driver, ring)
    }

    fn is_interrupted(driver: &Driver) -> bool {
        driver.interrupted_before(Instant::now())
    }

    #[test]
    fn chains_come_out_in_order_and_are_given_back_together() {
        let (mut driver, mut ring) = ring(RING_FEATURES);
        let added = [0, 1, 2].map(|_| driver.add(&[Piece::In(8)]).head);
        driver.want_interrupt_after(2);
        for head in added {
            assert_eq!(ring.pop().unwrap(), Some(head));
            ring.put_used(head, 8);
        }
        assert_eq!((ring.pop().unwrap(), driver.take_used()), (None, None));
        ring.notify();
        assert_eq!(added.map(|_| driver.take_used()), added.map(|head| Some((head, 8))));
        assert!(is_interrupted(&driver));
    }

    #[test]
    fn a_driver_that_waits_for_more_is_not_interrupted() {
        let (mut driver, mut ring) = ring(RING_FEATURES);
        driver.want_interrupt_after(2);
        for is_wanted in [false, true, false] {
            let head = driver.add(&[Piece::In(8)]).head;
            assert_eq!(ring.pop().unwrap(), Some(head));
            ring.put_used(head, 0);
            ring.notify();
            assert_eq!(is_interrupted(&driver), is_wanted);
        }
    }

    #[test]
    fn the_indexes_go_round() {
        let (mut driver, mut ring) = ring(RING_FEATURES);
        for _ in 0..70_000u32 {
            driver.want_interrupt_after(1);
            let head = driver.add(&[Piece::In(8)]).head;
            assert_eq!(ring.pop().unwrap(), Some(head));
            ring.put_used(head, 1);
            ring.notify();
            assert_eq!(driver.take_used(), Some((head, 1)));
            assert!(is_interrupted(&driver));
            assert!(!ring.allow_kicks());
        }
    }

    #[test]
    fn without_event_indexes_the_flags_say_who_wants_to_hear() {
        let (mut driver, mut ring) = ring(0);
        let used_flags = |driver: &Driver| driver.read(driver.used_ring(), 2);
        ring.suppress_kicks();
        assert_eq!(used_flags(&driver), [1, 0]);
        let head = driver.add(&[Piece::In(8)]).head;
        assert!(ring.allow_kicks(), "a chain came meanwhile");
        assert_eq!(used_flags(&driver), [0, 0]);
        for (flags, is_wanted) in [(1u16, false), (0, true)] {
            use vm_memory::Bytes;
            driver.memory.write_obj(flags, GuestAddress(driver.available_ring())).unwrap();
            ring.put_used(head, 0);
            ring.notify();
            assert_eq!(is_interrupted(&driver), is_wanted);
        }
    }

    #[test]
    fn an_indirect_table_must_have_been_negotiated() {
        let mut buffers = Buffers::with_capacity(4);
        for (features, is_good) in [(RING_FEATURES, true), (feature::EVENT_IDX, false)] {
            let (mut driver, ring) = ring(features);
            let head = driver.add_indirect(&[Piece::In(8)]).head;
            assert_eq!(ring.gather(head, &mut buffers).is_ok(), is_good);
        }
    }

    #[test]
    fn a_chain_of_more_pieces_than_a_device_takes_is_broken() {
        let (mut driver, ring) = ring(RING_FEATURES);
        let mut buffers = Buffers::with_capacity(4);
        for (pieces, is_good) in [(4, true), (5, false)] {
            let head = driver.add_indirect(&vec![Piece::In(8); pieces]).head;
            assert_eq!(ring.gather(head, &mut buffers).is_ok(), is_good);
        }
    }

    #[test]
    fn rings_lie_in_ram_and_are_aligned() {
        let outside = 1 << 30;
        for (table, available, used, is_good) in [
            (0x4000, 0x5000, 0x6000, true),
            (outside, 0x5000, 0x6000, false),
            (0x4000, outside, 0x6000, false),
            (0x4000, 0x5000, (32 << 20) - 16, false),
        ] {
            let mut active = Driver::new(&memory(), 0, 16).active();
            active.queue.set_desc_table_address(Some(table), Some(0));
            active.queue.set_avail_ring_address(Some(available), Some(0));
            active.queue.set_used_ring_address(Some(used), Some(0));
            assert_eq!(Ring::new(active, 0).is_ok(), is_good);
        }
    }
}
