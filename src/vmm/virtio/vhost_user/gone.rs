//! What becomes of a driver's requests when whoever served them is gone.

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::frontend::{QUEUE_SIZE, RemoteDisk};
use crate::memory::GuestRam;
use crate::virtio::{ActiveQueue, Buffers, DeviceError, Ring};

/// `VIRTIO_BLK_S_IOERR` (virtio 1.2, 5.2.6).
const IO_ERROR: u8 = 1;
/// A chain as long as the queue, and a cut more for each place where a buffer may cross from one region of RAM to the next.
const PIECES_MAX: usize = QUEUE_SIZE as usize + 4;
/// How often a ring that the driver keeps filling is looked at before it is others' turn.
const ROUNDS_MAX: usize = 16;

/// What a backend has left that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It kept what was in flight. So many writes had not been flushed.
    Kept { unflushed: u64 },
    /// It did not keep that, and the driver has all of its requests back.
    Nothing,
    /// It did not keep that, and some were.
    Unknown,
}

/// Looks at rings that a backend had which is gone.
pub(super) fn left_by<'a>(
    ram: &GuestRam,
    mut rings: impl Iterator<Item = &'a ActiveQueue>,
    remote: &RemoteDisk,
) -> Left {
    let kept = remote.kept();
    match kept.as_ref().and_then(|kept| kept.region.as_ref()) {
        Some(region) => Left::Kept { unflushed: region.unflushed() },
        None if rings.all(|active| used_index(ram, active) == available_index(ram, active)) => Left::Nothing,
        None => Left::Unknown,
    }
}

impl Left {
    /// Which request of a ring is next, for who has no region to tell it.
    pub(super) fn base(self, ram: &GuestRam, active: &ActiveQueue) -> u16 {
        match self {
            Left::Kept { .. } => used_index(ram, active),
            Left::Nothing | Left::Unknown => available_index(ram, active),
        }
    }

    pub(super) fn is_known(self) -> bool {
        self != Left::Unknown
    }

    /// Why no other backend can go on as if nothing were, in words for the operator.
    pub(super) fn hindrance(self) -> Option<String> {
        match self {
            Left::Kept { unflushed: 0 } | Left::Nothing => None,
            Left::Kept { unflushed } => {
                Some(format!("{unflushed} writes had not been flushed and may be lost"))
            }
            Left::Unknown => {
                Some("it did not keep what is in flight, and some requests were, which never end".to_owned())
            }
        }
    }
}

/// How many requests the driver has got back. A queue is looked at only when it was found in the memory.
fn used_index(ram: &GuestRam, active: &ActiveQueue) -> u16 {
    index(ram, active.queue.used_ring())
}

fn available_index(ram: &GuestRam, active: &ActiveQueue) -> u16 {
    index(ram, active.queue.avail_ring())
}

fn index(ram: &GuestRam, ring: u64) -> u16 {
    let at = GuestAddress(ring.saturating_add(2));
    ram.read_obj(at).map(u16::from_le).unwrap_or(0)
}

/// A ring whose requests all end with an error.
pub(super) struct FailingRing {
    ring: Ring,
    buffers: Buffers,
}

impl FailingRing {
    /// Takes over from a backend that is gone: with what it had in flight if that is known, and else with the request at `base`.
    ///
    /// # Errors
    /// [`DeviceError`] when the driver placed the ring where it cannot be.
    pub(super) fn new(
        mut active: ActiveQueue,
        base: u16,
        features: u64,
        ram: &GuestRam,
        remote: &RemoteDisk,
    ) -> Result<Self, DeviceError> {
        let used = used_index(ram, &active);
        active.queue.set_next_used(used);
        active.queue.set_next_avail(base);
        let kept = remote.kept();
        let region = kept.as_ref().and_then(|kept| kept.region.as_ref());
        active.in_flight = region.and_then(|region| region.queue(active.index, active.queue.size()));
        Ok(FailingRing { ring: Ring::new(active, features)?, buffers: Buffers::with_capacity(PIECES_MAX) })
    }

    pub(super) fn kick(&self) -> &EventFd {
        self.ring.kick()
    }

    /// Ends what the driver has asked.
    ///
    /// # Errors
    /// [`DeviceError`] when the ring or a chain is broken.
    pub(super) fn serve(&mut self) -> Result<(), DeviceError> {
        for _ in 0..ROUNDS_MAX {
            self.ring.suppress_kicks();
            for _ in 0..self.ring.size() {
                let Some(head) = self.ring.pop()? else { break };
                self.ring.gather(head, &mut self.buffers)?;
                let status = self.buffers.take_last_byte();
                let status = status.ok_or_else(|| self.ring.bad_chain("it has no byte for the status"))?;
                status.copy_from(&[IO_ERROR]);
                // The used length is what is filled from the front of the chain on.
                self.ring.put_used(head, u32::from(self.buffers.writable_bytes() == 0));
            }
            self.ring.notify();
            if !self.ring.allow_kicks() {
                return Ok(());
            }
        }
        self.ring.kick_self();
        Ok(())
    }
}
