//! A guest's disk, in which its kernel is looked for: partitions, ext4 with and without a journal that was not replayed, and
//! the three kinds of configuration.
//!
//! An image of no form would fail at its first magic number, so an input is what differs from a good one:
//! ```text
//! image │ configuration │ length, 2 bytes │ its text │ changes to blocks that are in use
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use vmm::boot::disk::BootDisk;
use volume::BlockBackend;
use volume::testing::FakeDisk;

use crate::input::patch;

const BLOCK_BYTES: usize = 1024;
const SECTOR_BYTES: usize = 512;
/// Where the first partition begins.
const PARTITION_BYTES: usize = 1 << 20;
/// How much is read of a kernel.
const KERNEL_BYTES: u64 = 4096;

/// Each has room for a text of this size, and is found by the letter that fills it.
const TEXT_BYTES: usize = 3000;
const CONFIGURATIONS: [(&str, u8); 3] =
    [("boot/grub/grub.cfg", b'G'), ("boot/loader/entries/a.conf", b'B'), ("extlinux.conf", b'E')];

/// `RECOVER` of a superblock's incompatible features: the journal is to be looked at.
const INCOMPATIBLE: usize = 1024 + 0x60;
const RECOVER: u8 = 4;

const GRUB: &str = "set default=1\nif [ -s $prefix/grubenv ]; then load_env; fi\nfunction f { set root=$1; }\n\
    for x in a b; do menuentry \"$x\" --id i$x { f hd0; linux /kernel root=/dev/vda1 $x; initrd /kernel; }; done\n\
    submenu s { menuentry t { linux /boot/kernel; } }\n";
const ENTRY: &str = "title a\nversion 6.1\nlinux /kernel\ninitrd /kernel\noptions root=LABEL=x $kernelopts\n";
const EXTLINUX: &str =
    "DEFAULT b\nLABEL a\n KERNEL kernel\nLABEL b\n LINUX /kernel\n INITRD /kernel\n APPEND quiet\n";

/// A good image, and where it can be changed.
struct Image {
    bytes: Vec<u8>,
    /// Blocks that are not empty.
    blocks: Vec<usize>,
    /// Where each configuration stands.
    texts: Vec<Option<usize>>,
}

static IMAGES: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let plain = ext4("512K", &["-O", "^has_journal,^resize_inode", "-b", "1024"]);
    let old = ext4("512K", &["-t", "ext2", "-O", "^resize_inode", "-b", "1024"]);
    let mut journal = ext4("3M", &["-b", "1024", "-J", "size=1", "-O", "^resize_inode"]);
    journal[INCOMPATIBLE] |= RECOVER;
    let table = |label: &str| partitioned(&plain, &format!("label: {label}\n2048,1024,L\n3072,\n"));
    [table("gpt"), table("dos"), plain.clone(), old, journal].into_iter().map(Image::new).collect()
});

fn tool(name: &str, arguments: &[&str], input: &Path) {
    let input = fs::File::open(input).expect("it was just written");
    let command =
        Command::new(name).args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(input).output();
    let output = command.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ext4(size: &str, options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, image) = (folder.path().join("root"), folder.path().join("image"));
    let write = |path: &str, content: Vec<u8>| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder of ours");
        fs::write(path, content).expect("there is room");
    };
    CONFIGURATIONS.iter().for_each(|(path, letter)| write(path, vec![*letter; TEXT_BYTES]));
    write("kernel", vec![b'K'; 5000]);
    fs::write(&image, "").expect("there is room");
    let (root, image) = (root.to_str().expect("a path"), image.to_str().expect("a path"));
    let arguments = [&["-q", "-F", "-d", root], options, &[image, size]].concat();
    tool("mke2fs", &arguments, Path::new("/dev/null"));
    fs::read(image).expect("it was made")
}

fn partitioned(content: &[u8], script: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, table) = (folder.path().join("disk"), folder.path().join("table"));
    fs::write(&disk, vec![0; PARTITION_BYTES + content.len() + PARTITION_BYTES]).expect("there is room");
    fs::write(&table, script).expect("there is room");
    tool("sfdisk", &["-q", "--no-reread", "--no-tell-kernel", disk.to_str().expect("a path")], &table);
    let mut bytes = fs::read(&disk).expect("it was made");
    bytes[PARTITION_BYTES..PARTITION_BYTES + content.len()].copy_from_slice(content);
    bytes
}

impl Image {
    fn new(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
        let is_used = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let blocks =
            (0..).zip(bytes.chunks(BLOCK_BYTES)).filter(|(_, block)| is_used(block)).map(|(index, _)| index);
        let blocks = blocks.collect();
        let texts = CONFIGURATIONS.iter().map(|(_, letter)| {
            bytes
                .chunks(BLOCK_BYTES)
                .position(|block| block.iter().all(|byte| byte == letter))
                .map(|index| index * BLOCK_BYTES)
        });
        let texts = texts.collect();
        Image { bytes, blocks, texts }
    }

    fn changed(&self, configuration: u8, text: &[u8], changes: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (index, place) in self.texts.iter().enumerate() {
            let Some(place) = *place else { continue };
            let file = &mut bytes[place..place + TEXT_BYTES];
            file.fill(b'\n');
            if index == usize::from(configuration) % CONFIGURATIONS.len() {
                file.iter_mut().zip(text).for_each(|(old, new)| *old = *new);
            }
        }
        patch(&mut bytes, &self.blocks, BLOCK_BYTES, changes);
        bytes
    }
}

/// The disk that an input makes.
fn disk(data: &[u8]) -> Option<Arc<dyn BlockBackend>> {
    let [image, configuration, low, high, rest @ ..] = data else { return None };
    let image = &IMAGES[usize::from(*image) % IMAGES.len()];
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let (text, changes) = rest.split_at(length.min(rest.len()));
    Some(Arc::new(FakeDisk::new(image.changed(*configuration, text, changes))))
}

/// Looks for kernels on one disk.
pub fn run(data: &[u8]) {
    let Some(disk) = disk(data) else { return };
    match BootDisk::open(&disk) {
        Ok(disk) => {
            assert!(!disk.entries().is_empty(), "a disk without an entry is an error");
            for entry in disk.entries() {
                for file in entry.initrds.iter().chain([&entry.kernel]) {
                    let mut part =
                        vec![0; usize::try_from(file.size_bytes.min(KERNEL_BYTES)).expect("a page")];
                    // A damaged tree shows here.
                    let _ = disk.read_at(file, 0, &mut part);
                    let _ = disk.read_at(file, file.size_bytes - part.len() as u64, &mut part);
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Each image with each configuration.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = (0u8..).zip([GRUB, ENTRY, EXTLINUX]);
    let images = 0..u8::try_from(IMAGES.len()).expect("a few");
    let seed = |(image, (configuration, text)): (u8, (u8, &str))| {
        let [low, high] = u16::try_from(text.len()).expect("a short text").to_le_bytes();
        [&[image, configuration, low, high], text.as_bytes()].concat()
    };
    images.flat_map(|image| texts.clone().map(move |text| (image, text))).map(seed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_changed_is_found() {
        for (index, seed) in seeds().iter().enumerate() {
            let disk =
                BootDisk::open(&disk(seed).unwrap()).unwrap_or_else(|error| panic!("seed {index}: {error}"));
            let entry = &disk.entries()[0];
            assert_eq!(disk.read(&entry.kernel, 10_000).unwrap(), [b'K'; 5000], "seed {index}");
        }
    }
}
