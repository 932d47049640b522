//! For tests of what a guest can reach: a machine without CPUs, and a driver that knows virtio. And for manuals of control sockets.
//!
//! All panic where something is not as it must be, as tests do.

mod board;
mod driver;
pub mod manual;

pub use crate::boot::testing::pvh_elf;
pub use board::{Board, Device};
pub use driver::{Driver, RINGS_BYTES};
