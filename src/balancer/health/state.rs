//! The states of a target's health, and all that changes them.

use types::Instant;

use crate::targets::Standing;

/// A target's health. It begins as [`State::default`], not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not yet proven: one check that passes is enough.
    Initial {
        /// The first check has not begun yet.
        is_registering: bool,
        /// Checks that failed, all in a row.
        failures: u32,
    },
    Healthy {
        /// Checks that failed since the last that passed.
        failures: u32,
    },
    Unhealthy {
        /// Checks that passed since the last that failed.
        passes: u32,
        /// How the last failed.
        why: Failure,
    },
    /// Deregistered; requests that it has may end until then.
    Draining { until: Instant },
    /// No requests, and no checks.
    Unused(Unusable),
    /// Its group has no health checks: it gets requests, and nobody knows how it is.
    Unavailable,
}

/// How a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An answer came, with this code, which the matcher does not take.
    Code(u16),
    Timeout,
    /// No connection, or no answer that makes sense.
    Connection,
    /// The check could not be made, for a reason on the load balancer's side.
    Internal,
}

/// Why a target is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    NotRegistered,
    /// No listener forwards to its group.
    GroupNotInUse,
    /// The load balancer has no node in its zone.
    ZoneNotEnabled,
    /// The instance is.
    Stopped,
    Terminated,
    /// The address is a load balancer's.
    IpUnusable,
}

/// What happens to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is put into its group, or again.
    Registered,
    /// A check of it begins.
    CheckBegins,
    Passed,
    Failed(Failure),
    /// It is taken out of its group, whose deregistration delay ends `until`.
    Deregistered {
        until: Instant,
    },
    DelayElapsed {
        now: Instant,
    },
    /// It cannot be used, from this moment: no check is waited for. A guest that is known to be dead is [`Unusable::Stopped`].
    OutOfUse(Unusable),
    /// What kept it out of use is gone.
    InUse,
    ChecksDisabled,
    ChecksEnabled,
}

/// How many checks in a row it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub healthy: u32,
    pub unhealthy: u32,
}

/// An event that cannot be in this state, such as the end of a check that began before the target was taken away. The state stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} means nothing to a target that is {state:?}")]
pub struct Denied {
    pub state: State,
    pub event: Event,
}

/// Why a target is not healthy, by the codes that the API publishes
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub code: &'static str,
    pub description: String,
}

impl Default for State {
    fn default() -> Self {
        Self::Unused(Unusable::NotRegistered)
    }
}

impl State {
    const NEW: Self = Self::Initial { is_registering: true, failures: 0 };

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Denied`] where the diagram of [`crate::health`] has no arrow.
    pub fn next(self, event: Event, thresholds: Thresholds) -> Result<Self, Denied> {
        use Unusable::NotRegistered;
        let denied = Err(Denied { state: self, event });
        Ok(match (self, event) {
            // Out of the group, or on the way out.
            (Self::Unused(NotRegistered) | Self::Draining { .. }, Event::Registered) => Self::NEW,
            (Self::Draining { until }, Event::DelayElapsed { now }) if now >= until => Self::default(),
            (Self::Draining { .. }, Event::DelayElapsed { .. }) => self,
            // Nothing is left of a dead guest that could end its requests.
            (Self::Draining { .. }, Event::OutOfUse(_)) => Self::default(),
            (Self::Unused(NotRegistered) | Self::Draining { .. }, _) => return denied,

            // In the group, in whatever state.
            (_, Event::Registered | Event::DelayElapsed { .. }) => return denied,
            (Self::Unused(_), Event::Deregistered { .. }) => Self::default(),
            (_, Event::Deregistered { until }) => Self::Draining { until },
            (_, Event::OutOfUse(why)) => Self::Unused(why),
            (Self::Unused(_), Event::InUse) => Self::NEW,
            (Self::Unused(_), _) | (_, Event::InUse) => return denied,
            (_, Event::ChecksDisabled) => Self::Unavailable,
            (Self::Unavailable, Event::ChecksEnabled) => Self::NEW,
            (Self::Unavailable, _) | (_, Event::ChecksEnabled) => return denied,

            // What checks say.
            (Self::Initial { failures, .. }, Event::CheckBegins) => {
                Self::Initial { is_registering: false, failures }
            }
            (_, Event::CheckBegins) => self,
            (Self::Initial { .. } | Self::Healthy { .. }, Event::Passed) => Self::Healthy { failures: 0 },
            (Self::Unhealthy { passes, why }, Event::Passed) => {
                let passes = passes + 1;
                if passes >= thresholds.healthy {
                    Self::Healthy { failures: 0 }
                } else {
                    Self::Unhealthy { passes, why }
                }
            }
            (Self::Initial { failures, .. } | Self::Healthy { failures }, Event::Failed(why))
                if failures + 1 >= thresholds.unhealthy =>
            {
                Self::Unhealthy { passes: 0, why }
            }
            (Self::Initial { failures, .. }, Event::Failed(_)) => {
                Self::Initial { is_registering: false, failures: failures + 1 }
            }
            (Self::Healthy { failures }, Event::Failed(_)) => Self::Healthy { failures: failures + 1 },
            (Self::Unhealthy { .. }, Event::Failed(why)) => Self::Unhealthy { passes: 0, why },
        })
    }

    /// If it is to be checked.
    pub fn is_checked(self) -> bool {
        matches!(self, Self::Initial { .. } | Self::Healthy { .. } | Self::Unhealthy { .. })
    }

    /// What it means to those who pick targets.
    pub fn standing(self) -> Standing {
        match self {
            Self::Healthy { .. } | Self::Unavailable => Standing::Ready,
            Self::Initial { .. } | Self::Unhealthy { .. } => Standing::Doubtful,
            Self::Draining { .. } | Self::Unused(_) => Standing::Out,
        }
    }

    /// The state's name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initial { .. } => "initial",
            Self::Healthy { .. } => "healthy",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Draining { .. } => "draining",
            Self::Unused(_) => "unused",
            Self::Unavailable => "unavailable",
        }
    }

    /// Why it is in this state; a healthy target needs no reason.
    pub fn reason(self) -> Option<Reason> {
        let (code, description) = match self {
            Self::Healthy { .. } => return None,
            Self::Initial { is_registering: true, .. } => {
                ("Elb.RegistrationInProgress", "Target registration is in progress")
            }
            Self::Initial { .. } => ("Elb.InitialHealthChecking", "Initial health checks in progress"),
            Self::Unhealthy { why, .. } => return Some(why.reason()),
            Self::Draining { .. } => {
                ("Target.DeregistrationInProgress", "Target deregistration is in progress")
            }
            Self::Unavailable => {
                ("Target.HealthCheckDisabled", "Health checks are disabled for this target group")
            }
            Self::Unused(why) => why.reason(),
        };
        Some(Reason { code, description: description.to_owned() })
    }
}

impl Failure {
    fn reason(self) -> Reason {
        let (code, description) = match self {
            Self::Code(code) => {
                let description = format!("Health checks failed with these codes: [{code}]");
                return Reason { code: "Target.ResponseCodeMismatch", description };
            }
            Self::Timeout => ("Target.Timeout", "Request timed out"),
            Self::Connection => ("Target.FailedHealthChecks", "Health checks failed"),
            Self::Internal => ("Elb.InternalError", "Health checks failed due to an internal error"),
        };
        Reason { code, description: description.to_owned() }
    }
}

impl Unusable {
    fn reason(self) -> (&'static str, &'static str) {
        match self {
            Self::NotRegistered => ("Target.NotRegistered", "Target is not registered to the target group"),
            Self::GroupNotInUse => (
                "Target.NotInUse",
                "Target group is not configured to receive traffic from the load balancer",
            ),
            Self::ZoneNotEnabled => (
                "Target.NotInUse",
                "Target is in an Availability Zone that is not enabled for the load balancer",
            ),
            Self::Stopped => ("Target.InvalidState", "Target is in the stopped state"),
            Self::Terminated => ("Target.InvalidState", "Target is in the terminated state"),
            Self::IpUnusable => (
                "Target.IpUnusable",
                "The IP address cannot be used as a target, as it is in use by a load balancer",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
