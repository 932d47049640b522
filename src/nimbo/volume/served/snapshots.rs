//! The snapshots that this process has begun, or gone on with: a task for each. The volume does one after the other.

use anyhow::bail;
use tokio::sync::watch;

use ::volume::snapshot::SnapshotName;

use super::api::TaskStatus;
use super::task::{TaskControl, TaskSlot};

/// Of so many that have ended it can be asked how.
const ENDED_MAX: usize = 16;

/// In the order in which they were begun.
#[derive(Default)]
pub(super) struct SnapshotTasks(Vec<(SnapshotName, TaskSlot)>);

impl SnapshotTasks {
    /// Begins a task for a snapshot whose last one has ended, if there was one.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(super) fn begin(
        &mut self,
        name: SnapshotName,
        work: impl FnOnce(&TaskControl) + Send + 'static,
    ) -> anyhow::Result<()> {
        self.0.retain(|(other, _)| *other != name);
        let ended = self.0.iter().filter(|(_, slot)| !slot.is_running()).count();
        if ended >= ENDED_MAX
            && let Some(oldest) = self.0.iter().position(|(_, slot)| !slot.is_running())
        {
            self.0.remove(oldest);
        }
        let mut slot = TaskSlot::default();
        slot.begin("volume-snapshot", name, work)?;
        self.0.push((name, slot));
        Ok(())
    }

    /// Makes sure that none is being made.
    ///
    /// # Errors
    /// When one is.
    pub(super) fn ensure_idle(&self) -> anyhow::Result<()> {
        match self.0.iter().find(|(_, slot)| slot.is_running()) {
            Some((name, _)) => bail!("the snapshot {name} is being made already; give another one a name"),
            None => Ok(()),
        }
    }

    pub(super) fn is_running(&self, name: SnapshotName) -> bool {
        self.0.iter().any(|(other, slot)| *other == name && slot.is_running())
    }

    /// How a snapshot stands, and will stand; without a name: the last one that was begun.
    pub(super) fn status(&self, name: Option<SnapshotName>) -> Option<watch::Receiver<TaskStatus>> {
        let mut tasks = self.0.iter().rev();
        tasks.find(|(other, _)| name.is_none_or(|name| *other == name)).and_then(|(_, slot)| slot.status())
    }

    /// Asks all to end, and waits for that. Gives those that were not done.
    pub(super) fn stop(&mut self) -> Vec<SnapshotName> {
        let running = self.0.iter().filter(|(_, slot)| slot.is_running()).map(|(name, _)| *name).collect();
        // First all, for they wait for one another.
        self.0.iter().for_each(|(_, slot)| slot.ask_to_stop());
        self.0.iter_mut().for_each(|(_, slot)| slot.stop());
        running
    }
}

impl Drop for SnapshotTasks {
    fn drop(&mut self) {
        self.stop();
    }
}
