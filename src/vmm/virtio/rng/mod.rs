//! The source of randomness: virtio-rng (virtio 1.2, 5.4) from getrandom(2), straight into the guest's pages.
//!
//! A request is any chain of writable buffers; at most [`REQUEST_BYTES_MAX`] of it are filled, and the driver sees
//! how many. That bounds what one request costs. There is no budget for each second: the work is done on this
//! device's own thread, in the guest's control group, so it is the guest's own time that a greedy guest spends.

mod device;
mod handler;
mod request;
#[cfg(test)]
mod tests;

pub use device::Rng;

const QUEUE_SIZE: u16 = 64;

/// What one request is given at most.
const REQUEST_BYTES_MAX: u32 = 64 * 1024;
