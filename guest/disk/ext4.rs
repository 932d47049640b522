//! The few fields of an ext4 superblock that tell which file system it is and how large (kernel documentation,
//! "ext4 Data Structures and Algorithms", the super block).
//!
//! ```text
//! from byte 1024 of the device:  0x04 blocks, low half   0x18 log2(block size / 1024)   0x38 magic 0xef53
//!                                0x60 incompatible features (0x80: 64-bit)   0x68 UUID   0x78 label, 16 bytes
//!                                0x150 blocks, high half
//! ```

/// Where it stands, and how long it is.
pub const OFFSET: u64 = 1024;
pub const LENGTH: usize = 1024;

const MAGIC: u16 = 0xef53;
const INCOMPAT_64BIT: u32 = 0x80;

/// What the superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    pub blocks: u64,
    /// In bytes.
    pub block_size: u64,
    /// With dashes, in lower case.
    pub uuid: String,
    pub label: String,
}

impl Superblock {
    /// Nothing if these bytes are not an ext2, ext3 or ext4 superblock.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let u32_at =
            |offset: usize| -> Option<u32> { Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?)) };
        if bytes.get(0x38..0x3a)? != MAGIC.to_le_bytes() {
            return None;
        }
        let high = if u32_at(0x60)? & INCOMPAT_64BIT == 0 { 0 } else { u32_at(0x150)? };
        let shift = u32_at(0x18).filter(|&log| log <= 6)?;
        let label = bytes.get(0x78..0x88)?.split(|&byte| byte == 0).next()?;
        Some(Superblock {
            blocks: u64::from(high) << 32 | u64::from(u32_at(0x04)?),
            block_size: 1024 << shift,
            uuid: show_uuid(bytes.get(0x68..0x78)?),
            label: String::from_utf8_lossy(label).into_owned(),
        })
    }
}

fn show_uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    #[test]
    fn reads_what_mke2fs_writes() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(16 << 20).unwrap();
        let made = Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-L", "nimbo-root"])
            .args(["-U", "6f1c2d3e-0001-4002-8003-0a0b0c0d0e0f"])
            .arg(image.path())
            .status()
            .expect("mke2fs, of the package e2fsprogs");
        assert!(made.success());
        let mut bytes = [0; LENGTH];
        image.as_file().read_exact_at(&mut bytes, OFFSET).unwrap();
        let want = Superblock {
            blocks: 4096,
            block_size: 4096,
            uuid: "6f1c2d3e-0001-4002-8003-0a0b0c0d0e0f".into(),
            label: "nimbo-root".into(),
        };
        assert_eq!(Superblock::parse(&bytes), Some(want));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
            if bytes.len() > 0x3a {
                bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
            }
            let _ = Superblock::parse(&bytes);
        }
    }
}
