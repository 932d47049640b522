//! Whether targets are well: what becomes of one when checks pass and fail, and when each is checked.
//!
//! ```text
//!            Registered                Passed (one is enough)
//! Unused ────────────────▶ Initial ───────────────────────────▶ Healthy ◀─┐
//!   ▲  ▲                      └──────────────────┐                 │      │ Passed, as often as healthy_threshold
//!   │  │ OutOfUse, from any    Failed, as often  └▶ Unhealthy ◀────┘      │ in a row
//!   │  └──────────────────     as unhealthy_threshold   └─────────────────┘
//!   │                          in a row
//!   └── DelayElapsed ── Draining ◀── Deregistered, from any of these
//! ```
//!
//! InUse leads from Unused to Initial, if the target is still registered. Without checks, a target that is not Unused is Unavailable, and with
//! them again it is Initial.
//!
//! [`State::next`] is the only place where a target's health changes; one task owns the states. [`Schedule`] says when to check, spread in
//! time. [`Matcher`] says which answers pass. None of them sends anything or reads a clock.
//!
//! States, codes and texts are those of
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html>.

mod matcher;
mod schedule;
mod state;

pub use matcher::{Matcher, MatcherError};
pub use schedule::Schedule;
pub use state::{Denied, Event, Failure, Reason, State, Thresholds, Unusable};
