//! The thread on which a [`QueueHandler`] runs.
//!
//! It waits on one epoll set: its commands, the kicks of its queues, and what the handler watches. It exists from
//! the moment the device is plugged in, so that no vCPU ever has to make a thread (their system call filters do not
//! let them).

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Activation, DeviceError, DeviceSignals, QueueHandler, QueuePosition, WorkerPart};
use crate::poll::{Event, Interest, Poller, Token, event_fd};

/// Tokens from here on are the worker's own; a handler's are below.
const OWN_TOKENS: Token = 1 << 32;
const COMMAND: Token = OWN_TOKENS;
const KICK: Token = OWN_TOKENS + 1;

/// A worker thread: commands are carried out in the order given.
pub struct WorkerThread {
    name: String,
    queues: Vec<u16>,
    commands: Sender<Command>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Start(Box<Activation>),
    Pause(SyncSender<()>),
    Tell(SyncSender<Option<Vec<(u16, QueuePosition)>>>),
    Resume,
    Stop(SyncSender<()>),
}

impl WorkerThread {
    /// Starts the thread. `enter` runs first on it: it is where the thread's system call filter is put on.
    ///
    /// # Errors
    /// When the host has no thread or descriptor to give.
    pub fn spawn(part: WorkerPart, enter: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let context = WorkerContext::new()?;
        context.poller.watch(event_fd(&wake), COMMAND, Interest::Read)?;
        let worker = Worker { inbox, wake: wake.try_clone()?, context, handler: part.handler, running: None };
        let thread =
            std::thread::Builder::new().name(part.name.clone()).stack_size(STACK_BYTES).spawn(move || {
                enter();
                worker.run();
            })?;
        Ok(WorkerThread { name: part.name, queues: part.queues, commands, wake, thread: Some(thread) })
    }

    /// Indexes of the queues that this worker serves.
    pub fn queues(&self) -> &[u16] {
        &self.queues
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver is ready. Does not wait.
    pub fn start(&self, activation: Activation) {
        self.send(Command::Start(Box::new(activation)));
    }

    /// Waits until nothing touches guest memory any more.
    pub fn pause(&self) {
        self.send_and_wait(Command::Pause);
    }

    /// Where a paused worker stands in its queues; none when its device cannot tell, or is broken.
    pub fn positions(&self) -> Option<Vec<(u16, QueuePosition)>> {
        let (told, answer) = sync_channel(1);
        self.send(Command::Tell(told));
        answer.recv().ok().flatten()
    }

    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Takes the queues away; waits until nothing is in flight.
    pub fn stop(&self) {
        self.send_and_wait(Command::Stop);
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // The counter can only be at its end when the worker has been woken already.
            let _ = self.wake.write(1);
        }
    }

    /// The worker drops the reply channel when it carried the command out, or when it is gone.
    fn send_and_wait(&self, command: fn(SyncSender<()>) -> Command) {
        let (done, finished) = sync_channel(0);
        self.send(command(done));
        let _ = finished.recv();
    }
}

/// Enough for a handler's frames; untouched pages cost nothing.
const STACK_BYTES: usize = 256 * 1024;

impl Drop for WorkerThread {
    /// Stops the handler and ends the thread.
    fn drop(&mut self) {
        self.stop();
        // A closed channel is the order to end.
        self.commands = channel().0;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a handler may do with its thread: watch descriptors.
pub struct WorkerContext {
    poller: Poller,
}

impl WorkerContext {
    /// For running a handler without a worker's thread; then nobody waits for what it watches.
    ///
    /// # Errors
    /// What epoll_create1(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(WorkerContext { poller: Poller::new()? })
    }

    /// Calls [`QueueHandler::ready`] with `token`, which is below 2^32, when `fd` is ready.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn watch(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        debug_assert!(token < OWN_TOKENS, "a handler's tokens are below 2^32");
        self.poller.watch(fd, token, interest)
    }

    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        self.poller.change(fd, token, interest)
    }

    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn unwatch(&self, fd: impl AsFd) -> io::Result<()> {
        self.poller.unwatch(fd)
    }
}

/// The thread's side.
struct Worker {
    inbox: Receiver<Command>,
    wake: EventFd,
    context: WorkerContext,
    handler: Box<dyn QueueHandler>,
    running: Option<Running>,
}

/// What the worker keeps of the queues while the handler has them.
struct Running {
    kicks: Vec<(u16, EventFd)>,
    signals: std::sync::Arc<DeviceSignals>,
    paused: bool,
}

impl Worker {
    fn run(mut self) {
        let mut ready: Vec<Event> = Vec::new();
        loop {
            ready.clear();
            if self.context.poller.wait(&mut ready, None).is_err() {
                return;
            }
            for event in &ready {
                let outcome = match event.token {
                    COMMAND => match self.obey() {
                        Some(outcome) => outcome,
                        None => return,
                    },
                    kick if kick >= KICK => self.kicked(kick - KICK),
                    token if self.is_serving() => self.handler.ready(token, &self.context),
                    _ => Ok(()),
                };
                if let Err(error) = outcome {
                    self.fail(&error);
                }
            }
        }
    }

    fn is_serving(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.paused)
    }

    /// Carries out all commands that wait; `None` when there will be no more.
    fn obey(&mut self) -> Option<Result<(), DeviceError>> {
        let _ = self.wake.read();
        loop {
            use std::sync::mpsc::TryRecvError;
            // Whoever waits for a command is told when all of it is over, its failure too: here, where `_done` ends.
            let mut _done = None;
            let outcome = match self.inbox.try_recv() {
                Ok(Command::Start(activation)) => self.start(*activation),
                Ok(Command::Pause(done)) => {
                    _done = Some(done);
                    self.pause()
                }
                Ok(Command::Tell(told)) => {
                    // There is room for one, and whoever asked waits.
                    let _ = told.send(self.positions());
                    Ok(())
                }
                Ok(Command::Resume) => self.resume(),
                Ok(Command::Stop(done)) => {
                    _done = Some(done);
                    self.release();
                    Ok(())
                }
                Err(TryRecvError::Empty) => return Some(Ok(())),
                Err(TryRecvError::Disconnected) => return None,
            };
            if let Err(error) = outcome {
                self.fail(&error);
            }
        }
    }

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let host = |operation| move |source| DeviceError::Host { operation, source };
        let signals = activation.signals.clone();
        let mut kicks = Vec::with_capacity(activation.queues.len());
        let watched = if self.handler.takes_kicks() { &activation.queues[..] } else { &[] };
        for queue in watched {
            kicks.push((queue.index, queue.kick.try_clone().map_err(host("keep a queue's kick"))?));
        }
        let running = self.running.insert(Running { kicks, signals, paused: false });
        for (index, kick) in &running.kicks {
            let token = KICK + u64::from(*index);
            self.context
                .poller
                .watch(event_fd(kick), token, Interest::ReadEdge)
                .map_err(host("watch a queue's kick"))?;
        }
        self.handler.start(activation, &self.context)
    }

    /// Kicks are edge-triggered, so the counter is never read: it cannot reach its end in a guest's life.
    fn kicked(&mut self, index: u64) -> Result<(), DeviceError> {
        match (self.is_serving(), u16::try_from(index)) {
            (true, Ok(index)) => self.handler.kicked(index, &self.context),
            _ => Ok(()),
        }
    }

    fn pause(&mut self) -> Result<(), DeviceError> {
        match &mut self.running {
            Some(running) if !running.paused => {
                running.paused = true;
                self.handler.quiesce()
            }
            _ => Ok(()),
        }
    }

    fn positions(&mut self) -> Option<Vec<(u16, QueuePosition)>> {
        let is_paused = self.running.as_ref().is_some_and(|running| running.paused);
        if is_paused { self.handler.positions() } else { None }
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        match &mut self.running {
            Some(running) if running.paused => {
                running.paused = false;
                self.handler.resume(&self.context)
            }
            _ => Ok(()),
        }
    }

    fn fail(&mut self, error: &DeviceError) {
        if let Some(running) = &self.running {
            let signals = running.signals.clone();
            let thread = std::thread::current();
            report(thread.name().unwrap_or("worker"), error);
            self.release();
            signals.needs_reset();
        }
    }

    fn release(&mut self) {
        self.handler.stop(&self.context);
        if let Some(running) = self.running.take() {
            for (_, kick) in &running.kicks {
                let _ = self.context.poller.unwatch(event_fd(kick));
            }
        }
    }
}

/// So many reports are written in a process's life: a guest may break and reset its devices for ever, and a log has an end.
const REPORTS_MAX: usize = 1000;

/// Tells the operator's log that `who` is broken until its driver resets it.
pub(super) fn report(who: &str, error: &dyn std::error::Error) {
    static REPORTS: AtomicUsize = AtomicUsize::new(0);
    let mut text = format!("{who}: the device needs a reset: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    match REPORTS.fetch_add(1, Ordering::Relaxed) {
        ..REPORTS_MAX => eprintln!("{text}"),
        REPORTS_MAX => eprintln!("devices needed a reset {REPORTS_MAX} times: no more of it is written here"),
        _ => {}
    }
}
