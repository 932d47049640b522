//! The queues of a balloon in service.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use vm_memory::{GuestAddress, GuestMemory, Permissions};
use volume::IoBuffer;

use super::device::Shared;
use super::request::{self, Role};
use super::{PAGE_BYTES, QUEUE_SIZE};
use crate::memory::{self, GuestRam, Release};
use crate::poll::{Interest, Token, event_fd};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{Activation, Buffers, DeviceError, QueueHandler, Ring};

const REFRESH: Token = 0;

pub(super) struct BalloonHandler {
    shared: Arc<Shared>,
    buffers: Buffers,
    rings: Vec<(Role, Ring)>,
    /// The statistics buffer that the driver lent us, to be returned when we want new numbers.
    lent: Option<u16>,
}

impl BalloonHandler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let buffers = Buffers::with_capacity(usize::from(QUEUE_SIZE) + 4);
        BalloonHandler { shared, buffers, rings: Vec::new(), lent: None }
    }

    fn serve(&mut self, which: usize) -> Result<(), DeviceError> {
        let Some((role, ring)) = self.rings.get_mut(which) else { return Ok(()) };
        ring.suppress_kicks();
        for _ in 0..ring.size() {
            let Some(head) = ring.pop_or_allow_kicks()? else { return Ok(()) };
            ring.gather(head, &mut self.buffers)?;
            self.shared.operations.add(1);
            let used = execute(*role, ring.memory(), &mut self.buffers, &self.shared)
                .map_err(|reason| ring.bad_chain(reason))?;
            let back = match used {
                Used::GivenBack => Some(head),
                // A driver lends one buffer; if it lends another one, it gets the first back.
                Used::Lent => self.lent.replace(head),
            };
            if let Some(head) = back {
                ring.put_used(head, 0);
            }
        }
        ring.notify();
        ring.kick_self();
        Ok(())
    }

    /// Returns the statistics buffer: the driver then fills it anew.
    fn refresh(&mut self) {
        let statistics = self.rings.iter_mut().find(|(role, _)| *role == Role::Statistics);
        if let (Some((_, ring)), Some(head)) = (statistics, self.lent.take()) {
            ring.put_used(head, 0);
            ring.notify();
        }
    }

    fn refresh_event(&self) -> BorrowedFd<'_> {
        event_fd(&self.shared.refresh)
    }
}

enum Used {
    GivenBack,
    Lent,
}

fn execute(role: Role, ram: &GuestRam, buffers: &mut Buffers, shared: &Shared) -> Result<Used, &'static str> {
    match role {
        Role::Inflate => {
            for pages in request::pages(buffers)? {
                match release_range(ram, &pages) {
                    Ok(()) => shared.inflated_pages.add((pages.end - pages.start) / PAGE_BYTES),
                    Err(_) => shared.errors.add(1),
                }
            }
        }
        Role::Deflate => {
            for pages in request::pages(buffers)? {
                shared.deflated_pages.add((pages.end - pages.start) / PAGE_BYTES);
            }
        }
        Role::Statistics => {
            let statistics = request::statistics(buffers)?;
            *shared.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
            return Ok(Used::Lent);
        }
        Role::Reporting => {
            request::check_report(buffers)?;
            let by = memory::release_of(ram);
            for piece in buffers.writable() {
                // SAFETY: the driver says that nothing of it is in use, and the piece is RAM.
                match unsafe { release(*piece, by) } {
                    Ok(bytes) => shared.reported_bytes.add(bytes),
                    Err(_) => shared.errors.add(1),
                }
            }
        }
    }
    Ok(Used::GivenBack)
}

/// Gives guest pages to the host.
fn release_range(ram: &GuestRam, pages: &Range<u64>) -> std::io::Result<()> {
    let length = usize::try_from(pages.end - pages.start).map_err(std::io::Error::other)?;
    let slices = ram
        .get_slices(GuestAddress(pages.start), length, Permissions::ReadWrite)
        .map_err(std::io::Error::other)?;
    for slice in slices {
        let slice = slice.map_err(std::io::Error::other)?;
        // SAFETY: the slice is RAM, which stays mapped for as long as the ring holds it.
        let piece = unsafe { IoBuffer::new(slice.ptr_guard_mut().as_ptr(), slice.len()) };
        // SAFETY: as above; the driver says that it does not use these pages.
        unsafe { release(piece, memory::release_of(ram)) }?;
    }
    Ok(())
}

/// Gives the whole pages within `piece` to the host and says how many bytes those are. They read as zeroes then.
///
/// # Safety
/// `piece` is guest RAM that is given back so, to which no Rust reference exists.
unsafe fn release(piece: IoBuffer, by: Release) -> std::io::Result<u64> {
    let page = usize::try_from(PAGE_BYTES).map_err(std::io::Error::other)?;
    // SAFETY: `IoBuffer` has the form of an iovec, which is plain data.
    let range = unsafe { *(&raw const piece).cast::<libc::iovec>() };
    let before = range.iov_base.align_offset(page);
    let length = range.iov_len.saturating_sub(before) / page * page;
    if length == 0 {
        return Ok(0);
    }
    // SAFETY: whole pages within `piece`, of which the caller says that they may go.
    unsafe { memory::release(range.iov_base.wrapping_byte_add(before).cast(), length, by) }?;
    u64::try_from(length).map_err(std::io::Error::other)
}

impl QueueHandler for BalloonHandler {
    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError> {
        let features = activation.features;
        for queue in activation.queues {
            if let Some(role) = Role::of(queue.index, features) {
                self.rings.push((role, Ring::new(queue, features)?));
            }
        }
        context
            .watch(self.refresh_event(), REFRESH, Interest::ReadEdge)
            .map_err(|source| DeviceError::Host { operation: "watch for wishes", source })?;
        self.resume(context)
    }

    fn kicked(&mut self, index: u16, _context: &WorkerContext) -> Result<(), DeviceError> {
        match self.rings.iter().position(|(_, ring)| ring.index() == index) {
            Some(which) => self.serve(which),
            None => Ok(()),
        }
    }

    fn ready(&mut self, _token: Token, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.refresh();
        Ok(())
    }

    /// Nothing is ever in flight between two calls.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self, _context: &WorkerContext) -> Result<(), DeviceError> {
        (0..self.rings.len()).try_for_each(|which| self.serve(which))
    }

    fn stop(&mut self, context: &WorkerContext) {
        self.rings.clear();
        self.lent = None;
        self.shared.actual_pages.store(0, Ordering::Release);
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // It is not watched when nothing was started.
        let _ = context.unwatch(self.refresh_event());
    }
}
