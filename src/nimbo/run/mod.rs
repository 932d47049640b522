//! `nimbo run`: one guest in the foreground, without a cloud.
//!
//! ```text
//! nimbo run ──┬─ threads: DHCP, DNS, metadata, published ports        (network.rs)
//!             ├─ the terminal                                         (console.rs, terminal.rs)
//!             ├─ what the guest reaches by vsock                      (vsock.rs)
//!             ├─ other servers for disks whose own have ended         (microvm::reconnect)
//!             └─ nimbo vmm, a process: CPUs, memory, devices          (machine.rs)
//!                   ▲ a pidfd tells its end; it dies with this one
//! ```
//!
//! What has to be cleaned up hangs on this process: the temporary layer and the control socket's folder have their own
//! drops, the network is the kernel's to remove when the last descriptor closes. So a SIGKILL leaves nothing that
//! matters behind.

mod args;
pub(crate) mod console;
mod disks;
pub(crate) mod lab;
mod machine;
mod network;
pub(crate) mod terminal;
mod vsock;

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;
use types::{InstanceId, RandomId as _};

pub(crate) use args::Args;

use crate::cache;
use crate::doctor::{self, Kvm};
use crate::signals::StopSignals;
use console::Console;
use machine::{Begun, End, Machine};
use network::Network;
use terminal::{RawMode, say};

/// How long a guest may take to power off once it was asked. A stock systemd gives its services 90 s.
const POWER_OFF_TIME: Duration = Duration::from_secs(120);
/// How long the last of the console's output may take to arrive from a process that has ended.
const LAST_OUTPUT_TIME: Duration = Duration::from_secs(2);
/// The guest did not end by itself.
const ENDED: u8 = 3;

/// Runs the guest to its end, here or in the lab.
pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let image = args.image.as_deref().map(cache::raw_image).transpose()?;
    if args.here || lab::is_here() {
        doctor::open_kvm()?;
    } else {
        match doctor::try_kvm() {
            Kvm::Hardware => {}
            Kvm::Forbidden(why) => bail!(why),
            Kvm::Unusable(why) => return Err(lab::run(args, image.as_deref(), &why)),
        }
    }
    // The main thread drives everything and starts the microVM's process, which dies when that thread does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let outcome = runtime.block_on(run(args, image.as_deref()));
    // A read of the terminal may be under way, and would be waited for.
    runtime.shutdown_background();
    outcome
}

async fn run(args: &Args, image: Option<&Path>) -> anyhow::Result<ExitCode> {
    let begun = Begun::begin()?;
    let mut signals = StopSignals::catch()?;
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let instance = InstanceId::generate(&mut random)?;
    let mut network = if args.no_network { None } else { Some(Network::start(args, instance)?) };
    let (mut machine, console) = Machine::start(begun, args, image, instance, network.as_mut())?;
    let console = Console::attach(console)?;
    // Until the guest runs, the terminal is the user's: errors are printed as usual, and Ctrl-C is a signal.
    let is_running = tokio::select! {
        started = machine.has_started() => started?,
        () = signals.next() => {
            // There is nobody yet who could be asked.
            machine.kill();
            false
        }
    };
    if is_running {
        for line in network.iter().flat_map(Network::announcements) {
            say(&line);
        }
    }
    let end = accompany(&mut machine, console, is_running, &mut signals).await?;
    machine.finish().await?;
    Ok(report(&end))
}

/// Lends a guest that runs the terminal, and stays until its end.
async fn accompany(
    machine: &mut Machine,
    mut console: Console,
    is_running: bool,
    signals: &mut StopSignals,
) -> anyhow::Result<End> {
    let raw_mode = match is_running {
        true => RawMode::enter().context("cannot set up the terminal")?,
        false => None,
    };
    if raw_mode.is_some() {
        say("keys go to the guest; press Ctrl-] to power it off, twice to end it");
    }
    if is_running {
        console.type_in(raw_mode.is_some())?;
    }
    let end = attend(machine, &mut console, signals).await?;
    match tokio::time::timeout(LAST_OUTPUT_TIME, console.finish()).await {
        Ok(printed) => printed?,
        Err(_) => say("the last of the guest's output may be missing"),
    }
    Ok(end)
}

/// Where the end of the guest stands.
#[derive(Debug, Clone, Copy)]
enum Stop {
    NotAsked,
    /// The power button was pressed.
    Asked {
        until: Instant,
    },
    Killed,
}

/// Waits for the guest's end, and hurries it when the user asks: once politely, then not.
async fn attend(
    machine: &mut Machine,
    console: &mut Console,
    signals: &mut StopSignals,
) -> anyhow::Result<End> {
    let mut stop = Stop::NotAsked;
    loop {
        let deadline = match stop {
            Stop::Asked { until } => Some(until),
            Stop::NotAsked | Stop::Killed => None,
        };
        tokio::select! {
            end = machine.wait() => return end,
            () = signals.next() => {}
            () = console.escape() => {}
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
        }
        stop = match stop {
            Stop::NotAsked => {
                say("pressing the guest's power button");
                if let Err(error) = machine.press_power_button().await {
                    say(&format!("that failed: {error:#}"));
                }
                Stop::Asked { until: Instant::now() + POWER_OFF_TIME }
            }
            Stop::Asked { .. } => {
                say("ending the guest");
                machine.kill();
                Stop::Killed
            }
            Stop::Killed => Stop::Killed,
        };
    }
}

fn report(end: &End) -> ExitCode {
    match end {
        End::PoweredOff => {
            say("the guest powered off");
            ExitCode::SUCCESS
        }
        // What was wrong was printed by the process that met it.
        End::Failed => ExitCode::FAILURE,
        End::Crashed => ExitCode::from(ENDED),
        End::Killed => {
            say("the guest was ended");
            ExitCode::from(ENDED)
        }
        End::Died(why) => {
            say(&format!("the microVM's process died: {why}"));
            ExitCode::from(ENDED)
        }
    }
}
