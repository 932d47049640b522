//! Disks laid out as the vendors of cloud images do it: partitions numbered out of order, an EFI system partition,
//! `/boot` by itself, root file systems that are not read here.
//!
//! Sources: `fdisk -l` of the images, Debian's and Ubuntu's build scripts, Fedora's change "FedoraCloudHybridBoot".

use std::fs::File;

use super::testing::{MIB, disk, ext4, partitioned, tool, write_files};
use super::*;

const SECTORS_PER_MIB: u64 = 2048;
const ROOT_UUID: &str = "5a1f0f27-1d11-4f0e-9a1b-0123456789ab";
const BOOT_UUID: &str = "6b2e1e38-2e22-4a1d-8b2c-123456789abc";

/// What mke2fs of 2024 adds to Debian 12's defaults.
const NEWER_FEATURES: [&str; 2] = ["-O", "metadata_csum_seed,orphan_file"];

fn fat() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fat");
    File::create(&path).unwrap().set_len(4 * MIB as u64).unwrap();
    tool("mkfs.vfat", &["-n", "UEFI", path.to_str().unwrap()], "");
    std::fs::read(path).unwrap()
}

/// As much of a file system as is needed to know it.
fn signature(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; MIB];
    bytes[offset..offset + magic.len()].copy_from_slice(magic);
    bytes
}

fn xfs() -> Vec<u8> {
    signature(0, b"XFSB")
}

fn btrfs() -> Vec<u8> {
    signature(0x1_0040, b"_BHRfS_M")
}

/// A GPT of partitions, each with number, start and size in MiB, type, and content.
fn gpt(size_mib: usize, partitions: &[(u32, u64, u64, &str, &[u8])]) -> Vec<u8> {
    let mut script = String::from("label: gpt\n");
    let mut contents = Vec::new();
    for (number, start, size, kind, content) in partitions {
        let (start, size) = (start * SECTORS_PER_MIB, size * SECTORS_PER_MIB);
        script += &format!("{number}: start={start}, size={size}, type={kind}\n");
        contents.push((start, *content));
    }
    partitioned(size_mib, &script, &contents)
}

const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const LINUX_ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
const LINUX_BOOT: &str = "BC13C2FF-59E6-4262-A352-B275FD6F7172";

fn open(bytes: Vec<u8>) -> BootDisk {
    BootDisk::open(&super::testing::disk(bytes)).unwrap_or_else(|error| panic!("{error}"))
}

/// The default entry: its kernel's path and content, how many initrds, its command line.
fn default_entry(boot: &BootDisk) -> (&str, String, usize, &str) {
    let entry = &boot.entries()[0];
    let kernel = String::from_utf8(boot.read(&entry.kernel, 100).unwrap()).unwrap();
    (&entry.kernel.path, kernel, entry.initrds.len(), &entry.command_line)
}

fn environment_block(variables: &str) -> String {
    format!("{:#<1024}", format!("# GRUB Environment Block\n{variables}"))
}

#[test]
fn debian_has_its_root_first_in_the_table_and_last_on_the_disk() {
    let menu = format!(
        "set default=\"0\"\nmenuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {{\n\
         insmod part_gpt\n insmod ext2\n search --no-floppy --fs-uuid --set=root {ROOT_UUID}\n\
         linux /boot/vmlinuz-6.1.0-26-cloud-amd64 root=PARTUUID=aa ro console=tty0 console=ttyS0,115200\n\
         initrd /boot/initrd.img-6.1.0-26-cloud-amd64\n}}\n"
    );
    let root = ext4(16, &["-t", "ext4", "-U", ROOT_UUID], |root| {
        let files = [
            ("/boot/grub/grub.cfg", menu.as_str()),
            ("/boot/vmlinuz-6.1.0-26-cloud-amd64", "the kernel"),
            ("/boot/initrd.img-6.1.0-26-cloud-amd64", "the initrd"),
        ];
        write_files(root, &files);
    });
    let boot = open(gpt(
        28,
        &[(1, 9, 16, LINUX_ROOT, &root), (14, 1, 3, BIOS_BOOT, &[]), (15, 4, 4, EFI_SYSTEM, &fat())],
    ));
    assert_eq!(boot.configuration(), "/boot/grub/grub.cfg on partition 1");
    let expected = "root=PARTUUID=aa ro console=tty0 console=ttyS0,115200";
    assert_eq!(
        default_entry(&boot),
        ("/boot/vmlinuz-6.1.0-26-cloud-amd64", "the kernel".to_owned(), 1, expected)
    );
}

/// Ubuntu 24.04: the kernels are in partition 16, and the root has an empty `/boot`. Its minimal image would first try to
/// boot without the initrd.
#[test]
fn ubuntu_has_its_kernels_in_a_boot_partition_and_keeps_its_initrd() {
    let menu = format!(
        "if [ -s $prefix/grubenv ]; then\n set have_grubenv=true\n load_env\nfi\n\
         if [ \"${{initrdfail}}\" = 2 ]; then\n set initrdfail=\nelif [ \"${{initrdfail}}\" = 1 ]; then\n\
         set next_entry=\"${{prev_entry}}\"\n set prev_entry=\n save_env prev_entry\n\
         if [ \"${{next_entry}}\" ]; then\n set initrdfail=2\n fi\nfi\n\
         if [ \"${{next_entry}}\" ]; then set default=\"${{next_entry}}\"; else set default=\"0\"; fi\n\
         function initrdfail {{\n save_env initrdfail\n}}\n\
         menuentry 'Ubuntu' {{\n recordfail\n search --no-floppy --fs-uuid --set=root {BOOT_UUID}\n\
         if [ \"${{initrdfail}}\" = 1 ]; then\n linux /vmlinuz-6.8.0-45-generic root=PARTUUID=aa ro console=ttyS0\n\
         initrd /initrd.img-6.8.0-45-generic\n else\n\
         linux /vmlinuz-6.8.0-45-generic root=PARTUUID=aa ro console=ttyS0 panic=-1\n fi\n initrdfail\n}}\n\
         menuentry 'older' {{ linux /vmlinuz-6.8.0-31-generic }}\n"
    );
    let grubenv = environment_block("prev_entry=older\nnext_entry=older\n");
    let options = [&["-t", "ext4", "-U", BOOT_UUID, "-L", "BOOT"][..], &NEWER_FEATURES].concat();
    let boot = ext4(8, &options, |root| {
        let files = [
            ("/grub/grub.cfg", menu.as_str()),
            ("/grub/grubenv", &grubenv),
            ("/vmlinuz-6.8.0-45-generic", "the kernel"),
            ("/initrd.img-6.8.0-45-generic", "the initrd"),
            ("/vmlinuz-6.8.0-31-generic", "older"),
        ];
        write_files(root, &files);
    });
    let options = [&["-t", "ext4", "-L", "cloudimg-rootfs"][..], &NEWER_FEATURES].concat();
    let root = ext4(8, &options, |root| std::fs::create_dir(root.join("boot")).unwrap());
    let boot = open(gpt(
        28,
        &[
            (1, 17, 8, LINUX, &root),
            (14, 1, 3, BIOS_BOOT, &[]),
            (15, 4, 4, EFI_SYSTEM, &fat()),
            (16, 8, 8, LINUX_BOOT, &boot),
        ],
    ));
    assert_eq!(boot.configuration(), "/grub/grub.cfg on partition 16");
    let expected = "root=PARTUUID=aa ro console=ttyS0";
    assert_eq!(default_entry(&boot), ("/vmlinuz-6.8.0-45-generic", "the kernel".to_owned(), 1, expected));
}

#[test]
fn fedora_has_boot_loader_entries_on_ext4_and_its_root_on_btrfs() {
    let menu = format!(
        "if [ -f ${{config_directory}}/grubenv ]; then\n load_env -f ${{config_directory}}/grubenv\n\
         elif [ -s $prefix/grubenv ]; then\n load_env\nfi\n\
         if [ \"${{next_entry}}\" ] ; then\n set default=\"${{next_entry}}\"\nelse\n set default=\"${{saved_entry}}\"\nfi\n\
         insmod part_gpt\ninsmod ext2\nsearch --no-floppy --fs-uuid --set=root {BOOT_UUID}\n\
         if [ -z \"${{kernelopts}}\" ]; then\n set kernelopts=\"root=wrong\"\nfi\ninsmod blscfg\nblscfg\n"
    );
    let entry = |version: &str, options: &str| {
        format!(
            "title Fedora Linux ({version})\nversion {version}\nlinux /vmlinuz-{version}\n\
             initrd /initramfs-{version}.img $tuned_initrd\noptions {options}\ngrub_users $grub_users\ngrub_class fedora\n"
        )
    };
    let (older, newer) =
        (entry("6.8.5", "$kernelopts quiet"), entry("6.11.4", "root=UUID=cc rootflags=subvol=root"));
    for (saved, expected) in [
        ("saved_entry=0123-6.8.5\n", ("/vmlinuz-6.8.5", "root=UUID=cc ro rootflags=subvol=root quiet")),
        ("", ("/vmlinuz-6.11.4", "root=UUID=cc rootflags=subvol=root")),
    ] {
        let grubenv = environment_block(&format!(
            "{saved}kernelopts=root=UUID=cc ro rootflags=subvol=root\nboot_success=0\n"
        ));
        let boot = ext4(8, &["-t", "ext4", "-U", BOOT_UUID], |root| {
            let files = [
                ("/grub2/grub.cfg", menu.as_str()),
                ("/grub2/grubenv", &grubenv),
                ("/loader/entries/0123-6.8.5.conf", &older),
                ("/loader/entries/0123-6.11.4.conf", &newer),
                ("/vmlinuz-6.8.5", "6.8.5"),
                ("/initramfs-6.8.5.img", "the initrd"),
                ("/vmlinuz-6.11.4", "6.11.4"),
                ("/initramfs-6.11.4.img", "the initrd"),
            ];
            write_files(root, &files);
        });
        let boot = open(gpt(
            20,
            &[
                (1, 1, 1, BIOS_BOOT, &[]),
                (2, 2, 4, EFI_SYSTEM, &fat()),
                (3, 6, 8, LINUX, &boot),
                (4, 14, 4, LINUX_ROOT, &btrfs()),
            ],
        ));
        assert_eq!(boot.configuration(), "/grub2/grub.cfg on partition 3");
        let (path, kernel, initrds, command_line) = default_entry(&boot);
        assert_eq!((path, command_line), expected);
        assert_eq!((format!("/vmlinuz-{kernel}").as_str(), initrds), (path, 1));
    }
}

#[test]
fn kernels_on_file_systems_that_are_not_read_are_told_with_their_partitions() {
    let fat = fat();
    let rocky = gpt(
        16,
        &[
            (1, 1, 1, BIOS_BOOT, &[]),
            (2, 2, 4, EFI_SYSTEM, &fat),
            (3, 6, 4, LINUX_BOOT, &xfs()),
            (4, 10, 4, LINUX_ROOT, &xfs()),
        ],
    );
    let amazon =
        gpt(12, &[(1, 6, 4, LINUX, &xfs()), (127, 1, 1, BIOS_BOOT, &[]), (128, 2, 4, EFI_SYSTEM, &fat)]);
    let fedora =
        gpt(12, &[(1, 1, 1, BIOS_BOOT, &[]), (2, 2, 4, EFI_SYSTEM, &fat), (3, 6, 4, LINUX_ROOT, &btrfs())]);
    for (bytes, expected) in [
        (
            rocky,
            &[
                "partition 3: Linux extended boot, 4.0 MiB, XFS",
                "partition 4: Linux root (x86-64), 4.0 MiB, XFS",
            ][..],
        ),
        (amazon, &["partition 1: Linux, 4.0 MiB, XFS", "partition 128: EFI system, 4.0 MiB, FAT"]),
        (fedora, &["partition 3: Linux root (x86-64), 4.0 MiB, btrfs (kernels are read from ext4 only)"]),
    ] {
        let text = BootDisk::open(&disk(bytes)).err().unwrap().to_string();
        assert!(expected.iter().all(|line| text.contains(line)), "{text}");
        assert!(text.contains("have /boot on an ext4 file system, or name a kernel"), "{text}");
    }
}

/// Debian's installer is such an image: what is written to a stick has a partition table, too.
#[test]
fn an_installation_medium_is_told_from_a_disk() {
    for mut bytes in [vec![0; MIB], partitioned(12, "label: dos\nstart=2048, size=2048, type=ef\n", &[])] {
        bytes[0x8001..0x8006].copy_from_slice(b"CD001");
        let text = BootDisk::open(&disk(bytes)).err().unwrap().to_string();
        assert!(text.contains("ISO 9660") && text.contains("cloud image"), "{text}");
    }
}
