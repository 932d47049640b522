//! The guest's console on this process's standard input and output.
//!
//! ```text
//! stdin ──thread──▶ keys ──┬─▶ console stream ──▶ guest
//!                          └─▶ escapes ──▶ the command
//! stdout ◀──────────────────── console stream ◀── guest
//! ```
//!
//! Standard input is read by a blocking thread, because a terminal that is set to non-blocking stays so for the shell
//! that it is shared with. The thread ends with the process.

use std::io::{self, Read as _};
use std::os::unix::net;
use std::thread;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

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
    output: JoinHandle<io::Result<()>>,
    escapes: mpsc::Receiver<()>,
}

impl Console {
    /// Attaches standard input and output to the guest. `has_escape` when they are a terminal in raw mode.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn attach(stream: net::UnixStream, has_escape: bool) -> anyhow::Result<Self> {
        let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        let (reader, writer) = stream.context("cannot set up the console's stream")?.into_split();
        let (escape, escapes) = mpsc::channel(WAITING_MAX);
        let (text, typed) = mpsc::channel(WAITING_MAX);
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_keys(has_escape, &text, &escape))
            .context("cannot start a thread for the console")?;
        tokio::spawn(carry_input(typed, writer));
        Ok(Self { output: tokio::spawn(carry_output(reader)), escapes })
    }

    /// Returns when the escape key was pressed.
    pub(crate) async fn escape(&mut self) {
        if self.escapes.recv().await.is_none() {
            // Input has ended: there will be no more keys.
            std::future::pending().await
        }
    }

    /// Stays until the escape key is pressed, or the guest's side is closed and all is printed: says whether it was the key.
    ///
    /// # Errors
    /// When standard output refuses.
    pub(crate) async fn stay(mut self) -> anyhow::Result<bool> {
        tokio::select! {
            Some(()) = self.escapes.recv() => Ok(true),
            printed = &mut self.output => {
                printed.context("the console's output failed")?.context("cannot print the console's output")?;
                Ok(false)
            }
        }
    }

    /// Waits until all that the guest has printed is printed here. The other side must have closed, or this never
    /// returns.
    ///
    /// # Errors
    /// When standard output refuses.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.output.await.context("the console's output failed")?.context("cannot print the console's output")
    }
}

fn read_keys(has_escape: bool, text: &mpsc::Sender<Vec<u8>>, escape: &mpsc::Sender<()>) {
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
                    !matches!(text.try_send(bytes.to_vec()), Err(mpsc::error::TrySendError::Closed(_)))
                }
                Keys::Text(bytes) => text.blocking_send(bytes.to_vec()).is_ok(),
            };
            if !sent {
                return;
            }
        }
    }
}

/// Ends with the input, or with the guest.
async fn carry_input(mut typed: mpsc::Receiver<Vec<u8>>, mut guest: OwnedWriteHalf) {
    while let Some(bytes) = typed.recv().await {
        if guest.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // Dropping the half would say that the viewer leaves, and it still reads.
    guest.forget();
}

async fn carry_output(mut guest: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut stdout = tokio::io::stdout();
    let mut bytes = [0; CHUNK_BYTES];
    loop {
        let length = match guest.read(&mut bytes).await {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // The other process died with unread input: that is its end, too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        stdout.write_all(&bytes[..length]).await?;
        stdout.flush().await?;
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
