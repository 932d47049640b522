//! What a driver tells its balloon.

use std::ops::Range;

use super::{PAGE_BYTES, PAGES_MAX, Statistics, feature};
use crate::virtio::Buffers;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Role {
    /// See the module's text for why this is as it is.
    pub(super) fn of(index: u16, features: u64) -> Option<Self> {
        let has = |bit: u64| features & bit != 0;
        match index {
            0 => Some(Role::Inflate),
            1 => Some(Role::Deflate),
            2 if has(feature::STATS_VQ) => Some(Role::Statistics),
            2..=4 if has(feature::PAGE_REPORTING) => Some(Role::Reporting),
            _ => None,
        }
    }
}

/// The guest addresses of pages, neighbours joined.
///
/// # Errors
/// The reason why the chain is no list of page numbers.
pub(super) fn pages(buffers: &mut Buffers) -> Result<Vec<Range<u64>>, &'static str> {
    if buffers.writable_bytes() > 0 {
        return Err("a list of pages cannot be read by the device");
    }
    let bytes = usize::try_from(buffers.readable_bytes()).unwrap_or(usize::MAX);
    if !bytes.is_multiple_of(4) {
        return Err("a list of pages is not whole numbers");
    }
    if bytes / 4 > PAGES_MAX {
        return Err("a list of pages is too long");
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    while let Some(number) = buffers.take_front() {
        let start = u64::from(u32::from_le_bytes(number)) * PAGE_BYTES;
        let end = start + PAGE_BYTES;
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            // Linux takes pages from the top of memory downwards.
            Some(last) if last.start == end => last.start = start,
            _ => ranges.push(start..end),
        }
    }
    Ok(ranges)
}

/// The driver's numbers: `tag: u16, value: u64` each. Unknown ones are for a device that knows more.
///
/// # Errors
/// The reason why the chain holds no statistics.
pub(super) fn statistics(buffers: &mut Buffers) -> Result<Statistics, &'static str> {
    if buffers.writable_bytes() > 0 {
        return Err("statistics cannot be read by the device");
    }
    let mut statistics = Statistics::default();
    for _ in 0..PAGES_MAX {
        let Some(tag) = buffers.take_front() else { break };
        let Some(value) = buffers.take_front() else {
            return Err("statistics end within a number");
        };
        statistics.set(u16::from_le_bytes(tag), u64::from_le_bytes(value));
    }
    Ok(statistics)
}

/// # Errors
/// The reason why the chain is not one of free pages.
pub(super) fn check_report(buffers: &Buffers) -> Result<(), &'static str> {
    if buffers.readable_bytes() > 0 {
        return Err("free pages cannot be written by the device");
    }
    Ok(())
}
