use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::import::{Format, ImportError, detect, import};

const SIZE: usize = 20 << 20;

/// Runs `qemu-img` in a folder.
pub(crate) fn qemu_img(folder: &Path, arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {errors}");
}

/// A disk with stretches of noise, of text that packs well, and of nothing.
fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| {
        let mut bytes = vec![0; SIZE];
        let mut state = 1u32;
        for byte in &mut bytes[1 << 20..6 << 20] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_le_bytes()[3];
        }
        let text = b"a text that repeats itself. ".iter().cycle();
        bytes[8 << 20..(13 << 20) + 12_345].iter_mut().zip(text).for_each(|(byte, new)| *byte = *new);
        bytes[SIZE - 700] = 1;
        bytes
    })
}

/// A folder with the disk as `raw`, and as `image` what `qemu-img convert` makes of it.
fn converted(options: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("raw"), content()).unwrap();
    let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
    arguments.extend(options);
    arguments.extend(["raw", "image"]);
    qemu_img(folder.path(), &arguments);
    folder
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

/// The import of `image` in the folder.
fn imported(folder: &TempDir) -> Result<Vec<u8>, ImportError> {
    let target = path(folder, "disk");
    import(&path(folder, "image"), &target, &|_| {})?;
    Ok(std::fs::read(target).unwrap())
}

#[test]
fn images_of_every_kind_give_the_disk_they_were_made_of() {
    for options in [
        &[][..],
        &["-o", "compat=0.10"],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=4096"],
        &["-c", "-o", "cluster_size=2M,compression_type=zstd"],
        &["-o", "preallocation=full"],
    ] {
        let folder = converted(options);
        assert_eq!(detect(&path(&folder, "image")).unwrap(), Format::Qcow2);
        assert!(imported(&folder).unwrap() == content(), "{options:?}");
        let disk = std::fs::metadata(path(&folder, "disk")).unwrap();
        assert!(disk.blocks() * 512 < 12 << 20, "{options:?}: the disk is not sparse");
    }
}

#[test]
fn clusters_of_zeroes_over_data_and_writes_after_a_snapshot_count() {
    let folder = converted(&[]);
    qemu_img(folder.path(), &["snapshot", "-c", "before", "image"]);
    let commands = ["write -P 7 2M 1M", "write -z 3M 1M", "discard 8M 1M"];
    let mut qemu_io = Command::new("qemu-io");
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    let status = qemu_io.args(["-f", "qcow2", "image"]).current_dir(folder.path()).output().unwrap().status;
    assert!(status.success());
    let mut expected = content().to_vec();
    expected[2 << 20..3 << 20].fill(7);
    expected[3 << 20..4 << 20].fill(0);
    expected[8 << 20..9 << 20].fill(0);
    assert!(imported(&folder).unwrap() == expected);
}

#[test]
fn a_raw_image_is_copied_with_its_holes_and_its_progress_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = content().to_vec();
    expected.push(9);
    std::fs::write(path(&folder, "image"), &expected).unwrap();
    let (most, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let imported = import(&path(&folder, "image"), &path(&folder, "disk"), &|progress| {
        most.fetch_max(progress.done_bytes, Ordering::Relaxed);
        total.store(progress.total_bytes, Ordering::Relaxed);
    });
    let imported = imported.unwrap();
    expected.resize(expected.len() + 511, 0);
    assert!(std::fs::read(path(&folder, "disk")).unwrap() == expected);
    assert_eq!((imported.format, imported.size_bytes), (Format::Raw, expected.len() as u64));
    assert_eq!(most.load(Ordering::Relaxed), imported.size_bytes);
    assert_eq!(total.load(Ordering::Relaxed), imported.size_bytes);
}

#[test]
fn what_cannot_be_read_is_refused_with_a_remedy_and_leaves_nothing() {
    let convert = "qemu-img convert";
    for (arguments, what, remedy) in [
        (&["create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "image"][..], "backing file", convert),
        (&["create", "-q", "-f", "qcow2", "-o", "data_file=other", "image", "1M"], "another file", convert),
        (&["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "image", "1M"], "extended L2", convert),
        (
            &[
                "create",
                "-q",
                "--object",
                "secret,id=s,data=x",
                "-f",
                "qcow2",
                "-o",
                // Not LUKS, which times its key derivation: that fails where processor time is told coarsely.
                "encrypt.format=aes,encrypt.key-secret=s",
                "image",
                "1M",
            ],
            "encrypted",
            convert,
        ),
        (&["create", "-q", "-f", "vmdk", "image", "1M"], "a VMDK", convert),
        (&["create", "-q", "-f", "vpc", "image", "1M"], "a VHD", convert),
        (&["create", "-q", "-f", "vpc", "-o", "subformat=fixed", "image", "1M"], "a VHD", convert),
        (&["create", "-q", "-f", "vhdx", "image", "1M"], "a VHDX", convert),
        (&["create", "-q", "-f", "vdi", "image", "1M"], "a VDI", convert),
        (&["create", "-q", "-f", "qcow", "image", "1M"], "unknown version", convert),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(path(&folder, "raw"), vec![0; 1 << 20]).unwrap();
        qemu_img(folder.path(), arguments);
        let text = imported(&folder).unwrap_err().to_string();
        assert!(text.contains(what) && text.contains(remedy), "{arguments:?}: {text}");
        let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("disk")));
    }
}

#[test]
fn images_marked_dirty_or_corrupt_or_cut_short_are_refused() {
    for (flag, what) in [(1u8, "not closed properly"), (2, "marked as corrupt"), (128, "unknown features")] {
        let folder = converted(&[]);
        let file = File::options().write(true).open(path(&folder, "image")).unwrap();
        file.write_all_at(&[flag], 79).unwrap();
        let text = imported(&folder).unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
    let folder = converted(&[]);
    let file = File::options().write(true).open(path(&folder, "image")).unwrap();
    file.set_len(3 << 20).unwrap();
    let error = imported(&folder).unwrap_err();
    assert!(matches!(error, ImportError::Corrupt { .. }), "{error}");
    file.set_len(50).unwrap();
    let error = imported(&folder).unwrap_err();
    assert!(matches!(error, ImportError::Corrupt { .. }), "{error}");
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    for size in [0, u64::MAX, 1 << 60, (1 << 46) + 1] {
        let folder = converted(&[]);
        let file = File::options().write(true).open(path(&folder, "image")).unwrap();
        file.write_all_at(&u64::to_be_bytes(size), 24).unwrap();
        let error = imported(&folder).unwrap_err();
        assert!(matches!(error, ImportError::Corrupt { .. }), "{size}: {error}");
    }
}

/// An image of a few megabytes whose every L1 entry points to one L2 table, and whose entries there all point to one
/// cluster.
#[test]
fn an_image_that_unpacks_to_more_than_there_is_space_for_is_refused_before_it_is_written() {
    const CLUSTER: u64 = 1 << 16;
    const SIZE_BYTES: u64 = 1 << 46;
    let l1_entries = SIZE_BYTES / (CLUSTER * CLUSTER / 8);
    let l2_offset = (CLUSTER + l1_entries * 8).next_multiple_of(CLUSTER);
    let data_offset = l2_offset + CLUSTER;
    let folder = tempfile::tempdir().unwrap();
    let file = File::create(path(&folder, "image")).unwrap();
    let fields = [(4, 2), (20, 16), (36, u32::try_from(l1_entries).unwrap())];
    file.write_all_at(b"QFI\xfb", 0).unwrap();
    fields.iter().for_each(|(at, value)| file.write_all_at(&value.to_be_bytes(), *at).unwrap());
    file.write_all_at(&SIZE_BYTES.to_be_bytes(), 24).unwrap();
    file.write_all_at(&CLUSTER.to_be_bytes(), 40).unwrap();
    let pointers = |to: u64, count: u64| (1 << 63 | to).to_be_bytes().repeat(usize::try_from(count).unwrap());
    file.write_all_at(&pointers(l2_offset, l1_entries), CLUSTER).unwrap();
    file.write_all_at(&pointers(data_offset, CLUSTER / 8), l2_offset).unwrap();
    file.write_all_at(&[7; 1 << 16], data_offset).unwrap();

    let written = AtomicU64::new(0);
    let error = import(&path(&folder, "image"), &path(&folder, "disk"), &|progress| {
        written.fetch_max(progress.done_bytes, Ordering::Relaxed);
    });
    let error = error.unwrap_err();
    assert!(matches!(error, ImportError::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains("make room there"), "{error}");
    assert_eq!(written.load(Ordering::Relaxed), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_disk_has_its_name_when_it_is_whole_and_replaces_an_old_one() {
    let folder = converted(&[]);
    let target = path(&folder, "disk");
    import(&path(&folder, "image"), &target, &|_| assert!(!target.exists())).unwrap();
    std::fs::write(&target, "old").unwrap();
    let is_old = |_| assert_eq!(std::fs::metadata(&target).unwrap().len(), 3);
    import(&path(&folder, "image"), &target, &is_old).unwrap();
    assert!(std::fs::read(&target).unwrap() == content());
    // Beside the image, the disk that it was made of, and the new one there is nothing.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn compressed_files_are_told_to_be_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    for magic in [&b"\x1f\x8b\x08\0"[..], b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh9"] {
        std::fs::write(path(&folder, "image"), magic).unwrap();
        let text = detect(&path(&folder, "image")).unwrap_err().to_string();
        assert!(text.contains("unpack it first"), "{text}");
    }
}

/// A small image, so that each case is quick.
fn small(options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(path(&folder, "raw"), &content()[5 << 20..10 << 20]).unwrap();
    let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
    arguments.extend(options);
    arguments.extend(["raw", "image"]);
    qemu_img(folder.path(), &arguments);
    std::fs::read(path(&folder, "image")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_damage_panics_or_hangs(
        choice in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let images = IMAGES.get_or_init(|| {
            [&["-o", "cluster_size=4096"][..], &["-c"], &["-c", "-o", "compression_type=zstd,cluster_size=16k"]]
                .map(small)
                .to_vec()
        });
        let mut image = images[choice].clone();
        for (place, value, in_header) in damage {
            let range = if in_header { 4..112 } else { 112..image.len() };
            image[range.start + place.index(range.len())] = value;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        // A size that was made huge would only cost time here.
        prop_assume!(image.len() < 32 || image[24..28] == [0; 4]);
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(path(&folder, "image"), &image).unwrap();
        let _ = import(&path(&folder, "image"), &path(&folder, "disk"), &|_| {});
    }
}
