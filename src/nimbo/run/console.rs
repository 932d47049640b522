//! The guest's console on this process's standard input and output.
//!
//! ```text
//! stdin ──thread──▶ keys ──┬──thread──▶ console stream ──▶ guest
//!                          └─▶ escapes ──▶ the command
//! stdout ◀─────────────────────thread── console stream ◀── guest
//! ```
//!
//! Threads that block, because a terminal that is set to non-blocking stays so for the shell that it is shared with. They end
//! with the process.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

/// Ctrl-], as telnet and others use it.
const ESCAPE: u8 = 0x1d;
/// Key presses that may wait for a guest that does not read.
const WAITING_MAX: usize = 64;
const CHUNK_BYTES: usize = 4096;

/// What a piece of input is.
#[derive(Debug, PartialEq, Eq)]
enum Keys<'a> {
    Text(&'a [u8]),
    Escape,
}

/// The input in order. Only a terminal has an escape key: a stream may carry any byte.
fn keys(input: &[u8], has_escape: bool) -> Vec<Keys<'_>> {
    if !has_escape {
        return vec![Keys::Text(input)];
    }
    let mut found = Vec::new();
    for (index, text) in input.split(|&byte| byte == ESCAPE).enumerate() {
        if index > 0 {
            found.push(Keys::Escape);
        }
        if !text.is_empty() {
            found.push(Keys::Text(text));
        }
    }
    found
}

/// The console, attached.
#[derive(Debug)]
pub(crate) struct Console {
    stream: UnixStream,
    output: oneshot::Receiver<io::Result<()>>,
    escape: mpsc::Sender<()>,
    escapes: mpsc::Receiver<()>,
}

impl Console {
    /// Prints on standard output what the guest says from now on.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn attach(stream: UnixStream) -> anyhow::Result<Self> {
        let guest = stream.try_clone().context("cannot set up the console's stream")?;
        let (ended, output) = oneshot::channel();
        let (escape, escapes) = mpsc::channel(WAITING_MAX);
        // Nobody is told who does not wait for it.
        start("stdout", move || _ = ended.send(carry_output(guest)))?;
        Ok(Self { stream, output, escape, escapes })
    }

    /// Passes standard input on to the guest from now on. `has_escape` when it is a terminal in raw mode.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn type_in(&self, has_escape: bool) -> anyhow::Result<()> {
        let guest = self.stream.try_clone().context("cannot set up the console's stream")?;
        let (text, typed) = sync_channel(WAITING_MAX);
        let escape = self.escape.clone();
        start("keys", move || carry_input(&typed, guest))?;
        start("stdin", move || read_keys(has_escape, &text, &escape))
    }

    /// Returns when the escape key was pressed.
    pub(crate) async fn escape(&mut self) {
        // There is always one more who could send: this.
        self.escapes.recv().await;
    }

    /// Stays until the escape key is pressed, or the guest's side is closed and all is printed: says whether it was the key.
    ///
    /// # Errors
    /// When standard output refuses.
    pub(crate) async fn stay(mut self) -> anyhow::Result<bool> {
        tokio::select! {
            Some(()) = self.escapes.recv() => Ok(true),
            printed = &mut self.output => outcome(printed).map(|()| false),
        }
    }

    /// Waits until all that the guest has printed is printed here. The other side must have closed, or this never
    /// returns.
    ///
    /// # Errors
    /// When standard output refuses.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        outcome(self.output.await)
    }
}

fn outcome(printed: Result<io::Result<()>, oneshot::error::RecvError>) -> anyhow::Result<()> {
    printed.context("the console's output failed")?.context("cannot print the console's output")
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).context("cannot start a thread for the console")
}

fn read_keys(has_escape: bool, text: &SyncSender<Vec<u8>>, escape: &mpsc::Sender<()>) {
    let mut input = [0; CHUNK_BYTES];
    let mut stdin = io::stdin().lock();
    loop {
        let length = match stdin.read(&mut input) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot read standard input; the guest gets no more of it");
                return;
            }
        };
        for keys in keys(&input[..length], has_escape) {
            let sent = match keys {
                Keys::Escape => escape.blocking_send(()).is_ok(),
                Keys::Text(bytes) if has_escape => {
                    // A guest that does not read must not keep the escape key from being seen.
                    !matches!(text.try_send(bytes.to_vec()), Err(TrySendError::Disconnected(_)))
                }
                Keys::Text(bytes) => text.send(bytes.to_vec()).is_ok(),
            };
            if !sent {
                return;
            }
        }
    }
}

/// Ends with the input, or with the guest.
fn carry_input(typed: &Receiver<Vec<u8>>, mut guest: UnixStream) {
    for bytes in typed {
        if guest.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn carry_output(mut guest: impl Read) -> io::Result<()> {
    let mut stdout = io::stdout();
    let mut bytes = [0; CHUNK_BYTES];
    loop {
        let length = match guest.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The other process died with unread input: that is its end, too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        stdout.write_all(&bytes[..length])?;
        stdout.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminals_escape_key_is_taken_out_and_the_rest_keeps_its_order() {
        assert_eq!(keys(b"ls\r", true), [Keys::Text(b"ls\r")]);
        assert_eq!(keys(b"a\x1db", true), [Keys::Text(b"a"), Keys::Escape, Keys::Text(b"b")]);
        assert_eq!(keys(b"\x1d\x1d", true), [Keys::Escape, Keys::Escape]);
    }

    #[test]
    fn a_stream_has_no_escape_key() {
        assert_eq!(keys(b"a\x1db", false), [Keys::Text(b"a\x1db")]);
    }
}
