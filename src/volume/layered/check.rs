//! Verifying a volume that nobody has open.
//!
//! A crash leaves pages that do not count: a record that was cut off, a slot that was being replaced, files that nothing names. Those are
//! found and can be repaired. What counts and is not as it was written is damage: it is named, and nothing is repaired then, for there
//! is nothing that could be put in its place.

use super::engine::Engine;
use super::error::VolumeError;
use super::folder::{self, orphans};
use super::format::{Manifest, MapPage, PAGE_LEN, Record};
use super::layer::Layer;
use super::recovery::{read_map, replay};
use super::storage::{Storage, StorageFile};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    pub offset: u64,
    pub what: String,
    /// It can be repaired, and nothing that was flushed is lost by it.
    pub is_repairable: bool,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub layers: usize,
    /// How many blocks have data in some layer, counted once for each.
    pub data_blocks: u64,
    pub findings: Vec<Finding>,
    /// The findings were repaired.
    pub repaired: bool,
}

impl Report {
    /// Whether all that was flushed is there.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.is_repairable)
    }

    fn damage(&mut self, error: VolumeError) {
        let (file, offset, what) = match error {
            VolumeError::Damaged { file, offset, what } => (file, offset, what.to_owned()),
            VolumeError::Io { operation, file, source } => {
                (file, 0, format!("cannot {operation} it: {source}"))
            }
            other => (String::new(), 0, other.to_string()),
        };
        self.findings.push(Finding { file, offset, what, is_repairable: false });
    }

    fn leftover(&mut self, file: String, offset: u64, what: &str) {
        self.findings.push(Finding { file, offset, what: what.to_owned(), is_repairable: true });
    }
}

/// Reads all metadata, and repairs what can be if `repair` says so and there is no damage. Nobody may have the volume open.
///
/// # Errors
/// When a repair fails; what cannot be read is a finding.
pub(crate) fn check<S: Storage + Clone>(storage: &S, repair: bool) -> Result<Report, VolumeError> {
    let mut report = Report::default();
    let manifest = match folder::read_manifest(storage) {
        Ok(manifest) => manifest,
        Err(error) => {
            report.damage(error);
            return Ok(report);
        }
    };
    report.layers = manifest.layers.len();
    for index in 0..manifest.layers.len() {
        if let Err(error) = check_layer(storage, &manifest, index, &mut report) {
            report.damage(error);
        }
    }
    match orphans(storage, &manifest.layers) {
        Ok(names) => {
            names.into_iter().for_each(|name| report.leftover(name, 0, "the file belongs to no layer"))
        }
        Err(error) => report.damage(error),
    }
    if repair && report.is_sound() && !report.findings.is_empty() {
        for index in 0..manifest.layers.len() {
            clear_leftovers(storage, &manifest, index)?;
        }
        // Opening it settles the rest.
        Engine::repair(storage.clone())?;
        report.repaired = true;
    }
    Ok(report)
}

fn check_layer<S: Storage>(
    storage: &S,
    manifest: &Manifest,
    index: usize,
    report: &mut Report,
) -> Result<(), VolumeError> {
    let is_top = index + 1 == manifest.layers.len();
    let (layer, header) = Layer::open(storage, manifest.layers[index])?;
    if is_top && layer.blocks < manifest.blocks {
        let what = "the top layer is smaller than the volume";
        return Err(VolumeError::Damaged { file: layer.name(0), offset: 40, what });
    }
    let mut blocks = 0;
    let mut books = read_map(&layer, header, |page| {
        let data = page.runs().filter(|(_, _, state)| *state == super::format::BlockState::Data);
        blocks += data.map(|(_, count, _)| count).sum::<u64>();
    })?;
    replay(&layer, &mut books, |_| {})?;
    report.data_blocks += blocks;
    for (offset, what) in leftovers(&layer, header.generation, header.log_start)? {
        report.leftover(layer.name(0), offset, what);
    }
    if !is_top && !header.sealed {
        report.leftover(layer.name(0), 60, "the layer was being sealed");
    }
    if books.next_sequence != header.log_start {
        let what = "the log was not emptied when the volume was closed";
        report.leftover(layer.name(0), layer.log_offset(header.log_start), what);
    }
    Ok(())
}

/// Pages of a sound layer that cannot be read, and so do not count.
fn leftovers<F: StorageFile>(
    layer: &Layer<F>,
    generation: u64,
    log_start: u64,
) -> Result<Vec<(u64, &'static str)>, VolumeError> {
    let mut found = Vec::new();
    let is_empty = |page: &[u8; PAGE_LEN]| page.iter().all(|byte| *byte == 0);
    for slot in 0..2 {
        let offset = slot * PAGE_LEN as u64;
        if layer.header_slot(slot)?.is_err() && !is_empty(&*layer.read_page(offset)?) {
            found.push((offset, "a header was not written as a whole"));
        }
    }
    for sequence in log_start..log_start + u64::from(layer.geometry.log_pages) {
        let offset = layer.log_offset(sequence);
        let page = layer.read_page(offset)?;
        if !is_empty(&page) && Record::decode(&page, layer.uuid).is_err() {
            found.push((offset, "a record of the log was not written as a whole"));
        }
    }
    let mut next = layer.next_map_page(0)?;
    while let Some(index) = next {
        for slot in 0..2 {
            let offset = Layer::<F>::map_offset(index, slot);
            let page = layer.read_page(offset)?;
            match MapPage::decode(&page, layer.uuid, index) {
                Err(_) if !is_empty(&page) => found.push((offset, "a map page was not written as a whole")),
                Ok((page, _)) if page.generation > generation => {
                    found.push((offset, "a map page is of a checkpoint that did not come to its end"));
                }
                _ => {}
            }
        }
        next = layer.next_map_page(index + 1)?;
    }
    Ok(found)
}

/// Makes the pages that do not count empty.
fn clear_leftovers<S: Storage>(storage: &S, manifest: &Manifest, index: usize) -> Result<(), VolumeError> {
    let (layer, header) = Layer::open(storage, manifest.layers[index])?;
    for (offset, _) in leftovers(&layer, header.generation, header.log_start)? {
        layer.write_page(offset, &[0; PAGE_LEN])?;
    }
    layer.sync(0)
}
