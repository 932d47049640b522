//! `nimbo-init console`: a shell on the console, once somebody presses Enter there. Until then nothing but
//! this small process waits, and no prompt stands between the lines of a boot.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::console::say;
use crate::{services, sys};

/// The terminal that `/dev/console` stands for: the last one that the kernel was told of.
pub fn path() -> Option<PathBuf> {
    let active = fs::read_to_string("/sys/class/tty/console/active").ok()?;
    let path = PathBuf::from("/dev").join(active.split_whitespace().last()?);
    path.exists().then_some(path)
}

/// Ends by becoming the shell. The process has to be the leader of a session without a terminal.
///
/// # Errors
/// If there is no terminal, or no shell.
pub fn run() -> Result<()> {
    let path = path().context("the kernel has no console: give it one, such as console=ttyS0")?;
    let open = || File::options().read(true).write(true).open(&path);
    let mut terminal = open().with_context(|| format!("open {}", path.display()))?;
    // /dev/console itself can be nobody's controlling terminal, and without one ctrl-C does nothing.
    sys::take_terminal(&terminal).with_context(|| format!("take {}", path.display()))?;
    dup2_stdin(&terminal)?;
    dup2_stdout(&terminal)?;
    dup2_stderr(&terminal)?;
    say!("press Enter for a shell on {}", path.display());
    let mut key = [0];
    while key != *b"\n" {
        terminal.read_exact(&mut key).with_context(|| format!("read {}", path.display()))?;
    }
    let mut shell = services::program("/bin/sh");
    let term = std::env::var_os("TERM").unwrap_or_else(|| "vt102".into());
    Err(shell.arg0("-sh").current_dir("/").env("TERM", term).exec()).context("execute /bin/sh")
}
