//! What is asked of the process that serves a volume, by its control socket (docs/volume-control-api.md).

use std::path::PathBuf;

use ::volume::snapshot::SnapshotName;
use anyhow::Context as _;
use types::{ByteSize, VolumeSpec};
use vmm::control::client::{Client, ClientError};

use super::Never;
use super::server::Place;
use crate::socket;
use crate::volume::api::{
    FillSpec, LimitsSpec, PauseSpec, Resumed, SizeSpec, SnapshotSpec, TaskState, TaskStatus, VolumeStatus,
};
use crate::volume::snapshot_status;

/// How long the process waits for news of a task before it answers.
const NEWS_MS: u32 = 250;

/// Told how much of a task is done.
pub(super) type OnPercent = Box<dyn Fn(u8) + Send>;

/// How the volume is.
pub(super) async fn status(place: &Place) -> anyhow::Result<VolumeStatus> {
    talk(place, |client| client.get("/v1/volume")).await
}

/// Makes the volume as large as `spec` says, and as fast, if there are limits.
///
/// # Errors
/// [`Never`] when there is no such volume, or it is larger already.
pub(super) async fn modify(place: &Place, spec: VolumeSpec, is_limited: bool) -> anyhow::Result<()> {
    let modified = talk(place, move |client| {
        let size = SizeSpec { size_bytes: ByteSize::from_bytes(spec.size_gib << 30) };
        let now: VolumeStatus = client.get("/v1/volume")?;
        // What it may give depends on its size, which only grows: first of all it is let give as much as there is.
        let limits = is_limited.then(|| limits_of(spec));
        if now.limits.is_some() && (now.limits != limits || now.size_bytes != size.size_bytes) {
            client.delete("/v1/volume/limits")?;
        }
        if now.size_bytes != size.size_bytes {
            let _: VolumeStatus = client.put("/v1/volume/size", &size)?;
        }
        match limits {
            Some(limits) => client.put::<VolumeStatus>("/v1/volume/limits", &limits).map(drop),
            None => Ok(()),
        }
    });
    modified.await.map_err(|error| match error.downcast_ref() {
        Some(ClientError::Refused { status: 409, detail }) => Never(detail.message.clone()).into(),
        _ => error,
    })
}

pub(super) fn limits_of(spec: VolumeSpec) -> LimitsSpec {
    let VolumeSpec { kind, iops, throughput_mib_s, .. } = spec;
    LimitsSpec { kind, iops, throughput_mib_s }
}

/// Seals the volume for a snapshot of this name, and begins to put it into the store; if that was begun, it goes on.
pub(super) async fn begin_snapshot(place: &Place, objects: String, name: SnapshotName) -> anyhow::Result<()> {
    talk(place, move |client| {
        let spec = SnapshotSpec { objects, name: Some(name) };
        client.post::<TaskStatus>("/v1/snapshot", &spec, &[]).map(drop)
    })
    .await
}

/// Holds the volume's writes, for at most so long.
pub(super) async fn pause(place: &Place, at_most_ms: u64) -> anyhow::Result<()> {
    talk(place, move |client| client.put::<VolumeStatus>("/v1/pause", &PauseSpec { at_most_ms }).map(drop))
        .await
}

/// Lets the writes go; says whether they were held all the time.
pub(super) async fn resume(place: &Place) -> anyhow::Result<bool> {
    let resumed = talk(place, |client| {
        let reply = client.request("DELETE", "/v1/pause", b"", &[])?;
        Ok(serde_json::from_slice::<Resumed>(&reply.body))
    });
    Ok(resumed.await??.was_paused)
}

/// Follows a snapshot that is being made to its end.
pub(super) async fn follow_snapshot(
    place: &Place,
    name: SnapshotName,
    tell: OnPercent,
) -> anyhow::Result<TaskStatus> {
    talk(place, move |client| follow(|| snapshot_status(client, name, NEWS_MS), &tell)).await
}

/// Gives up a snapshot that was begun.
pub(super) async fn cancel_snapshot(
    place: &Place,
    objects: String,
    name: SnapshotName,
) -> anyhow::Result<()> {
    talk(place, move |client| {
        let spec = SnapshotSpec { objects, name: Some(name) };
        let body = serde_json::to_vec(&spec).unwrap_or_default();
        client.request("DELETE", "/v1/snapshot", &body, &[]).map(drop)
    })
    .await
}

/// Fetches all that the volume lacks.
pub(super) async fn fill(place: &Place, objects: String) -> anyhow::Result<TaskStatus> {
    talk(place, move |client| {
        let is_under_way = match client.get::<TaskStatus>("/v1/fill") {
            Ok(status) => status.state == TaskState::Running,
            Err(ClientError::Refused { status: 404, .. }) => false,
            Err(error) => return Err(error),
        };
        if !is_under_way {
            let spec = FillSpec { objects, bytes_per_second: None };
            client.post::<TaskStatus>("/v1/fill", &spec, &[])?;
        }
        follow(|| client.get(&format!("/v1/fill?wait_ms={NEWS_MS}")), &|_| {})
    })
    .await
}

fn follow(
    mut look: impl FnMut() -> Result<TaskStatus, ClientError>,
    tell: &dyn Fn(u8),
) -> Result<TaskStatus, ClientError> {
    loop {
        let status = look()?;
        if status.state != TaskState::Running {
            return Ok(status);
        }
        let percent = (status.done_bytes.bytes() * 100).checked_div(status.total_bytes.bytes()).unwrap_or(0);
        tell(u8::try_from(percent).unwrap_or(100));
    }
}

/// On a thread where one may wait.
async fn talk<T: Send + 'static>(
    place: &Place,
    talk: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send + 'static,
) -> anyhow::Result<T> {
    let control: PathBuf = place.control();
    let work = tokio::task::spawn_blocking(move || {
        let stream =
            socket::connect(&control).context("the process that serves the volume does not listen")?;
        Ok(talk(&mut Client::over(stream)?)?)
    });
    work.await.context("a thread that asked the process of a volume failed")?
}
