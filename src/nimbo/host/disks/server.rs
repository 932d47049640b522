//! The process that has a volume open: `nimbo volume serve`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::host::process::{self, Process, START_MAX, is_socket};
use crate::volume::CONTROL;

/// How often it is looked whether another's process is ready.
const LOOK: Duration = Duration::from_millis(5);

/// Where the process and its volume are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The volume.
    pub(super) folder: PathBuf,
    /// Where microVMs find it.
    pub(super) socket: PathBuf,
    /// What it says on standard error.
    pub(super) log: PathBuf,
}

impl Place {
    pub(super) fn control(&self) -> PathBuf {
        self.folder.join(CONTROL)
    }

    /// The process that has the volume, if one has.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn find(&self) -> anyhow::Result<Option<Process>> {
        let Some(server) = process::find(&self.control())? else { return Ok(None) };
        // It may be about to listen for microVMs.
        let wait = async {
            while !server.has_ended() && !is_socket(&self.socket) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(START_MAX, wait).await.is_err() {
            bail!(
                "process {} has {} and no socket {}",
                server.pid,
                self.folder.display(),
                self.socket.display()
            );
        }
        Ok((!server.has_ended()).then_some(server))
    }

    /// Starts a process, and returns when it listens. After a crash of the host it reads what was written last.
    ///
    /// # Errors
    /// When it cannot be started, or ends at once; what it said is told.
    pub(super) async fn start(&self, program: &Path, arguments: Vec<OsString>) -> anyhow::Result<Process> {
        let mut command = Command::new(program);
        command.args(arguments);
        let started = Process::start(command, &self.log, None).await;
        started.with_context(|| format!("cannot serve the volume {}", self.folder.display()))
    }
}
