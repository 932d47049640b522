//! An ELF kernel: its segments, and the note that says where PVH enters it (System V ABI, chapters 4 and 5).

use super::load::Plan;
use super::{BootError, BootFile, mib, ram_mib, read_part};
use crate::memory::{GuestRam, HIGH_RAM_START};

/// Where a kernel is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The PVH entry point.
    pub(super) entry: u32,
    /// Where the kernel's memory ends.
    pub(super) end: u64,
}

const HEADER_BYTES: u64 = 64;
const SEGMENT_BYTES: u64 = 56;
/// A kernel has a handful.
const SEGMENTS_MAX: u16 = 128;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// Notes are a few hundred bytes.
const NOTES_BYTES_MAX: u64 = 1 << 16;
/// `XEN_ELFNOTE_PHYS32_ENTRY`, of the name "Xen".
const NOTE_ENTRY: u32 = 18;
const NOTE_NAME: &[u8] = b"Xen\0";

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// Plans that the segments of `file` go where they want to be.
pub(super) fn plan<'a>(
    ram: &GuestRam,
    file: &'a dyn BootFile,
    plan: &mut Plan<'a>,
) -> Result<Place, BootError> {
    let (mut entry, mut end) = (None, HIGH_RAM_START);
    for segment in segments(file)? {
        match segment.kind {
            SEGMENT_LOAD => end = end.max(plan_segment(ram, file, &segment, plan)?),
            SEGMENT_NOTE => entry = entry.or(entry_note(file, &segment)?),
            _ => {}
        }
    }
    Ok(Place { entry: entry.ok_or(BootError::NoPvh)?, end })
}

fn segments(file: &dyn BootFile) -> Result<Vec<Segment>, BootError> {
    let broken = BootError::Elf { part: "header" };
    if file.size_bytes() < HEADER_BYTES {
        return Err(truncated(file, HEADER_BYTES));
    }
    let header = read_part("kernel", file, 0, HEADER_BYTES)?;
    // 64 bits, little-endian.
    let is_known = header.get(4..6) == Some(&[2, 1]);
    let (start, size, count) = (quad(&header, 32), half(&header, 54), half(&header, 56));
    if !is_known || u64::from(size) != SEGMENT_BYTES || count > SEGMENTS_MAX {
        return Err(broken);
    }
    let bytes = u64::from(count) * SEGMENT_BYTES;
    let table_end = start.checked_add(bytes).ok_or(broken)?;
    if table_end > file.size_bytes() {
        return Err(truncated(file, table_end));
    }
    let table = read_part("kernel", file, start, bytes)?;
    let segment = |raw: &[u8]| Segment {
        kind: word(raw, 0),
        offset: quad(raw, 8),
        address: quad(raw, 24),
        file_bytes: quad(raw, 32),
        memory_bytes: quad(raw, 40),
    };
    Ok(table.chunks_exact(56).map(segment).collect())
}

/// Returns where the segment's memory ends. RAM is zero, so what the file does not fill is.
fn plan_segment<'a>(
    ram: &GuestRam,
    file: &'a dyn BootFile,
    segment: &Segment,
    plan: &mut Plan<'a>,
) -> Result<u64, BootError> {
    let Segment { offset, address, file_bytes, memory_bytes, .. } = *segment;
    if file_bytes > memory_bytes || address < HIGH_RAM_START {
        return Err(BootError::Elf { part: "program header" });
    }
    let file_end = offset.checked_add(file_bytes).ok_or(BootError::Elf { part: "program header" })?;
    if file_end > file.size_bytes() {
        return Err(truncated(file, file_end));
    }
    let end = address.saturating_add(memory_bytes);
    if end > super::low_ram_end(ram) {
        return Err(BootError::Memory { what: "kernel", need_mib: mib(end), ram_mib: ram_mib(ram) });
    }
    match plan.add("kernel", file, offset, address, file_bytes)? {
        true => Ok(end),
        false => Err(BootError::Elf { part: "program header" }),
    }
}

/// A note: lengths of name and content, type; name and content, each padded to four.
fn entry_note(file: &dyn BootFile, segment: &Segment) -> Result<Option<u32>, BootError> {
    let bytes = segment.file_bytes.min(NOTES_BYTES_MAX);
    let end = segment.offset.saturating_add(bytes);
    if end > file.size_bytes() {
        return Err(truncated(file, end));
    }
    let notes = read_part("kernel", file, segment.offset, bytes)?;
    let mut rest = notes.as_slice();
    while rest.len() >= 12 {
        let (name_bytes, content_bytes, kind) = (word(rest, 0), word(rest, 4), word(rest, 8));
        let padded = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX).checked_next_multiple_of(4);
        let (Some(name_room), Some(content_room)) = (padded(name_bytes), padded(content_bytes)) else {
            break;
        };
        let Some((name, after)) = rest[12..].split_at_checked(name_room) else { break };
        let Some((content, after)) = after.split_at_checked(content_room) else { break };
        if kind == NOTE_ENTRY && name.starts_with(NOTE_NAME) && content.len() >= 4 {
            return Ok(Some(word(content, 0)));
        }
        rest = after;
    }
    Ok(None)
}

fn truncated(file: &dyn BootFile, expected: u64) -> BootError {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    BootError::Truncated { bytes: size(file.size_bytes()), expected: size(expected) }
}

/// Little-endian numbers in a part that is known to be long enough.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn quad(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
