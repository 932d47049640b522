use std::time::Duration;

use proptest::prelude::*;

use super::*;

const THRESHOLDS: Thresholds = Thresholds { healthy: 5, unhealthy: 2 };

fn at(s: u64) -> Instant {
    Instant(Duration::from_secs(s))
}

/// The state after `events`, each of which must be allowed.
fn after(events: &[Event]) -> State {
    events.iter().fold(State::default(), |state, event| state.next(*event, THRESHOLDS).unwrap())
}

fn code(state: State) -> &'static str {
    state.reason().map_or("", |reason| reason.code)
}

#[test]
fn a_new_target_needs_one_pass() {
    let mut state = after(&[Event::Registered]);
    assert_eq!((state.name(), code(state)), ("initial", "Elb.RegistrationInProgress"));
    state = state.next(Event::CheckBegins, THRESHOLDS).unwrap();
    assert_eq!((state.name(), code(state)), ("initial", "Elb.InitialHealthChecking"));
    assert_eq!(state.standing(), Standing::Doubtful);
    state = state.next(Event::Passed, THRESHOLDS).unwrap();
    assert_eq!((state.name(), state.reason(), state.standing()), ("healthy", None, Standing::Ready));
}

#[test]
fn a_new_target_that_fails_is_unhealthy_and_then_needs_as_many_passes_as_any() {
    let failed = Event::Failed(Failure::Code(404));
    let mut state = after(&[Event::Registered, failed, failed]);
    let reason = state.reason().unwrap();
    assert_eq!((state.name(), reason.code), ("unhealthy", "Target.ResponseCodeMismatch"));
    assert_eq!(reason.description, "Health checks failed with these codes: [404]");
    for passes in 1..=5 {
        assert_eq!(state.name(), "unhealthy", "after {} passes", passes - 1);
        state = state.next(Event::Passed, THRESHOLDS).unwrap();
    }
    assert_eq!(state.name(), "healthy");
}

#[test]
fn the_last_failure_is_the_reason() {
    let unhealthy = [Event::Registered, Event::Passed, Event::Failed(Failure::Timeout)];
    for (failure, code, description) in [
        (Failure::Timeout, "Target.Timeout", "Request timed out"),
        (Failure::Connection, "Target.FailedHealthChecks", "Health checks failed"),
        (Failure::Internal, "Elb.InternalError", "Health checks failed due to an internal error"),
    ] {
        let state = after(&unhealthy).next(Event::Failed(failure), THRESHOLDS).unwrap();
        let reason = state.reason().unwrap();
        assert_eq!((reason.code, reason.description.as_str()), (code, description));
    }
}

#[test]
fn a_guest_known_to_be_dead_is_out_at_once_and_comes_back_unproven() {
    let mut state = after(&[Event::Registered, Event::Passed]);
    state = state.next(Event::OutOfUse(Unusable::Stopped), THRESHOLDS).unwrap();
    assert_eq!(
        (state.name(), code(state), state.standing()),
        ("unused", "Target.InvalidState", Standing::Out)
    );
    // A check that was under way says nothing any more.
    assert!(state.next(Event::Passed, THRESHOLDS).is_err());
    state = state.next(Event::InUse, THRESHOLDS).unwrap();
    assert_eq!((state.name(), state.standing()), ("initial", Standing::Doubtful));
}

#[test]
fn a_target_drains_for_the_delay_and_no_check_brings_it_back() {
    let mut state = after(&[Event::Registered, Event::Passed, Event::Deregistered { until: at(300) }]);
    assert_eq!(
        (state.name(), code(state), state.standing()),
        ("draining", "Target.DeregistrationInProgress", Standing::Out)
    );
    assert!(state.next(Event::Passed, THRESHOLDS).is_err());
    state = state.next(Event::DelayElapsed { now: at(299) }, THRESHOLDS).unwrap();
    assert_eq!(state.name(), "draining");
    assert_eq!(state.next(Event::Registered, THRESHOLDS).unwrap().name(), "initial");
    state = state.next(Event::DelayElapsed { now: at(300) }, THRESHOLDS).unwrap();
    assert_eq!((state.name(), code(state)), ("unused", "Target.NotRegistered"));
}

#[test]
fn every_reason_for_being_unused_has_its_code() {
    for (why, expected) in [
        (Unusable::GroupNotInUse, "Target.NotInUse"),
        (Unusable::ZoneNotEnabled, "Target.NotInUse"),
        (Unusable::Stopped, "Target.InvalidState"),
        (Unusable::Terminated, "Target.InvalidState"),
        (Unusable::IpUnusable, "Target.IpUnusable"),
    ] {
        let state = after(&[Event::Registered, Event::OutOfUse(why)]);
        assert_eq!((code(state), state.standing(), state.is_checked()), (expected, Standing::Out, false));
        assert_eq!(state.next(Event::Deregistered { until: at(9) }, THRESHOLDS), Ok(State::default()));
    }
}

#[test]
fn without_checks_a_target_gets_requests_and_its_health_is_unavailable() {
    let state = after(&[Event::Registered, Event::ChecksDisabled]);
    assert_eq!(
        (state.name(), code(state), state.standing(), state.is_checked()),
        ("unavailable", "Target.HealthCheckDisabled", Standing::Ready, false)
    );
    assert_eq!(state.next(Event::ChecksEnabled, THRESHOLDS).unwrap().name(), "initial");
}

/// The same, by what was seen: all results since the target was new, from which everything follows.
#[derive(Debug, Default)]
struct Model {
    is_member: bool,
    draining_until: Option<Instant>,
    is_usable: bool,
    has_checks: bool,
    results: Vec<bool>,
}

impl Model {
    fn name(&self) -> &'static str {
        match self {
            Self { draining_until: Some(_), .. } => "draining",
            Self { is_member: false, .. } | Self { is_usable: false, .. } => "unused",
            Self { has_checks: false, .. } => "unavailable",
            Self { results, .. } => by_results(results),
        }
    }

    /// What `event` does; false: it cannot be.
    fn take(&mut self, event: Event) -> bool {
        let is_used = self.is_member && self.is_usable;
        match event {
            Event::Registered if !self.is_member => {
                *self = Self { is_member: true, is_usable: true, has_checks: true, ..Self::default() };
            }
            Event::Deregistered { until } if self.is_member => {
                *self = Self { draining_until: is_used.then_some(until), ..Self::default() };
            }
            Event::DelayElapsed { now } if self.draining_until.is_some() => {
                self.draining_until = self.draining_until.filter(|until| now < *until);
            }
            Event::OutOfUse(_) if self.is_member => self.is_usable = false,
            Event::OutOfUse(_) if self.draining_until.is_some() => self.draining_until = None,
            Event::InUse if self.is_member && !self.is_usable => {
                *self = Self { is_member: true, is_usable: true, has_checks: true, ..Self::default() };
            }
            Event::ChecksDisabled if is_used => self.has_checks = false,
            Event::ChecksEnabled if is_used && !self.has_checks => {
                self.has_checks = true;
                self.results.clear();
            }
            Event::CheckBegins if is_used && self.has_checks => {}
            Event::Passed if is_used && self.has_checks => self.results.push(true),
            Event::Failed(_) if is_used && self.has_checks => self.results.push(false),
            _ => return false,
        }
        true
    }
}

fn by_results(results: &[bool]) -> &'static str {
    let ends_in = |count: u32, passed: bool, upto: usize| {
        let count = count as usize;
        upto >= count && results[upto - count..upto].iter().all(|result| *result == passed)
    };
    (1..=results.len()).fold("initial", |name, upto| match name {
        "initial" | "healthy" if ends_in(THRESHOLDS.unhealthy, false, upto) => "unhealthy",
        "initial" if results[upto - 1] => "healthy",
        "unhealthy" if ends_in(THRESHOLDS.healthy, true, upto) => "healthy",
        same => same,
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Registered),
        8 => Just(Event::Passed),
        6 => Just(Event::Failed(Failure::Timeout)),
        2 => Just(Event::CheckBegins),
        1 => (0..300u64).prop_map(|s| Event::Deregistered { until: at(s) }),
        1 => (0..300u64).prop_map(|s| Event::DelayElapsed { now: at(s) }),
        1 => Just(Event::OutOfUse(Unusable::Stopped)),
        1 => Just(Event::InUse),
        1 => Just(Event::ChecksDisabled),
        1 => Just(Event::ChecksEnabled),
    ]
}

proptest! {
    #[test]
    fn every_history_ends_where_the_model_does(history in prop::collection::vec(any_event(), 0..120)) {
        let mut state = State::default();
        let mut model = Model::default();
        for event in history {
            match state.next(event, THRESHOLDS) {
                Ok(next) => {
                    prop_assert!(model.take(event), "{:?} in {:?}", event, state);
                    state = next;
                }
                Err(denied) => {
                    prop_assert_eq!(denied, Denied { state, event });
                    prop_assert!(!model.take(event), "{:?} in {:?}", event, state);
                }
            }
            prop_assert_eq!(state.name(), model.name());
        }
    }
}
