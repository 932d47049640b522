//! Who is to be worked on: each by one at a time, and whoever has changed meanwhile once more.
//!
//! ```text
//!            changed                begin                  halted
//!   nobody's ───────▶ due ────────────────────▶ busy ──────────────────▶ nobody's, or waits until a time
//!                      ▲                          │ changed meanwhile            │ changed, or it is time
//!                      └──────────────────────────┴──────────────────────────────┘
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

use crate::ledger::AsOf;

pub(super) struct Agenda<S> {
    standing: HashMap<S, Standing>,
    due: VecDeque<S>,
    alarms: BTreeSet<(Instant, S)>,
}

enum Standing {
    Due,
    /// With what came since the work was begun.
    Busy(News),
    Waits(Instant),
}

#[derive(Clone, Copy, Default)]
struct News {
    /// Who has seen the state as of then has seen all that records say.
    records: Option<AsOf>,
    host: bool,
}

impl<S: Copy + Ord + Hash> Agenda<S> {
    pub(super) fn new() -> Self {
        Self { standing: HashMap::new(), due: VecDeque::new(), alarms: BTreeSet::new() }
    }

    /// A record changed on which work depends.
    pub(super) fn changed(&mut self, subject: S, as_of: AsOf) {
        self.note(subject, |news| news.records = Some(as_of));
    }

    /// The host has something new to say.
    pub(super) fn nudged(&mut self, subject: S) {
        self.note(subject, |news| news.host = true);
    }

    fn note(&mut self, subject: S, add: impl FnOnce(&mut News)) {
        match self.standing.get_mut(&subject) {
            Some(Standing::Due) => {}
            Some(Standing::Busy(news)) => add(news),
            Some(Standing::Waits(_)) | None => self.add(subject),
        }
    }

    fn add(&mut self, subject: S) {
        if let Some(Standing::Waits(alarm)) = self.standing.insert(subject, Standing::Due) {
            self.alarms.remove(&(alarm, subject));
        }
        self.due.push_back(subject);
    }

    /// The next one to work on, who is busy until it is said that the work has [halted](Self::halted).
    pub(super) fn begin(&mut self) -> Option<S> {
        let now = Instant::now();
        while let Some((alarm, subject)) = self.alarms.first().copied().filter(|(alarm, _)| *alarm <= now) {
            debug_assert!(matches!(self.standing.get(&subject), Some(Standing::Waits(at)) if *at == alarm));
            self.add(subject);
        }
        let subject = self.due.pop_front()?;
        self.standing.insert(subject, Standing::Busy(News::default()));
        Some(subject)
    }

    /// Work came to a halt that has seen the state as of then. If nothing changes, there is more to do at a time, or never.
    /// Says whether records have changed since.
    pub(super) fn halted(&mut self, subject: S, seen: AsOf, until: Option<Instant>) -> bool {
        let Some(Standing::Busy(news)) = self.standing.remove(&subject) else {
            unreachable!("nobody works on whom nobody began to work on");
        };
        let is_behind = news.records.is_some_and(|as_of| as_of > seen);
        if is_behind || news.host {
            self.add(subject);
        } else if let Some(alarm) = until {
            self.standing.insert(subject, Standing::Waits(alarm));
            self.alarms.insert((alarm, subject));
        }
        is_behind
    }

    /// When somebody is due, if nothing changes before.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.due.is_empty() { self.alarms.first().map(|(alarm, _)| *alarm) } else { Some(Instant::now()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_worked_on_by_one_and_once_more_if_it_has_not_seen_what_changed() {
        let mut agenda = Agenda::new();
        let [before, after] = [AsOf::of(1), AsOf::of(2)];
        agenda.changed('a', before);
        agenda.changed('b', before);
        agenda.changed('a', after);
        assert_eq!([agenda.begin(), agenda.begin(), agenda.begin()], [Some('a'), Some('b'), None]);
        agenda.changed('a', after);
        agenda.changed('b', after);
        assert_eq!(agenda.begin(), None);
        assert!(!agenda.halted('a', after, None));
        assert!(agenda.halted('b', before, None));
        assert_eq!([agenda.begin(), agenda.begin()], [Some('b'), None]);
        agenda.nudged('b');
        agenda.changed('b', before);
        assert!(!agenda.halted('b', after, None));
        assert_eq!([agenda.begin(), agenda.begin()], [Some('b'), None], "a host's news are never seen");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_due_when_it_is_time_or_something_changed() {
        let mut agenda = Agenda::new();
        let (start, seen) = (Instant::now(), AsOf::of(1));
        let in_seconds = |seconds| Some(start + Duration::from_secs(seconds));
        for (subject, seconds) in [('a', 2), ('b', 1), ('c', 3)] {
            agenda.nudged(subject);
            assert_eq!(agenda.begin(), Some(subject));
            agenda.halted(subject, seen, in_seconds(seconds));
        }
        assert_eq!((agenda.begin(), agenda.next()), (None, in_seconds(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((agenda.begin(), agenda.begin(), agenda.next()), (Some('b'), None, in_seconds(2)));
        agenda.changed('a', AsOf::of(2));
        assert_eq!((agenda.begin(), agenda.begin(), agenda.next()), (Some('a'), None, in_seconds(3)));
        agenda.halted('a', AsOf::of(2), None);
        agenda.halted('b', seen, None);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!((agenda.begin(), agenda.next()), (Some('c'), None));
    }
}
