//! Volumes made of images, and raw disks of volumes. The formats have tests of their own.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::BlockRequest;
use crate::qcow2::tests::qemu_img;
use crate::testing::{Memory, execute};

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
    export(&volume, &path("volume"), (&path("raw"), Format::Raw), &|_| {}, &|| false).unwrap();
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
    for format in [Format::Raw, Format::Qcow2] {
        let error = export(&volume, &path("new"), (&path("raw"), format), &|_| {}, &|| true).unwrap_err();
        assert!(matches!(error, ImportError::Stopped));
    }
    assert_eq!(fs::read(path("raw")).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["image", "new", "raw"]);
}

/// To read all of it would take many minutes, and so would it to write it.
#[test]
fn what_a_volume_does_not_hold_is_neither_read_nor_written() {
    const SIZE: u64 = 64 << 40;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| folder.path().join(name);
    Volume::create(&path("volume"), SIZE).unwrap();
    let volume = Volume::open(&path("volume")).unwrap();
    let mut queue = volume.open_queue(1).unwrap();
    let places = [0, SIZE / 2 - 4096, SIZE / 2, SIZE - 512];
    for (place, byte) in places.into_iter().zip(1..) {
        let memory = Memory::from_bytes(&[byte; 512]);
        execute(&mut *queue, BlockRequest::Write { offset: place, buffers: &[memory.all()] }).unwrap();
    }
    let (started, told) = (Instant::now(), AtomicU64::new(0));
    let stop = || started.elapsed() > Duration::from_secs(60);
    let progress = |progress: Progress| {
        told.fetch_max(progress.done_bytes, Ordering::Relaxed);
    };
    export(&volume, &path("volume"), (&path("out"), Format::Qcow2), &progress, &stop).unwrap();
    assert_eq!(told.into_inner(), SIZE);
    assert!(fs::metadata(path("out")).unwrap().blocks() * 512 < 4 << 20);
    qemu_img(folder.path(), &["check", "-q", "-f", "qcow2", "out"]);
    import_volume(&path("out"), &path("again"), None, &|_| {}, &stop).unwrap();
    let again = Volume::open(&path("again")).unwrap();
    for (place, byte) in places.into_iter().zip(1..) {
        let mut found = [0; 512];
        again.read_at(place, &mut found).unwrap();
        assert_eq!(found, [byte; 512]);
    }
}

/// A write or a discard: where, how long, and of which byte; zero for a discard.
fn any_change(size: u64) -> impl Strategy<Value = (u64, u64, u8)> {
    let place = prop_oneof![0..size / 512, Just(0), Just(size / 512 - 1), Just((512 << 20) / 512 - 8)];
    (place, prop_oneof![1u64..16, 100u64..3000], 0u8..4).prop_map(move |(sector, count, byte)| {
        let sector = sector.min(size / 512 - 1);
        (sector * 512, count.min(size / 512 - sector) * 512, byte)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Around the end of what the first L2 table is about, and with a last cluster that is not whole.
    #[test]
    fn a_qcow2_of_any_volume_is_sound_and_the_same_disk(changes in prop::collection::vec(any_change((516 << 20) + 4096), 0..24)) {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = |name: &str| folder.path().join(name);
        Volume::create(&path("volume"), (516 << 20) + 4096).unwrap();
        let volume = Volume::open(&path("volume")).unwrap();
        let mut queue = volume.open_queue(1).unwrap();
        for (index, (offset, len, byte)) in changes.into_iter().enumerate() {
            let memory = Memory::from_bytes(&vec![byte; usize::try_from(len).unwrap()]);
            let request = match byte {
                0 => BlockRequest::Discard { offset, len },
                _ => BlockRequest::Write { offset, buffers: &[memory.all()] },
            };
            execute(&mut *queue, request).unwrap();
            if index % 8 == 7 {
                volume.seal().unwrap();
            }
        }
        for (name, format) in [("raw", Format::Raw), ("qcow2", Format::Qcow2)] {
            export(&volume, &path("volume"), (&path(name), format), &|_| {}, &|| false).unwrap();
        }
        qemu_img(folder.path(), &["check", "-q", "-f", "qcow2", "qcow2"]);
        qemu_img(folder.path(), &["compare", "-q", "-f", "raw", "-F", "qcow2", "raw", "qcow2"]);
        import(&path("qcow2"), &path("again"), &|_| {}).unwrap();
        qemu_img(folder.path(), &["compare", "-q", "-f", "raw", "-F", "raw", "raw", "again"]);
    }
}
