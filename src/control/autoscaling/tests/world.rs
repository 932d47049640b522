//! A region on a paused clock: a host that is not there, a store that outlives whoever writes it, and a group.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aws::Error;
use serde_json::json;
use tokio::task::JoinHandle;
use types::{InstanceId, LaunchTemplateId, RandomId as _, Uuid};

use crate::autoscaling::observe::{by_name, members, seen};
use crate::autoscaling::{api, group};
use crate::capacity::Overcommit;
use crate::ledger::{Ledger, Stopped};
use crate::plane::Plane;
use crate::ports::{Disks, Machine, Machines as _};
use crate::reconcile::{disk, instance::InstanceReconciler, scaling, unhosted};
use crate::records::{
    Instance, InstanceState, LaunchTemplate, LaunchTemplateVersion, MemberState, ScalingActivity,
    ScalingGroup, ScalingMember, TagSet, TemplateChoice, TemplateVersion, VersionId,
};
use crate::simulation::{Delays, Simulation};
use crate::state::{Transaction, View};
use crate::store::{Memory, Store};
use crate::testing::{FakeMachines, Seeded, TokioClock, space};

pub(super) const NAME: &str = "web";

pub(super) struct World {
    store: Arc<dyn Store>,
    clock: Arc<TokioClock>,
    pub(super) host: Arc<Simulation>,
    pub(super) machines: Arc<FakeMachines>,
    pub(super) plane: Arc<Plane>,
    work: Vec<JoinHandle<Result<(), Stopped>>>,
    starts: u64,
}

pub(super) fn template() -> LaunchTemplateId {
    LaunchTemplateId::from_random([5; 16])
}

impl World {
    /// A group of `desired` at most ten in all zones, once `change` has had its say.
    pub(super) async fn with_group(
        delays: Delays,
        desired: i32,
        change: impl FnOnce(&mut api::CreateAutoScalingGroupType),
    ) -> Self {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let host = Arc::new(Simulation::with(delays));
        let clock = TokioClock::start();
        let machines = Arc::new(FakeMachines::new(Arc::clone(&host)));
        let plane = open(&store, &clock, &machines, 1).await;
        crate::seed_images(&plane, &crate::default_seed()).await.unwrap();
        plane.begin(space()).await.unwrap();
        let mut world = Self { store, clock, host, machines, plane, work: Vec::new(), starts: 1 };
        world.run();
        world.write(put_template).await;
        let mut input = api::CreateAutoScalingGroupType {
            auto_scaling_group_name: NAME.to_owned(),
            launch_template: Some(api::LaunchTemplateSpecification {
                launch_template_id: Some(template().to_string()),
                ..Default::default()
            }),
            max_size: 10,
            desired_capacity: Some(desired),
            availability_zones: space().region.zones().map(|zone| zone.to_string()).to_vec(),
            ..Default::default()
        };
        change(&mut input);
        world.ask(|tx| group::create(tx, input)).await.unwrap();
        world
    }

    fn run(&mut self) {
        let (plane, machines) = (&self.plane, &self.machines);
        let instances = InstanceReconciler::new(Arc::clone(plane), machines.clone()).run();
        let disks: Arc<dyn Disks> = self.host.clone();
        self.work = vec![
            tokio::spawn(instances),
            tokio::spawn(disk::run(Arc::clone(plane), disks)),
            tokio::spawn(scaling::run(Arc::clone(plane))),
            tokio::spawn(unhosted::run(Arc::clone(plane))),
        ];
    }

    /// Ends who works where they are; the next ones find what the store has.
    pub(super) async fn kill(&mut self) {
        for work in self.work.drain(..) {
            work.abort();
            let _ = work.await;
        }
        self.starts += 1;
        self.plane = open(&self.store, &self.clock, &self.machines, self.starts).await;
        self.run();
    }

    pub(super) async fn write<T>(&self, change: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        self.plane.ledger.write(space(), |tx| Ok::<_, Infallible>(change(tx))).await.unwrap()
    }

    pub(super) async fn ask<T>(
        &self,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.plane.write(space(), operation).await
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        let now = self.plane.ledger.now();
        self.plane.ledger.read(|state| look(View::new(state, space(), now))).0
    }

    pub(super) fn group(&self) -> Option<ScalingGroup> {
        self.look(|view| by_name(view, NAME).cloned())
    }

    pub(super) fn members(&self) -> Vec<ScalingMember> {
        self.look(|view| {
            by_name(view, NAME).map_or_else(Vec::new, |group| members(view, group.id).cloned().collect())
        })
    }

    /// Instances in service, in the order of their ids.
    pub(super) fn in_service(&self) -> Vec<InstanceId> {
        let members = self.members().into_iter();
        let serving = members.filter(|member| matches!(member.state, MemberState::InService { .. }));
        serving.map(|member| member.id.instance).collect()
    }

    /// The oldest first.
    pub(super) fn activities(&self) -> Vec<ScalingActivity> {
        self.look(|view| {
            let group = by_name(view, NAME);
            group.map_or_else(Vec::new, |group| super::activity::all(view, group.id).cloned().collect())
        })
    }

    pub(super) fn instance(&self, id: InstanceId) -> Option<Instance> {
        self.look(|view| view.get::<Instance>(id).cloned())
    }

    /// Waits until it is so.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let mut changes = self.plane.ledger.changes();
        let wait = async {
            while !is_so(self) {
                changes.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(24 * 3600), wait).await;
        assert!(waited.is_ok(), "{what}: {:#?} {:#?}", self.group(), self.members());
    }

    pub(super) async fn until_in_service(&self, count: usize) {
        let is_so = |world: &Self| world.in_service().len() == count && world.members().len() == count;
        self.until(&format!("{count} in service"), is_so).await;
    }

    /// What is wrong with a group that has come to rest: nothing is to be missing, doubled, or left over.
    pub(super) fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        let Some(group) = self.group() else { return vec!["the group is gone".to_owned()] };
        let members = self.members();
        let standing_by = members.iter().filter(|member| member.state == MemberState::Standby).count();
        let serving = self.in_service();
        if serving.len() != group.desired as usize || members.len() != serving.len() + standing_by {
            flaws.push(format!("{} are desired: {members:?}", group.desired));
        }
        self.look(|view| {
            for member in &members {
                let instance = seen(view, member).instance;
                let is_there = instance.is_some_and(|instance| instance.state == InstanceState::Running);
                if !is_there && member.state != MemberState::Standby {
                    flaws.push(format!("{member:?} is not there: {instance:?}"));
                }
            }
            for instance in view.tables().instances.iter() {
                let is_over = matches!(instance.state, InstanceState::Terminated { .. });
                let is_tagged = view.get::<TagSet>(instance.id.into()).is_some_and(|set| {
                    set.tags.get("aws:autoscaling:groupName").is_some_and(|name| name == NAME)
                });
                let is_member = members.iter().any(|member| member.id.instance == instance.id);
                if is_tagged && !is_over && !is_member {
                    flaws.push(format!("{} is left over: {:?}", instance.id, instance.state));
                }
                let runs = self.host.observe(instance.id) == Some(Machine::Running);
                if runs != (instance.state == InstanceState::Running) {
                    flaws.push(format!("{} is {:?}, and runs: {runs}", instance.id, instance.state));
                }
            }
            for id in self.host.ids() {
                if view.get::<Instance>(id).is_none() {
                    flaws.push(format!("{id} runs, and nobody knows it"));
                }
            }
        });
        for activity in self.activities() {
            if activity.end.is_none() {
                flaws.push(format!("{activity:?} goes on"));
            }
        }
        flaws
    }
}

async fn open(
    store: &Arc<dyn Store>,
    clock: &Arc<TokioClock>,
    machines: &Arc<FakeMachines>,
    seed: u64,
) -> Arc<Plane> {
    let entropy = Box::new(Seeded::new(seed << 32));
    let ledger = Ledger::open(Arc::clone(store), clock.clone(), entropy).await.unwrap();
    Plane::new(ledger, machines.clone(), Overcommit::default())
}

fn put_template(tx: &mut Transaction<'_>) {
    let created = tx.now();
    let near = tx.view().state.spaces().filter(|(other, _)| other.region == space().region);
    let image = near.flat_map(|(_, tables)| tables.images.iter()).next().unwrap().id;
    let data = json!({ "ImageId": image.to_string(), "InstanceType": "t3.micro" });
    tx.put(LaunchTemplate {
        id: template(),
        name: "web".to_owned(),
        created,
        default_version: 1,
        last_version: 1,
    });
    let id = VersionId { template: template(), number: 1 };
    tx.put(LaunchTemplateVersion { id, description: None, created, data });
}

/// A template that there is not.
pub(super) fn broken() -> TemplateChoice {
    TemplateChoice { template: LaunchTemplateId::from_random([6; 16]), version: TemplateVersion::Latest }
}

pub(super) fn mended() -> TemplateChoice {
    TemplateChoice { template: template(), version: TemplateVersion::Default }
}

/// The group's own id.
pub(super) fn id_of(world: &World) -> Uuid {
    world.group().map(|group| group.id).unwrap()
}
