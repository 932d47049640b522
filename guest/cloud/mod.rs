//! `nimbo-init cloud`: what cloud-init does, once for each boot, in processes of its own.
//!
//! ```text
//! net ──"up"──▶ steps ──"serve"──▶ pid 1        steps and all that it starts ──output──▶ cloud ──▶ console, log
//! ```
//!
//! `steps` waits for `net` to say that the network is up (a line on its standard input), asks the metadata service, and
//! works through the [`steps`]. When users and host keys are there it tells pid 1 that services may start (a line on
//! its standard output). Its standard error, and all output of the programs it starts, goes to `cloud`.

mod output;
mod steps;

use std::fs::File;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::console::{self, say};
use crate::imds::{self, Metadata};
use crate::userdata::instance::Instance;
use crate::{fstab, grow, services, ssh};

const LOG: &str = "/var/log/cloud-init-output.log";
/// How long to wait for a metadata service, with a network.
const METADATA_WAIT: Duration = Duration::from_secs(20);

/// Starts the steps, and copies their output.
///
/// # Errors
/// If they could not be started, or did not end as they should.
pub fn run() -> Result<()> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let mut command = services::ourselves("steps");
    let mut child = command.stderr(writer).spawn().context("start nimbo-init steps")?;
    // Its end of the pipe, and our copy of the one to pid 1: each has to see the end of the other.
    drop(command);
    let null = File::options().write(true).open("/dev/null").context("open /dev/null")?;
    nix::unistd::dup2_stdout(&null).context("close the pipe to pid 1")?;
    output::copy(reader, Path::new(LOG));
    let status = child.wait().context("wait for nimbo-init steps")?;
    if !status.success() {
        bail!("user-data was not finished: nimbo-init steps ended with {status}");
    }
    Ok(())
}

/// Does all steps. What fails is said, and is no failure of this process.
///
/// # Errors
/// If not even the first step could be done.
pub fn run_steps() -> Result<()> {
    let progress = std::io::stdout().as_fd().try_clone_to_owned().context("keep the pipe to pid 1")?;
    nix::unistd::dup2_stdout(std::io::stderr()).context("redirect output")?;
    let machine = Live { progress: progress.into() };
    let has_network = wait_for_network();
    let failures = match learn(has_network) {
        Some((instance, metadata)) => steps::run(Path::new("/"), &instance, &metadata, &machine),
        None => steps::run_without_instance(&machine),
    };
    if failures > 0 {
        say!("{failures} steps of this boot failed");
    }
    console::ready();
    Ok(())
}

/// Whether `net` has found a network. It may also have ended, or given up.
fn wait_for_network() -> bool {
    let mut line = String::new();
    matches!(std::io::stdin().lock().read_line(&mut line), Ok(length) if length > 0) && line.trim() == "up"
}

/// Who we are: by the metadata service, or else by what the disk remembers.
fn learn(has_network: bool) -> Option<(Instance, Metadata)> {
    let wait = if has_network { METADATA_WAIT } else { Duration::ZERO };
    let root = Path::new("/");
    let failure = match imds::fetch(SocketAddr::from(imds::ADDRESS), wait) {
        Ok(metadata) => match Instance::enter(root, &metadata.instance_id) {
            Ok(instance) => return Some((instance, metadata)),
            Err(error) => error,
        },
        Err(error) => error,
    };
    say!("no metadata: {failure:#}");
    let (instance, user_data) = Instance::last(root)?;
    say!("going on as {}, from the disk", instance.id);
    let metadata = Metadata { instance_id: instance.id.clone(), user_data, ..Metadata::default() };
    Some((instance, metadata))
}

/// What the steps do to the machine beyond its files. Tests have another one.
trait Machine {
    fn set_hostname(&self, name: &str) -> Result<()>;
    fn grow_partition(&self) -> Result<()>;
    fn grow_file_system(&self) -> Result<()>;
    /// Mounts what fstab lists and is not mounted.
    fn mount_all(&self, kind: fstab::Kind);
    fn make_host_keys(&self) -> Result<()>;
    /// Lets services start.
    fn serve(&self);
}

/// The real one.
struct Live {
    progress: File,
}

impl Machine for Live {
    fn set_hostname(&self, name: &str) -> Result<()> {
        nix::unistd::sethostname(name).with_context(|| format!("set the host name {name}"))
    }

    fn grow_partition(&self) -> Result<()> {
        grow::partition()
    }

    fn grow_file_system(&self) -> Result<()> {
        grow::file_system()
    }

    fn mount_all(&self, kind: fstab::Kind) {
        fstab::mount_all(kind);
    }

    fn make_host_keys(&self) -> Result<()> {
        ssh::make_host_keys()
    }

    fn serve(&self) {
        // If pid 1 does not listen, it has started them already.
        let _ = (&self.progress).write_all(b"serve\n");
    }
}
