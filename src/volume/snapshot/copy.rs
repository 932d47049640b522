//! Copying a snapshot to another store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::SnapshotError;
use super::format::Uuid;
use super::format::{CHUNK_LEN, Place, SnapshotName};
use super::parallel;
use super::reader::Snapshot;
use super::store::ObjectStore;
use super::writer::{Plan, Progress, SnapshotWriter, unique};

/// How many chunks are chosen at a time.
const STEP: usize = 4096;

impl Snapshot {
    /// Copies the snapshot to another store, where it gets a name of its own in the same lineage. What `parent`, a snapshot there, has
    /// already is neither fetched nor put.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] when there is no such parent, [`SnapshotError::Damaged`], [`SnapshotError::Stopped`], or when a store fails;
    /// what was put by then is removed, if that is possible.
    pub fn copy_to(
        &self,
        store: &Arc<dyn ObjectStore>,
        parent: Option<SnapshotName>,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<SnapshotName, SnapshotError> {
        if let Some(older) = parent.filter(|parent| parent.lineage != self.name().lineage) {
            return Err(SnapshotError::OtherLineage { older, newer: self.name() });
        }
        let plan = Plan {
            name: self.name().with_id(unique()?),
            parent: parent.map_or(Uuid::NONE, |parent| parent.id),
            blocks: self.manifest().blocks,
            created_s: self.manifest().created_s,
            key: self.manifest().key.clone(),
        };
        let name = plan.name;
        let writer = SnapshotWriter::new(Arc::clone(store), plan)?;
        let copied = self.copy_chunks(&writer, progress).and_then(|()| writer.complete());
        if copied.is_err() {
            // The first error is the one to tell.
            let _ = super::Snapshots::new(Arc::clone(store)).cancel(name);
        }
        copied?;
        super::writer::release(&**store, name)?;
        Ok(name)
    }

    fn copy_chunks(
        &self,
        writer: &SnapshotWriter,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<(), SnapshotError> {
        let done = AtomicU64::new(0);
        let total = self.manifest().chunks;
        let mut first = 0;
        loop {
            let mut chunks: BTreeSet<u64> = self.chunks(first, STEP)?.into_iter().collect();
            // Up to here all are known.
            let end =
                if chunks.len() < STEP { u64::MAX } else { chunks.last().map_or(u64::MAX, |last| last + 1) };
            if let Some(parent) = writer.parent() {
                chunks.extend(parent.chunks_between(first, end)?);
            }
            let chunks: Vec<u64> = chunks.into_iter().collect();
            parallel(&chunks, |index| {
                let entry = self.entry(Place::Chunk(*index))?;
                let there = writer.parent().map_or(Ok(None), |parent| parent.entry(Place::Chunk(*index)))?;
                if entry.map(|entry| entry.name.hash) != there.map(|there| there.name.hash) {
                    let bytes = if entry.is_some() { self.stored_chunk(*index)? } else { None };
                    writer.put_stored_chunk(*index, &bytes.unwrap_or_else(|| vec![0; CHUNK_LEN]))?;
                }
                let done = done.fetch_add(u64::from(entry.is_some()), Ordering::Relaxed) + 1;
                if progress(Progress { done: done.min(total), total }) {
                    Ok(())
                } else {
                    Err(SnapshotError::Stopped)
                }
            })?;
            writer.settle(end)?;
            if end == u64::MAX {
                return Ok(());
            }
            first = end;
        }
    }

    /// Calls `each` with every chunk that is not all zeroes.
    pub(crate) fn for_each_chunk(&self, mut each: impl FnMut(u64)) -> Result<(), SnapshotError> {
        let mut next = Some(0);
        while let Some(first) = next {
            let chunks = self.chunks(first, STEP)?;
            next = chunks.last().map(|last| last + 1);
            chunks.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// All chunks of a range that are not all zeroes.
    pub(crate) fn chunks_between(&self, first: u64, end: u64) -> Result<Vec<u64>, SnapshotError> {
        let mut found = Vec::new();
        let mut next = first;
        loop {
            let chunks = self.chunks(next, STEP)?;
            let is_last = chunks.len() < STEP;
            next = chunks.last().map_or(end, |last| last + 1);
            found.extend(chunks.into_iter().filter(|index| *index < end));
            if is_last || next >= end {
                return Ok(found);
            }
        }
    }
}
