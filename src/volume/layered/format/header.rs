//! The head of a layer: its shape, and where its map and log stand.

use super::{BLOCKS_MAX, Damage, PAGE_LEN, Page, Uuid, VERSION, open, put, seal_with_checksum};

const MAGIC: &[u8; 8] = b"NIMBOLYR";
const FLAG_SEALED: u32 = 1;

/// One of a layer's two header slots. The valid one of the larger generation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) layer: Uuid,
    /// One more with each checkpoint.
    pub(crate) generation: u64,
    /// How many blocks the layer can hold; at least one.
    pub(crate) blocks: u64,
    /// How many blocks stand in one file; at least one.
    pub(crate) segment_blocks: u64,
    /// The length of the log ring; at least [`Header::LOG_PAGES_MIN`].
    pub(crate) log_pages: u32,
    /// Nothing is written to it any more, but what a merge adds.
    pub(crate) sealed: bool,
    /// Records with a smaller sequence number are part of the map pages.
    pub(crate) log_start: u64,
    /// How many map pages there are up to this generation.
    pub(crate) map_pages: u64,
    /// What they are: see [`MapPage::decode`](super::MapPage::decode).
    pub(crate) map_digest: u64,
}

impl Header {
    pub(crate) const LOG_PAGES_MIN: u32 = 4;
    pub(crate) const LOG_PAGES_MAX: u32 = 1 << 16;
    pub(crate) const SEGMENTS_MAX: u64 = 64;

    pub(crate) fn encode(&self) -> Box<Page> {
        let mut page = Box::new([0; PAGE_LEN]);
        let bytes = &mut page[..];
        put(bytes, 0, *MAGIC);
        put(bytes, 12, VERSION.to_le_bytes());
        put(bytes, 16, self.layer.0);
        put(bytes, 32, self.generation.to_le_bytes());
        put(bytes, 40, self.blocks.to_le_bytes());
        put(bytes, 48, self.segment_blocks.to_le_bytes());
        put(bytes, 56, self.log_pages.to_le_bytes());
        put(bytes, 60, if self.sealed { FLAG_SEALED } else { 0 }.to_le_bytes());
        put(bytes, 64, self.log_start.to_le_bytes());
        put(bytes, 72, self.map_pages.to_le_bytes());
        put(bytes, 80, self.map_digest.to_le_bytes());
        seal_with_checksum(bytes);
        page
    }

    pub(crate) fn decode(page: &Page) -> Result<Self, Damage> {
        let fields = open(page, MAGIC)?;
        if fields.u32(12) != VERSION {
            return Err(Damage::at(12, "the version is not one that this program knows"));
        }
        let header = Self {
            layer: fields.uuid(16),
            generation: fields.u64(32),
            blocks: fields.u64(40),
            segment_blocks: fields.u64(48),
            log_pages: fields.u32(56),
            sealed: fields.u32(60) & FLAG_SEALED != 0,
            log_start: fields.u64(64),
            map_pages: fields.u64(72),
            map_digest: fields.u64(80),
        };
        if !(1..=BLOCKS_MAX).contains(&header.blocks) {
            return Err(Damage::at(40, "the size of the layer is out of range"));
        }
        if !(1..=BLOCKS_MAX).contains(&header.segment_blocks)
            || header.blocks.div_ceil(header.segment_blocks) > Self::SEGMENTS_MAX
        {
            return Err(Damage::at(48, "the size of the layer's files is out of range"));
        }
        if !(Self::LOG_PAGES_MIN..=Self::LOG_PAGES_MAX).contains(&header.log_pages) {
            return Err(Damage::at(56, "the length of the log is out of range"));
        }
        if fields.u32(60) & !FLAG_SEALED != 0 {
            return Err(Damage::at(60, "there are flags that this program does not know"));
        }
        if header.generation > u64::MAX / 2 || header.log_start > u64::MAX / 2 {
            return Err(Damage::at(32, "the generation or the log's start is out of range"));
        }
        fields.expect_zero(88, PAGE_LEN)?;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_header() -> impl Strategy<Value = Header> {
        let shape = (1..=BLOCKS_MAX, 0u64..64, Header::LOG_PAGES_MIN..=Header::LOG_PAGES_MAX);
        (any::<[u8; 16]>(), 0..u64::MAX / 2, shape, any::<bool>(), 0..u64::MAX / 2, any::<(u64, u64)>())
            .prop_map(
                |(
                    layer,
                    generation,
                    (blocks, files, log_pages),
                    sealed,
                    log_start,
                    (map_pages, map_digest),
                )| Header {
                    layer: Uuid(layer),
                    generation,
                    blocks,
                    segment_blocks: blocks.div_ceil(files + 1),
                    log_pages,
                    sealed,
                    log_start,
                    map_pages,
                    map_digest,
                },
            )
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_any_changed_bit_is_noticed(
            header in any_header(), bit in 0usize..8 * PAGE_LEN,
        ) {
            let mut page = header.encode();
            prop_assert_eq!(Header::decode(&page), Ok(header));
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&page).is_err());
        }
    }
}
