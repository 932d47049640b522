//! The user's terminal, lent to the guest.
//!
//! While a [`RawMode`] lives, keys go to the guest as they are, Ctrl-C among them, and what the guest prints appears
//! as it is. However the process ends short of a SIGKILL, the terminal is put back: by the value's drop, or by a
//! panic hook, which also runs where a panic aborts.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{self, SetArg, Termios};
use nix::unistd::{getpgrp, tcgetpgrp};

/// The settings to put back; `Some` while the terminal is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Whether standard input is a terminal whose keys are ours. A job in the background would be stopped by touching it.
fn is_ours() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && tcgetpgrp(&stdin) == Ok(getpgrp())
}

/// The terminal on standard input is raw for as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// `None` when standard input is no terminal of [ours](is_ours).
    ///
    /// # Errors
    /// What tcsetattr(3) says.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        static HOOK: Once = Once::new();
        let stdin = io::stdin();
        if !is_ours() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                report(panic);
            }));
        });
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        IS_RAW.store(true, Ordering::Relaxed);
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        IS_RAW.store(false, Ordering::Relaxed);
        // Nothing more can be done where this fails: the terminal is gone.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Prints a line of our own on standard error, between what the guest prints.
pub(crate) fn say(message: &str) {
    relay(&format!("nimbo: {message}"));
}

/// Prints a line of another process on standard error.
pub(super) fn relay(line: &str) {
    // A raw terminal does not return to the first column by itself.
    let end = if IS_RAW.load(Ordering::Relaxed) { "\r\n" } else { "\n" };
    eprint!("{line}{end}");
}
