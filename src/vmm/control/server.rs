//! The control socket's side of the event loop.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use super::connection::{Closed, Connection, TimeOuts};
use super::events::EventLog;
use super::operations::Operations;
use super::response::{Refusal, Response};
use super::routes::{self, Answer, CONSOLE_PROTOCOL};
use crate::console::watch::{Watch, borrow, drain};
use crate::console::{Console, ViewerSpec};
use crate::poll::{Event, Interest, Poller, Token};

const LISTENER: Token = 0;
const DEADLINE: Token = 1;
const PUBLISHED: Token = 2;
const FIRST_CONNECTION: Token = 3;

/// How long no client is taken after the host had no descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the clients together may use.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// More are told to come again. Viewers of the console are counted there.
    pub connections_max: usize,
    pub time_outs: TimeOuts,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits { connections_max: 64, time_outs: TimeOuts::default() }
    }
}

/// Serves the control socket. It is one descriptor to its owner: readable when [`ControlServer::serve`] has something
/// to do.
pub struct ControlServer {
    listener: UnixListener,
    listening: Watch,
    /// When to take clients again, after the host had nothing for one.
    accept_again: Option<Instant>,
    poller: Poller,
    timer: TimerFd,
    armed: Option<Instant>,
    events: Arc<EventLog>,
    connections: BTreeMap<Token, Connection>,
    next_connection: Token,
    limits: ServerLimits,
}

impl ControlServer {
    /// Serves those who connect to `listener`; who may is decided by its path's permissions.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn new(listener: UnixListener, events: Arc<EventLog>, limits: ServerLimits) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let poller = Poller::new()?;
        let timer = TimerFd::new()?;
        poller.watch(borrow(&timer), DEADLINE, Interest::Read)?;
        poller.watch(borrow(events.published()), PUBLISHED, Interest::Read)?;
        let mut listening = Watch::default();
        listening.set(&poller, &listener, LISTENER, Some(Interest::Read))?;
        Ok(ControlServer {
            listener,
            listening,
            accept_again: None,
            poller,
            timer,
            armed: None,
            events,
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            limits,
        })
    }

    /// Does all there is to do now, without waiting.
    ///
    /// # Errors
    /// What the poller says; connections that fail are closed.
    pub fn serve(&mut self, operations: &mut dyn Operations, console: &mut Console) -> io::Result<()> {
        let mut ready: Vec<Event> = Vec::new();
        self.poller.wait(&mut ready, Some(0))?;
        for event in ready {
            match event.token {
                LISTENER => self.accept()?,
                DEADLINE => {
                    // Only waits if the timer was set anew since the poller looked, which this loop does not do.
                    self.timer.wait()?;
                    self.armed = None;
                    self.expire(operations, console)?;
                }
                PUBLISHED => {
                    drain(self.events.published());
                    self.tell_waiting(operations, console)?;
                }
                token => self.drive(token, operations, console, |connection| {
                    if event.is_readable() { connection.receive() } else { Ok(()) }
                })?,
            }
        }
        self.set_timer()
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream)?,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    // No descriptors, no memory: the client stays in the queue, and must not keep the loop busy.
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return self.listening.set(&self.poller, &self.listener, LISTENER, None);
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        if self.connections.len() >= self.limits.connections_max {
            let answer = Response::from(&Refusal::Busy).into_bytes(false, false);
            // A fresh socket takes a few hundred bytes, or its client is gone.
            let _ = stream.write(&answer);
            return Ok(());
        }
        let token = self.next_connection;
        self.next_connection += 1;
        let mut connection = Connection::new(stream, Instant::now(), &self.limits.time_outs);
        connection.rewatch(&self.poller, token)?;
        self.connections.insert(token, connection);
        Ok(())
    }

    /// Answers those whose event has come.
    fn tell_waiting(&mut self, operations: &mut dyn Operations, console: &mut Console) -> io::Result<()> {
        let waiting: Vec<(Token, u64)> = self
            .connections
            .iter()
            .filter_map(|(token, connection)| Some((*token, connection.awaits_event_after()?)))
            .collect();
        for (token, after) in waiting {
            let events = self.events.after(after);
            if !events.events.is_empty() {
                let response = Response::json(200, &events);
                self.drive(token, operations, console, |connection| {
                    connection.respond(response);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn expire(&mut self, operations: &mut dyn Operations, console: &mut Console) -> io::Result<()> {
        let now = Instant::now();
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.listening.set(&self.poller, &self.listener, LISTENER, Some(Interest::Read))?;
        }
        let late = self.connections.iter().filter(|(_, connection)| connection.deadline() <= now);
        let late: Vec<Token> = late.map(|(token, _)| *token).collect();
        for token in late {
            let events = self.events.clone();
            self.drive(token, operations, console, |connection| {
                let after = connection.awaits_event_after().unwrap_or(0);
                if connection.expire()? {
                    connection.respond(Response::json(200, &events.after(after)));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Does `first` and all that follows from it on one connection, and then waits for what it needs next or closes it.
    fn drive(
        &mut self,
        token: Token,
        operations: &mut dyn Operations,
        console: &mut Console,
        first: impl FnOnce(&mut Connection) -> Result<(), Closed>,
    ) -> io::Result<()> {
        let Some(mut connection) = self.connections.remove(&token) else { return Ok(()) };
        let mut outcome = first(&mut connection);
        let now = Instant::now();
        loop {
            let request = outcome.and_then(|()| connection.advance(now, &self.limits.time_outs));
            match request {
                Err(Closed) => return connection.unwatch(&self.poller),
                Ok(None) => break,
                Ok(Some(request)) => match routes::answer(request, operations, console) {
                    Answer::Respond(response) => connection.respond(response),
                    Answer::AwaitEvent { after, wait } => {
                        let events = self.events.after(after);
                        if events.events.is_empty() && !wait.is_zero() {
                            connection.await_event(after, now + wait);
                        } else {
                            connection.respond(Response::json(200, &events));
                        }
                    }
                    Answer::AttachConsole(spec) => return self.attach(connection, spec, console),
                },
            }
            outcome = Ok(());
        }
        connection.rewatch(&self.poller, token)?;
        self.connections.insert(token, connection);
        Ok(())
    }

    fn attach(&self, connection: Connection, spec: ViewerSpec, console: &mut Console) -> io::Result<()> {
        let (stream, early_input) = connection.into_stream(&self.poller)?;
        let preface = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {CONSOLE_PROTOCOL}\r\n\r\n"
        );
        let spec = ViewerSpec { preface: preface.into_bytes(), early_input, ..spec };
        if let Err(error) = console.attach(stream, spec) {
            // It was admitted a moment ago, so this is the host's: the client sees its connection close.
            eprintln!("console: a viewer could not attach: {error}");
        }
        Ok(())
    }

    fn set_timer(&mut self) -> io::Result<()> {
        let deadlines = self.connections.values().map(Connection::deadline);
        let next = deadlines.chain(self.accept_again).min();
        if next == self.armed {
            return Ok(());
        }
        match next {
            // A timer of zero would never expire.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                self.timer.reset(left, None)?;
            }
            None => self.timer.clear()?,
        }
        self.armed = next;
        Ok(())
    }
}

impl AsFd for ControlServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the poller keeps its descriptor open for as long as the server is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.poller.as_raw_fd()) }
    }
}

impl fmt::Debug for ControlServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlServer").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}
