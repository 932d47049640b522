//! `nimbo-init cloud`: what cloud-init does, once for each boot, in a process of its own.
//!
//! It waits for `net` to say that the network is up (a line on standard input), asks the metadata service, and works
//! through [`steps`]. When users and host keys are there it tells pid 1 that services may start (a line on standard
//! output). All output, its own and that of every program it starts, goes to the console and to the log.

mod output;
mod steps;

use std::fs::File;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::console::{self, say};
use crate::fstab;
use crate::imds::{self, Metadata};
use crate::userdata::instance::Instance;
use crate::{grow, ssh};
use output::Output;

/// How long to wait for a metadata service, with a network.
const METADATA_WAIT: Duration = Duration::from_secs(20);

/// Runs through all steps.
///
/// # Errors
/// If any of them failed; each has said so already.
pub fn run() -> Result<()> {
    let progress = std::io::stdout().as_fd().try_clone_to_owned().context("keep the pipe to pid 1")?;
    let output = Output::start(Path::new("/var/log/cloud-init-output.log"))?;
    let machine = Live { progress: progress.into() };
    let has_network = wait_for_network();
    let failures = match learn(has_network) {
        Some((instance, metadata)) => steps::run(Path::new("/"), &instance, &metadata, &machine),
        None => steps::run_without_instance(&machine),
    };
    console::ready();
    drop(machine);
    output.finish();
    match failures {
        0 => Ok(()),
        failures => anyhow::bail!("{failures} steps of the first boot failed"),
    }
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
