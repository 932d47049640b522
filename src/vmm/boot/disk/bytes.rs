//! Fields of on-disk structures. Each panics outside the slice: callers know the lengths.

use std::sync::Arc;

use volume::BlockBackend;

use super::partition::Partition;

macro_rules! fields {
    ($($name:ident: $type:ty = $from:ident;)*) => {$(
        pub(super) fn $name(bytes: &[u8], offset: usize) -> $type {
            let mut field = [0; size_of::<$type>()];
            field.copy_from_slice(&bytes[offset..offset + size_of::<$type>()]);
            <$type>::$from(field)
        }
    )*};
}

fields! {
    le16: u16 = from_le_bytes;
    le32: u32 = from_le_bytes;
    le64: u64 = from_le_bytes;
    be32: u32 = from_be_bytes;
}

/// The part of a disk that a file system is in.
#[derive(Clone)]
pub(super) struct Window {
    disk: Arc<dyn BlockBackend>,
    start_bytes: u64,
    size_bytes: u64,
}

impl Window {
    pub(super) fn new(disk: &Arc<dyn BlockBackend>, partition: &Partition) -> Self {
        Self { disk: Arc::clone(disk), start_bytes: partition.start_bytes, size_bytes: partition.size_bytes }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills the buffer from `offset` within the window.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            let what = "that is behind its end: the image may have been cut short";
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what));
        }
        self.disk.read_at(self.start_bytes + offset, buffer)
    }
}
