//! A volume wherever it is: open here, or in the process that serves it.

use std::path::Path;

use ::volume::snapshot::SnapshotName;
use ::volume::{Volume, VolumeError};
use anyhow::{Context as _, anyhow, bail};
use serde_json::json;
use types::ByteSize;
use vmm::control::client::{Client, ClientError};

use super::CONTROL;
use super::api::{FillSpec, LimitsSpec, SizeSpec, SnapshotSpec, TaskState, TaskStatus, VolumeStatus};
use crate::progress::Progress;
use crate::socket;
use crate::volume::stop::StopFlag;
use crate::volume::store::{Access, Location};

/// How long the server is to wait for news of a task before it answers.
const NEWS_MS: u32 = 200;

/// A volume that somebody wants something of.
pub(in crate::volume) enum Reached {
    Here(Volume),
    Served(ServedClient),
}

/// A conversation with the process that has a volume open.
pub(in crate::volume) struct ServedClient(Client);

impl Access {
    /// Opens a volume, or reaches who has it open.
    ///
    /// # Errors
    /// When neither can be.
    pub(in crate::volume) fn reach(&self, folder: &Path) -> anyhow::Result<Reached> {
        let error = match self.open_volume(folder) {
            Ok(volume) => return Ok(Reached::Here(volume)),
            Err(error) => error,
        };
        let is_in_use = error.chain().any(|cause| matches!(cause.downcast_ref(), Some(VolumeError::InUse)));
        if !is_in_use {
            return Err(error);
        }
        // A process that only checks it, say, has no control socket: then it is in use, and that is all.
        let Ok(stream) = socket::connect(&folder.join(CONTROL)) else { return Err(error) };
        Ok(Reached::Served(ServedClient(Client::over(stream)?)))
    }
}

/// How a snapshot stands that was begun, when it has come to its end or after so long.
///
/// # Errors
/// When nobody says so.
pub(crate) fn snapshot_status(
    client: &mut Client,
    name: SnapshotName,
    wait_ms: u32,
) -> Result<TaskStatus, ClientError> {
    loop {
        let last: TaskStatus = client.get("/v1/snapshot")?;
        // A process of an earlier version knows one snapshot at a time, and takes no names.
        let query = if last.snapshot == Some(name) { String::new() } else { format!("name={name}&") };
        let status: TaskStatus = client.get(&format!("/v1/snapshot?{query}wait_ms={wait_ms}"))?;
        if status.snapshot == Some(name) {
            return Ok(status);
        }
    }
}

impl ServedClient {
    pub(in crate::volume) fn status(&mut self) -> anyhow::Result<VolumeStatus> {
        Ok(self.0.get("/v1/volume")?)
    }

    pub(in crate::volume) fn resize(&mut self, size_bytes: ByteSize) -> anyhow::Result<VolumeStatus> {
        Ok(self.0.put("/v1/volume/size", &SizeSpec { size_bytes })?)
    }

    /// None takes the limits away.
    pub(in crate::volume) fn limit(&mut self, limits: Option<LimitsSpec>) -> anyhow::Result<()> {
        match limits {
            Some(limits) => drop(self.0.put::<VolumeStatus>("/v1/volume/limits", &limits)?),
            None => drop(self.0.delete("/v1/volume/limits")?),
        }
        Ok(())
    }

    pub(in crate::volume) fn make_snapshot(
        &mut self,
        location: &Location,
        stop: &StopFlag,
    ) -> anyhow::Result<SnapshotName> {
        let spec = SnapshotSpec { objects: location.absolute()?, name: None };
        let begun: TaskStatus = self.0.post("/v1/snapshot", &spec, &[])?;
        let name =
            begun.snapshot.ok_or_else(|| anyhow!("the volume's server does not say which it makes"))?;
        let look = |client: &mut Client| snapshot_status(client, name, NEWS_MS);
        self.follow("/v1/snapshot", look, format!("making snapshot {name}"), stop)?;
        Ok(name)
    }

    pub(in crate::volume) fn cancel_snapshot(&mut self, location: &Location) -> anyhow::Result<()> {
        let spec = serde_json::to_vec(&SnapshotSpec { objects: location.absolute()?, name: None })?;
        self.0.request("DELETE", "/v1/snapshot", &spec, &[])?;
        Ok(())
    }

    pub(in crate::volume) fn fill(
        &mut self,
        location: &Location,
        bytes_per_second: Option<ByteSize>,
        stop: &StopFlag,
    ) -> anyhow::Result<()> {
        let spec = FillSpec { objects: location.absolute()?, bytes_per_second };
        self.0.post::<TaskStatus>("/v1/fill", &spec, &[])?;
        let look = |client: &mut Client| client.get(&format!("/v1/fill?wait_ms={NEWS_MS}"));
        self.follow("/v1/fill", look, "filling the volume".to_owned(), stop)
    }

    /// Tells how far a task is until it has come to its end; stops it when the user says so.
    fn follow(
        &mut self,
        path: &str,
        look: impl Fn(&mut Client) -> Result<TaskStatus, ClientError>,
        what: String,
        stop: &StopFlag,
    ) -> anyhow::Result<()> {
        let progress = Progress::start(what);
        loop {
            let status = look(&mut self.0)?;
            progress.reach(status.done_bytes.bytes(), status.total_bytes.bytes());
            match status.state {
                TaskState::Running if stop.is_up() => {
                    let _: TaskStatus = self.0.post(&format!("{path}/stop"), &json!({}), &[])?;
                }
                TaskState::Running => {}
                TaskState::Done => {
                    progress.finish();
                    return Ok(());
                }
                TaskState::Stopped => bail!("it was stopped; the same again goes on"),
                TaskState::Failed => {
                    return Err(anyhow!(status.error.unwrap_or_default()))
                        .context("the process that serves the volume could not");
                }
            }
        }
    }
}
