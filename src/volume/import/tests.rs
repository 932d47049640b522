//! Volumes made of images, and raw disks of volumes. The formats have tests of their own.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;

const MIB: usize = 1 << 20;

/// Blocks with data here and there, at both ends too, and a length that no unit divides.
fn bytes() -> Vec<u8> {
    let mut bytes = vec![0; 9 * MIB + 3 * 512];
    for start in [0, 4096, 5 * MIB - 100, 8 * MIB, 9 * MIB] {
        bytes[start..start + 700].fill(7);
    }
    *bytes.last_mut().unwrap() = 9;
    bytes
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_volume_made_of_an_image_has_its_bytes_and_becomes_a_raw_disk_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("image"), bytes()).unwrap();
    let told = AtomicU64::new(0);
    let progress = |progress: Progress| {
        assert_eq!(progress.total_bytes, bytes().len() as u64);
        told.fetch_max(progress.done_bytes, Ordering::Relaxed);
    };
    let imported = import_volume(&path("image"), &path("volume"), None, &progress, &|| false).unwrap();
    let size_bytes = (bytes().len() as u64).next_multiple_of(4096);
    assert_eq!(imported, Imported { format: Format::Raw, size_bytes });
    assert_eq!(told.into_inner(), bytes().len() as u64);
    let volume = Volume::open(&path("volume")).unwrap();
    export(&volume, &path("volume"), &path("raw"), &|_| {}, &|| false).unwrap();
    let mut expected = bytes();
    expected.resize(usize::try_from(size_bytes).unwrap(), 0);
    assert!(fs::read(path("raw")).unwrap() == expected);
    // Ten blocks have data.
    assert!(fs::metadata(path("raw")).unwrap().blocks() * 512 <= 20 * 4096);
    drop(volume);
    assert!(Volume::check(&path("volume"), false).unwrap().data_blocks <= 10);
    assert_eq!(names(folder.path()), ["image", "raw", "volume"]);
}

/// To read all of it would take many minutes.
#[test]
fn what_a_raw_image_does_not_hold_is_not_read() {
    const SIZE: u64 = 1 << 40;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let image = fs::File::create(path("image")).unwrap();
    image.set_len(SIZE).unwrap();
    for (start, byte) in [(0, 1), (SIZE / 2 - 100, 2), (SIZE - 700, 3)] {
        image.write_all_at(&[byte; 700], start).unwrap();
    }
    let started = Instant::now();
    let stop = || started.elapsed() > Duration::from_secs(60);
    import_volume(&path("image"), &path("volume"), None, &|_| {}, &stop).unwrap();
    let volume = Volume::open(&path("volume")).unwrap();
    for (start, byte) in [(0, 1), (SIZE / 2 - 100, 2), (SIZE - 700, 3)] {
        let mut found = [0; 700];
        volume.read_at(start, &mut found).unwrap();
        assert_eq!(found, [byte; 700]);
    }
    drop(volume);
    assert_eq!(Volume::check(&path("volume"), false).unwrap().data_blocks, 4);
}

#[test]
fn a_volume_may_be_larger_than_its_image_and_not_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("image"), bytes()).unwrap();
    import_volume(&path("image"), &path("large"), Some(1 << 40), &|_| {}, &|| false).unwrap();
    let volume = Volume::open(&path("large")).unwrap();
    assert_eq!(volume.size_bytes(), 1 << 40);
    let mut read = vec![1; bytes().len()];
    volume.read_at(0, &mut read).unwrap();
    assert!(read == bytes());
    let error = import_volume(&path("image"), &path("small"), Some(4096), &|_| {}, &|| false).unwrap_err();
    assert!(matches!(error, ImportError::TooSmall { .. }), "{error}");
    assert_eq!(names(folder.path()), ["image", "large"]);
}

#[test]
fn nothing_is_replaced_and_nothing_is_left_of_what_failed_or_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("image"), bytes()).unwrap();
    let into = |name: &str, size_bytes, stop: &(dyn Fn() -> bool + Sync)| {
        import_volume(&path("image"), &path(name), size_bytes, &|_| {}, stop).unwrap_err()
    };
    assert!(matches!(into("image", None, &|| false), ImportError::Exists { .. }));
    assert!(matches!(into("new", Some(10 * MIB as u64 + 1), &|| false), ImportError::Volume { .. }));
    let asked = AtomicU64::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) > 0;
    assert!(matches!(into("new", None, &stop), ImportError::Stopped));
    assert_eq!(names(folder.path()), ["image"]);

    import_volume(&path("image"), &path("new"), None, &|_| {}, &|| false).unwrap();
    assert!(matches!(into("new", None, &|| false), ImportError::Exists { .. }));
    let volume = Volume::open(&path("new")).unwrap();
    fs::write(path("raw"), b"old").unwrap();
    let error = export(&volume, &path("new"), &path("raw"), &|_| {}, &|| true).unwrap_err();
    assert!(matches!(error, ImportError::Stopped));
    assert_eq!(fs::read(path("raw")).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["image", "new", "raw"]);
}
