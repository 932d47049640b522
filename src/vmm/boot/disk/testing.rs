//! Images for tests, made by the tools that make real ones.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use volume::BlockBackend;
use volume::testing::FakeDisk;

use super::bytes::Window;
use super::ext4::Ext4;
use super::partition::{Partition, PartitionKind};

pub(super) const MIB: usize = 1 << 20;

/// Runs a tool and gives its output.
pub(super) fn tool(name: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(name)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A file system of `size_mib` with the files that `fill` puts into a folder.
pub(super) fn ext4(size_mib: usize, options: &[&str], fill: impl FnOnce(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("root"), folder.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    fill(&root);
    File::create(&image).unwrap().set_len((size_mib * MIB) as u64).unwrap();
    let (root, image) = (root.to_str().unwrap(), image.to_str().unwrap());
    let mut arguments = vec!["-q", "-F", "-d", root];
    arguments.extend(options);
    arguments.push(image);
    tool("mke2fs", &arguments, "");
    std::fs::read(image).unwrap()
}

/// Writes text files below `root`, with their folders.
pub(super) fn write_files(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// A disk that `sfdisk` partitions as the script says, with the contents at their first sectors.
pub(super) fn partitioned(size_mib: usize, script: &str, contents: &[(u64, &[u8])]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    let file = File::create(&image).unwrap();
    file.set_len((size_mib * MIB) as u64).unwrap();
    tool("sfdisk", &["-q", "--no-reread", "--no-tell-kernel", image.to_str().unwrap()], script);
    for (sector, bytes) in contents {
        file.write_all_at(bytes, sector * 512).unwrap();
    }
    std::fs::read(image).unwrap()
}

pub(super) fn disk(bytes: Vec<u8>) -> Arc<dyn BlockBackend> {
    Arc::new(FakeDisk::new(bytes))
}

/// The whole disk as one window.
pub(super) fn window(bytes: Vec<u8>) -> Window {
    let size_bytes = bytes.len() as u64;
    let partition = Partition { number: 0, kind: PartitionKind::WholeDisk, start_bytes: 0, size_bytes };
    Window::new(&disk(bytes), &partition)
}

pub(super) fn open(bytes: Vec<u8>) -> Ext4 {
    Ext4::open(window(bytes)).unwrap().unwrap()
}
