//! What an instance is told that is to become of it, because who runs the region says so.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::InstanceId;

/// The notices that an instance has. Where there is no record, it has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceNotices {
    /// The instance's.
    pub id: InstanceId,
    /// That it is interrupted, as Spot Instances are.
    pub interruption: Option<Interruption>,
    /// When it was told that its interruption is more likely now.
    pub rebalance: Option<Timestamp>,
    /// Scheduled ones and those that are over, in the order in which they were made known.
    pub events: Vec<InstanceEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    pub action: InterruptionAction,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterruptionAction {
    /// There is no hibernation here: it is stopped.
    Hibernate,
    Stop,
    Terminate,
}

/// Something that is scheduled for an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceEvent {
    /// `instance-event-…`.
    pub id: String,
    pub code: EventCode,
    /// When it happens.
    pub not_before: Timestamp,
    pub state: EventState,
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceStatusEvent.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventCode {
    InstanceReboot,
    InstanceRetirement,
    InstanceStop,
    SystemMaintenance,
    SystemReboot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventState {
    Active,
    Canceled,
    Completed,
}

impl InstanceNotices {
    pub const fn none(id: InstanceId) -> Self {
        Self { id, interruption: None, rebalance: None, events: Vec::new() }
    }

    /// When the next thing happens that was announced.
    pub fn next(&self) -> Option<Timestamp> {
        let active = self.events.iter().filter(|event| event.state == EventState::Active);
        let events = active.map(|event| event.not_before);
        events.chain(self.interruption.map(|interruption| interruption.at)).min()
    }

    /// Has all that was announced be past: an interruption is forgotten, events are remembered as `state`.
    pub fn end(&mut self, state: EventState) {
        (self.interruption, self.rebalance) = (None, None);
        for event in self.events.iter_mut().filter(|event| event.state == EventState::Active) {
            event.state = state;
        }
    }
}

impl InterruptionAction {
    pub const ALL: [Self; 3] = [Self::Hibernate, Self::Stop, Self::Terminate];

    /// As AWS writes it.
    pub const fn word(self) -> &'static str {
        match self {
            InterruptionAction::Hibernate => "hibernate",
            InterruptionAction::Stop => "stop",
            InterruptionAction::Terminate => "terminate",
        }
    }
}

impl EventState {
    /// As AWS writes it.
    pub const fn word(self) -> &'static str {
        match self {
            EventState::Active => "active",
            EventState::Canceled => "canceled",
            EventState::Completed => "completed",
        }
    }
}

impl EventCode {
    pub const ALL: [Self; 5] = [
        Self::InstanceReboot,
        Self::InstanceRetirement,
        Self::InstanceStop,
        Self::SystemMaintenance,
        Self::SystemReboot,
    ];

    /// As AWS writes it.
    pub const fn word(self) -> &'static str {
        match self {
            EventCode::InstanceReboot => "instance-reboot",
            EventCode::InstanceRetirement => "instance-retirement",
            EventCode::InstanceStop => "instance-stop",
            EventCode::SystemMaintenance => "system-maintenance",
            EventCode::SystemReboot => "system-reboot",
        }
    }
}

impl InstanceEvent {
    /// What a person is told of it.
    pub fn description(&self) -> String {
        let what = match self.code {
            EventCode::InstanceReboot | EventCode::SystemReboot => "scheduled reboot",
            EventCode::InstanceRetirement | EventCode::InstanceStop => {
                "The instance is running on degraded hardware"
            }
            EventCode::SystemMaintenance => "scheduled maintenance",
        };
        match self.state {
            EventState::Active => what.to_owned(),
            EventState::Canceled => format!("[Canceled] {what}"),
            EventState::Completed => format!("[Completed] {what}"),
        }
    }
}

impl crate::state::Record for InstanceNotices {
    type Id = InstanceId;

    const KIND: &'static str = "instance_notices";

    fn id(&self) -> InstanceId {
        self.id
    }

    /// It is the instance that is a resource.
    fn resource(_: InstanceId) -> Option<types::ResourceId> {
        None
    }

    fn is_settled(&self) -> bool {
        self.next().is_none()
    }
}
