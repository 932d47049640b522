use types::RandomId as _;

use super::*;
use crate::credits::CREDIT;
use crate::ports::BoxFuture;
use crate::records::Cause;
use crate::simulation::Simulation;
use crate::store::Memory;
use crate::testing::{plane, space};

fn id() -> InstanceId {
    InstanceId::from_random([7; 16])
}

async fn write(plane: &Plane, change: impl FnOnce(&mut Transaction<'_>)) {
    super::super::write(plane, space(), change).await.unwrap();
}

async fn launch(plane: &Plane, instance_type: &str, is_unlimited: bool) {
    write(plane, |tx| {
        let mut instance = crate::testing::instance(id(), InstanceState::Running, tx.now());
        instance.instance_type = instance_type.to_owned();
        instance.has_unlimited_credits = is_unlimited;
        tx.put(instance);
    })
    .await;
}

fn kept(plane: &Plane) -> Option<CpuCredits> {
    plane
        .ledger
        .read(|state| state.space(space())?.cpu_credits.get(id()).map(|kept| CpuCredits::clone(kept)))
        .0
}

/// Lets time pass in which a guest's processors work for a part of it, in thousandths of one.
async fn pass_time(machines: &Simulation, time: Duration, per_mille: u32) {
    for _ in 0..time.as_secs() / 10 {
        machines.work(id(), Duration::from_millis(10) * per_mille);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    // What became of it is noted.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn stop(plane: &Plane) {
    write(plane, |tx| {
        let since = tx.now();
        tx.update::<Instance>(id(), |instance| {
            instance.state = InstanceState::Stopped { cause: Cause::User, since };
        });
    })
    .await;
}

fn is_near(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= CREDIT / 2
}

#[tokio::test(start_paused = true)]
async fn a_standard_instance_is_held_when_it_has_spent_all_and_let_go_when_it_has_some_again() {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    let work = tokio::spawn(run(Arc::clone(&plane), machines.clone()));
    launch(&plane, "t3.micro", false).await;
    // It earns 12 credits in an hour, and spends 2 in a minute.
    pass_time(&machines, Duration::from_secs(3600), 0).await;
    assert_eq!(machines.cpu_limit(id()), None);
    pass_time(&machines, Duration::from_secs(360), 2000).await;
    assert_eq!(machines.cpu_limit(id()), None, "there should be a little left");
    pass_time(&machines, Duration::from_secs(120), 2000).await;
    assert_eq!(machines.cpu_limit(id()), Some(CpuLimit { per_mille: 200 }));
    // At its baseline it gains nothing.
    pass_time(&machines, Duration::from_secs(3600), 200).await;
    assert_eq!(machines.cpu_limit(id()), Some(CpuLimit { per_mille: 200 }));
    pass_time(&machines, Duration::from_secs(360), 0).await;
    assert_eq!(machines.cpu_limit(id()), None);
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_instance_owes_and_is_charged_and_never_held() {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    let work = tokio::spawn(run(Arc::clone(&plane), machines.clone()));
    launch(&plane, "t3.nano", true).await;
    // 120 credits an hour are spent, 6 are earned, and 144 can be owed.
    pass_time(&machines, Duration::from_secs(2 * 3600), 2000).await;
    assert_eq!(machines.cpu_limit(id()), None);
    let balance = kept(&plane).unwrap().balance;
    assert!(is_near(balance.surplus, CREDIT * 144), "{balance:?}");
    assert!(balance.charged > CREDIT * 60, "{balance:?}");
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_has_outlives_its_stop_and_the_process() {
    let (store, machines) = (Arc::new(Memory::new()), Arc::new(Simulation::default()));
    let first = plane(store.clone(), 1).await;
    let work = tokio::spawn(run(Arc::clone(&first), machines.clone()));
    launch(&first, "t3.micro", true).await;
    pass_time(&machines, Duration::from_secs(3600), 0).await;
    assert_eq!(kept(&first), None, "an idle instance needs no record");
    stop(&first).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(is_near(kept(&first).unwrap().balance.earned, CREDIT * 12), "{:?}", kept(&first));
    work.abort();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // Another process, in which it is started again: nothing is earned by who is stopped.
    let next = plane(store, 2).await;
    let work = tokio::spawn(run(Arc::clone(&next), machines.clone()));
    // The clock of this one begins anew, later than that of the other ends.
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    launch(&next, "t3.micro", true).await;
    pass_time(&machines, Duration::from_secs(3600), 0).await;
    stop(&next).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(is_near(kept(&next).unwrap().balance.earned, CREDIT * 24), "{:?}", kept(&next));
    work.abort();
}

/// A host that measures and cannot hold back.
struct Weak(Simulation);

impl Machines for Weak {
    fn observe(&self, id: InstanceId) -> Option<crate::ports::Machine> {
        self.0.observe(id)
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.0.ids()
    }

    fn start<'a>(
        &'a self,
        spec: crate::ports::MachineSpec,
    ) -> BoxFuture<'a, Result<(), crate::ports::HostError>> {
        self.0.start(spec)
    }

    fn press_power_button(&self, id: InstanceId) -> BoxFuture<'_, Result<(), crate::ports::HostError>> {
        self.0.press_power_button(id)
    }

    fn reset(&self, id: InstanceId) -> BoxFuture<'_, Result<(), crate::ports::HostError>> {
        self.0.reset(id)
    }

    fn kill(&self, id: InstanceId) -> BoxFuture<'_, Result<(), crate::ports::HostError>> {
        self.0.kill(id)
    }

    fn forget(&self, id: InstanceId) -> BoxFuture<'_, Result<(), crate::ports::HostError>> {
        self.0.forget(id)
    }

    fn discard(&self, id: InstanceId) -> BoxFuture<'_, Result<(), crate::ports::HostError>> {
        self.0.discard(id)
    }

    fn console(&self, id: InstanceId) -> BoxFuture<'_, Result<Vec<u8>, crate::ports::HostError>> {
        self.0.console(id)
    }

    fn cpu_time(&self, id: InstanceId) -> Option<Duration> {
        self.0.cpu_time(id)
    }

    fn interfaces(&self, id: InstanceId) -> Option<std::collections::BTreeSet<types::NetworkInterfaceId>> {
        self.0.interfaces(id)
    }

    fn plug_interface<'a>(
        &'a self,
        id: InstanceId,
        spec: &'a crate::ports::InterfaceSpec,
    ) -> BoxFuture<'a, Result<(), crate::ports::HostError>> {
        self.0.plug_interface(id, spec)
    }

    fn unplug_interface(
        &self,
        id: InstanceId,
        interface: types::NetworkInterfaceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), crate::ports::HostError>> {
        self.0.unplug_interface(id, interface, is_forced)
    }

    fn on_change(&self, call: Arc<dyn Fn(InstanceId) + Send + Sync>) {
        self.0.on_change(call);
    }
}

#[tokio::test(start_paused = true)]
async fn where_processors_cannot_be_held_they_are_counted() {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Weak(Simulation::default())));
    let work = tokio::spawn(run(Arc::clone(&plane), machines.clone()));
    launch(&plane, "t3.micro", false).await;
    pass_time(&machines.0, Duration::from_secs(2 * 3600), 1000).await;
    assert!(is_near(kept(&plane).unwrap().balance.spendable(), Duration::ZERO), "{:?}", kept(&plane));
    assert_eq!(machines.0.cpu_limit(id()), None);
    work.abort();
}
