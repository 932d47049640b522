//! Disks of a microVM that other processes serve: when such a process ends, and another listens at its socket, that one is handed
//! to the microVM's process, which opens nothing by path.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use vmm::control::api::{DeviceState, DeviceStatus, Devices, EventKind, Events};
use vmm::control::client::{Client, ClientError};

use crate::socket;

/// How long the guest's requests wait for another server. Linux begins to complain about a disk after 120 s.
pub(crate) const TIME_MS: u64 = 60_000;
/// How long nothing is asked while every disk is served.
const QUIET: Duration = Duration::from_secs(60);
/// How long after an attempt the next is made; twice as long each time, up to the latter.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whose microVM it is.
pub(crate) trait Owner: Send + 'static {
    /// Where who serves a disk listens, if another may come.
    fn server(&self, device: &str) -> Option<PathBuf>;

    /// Something that a person may want to know.
    fn say(&self, message: &str);

    /// The devices as they are before the first event.
    fn devices(&self, _devices: &[DeviceStatus]) {}

    fn happened(&self, _event: &EventKind) {}
}

/// Looks after the disks of a microVM until its process ends, whose control socket is `control`.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn start(control: PathBuf, owner: impl Owner) -> anyhow::Result<()> {
    let work = move || {
        // It ends with the control socket.
        if let Err(error) = watch(&control, &owner) {
            tracing::info!(%error, "no server of a disk is replaced from now on");
        }
    };
    let thread = thread::Builder::new().name("reconnect".to_owned()).spawn(work);
    thread.map(drop).context("cannot start a thread")
}

/// A disk whose server has ended.
struct Waiting {
    path: PathBuf,
    pause: Duration,
    /// Why the last server that listened was refused.
    refusal: String,
}

impl Waiting {
    fn new(path: PathBuf) -> Self {
        Self { path, pause: PAUSE_MIN, refusal: String::new() }
    }
}

fn watch(control: &Path, owner: &dyn Owner) -> Result<(), ClientError> {
    let stream =
        socket::connect(control).map_err(|source| ClientError::Socket { operation: "connect to", source })?;
    let mut client = Client::over(stream)?;
    // What happens between the two is told twice, and not lost.
    let before: Events = client.get("/v1/events")?;
    let devices: Devices = client.get("/v1/devices")?;
    owner.devices(&devices.devices);
    let gone = devices.devices.iter().filter(|device| device.state == DeviceState::Disconnected);
    let waiting = |device: &DeviceStatus| {
        owner.server(device.id.as_str()).map(|path| (device.id.to_string(), Waiting::new(path)))
    };
    let mut waiting: BTreeMap<String, Waiting> = gone.filter_map(waiting).collect();
    let mut after = before.next;
    loop {
        let wait = waiting.values().map(|disk| disk.pause).min().unwrap_or(QUIET).as_millis();
        let news: Events = client.get(&format!("/v1/events?after={after}&wait_ms={wait}"))?;
        after = news.next;
        for event in news.events {
            follow(&event.kind, owner, &mut waiting);
        }
        for (id, disk) in &mut waiting {
            disk.pause = (disk.pause * 2).min(PAUSE_MAX);
            try_to_reconnect(&mut client, id, disk, owner)?;
        }
    }
}

fn follow(event: &EventKind, owner: &dyn Owner, waiting: &mut BTreeMap<String, Waiting>) {
    owner.happened(event);
    match event {
        EventKind::DeviceDisconnected { device } => {
            if let Some(path) = owner.server(device.as_str()) {
                owner.say(&format!("nobody serves {} any more; the guest's requests wait", path.display()));
                waiting.insert(device.to_string(), Waiting::new(path));
            }
        }
        EventKind::DeviceReconnected { device } => {
            if let Some(disk) = waiting.remove(device.as_str()) {
                owner.say(&format!("{} is served again", disk.path.display()));
            }
        }
        EventKind::DeviceNeedsReset { device } | EventKind::DeviceUnplugged { device } => {
            waiting.remove(device.as_str());
        }
        _ => {}
    }
}

/// What comes of it is an event.
fn try_to_reconnect(
    client: &mut Client,
    id: &str,
    disk: &mut Waiting,
    owner: &dyn Owner,
) -> Result<(), ClientError> {
    let stream = match socket::connect(&disk.path) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, path = %disk.path.display(), "nobody serves a disk");
            return Ok(());
        }
    };
    match client.request("PUT", &format!("/v1/disks/{id}"), b"", &[stream.as_fd()]) {
        Ok(_) => Ok(()),
        // It was handed over before, and is not yet told of.
        Err(ClientError::Refused { detail, .. }) if detail.code == "not_disconnected" => Ok(()),
        Err(ClientError::Refused { detail, .. }) => {
            if disk.refusal != detail.message {
                owner.say(&format!("who serves {} now is refused: {}", disk.path.display(), detail.message));
                disk.refusal = detail.message;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}
