//! What kind of file an image is, by how it begins.

use std::fmt;

/// Bytes of the beginning that tell.
pub(crate) const HEAD_BYTES: usize = 0x48;

/// A kind of image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Everything that is nothing else.
    Raw,
    Qcow2,
    /// Kinds that people try, and what turns each into one that we read.
    Foreign {
        name: &'static str,
        remedy: Remedy,
    },
}

/// How to get a raw or qcow2 image out of a foreign one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    QemuImg,
    Unpack(&'static str),
    DiskImage,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::QemuImg => f.write_str("convert it first: qemu-img convert -O qcow2 FILE IMAGE.qcow2"),
            Remedy::Unpack(program) => write!(f, "unpack it first: {program} FILE"),
            Remedy::DiskImage => f.write_str("a disk image is needed, such as a vendor's cloud image"),
        }
    }
}

/// The format of a file that begins with `head`.
pub(crate) fn detect(head: &[u8]) -> Format {
    /// Where each kind has its mark.
    const MARKS: [(usize, &[u8], Format); 11] = [
        (0, b"QFI\xfb", Format::Qcow2),
        (0, b"KDMV", foreign("a VMDK image", Remedy::QemuImg)),
        (0, b"# Disk DescriptorFile", foreign("a VMDK description", Remedy::QemuImg)),
        (0, b"vhdxfile", foreign("a VHDX image", Remedy::QemuImg)),
        (0, b"conectix", foreign("a VHD image", Remedy::QemuImg)),
        (0x40, b"\x7f\x10\xda\xbe", foreign("a VDI image", Remedy::QemuImg)),
        (0, b"\x1f\x8b", foreign("compressed by gzip", Remedy::Unpack("gunzip"))),
        (0, b"\xfd7zXZ\0", foreign("compressed by xz", Remedy::Unpack("unxz"))),
        (0, b"\x28\xb5\x2f\xfd", foreign("compressed by zstd", Remedy::Unpack("unzstd"))),
        (0, b"PK\x03\x04", foreign("a zip archive", Remedy::Unpack("unzip"))),
        (0, b"\x7fELF", foreign("a program or kernel, not a disk", Remedy::DiskImage)),
    ];
    let mark = MARKS.iter().find(|(at, mark, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    mark.map_or(Format::Raw, |(_, _, format)| *format)
}

const fn foreign(name: &'static str, remedy: Remedy) -> Format {
    Format::Foreign { name, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_where_they_stand_and_anything_else_is_raw() {
        assert_eq!(detect(b"QFI\xfb\0\0\0\x03"), Format::Qcow2);
        let mut vdi = vec![0; HEAD_BYTES];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        assert!(matches!(detect(&vdi), Format::Foreign { name: "a VDI image", .. }));
        for raw in [&[][..], b"Q", b"\xeb\x63\x90boot", &[0; HEAD_BYTES]] {
            assert_eq!(detect(raw), Format::Raw);
        }
    }

    #[test]
    fn a_compressed_image_names_what_unpacks_it() {
        let Format::Foreign { remedy, .. } = detect(b"\xfd7zXZ\0\0\x04") else { panic!("not recognized") };
        assert_eq!(remedy.to_string(), "unpack it first: unxz FILE");
    }
}
