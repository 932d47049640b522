//! With instances as their own reconciler has them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use types::{RandomId, VolumeId};

use super::*;
use crate::reconcile::instance::InstanceReconciler;
use crate::records::{Cause, Outage, Rest, VolumeState};
use crate::simulation::{Delays, Simulation};
use crate::state::Transaction;
use crate::store::Memory;
use crate::testing::{FakeMachines, plane, space};

fn id<Id: RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

/// That the interface of this number is the instance's, by the same place there.
fn attachment(number: u8, now: Timestamp) -> Attachment {
    Attachment {
        id: id(number),
        instance: id(1),
        device_index: number,
        attached: now,
        delete_on_termination: number == 0,
        state: AttachmentState::Attaching,
    }
}

/// An instance with one interface, and another one in none.
fn launch(tx: &mut Transaction<'_>) {
    let now = tx.now();
    let root: VolumeId = id(1);
    tx.put(crate::testing::root_volume(root, id(1), VolumeState::Available, now));
    tx.put(crate::testing::instance(id(1), InstanceState::Pending, now));
    for (number, attachment) in [(0, Some(attachment(0, now))), (1, None)] {
        let ip = Ipv4Addr::new(172, 31, 0, 10 + number);
        tx.put(crate::testing::interface(tx.tables(), id(number), ip, attachment));
    }
}

fn attach(tx: &mut Transaction<'_>) {
    let attachment = attachment(1, tx.now());
    assert!(tx.update::<NetworkInterface>(id(1), |it| it.attachment = Some(attachment)));
}

fn detach(tx: &mut Transaction<'_>, is_forced: bool) {
    let state = AttachmentState::Detaching { is_forced };
    tx.update::<NetworkInterface>(id(1), |it| it.set_attachment_state(state));
}

fn enter(tx: &mut Transaction<'_>, state: InstanceState) {
    assert!(tx.update::<Instance>(id(1), |instance| instance.state = state));
}

fn stop(tx: &mut Transaction<'_>) {
    let since = tx.now();
    enter(tx, InstanceState::Stopping { cause: Cause::User, is_forced: false, since });
}

fn terminate(tx: &mut Transaction<'_>) {
    let since = tx.now();
    enter(tx, InstanceState::ShuttingDown { cause: Cause::User, since });
}

async fn write(plane: &Plane, change: impl FnOnce(&mut Transaction<'_>)) {
    super::super::write(plane, space(), change).await.unwrap();
}

/// How far the interface of this number is.
fn state(plane: &Plane, number: u8) -> Option<AttachmentState> {
    let look = |state: &State| state.space(space())?.network_interfaces.get(id(number))?.attachment_state();
    plane.ledger.read(look).0
}

fn is_instance(plane: &Plane, is: fn(&InstanceState) -> bool) -> bool {
    plane.ledger.read(|state| is(&state.space(space()).unwrap().instances.get(id(1)).unwrap().state)).0
}

fn is_running(plane: &Plane) -> bool {
    is_instance(plane, |state| *state == InstanceState::Running)
}

fn is_stopped(plane: &Plane) -> bool {
    is_instance(plane, |state| matches!(state, InstanceState::Stopped { .. }))
}

fn is_terminated(plane: &Plane) -> bool {
    is_instance(plane, |state| matches!(state, InstanceState::Terminated { .. }))
}

/// Whether the microVM has the interfaces of these numbers, and no others.
fn has(host: &Simulation, numbers: &[u8]) -> bool {
    host.interfaces(id(1)) == Some(numbers.iter().map(|number| id(*number)).collect::<BTreeSet<_>>())
}

/// Waits until it is so. Time passes only when nothing else is to be done.
async fn until(plane: &Plane, is_so: impl Fn() -> bool) {
    let mut changes = plane.ledger.changes();
    let wait = async {
        while !is_so() {
            changes.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(3600), wait).await;
    assert!(waited.is_ok(), "it stays {:?}, {:?}", state(plane, 0), state(plane, 1));
}

/// Works on a host, until what is returned is dropped.
fn begin(plane: &Arc<Plane>, machines: Arc<dyn Machines>) -> JoinSet<()> {
    let mut work = JoinSet::new();
    let instances = InstanceReconciler::new(Arc::clone(plane), Arc::clone(&machines)).run();
    let interfaces = run(Arc::clone(plane), machines);
    work.spawn(async move { panic!("{:?}", instances.await) });
    work.spawn(async move { panic!("{:?}", interfaces.await) });
    work
}

/// An instance that runs on a host.
async fn running(machines: Arc<dyn Machines>) -> (Arc<Plane>, JoinSet<()>) {
    let plane = plane(Arc::new(Memory::new()), 1).await;
    plane.begin(space()).await.unwrap();
    let work = begin(&plane, machines);
    write(&plane, launch).await;
    until(&plane, || is_running(&plane)).await;
    assert_eq!(state(&plane, 0), Some(AttachmentState::Attached));
    (plane, work)
}

fn detaching(is_forced: bool) -> Option<AttachmentState> {
    Some(AttachmentState::Detaching { is_forced })
}

#[tokio::test(start_paused = true)]
async fn an_interface_is_on_its_way_for_as_long_as_it_takes() {
    let host = Arc::new(Simulation::with(Delays::like_aws(1.0)));
    let (plane, _work) = running(host.clone()).await;
    let start = Instant::now();
    write(&plane, attach).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state(&plane, 1), Some(AttachmentState::Attaching));
    until(&plane, || state(&plane, 1) == Some(AttachmentState::Attached)).await;
    assert!(has(&host, &[0, 1]));
    // It was told, and not found when it was time to look again.
    assert_eq!(start.elapsed().as_secs(), 2);
    write(&plane, |tx| detach(tx, false)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&plane, 1), detaching(false));
    until(&plane, || state(&plane, 1).is_none()).await;
    assert!(has(&host, &[0]));
    assert_eq!(start.elapsed().as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_stops_or_ends_meanwhile_has_what_its_records_say() {
    let host = Arc::new(Simulation::with(Delays::like_aws(1.0)));
    let (plane, _work) = running(host.clone()).await;
    let meanwhile = Duration::from_secs(1);
    // Attaching: it is started with it.
    write(&plane, attach).await;
    tokio::time::sleep(meanwhile).await;
    write(&plane, stop).await;
    until(&plane, || is_stopped(&plane) && state(&plane, 1) == Some(AttachmentState::Attached)).await;
    write(&plane, |tx| enter(tx, InstanceState::Pending)).await;
    until(&plane, || is_running(&plane)).await;
    assert!(has(&host, &[0, 1]));
    // Detaching: it is started without.
    write(&plane, |tx| detach(tx, false)).await;
    tokio::time::sleep(meanwhile).await;
    write(&plane, stop).await;
    until(&plane, || is_stopped(&plane) && state(&plane, 1).is_none()).await;
    write(&plane, attach).await;
    until(&plane, || state(&plane, 1) == Some(AttachmentState::Attached)).await;
    write(&plane, |tx| {
        detach(tx, false);
        enter(tx, InstanceState::Pending);
    })
    .await;
    until(&plane, || is_running(&plane)).await;
    assert!(has(&host, &[0]));
    write(&plane, stop).await;
    until(&plane, || is_stopped(&plane) && state(&plane, 1).is_none()).await;
    // Attached to one that is stopped, and taken back while it is started.
    write(&plane, attach).await;
    until(&plane, || state(&plane, 1) == Some(AttachmentState::Attached)).await;
    write(&plane, |tx| enter(tx, InstanceState::Pending)).await;
    tokio::time::sleep(meanwhile).await;
    write(&plane, |tx| detach(tx, false)).await;
    until(&plane, || is_running(&plane) && state(&plane, 1).is_none()).await;
    assert!(has(&host, &[0]));
    write(&plane, attach).await;
    tokio::time::sleep(meanwhile).await;
    write(&plane, terminate).await;
    until(&plane, || is_terminated(&plane)).await;
    assert_eq!((state(&plane, 1), host.interfaces(id(1))), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_a_host_cannot_do_leaves_nothing() {
    let fake = Arc::new(FakeMachines::new(Arc::new(Simulation::default())));
    let (plane, _work) = running(fake.clone()).await;
    let refuse = |error: HostError| *fake.answer.lock().unwrap() = Some(Err(error));
    // It may be over soon: it is asked again for as long as there is time.
    refuse(HostError::Unavailable("its process died".to_owned()));
    let start = Instant::now();
    write(&plane, attach).await;
    tokio::time::sleep(RETRY * 5).await;
    assert_eq!(state(&plane, 1), Some(AttachmentState::Attaching));
    until(&plane, || state(&plane, 1).is_none()).await;
    assert_eq!(start.elapsed().as_secs(), DEADLINE.unsigned_abs().as_secs());
    refuse(HostError::Failed("there is no slot".to_owned()));
    let start = Instant::now();
    write(&plane, attach).await;
    until(&plane, || state(&plane, 1).is_none()).await;
    assert!(start.elapsed() < RETRY);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_let_go_is_asked_now_and_then_until_it_is_forced() {
    let fake = Arc::new(FakeMachines::new(Arc::new(Simulation::default())));
    let (plane, _work) = running(fake.clone()).await;
    write(&plane, attach).await;
    until(&plane, || state(&plane, 1) == Some(AttachmentState::Attached)).await;
    *fake.answer.lock().unwrap() = Some(Ok(()));
    let before = fake.asked.load(Ordering::Relaxed);
    write(&plane, |tx| detach(tx, false)).await;
    tokio::time::sleep(RETRY * 3 + RETRY / 2).await;
    assert_eq!(fake.asked.load(Ordering::Relaxed) - before, 4);
    assert_eq!(state(&plane, 1), detaching(false));
    *fake.answer.lock().unwrap() = None;
    let start = Instant::now();
    write(&plane, |tx| detach(tx, true)).await;
    until(&plane, || state(&plane, 1).is_none()).await;
    assert!(start.elapsed() < RETRY / 10, "it waited for its turn");
}

#[test]
fn what_an_instance_has_is_known_when_it_is_up() {
    let now = Timestamp::UNIX_EPOCH;
    let plan = |instance: &Instance, has_it| {
        let states = [AttachmentState::Attaching, AttachmentState::Detaching { is_forced: false }];
        states.map(|state| plan(&Attachment { state, ..attachment(1, now) }, instance, has_it, now))
    };
    let is = |state| crate::testing::instance(id(1), state, now);
    let attached = Step::Note(Change::Enter(AttachmentState::Attached));
    let released = Step::Note(Change::Release);
    let (running, cause, since) = (is(InstanceState::Running), Cause::User, now);
    assert_eq!(plan(&running, Some(true)), [attached, Step::Do(Effect::Unplug { is_forced: false })]);
    assert_eq!(plan(&running, Some(false)), [Step::Do(Effect::Plug), released]);
    assert_eq!(plan(&is(InstanceState::Stopped { cause: cause.clone(), since }), None), [attached, released]);
    let in_outage = Instance { outage: Some(Outage { since, is_over: false }), ..running.clone() };
    let at_rest = Instance { rest: Some(Rest::Begun), ..running.clone() };
    let stopping = is(InstanceState::Stopping { cause, is_forced: false, since });
    for instance in [in_outage, at_rest, stopping, is(InstanceState::Pending)] {
        for has_it in [None, Some(false), Some(true)] {
            assert_eq!(plan(&instance, has_it), [Step::Wait; 2], "{instance:?}");
        }
    }
    assert_eq!(plan(&running, None), [Step::Wait; 2]);
}

/// What is asked for, and when it is done.
type Wish = (fn(&mut Transaction<'_>), fn(&Plane, &Simulation) -> bool);

const WISHES: [Wish; 6] = [
    (|_| {}, |plane, host| is_running(plane) && has(host, &[0])),
    (attach, |plane, host| state(plane, 1) == Some(AttachmentState::Attached) && has(host, &[0, 1])),
    (|tx| detach(tx, false), |plane, host| state(plane, 1).is_none() && has(host, &[0])),
    (
        |tx| {
            attach(tx);
            stop(tx);
        },
        |plane, _| is_stopped(plane) && state(plane, 1) == Some(AttachmentState::Attached),
    ),
    (|tx| enter(tx, InstanceState::Pending), |plane, host| is_running(plane) && has(host, &[0, 1])),
    (
        |tx| {
            detach(tx, true);
            terminate(tx);
        },
        |plane, _| is_terminated(plane) && state(plane, 1).is_none(),
    ),
];

#[tokio::test(start_paused = true)]
async fn a_process_that_is_killed_between_any_two_effects_is_gone_on_from() {
    // As many as a process that is not killed asks for, and one more.
    const EFFECTS: usize = 8;
    for after in [false, true] {
        for effects in 0..=EFFECTS {
            let (store, host) = (Arc::new(Memory::new()), Arc::new(Simulation::default()));
            let mut seed = 1;
            let mut current = plane(store.clone(), seed).await;
            current.begin(space()).await.unwrap();
            write(&current, launch).await;
            let fake = Arc::new(FakeMachines::stopping(host.clone(), effects, after));
            let mut work = begin(&current, fake.clone());
            for (wish, is_granted) in WISHES {
                write(&current, wish).await;
                let granted = until(&current, || is_granted(&current, &host));
                if tokio::time::timeout(RETRY * 5, granted).await.is_err() {
                    // It hangs at the last effect: another process takes over.
                    drop(work);
                    seed += 1;
                    current = plane(store.clone(), seed).await;
                    work = begin(&current, host.clone());
                    until(&current, || is_granted(&current, &host)).await;
                }
            }
            assert_eq!(host.interfaces(id(1)), None, "{effects} effects, {after}");
            assert_eq!(fake.asked.load(Ordering::Relaxed) > effects, effects < EFFECTS, "{effects} effects");
            drop(work);
        }
    }
}
