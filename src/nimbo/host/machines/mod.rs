//! The microVMs of this host.
//!
//! ```text
//!   start ──▶ folder ─▶ volumes served ─▶ network ─▶ process ─▶ guest runs ──▶ Running
//!                                                                               │  the process's end (pidfd)
//!   open ───▶ each folder: the process is there and its guest ran ──▶ Running   ▼
//!                          it is not there                        ──▶ Ended ──forget──▶ nothing
//!                          it never got so far                    ──▶ nothing
//! ```
//!
//! A microVM is a process of its own that lives on when this one ends, however it ends. What is kept of it is in its [`folder`], which is there
//! from before the first effect until after the last; so whoever comes next knows of all, and what was begun is found or undone.

mod folder;
mod guest;
mod interfaces;
mod plug;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::ports::{BoxFuture, End, HostError, Machine, MachineSpec};
use tokio::runtime::Handle;
use types::{InstanceId, VolumeId};

use super::cgroup;
use super::networks::Networks;
use folder::Folder;
use guest::Guest;

/// Who has volumes served to microVMs.
pub(crate) trait Storage: Send + Sync {
    /// Sees to it that a process serves the volume to a microVM, until that has released it. Gives the path of its socket.
    fn serve(&self, id: VolumeId, instance: InstanceId) -> BoxFuture<'_, Result<PathBuf, HostError>>;

    /// A microVM that was found has the volume.
    fn claim(&self, id: VolumeId, instance: InstanceId);

    /// A microVM has the volume no more, from now on. What is returned waits until nobody serves it, if no other has it.
    fn release(&self, id: VolumeId, instance: InstanceId) -> BoxFuture<'static, ()>;
}

type Call = Arc<dyn Fn(InstanceId) + Send + Sync>;

/// The microVMs of this host.
pub(crate) struct Machines {
    /// nimbo itself.
    program: PathBuf,
    run: PathBuf,
    storage: Arc<dyn Storage>,
    networks: Arc<Networks>,
    guests: Mutex<BTreeMap<InstanceId, Arc<Guest>>>,
    /// Called when a microVM has ended or begun to run, and when it got or lost a volume or an interface.
    calls: Mutex<Vec<Call>>,
}

impl Machines {
    /// Finds those that run, and what is left of others. `program` is nimbo. To be called in a runtime.
    ///
    /// # Errors
    /// When a folder cannot be made or read.
    pub(super) fn open_with(
        program: &Path,
        run: &Path,
        storage: Arc<dyn Storage>,
        networks: Arc<Networks>,
    ) -> anyhow::Result<Arc<Self>> {
        let run = std::path::absolute(run)?;
        Folder::prepare(&run)?;
        let machines = Arc::new(Self {
            program: program.to_owned(),
            networks,
            run,
            storage,
            guests: Mutex::default(),
            calls: Mutex::default(),
        });
        for id in Folder::all(&machines.run)? {
            machines.adopt(id)?;
        }
        Ok(machines)
    }

    pub(super) fn networks(&self) -> Arc<Networks> {
        Arc::clone(&self.networks)
    }

    pub(crate) fn observe(&self, id: InstanceId) -> Option<Machine> {
        self.guest(id)?.state()
    }

    pub(crate) fn ids(&self) -> Vec<InstanceId> {
        self.guests().keys().copied().collect()
    }

    /// # Errors
    /// When the microVM cannot be started; then nothing is left of it.
    pub(crate) async fn start(self: &Arc<Self>, spec: MachineSpec) -> Result<(), HostError> {
        let guest = self.guest_or_new(spec.id);
        let _turn = guest.turn().await;
        if guest.state().is_some() {
            return Ok(());
        }
        // Whoever had the turn before may have removed what was left of an earlier start.
        self.guests().insert(spec.id, Arc::clone(&guest));
        match self.bring_up(&guest, &spec).await {
            Ok(()) => {
                self.tell(spec.id);
                Ok(())
            }
            Err(error) => {
                self.undo(&guest, Some(&spec)).await;
                self.guests().remove(&spec.id);
                Err(error)
            }
        }
    }

    /// # Errors
    /// When the process does not do as it is asked.
    pub(crate) async fn press_power_button(&self, id: InstanceId) -> Result<(), HostError> {
        self.ask(id, "/v1/machine/power-button").await
    }

    /// # Errors
    /// When the process does not do as it is asked.
    pub(crate) async fn reset(&self, id: InstanceId) -> Result<(), HostError> {
        self.ask(id, "/v1/machine/reboot").await
    }

    /// Returns when it has ended.
    ///
    /// # Errors
    /// When that it is to be killed cannot be written down.
    pub(crate) async fn kill(&self, id: InstanceId) -> Result<(), HostError> {
        match self.guest(id) {
            Some(guest) => guest.kill().await,
            None => Ok(()),
        }
    }

    /// # Errors
    /// When it runs, or something of it cannot be removed.
    pub(crate) async fn forget(&self, id: InstanceId) -> Result<(), HostError> {
        let Some(guest) = self.guest(id) else { return Ok(()) };
        let _turn = guest.turn().await;
        if guest.state() == Some(Machine::Running) {
            return Err(HostError::Failed(format!("the microVM of {id} runs and cannot be forgotten")));
        }
        self.clear(&guest, None).await?;
        self.guests().remove(&id);
        Ok(())
    }

    /// # Errors
    /// When the console cannot be removed.
    pub(crate) fn discard(&self, id: InstanceId) -> Result<(), HostError> {
        let removed = Folder::of(&self.run, id).remove_console();
        removed.map_err(|error| HostError::Failed(format!("cannot remove the console of {id}: {error}")))
    }

    /// # Errors
    /// When the console cannot be read.
    pub(crate) fn console(&self, id: InstanceId) -> Result<Vec<u8>, HostError> {
        let console = Folder::of(&self.run, id).console();
        console.map_err(|error| HostError::Failed(format!("cannot read the console of {id}: {error}")))
    }

    /// Has `call` called whenever [`Self::observe`], [`Self::plugged`] or [`Self::interfaces`] would say something new.
    pub(crate) fn on_change(&self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn tell(&self, id: InstanceId) {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        calls.iter().for_each(|call| call(id));
    }

    async fn ask(&self, id: InstanceId, path: &'static str) -> Result<(), HostError> {
        let guest = self.guest(id).filter(|guest| guest.state() == Some(Machine::Running));
        match guest {
            Some(guest) => {
                guest.talk(move |mut client| client.request("POST", path, b"{}", &[])).await.map(drop)
            }
            // Its end is seen instead.
            None => Ok(()),
        }
    }

    /// Removes what there is of one that could not be started: the next attempt would do it as well.
    async fn undo(&self, guest: &Guest, spec: Option<&MachineSpec>) {
        guest.end_process().await;
        if let Err(error) = self.clear(guest, spec).await {
            tracing::warn!(id = %guest.id, "{error}");
        }
    }

    /// Removes all that there is of one whose process has ended, if it ever was. The folder goes last.
    async fn clear(&self, guest: &Guest, spec: Option<&MachineSpec>) -> Result<(), HostError> {
        let id = guest.id;
        let failed =
            |error: &dyn std::fmt::Display| HostError::Failed(format!("cannot forget {id}: {error}"));
        for volume in guest.all_volumes(spec).map_err(|error| failed(&format_args!("{error:#}")))? {
            self.storage.release(volume, id).await;
        }
        let networks = self.networks();
        tokio::task::spawn_blocking(move || networks.unplug(id)).await.map_err(|error| failed(&error))?;
        cgroup::remove(id);
        guest.folder.remove().map_err(|error| failed(&error))
    }

    /// A microVM has let go of volumes.
    fn release(&self, id: InstanceId, volumes: impl IntoIterator<Item = VolumeId>, runtime: &Handle) {
        for volume in volumes {
            runtime.spawn(self.storage.release(volume, id));
        }
    }

    fn guest(&self, id: InstanceId) -> Option<Arc<Guest>> {
        self.guests().get(&id).cloned()
    }

    fn guest_or_new(&self, id: InstanceId) -> Arc<Guest> {
        let new = || Arc::new(Guest::new(id, Folder::of(&self.run, id)));
        Arc::clone(self.guests().entry(id).or_insert_with(new))
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: &anyhow::Error) -> HostError {
    HostError::Failed(format!("{error:#}"))
}

/// What [`Machines`] say of one that has ended so.
fn ended(end: End) -> Option<Machine> {
    Some(Machine::Ended(end))
}
