//! On a paused clock, with nobody who looks after instances but this.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use types::RandomId as _;

use super::super::unhosted;
use super::*;
use crate::notices::{self, Notice};
use crate::plane::Plane;
use crate::records::{InstanceEvent, Interruption};
use crate::store::{Memory, Store};
use crate::testing::{plane, space};

struct Lab {
    store: Arc<dyn Store>,
    plane: Arc<Plane>,
    id: InstanceId,
    work: tokio::task::JoinHandle<Result<(), crate::ledger::Stopped>>,
}

impl Lab {
    /// A running instance.
    async fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let lab = Self::on(store, 1).await;
        lab.write(|tx| tx.put(crate::testing::instance(lab.id, InstanceState::Running, tx.now()))).await;
        lab
    }

    async fn on(store: Arc<dyn Store>, seed: u64) -> Self {
        let plane = plane(Arc::clone(&store), seed).await;
        let work = tokio::spawn(unhosted::run(Arc::clone(&plane)));
        Self { store, plane, id: InstanceId::from_random([1; 16]), work }
    }

    /// A server that was killed, and the next one.
    async fn restart(self) -> Self {
        self.work.abort();
        drop(self.plane);
        Self::on(self.store, 2).await
    }

    async fn write(&self, change: impl FnOnce(&mut Transaction<'_>)) {
        super::super::write(&self.plane, space(), change).await.unwrap();
    }

    async fn give(&self, notice: Notice) -> InstanceNotices {
        notices::give(&self.plane, space().account, self.id, notice).await.unwrap()
    }

    async fn interrupt(&self, action: InterruptionAction) {
        let at = self.after(90);
        self.give(Notice::Interruption(Interruption { action, at })).await;
    }

    fn after(&self, seconds: i64) -> Timestamp {
        self.plane.ledger.now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
    }

    fn instance(&self) -> Instance {
        let look = |state: &crate::state::State| {
            Instance::clone(state.space(space()).unwrap().instances.get(self.id).unwrap())
        };
        self.plane.ledger.read(look).0
    }

    async fn told(&self) -> InstanceNotices {
        notices::list(&self.plane, space().account, self.id).await.unwrap()
    }
}

async fn pass_seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn code(cause: &Cause) -> &str {
    match cause {
        Cause::Failure { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_interruption_comes_when_it_was_announced_for() {
    for action in [InterruptionAction::Stop, InterruptionAction::Hibernate, InterruptionAction::Terminate] {
        let lab = Lab::new().await;
        // Whoever is protected is from users, and not from this.
        lab.write(|tx| {
            tx.update::<Instance>(lab.id, |instance| {
                (instance.is_protected_from_stop, instance.is_protected_from_termination) = (true, true);
            });
        })
        .await;
        lab.interrupt(action).await;
        pass_seconds(89).await;
        assert_eq!(lab.instance().state, InstanceState::Running);
        assert!(lab.told().await.interruption.is_some());
        pass_seconds(2).await;
        match (action, lab.instance().state) {
            (InterruptionAction::Terminate, InstanceState::ShuttingDown { cause, .. }) => {
                assert_eq!(code(&cause), "Server.SpotInstanceTermination");
            }
            (
                InterruptionAction::Stop | InterruptionAction::Hibernate,
                InstanceState::Stopping { cause, .. },
            ) => {
                assert_eq!(code(&cause), "Server.SpotInstanceShutdown");
            }
            (action, state) => panic!("{action:?}: {state:?}"),
        }
        assert_eq!(lab.told().await, InstanceNotices::none(lab.id));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_announced_is_not_forgotten_by_the_next_server() {
    let lab = Lab::new().await;
    lab.interrupt(InterruptionAction::Stop).await;
    let lab = lab.restart().await;
    pass_seconds(91).await;
    assert!(matches!(lab.instance().state, InstanceState::Stopping { .. }), "{:?}", lab.instance().state);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_does_not_come() {
    let lab = Lab::new().await;
    lab.interrupt(InterruptionAction::Terminate).await;
    lab.give(Notice::Rebalance).await;
    let not_before = lab.after(60);
    lab.give(Notice::Event { code: EventCode::InstanceStop, not_before }).await;
    let told = notices::clear(&lab.plane, space().account, lab.id).await.unwrap();
    assert_eq!((told.interruption, told.rebalance), (None, None));
    assert_eq!(told.events[0].description(), "[Canceled] The instance is running on degraded hardware");
    pass_seconds(200).await;
    assert_eq!(lab.instance().state, InstanceState::Running);
}

#[tokio::test(start_paused = true)]
async fn events_do_what_they_say_and_are_history() {
    let lab = Lab::new().await;
    for (number, code) in (1..).zip([
        EventCode::SystemMaintenance,
        EventCode::SystemReboot,
        EventCode::InstanceReboot,
        EventCode::InstanceRetirement,
    ]) {
        lab.give(Notice::Event { code, not_before: lab.after(60 * number) }).await;
    }
    let states = |told: &InstanceNotices| -> Vec<_> {
        told.events.iter().map(|event: &InstanceEvent| event.state == EventState::Active).collect()
    };
    let reboots = || lab.instance().reboots_wanted;
    pass_seconds(61).await;
    assert_eq!((reboots(), states(&lab.told().await)), (0, vec![false, true, true, true]));
    pass_seconds(60).await;
    assert_eq!((reboots(), states(&lab.told().await)), (1, vec![false, false, true, true]));
    pass_seconds(60).await;
    assert_eq!((reboots(), lab.instance().state), (2, InstanceState::Running));
    pass_seconds(60).await;
    let InstanceState::Stopping { cause, .. } = lab.instance().state else { panic!("it is stopped") };
    assert_eq!(code(&cause), "Server.ScheduledStop");
    let told = lab.told().await;
    assert!(told.events.iter().all(|event| event.state == EventState::Completed), "{told:?}");
    let ids: std::collections::BTreeSet<_> = told.events.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_stops_has_nothing_to_come_and_is_told_nothing() {
    let lab = Lab::new().await;
    lab.interrupt(InterruptionAction::Terminate).await;
    let not_before = lab.after(60);
    lab.give(Notice::Event { code: EventCode::SystemReboot, not_before }).await;
    let stopped = InstanceState::Stopped { cause: Cause::User, since: lab.after(0) };
    lab.write(|tx| lifecycle::enter(tx, lab.id, stopped.clone())).await;
    let told = lab.told().await;
    assert_eq!((told.interruption, told.events[0].state), (None, EventState::Completed));
    let refused = notices::give(&lab.plane, space().account, lab.id, Notice::Rebalance).await.unwrap_err();
    assert_eq!(refused.code, "IncorrectInstanceState");
    pass_seconds(200).await;
    assert_eq!((lab.instance().state, lab.instance().reboots_wanted), (stopped, 0));
    let over = InstanceState::Terminated { cause: Cause::User, since: lab.after(0) };
    lab.write(|tx| lifecycle::enter(tx, lab.id, over)).await;
    assert_eq!(lab.told().await, InstanceNotices::none(lab.id));
    let stranger = "222222222222".parse().unwrap();
    let refused = notices::list(&lab.plane, stranger, lab.id).await.unwrap_err();
    assert_eq!(refused.code, "InvalidInstanceID.NotFound");
}
