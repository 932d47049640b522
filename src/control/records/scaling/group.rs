//! What a group is to be.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use types::{LaunchTemplateId, SubnetId, Uuid, Zone};

use super::{ScheduledAction, words};
use crate::state::{Key, Record};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScalingGroup {
    pub id: Uuid,
    /// No other group of its space has it.
    pub name: String,
    pub created: Timestamp,
    pub template: TemplateChoice,
    /// How many instances: `min <= desired <= max`.
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    /// Between two changes of the desired size that honour it.
    pub cooldown_s: u32,
    /// Where instances can be; at least one place.
    pub places: Vec<Place>,
    /// The owner named subnets, and not zones.
    pub has_named_subnets: bool,
    /// After an instance is in service, before checks of it count.
    pub grace_s: u32,
    pub termination_policies: Vec<TerminationPolicy>,
    /// New instances are protected from scale-in.
    pub protects_new: bool,
    pub deletion_protection: DeletionProtection,
    pub hooks: Vec<LifecycleHook>,
    pub tags: BTreeMap<String, GroupTag>,
    /// After which an instance is replaced.
    pub lifetime_max_s: Option<u32>,
    pub warmup_s: Option<u32>,
    pub context: Option<String>,
    /// What cannot be launched in its zone is not launched in another one.
    pub balances_only: bool,
    pub suspended: BTreeSet<Process>,
    /// Changes of its sizes that are to come.
    #[serde(default)]
    pub schedule: Vec<ScheduledAction>,
    /// Why its desired size is what it is, until an activity tells of it.
    pub change: Option<CapacityChange>,
    /// Unhealthy instances that went and are to be replaced, until activities tell of it.
    pub replaced: u32,
    /// It goes with all that is in it.
    pub is_deleting: bool,
    /// Places where launches failed last.
    pub failures: Vec<LaunchFailure>,
    /// How many activities there have been.
    pub activities: u64,
    /// When an activity ended last that changed its size.
    pub scaled: Option<Timestamp>,
}

impl ScalingGroup {
    pub fn is_suspended(&self, process: Process) -> bool {
        self.suspended.contains(&process)
    }

    /// How many there are to be, now.
    pub const fn wanted(&self) -> u32 {
        if self.is_deleting { 0 } else { self.desired }
    }

    /// The hooks of a transition.
    pub fn hooks_of(&self, transition: Transition) -> impl Iterator<Item = &LifecycleHook> {
        self.hooks.iter().filter(move |hook| hook.transition == transition)
    }

    /// Whether launches in a subnet failed, and when the next one may be tried.
    pub fn failure_in(&self, subnet: SubnetId) -> Option<&LaunchFailure> {
        self.failures.iter().find(|failure| failure.subnet == subnet)
    }
}

/// Which version of which template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateChoice {
    pub template: LaunchTemplateId,
    pub version: TemplateVersion,
}

/// `$Latest` and `$Default` are what they are when an instance is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateVersion {
    Latest,
    Default,
    Number(u64),
}

/// A subnet, and the zone that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub zone: Zone,
    pub subnet: SubnetId,
}

words! {
    /// Who goes first. Each leaves fewer to choose from, until one is left.
    /// Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html>.
    TerminationPolicy {
        /// There is one way to buy instances: it leaves all of them.
        AllocationStrategy = "AllocationStrategy",
        ClosestToNextInstanceHour = "ClosestToNextInstanceHour",
        Default = "Default",
        NewestInstance = "NewestInstance",
        OldestInstance = "OldestInstance",
        /// There are no launch configurations: it leaves all of them.
        OldestLaunchConfiguration = "OldestLaunchConfiguration",
        OldestLaunchTemplate = "OldestLaunchTemplate",
    }
}

words! {
    /// What a group does by itself, and can be told not to do.
    /// Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-suspend-resume-processes.html>.
    Process {
        AddToLoadBalancer = "AddToLoadBalancer",
        AlarmNotification = "AlarmNotification",
        AzRebalance = "AZRebalance",
        HealthCheck = "HealthCheck",
        InstanceRefresh = "InstanceRefresh",
        Launch = "Launch",
        ReplaceUnhealthy = "ReplaceUnhealthy",
        ScheduledActions = "ScheduledActions",
        Terminate = "Terminate",
    }
}

words! {
    /// Whom a group may be deleted by.
    DeletionProtection {
        None = "none",
        /// Only once nothing is in it.
        PreventForceDeletion = "prevent-force-deletion",
        PreventAllDeletion = "prevent-all-deletion",
    }
}

words! {
    /// When a hook is called.
    Transition {
        Launching = "autoscaling:EC2_INSTANCE_LAUNCHING",
        Terminating = "autoscaling:EC2_INSTANCE_TERMINATING",
    }
}

words! {
    /// How a hook's wait ends.
    HookResult {
        Continue = "CONTINUE",
        Abandon = "ABANDON",
    }
}

/// That instances wait for somebody on their way into service, or out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleHook {
    pub name: String,
    pub transition: Transition,
    pub metadata: Option<String>,
    /// 30 to 7200.
    pub heartbeat_s: u32,
    /// What becomes of it when nobody comes.
    pub default_result: HookResult,
}

impl LifecycleHook {
    /// How long a wait may last with all its heartbeats: 48 hours, or 100 times a heartbeat's, if that is less.
    pub fn wait_max(&self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(self.heartbeat_s) * 100).min(SignedDuration::from_hours(48))
    }

    pub fn heartbeat(&self) -> SignedDuration {
        SignedDuration::from_secs(self.heartbeat_s.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTag {
    pub value: String,
    /// Instances that are launched or attached get it too.
    pub is_propagated: bool,
}

/// What somebody did to the desired size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityChange {
    pub at: Timestamp,
    /// After "At …": `a user request …`.
    pub why: String,
}

/// Launches in a place failed, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFailure {
    pub subnet: SubnetId,
    /// In a row.
    pub count: u32,
    /// The next one is tried then.
    pub until: Timestamp,
}

impl Record for ScalingGroup {
    type Id = Uuid;

    const KIND: &'static str = "scaling_group";

    fn id(&self) -> Uuid {
        self.id
    }

    fn resource(_: Uuid) -> Option<types::ResourceId> {
        None
    }

    fn links(&self, link: &mut dyn FnMut(types::ResourceId)) {
        link(self.template.template.into());
        self.places.iter().for_each(|place| link(place.subnet.into()));
    }

    fn keys(&self, key: &mut dyn FnMut(Key)) {
        key(Key::Name(self.name.clone()));
    }
}
