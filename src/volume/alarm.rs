//! A thread that wakes queues when their next request may go.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use types::{Clock, Instant, SystemClock};

const POISONED: &str = "no thread panics while it holds this lock";

/// The alarms of the queues of one disk, of which each has at most one.
pub(crate) struct Alarms {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    set: Mutex<Set>,
    news: Condvar,
}

#[derive(Default)]
struct Set {
    alarms: Vec<Alarm>,
    is_stopped: bool,
}

struct Alarm {
    at: Instant,
    event: Arc<File>,
}

impl Shared {
    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().expect(POISONED)
    }

    fn serve(&self) {
        let mut set = self.set();
        while !set.is_stopped {
            let now = SystemClock.now();
            set.alarms.retain(|alarm| {
                if alarm.at <= now {
                    ring(&alarm.event);
                }
                alarm.at > now
            });
            let next = set.alarms.iter().map(|alarm| alarm.at).min();
            set = match next {
                None => self.news.wait(set).expect(POISONED),
                Some(at) => self.news.wait_timeout(set, at.since(now)).expect(POISONED).0,
            };
        }
    }
}

/// Makes an event readable.
fn ring(event: &File) {
    // It can fail only when the counter is at its end: readable already.
    let _ = (&mut &*event).write(&1u64.to_ne_bytes());
}

impl Alarms {
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("volume-alarms".to_owned()).spawn(move || shared.serve())?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Makes the event readable at a moment, instead of the one that was said before.
    pub(crate) fn set(&self, at: Instant, event: &Arc<File>) {
        let mut set = self.shared.set();
        match set.alarms.iter_mut().find(|alarm| Arc::ptr_eq(&alarm.event, event)) {
            Some(alarm) => alarm.at = at,
            None => set.alarms.push(Alarm { at, event: Arc::clone(event) }),
        }
        self.shared.news.notify_one();
    }

    pub(crate) fn remove(&self, event: &Arc<File>) {
        self.shared.set().alarms.retain(|alarm| !Arc::ptr_eq(&alarm.event, event));
    }

    /// Makes all of them readable now.
    pub(crate) fn ring_all(&self) {
        self.shared.set().alarms.drain(..).for_each(|alarm| ring(&alarm.event));
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.shared.set().is_stopped = true;
        self.shared.news.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it panicked, there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}
