//! The decoders of what comes from a store, for fuzzing: whatever the bytes are, they end with an error or with what was encoded.

use crate::layered::fuzzing::key_seed;

use super::format::{
    Entry, Kind, Level, Manifest, ObjectName, Page, Pin, SnapshotName, Uuid, decode, encode,
};

const NAME: SnapshotName = SnapshotName { lineage: Uuid([3; 16]), id: Uuid([4; 16]) };
const KINDS: [Kind; 4] = [Kind::Manifest, Kind::Pin, Kind::Page, Kind::Chunk];

/// Opens an object: once as it is, once with its checksum made right, as most inputs would end there.
///
/// # Panics
/// If what was unpacked cannot be packed again.
pub fn object(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 12 {
        crate::layered::format::seal_with_checksum(&mut sealed);
    }
    for bytes in [bytes, &sealed] {
        for kind in KINDS {
            if let Ok((plain, hash)) = decode(kind, bytes.to_vec()) {
                assert_eq!(decode(kind, encode(kind, &plain)), Ok((plain, hash)));
            }
        }
    }
}

/// Decodes the plain bytes of a manifest.
///
/// # Panics
/// If what was decoded is encoded as something else.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes);
    }
}

/// Decodes the plain bytes of a page.
///
/// # Panics
/// As for [`manifest`].
pub fn page(bytes: &[u8]) {
    if let Ok(page) = Page::decode(bytes) {
        assert_eq!(page.encode(), bytes);
    }
}

/// Decodes the plain bytes of a pin.
///
/// # Panics
/// As for [`manifest`].
pub fn pin(bytes: &[u8]) {
    if let Ok(pin) = Pin::decode(bytes) {
        assert_eq!(pin.encode(), bytes);
    }
}

fn entries() -> Vec<Entry> {
    let name = ObjectName { origin: Uuid([5; 16]), hash: [6; 32] };
    [0, 3, 100].map(|place| Entry { place, stored: 777, name }).to_vec()
}

/// Objects that can be opened, packed and not.
pub fn object_seeds() -> Vec<Vec<u8>> {
    vec![encode(Kind::Chunk, &[7; 4096]), encode(Kind::Page, &page_seed()), encode(Kind::Pin, &pin_seed())]
}

/// Manifests that can be decoded: of an encrypted snapshot, and of another.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let encode = |key| {
        let (name, parent, nodes) = (NAME, Uuid([8; 16]), entries());
        Manifest { name, parent, blocks: 1 << 30, created_s: 5, chunks: 9, own_bytes: 99, nodes, key }
            .encode()
    };
    vec![encode(None), encode(Some(key_seed()))]
}

/// A page that can be decoded.
pub fn page_seed() -> Vec<u8> {
    Page { level: Level::Leaf, index: 77, entries: entries() }.encode()
}

/// A pin that can be decoded.
pub fn pin_seed() -> Vec<u8> {
    Pin { holder: NAME, snapshot: Uuid([9; 16]) }.encode()
}
