//! Virtual machines.
//!
//! ```text
//! Pending ──▶ Running ──▶ Stopping ──▶ Stopped ──start──▶ Pending
//!    │           │            │           │
//!    └───────────┴────────────┴───────────┴──▶ ShuttingDown ──▶ Terminated
//!
//! Running, for an image: no rest ─▶ Wanted ─▶ ShuttingDown ─▶ Begun ─▶ Over ─▶ no rest
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{ImageId, InstanceId, PlacementGroupId, ReservationId, Zone};

use super::Health;
use crate::catalog::InstanceType;
use crate::state::Counted;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub reservation: ReservationId,
    /// Its number among those launched together.
    pub launch_index: u32,
    pub image: ImageId,
    /// `t3.micro`, say.
    pub instance_type: String,
    pub zone: Zone,
    pub key_name: Option<String>,
    /// Of the key pair, which may be gone since: one line of `authorized_keys`.
    #[serde(default)]
    pub public_key: Option<String>,
    /// As the guest gets it.
    #[serde(with = "base64_bytes")]
    pub user_data: Vec<u8>,
    pub root_device_name: String,
    pub metadata_options: MetadataOptions,
    pub shutdown_behavior: ShutdownBehavior,
    pub is_protected_from_termination: bool,
    pub is_protected_from_stop: bool,
    /// CPU credits beyond the earned ones can be spent, and are charged.
    pub has_unlimited_credits: bool,
    pub is_monitored: bool,
    pub is_ebs_optimized: bool,
    /// What the client called the request that launched it.
    pub client_token: Option<String>,
    pub placement_group: Option<PlacementGroupId>,
    /// Of the placement group.
    pub partition: Option<u8>,
    pub state: InstanceState,
    /// It has begun to run since it was launched: it is not given up because it cannot be started again.
    #[serde(default)]
    pub has_run: bool,
    /// When it last began to start.
    pub launched: Timestamp,
    /// How often it was to be rebooted, and was.
    pub reboots_wanted: u64,
    pub reboots_done: u64,
    /// While it runs.
    #[serde(default)]
    pub health: Health,
    /// Its zone has failed under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
    /// It is being imaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

/// Why an instance has no microVM though its state says that it has one: to its owner it is there, and unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    pub since: Timestamp,
    /// The zone has recovered, and the instance has not yet.
    pub is_over: bool,
}

/// How far an instance has come whose guest shuts down, has snapshots of its volumes begin, and is started again. To its owner it runs all the
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// The guest runs until the snapshots can begin.
    Wanted,
    ShuttingDown {
        since: Timestamp,
    },
    /// There is no microVM: the snapshots may begin.
    Begun,
    /// They have begun, and it is started.
    Over,
}

impl Instance {
    /// Whether its guest is to run and to answer.
    pub fn is_up(&self) -> bool {
        self.state == InstanceState::Running && self.outage.is_none() && !self.is_resting()
    }

    /// Whether its guest is down for a while though its state does not say so, or about to be.
    pub fn is_resting(&self) -> bool {
        self.state == InstanceState::Running && !matches!(self.rest, None | Some(Rest::Wanted))
    }

    /// Whether it takes up room on a host.
    pub fn is_on_host(&self) -> bool {
        match self.state {
            InstanceState::Pending
            | InstanceState::Running
            | InstanceState::Stopping { .. }
            | InstanceState::ShuttingDown { .. } => true,
            InstanceState::Stopped { .. } | InstanceState::Terminated { .. } => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    Pending,
    Running,
    Stopping {
        cause: Cause,
        is_forced: bool,
        since: Timestamp,
    },
    Stopped {
        cause: Cause,
        since: Timestamp,
    },
    ShuttingDown {
        cause: Cause,
        since: Timestamp,
    },
    /// Until nobody can remember it any more, an hour later.
    Terminated {
        cause: Cause,
        since: Timestamp,
    },
}

/// Why an instance is not running any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A request.
    User,
    /// The guest powered itself off.
    Guest,
    /// What happened, by a code such as `Server.InternalError`.
    Failure { code: String, message: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownBehavior {
    Stop,
    Terminate,
}

/// How the guest can ask for its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataOptions {
    pub is_enabled: bool,
    /// Only with a token: version 2.
    pub requires_token: bool,
    /// 1 to 64.
    pub token_hop_limit: u8,
    pub shows_tags: bool,
}

impl crate::state::Record for Instance {
    type Id = InstanceId;

    const KIND: &'static str = "instance";

    fn id(&self) -> InstanceId {
        self.id
    }

    fn resource(id: InstanceId) -> Option<types::ResourceId> {
        Some(id.into())
    }

    fn links(&self, link: &mut dyn FnMut(types::ResourceId)) {
        link(self.reservation.into());
        link(self.image.into());
        // One that is no more is in nobody's way.
        if let Some(group) =
            self.placement_group.filter(|_| !matches!(self.state, InstanceState::Terminated { .. }))
        {
            link(group.into());
        }
    }

    fn counts(&self, count: &mut dyn FnMut(Counted, u64)) {
        if let Some(kind) = InstanceType::find(&self.instance_type).filter(|_| self.is_on_host()) {
            count(Counted::Vcpus, kind.vcpus.into());
            count(Counted::MemoryMib, kind.memory_mib.into());
        }
    }

    fn is_settled(&self) -> bool {
        match self.state {
            InstanceState::Running => {
                self.reboots_done == self.reboots_wanted
                    && self.outage.is_none()
                    && self.rest.is_none()
                    && self.health != Health::Initializing
            }
            InstanceState::Stopped { .. } | InstanceState::Terminated { .. } => true,
            InstanceState::Pending | InstanceState::Stopping { .. } | InstanceState::ShuttingDown { .. } => {
                false
            }
        }
    }
}

/// Bytes as base64 in JSON.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
