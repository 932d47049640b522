//! What a guest asks of its source of randomness.

use volume::IoBuffer;

use super::REQUEST_BYTES_MAX;
use crate::virtio::Buffers;

/// Buffers to fill with randomness.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pieces: &'a [IoBuffer],
    bytes: u32,
}

/// # Errors
/// The reason why the chain has not the form of a request.
pub(super) fn parse(buffers: &Buffers) -> Result<Request<'_>, &'static str> {
    if buffers.readable_bytes() > 0 {
        return Err("a buffer for randomness cannot be written by the device");
    }
    if buffers.writable_bytes() == 0 {
        return Err("it has no buffer for randomness");
    }
    Ok(Request { pieces: buffers.writable(), bytes: buffers.writable_bytes().min(REQUEST_BYTES_MAX) })
}

impl<'a> Request<'a> {
    /// The pieces to fill, together at most [`REQUEST_BYTES_MAX`].
    pub(super) fn pieces(&self) -> impl Iterator<Item = IoBuffer> + use<'a> {
        let mut left = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        self.pieces.iter().map_while(move |piece| {
            let part = piece.part(0, left);
            left -= part.len();
            (!part.is_empty()).then_some(part)
        })
    }
}
