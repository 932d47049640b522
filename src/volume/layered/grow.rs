//! Making a volume larger: the top layer first, then the manifest, then whoever asks for the size.

use std::sync::Arc;

use super::engine::{Engine, Stack};
use super::error::{VolumeError, io_error};
use super::folder::checked_blocks;
use super::format::BLOCK_BYTES;
use super::storage::Storage;

impl<S: Storage> Engine<S> {
    /// Makes the volume `size_bytes` large; what is new reads as zeroes.
    ///
    /// # Errors
    /// [`VolumeError::CannotShrink`], [`VolumeError::BadSize`], or when the storage fails.
    pub(crate) fn grow(&self, size_bytes: u64) -> Result<(), VolumeError> {
        let blocks = checked_blocks(size_bytes)?;
        let _structure = self.structure();
        let mut turn = self.turn();
        if self.state().is_stopped() {
            return Err(VolumeError::Stopped);
        }
        if blocks < turn.manifest.blocks {
            let size_bytes = turn.manifest.blocks * BLOCK_BYTES;
            return Err(VolumeError::CannotShrink { size_bytes, wanted_bytes: blocks * BLOCK_BYTES });
        }
        let mut stack = Stack::clone(&self.stack());
        let top = stack.pop().expect("a stack has a top");
        let top = Arc::new(top.grown(&self.storage, blocks.max(top.blocks))?);
        self.or_stop(top.sync_segments(u64::MAX))?;
        self.storage.sync_folder().map_err(io_error("sync the folder", "of the volume"))?;
        stack.push(Arc::clone(&top));
        self.set_stack(stack);
        self.state().grown(Arc::clone(&top));
        let result = self.checkpoint(&mut turn, &top, false);
        self.or_stop(result)?;
        let mut manifest = turn.manifest.clone();
        manifest.blocks = blocks;
        self.write_manifest(&mut turn, manifest)?;
        self.set_blocks(blocks);
        Ok(())
    }
}
