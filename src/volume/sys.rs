//! The unsafe ground of this crate: memory that others change meanwhile, random bytes, and io_uring.

mod arena;
mod buffer;
mod file;
mod random;
mod ring;
mod secret;
mod setup;
mod socket;

pub(crate) use arena::Arena;
pub use buffer::IoBuffer;
pub(crate) use buffer::{AlignedMemory, zeroes};
pub(crate) use file::{begin_writeback, direct_alignment, transfers_in_place, zeroed_words};
pub(crate) use random::random;
pub(crate) use ring::{Call, Ended, FileIndex, InPlace, Ring, RingFile};
pub(crate) use secret::Secret;
pub(crate) use socket::{Waiting, receive, send};
