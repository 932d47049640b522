//! Sealing the top layer: what is in the volume now stays as it is in the layers below a new, empty top.
//!
//! ```text
//!   1  the next layer's files are made and listed in the manifest          an empty top above hides nothing
//!   2  under the lock of the state the new layer becomes the top           the moment of the seal
//!   3  what was in flight ends in the old layer; flushes cover both layers
//!   4  the old layer is flushed and checkpointed, its header says sealed
//! ```
//!
//! A crash before 4 leaves a layer that is not sealed below another: opening the volume seals it. Nothing here takes longer with a larger
//! volume or a longer history, and the writers never wait.

use std::sync::{Arc, MutexGuard};

use super::books::Books;
use super::engine::{Engine, Stack};
use super::error::VolumeError;
use super::folder;
use super::format::{LayerEntry, Manifest};
use super::layer::{Layer, Role};
use super::map::LayerId;
use super::storage::Storage;
use super::unsettled::Unsettled;

impl<S: Storage> Engine<S> {
    /// Seals the top layer and says which one it was. When this returns, the layer is durable and never changes again, but by a
    /// [merge](super::merge).
    ///
    /// # Errors
    /// [`VolumeError::TooManyLayers`], or when the storage fails: without anything changed if it did before the new layer was in
    /// the manifest, otherwise the volume stopped.
    pub(crate) fn seal(&self) -> Result<LayerId, VolumeError> {
        self.seal_for(&self.structure(), |_, _| {})
    }

    /// As [`seal`](Self::seal), for who has the structure; `note` may write into the manifest what the sealed layer is for.
    pub(crate) fn seal_for(
        &self,
        _structure: &MutexGuard<'_, ()>,
        note: impl FnOnce(&mut Manifest, LayerId),
    ) -> Result<LayerId, VolumeError> {
        let sealed = self.begin_seal_for(note)?;
        self.wait_until(|state| !state.sealing().is_some_and(|(_, is_written)| is_written));
        self.finish_seal()?;
        Ok(sealed)
    }

    /// Steps 1 and 2.
    #[cfg(test)]
    pub(crate) fn begin_seal(&self) -> Result<LayerId, VolumeError> {
        self.begin_seal_for(|_, _| {})
    }

    /// Steps 1 and 2.
    pub(crate) fn begin_seal_for(
        &self,
        note: impl FnOnce(&mut Manifest, LayerId),
    ) -> Result<LayerId, VolumeError> {
        let mut turn = self.turn();
        if self.state().is_stopped() {
            return Err(VolumeError::Stopped);
        }
        let layers = turn.manifest.layers.len();
        if layers >= Manifest::LAYERS_MAX {
            return Err(VolumeError::TooManyLayers { layers });
        }
        let old = Arc::clone(self.stack().last().expect("a stack has a top"));
        let id = LayerId(turn.manifest.next_layer);
        // An attempt that failed may have left files of this number.
        folder::remove_orphans(&self.storage, &turn.manifest.layers)?;
        let (layer, header) =
            Layer::create(&self.storage, id, turn.manifest.blocks, old.geometry, Role::Top)?;
        layer.sync(0)?;
        let mut manifest = turn.manifest.clone();
        manifest.next_layer += 1;
        manifest.layers.push(LayerEntry { id: id.0, uuid: layer.uuid });
        note(&mut manifest, old.id);
        self.write_manifest(&mut turn, manifest)?;
        turn.books.insert(id, Books::new(header));
        let layer = Arc::new(layer);
        let mut stack = Stack::clone(&self.stack());
        stack.push(Arc::clone(&layer));
        // First, for whoever finds a block in the new layer must find the layer.
        self.set_stack(stack);
        self.state().switch(Unsettled::new(layer, Default::default()));
        Ok(old.id)
    }

    /// Step 4. Nothing is in flight to the old layer any more.
    pub(crate) fn finish_seal(&self) -> Result<(), VolumeError> {
        let mut turn = self.turn();
        let Some((layer, is_written)) = self.state().sealing() else { return Ok(()) };
        assert!(!is_written, "whoever finishes waits first");
        self.try_round(&mut turn)?;
        let result = self.checkpoint(&mut turn, &layer, true);
        self.or_stop(result)?;
        turn.books.remove(&layer.id);
        self.state().sealed();
        Ok(())
    }
}
