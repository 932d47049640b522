//! The count of one instance's credits.

use std::time::Duration;

use jiff::Timestamp;
use types::InstanceId;

use super::{KEPT, Running, between};
use crate::credits::{Balance, Terms};
use crate::records::CpuCredits;
use crate::state::Space;

pub(super) struct Account {
    pub space: Space,
    pub balance: Balance,
    pub at: Timestamp,
    /// How long its processors had worked at that moment.
    cpu_time: Duration,
    /// Which start it is of.
    launched: Timestamp,
    /// What they have worked since it was written down, and when that was.
    unkept: Duration,
    kept: Timestamp,
    /// Whether its host holds it to its baseline, if that is known.
    pub is_held: Option<bool>,
    /// That it cannot be held was said before.
    pub is_complained_of: bool,
}

impl Account {
    /// As it was known, or as it was written down, or a new one.
    pub(super) fn of(running: &Running, known: Option<Self>) -> Self {
        let launched = running.instance.launched;
        let before = match (known, &running.kept) {
            (Some(known), _) if known.launched == launched => return known,
            (Some(known), _) => Some((known.balance, known.at, Duration::ZERO)),
            (None, Some(kept)) => Some((kept.balance, kept.at, kept.cpu_time)),
            (None, None) => None,
        };
        let (balance, at, cpu_time) = match before {
            Some((balance, at, cpu_time)) if at >= launched => (balance, at, cpu_time),
            Some((balance, stopped, _)) => {
                let stopped_for = between(stopped, launched);
                (balance.started_again(&running.terms, stopped_for), launched, Duration::ZERO)
            }
            None => (Balance::new(&running.terms), launched, Duration::ZERO),
        };
        Self {
            space: running.space,
            balance,
            at,
            cpu_time,
            launched,
            unkept: Duration::ZERO,
            kept: at,
            is_held: None,
            is_complained_of: false,
        }
    }

    /// Goes on to `now`, when the processors have worked for `cpu_time`: less than before if they began anew.
    pub(super) fn advance(&mut self, terms: &Terms, now: Timestamp, cpu_time: Duration) {
        let used = cpu_time.checked_sub(self.cpu_time).unwrap_or(cpu_time);
        self.balance = self.balance.after(terms, between(self.at, now), used);
        self.at = self.at.max(now);
        self.cpu_time = cpu_time;
        self.unkept += used;
    }

    /// What an idle instance has follows from what is written down.
    pub(super) fn is_worth_keeping(&self, now: Timestamp) -> bool {
        !self.unkept.is_zero() && between(self.kept, now) >= KEPT
    }

    pub(super) fn keep(&mut self, id: InstanceId, now: Timestamp) -> CpuCredits {
        self.unkept = Duration::ZERO;
        self.kept = now;
        CpuCredits { id, balance: self.balance, at: self.at, cpu_time: self.cpu_time }
    }
}
