//! What follows from records alone. What clients see is tried by tests/native/api/test_load_balancers.py.

use std::net::Ipv4Addr;

use aws::elbv2;
use jiff::{SignedDuration, Timestamp};
use types::RandomId as _;

use super::*;
use crate::ec2;
use crate::records::{
    Instance, InstanceState, LoadBalancer, LoadBalancerState, RegisteredTarget, TargetGroup, TargetHealth,
    TargetId, TargetKey, TargetState,
};
use crate::state::{State, Transaction, View};
use crate::testing::{Seeded, interface, space};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 77);

struct World {
    state: State,
    entropy: Seeded,
}

impl World {
    fn new() -> Self {
        let mut world = Self { state: State::default(), entropy: Seeded::new(0) };
        world.write(NOW, ec2::begin);
        world
    }

    fn write<T>(&mut self, now: Timestamp, change: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let mut tx = Transaction::begin(&mut self.state, space(), now, &mut self.entropy);
        let done = change(&mut tx);
        tx.finish();
        done
    }

    fn view(&self, now: Timestamp) -> View<'_> {
        View::new(&self.state, space(), now)
    }
}

/// A group in the default VPC, of instances.
fn group(tx: &mut Transaction<'_>) -> TargetGroup {
    let group = TargetGroup {
        id: tx.new_id(),
        name: "web".to_owned(),
        vpc: tx.tables().vpcs.iter().next().unwrap().id,
        target_type: crate::records::TargetType::Instance,
        protocol: balancer::config::Protocol::Http,
        port: 80,
        health_check: balancer::config::HealthCheck::default(),
        attributes: attribute::Kept::new(),
        created: tx.now(),
    };
    tx.put(group.clone());
    group
}

/// An instance that runs in the default VPC.
fn instance(tx: &mut Transaction<'_>) -> types::InstanceId {
    let id = types::InstanceId::from_random([7; 16]);
    let attachment = crate::records::Attachment {
        id: tx.new_id(),
        instance: id,
        device_index: 0,
        attached: tx.now(),
        delete_on_termination: true,
        state: crate::records::AttachmentState::Attached,
    };
    let interface_id = tx.new_id();
    let made = interface(tx.tables(), interface_id, ADDRESS, Some(attachment));
    let zone = tx.tables().subnets.get(made.subnet).unwrap().zone;
    tx.put(made);
    let running = crate::testing::instance(id, InstanceState::Running, tx.now());
    tx.put(Instance { zone, ..running });
    id
}

#[test]
fn what_is_drained_is_gone_when_its_time_is_over_whoever_notes_it() {
    let mut world = World::new();
    let key = world.write(NOW, |tx| {
        let (group, instance) = (group(tx), instance(tx));
        let key = TargetKey { group: group.id, target: TargetId::Instance(instance), port: 80 };
        target::register(tx, &group, &[key]).unwrap();
        let until = NOW + SignedDuration::from_secs(300);
        tx.put(RegisteredTarget { id: key, state: TargetState::Draining { until } });
        key
    });
    let shown = |world: &World, seconds| {
        target_health::health(world.view(NOW + SignedDuration::from_secs(seconds)), key).state
    };
    assert_eq!(shown(&world, 299), Some(elbv2::TargetHealthStateEnum::Draining));
    assert_eq!(shown(&world, 300), Some(elbv2::TargetHealthStateEnum::Unused));
    let is_due = |world: &World, seconds| {
        let now = NOW + SignedDuration::from_secs(seconds);
        crate::reconcile::target::is_due(world.view(now).tables(), now)
    };
    assert!(!is_due(&world, 299) && is_due(&world, 300));
    world.write(NOW + SignedDuration::from_secs(300), crate::reconcile::target::pass);
    assert!(world.view(NOW).get::<RegisteredTarget>(key).is_none());
}

#[test]
fn targets_go_with_their_instances() {
    let mut world = World::new();
    let key = world.write(NOW, |tx| {
        let (group, instance) = (group(tx), instance(tx));
        let key = TargetKey { group: group.id, target: TargetId::Instance(instance), port: 80 };
        target::register(tx, &group, &[key]).unwrap();
        key
    });
    world.write(NOW, crate::reconcile::target::pass);
    assert!(world.view(NOW).get::<RegisteredTarget>(key).is_some());
    let TargetId::Instance(id) = key.target else { unreachable!() };
    world.write(NOW, |tx| tx.remove::<Instance>(id));
    world.write(NOW, crate::reconcile::target::pass);
    assert!(world.view(NOW).get::<RegisteredTarget>(key).is_none());
}

#[test]
fn a_target_in_a_zone_without_a_node_is_not_used() {
    let mut world = World::new();
    let (balancer, key) = world.write(NOW, |tx| {
        let (group, instance) = (group(tx), instance(tx));
        let key = TargetKey { group: group.id, target: TargetId::Instance(instance), port: 80 };
        target::register(tx, &group, &[key]).unwrap();
        let zone = tx.get::<Instance>(instance).unwrap().zone;
        let nodes = tx.tables().subnets.iter().filter(|subnet| subnet.zone != zone);
        let nodes = nodes.map(|subnet| crate::records::BalancerNode {
            subnet: subnet.id,
            interface: types::NetworkInterfaceId::from_random([9; 16]),
        });
        let balancer = LoadBalancer {
            id: types::LoadBalancerId::from_random([1; 16]),
            name: "shop".to_owned(),
            scheme: crate::records::Scheme::Internal,
            vpc: group.vpc,
            nodes: nodes.collect(),
            groups: Vec::new(),
            attributes: attribute::Kept::new(),
            created: NOW,
            state: LoadBalancerState::Active,
        };
        (balancer, key)
    });
    let registered = RegisteredTarget { id: key, state: TargetState::Registered(TargetHealth::Healthy) };
    let found = target::standing(world.view(NOW), Some(&balancer), &registered);
    assert!(matches!(found, target::Standing::Unused { .. }));
}

#[test]
fn names_of_load_balancers_do_not_change() {
    let balancer = LoadBalancer {
        id: "elb-50dc6c495c0c9188".parse().unwrap(),
        name: "shop".to_owned(),
        scheme: crate::records::Scheme::Internal,
        vpc: types::VpcId::from_random([1; 16]),
        nodes: Vec::new(),
        groups: Vec::new(),
        attributes: attribute::Kept::new(),
        created: NOW,
        state: LoadBalancerState::Active,
    };
    let name = dns_name(space().region, &balancer);
    assert_eq!(name, "internal-shop-1544327560.us-east-1.elb.amazonaws.com");
    assert_eq!(
        arn::of_load_balancer(space(), &balancer),
        "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/shop/50dc6c495c0c9188"
    );
    for region in types::Region::all() {
        assert!(names::hosted_zone(region).is_some(), "{region}");
    }
}

#[test]
fn every_default_of_an_attribute_can_be_set() {
    for all in [attribute::OF_LOAD_BALANCERS, attribute::OF_TARGET_GROUPS, attribute::OF_LISTENERS] {
        let defaults: Vec<_> = attribute::shown(all, &attribute::Kept::new()).collect();
        let mut kept = attribute::Kept::new();
        let wanted = defaults.iter().map(|(key, value)| (Some(key.as_str()), Some(value.as_str())));
        attribute::set(all, &mut kept, wanted).unwrap();
        assert_eq!(attribute::shown(all, &kept).collect::<Vec<_>>(), defaults);
    }
    let none = attribute::Kept::new();
    assert_eq!(attribute::of_load_balancer(&none), balancer::config::Attributes::default());
}
