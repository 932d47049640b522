//! `nimbo run` of disk images, good and bad. The kernels on them are payloads of a few instructions, so any KVM will do,
//! and the disks are made by the tools that make real ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

#[allow(dead_code, reason = "the instructions are for other tests, too")]
mod payload;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use payload::{Instruction, build};

const MIB: u64 = 1 << 20;

/// A folder for images, and for what is made of them.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tool(&self, name: &str, arguments: &[&str], input: &str) {
        let mut command = Command::new(name);
        command.args(arguments).current_dir(self.0.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let output = finish(&mut command, input);
        assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
    }

    /// A disk as Debian lays it out, with this kernel.
    fn debian(&self, name: &str, kernel: &[u8]) -> PathBuf {
        payload::disk::debian(self.0.path(), name, kernel)
    }

    fn cut(&self, name: &str, bytes: u64) -> PathBuf {
        File::options().write(true).open(self.path(name)).unwrap().set_len(bytes).unwrap();
        self.path(name)
    }

    /// `nimbo run`, with a line on its console.
    fn run(&self, image: &Path, more: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--kill-after", "1", "60", env!("CARGO_BIN_EXE_nimbo")]);
        command.args(["run", "--here", "--no-network", "--image"]).arg(image).args(more);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        finish(&mut command, "a line\n")
    }
}

fn finish(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that fails at once does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// It waits for a line, so it cannot be over before its console is attached.
fn kernel() -> Vec<u8> {
    build(&[Instruction::EchoLine, Instruction::Print("from the disk\n"), Instruction::PowerOff])
}

#[test]
fn a_kernel_boots_from_a_vendors_disk_in_every_kind_of_image() {
    let folder = Folder::new();
    let raw = folder.debian("disk.raw", &kernel());
    let mut images = vec![raw];
    for (name, options) in [
        ("v2.qcow2", &["-o", "compat=0.10"][..]),
        ("v3.qcow2", &[]),
        ("compressed.qcow2", &["-c"]),
        ("zstd.qcow2", &["-c", "-o", "compression_type=zstd"]),
    ] {
        let arguments = [&["convert", "-f", "raw", "-O", "qcow2"][..], options, &["disk.raw", name]].concat();
        folder.tool("qemu-img", &arguments, "");
        images.push(folder.path(name));
    }
    for image in images {
        let output = folder.run(&image, &["--memory", "64M"]);
        let console = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{image:?}: {output:?}");
        assert_eq!(console, "a line\nfrom the disk\n", "{image:?}");
    }
    // All of them are the same disk, and each source was converted.
    assert_eq!(fs::read_dir(folder.path("cache/nimbo/images")).unwrap().count(), 4);
}

#[test]
fn what_is_wrong_with_a_disk_is_told() {
    let folder = Folder::new();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(folder.path(name), bytes).unwrap();
        folder.path(name)
    };
    let arm64 = [b"MZ".as_slice(), &[0; 54], b"ARM\x64", &[0; 8192]].concat();
    let mut iso = vec![0; 64 << 10];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    folder.debian("disk.raw", &[kernel(), vec![1; 3 << 20]].concat());
    folder.tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "cut.qcow2"], "");
    folder.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "on.qcow2"], "");
    let pipe = folder.path("pipe");
    folder.tool("mkfifo", &["pipe"], "");
    for (image, hint) in [
        (file("text", b"hello, this is no disk"), "may not be a disk image"),
        (file("installer.iso", &iso), "take the vendor's cloud image"),
        (folder.path("root"), "is a directory"),
        (pipe, "neither a file nor a block device"),
        (folder.path("on.qcow2"), "needs a backing file"),
        (folder.cut("cut.qcow2", 2 << 20), "may have been cut short"),
        (folder.debian("arm64.raw", &arm64), "is for arm64"),
        (folder.cut("disk.raw", (9 << 20) + (256 << 10)), "may have been cut short"),
    ] {
        let output = folder.run(&image, &["--memory", "64M"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{image:?}: {output:?}");
        assert!(stderr.contains("error: ") && stderr.contains(hint), "{image:?}: {stderr}");
    }
    // Nothing half-made is left of any.
    let kept = fs::read_dir(folder.path("cache/nimbo/images")).unwrap().count();
    assert_eq!(kept, 0);
}

#[test]
fn a_guest_with_too_little_memory_for_its_kernel_is_told_to_get_more() {
    let folder = Folder::new();
    let image = folder.debian("disk.raw", &kernel());
    let initrd = folder.path("initrd");
    File::create(&initrd).unwrap().set_len(80 * MIB).unwrap();
    let vmlinux = folder.path("root/boot/vmlinuz");
    let more =
        ["--kernel", vmlinux.to_str().unwrap(), "--initrd", initrd.to_str().unwrap(), "--memory", "64M"];
    let output = folder.run(&image, &more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr.contains("does not fit into 64 MiB of memory; give the guest more"), "{stderr}");
}
