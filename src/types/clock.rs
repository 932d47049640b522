//! Where time comes from, so that a test can say what time it is.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// A moment on one clock's monotonic scale: time since an origin that the clock chose.
///
/// Moments of two clocks, or of two processes, mean nothing to each other; nothing durable holds one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub Duration);

impl Instant {
    /// Time from `earlier` to this moment, zero if `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `duration` after this one, or the last that can be told.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Tells the time. Deadlines and ages use [`Clock::now`], what people read uses [`Clock::wall`].
pub trait Clock: Send + Sync {
    /// Never goes back.
    fn now(&self) -> Instant;

    /// May jump in either direction.
    fn wall(&self) -> SystemTime;
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        Instant(ORIGIN.get_or_init(std::time::Instant::now).elapsed())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock {
    started: SystemTime,
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    pub fn starting_at(wall: SystemTime) -> Self {
        Self { started: wall, elapsed: Mutex::new(Duration::ZERO) }
    }

    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant(self.elapsed())
    }

    fn wall(&self) -> SystemTime {
        self.started + self.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_does_not_go_back() {
        let first = SystemClock.now();
        assert!(SystemClock.now() >= first);
    }

    #[test]
    fn a_manual_clock_moves_both_scales_only_when_told() {
        let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH);
        let before = clock.now();
        assert_eq!(clock.now(), before);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now().since(before), Duration::from_secs(5));
        assert_eq!(before.since(clock.now()), Duration::ZERO);
        assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    }
}
