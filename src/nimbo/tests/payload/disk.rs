//! Disks to boot from, made by the tools that make real ones.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

/// A disk as Debian lays it out, with this kernel, in a folder.
pub fn debian(folder: &Path, name: &str, kernel: &[u8]) -> PathBuf {
    let menu = "menuentry 'Debian' {\n linux /boot/vmlinuz root=/dev/vda1\n}\n";
    let script = "label: gpt\n\
        1: start=18432, size=16384, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n\
        14: start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649\n\
        15: start=8192, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n";
    let boot = folder.join("root/boot");
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::write(boot.join("grub/grub.cfg"), menu).unwrap();
    fs::write(boot.join("vmlinuz"), kernel).unwrap();
    File::create(folder.join(name)).unwrap().set_len(18 * MIB).unwrap();
    tool(folder, "mke2fs", &["-q", "-F", "-t", "ext4", "-d", "root", "-E", "offset=9437184", name, "8M"], "");
    tool(folder, "sfdisk", &["-q", "--no-reread", "--no-tell-kernel", name], script);
    folder.join(name)
}

fn tool(folder: &Path, name: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that fails at once does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
}
