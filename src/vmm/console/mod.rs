//! The guest's serial console, as people see it: a ring of its output, any number of viewers, one who types.
//!
//! ```text
//!  vCPU ── ConsoleOutput::write ──▶ ring ◀── position ── viewer ──▶ stream
//!    ▲                               ▲ └──── position ── log file
//!    └── serial port ◀── input ──────┼─────────────────── the viewer that holds the input
//!                                    wake, only when somebody waits
//! ```
//!
//! The serial port writes from a vCPU's thread and never waits for a viewer: it copies its bytes into the ring and
//! is done. Everything else happens on the event loop's thread in [`Console::serve`]. Each viewer has its own
//! position in the ring. One that is too slow skips what the ring dropped and reads a notice of how much that was;
//! it delays neither the guest nor other viewers.
//!
//! While output flows the loop looks at the ring every [`PACE`], not at each byte: the first byte after a silence
//! goes out at once, and a guest that prints a byte at a time costs some hundred wake-ups a second, not
//! some hundred thousand.
//!
//! Input has no buffer here: bytes stay in the holder's stream until the serial port's FIFO has room.

mod log_file;
mod ring;
#[cfg(test)]
mod tests;
mod viewer;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

pub use log_file::LogFileSpec;
pub(crate) use ring::count;
pub use ring::{Ring, Span};

use crate::poll::{Event, Interest, Poller, Token};
use log_file::LogFile;
use viewer::{Gone, Viewer};
use watch::{borrow, drain};

/// How long the loop leaves the ring alone after it looked, while output flows.
pub const PACE: Duration = Duration::from_millis(4);
/// How many viewers may be attached at a time.
pub const VIEWERS_MAX: usize = 32;

const WAKE: Token = 0;
const TICK: Token = 1;
const DRAINED: Token = 2;
const FIRST_VIEWER: Token = 3;

/// The receiving side of the serial port. It signals the eventfd given with it whenever room appears.
pub trait SerialInput: Send + Sync {
    /// How many bytes [`SerialInput::push`] takes now.
    fn room(&self) -> usize;
    /// Gives `bytes`, at most [`SerialInput::room`], to the guest.
    fn push(&self, bytes: &[u8]);
}

/// What a console is made with.
#[derive(Debug)]
pub struct ConsoleSpec {
    /// How much output is kept.
    pub ring_bytes: usize,
    pub log_file: Option<LogFileSpec>,
}

impl Default for ConsoleSpec {
    fn default() -> Self {
        ConsoleSpec { ring_bytes: 1 << 20, log_file: None }
    }
}

/// Who attaches, and how.
#[derive(Debug, Default)]
pub struct ViewerSpec {
    /// Output from this offset on; `None` begins with what comes next.
    pub offset: Option<u64>,
    /// Wants to be the one who types.
    pub input: bool,
    /// Bytes to send before the first of the console's.
    pub preface: Vec<u8>,
    /// Bytes that were received from the viewer already.
    pub early_input: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("somebody else holds the console's input")]
    InputTaken,
    #[error("{VIEWERS_MAX} viewers are attached already, and no more are served")]
    TooMany,
    #[error("cannot watch the viewer's stream")]
    Watch { source: io::Error },
}

/// Where the serial port writes. Clones write to the same ring.
#[derive(Clone)]
pub struct ConsoleOutput {
    shared: Arc<Shared>,
}

struct Shared {
    log: Mutex<Log>,
    wake: EventFd,
}

struct Log {
    ring: Ring,
    /// Somebody has read all there is and waits for more.
    awaited: bool,
}

impl ConsoleOutput {
    /// Appends what the guest printed. Waits for nobody but a reader that copies a few pages.
    pub fn write(&self, bytes: &[u8]) {
        let mut log = self.lock();
        log.ring.append(bytes);
        let awaited = std::mem::take(&mut log.awaited);
        drop(log);
        if awaited {
            // The only error is a counter at its end: then the loop is woken already.
            let _ = self.shared.wake.write(1);
        }
    }

    /// Copies what is kept from `offset` on; see [`Ring::read`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Span {
        self.lock().ring.read(offset, into)
    }

    /// The offset of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.lock().ring.start()
    }

    /// The offset that the next byte gets: how much the guest has printed so far.
    pub fn end(&self) -> u64 {
        self.lock().ring.end()
    }

    /// Asks for a wake-up at the next write. False when there is something after `end` already.
    fn await_more(&self, end: u64) -> bool {
        let mut log = self.lock();
        log.awaited = log.ring.end() == end;
        log.awaited
    }

    /// A ring is whole between any two of its operations, so that a writer's panic leaves it usable.
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOutput").field("end", &self.end()).finish_non_exhaustive()
    }
}

/// The loop's side. It is one descriptor to its owner: readable when [`Console::serve`] has something to do.
pub struct Console {
    output: ConsoleOutput,
    poller: Poller,
    pace: TimerFd,
    viewers: BTreeMap<Token, Viewer>,
    next_viewer: Token,
    /// The viewer who types.
    holder: Option<Token>,
    serial: Option<Serial>,
    log_file: Option<LogFile>,
    /// All output before this was offered to everybody.
    offered: u64,
}

struct Serial {
    input: Arc<dyn SerialInput>,
    drained: EventFd,
}

impl Console {
    /// A console without viewers or input, and where the serial port writes.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn new(spec: ConsoleSpec) -> io::Result<(ConsoleOutput, Console)> {
        let log = Log { ring: Ring::new(spec.ring_bytes), awaited: spec.log_file.is_some() };
        let shared = Shared { log: Mutex::new(log), wake: EventFd::new(EFD_NONBLOCK)? };
        let pace = TimerFd::new()?;
        let poller = Poller::new()?;
        poller.watch(borrow(&shared.wake), WAKE, Interest::Read)?;
        poller.watch(borrow(&pace), TICK, Interest::Read)?;
        let output = ConsoleOutput { shared: Arc::new(shared) };
        let console = Console {
            output: output.clone(),
            poller,
            pace,
            viewers: BTreeMap::new(),
            next_viewer: FIRST_VIEWER,
            holder: None,
            serial: None,
            log_file: spec.log_file.map(LogFile::new),
            offered: 0,
        };
        Ok((output, console))
    }

    /// Connects what is typed with the serial port, which signals `drained` when room appears in its FIFO.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn connect_input(&mut self, input: Arc<dyn SerialInput>, drained: EventFd) -> io::Result<()> {
        self.poller.watch(borrow(&drained), DRAINED, Interest::Read)?;
        self.serial = Some(Serial { input, drained });
        Ok(())
    }

    pub fn output(&self) -> &ConsoleOutput {
        &self.output
    }

    /// Whether a viewer as `spec` wants it could attach now.
    ///
    /// # Errors
    /// [`AttachError`], except for [`AttachError::Watch`].
    pub fn admits(&self, spec: &ViewerSpec) -> Result<(), AttachError> {
        if spec.input && self.holder.is_some() {
            return Err(AttachError::InputTaken);
        }
        if self.viewers.len() >= VIEWERS_MAX {
            return Err(AttachError::TooMany);
        }
        Ok(())
    }

    /// Serves `stream` from now on, until either side closes it.
    ///
    /// # Errors
    /// [`AttachError`]; the stream is closed then.
    pub fn attach(&mut self, stream: UnixStream, spec: ViewerSpec) -> Result<(), AttachError> {
        self.admits(&spec)?;
        stream.set_nonblocking(true).map_err(|source| AttachError::Watch { source })?;
        let position = spec.offset.unwrap_or_else(|| self.output.end());
        let token = self.next_viewer;
        self.next_viewer += 1;
        if spec.input {
            self.holder = Some(token);
        }
        self.viewers.insert(token, Viewer::new(stream, position, spec.preface, spec.early_input));
        let begun = self.drive(token, |console, viewer| {
            viewer.send(&console.output)?;
            console.take_input(token, viewer)
        });
        begun.map_err(|source| AttachError::Watch { source })?;
        self.offer().map_err(|source| AttachError::Watch { source })
    }

    /// Does all there is to do now, without waiting.
    ///
    /// # Errors
    /// What the poller says; viewers that fail are let go.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut ready: Vec<Event> = Vec::new();
        self.poller.wait(&mut ready, Some(0))?;
        for event in ready {
            match event.token {
                WAKE => {
                    drain(&self.output.shared.wake);
                    self.offer()?;
                }
                TICK => {
                    // Only waits if the timer was set anew since the poller looked, and then for the pace at most.
                    self.pace.wait()?;
                    self.offer()?;
                }
                DRAINED => self.go_on_with_input()?,
                token => self.drive(token, |console, viewer| {
                    if event.is_readable() {
                        console.take_input(token, viewer)?;
                    }
                    viewer.send(&console.output)
                })?,
            }
        }
        Ok(())
    }

    /// Whether every viewer has been given all there is.
    pub fn is_caught_up(&self) -> bool {
        let end = self.output.end();
        self.viewers.values().all(|viewer| viewer.has_sent(end))
    }

    /// Brings everybody up to date, and comes back after [`PACE`] while there is more each time.
    fn offer(&mut self) -> io::Result<()> {
        if self.viewers.is_empty() && self.log_file.is_none() {
            return Ok(());
        }
        if self.output.await_more(self.offered) {
            return Ok(());
        }
        self.offered = self.output.end();
        self.write_log();
        let tokens: Vec<Token> = self.viewers.keys().copied().collect();
        for token in tokens {
            self.drive(token, |console, viewer| viewer.send(&console.output))?;
        }
        Ok(self.pace.reset(PACE, None)?)
    }

    /// Brings the log file up to date, which otherwise is only done every [`PACE`].
    pub fn write_log(&mut self) {
        if let Some(log) = &mut self.log_file
            && let Err(error) = log.catch_up(&self.output)
        {
            eprintln!("console: the log file ends here: {error}");
            self.log_file = None;
        }
    }

    fn go_on_with_input(&mut self) -> io::Result<()> {
        if let Some(serial) = &self.serial {
            drain(&serial.drained);
        }
        match self.holder {
            Some(token) => self.drive(token, |console, viewer| console.take_input(token, viewer)),
            None => Ok(()),
        }
    }

    fn take_input(&self, token: Token, viewer: &mut Viewer) -> Result<(), Gone> {
        match &self.serial {
            Some(serial) if self.holder == Some(token) => viewer.forward_input(&*serial.input),
            _ => viewer.discard_input(),
        }
    }

    /// Works on one viewer, and then waits for what it needs next or lets it go.
    fn drive(
        &mut self,
        token: Token,
        work: impl FnOnce(&Self, &mut Viewer) -> Result<(), Gone>,
    ) -> io::Result<()> {
        let Some(mut viewer) = self.viewers.remove(&token) else { return Ok(()) };
        if let Err(Gone) = work(self, &mut viewer) {
            if self.holder == Some(token) {
                self.holder = None;
            }
            return viewer.unwatch(&self.poller);
        }
        viewer.rewatch(&self.poller, token)?;
        self.viewers.insert(token, viewer);
        Ok(())
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the poller keeps its descriptor open for as long as the console is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.poller.as_raw_fd()) }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("output", &self.output)
            .field("viewers", &self.viewers.len())
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

fn loss_notice(bytes: u64) -> String {
    format!("\r\n[… {bytes} bytes lost …]\r\n")
}
