//! The latest events, numbered, for clients that ask what happened since.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::api::{Event, EventKind, Events};

/// How many events are kept for a client that was away.
pub const EVENTS_KEPT: usize = 256;

/// The log of a machine's events. Any thread publishes; the control socket's clients read.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    published: EventFd,
}

impl EventLog {
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn new() -> io::Result<Self> {
        Ok(EventLog { kept: Mutex::default(), published: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Tells all clients, those that wait now and those that ask later.
    pub fn publish(&self, kind: EventKind) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.lock();
        let sequence = newest(&kept) + 1;
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(Event { sequence, time_ms, kind });
        drop(kept);
        // The only error is a counter at its end: then the loop is woken already.
        let _ = self.published.write(1);
    }

    /// What happened after the event `after`; 0 asks for all that is kept.
    pub fn after(&self, after: u64) -> Events {
        let kept = self.lock();
        let newest = newest(&kept);
        let oldest = kept.front().map_or(newest + 1, |event| event.sequence);
        Events {
            events: kept.iter().filter(|event| event.sequence > after).cloned().collect(),
            next: newest,
            lost: oldest.saturating_sub(after.saturating_add(1)),
        }
    }

    /// Readable since something was published.
    pub(super) fn published(&self) -> &EventFd {
        &self.published
    }

    /// The queue is whole between any two of its operations.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn newest(kept: &VecDeque<Event>) -> u64 {
    kept.back().map_or(0, |event| event.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_it_has_not_seen_and_learns_what_it_missed() {
        let log = EventLog::new().unwrap();
        assert_eq!(log.after(0), Events { events: vec![], next: 0, lost: 0 });
        log.publish(EventKind::Started);
        log.publish(EventKind::Paused);
        let all = log.after(0);
        assert_eq!(all.events.iter().map(|e| e.sequence).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((all.next, all.lost), (2, 0));
        assert_eq!(log.after(1).events[0].kind, EventKind::Paused);
        assert!(log.after(2).events.is_empty());
        assert_eq!(log.after(u64::MAX), Events { events: vec![], next: 2, lost: 0 });

        for _ in 0..EVENTS_KEPT {
            log.publish(EventKind::Reset);
        }
        let late = log.after(1);
        assert_eq!((late.events.len(), late.lost, late.next), (EVENTS_KEPT, 1, 258));
    }
}
