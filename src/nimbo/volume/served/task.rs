//! Work in the background, of which one at a time is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use ::volume::snapshot::{CHUNK_BYTES, Progress, SnapshotName};
use anyhow::{Context as _, bail};
use tokio::sync::watch;
use types::ByteSize;

use super::api::{TaskState, TaskStatus};

/// The last work that was begun, if any was.
#[derive(Default)]
pub(super) struct TaskSlot(Option<Task>);

struct Task {
    status: watch::Receiver<TaskStatus>,
    stop: Arc<AtomicBool>,
    /// None when it has been waited for.
    thread: Option<JoinHandle<()>>,
}

/// The work's own side.
pub(super) struct TaskControl {
    status: watch::Sender<TaskStatus>,
    stop: Arc<AtomicBool>,
}

impl TaskControl {
    /// Tells how far it is; says whether to go on.
    pub(super) fn reach(&self, progress: Progress) -> bool {
        let bytes = |chunks| ByteSize::from_bytes(chunks * CHUNK_BYTES);
        self.status.send_modify(|status| {
            // Several threads tell, in any order.
            status.done_bytes = status.done_bytes.max(bytes(progress.done));
            status.total_bytes = bytes(progress.total);
        });
        !self.is_stopped()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The work has come to its end, or not. What the thread does afterwards nobody waits for.
    pub(super) fn conclude(&self, outcome: anyhow::Result<()>) {
        self.status.send_modify(|status| match outcome {
            Ok(()) => status.state = TaskState::Done,
            Err(_) if self.is_stopped() => status.state = TaskState::Stopped,
            Err(error) => {
                status.state = TaskState::Failed;
                status.error = Some(format!("{error:#}"));
            }
        });
    }
}

impl TaskSlot {
    /// Begins work on a thread of its own; `work` must conclude it. What was done before must have come to its end.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(super) fn begin(
        &mut self,
        name: &str,
        snapshot: SnapshotName,
        work: impl FnOnce(&TaskControl) + Send + 'static,
    ) -> anyhow::Result<()> {
        self.stop();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, status) =
            watch::channel(TaskStatus { snapshot: Some(snapshot), ..TaskStatus::default() });
        let control = TaskControl { status: sender, stop: Arc::clone(&stop) };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&control));
        self.0 = Some(Task { status, stop, thread: Some(thread.context("cannot start a thread")?) });
        Ok(())
    }

    /// Makes sure that nothing is under way.
    ///
    /// # Errors
    /// When something is.
    pub(super) fn ensure_idle(&self, what: &str) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("{what} already");
        }
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|task| task.status.borrow().state == TaskState::Running)
    }

    /// How the last work stands, and will stand.
    pub(super) fn status(&self) -> Option<watch::Receiver<TaskStatus>> {
        self.0.as_ref().map(|task| task.status.clone())
    }

    /// Asks what is under way to end.
    pub(super) fn ask_to_stop(&self) {
        if let Some(task) = &self.0 {
            task.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Asks what is under way to end, and waits for that.
    pub(super) fn stop(&mut self) {
        self.ask_to_stop();
        let Some(task) = &mut self.0 else { return };
        if let Some(thread) = task.thread.take() {
            // If it panicked, that was told.
            let _ = thread.join();
        }
    }
}

impl Drop for TaskSlot {
    fn drop(&mut self) {
        self.stop();
    }
}
