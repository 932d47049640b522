//! An image that is imported.

use std::cell::RefCell;
use std::fs;
use std::ops::Range;

use tempfile::TempDir;
use volume::import::import;

/// The size of the disk in the header, big-endian (docs/interop/qcow2.txt); what is beyond 16 MiB of it is taken away, since a
/// large disk takes long by its nature.
const SIZE_ABOVE_16_MIB: Range<usize> = 24..29;
const CLUSTER_BYTES: usize = 512;
/// Bits of table entries: it has one owner; the cluster is compressed.
const OWNED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

thread_local! {
    /// In memory where there is such a folder: an import puts what it makes on stable storage.
    static FOLDER: RefCell<TempDir> = RefCell::new(
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder"),
    );
}

/// Imports one image.
pub fn run(data: &[u8]) {
    let mut bytes = data.to_vec();
    if bytes.starts_with(b"QFI\xfb") {
        bytes.iter_mut().take(SIZE_ABOVE_16_MIB.end).skip(SIZE_ABOVE_16_MIB.start).for_each(|byte| *byte = 0);
    }
    FOLDER.with_borrow(|folder| {
        let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
        fs::write(&image, bytes).expect("there is room");
        match import(&image, &disk, &|_| {}) {
            Ok(imported) => {
                assert_eq!(fs::metadata(&disk).expect("a disk").len(), imported.size_bytes);
                fs::remove_file(&disk).expect("ours");
            }
            Err(_) => assert!(!disk.exists(), "a failure leaves nothing behind"),
        }
        assert_eq!(fs::read_dir(folder).expect("a folder").count(), 1, "nothing but the image is left");
    });
}

/// Version 2 and 3: a plain cluster, a compressed one, one that reads as zeroes, one that is not there.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![image(2), image(3)]
}

fn image(version: u32) -> Vec<u8> {
    let packed = {
        use flate2::{Compress, Compression, FlushCompress};
        let mut packed = Vec::with_capacity(CLUSTER_BYTES);
        Compress::new(Compression::best(), false)
            .compress_vec(&[b'x'; CLUSTER_BYTES], &mut packed, FlushCompress::Finish)
            .expect("there is room");
        packed
    };
    let mut bytes = vec![0; 5 * CLUSTER_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &version.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &(8 * CLUSTER_BYTES as u64).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(CLUSTER_BYTES as u64).to_be_bytes());
    put(100, &104u32.to_be_bytes());
    let at = |cluster: usize| (cluster * CLUSTER_BYTES) as u64;
    put(CLUSTER_BYTES, &(OWNED | at(2)).to_be_bytes());
    let entries = [OWNED | at(3), COMPRESSED | at(4), u64::from(version > 2), 0];
    for (index, entry) in entries.into_iter().enumerate() {
        put(2 * CLUSTER_BYTES + 8 * index, &entry.to_be_bytes());
    }
    put(3 * CLUSTER_BYTES, &[b'p'; CLUSTER_BYTES]);
    put(4 * CLUSTER_BYTES, &packed);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_changed_is_imported() {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
        for seed in seeds() {
            fs::write(&image, seed).unwrap();
            import(&image, &disk, &|_| {}).unwrap();
            let disk = fs::read(&disk).unwrap();
            assert_eq!(disk.len(), 8 * CLUSTER_BYTES);
            let first: Vec<u8> = disk.iter().copied().step_by(CLUSTER_BYTES).collect();
            assert_eq!(first, *b"px\0\0\0\0\0\0");
        }
    }
}
