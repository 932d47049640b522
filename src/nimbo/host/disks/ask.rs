//! What is asked of the process that serves a volume, by its control socket (docs/volume-control-api.md).

use std::path::PathBuf;

use ::volume::snapshot::SnapshotName;
use anyhow::Context as _;
use types::{ByteSize, VolumeSpec};
use vmm::control::client::{Client, ClientError};

use super::server::Place;
use crate::socket;
use crate::volume::api::{
    FillSpec, LimitsSpec, PauseSpec, Resumed, SizeSpec, SnapshotSpec, TaskState, TaskStatus, VolumeStatus,
};

/// How long the process waits for news of a task before it answers.
const NEWS_MS: u32 = 250;

/// Told how much of a task is done.
pub(super) type OnPercent = Box<dyn Fn(u8) + Send>;

/// How the volume is.
pub(super) async fn status(place: &Place) -> anyhow::Result<VolumeStatus> {
    talk(place, |client| client.get("/v1/volume")).await
}

/// Makes the volume as large as `spec` says, and as fast, if there are limits.
pub(super) async fn modify(place: &Place, spec: VolumeSpec, is_limited: bool) -> anyhow::Result<()> {
    talk(place, move |client| {
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
    })
    .await
}

pub(super) fn limits_of(spec: VolumeSpec) -> LimitsSpec {
    let VolumeSpec { kind, iops, throughput_mib_s, .. } = spec;
    LimitsSpec { kind, iops, throughput_mib_s }
}

/// Seals the volume for a snapshot of this name, and begins to put it into the store; if that was begun, it goes on.
pub(super) async fn begin_snapshot(place: &Place, objects: String, name: SnapshotName) -> anyhow::Result<()> {
    talk(place, move |client| {
        let spec = SnapshotSpec { objects, name: Some(name) };
        begin(client, "/v1/snapshot", Some(name), &spec)
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

/// Follows the snapshot that is being made to its end.
pub(super) async fn follow_snapshot(place: &Place, tell: OnPercent) -> anyhow::Result<TaskStatus> {
    talk(place, move |client| follow(client, "/v1/snapshot", &tell)).await
}

/// Gives up the snapshot that was begun.
pub(super) async fn cancel_snapshot(place: &Place, objects: String) -> anyhow::Result<()> {
    talk(place, move |client| {
        let body = serde_json::to_vec(&SnapshotSpec { objects, name: None }).unwrap_or_default();
        client.request("DELETE", "/v1/snapshot", &body, &[]).map(drop)
    })
    .await
}

/// Fetches all that the volume lacks.
pub(super) async fn fill(place: &Place, objects: String) -> anyhow::Result<TaskStatus> {
    talk(place, move |client| {
        begin(client, "/v1/fill", None, &FillSpec { objects, bytes_per_second: None })?;
        follow(client, "/v1/fill", &|_| {})
    })
    .await
}

/// Begins a task, unless it is under way.
fn begin(
    client: &mut Client,
    path: &str,
    snapshot: Option<SnapshotName>,
    spec: &impl serde::Serialize,
) -> Result<(), ClientError> {
    let is_its = |status: &TaskStatus| snapshot.is_none() || status.snapshot == snapshot;
    match client.get::<TaskStatus>(path) {
        Ok(status) if status.state == TaskState::Running && is_its(&status) => return Ok(()),
        Ok(_) | Err(ClientError::Refused { status: 404, .. }) => {}
        Err(error) => return Err(error),
    }
    client.post::<TaskStatus>(path, spec, &[]).map(drop)
}

fn follow(client: &mut Client, path: &str, tell: &dyn Fn(u8)) -> Result<TaskStatus, ClientError> {
    loop {
        let status: TaskStatus = client.get(&format!("{path}?wait_ms={NEWS_MS}"))?;
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
