//! The bzImage: its setup header, and the kernel that is packed in it (Linux, Documentation/arch/x86/boot.rst).

use std::io::Read;

use super::BootError;

/// Offsets in the file.
mod field {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOAD_FLAGS: usize = 0x236;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// The header ends here at the latest.
    pub(super) const END: usize = 0x290;
}

const BOOT_FLAG: u16 = 0xaa55;
/// `xloadflags`: the kernel has an entry point at 0x200 for long mode.
const ENTRY_64: u16 = 1;
/// The oldest protocol with all the fields above: Linux 2.6.30's.
const VERSION_MIN: u16 = 0x020a;
const SECTOR_BYTES: usize = 512;
/// A kernel unpacks to less than this; a header that announces more is broken.
const UNPACKED_BYTES_MAX: usize = 512 << 20;
/// Blocks of LZ4's legacy frame unpack to this at the most.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// What the setup header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setup {
    /// Where the part that is loaded begins in the file.
    pub(super) body: usize,
    /// What the kernel needs from its load address on until it has found its way, in bytes.
    pub(super) init_size: u32,
    pub(super) has_64_bit_entry: bool,
    payload: usize,
    payload_length: usize,
}

pub(super) fn is_one(kernel: &[u8]) -> bool {
    word(kernel, field::BOOT_FLAG) == Some(BOOT_FLAG)
        && kernel.get(field::MAGIC..field::MAGIC + 4) == Some(b"HdrS")
}

impl Setup {
    pub(super) fn parse(kernel: &[u8]) -> Result<Self, BootError> {
        let bytes = kernel.len();
        let short = |expected| BootError::Truncated { bytes, expected };
        let dword = |at: usize| {
            let field = kernel.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
            field.ok_or(short(field::END))
        };
        let version = word(kernel, field::VERSION).ok_or(short(field::END))?;
        if version < VERSION_MIN {
            return Err(BootError::Unknown { start: format!("boot protocol {version:#x}").into_bytes() });
        }
        let sectors = match kernel.get(field::SETUP_SECTORS).ok_or(short(field::END))? {
            0 => 4,
            count => usize::from(*count),
        };
        let body = (sectors + 1) * SECTOR_BYTES;
        let offset = usize::try_from(dword(field::PAYLOAD_OFFSET)?).unwrap_or(usize::MAX);
        let payload_length = usize::try_from(dword(field::PAYLOAD_LENGTH)?).unwrap_or(usize::MAX);
        let payload = body.saturating_add(offset);
        let expected = payload.saturating_add(payload_length);
        if bytes < expected {
            return Err(short(expected));
        }
        let flags = word(kernel, field::LOAD_FLAGS).ok_or(short(field::END))?;
        let init_size = dword(field::INIT_SIZE)?;
        Ok(Setup { body, init_size, has_64_bit_entry: flags & ENTRY_64 != 0, payload, payload_length })
    }

    /// The kernel in the payload, an ELF file; nothing when it is packed in a way that is not known here.
    pub(super) fn unpack(&self, kernel: &[u8]) -> Option<Vec<u8>> {
        let payload = kernel.get(self.payload..self.payload + self.payload_length)?;
        // The last four bytes are the unpacked length.
        let (packed, length) = payload.split_at_checked(payload.len().checked_sub(4)?)?;
        let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
        let limit = Some(length).filter(|length| *length <= UNPACKED_BYTES_MAX)?;
        match packed.get(..4)? {
            [0x02, 0x21, 0x4c, 0x18] => unpack_lz4(&packed[4..], limit),
            [0x1f, 0x8b, ..] => read_all(flate2::read::GzDecoder::new(packed), limit),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                read_all(zstd::Decoder::with_buffer(packed).ok()?.single_frame(), limit)
            }
            _ => None,
        }
    }
}

fn word(kernel: &[u8], at: usize) -> Option<u16> {
    kernel.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes)
}

fn read_all(source: impl Read, length: usize) -> Option<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(length);
    source.take(length as u64).read_to_end(&mut unpacked).ok()?;
    (unpacked.len() == length).then_some(unpacked)
}

/// LZ4's legacy frame: blocks, each behind its packed length.
fn unpack_lz4(mut packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut unpacked = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let (block_length, rest) = packed.split_first_chunk()?;
        let (block, rest) =
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*block_length)).ok()?)?;
        let room = length.min(filled + LZ4_BLOCK_BYTES);
        let count = lz4_flex::block::decompress_into(block, &mut unpacked[filled..room]).ok()?;
        filled += count;
        packed = if count == 0 { return None } else { rest };
    }
    Some(unpacked)
}
