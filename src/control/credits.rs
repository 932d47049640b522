//! CPU credits of burstable instances: what they earn, spend, owe and are charged for.
//!
//! ```text
//!   earned while it runs ──▶ balance ──▶ spent by what its processors work
//!                              │ empty
//!                              ├─ standard: no more than the baseline
//!                              └─ unlimited: surplus, paid back from what is earned; beyond a day's worth it is charged
//! ```
//!
//! All of it is pure: who measures and who throttles is in [`reconcile`](crate::reconcile). A credit is one processor for one minute; amounts are
//! the time of one processor.
//!
//! Sources: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-unlimited-mode-concepts.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-standard-mode-concepts.html>.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::InstanceType;

/// Of one processor.
pub const CREDIT: Duration = Duration::from_secs(60);

/// For each of its processors, at each start, what the oldest types may spend at once unless they may spend without limit.
const LAUNCH_CREDITS: u32 = 30;

/// What an instance earns and may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    per_hour: Duration,
    launch: Duration,
    /// What a stop takes away.
    is_lost_by_stop: bool,
    baseline_per_mille: u32,
    is_unlimited: bool,
}

/// What an instance has and owes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Left of what it began with; it is spent first.
    pub launch: Duration,
    /// At most what is earned in a day.
    pub earned: Duration,
    /// Spent and not earned yet. At most what is earned in a day; none while there is something earned.
    pub surplus: Duration,
    /// Spent and never to be earned: what AWS would have on its bill.
    pub charged: Duration,
}

impl Terms {
    /// None: the type has no credits.
    pub fn of(kind: &InstanceType, is_unlimited: bool) -> Option<Self> {
        let burst = kind.burst?;
        let is_oldest = kind.family() == "t2";
        let begins_with_some = is_oldest && !is_unlimited;
        Some(Self {
            per_hour: CREDIT * u32::from(burst.credits_per_hour_tenths) / 10,
            launch: if begins_with_some {
                CREDIT * LAUNCH_CREDITS * u32::from(kind.vcpus)
            } else {
                Duration::ZERO
            },
            is_lost_by_stop: is_oldest,
            baseline_per_mille: u32::from(burst.baseline_per_mille) * u32::from(kind.vcpus),
            is_unlimited,
        })
    }

    /// What can be had, and what can be owed.
    pub fn max(&self) -> Duration {
        self.per_hour * 24
    }

    /// What may always be spent, in thousandths of one processor.
    pub const fn baseline_per_mille(&self) -> u32 {
        self.baseline_per_mille
    }

    fn earned_in(&self, time: Duration) -> Duration {
        // Nobody can have more than a day's worth.
        let seconds = time.min(Duration::from_secs(24 * 3600)).as_secs_f64();
        Duration::from_secs_f64(self.per_hour.as_secs_f64() * seconds / 3600.0)
    }
}

impl Balance {
    /// At an instance's first start.
    pub fn new(terms: &Terms) -> Self {
        Self { launch: terms.launch, ..Self::default() }
    }

    /// At another start: what was owed at the stop is charged, and newer types have what they had for a week.
    #[must_use]
    pub fn started_again(self, terms: &Terms, stopped_for: Duration) -> Self {
        const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
        let charged = self.charged + self.surplus;
        if terms.is_lost_by_stop || stopped_for > KEPT {
            return Self { charged, ..Self::new(terms) };
        }
        Self { surplus: Duration::ZERO, charged, earned: self.earned.min(terms.max()), ..self }
    }

    /// After so long, in which its processors worked for `used`.
    #[must_use]
    pub fn after(self, terms: &Terms, time: Duration, used: Duration) -> Self {
        let mut next = self;
        if !terms.is_unlimited {
            next.charged += std::mem::take(&mut next.surplus);
        }
        let from_launch = used.min(next.launch);
        next.launch -= from_launch;
        let had = next.earned + terms.earned_in(time);
        let wanted = used - from_launch + next.surplus;
        next.earned = had.saturating_sub(wanted).min(terms.max());
        next.surplus = Duration::ZERO;
        if terms.is_unlimited {
            let owed = wanted.saturating_sub(had);
            next.surplus = owed.min(terms.max());
            next.charged += owed - next.surplus;
        }
        next
    }

    /// What can be spent without owing anything.
    pub fn spendable(&self) -> Duration {
        self.launch + self.earned
    }

    /// Whether its processors are to be held to the baseline; `is_held` says that they are. They are let go when there is a whole credit: else
    /// it would be for moments only.
    pub fn is_to_be_held(&self, terms: &Terms, is_held: bool) -> bool {
        let enough = if is_held { CREDIT } else { Duration::from_nanos(1) };
        !terms.is_unlimited && self.spendable() < enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(name: &str, is_unlimited: bool) -> Terms {
        Terms::of(InstanceType::find(name).unwrap(), is_unlimited).unwrap()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_published_figures_come_out() {
        let micro = terms("t3.micro", true);
        let idle = Balance::new(&micro).after(&micro, HOUR, Duration::ZERO);
        assert_eq!(idle.earned, CREDIT * 12);
        assert_eq!(idle.after(&micro, HOUR * 1000, Duration::ZERO).earned, CREDIT * 288);
        assert_eq!(micro.baseline_per_mille(), 200);
        // An hour of both processors: 120 credits, 12 of them earned.
        let busy = Balance::new(&micro).after(&micro, HOUR, HOUR * 2);
        assert_eq!((busy.surplus, busy.charged), (CREDIT * 108, Duration::ZERO));
        let old = terms("t2.micro", false);
        assert_eq!(Balance::new(&old).spendable(), CREDIT * 30);
        assert_eq!(Balance::new(&terms("t2.micro", true)).spendable(), Duration::ZERO);
        assert!(Terms::of(InstanceType::find("m5.large").unwrap(), false).is_none());
    }

    #[test]
    fn what_was_owed_is_charged_by_a_stop_and_by_becoming_standard() {
        let micro = terms("t3.micro", true);
        let owing = Balance { surplus: CREDIT * 5, ..Balance::default() };
        let again = owing.started_again(&micro, HOUR);
        assert_eq!((again.surplus, again.charged), (Duration::ZERO, CREDIT * 5));
        let standard = owing.after(&terms("t3.micro", false), Duration::ZERO, Duration::ZERO);
        assert_eq!((standard.surplus, standard.charged), (Duration::ZERO, CREDIT * 5));
    }

    #[test]
    fn a_stop_takes_what_the_oldest_types_had_and_a_week_what_all_had() {
        let having = Balance { earned: CREDIT * 5, ..Balance::default() };
        let old = terms("t2.micro", false);
        assert_eq!(having.started_again(&old, HOUR), Balance::new(&old));
        let new = terms("t3.micro", false);
        assert_eq!(having.started_again(&new, HOUR), having);
        assert_eq!(having.started_again(&new, HOUR * 24 * 8), Balance::default());
    }

    #[test]
    fn standard_is_held_when_nothing_is_left_until_there_is_a_whole_credit() {
        let micro = terms("t3.micro", false);
        let mut balance = Balance { earned: CREDIT, ..Balance::default() };
        assert!(!balance.is_to_be_held(&micro, false));
        balance = balance.after(&micro, Duration::from_secs(10), HOUR);
        assert!(balance.is_to_be_held(&micro, false));
        balance = balance.after(&micro, HOUR / 24, Duration::ZERO);
        assert!(balance.is_to_be_held(&micro, true) && !balance.is_to_be_held(&micro, false));
        balance = balance.after(&micro, HOUR / 24, Duration::ZERO);
        assert!(!balance.is_to_be_held(&micro, true));
        let owing = Balance { surplus: CREDIT, ..Balance::default() };
        assert!(!owing.is_to_be_held(&terms("t3.micro", true), false));
    }

    /// What an instance is worth: everything that was earned less everything that was spent.
    fn worth(balance: &Balance) -> f64 {
        let all =
            [balance.launch, balance.earned, balance.surplus, balance.charged].map(|it| it.as_secs_f64());
        all[0] + all[1] - all[2] - all[3]
    }

    proptest! {
        #[test]
        fn nothing_is_earned_or_spent_twice(
            kind in prop::sample::select(vec!["t2.micro", "t2.large", "t3.nano", "t3.2xlarge"]),
            history in prop::collection::vec((any::<bool>(), 0u64..20_000, 0u64..20_000), 1..50),
        ) {
            let mut balance = Balance::new(&terms(kind, history[0].0));
            for (is_unlimited, time, used) in history {
                let terms = terms(kind, is_unlimited);
                let (time, used) = (Duration::from_secs(time), Duration::from_secs(used));
                let next = balance.after(&terms, time, used);
                prop_assert!(next.earned <= terms.max() && next.surplus <= terms.max());
                prop_assert!(next.surplus.is_zero() || next.earned.is_zero());
                prop_assert!(next.charged >= balance.charged && next.launch <= balance.launch);
                let change = worth(&next) - worth(&balance);
                let expected = terms.earned_in(time).as_secs_f64() - used.as_secs_f64();
                if next.earned == terms.max() {
                    prop_assert!(change <= expected + 1e-3);
                } else if !is_unlimited && next.spendable().is_zero() {
                    // It worked more than it should have: who throttles is late, and that is not its fault.
                    prop_assert!(change >= expected - 1e-3);
                } else {
                    prop_assert!((change - expected).abs() < 1e-3, "{change} {expected}");
                }
                balance = next;
            }
        }
    }
}
