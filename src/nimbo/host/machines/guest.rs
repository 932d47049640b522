//! One microVM: started, found again, its end noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow};
use control::ports::{HostError, Machine, MachineSpec};
use network::fabric;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use types::{InstanceId, NetworkInterfaceId, VolumeId};
use vmm::control::api::{DeviceStatus, Devices};
use vmm::control::client::{Client, ClientError};

use super::folder::{Folder, ProcessName};
use super::{Machines, ended, failed};
use crate::host::cgroup;
use crate::microvm::handover::{self, Handed};
use crate::microvm::{self, Exit, Getting, Provisions, reconnect};
use crate::socket::SocketPath;
use crate::vmm_process::{BootSpec, DiskSpec, InterfaceSpec, NamedDisk, ProcessSpec};
use crate::{socket, sys};

/// A microVM that is started, runs, or has ended.
pub(super) struct Guest {
    pub(super) id: InstanceId,
    pub(super) folder: Folder,
    /// Of who starts or forgets it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What is observed: nothing, while it is started.
    state: watch::Sender<Option<Machine>>,
    process: Mutex<Option<Arc<Process>>>,
    /// What it has, and where each is served, once that is known.
    volumes: Mutex<BTreeMap<VolumeId, Option<PathBuf>>>,
    /// Those that are among its devices. None: its process was not asked yet.
    interfaces: Mutex<Option<BTreeSet<NetworkInterfaceId>>>,
}

/// A process that runs or has ended, and no other that gets its number.
pub(super) struct Process(AsyncFd<OwnedFd>);

impl Process {
    fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self(sys::watch(sys::open_process(pid)?)?))
    }

    /// Waits for its end, which the kernel tells at once.
    async fn ended(&self) {
        // It fails only with the runtime's end.
        let _ = self.0.readable().await;
    }

    fn kill(&self) {
        if let Err(error) = sys::signal_process(self.0.get_ref().as_fd(), Signal::SIGKILL) {
            tracing::debug!(%error, "a microVM's process was not killed");
        }
    }
}

impl Guest {
    pub(super) fn new(id: InstanceId, folder: Folder) -> Self {
        let (state, _) = watch::channel(None);
        Self {
            id,
            folder,
            turn: Arc::default(),
            state,
            process: Mutex::default(),
            volumes: Mutex::default(),
            interfaces: Mutex::default(),
        }
    }

    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn state(&self) -> Option<Machine> {
        self.state.borrow().clone()
    }

    pub(super) fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Option<PathBuf>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn interfaces(&self) -> MutexGuard<'_, Option<BTreeSet<NetworkInterfaceId>>> {
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has those of its volumes that are among its devices; gives the others.
    pub(super) fn keep(&self, devices: &[DeviceStatus]) -> Vec<VolumeId> {
        let has = |volume: &VolumeId| devices.iter().any(|device| device.id.as_str() == volume.to_string());
        self.volumes().extract_if(.., |volume, _| !has(volume)).map(|(volume, _)| volume).collect()
    }

    /// All volumes that it was ever given.
    ///
    /// # Errors
    /// When the folder does not tell.
    pub(super) fn all_volumes(&self, spec: Option<&MachineSpec>) -> anyhow::Result<BTreeSet<VolumeId>> {
        let mut volumes = self.folder.volumes()?;
        let kept = self.folder.spec()?;
        let spec = spec.or(kept.as_ref());
        volumes.extend(spec.into_iter().flat_map(|spec| &spec.volumes).map(|volume| volume.id));
        Ok(volumes)
    }

    /// Returns when it has ended.
    ///
    /// # Errors
    /// When that it is to be killed cannot be written down.
    pub(super) async fn kill(&self) -> Result<(), HostError> {
        if self.state() != Some(Machine::Running) {
            return Ok(());
        }
        // Before it is done, so that whoever finds it ended knows why.
        let noted = self.folder.note_kill();
        noted.map_err(|error| HostError::Failed(format!("cannot kill {}: {error}", self.id)))?;
        let process = self.process();
        process.iter().for_each(|process| process.kill());
        // The sender is this guest's own.
        let _ = self.state.subscribe().wait_for(|state| *state != Some(Machine::Running)).await;
        Ok(())
    }

    /// Ends the process of one that was not started.
    pub(super) async fn end_process(&self) {
        if let Some(process) = self.process().filter(|_| self.state().is_none()) {
            process.kill();
            process.ended().await;
        }
    }

    /// A conversation with the process, on a connection of its own and a thread that may block.
    ///
    /// # Errors
    /// When it does not answer, or says no.
    pub(super) async fn talk<T: Send + 'static>(
        &self,
        talk: impl FnOnce(Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, HostError> {
        self.try_talk(talk)
            .await
            .map_err(|error| failed(&anyhow!(error).context(format!("the microVM of {}", self.id))))
    }

    pub(super) async fn try_talk<T: Send + 'static>(
        &self,
        talk: impl FnOnce(Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let control = self.folder.control();
        let talked = spawn_blocking(move || {
            let stream = socket::connect(&control)
                .map_err(|source| ClientError::Socket { operation: "connect to", source })?;
            Client::over(stream).and_then(talk)
        });
        talked.await.unwrap_or_else(|panic| {
            Err(ClientError::Socket { operation: "talk to", source: io::Error::other(panic) })
        })
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_process(&self, process: Arc<Process>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }
}

/// A process that waits to be told what it is to be, and the devices of its interfaces.
struct Prepared {
    child: Child,
    process: Arc<Process>,
    socket: UnixStream,
    provisions: Getting,
    /// Of each interface.
    queues: Vec<Vec<OwnedFd>>,
}

/// A process that was told what it is to be.
struct Begun {
    child: Child,
    process: Arc<Process>,
    /// Has a byte when the guest runs, or ends without one.
    started: pipe::Receiver,
}

impl Machines {
    /// Starts a microVM, of which there is nothing yet.
    pub(super) async fn bring_up(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        spec: &MachineSpec,
    ) -> Result<(), HostError> {
        let begun = guest.folder.begin(spec).context("cannot write down what the microVM is");
        begun.map_err(|error| failed(&error))?;
        let prepared = async {
            let prepare =
                |machines: &Self, folder: &Folder, spec: &MachineSpec| machines.prepare(folder, spec);
            let prepared = self.aside(guest, spec, prepare).await?;
            self.networks.in_force(spec.id, &spec.interfaces).await.map(|()| prepared)
        };
        // Whatever becomes of one of them, what the other makes is there to be undone.
        let (prepared, sockets) = tokio::join!(prepared, self.serve_volumes(guest, spec));
        let (prepared, sockets) = (prepared?, sockets?);
        let begin =
            move |_: &Self, folder: &Folder, spec: &MachineSpec| begin(folder, spec, prepared, &sockets);
        let begun = self.aside(guest, spec, begin).await?;
        *guest.interfaces() = Some(spec.interfaces.iter().map(|interface| interface.id).collect());
        self.see_it_start(guest, begun).await.map_err(|error| failed(&error))
    }

    /// Does on a thread what may block.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        guest: &Guest,
        spec: &MachineSpec,
        work: impl FnOnce(&Self, &Folder, &MachineSpec) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, HostError> {
        let (machines, folder, spec) = (Arc::clone(self), guest.folder.clone(), spec.clone());
        let handle = Handle::current();
        let done = spawn_blocking(move || {
            let _runtime = handle.enter();
            work(&machines, &folder, &spec)
        });
        done.await.map_err(|panic| failed(&anyhow!(panic)))?.map_err(|error| failed(&error))
    }

    /// Has each volume served, and says where.
    async fn serve_volumes(
        &self,
        guest: &Guest,
        spec: &MachineSpec,
    ) -> Result<Vec<(VolumeId, PathBuf)>, HostError> {
        let mut sockets = Vec::new();
        for volume in &spec.volumes {
            guest.volumes().insert(volume.id, None);
            let socket = self.storage.serve(volume.id, spec.id).await?;
            guest.volumes().insert(volume.id, Some(socket.clone()));
            sockets.push((volume.id, socket));
        }
        Ok(sockets)
    }

    /// Makes the process and the devices of its interfaces.
    fn prepare(&self, folder: &Folder, spec: &MachineSpec) -> anyhow::Result<Prepared> {
        let provisions = Provisions::get()?;
        let (child, process, socket) = self.spawn(folder)?;
        cgroup::put(spec.id, child.id().unwrap_or_default(), spec.vcpus, spec.memory);
        let queues = self.networks.plug(spec)?;
        Ok(Prepared { child, process, socket, provisions, queues })
    }

    /// Starts the process and writes down which it is, before it is told what to do: without that it ends.
    fn spawn(&self, folder: &Folder) -> anyhow::Result<(Child, Arc<Process>, UnixStream)> {
        let messages: File = folder.messages().context("cannot make a file for messages")?;
        let command = microvm::command(&self.program, true);
        let (mut command, socket) = command.context("cannot make a pair of sockets")?;
        command.stderr(messages);
        let child = tokio::process::Command::from(command).spawn();
        let child = child.context("cannot start the microVM's process")?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("its process ended at once")?;
        let pid = Pid::from_raw(pid);
        let process = Arc::new(Process::open(pid).context("cannot watch its process")?);
        let name = ProcessName::of(pid).context("cannot tell its process from others")?;
        folder.name_process(&name).context("cannot write down which process it is")?;
        Ok((child, process, socket))
    }

    async fn see_it_start(self: &Arc<Self>, guest: &Arc<Guest>, begun: Begun) -> anyhow::Result<()> {
        let Begun { mut child, process, mut started } = begun;
        guest.set_process(Arc::clone(&process));
        let is_running = started.read(&mut [0]).await.context("cannot wait for the guest's start")? > 0;
        if !is_running {
            let status = child.wait().await.context("cannot wait for the microVM's process")?;
            return Err(anyhow!("{}", why_not_started(&guest.folder, &microvm::exit(status))));
        }
        guest.folder.note_start().context("cannot write down that the guest runs")?;
        self.live(guest, process, Some(child));
        Ok(())
    }

    /// From now on it runs, until its process ends.
    fn live(self: &Arc<Self>, guest: &Arc<Guest>, process: Arc<Process>, child: Option<Child>) {
        guest.state.send_replace(Some(Machine::Running));
        let follower = super::plug::Follower::new(self, guest);
        if let Err(error) = reconnect::start(guest.folder.control(), follower) {
            tracing::warn!(id = %guest.id, "servers of its disks are not replaced: {error:#}");
        }
        tokio::spawn(Arc::clone(self).see_it_end(Arc::clone(guest), process, child));
    }

    async fn see_it_end(self: Arc<Self>, guest: Arc<Guest>, process: Arc<Process>, child: Option<Child>) {
        let exit = match child {
            Some(mut child) => child.wait().await.ok().map(microvm::exit),
            None => {
                process.ended().await;
                None
            }
        };
        let end = guest.folder.end(exit.as_ref());
        tracing::info!(id = %guest.id, ?end, "a microVM has ended");
        guest.state.send_replace(ended(end));
        self.tell(guest.id);
    }

    /// Takes over what an earlier process has left of a microVM.
    ///
    /// # Errors
    /// When its folder cannot be read.
    pub(super) fn adopt(self: &Arc<Self>, id: InstanceId) -> anyhow::Result<()> {
        let guest = self.guest_or_new(id);
        let (spec, named) = (guest.folder.spec()?, guest.folder.process()?);
        let process = named.as_ref().and_then(find);
        match (spec, process) {
            (Some(spec), Some(process)) if guest.folder.has_started() => {
                self.resume(guest, spec, process)?;
            }
            (Some(_), None) if guest.folder.has_started() => {
                let end = guest.folder.end(None);
                guest.state.send_replace(ended(end));
            }
            (_, process) => self.give_up(guest, process),
        }
        Ok(())
    }

    /// It has run all the time.
    fn resume(
        self: &Arc<Self>,
        guest: Arc<Guest>,
        mut spec: MachineSpec,
        process: Arc<Process>,
    ) -> anyhow::Result<()> {
        // Until the process says which it still has.
        let volumes = guest.all_volumes(Some(&spec))?;
        volumes.iter().for_each(|volume| self.storage.claim(*volume, guest.id));
        guest.volumes().extend(volumes.iter().map(|volume| (*volume, None)));
        guest.folder.interfaces()?.into_iter().for_each(|interface| spec.put_interface(interface));
        guest.set_process(Arc::clone(&process));
        // Whoever forgets it waits for this.
        let turn = Arc::clone(&guest.turn).try_lock_owned().context("somebody else works on it")?;
        self.live(&guest, process, None);
        let machines = Arc::clone(self);
        tokio::spawn(async move {
            let networks = machines.networks();
            match spawn_blocking(move || networks.take_up(&spec)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(id = %guest.id, "nobody answers in its network: {error:#}"),
                Err(panic) => tracing::error!(id = %guest.id, "nobody answers in its network: {panic}"),
            }
            machines.serve_again(&guest).await;
            // Who forgets it has nothing served to it afterwards.
            drop(turn);
        });
        Ok(())
    }

    /// Sees to it that all volumes that it has are served, whoever did so before.
    async fn serve_again(&self, guest: &Guest) {
        match guest.talk(|mut client| client.get::<Devices>("/v1/devices")).await {
            Ok(found) => {
                self.release(guest.id, guest.keep(&found.devices), &Handle::current());
                self.keep_interfaces(guest, &found.devices).await;
            }
            Err(error) => tracing::warn!(id = %guest.id, "{error}"),
        }
        let volumes: Vec<_> = guest.volumes().keys().copied().collect();
        for volume in volumes {
            match self.storage.serve(volume, guest.id).await {
                Ok(socket) => {
                    guest.volumes().entry(volume).and_modify(|known| *known = Some(socket));
                }
                Err(error) => tracing::warn!(id = %guest.id, %volume, "{error}"),
            }
        }
    }

    /// It never got so far that anybody was told: it is as if nothing had been begun.
    fn give_up(self: &Arc<Self>, guest: Arc<Guest>, process: Option<Arc<Process>>) {
        let machines = Arc::clone(self);
        // Whoever starts it waits for this.
        let Ok(turn) = Arc::clone(&guest.turn).try_lock_owned() else { return };
        if let Some(process) = process {
            guest.set_process(process);
        }
        tokio::spawn(async move {
            machines.undo(&guest, None).await;
            machines.guests().remove(&guest.id);
            drop(turn);
        });
    }
}

/// The process of this name, if it runs. It is looked at between two looks, so it is that one and no other.
fn find(name: &ProcessName) -> Option<Arc<Process>> {
    let process = Process::open(name.pid()).ok()?;
    (ProcessName::of(name.pid()).ok()? == *name).then(|| Arc::new(process))
}

/// Tells the process what it is to be.
fn begin(
    folder: &Folder,
    spec: &MachineSpec,
    prepared: Prepared,
    sockets: &[(VolumeId, PathBuf)],
) -> anyhow::Result<Begun> {
    let Prepared { child, process, socket, provisions, queues } = prepared;
    let mut handed = Handed::default();
    // The path stays as long as the folder does.
    let (control, listener) = SocketPath::listen(&folder.control(), "the control socket")?;
    control.leave();
    let (started, tell_started) = io::pipe().context("cannot make a pipe")?;
    let started = pipe::Receiver::from_owned_fd(started.into()).context("cannot watch a pipe")?;
    let disks = sockets.iter().zip(0..).map(|((id, socket), place)| disk(*id, socket, place, &mut handed));
    let disks = disks.collect::<anyhow::Result<Vec<_>>>()?;
    let interfaces = spec.interfaces.iter().zip(queues).map(|(interface, queues)| InterfaceSpec {
        id: interface.id.to_string(),
        mac: interface.mac,
        mtu: fabric::MTU,
        queues: queues.into_iter().map(|queue| handed.hand(queue)).collect(),
        is_removable: interface.device_index > 0,
    });
    let interfaces = interfaces.collect();
    let Provisions { nowhere, cpuid } = provisions.wait()?;
    let process_spec = ProcessSpec {
        cpus: spec.vcpus,
        cpuid,
        memory: spec.memory,
        shares_memory: true,
        instance: spec.id,
        instance_type: spec.instance_type.clone(),
        boot: BootSpec::Disk { command_line: None },
        disks,
        interfaces,
        vsock: None,
        network: nowhere.map(|namespace| handed.hand(namespace)),
        viewer: None,
        console_log: Some(handed.hand(folder.console_log().context("cannot make a file for the console")?)),
        control: handed.hand(listener),
        started: handed.hand(tell_started),
        report: Some(handed.hand(folder.report().context("cannot make a file for the end")?)),
        has_lifeline: false,
    };
    handover::tell(&socket, &process_spec, &handed)
        .context("cannot tell the microVM's process what it is")?;
    Ok(Begun { child, process, started })
}

/// Connects to who serves a volume.
fn disk(
    id: VolumeId,
    path: &std::path::Path,
    place: usize,
    handed: &mut Handed,
) -> anyhow::Result<NamedDisk> {
    let stream = socket::connect(path).with_context(|| format!("nobody serves the volume {id}"))?;
    let disk = DiskSpec::VhostUser { socket: handed.hand(stream), reconnect_ms: reconnect::TIME_MS };
    // It cannot do without the one that it has booted from.
    Ok(NamedDisk { id: id.to_string(), disk, is_removable: place > 0 })
}

fn why_not_started(folder: &Folder, exit: &Exit) -> String {
    match folder.end(Some(exit)) {
        control::ports::End::Failed(why) => why,
        other => format!("its process ended before the guest ran: {other:?}"),
    }
}
