//! What tests of the control plane have in common.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use types::{
    AccountId, Clock, ImageId, InstanceId, Instant, RandomId as _, Region, ReservationId, VolumeId,
    VolumeKind, VolumeSpec,
};

use crate::capacity::Overcommit;
use crate::ledger::Ledger;
use crate::plane::Plane;
use crate::records::{
    AttachmentState, Health, Instance, InstanceState, MetadataOptions, ShutdownBehavior, Volume,
    VolumeAttachment, VolumeState,
};
use crate::simulation::Simulation;
use crate::state::{Entropy, Space};
use crate::store::Store;

/// Bytes that follow from a seed.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 1;
        let mut reader = blake3::Hasher::new().update(&self.0.to_le_bytes()).finalize_xof();
        reader.fill(bytes);
    }
}

/// The time of tokio, which a test may stop and move.
#[derive(Debug)]
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.elapsed()
    }
}

pub(crate) fn space() -> Space {
    let account = AccountId::new(123_456_789_012).unwrap();
    Space { account, region: "us-east-1".parse::<Region>().unwrap() }
}

/// Each has ids of its own.
pub(crate) async fn ledger(store: Arc<dyn Store>, seed: u64) -> Ledger {
    Ledger::open(store, TokioClock::start(), Box::new(Seeded::new(seed << 32))).await.unwrap()
}

pub(crate) async fn plane(store: Arc<dyn Store>, seed: u64) -> Arc<Plane> {
    Plane::new(ledger(store, seed).await, Arc::new(Simulation::default()), Overcommit::default())
}

/// One of a small type, by itself.
pub(crate) fn instance(id: InstanceId, state: InstanceState, launched: Timestamp) -> Instance {
    Instance {
        id,
        reservation: ReservationId::from_random([1; 16]),
        launch_index: 0,
        image: ImageId::from_random([2; 16]),
        instance_type: "t3.micro".to_owned(),
        zone: space().region.zones()[0],
        key_name: None,
        public_key: None,
        user_data: Vec::new(),
        root_device_name: "/dev/xvda".to_owned(),
        metadata_options: MetadataOptions::default(),
        shutdown_behavior: ShutdownBehavior::Stop,
        is_protected_from_termination: false,
        is_protected_from_stop: false,
        has_unlimited_credits: true,
        is_monitored: false,
        is_ebs_optimized: false,
        client_token: None,
        placement_group: None,
        partition: None,
        state,
        has_run: false,
        launched,
        reboots_wanted: 0,
        reboots_done: 0,
        health: Health::default(),
        outage: None,
        rest: None,
    }
}

/// The volume that an instance boots from, ready since `now`.
pub(crate) fn root_volume(id: VolumeId, instance: InstanceId, state: VolumeState, now: Timestamp) -> Volume {
    let attachment = VolumeAttachment {
        instance,
        device: "/dev/xvda".to_owned(),
        since: now,
        delete_on_termination: true,
        state: AttachmentState::Attached,
    };
    Volume {
        id,
        zone: space().region.zones()[0],
        spec: VolumeSpec { kind: VolumeKind::Gp3, size_gib: 8, iops: None, throughput_mib_s: None },
        snapshot: None,
        key: None,
        is_multi_attach: false,
        enables_io_by_itself: false,
        created: now,
        state,
        attachments: vec![attachment],
        modification: None,
    }
}
