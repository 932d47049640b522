//! The decoders of what is on stable storage, for fuzzing: whatever the bytes are, they end with an error or with what was encoded.

use super::format::{
    Base, BlockState, Covered, Entry, Header, LayerEntry, Manifest, MapPage, PAGE_LEN, Page, Record,
    RecordKind, Uuid,
};
use crate::crypt::WrappedKey;

const LAYER: Uuid = Uuid([3; 16]);
const CHECKSUM: std::ops::Range<usize> = 8..12;

/// Makes the checksum right, as most inputs would end there; a page that is too short gets zeroes.
fn page(bytes: &[u8]) -> Box<Page> {
    let mut page = Box::new([0; PAGE_LEN]);
    let len = bytes.len().min(PAGE_LEN);
    page[..len].copy_from_slice(&bytes[..len]);
    with_checksum(&mut page[..]);
    page
}

fn with_checksum(bytes: &mut [u8]) {
    if bytes.len() >= CHECKSUM.end {
        bytes[CHECKSUM].fill(0);
        let sum = crc32c::crc32c(bytes);
        bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Decodes a header.
///
/// # Panics
/// If what was decoded is encoded as something else.
pub fn header(bytes: &[u8]) {
    let page = page(bytes);
    if let Ok(header) = Header::decode(&page) {
        assert_eq!(header.encode(), page);
    }
}

/// Decodes a map page.
///
/// # Panics
/// As for [`header`].
pub fn map_page(bytes: &[u8]) {
    let page = page(bytes);
    if let Ok((decoded, digest)) = MapPage::decode(&page, LAYER, 1) {
        assert_eq!(decoded.encode(), (page, digest));
        assert!(decoded.runs().map(|(_, count, _)| count).sum::<u64>() <= MapPage::BLOCKS);
    }
}

/// Decodes a record of a log.
///
/// # Panics
/// As for [`header`].
pub fn record(bytes: &[u8]) {
    let page = page(bytes);
    if let Ok(record) = Record::decode(&page, LAYER) {
        assert_eq!(record.encode(), page);
    }
}

/// Decodes a manifest.
///
/// # Panics
/// As for [`header`].
pub fn manifest(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    with_checksum(&mut bytes);
    if let Ok(manifest) = Manifest::decode(&bytes) {
        assert_eq!(manifest.encode(), bytes);
    }
}

/// A header that can be decoded.
pub fn header_seed() -> Vec<u8> {
    let header = Header {
        layer: LAYER,
        generation: 5,
        blocks: 1 << 28,
        segment_blocks: 1 << 27,
        log_pages: 1024,
        sealed: true,
        log_start: 77,
        map_pages: 2,
        map_digest: 12_345,
    };
    header.encode().to_vec()
}

/// A map page that can be decoded.
pub fn map_page_seed() -> Vec<u8> {
    let mut page = MapPage::new(LAYER, 1, 4);
    (0..9).for_each(|block| page.set(block * 3, BlockState::Data));
    page.set(MapPage::BLOCKS - 1, BlockState::Zero);
    page.encode().0.to_vec()
}

/// Records of both kinds that can be decoded.
pub fn record_seeds() -> Vec<Vec<u8>> {
    let entry = |first, count, state, checksum| Entry { first, count, state, checksum };
    let durable = vec![entry(0, 9, BlockState::Data, 0), entry(50, 1, BlockState::Zero, 0)];
    let checked = vec![entry(7, 1, BlockState::Data, 99), entry(9, 5, BlockState::Absent, 0)];
    [(RecordKind::Durable, durable), (RecordKind::Checked, checked)]
        .map(|(kind, entries)| {
            Record { layer: LAYER, sequence: 6, group: 5, kind, entries }.encode().to_vec()
        })
        .to_vec()
}

pub(crate) fn key_seed() -> WrappedKey {
    WrappedKey { name: "web".parse().expect("a good name"), bytes: vec![6; 92] }
}

/// Manifests that can be decoded: of an encrypted volume, of another, and of one of which several snapshots are being made.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let layers = [1, 4].map(|id| LayerEntry { id, uuid: LAYER }).to_vec();
    let covered = |layer| Covered { snapshot: LAYER, layer, created_s: 9 };
    let encrypted = Manifest {
        volume: Uuid([9; 16]),
        blocks: 1 << 20,
        lineage: LAYER,
        last: Some(covered(1)),
        pending: vec![covered(4)],
        base: Some(Base { snapshot: LAYER, blocks: 1 << 19 }),
        next_layer: 5,
        layers,
        key: Some(key_seed()),
    };
    let queued = Manifest { pending: [2, 3, 4].map(covered).to_vec(), ..encrypted.clone() };
    vec![Manifest { key: None, ..encrypted.clone() }.encode(), encrypted.encode(), queued.encode()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_changed_is_decoded() {
        assert!(Header::decode(&page(&header_seed())).is_ok());
        assert!(MapPage::decode(&page(&map_page_seed()), LAYER, 1).is_ok());
        assert!(record_seeds().iter().all(|seed| Record::decode(&page(seed), LAYER).is_ok()));
        assert!(manifest_seeds().iter().all(|seed| Manifest::decode(seed).is_ok()));
    }
}
