//! Signals that ask a command to end, for commands without an event loop.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

/// What a shell says of a process that SIGINT ended.
const STATUS_WHEN_INTERRUPTED: i32 = 130;

/// SIGINT, SIGTERM and SIGHUP, which from now on wait until somebody takes them.
#[derive(Debug)]
pub(crate) struct StopSignals(SigSet);

impl StopSignals {
    /// To be called before any thread is started, for threads inherit it.
    ///
    /// # Errors
    /// What pthread_sigmask(3) says.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("cannot catch signals")?;
        Ok(Self(signals))
    }

    /// Returns at the next one.
    ///
    /// # Errors
    /// What sigwait(3) says.
    pub(crate) fn wait(&self) -> anyhow::Result<()> {
        self.0.wait().context("cannot wait for signals")?;
        Ok(())
    }

    /// A flag that the first one raises; the second ends the process at once.
    ///
    /// # Errors
    /// When there can be no thread to wait.
    pub(crate) fn into_flag(self) -> anyhow::Result<StopFlag> {
        let flag = StopFlag(Arc::new(AtomicBool::new(false)));
        let raised = Arc::clone(&flag.0);
        let wait = move || {
            if self.wait().is_ok() {
                raised.store(true, Ordering::Relaxed);
                if self.wait().is_ok() {
                    process::exit(STATUS_WHEN_INTERRUPTED);
                }
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start a thread")?;
        Ok(flag)
    }
}

/// Whether the command was asked to end.
#[derive(Debug)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub(crate) fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
