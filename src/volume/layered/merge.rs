//! Merging a sealed layer into the sealed one below it, so that a stack stays shallow.
//!
//! ```text
//!   1  blocks of the upper layer are copied to their places in the lower one's file     hidden there: the upper one has them
//!   2  sync; the lower one's map gets them, in one step (a checkpoint)                  both have them, and they are the same
//!   3  the manifest without the upper layer                                            the moment of the merge
//!   4  the map in memory says the lower one; the upper one's files are removed
//! ```
//!
//! It can be stopped, or crash, at any point, and be begun anew. What a layer further up hides durably is not copied, so what was in the
//! volume when one of the two was sealed can no longer be told afterwards: whoever still needs that merges later. Only sealed layers
//! take part, so no writer waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::books::Books;
use super::engine::{Engine, Stack};
use super::error::{VolumeError, io_error};
use super::format::{BLOCK_BYTES, BlockState, MapPage};
use super::layer::{Layer, file_name};
use super::map::{LayerId, Location};
use super::recovery::read_map;
use super::storage::{Storage, StorageFile};

/// How much is copied at a time.
const COPY_BLOCKS: u64 = 256;

/// A layer and the one above it.
type Pair<F> = (Arc<Layer<F>>, Arc<Layer<F>>);

impl<S: Storage> Engine<S> {
    /// Merges `upper` into `lower`, unless `stop` says so before it is too late; says whether it did. `stop` is asked again and again.
    ///
    /// # Errors
    /// [`VolumeError::NotMergeable`], or when the storage fails. If that was no sync, everything is as it was; if it was, the volume
    /// stopped.
    pub(crate) fn merge(
        &self,
        lower: LayerId,
        upper: LayerId,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, VolumeError> {
        let _structure = self.structure();
        let (lower, upper) = self.mergeable(lower, upper)?;
        let lower = Arc::new(lower.grown(&self.storage, lower.blocks.max(upper.blocks))?);
        let mut books = read_map(&lower, lower.read_header()?, |_| {})?;
        let Some(pages) = self.copy(&lower, &upper, &books, stop)? else { return Ok(false) };
        self.or_stop(lower.sync_segments(u64::MAX))?;
        self.storage.sync_folder().map_err(io_error("sync the folder", "of the volume"))?;
        books.dirty.extend(pages.keys());
        let dirty: Vec<u64> = books.dirty.iter().copied().collect();
        for index in dirty {
            let (offset, len) = (Layer::<S::File>::map_offset(index, 0), 2 * BLOCK_BYTES);
            lower.main().allocate(offset, len).map_err(io_error("take space in", &lower.name(0)))?;
        }
        let mut old = BTreeMap::new();
        for index in books.dirty.iter().filter(|index| !pages.contains_key(index)) {
            old.insert(*index, page_of(&lower, &books, *index)?);
        }
        let page = |index, generation| {
            let page =
                pages.get(&index).or_else(|| old.get(&index)).expect("each page that is dirty was read");
            let mut page = page.clone();
            page.generation = generation;
            page
        };
        let merged = books.checkpoint(&lower, page, |header| header.blocks = header.blocks.max(lower.blocks));
        self.or_stop(merged)?;
        self.leave_out(&lower, &upper)?;
        Ok(true)
    }

    fn mergeable(&self, lower: LayerId, upper: LayerId) -> Result<Pair<S::File>, VolumeError> {
        let stack = self.stack();
        let sealing = self.state().sealing().map_or(0, |_| 1);
        let sealed = &stack[..stack.len() - 1 - sealing];
        let pair = sealed.windows(2).find(|pair| pair[0].id == lower && pair[1].id == upper);
        let not_mergeable = VolumeError::NotMergeable { lower: lower.0, upper: upper.0 };
        let pair = pair.ok_or(not_mergeable)?;
        if !self.turn().manifest.may_merge(lower.0, upper.0) {
            return Err(VolumeError::NeededApart { lower: lower.0, upper: upper.0 });
        }
        Ok((Arc::clone(&pair[0]), Arc::clone(&pair[1])))
    }

    /// Step 1; gives the pages of the lower layer's map that become others, or nothing if it was stopped.
    fn copy(
        &self,
        lower: &Layer<S::File>,
        upper: &Layer<S::File>,
        books: &Books,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<BTreeMap<u64, MapPage>>, VolumeError> {
        let gone = if self.stack()[0].id == lower.id && !self.has_base() {
            BlockState::Absent
        } else {
            BlockState::Zero
        };
        let upper_books = read_map(upper, upper.read_header()?, |_| {})?;
        let mut pages = BTreeMap::new();
        for index in upper_books.pages.keys() {
            let mut page = page_of(lower, books, *index)?;
            let start = index * MapPage::BLOCKS;
            for (first, count, state) in page_of(upper, &upper_books, *index)?.runs() {
                let mut next = first;
                while next < first + count {
                    if stop() {
                        return Ok(None);
                    }
                    let step = COPY_BLOCKS.min(first + count - next);
                    let (is_copied, step) = match state {
                        BlockState::Data => self.copy_data(lower, upper, next, step)?,
                        _ => (true, punch(lower, &page, next, step)?),
                    };
                    let now = if state == BlockState::Data { state } else { gone };
                    if is_copied {
                        (next..next + step).for_each(|block| page.set(block - start, now));
                    }
                    next += step;
                }
            }
            pages.insert(*index, page);
        }
        Ok(Some(pages))
    }

    /// Copies some blocks, or not if they are hidden for ever; says which, and how many of them.
    fn copy_data(
        &self,
        lower: &Layer<S::File>,
        upper: &Layer<S::File>,
        first: u64,
        most: u64,
    ) -> Result<(bool, u64), VolumeError> {
        let (location, count) = self.map.run(first, most);
        // Zeroes may be those of a layer below the upper one only for a moment; they are copied like data.
        if matches!(location, Location::Layer(id) if id > upper.id) {
            let state = self.state();
            if (first..first + count).all(|block| state.hides_durably(block)) {
                return Ok((false, count));
            }
        }
        let mut bytes = vec![0; usize::try_from(count * BLOCK_BYTES).expect("at most COPY_BLOCKS")];
        upper.read_blocks(first, &mut bytes)?;
        lower.write_blocks(first, &bytes)?;
        Ok((true, count))
    }

    /// Steps 3 and 4.
    fn leave_out(&self, lower: &Arc<Layer<S::File>>, upper: &Arc<Layer<S::File>>) -> Result<(), VolumeError> {
        let mut turn = self.turn();
        let mut manifest = turn.manifest.clone();
        manifest.layers.retain(|entry| entry.id != upper.id.0);
        self.write_manifest(&mut turn, manifest)?;
        self.map.replace(Location::Layer(upper.id), Location::Layer(lower.id));
        let stack: Stack<_> = self.stack().iter().filter(|layer| layer.id != upper.id).cloned().collect();
        let with_lower =
            stack.into_iter().map(|layer| if layer.id == lower.id { Arc::clone(lower) } else { layer });
        self.set_stack(with_lower.collect());
        for segment in 0..upper.segments() {
            // Nothing refers to it: what is left is removed when the volume is opened next.
            let _ = self.storage.remove(&file_name(upper.id, segment));
        }
        Ok(())
    }
}

/// A map page of a layer, as its books say.
pub(super) fn page_of<F: StorageFile>(
    layer: &Layer<F>,
    books: &Books,
    index: u64,
) -> Result<MapPage, VolumeError> {
    let Some(slot) = books.pages.get(&index) else {
        return Ok(MapPage::new(layer.uuid, index, books.header.generation));
    };
    let offset = Layer::<F>::map_offset(index, slot.slot);
    let page = MapPage::decode(&*layer.read_page(offset)?, layer.uuid, index);
    page.map(|(page, _)| page).map_err(|damage| VolumeError::Damaged {
        file: layer.name(0),
        offset: offset + damage.offset,
        what: damage.what,
    })
}

/// Gives the space of hidden blocks back; says how many there are.
fn punch<F: StorageFile>(
    layer: &Layer<F>,
    page: &MapPage,
    first: u64,
    count: u64,
) -> Result<u64, VolumeError> {
    let start = page.index * MapPage::BLOCKS;
    if (first..first + count).any(|block| page.state(block - start) == BlockState::Data) {
        for (place, blocks) in layer.places(first, first + count) {
            let punched = layer.segment(place.segment).punch_hole(place.offset, blocks * BLOCK_BYTES);
            punched.map_err(io_error("give space back in", &layer.name(place.segment)))?;
        }
    }
    Ok(count)
}
