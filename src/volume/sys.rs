//! The unsafe ground of this crate: memory that others change meanwhile.

mod buffer;

pub use buffer::IoBuffer;
