//! The files that a queue's ring knows.
//!
//! A ring has a list of files, and calls name places in it. Layers come and go, so a file gets a place when it is first used, and loses
//! it when its layer is gone and no call uses it, or when a place is needed.

use std::io;
use std::sync::Arc;

use crate::layered::engine::{Engine, Stack};
use crate::layered::layer::Layer;
use crate::layered::map::{LayerId, Location};
use crate::layered::storage::host::RING_FILES;
use crate::layered::storage::{Storage, StorageRing, Way};
use crate::sys::FileIndex;

struct Slot<F> {
    layer: LayerId,
    segment: usize,
    way: Way,
    /// Kept open for as long as it stands here.
    _file: Arc<F>,
    users: u32,
}

pub(super) struct Files<F> {
    stack: Arc<Stack<F>>,
    version: u64,
    slots: Vec<Option<Slot<F>>>,
}

impl<F> Files<F> {
    pub(super) fn new<S: Storage<File = F>>(engine: &Engine<S>) -> Self {
        Self { version: engine.stack_version(), stack: engine.stack(), slots: Vec::new() }
    }

    /// Looks whether layers came or went.
    pub(super) fn refresh<S: Storage<File = F>>(&mut self, engine: &Engine<S>, ring: &mut S::Ring) {
        if engine.stack_version() == self.version {
            return;
        }
        (self.version, self.stack) = (engine.stack_version(), engine.stack());
        for index in 0..self.slots.len() {
            self.forget_if_gone(ring, index);
        }
    }

    /// The layer at a location, or none for zeroes; nothing when the location is out of date and must be asked for again.
    #[expect(
        clippy::option_option,
        reason = "the two say different things, and the caller matches on both at once"
    )]
    pub(super) fn find<S: Storage<File = F>>(
        &mut self,
        engine: &Engine<S>,
        ring: &mut S::Ring,
        location: Location,
    ) -> Option<Option<Arc<Layer<F>>>> {
        let Location::Layer(id) = location else { return Some(None) };
        if let Some(layer) = self.stack.iter().rev().find(|layer| layer.id == id) {
            return Some(Some(Arc::clone(layer)));
        }
        self.refresh(engine, ring);
        None
    }

    /// The place of a file in the ring's list, which is used once more.
    pub(super) fn slot<R: StorageRing<File = F>>(
        &mut self,
        ring: &mut R,
        layer: &Layer<F>,
        segment: usize,
        way: Way,
    ) -> io::Result<FileIndex>
    where
        F: super::StorageFile,
    {
        let is_it = |slot: &Option<Slot<F>>| {
            let is_it = |slot: &Slot<F>| (slot.layer, slot.segment, slot.way) == (layer.id, segment, way);
            slot.as_ref().is_some_and(is_it)
        };
        let index = match self.slots.iter().position(is_it) {
            Some(index) => index,
            None => {
                let index = self.free_slot()?;
                let file = Arc::clone(layer.segment(segment));
                ring.set_file(place(index), Some((&file, way)))?;
                self.slots[index] = Some(Slot { layer: layer.id, segment, way, _file: file, users: 0 });
                index
            }
        };
        if let Some(slot) = &mut self.slots[index] {
            slot.users += 1;
        }
        Ok(place(index))
    }

    fn free_slot(&mut self) -> io::Result<usize> {
        if let Some(index) = self.slots.iter().position(Option::is_none) {
            return Ok(index);
        }
        if place(self.slots.len()) < RING_FILES {
            self.slots.push(None);
            return Ok(self.slots.len() - 1);
        }
        let is_idle = |slot: &Option<Slot<F>>| slot.as_ref().is_none_or(|slot| slot.users == 0);
        self.slots.iter().position(is_idle).ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))
    }

    /// A call on the file at this place has ended.
    pub(super) fn release<R: StorageRing<File = F>>(&mut self, ring: &mut R, slot: FileIndex) {
        let index = slot as usize;
        if let Some(slot) = &mut self.slots[index] {
            slot.users -= 1;
        }
        self.forget_if_gone(ring, index);
    }

    fn forget_if_gone<R: StorageRing<File = F>>(&mut self, ring: &mut R, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        let is_gone = slot.users == 0 && !self.stack.iter().any(|layer| layer.id == slot.layer);
        // A ring that does not let it go keeps it until another file needs the place.
        if is_gone && ring.set_file(place(index), None).is_ok() {
            self.slots[index] = None;
        }
    }
}

fn place(index: usize) -> FileIndex {
    FileIndex::try_from(index).expect("at most RING_FILES")
}
