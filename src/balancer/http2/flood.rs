//! How much a client may do that costs more here than there: each kind of it has a budget, which fills up again with time. Who spends all of one floods, and is told to
//! be calm.

use std::time::Duration;

use types::Instant;

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flood {
    /// Requests that were begun and cancelled, or refused since there were too many (CVE-2023-44487).
    Resets,
    /// Fields in too many pieces, or without an end (CVE-2024-27316 and others).
    Continuations,
    /// Settings, each of which must be acknowledged (CVE-2019-9515).
    Settings,
    /// Pings, each of which must be answered (CVE-2019-9512).
    Pings,
    /// Frames with nothing in them (CVE-2019-9518).
    EmptyFrames,
    /// Frames that change nothing: priorities and those that nobody knows (CVE-2019-9513).
    IdleFrames,
    /// What must be answered, from one that does not read (CVE-2019-9517).
    Unread,
}

impl Flood {
    pub const ALL: [Self; 7] = [
        Self::Resets,
        Self::Continuations,
        Self::Settings,
        Self::Pings,
        Self::EmptyFrames,
        Self::IdleFrames,
        Self::Unread,
    ];

    /// As counters are named.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Continuations => "continuations",
            Self::Settings => "settings",
            Self::Pings => "pings",
            Self::EmptyFrames => "empty_frames",
            Self::IdleFrames => "idle_frames",
            Self::Unread => "unread",
        }
    }

    /// How many at once, and how many a second for as long as one likes.
    fn allowance(self) -> (u32, u32) {
        match self {
            Self::Resets => (200, 50),
            Self::Settings => (32, 4),
            Self::Pings => (64, 16),
            Self::EmptyFrames => (128, 32),
            Self::IdleFrames => (512, 64),
            // These are judged by what they are, not by how many there were.
            Self::Continuations | Self::Unread => (0, 0),
        }
    }
}

/// What is left of a connection's budgets.
#[derive(Debug)]
pub(super) struct Budgets {
    left: [u32; Flood::ALL.len()],
    filled: Instant,
}

impl Budgets {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: Flood::ALL.map(|flood| flood.allowance().0), filled: now }
    }

    /// # Errors
    /// The flood that this is.
    pub(super) fn spend(&mut self, flood: Flood, now: Instant) -> Result<(), Flood> {
        let seconds = now.since(self.filled).as_secs();
        if seconds > 0 {
            for (left, flood) in self.left.iter_mut().zip(Flood::ALL) {
                let (most, each) = flood.allowance();
                let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(each);
                *left = left.saturating_add(more).min(most);
            }
            self.filled = self.filled.after(Duration::from_secs(seconds));
        }
        let left = &mut self.left[flood as usize];
        *left = left.checked_sub(1).ok_or(flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_fills_up_again() {
        let at = |seconds| Instant(Duration::from_secs(seconds));
        let mut budgets = Budgets::new(at(0));
        let mut spend =
            |seconds| (0..1000).take_while(|_| budgets.spend(Flood::Pings, at(seconds)).is_ok()).count();
        assert_eq!(spend(0), 64);
        assert_eq!(spend(0), 0);
        assert_eq!(spend(2), 32);
        assert_eq!(spend(1000), 64);
        assert_eq!(budgets.spend(Flood::Settings, at(1000)), Ok(()));
    }
}
