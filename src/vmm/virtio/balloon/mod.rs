//! The balloon: virtio-balloon (virtio 1.2, 5.5), by which a guest gives memory back to its host.
//!
//! ```text
//!   inflate    the driver names pages that it took from the guest: they go to the host
//!   deflate    the driver gives pages back to the guest: they come anew, as zeroes, when they are touched
//!   statistics the driver's numbers, renewed whenever the device returns the buffer with the last ones
//!   reporting  the driver shows buffers of free pages: they go to the host and stay the guest's
//! ```
//!
//! Pages go by madvise(2), and only ones that lie wholly in RAM: a guest can lose its own memory by it, and
//! nothing else. What lies elsewhere is counted as an error and left alone.
//!
//! Which queue has which role depends on what was negotiated. The specification gives reporting the index 4; Linux
//! numbers only the queues that exist, as QEMU does, and finds it at 3 or, without statistics, at 2. Free page hints
//! are not offered, so both can be right here.

mod device;
mod handler;
mod request;
#[cfg(test)]
mod tests;

pub use device::{Balloon, Statistics};

/// Feature bits (virtio 1.2, 5.5.3).
pub mod feature {
    pub const STATS_VQ: u64 = 1 << 1;
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// The unit of the balloon's page numbers, whatever the guest's pages are.
pub const PAGE_BYTES: u64 = 4096;

const QUEUE_SIZE: u16 = 128;
const QUEUES: usize = 5;

/// Page numbers in one request at most: it bounds how long one request keeps the worker. Linux sends 256.
const PAGES_MAX: usize = 16 * 1024;
