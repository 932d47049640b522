//! The queue of a source of randomness in service.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use volume::IoBuffer;

use super::{QUEUE_SIZE, request};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{
    Activation, Buffers, DeviceError, OperationCounters, QueueHandler, QueuePosition, Ring, nanoseconds_since,
};

pub(super) struct RngHandler {
    read: Arc<OperationCounters>,
    buffers: Buffers,
    ring: Option<Ring>,
}

impl RngHandler {
    pub(super) fn new(read: Arc<OperationCounters>) -> Self {
        RngHandler { read, buffers: Buffers::with_capacity(usize::from(QUEUE_SIZE) + 4), ring: None }
    }

    fn serve(&mut self) -> Result<(), DeviceError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        ring.suppress_kicks();
        for _ in 0..ring.size() {
            let Some(head) = ring.pop_or_allow_kicks()? else { return Ok(()) };
            ring.gather(head, &mut self.buffers)?;
            let request = request::parse(&self.buffers).map_err(|reason| ring.bad_chain(reason))?;
            let started = Instant::now();
            let mut written = 0;
            for piece in request.pieces() {
                let bytes = fill(piece)
                    .map_err(|source| DeviceError::Host { operation: "draw random bytes", source })?;
                written += bytes;
            }
            self.read.done(u64::from(written), nanoseconds_since(started));
            ring.put_used(head, written);
        }
        ring.notify();
        ring.kick_self();
        Ok(())
    }
}

/// Fills `piece` with random bytes and says how many those are: all, since the kernel's source is ready at boot.
fn fill(piece: IoBuffer) -> io::Result<u32> {
    let mut filled = 0;
    while filled < piece.len() {
        let rest = piece.part(filled, usize::MAX);
        // SAFETY: `IoBuffer` has the form of an iovec, which is plain data.
        let target = unsafe { *(&raw const rest).cast::<libc::iovec>() };
        // SAFETY: an `IoBuffer` is memory that may be written, by its own contract.
        let count = unsafe { libc::getrandom(target.iov_base, target.iov_len, 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => match io::Error::last_os_error() {
                interrupted if interrupted.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    u32::try_from(filled).map_err(io::Error::other)
}

impl QueueHandler for RngHandler {
    fn start(&mut self, activation: Activation, _context: &WorkerContext) -> Result<(), DeviceError> {
        let features = activation.features;
        self.ring =
            activation.queues.into_iter().next().map(|queue| Ring::new(queue, features)).transpose()?;
        self.serve()
    }

    fn kicked(&mut self, _index: u16, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.serve()
    }

    /// Nothing is ever in flight between two calls.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn positions(&mut self) -> Option<Vec<(u16, QueuePosition)>> {
        Some(self.ring.iter_mut().map(|ring| (ring.index(), ring.position())).collect())
    }

    fn resume(&mut self, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.serve()
    }

    fn stop(&mut self, _context: &WorkerContext) {
        self.ring = None;
    }
}
