//! What a layer holds, read from its map pages and its log.
//!
//! The log is believed up to the first record that is not there. A record is written only after the sync of the one before it returned,
//! so all but the last one are durable, and so is their blocks' data. The last one, if it is a checked one, tells the checksums of its
//! blocks: a block whose data does not match was not acknowledged, and stays what it was before.
//!
//! Records that were written for one flush may be there in part, for nobody was told that the flush ended. But a record that is
//! missing before one of a later flush was durable once: that is damage, and refused.

use std::collections::BTreeMap;

use super::books::{Books, Slot};
use super::error::VolumeError;
use super::format::{BlockState, Entry, Header, MapPage, PAGE_LEN, Record, RecordKind};
use super::layer::Layer;
use super::storage::StorageFile;

/// Reads the map pages that count and gives each to `each`.
///
/// # Errors
/// [`VolumeError::Damaged`] when one is missing or is not the one that the header means.
pub(crate) fn read_map<F: StorageFile>(
    layer: &Layer<F>,
    header: Header,
    mut each: impl FnMut(&MapPage),
) -> Result<Books, VolumeError> {
    let mut books = Books::new(header);
    let (mut digest, mut damage) = (0, None);
    let mut next = layer.next_map_page(0)?;
    while let Some(index) = next {
        let mut newest: Option<(MapPage, Slot)> = None;
        for slot in 0..2 {
            let offset = Layer::<F>::map_offset(index, slot);
            let bytes = layer.read_page(offset)?;
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            match MapPage::decode(&bytes, layer.uuid, index) {
                // A checkpoint did not come to its end. The next one must replace what it wrote, which would count then.
                Ok((page, _)) if page.generation > header.generation => drop(books.dirty.insert(index)),
                Ok((page, digest)) => {
                    if newest.as_ref().is_none_or(|(other, _)| other.generation < page.generation) {
                        newest = Some((page, Slot { slot, digest }));
                    }
                }
                // Maybe that checkpoint was here. If it was not, the digest tells.
                Err(found) => damage = damage.or(Some((offset + found.offset, found.what))),
            }
        }
        if let Some((page, slot)) = newest {
            digest ^= slot.digest;
            books.pages.insert(index, slot);
            each(&page);
        }
        next = layer.next_map_page(index + 1)?;
    }
    if digest != header.map_digest || books.pages.len() as u64 != header.map_pages {
        let (offset, what) = damage.unwrap_or((
            header.generation % 2 * PAGE_LEN as u64 + 80,
            "a map page that the header counts is missing or is an older one",
        ));
        return Err(VolumeError::Damaged { file: layer.name(0), offset, what });
    }
    Ok(books)
}

/// Reads the log, gives the entries that are to be believed to `each`, in order, and notes where it ends.
///
/// # Errors
/// [`VolumeError::Damaged`] when a record is missing that was durable.
pub(crate) fn replay<F: StorageFile>(
    layer: &Layer<F>,
    books: &mut Books,
    mut each: impl FnMut(Entry),
) -> Result<(), VolumeError> {
    let mut records = read_records(layer, books.header.log_start)?;
    let mut end = books.header.log_start;
    let newest = records.last_key_value().map(|(sequence, _)| *sequence);
    while let Some(record) = records.remove(&end) {
        let is_last = !records.contains_key(&(end + 1));
        for entry in record.entries {
            if entry.first + u64::from(entry.count) > layer.blocks {
                return Err(damaged_record(
                    layer,
                    end,
                    "a record is about blocks that the layer does not have",
                ));
            }
            let is_checked = record.kind == RecordKind::Checked && entry.state == BlockState::Data;
            if is_last && is_checked && block_checksum(layer, entry.first)? != entry.checksum {
                continue;
            }
            books.note(&[entry]);
            each(entry);
        }
        end += 1;
    }
    if records.values().any(|record| record.group > end) {
        return Err(damaged_record(layer, end, "a record of the log is missing that later ones follow"));
    }
    // Beyond all that were found: what is left of a flush that did not come to its end must not follow a new record.
    books.next_sequence = newest.map_or(end, |newest| newest + 1);
    Ok(())
}

fn damaged_record<F: StorageFile>(layer: &Layer<F>, sequence: u64, what: &'static str) -> VolumeError {
    VolumeError::Damaged { file: layer.name(0), offset: layer.log_offset(sequence), what }
}

/// The records that are not part of the map pages yet.
fn read_records<F: StorageFile>(layer: &Layer<F>, start: u64) -> Result<BTreeMap<u64, Record>, VolumeError> {
    let end = start + u64::from(layer.geometry.log_pages);
    let mut records = BTreeMap::new();
    layer.for_log_pages(|offset, page| {
        if let Ok(record) = Record::decode(page, layer.uuid)
            && (start..end).contains(&record.sequence)
            && layer.log_offset(record.sequence) == offset
        {
            records.insert(record.sequence, record);
        }
    })?;
    Ok(records)
}

pub(crate) fn block_checksum<F: StorageFile>(layer: &Layer<F>, block: u64) -> Result<u32, VolumeError> {
    let mut bytes = [0; PAGE_LEN];
    layer.read_blocks(block, &mut bytes)?;
    Ok(crc32c::crc32c(&bytes))
}
