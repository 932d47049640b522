//! `nimbo down`: ends what `nimbo serve` has left running on this machine, and gives back what it changed of it.
//!
//! ```text
//! the server is ended: its state folder is this process's
//!   ▼
//! records: whatever runs is to stop ──▶ reconciler: guests power off, volumes are flushed
//!   ▼
//! microVMs that no record speaks of, networks, processes of volumes that are still at something
//!   ▼
//! the host's network is as it was; the files in RUN are gone
//! ```
//!
//! Every step can be taken again: whoever is killed in between has only to be started once more.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use control::capacity::Overcommit;
use control::ledger::Ledger;
use control::plane::Plane;
use control::power;
use control::reconcile::instance::InstanceReconciler;
use control::store::durable::OpenError;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use types::SystemClock;

use super::RUN_FOLDER;
use super::random::Kernel;
use super::state_folder::{self, StateFolder};
use crate::client::{PLACE_FILE, Place};
use crate::host::{Host, HostSpec, leftovers};
use crate::sys;

/// How long a server may take to end.
const SERVER_END_MAX: Duration = Duration::from_secs(30);
/// So many servers are ended one after the other; then somebody starts them.
const SERVERS_MAX: usize = 3;
/// How long guests may take beside their own time to power off.
const MARGIN: Duration = Duration::from_secs(60);
/// What still goes on beside then has no longer than this to come to an end.
const TASKS_END_MAX: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Instances are stopped, as if their owners had stopped them: what their volumes hold stays, and so do Elastic addresses; StateReason says
Server.ScheduledStop. After the next nimbo serve they are started by aws ec2 start-instances. Guests are asked to power off, and have two
minutes. A server that something else starts again, such as systemd, is to be stopped by that first.

Exit status:
  0  nothing of it runs, and the host is as it was
  1  something is left; a message tells what and why

Examples:
  nimbo down
  nimbo down --force
  nimbo down --state ~/nimbo --run ~/nimbo/run";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The state folder of the server
    #[arg(long, value_name = "FOLDER", default_value = state_folder::DEFAULT)]
    state: PathBuf,
    /// Where its instances have their sockets
    #[arg(long, value_name = "FOLDER", default_value = RUN_FOLDER)]
    run: PathBuf,
    /// End guests where they stand, as by a power cut
    #[arg(long)]
    force: bool,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("nimbo down ends what nimbo serve runs as root: become root");
    }
    // Where no server ever was, none is to be made.
    if args.state.join(state_folder::STORE).exists() || args.run.exists() {
        let folder = take_over(&args.state)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context("cannot start threads")?;
        let stopped = runtime.block_on(stop_all(&folder, args));
        runtime.shutdown_timeout(TASKS_END_MAX);
        stopped?;
        folder.forget_place()?;
    }
    crate::client::run(leftovers::remove(&args.run))?;
    println!("nothing runs any more");
    Ok(ExitCode::SUCCESS)
}

/// The state folder, after whoever has it has ended.
fn take_over(path: &Path) -> anyhow::Result<StateFolder> {
    let mut ended = 0;
    loop {
        let error = match StateFolder::open(path, false) {
            Ok(folder) => return Ok(folder),
            Err(error) => error,
        };
        let Some(pid) = holder(&error, path) else { return Err(error) };
        let process = match sys::open_process(pid) {
            Ok(process) => process,
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(error) => return Err(error).context("cannot watch the server"),
        };
        // Only now is it certain that the descriptor is the holder's, and not of a later process of its number.
        let is_still = StateFolder::open(path, false).is_err_and(|error| holder(&error, path) == Some(pid));
        if !is_still {
            continue;
        }
        if ended == SERVERS_MAX {
            bail!(
                "the server is started again whenever it is ended: stop who does that first, such as its systemd service"
            );
        }
        println!("ending the server, process {pid}");
        end(&process).with_context(|| format!("cannot end the server, process {pid}"))?;
        ended += 1;
    }
}

/// Who has the state folder, if that is why it cannot be opened.
fn holder(error: &anyhow::Error, folder: &Path) -> Option<Pid> {
    let found = error.chain().find_map(|cause| cause.downcast_ref::<OpenError>());
    let Some(OpenError::InUse { path, holder }) = found else { return None };
    let process = holder.0.or_else(|| announced(folder, path))?;
    i32::try_from(process).ok().map(Pid::from_raw)
}

/// The server that says that it is there, if it has the store open: the kernel's list of locks does not name files of all file systems as their
/// users know them.
fn announced(folder: &Path, store: &Path) -> Option<u32> {
    let text = fs::read(folder.join(PLACE_FILE)).ok()?;
    let Place { process, .. } = serde_json::from_slice(&text).ok()?;
    let mut open = fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
    open.any(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == store)).then_some(process)
}

/// What it has answered is durable, so that it loses nothing however it ends.
fn end(process: &OwnedFd) -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        match sys::signal_process(process.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            sent => sent?,
        }
        if has_ended(process, SERVER_END_MAX)? {
            return Ok(());
        }
    }
    Err(anyhow!("it does not even end by SIGKILL"))
}

fn has_ended(process: &OwnedFd, patience: Duration) -> anyhow::Result<bool> {
    let patience = PollTimeout::try_from(patience).context("cannot wait so long")?;
    let mut process = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut process, patience) {
            Err(Errno::EINTR) => {}
            count => return Ok(count? > 0),
        }
    }
}

/// Has all instances stop, as their records then say, and ends what is left.
async fn stop_all(folder: &StateFolder, args: &Args) -> anyhow::Result<()> {
    let ledger = Ledger::open(folder.store(), Arc::new(SystemClock), Box::new(Kernel::open()?)).await?;
    let host = Host::open_to_end(HostSpec::plain(folder.path(), &args.run))?;
    let plane = Plane::new(ledger, host.clone(), Overcommit::default());
    let stopping = power::stop_all(&plane, args.force).await;
    let stopping = stopping.map_err(|error| anyhow!("{}", error.message))?;
    if stopping > 0 {
        println!("stopping {stopping} instances");
    }
    // Nothing else is gone on with: disks and networks have nobody left whom they are for.
    let work = InstanceReconciler::new(Arc::clone(&plane), host.clone()).run();
    let grace = power::GRACE.unsigned_abs() + MARGIN;
    tokio::select! {
        stopped = work => stopped?,
        idle = power::idle(&plane) => idle?,
        () = tokio::time::sleep(grace) => {
            // Their records say that they are to stop, and the next server finds that they have.
            let left = power::busy(&plane).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            eprintln!("nimbo: these have not stopped within {} s, and are ended: {left}", grace.as_secs());
        }
    }
    host.end_all().await.context("cannot end all that runs")
}
