//! One descriptor of a [`Poller`], and what is being waited for on it right now.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

use crate::poll::{Interest, Poller, Token};

/// Remembers what the poller was told, so that only changes cost a system call.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    current: Option<Interest>,
}

impl Watch {
    /// Waits for `wanted` on `fd` from now on; for nothing, `None`.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub(crate) fn set(
        &mut self,
        poller: &Poller,
        fd: impl AsFd,
        token: Token,
        wanted: Option<Interest>,
    ) -> io::Result<()> {
        match (self.current, wanted) {
            (was, now) if was == now => return Ok(()),
            (None, Some(interest)) => poller.watch(fd, token, interest)?,
            (Some(_), Some(interest)) => poller.change(fd, token, interest)?,
            (Some(_), None) | (None, None) => poller.unwatch(fd)?,
        }
        self.current = wanted;
        Ok(())
    }
}

/// Waiting to read, to write, both or neither.
pub(crate) fn interest(read: bool, write: bool) -> Option<Interest> {
    match (read, write) {
        (true, true) => Some(Interest::ReadWrite),
        (true, false) => Some(Interest::Read),
        (false, true) => Some(Interest::Write),
        (false, false) => None,
    }
}

/// `EventFd` and `TimerFd` lend no borrowed descriptor by themselves.
pub(crate) fn borrow<F: AsRawFd>(owner: &F) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the descriptor open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Forgets how often `event` was signalled.
pub(crate) fn drain(event: &EventFd) {
    // The only error of a non-blocking eventfd is that it was not signalled.
    let _ = event.read();
}
