//! Waiting for many file descriptors: a thin, typed layer over epoll(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

/// What a watcher is told: the word that was given when the descriptor was watched.
pub type Token = u64;

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Readable, told again for as long as it is (level-triggered).
    Read,
    /// Writable, level-triggered.
    Write,
    /// Readable or writable, level-triggered.
    ReadWrite,
    /// Told once for each change to readable (edge-triggered): the watcher drains it, or remembers that it did not.
    ReadEdge,
    /// Told once for each change to readable or to writable.
    ReadWriteEdge,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Write => EpollFlags::EPOLLOUT,
            Interest::ReadWrite => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            Interest::ReadEdge => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            Interest::ReadWriteEdge => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET,
        }
    }
}

/// The descriptor of an eventfd, which lends none by itself.
pub fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// The descriptor of a timer, likewise.
pub fn timer_fd(timer: &TimerFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `timer` is borrowed.
    unsafe { BorrowedFd::borrow_raw(timer.as_raw_fd()) }
}

/// One descriptor that became ready.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub token: Token,
    flags: EpollFlags,
}

impl Event {
    /// There is something to read, or the other side hung up: a read does not block.
    pub fn is_readable(&self) -> bool {
        self.flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
    }

    /// A write does not block, or fails at once.
    pub fn is_writable(&self) -> bool {
        self.flags.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
    }
}

/// How many events one wait returns at the most; more wait for the next.
const EVENTS_PER_WAIT: usize = 16;

/// A set of watched descriptors.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    /// # Errors
    /// What epoll_create1(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(Poller { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Starts to watch `fd`; what becomes ready carries `token`.
    ///
    /// The caller unwatches `fd` before it closes it: a duplicate elsewhere would keep the watch alive.
    ///
    /// # Errors
    /// What epoll_ctl(2) says, `EEXIST` when it is watched already.
    pub fn watch(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    /// Waits for something else on an `fd` that is watched.
    ///
    /// # Errors
    /// What epoll_ctl(2) says, `ENOENT` when it is not watched.
    pub fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token))?)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// What epoll_ctl(2) says, `ENOENT` when it is not watched.
    pub fn unwatch(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits until something is ready or `timeout_ms` has passed (`None`: for ever), and appends what is ready to `ready`.
    ///
    /// # Errors
    /// What epoll_wait(2) says; an interrupting signal is no error and reports nothing.
    pub fn wait(&self, ready: &mut Vec<Event>, timeout_ms: Option<u16>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS_PER_WAIT];
        let timeout = timeout_ms.map_or(EpollTimeout::NONE, EpollTimeout::from);
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        ready.extend(events[..count].iter().map(|e| Event { token: e.data(), flags: e.events() }));
        Ok(())
    }

    /// For nesting one poller in another.
    pub fn as_raw_fd(&self) -> i32 {
        self.epoll.0.as_raw_fd()
    }
}
