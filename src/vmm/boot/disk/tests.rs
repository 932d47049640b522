use std::sync::OnceLock;

use proptest::prelude::*;

use super::testing::{MIB, disk, ext4, partitioned, tool, write_files};
use super::*;

const KERNEL: &str = "a kernel";
const GRUB: &str = "menuentry 'Linux' {\n search --fs-uuid --set=root UUID\n linux /boot/vmlinuz root=/dev/vda1 ro\n initrd /boot/initrd\n}\n";

const FILES: [(&str, &str); 3] =
    [("/boot/grub/grub.cfg", GRUB), ("/boot/vmlinuz", KERNEL), ("/boot/initrd", "an initrd")];

fn image(files: &[(&str, &str)]) -> Vec<u8> {
    ext4(8, &["-t", "ext4", "-L", "root"], |root| write_files(root, files))
}

fn open(bytes: Vec<u8>) -> BootDisk {
    BootDisk::open(&disk(bytes)).unwrap_or_else(|error| panic!("{error}"))
}

fn failure(bytes: Vec<u8>) -> String {
    BootDisk::open(&disk(bytes)).err().expect("nothing to boot").to_string()
}

fn check(boot: &BootDisk) {
    let entry = &boot.entries()[0];
    assert_eq!(entry.title, "Linux");
    assert_eq!(entry.command_line, "root=/dev/vda1 ro");
    assert_eq!(boot.read(&entry.kernel, 100).unwrap(), KERNEL.as_bytes());
    let mut initrd = Vec::new();
    boot.copy(&entry.initrds[0], &mut initrd).unwrap();
    assert_eq!(initrd, b"an initrd");
}

const GPT_SCRIPT: &str = "label: gpt\nstart=2048, size=2048, type=U\nstart=4096, size=16384, type=L\n";

fn gpt() -> &'static [u8] {
    static GPT: OnceLock<Vec<u8>> = OnceLock::new();
    GPT.get_or_init(|| partitioned(12, GPT_SCRIPT, &[(4096, &image(&FILES))]))
}

#[test]
fn a_kernel_is_found_on_a_bare_file_system() {
    let boot = open(image(&FILES));
    check(&boot);
    assert_eq!(boot.configuration(), "/boot/grub/grub.cfg on the whole disk");
}

#[test]
fn a_kernel_is_found_behind_a_gpt_even_if_its_main_copy_is_damaged() {
    check(&open(gpt().to_vec()));
    for damaged in [512 + 60, 1024 + 5] {
        let mut bytes = gpt().to_vec();
        bytes[damaged] ^= 0xff;
        check(&open(bytes.clone()));
        let end = bytes.len();
        bytes[end - 512 + 60] ^= 0xff;
        assert!(failure(bytes).contains("no partition that can be used"));
    }
}

#[test]
fn a_kernel_is_found_in_primary_and_logical_partitions() {
    let primary = "label: dos\nstart=2048, size=2048, type=82\nstart=4096, size=16384, type=83, bootable\n";
    check(&open(partitioned(12, primary, &[(4096, &image(&FILES))])));
    let logical = "label: dos\n1: start=2048, size=24576, type=5\n5: start=4096, size=2048, type=82\n6: start=8192, size=16384, type=83\n";
    let boot = open(partitioned(16, logical, &[(8192, &image(&FILES))]));
    check(&boot);
    assert_eq!(boot.configuration(), "/boot/grub/grub.cfg on partition 6");
}

#[test]
fn a_boot_partition_of_its_own_is_looked_at_first() {
    let menu = "menuentry 'Linux' {\n linux /vmlinuz root=/dev/vda1 ro\n initrd /initrd\n}\n";
    let boot = image(&[("/grub/grub.cfg", menu), ("/vmlinuz", KERNEL), ("/initrd", "an initrd")]);
    let root = image(&[("/etc/os-release", "ID=x"), ("/boot/vmlinuz", "not this one")]);
    let script = "label: gpt\nstart=2048, size=16384, type=L\nstart=20480, size=16384, type=BC13C2FF-59E6-4262-A352-B275FD6F7172\n";
    let boot = open(partitioned(20, script, &[(2048, &root), (20480, &boot)]));
    check(&boot);
    assert_eq!(boot.configuration(), "/grub/grub.cfg on partition 2");
}

#[test]
fn a_search_by_uuid_leads_to_another_partition() {
    let uuid = "0a0b0c0d-1111-2222-3333-444455556666";
    let kernels = ext4(8, &["-t", "ext4", "-U", uuid], |root| write_files(root, &FILES));
    let menu = GRUB.replace("UUID", uuid);
    let menus =
        image(&[("/grub/grub.cfg", &menu), ("/boot/vmlinuz", "not this one"), ("/boot/initrd", "nor this")]);
    let script = "label: gpt\nstart=2048, size=16384, type=L\nstart=20480, size=16384, type=L\n";
    check(&open(partitioned(20, script, &[(2048, &menus), (20480, &kernels)])));
}

#[test]
fn boot_loader_entries_and_extlinux_menus_are_read_where_grub_is_not() {
    let entry = "title Linux\nversion 6.1\nlinux /boot/vmlinuz\ninitrd /boot/initrd\noptions root=/dev/vda1\noptions ro\n";
    let older = "title Older\nversion 5.9\nlinux /boot/vmlinuz\n";
    let mut files = vec![("/boot/loader/entries/a.conf", entry), ("/boot/loader/entries/b.conf", older)];
    files.extend(&FILES[1..]);
    // By name `b` is the newer one, and `loader.conf` overrules that.
    assert_eq!(open(image(&files)).entries()[0].title, "Older");
    files.push(("/boot/loader/loader.conf", "timeout 3\ndefault a*\n"));
    check(&open(image(&files)));

    let menu =
        "DEFAULT Linux\nLABEL Linux\n LINUX ../vmlinuz\n INITRD ../initrd\n APPEND root=/dev/vda1 ro\n";
    let mut files = vec![("/boot/extlinux/extlinux.conf", menu)];
    files.extend(&FILES[1..]);
    check(&open(image(&files)));
}

#[test]
fn an_entry_whose_files_are_missing_is_passed_over() {
    let menu = format!("menuentry gone {{ linux /boot/gone }}\n{GRUB}");
    let mut files = FILES;
    files[0].1 = &menu;
    check(&open(image(&files)));
}

#[test]
fn a_disk_without_a_kernel_says_what_was_looked_for_and_where() {
    let menu = "menuentry 'Linux' { linux /boot/vmlinuz-5 }";
    let mut bytes = partitioned(12, GPT_SCRIPT, &[(4096, &image(&[("/boot/grub/grub.cfg", menu)]))]);
    bytes[2048 * 512..][..4].copy_from_slice(b"XFSB");
    let text = failure(bytes);
    for expected in [
        "no kernel was found on the disk (12.0 MiB)",
        "partition 1: EFI system, 1.0 MiB, XFS (kernels are read from ext4 only)",
        "partition 2: Linux, 8.0 MiB, ext4 \"root\"",
        "/boot/grub/grub.cfg on partition 2: \"Linux\": /boot/vmlinuz-5 is not there",
        "/boot/loader/entries on partition 2: not there",
        "--kernel",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert!(
        failure(vec![0; MIB]).contains("the whole disk: 1.0 MiB, no partition table, no known file system")
    );
}

#[test]
fn what_a_guest_wrote_does_not_reach_the_terminal_as_it_is() {
    let menu = "menuentry '\u{1b}[2Jx' { linux /boot/\u{1b}c }";
    let text = failure(image(&[("/boot/grub/grub.cfg", menu)]));
    assert!(!text.contains('\u{1b}') && text.contains("u{1b}"), "{text}");
}

#[test]
fn a_disk_that_fails_is_an_error_with_its_place() {
    let failing = volume::testing::FakeDisk::new(image(&FILES));
    failing.fail(0..512, 5);
    let disk: Arc<dyn BlockBackend> = Arc::new(failing);
    assert!(matches!(BootDisk::open(&disk), Err(BootDiskError::Table { .. })));
}

#[test]
fn a_file_system_that_was_cut_short_is_told() {
    let mut bytes = image(&FILES);
    bytes.truncate(bytes.len() / 8);
    let text = failure(bytes);
    assert!(text.contains("ext4"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_damage_to_a_partition_table_panics_or_hangs(
        is_gpt: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
    ) {
        static MBR: OnceLock<Vec<u8>> = OnceLock::new();
        let mbr = MBR.get_or_init(|| {
            let script = "label: dos\n1: start=2048, size=12000, type=5\n5: start=4096, size=100, type=83\n6: start=8192, size=100, type=83\n";
            partitioned(8, script, &[])
        });
        let mut bytes = if is_gpt { gpt().to_vec() } else { mbr.clone() };
        // Of an MBR also the second table, which is in the extended partition.
        let places = if is_gpt { 446..2048 } else { 446..2049 * 512 };
        for (place, value) in damage {
            bytes[places.start + place.index(places.len())] = value;
        }
        let _ = BootDisk::open(&disk(bytes));
    }

    #[test]
    fn no_damage_to_a_disk_panics_or_hangs(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        static USED: OnceLock<Vec<usize>> = OnceLock::new();
        let used = USED.get_or_init(|| (0..gpt().len()).filter(|at| gpt()[*at] != 0).collect());
        let mut bytes = gpt().to_vec();
        for (place, value) in damage {
            bytes[used[place.index(used.len())]] = value;
        }
        if let Ok(boot) = BootDisk::open(&disk(bytes)) {
            for entry in boot.entries() {
                let _ = boot.read(&entry.kernel, 1 << 20);
            }
        }
    }
}

#[test]
fn the_tools_agree_that_the_images_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, gpt()).unwrap();
    tool("sfdisk", &["-V", path.to_str().unwrap()], "");
}
