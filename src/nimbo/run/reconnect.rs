//! Disks that other processes serve (`--disk SOCKET`): when such a process ends, and another listens at its socket, that one is handed
//! to the microVM's process, which opens nothing by path.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use vmm::control::api::{EventKind, Events};
use vmm::control::client::{Client, ClientError};

use super::terminal::say;
use crate::socket;

/// How long the guest's requests wait for another server. Linux begins to complain about a disk after 120 s.
pub(super) const TIME: Duration = Duration::from_secs(60);
/// How long nothing is asked while every disk is served.
const QUIET: Duration = Duration::from_secs(60);
/// How long after an attempt the next is made; twice as long each time, up to the latter.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Looks after the disks whose servers listen at these sockets, until the microVM's process ends, whose control socket is `control`.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn start(control: PathBuf, servers: BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    let work = move || {
        // It ends with the control socket.
        if let Err(error) = watch(&control, &servers) {
            tracing::info!(%error, "no server of a disk is replaced from now on");
        }
    };
    let thread = thread::Builder::new().name("reconnect".to_owned()).spawn(work);
    thread.map(drop).context("cannot start a thread")
}

/// A disk whose server has ended.
struct Waiting<'a> {
    path: &'a Path,
    pause: Duration,
    /// Why the last server that listened was refused.
    refusal: String,
}

fn watch(control: &Path, servers: &BTreeMap<String, PathBuf>) -> Result<(), ClientError> {
    let mut client = Client::connect(control)?;
    let mut waiting: BTreeMap<String, Waiting<'_>> = BTreeMap::new();
    let mut after = 0;
    loop {
        let wait = waiting.values().map(|disk| disk.pause).min().unwrap_or(QUIET).as_millis();
        let news: Events = client.get(&format!("/v1/events?after={after}&wait_ms={wait}"))?;
        after = news.next;
        for event in news.events {
            match event.kind {
                EventKind::DeviceDisconnected { device } => {
                    if let Some(path) = servers.get(device.as_str()) {
                        say(&format!("nobody serves {} any more; the guest's requests wait", path.display()));
                        let disk = Waiting { path, pause: PAUSE_MIN, refusal: String::new() };
                        waiting.insert(device.to_string(), disk);
                    }
                }
                EventKind::DeviceReconnected { device } => {
                    if let Some(disk) = waiting.remove(device.as_str()) {
                        say(&format!("{} is served again", disk.path.display()));
                    }
                }
                EventKind::DeviceNeedsReset { device } => drop(waiting.remove(device.as_str())),
                _ => {}
            }
        }
        for (id, disk) in &mut waiting {
            disk.pause = (disk.pause * 2).min(PAUSE_MAX);
            try_to_reconnect(&mut client, id, disk)?;
        }
    }
}

/// What comes of it is an event.
fn try_to_reconnect(client: &mut Client, id: &str, disk: &mut Waiting<'_>) -> Result<(), ClientError> {
    let stream = match socket::connect(disk.path) {
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
                say(&format!("who serves {} now is refused: {}", disk.path.display(), detail.message));
                disk.refusal = detail.message;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}
