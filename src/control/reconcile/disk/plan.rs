//! What is to be done about a volume or a snapshot: pure functions of records and of what the host says.
//!
//! A plan has everything that can be done now: effects on the host, and changes of the record. [`Change`]s are made where they
//! still fit ([`Change::make`]): the record may have become another one since it was planned for.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use types::InstanceId;

use crate::ports::{Disk, SnapshotProgress};
use crate::records::{
    AttachmentState, Image, ImageState, ModificationState, Snapshot, SnapshotState, Volume, VolumeState,
};

/// How long a host may take to make a volume, to modify or to attach one.
pub const DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// How long it may take to make a snapshot.
pub const SNAPSHOT_DEADLINE: SignedDuration = SignedDuration::from_hours(24);

/// What can be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// When there will be more to do, if nothing changes before.
    pub wake: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Do(Effect),
    Note(Change),
}

/// Of a volume, on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Create,
    Modify,
    Plug(InstanceId),
    Unplug { instance: InstanceId, is_forced: bool },
    Delete,
}

/// Of a volume, in its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Made,
    Broken(String),
    Optimizing {
        percent: u8,
    },
    Modified,
    NotModified(String),
    Attached(InstanceId),
    /// Also after an attempt to attach it.
    Detached(InstanceId),
    /// The record is removed.
    Gone,
}

/// What a volume's plan depends on beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Instances whose guests run.
    pub running: BTreeSet<InstanceId>,
    /// Instances that are being started, or are about to, with the volumes that they had when that began.
    pub starting: BTreeSet<InstanceId>,
    /// A snapshot of it is not complete.
    pub is_being_kept: bool,
}

impl Plan {
    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Until the host has got on with it, or the time is over.
    fn wait(&mut self, until: Timestamp) {
        self.wake = Some(self.wake.map_or(until, |wake| wake.min(until)));
    }
}

/// Until when the host may do something of a volume. None: as long as it takes.
pub fn deadline(volume: &Volume, effect: Effect) -> Option<Timestamp> {
    let since = match effect {
        Effect::Create => Some(volume.created),
        Effect::Modify => volume.modification.as_ref().map(|last| last.started),
        Effect::Plug(instance) => volume.attachment(instance).map(|attachment| attachment.since),
        Effect::Unplug { .. } | Effect::Delete => None,
    };
    since.map(|since| after(since, DEADLINE))
}

fn after(start: Timestamp, duration: SignedDuration) -> Timestamp {
    start.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

fn late(what: &str) -> String {
    format!("The host did not {what} in time.")
}

/// What can be done about a volume.
pub fn volume(volume: &Volume, disk: Option<&Disk>, around: &Around, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match (&volume.state, disk) {
        (VolumeState::Creating, Some(Disk::Ready { .. })) => plan.step(Step::Note(Change::Made)),
        (VolumeState::Creating | VolumeState::Available, Some(Disk::Failed(message))) => {
            plan.step(Step::Note(Change::Broken(message.clone())));
        }
        (VolumeState::Creating, None | Some(Disk::Making)) => {
            let deadline = after(volume.created, DEADLINE);
            if now >= deadline {
                plan.step(Step::Note(Change::Broken(late("make the volume"))));
            } else {
                if disk.is_none() {
                    plan.step(Step::Do(Effect::Create));
                }
                plan.wait(deadline);
            }
        }
        (VolumeState::Available, None | Some(Disk::Making)) => {
            let message = "The host does not have the volume any more.".to_owned();
            plan.step(Step::Note(Change::Broken(message)));
        }
        (VolumeState::Available, Some(ready @ Disk::Ready { .. })) => {
            modification(volume, ready, now, &mut plan);
            attachments(volume, ready, around, now, &mut plan);
        }
        (VolumeState::Deleting, None) => plan.step(Step::Note(Change::Gone)),
        (VolumeState::Deleting, Some(_)) if !around.is_being_kept => plan.step(Step::Do(Effect::Delete)),
        (VolumeState::Deleting, Some(_)) | (VolumeState::Error { .. }, _) => {}
    }
    plan
}

fn modification(volume: &Volume, disk: &Disk, now: Timestamp, plan: &mut Plan) {
    let (Some(modification), Disk::Ready { spec, optimized_percent, .. }) = (&volume.modification, disk)
    else {
        return;
    };
    match modification.state {
        ModificationState::Modifying if *spec == modification.target => {
            plan.step(Step::Note(Change::Optimizing { percent: *optimized_percent }));
        }
        ModificationState::Modifying => {
            let deadline = after(modification.started, DEADLINE);
            if now >= deadline {
                plan.step(Step::Note(Change::NotModified(late("modify the volume"))));
            } else {
                plan.step(Step::Do(Effect::Modify));
                plan.wait(deadline);
            }
        }
        ModificationState::Optimizing { .. } if *optimized_percent >= 100 => {
            plan.step(Step::Note(Change::Modified));
        }
        ModificationState::Optimizing { percent } if percent != *optimized_percent => {
            plan.step(Step::Note(Change::Optimizing { percent: *optimized_percent }));
        }
        ModificationState::Optimizing { .. }
        | ModificationState::Completed { .. }
        | ModificationState::Failed { .. } => {}
    }
}

fn attachments(volume: &Volume, disk: &Disk, around: &Around, now: Timestamp, plan: &mut Plan) {
    let Disk::Ready { plugged, .. } = disk else { return };
    for attachment in &volume.attachments {
        let instance = attachment.instance;
        let is_running = around.running.contains(&instance);
        let has_it = is_running && plugged.contains(&instance);
        match attachment.state {
            AttachmentState::Attached => {}
            // What it has is known when it runs.
            _ if around.starting.contains(&instance) => {}
            // One that does not run is started with it.
            AttachmentState::Attaching if has_it || !is_running => {
                plan.step(Step::Note(Change::Attached(instance)));
            }
            AttachmentState::Attaching => {
                let deadline = after(attachment.since, DEADLINE);
                if now >= deadline {
                    plan.step(Step::Note(Change::Detached(instance)));
                } else {
                    plan.step(Step::Do(Effect::Plug(instance)));
                    plan.wait(deadline);
                }
            }
            // As long as the guest holds it: only its owner can tell it to let go, or force it.
            AttachmentState::Detaching { is_forced } if has_it => {
                plan.step(Step::Do(Effect::Unplug { instance, is_forced }));
            }
            AttachmentState::Detaching { .. } => plan.step(Step::Note(Change::Detached(instance))),
        }
    }
}

impl Change {
    /// Makes the change, if the volume is still so that it fits. Not [`Change::Gone`], which is not the record's own.
    pub fn make(&self, volume: &mut Volume, now: Timestamp) {
        match self {
            Change::Made if volume.state == VolumeState::Creating => volume.state = VolumeState::Available,
            Change::Broken(message)
                if matches!(volume.state, VolumeState::Creating | VolumeState::Available) =>
            {
                volume.state = VolumeState::Error { message: message.clone() };
            }
            Change::Attached(instance) => {
                let mut attachments = volume.attachments.iter_mut();
                if let Some(attachment) = attachments.find(|attachment| attachment.instance == *instance)
                    && attachment.state == AttachmentState::Attaching
                {
                    attachment.state = AttachmentState::Attached;
                }
            }
            Change::Detached(instance) => volume.attachments.retain(|attachment| {
                attachment.instance != *instance || attachment.state == AttachmentState::Attached
            }),
            Change::Optimizing { .. } | Change::Modified | Change::NotModified(_) => {
                self.modify(volume, now);
            }
            Change::Made | Change::Broken(_) | Change::Gone => {}
        }
    }

    fn modify(&self, volume: &mut Volume, now: Timestamp) {
        let Some(modification) = volume.modification.as_mut().filter(|last| !last.state.is_over()) else {
            return;
        };
        match self {
            Change::Optimizing { percent } => {
                modification.state = ModificationState::Optimizing { percent: (*percent).min(100) };
                volume.spec = modification.target;
                volume.is_multi_attach = modification.target_is_multi_attach;
            }
            Change::Modified => modification.state = ModificationState::Completed { ended: now },
            Change::NotModified(message) => {
                modification.state = ModificationState::Failed { ended: now, message: message.clone() };
            }
            _ => {}
        }
    }
}

impl Effect {
    /// What it means that the host cannot do this.
    pub fn failure(self, message: String) -> Option<Change> {
        match self {
            Effect::Create => Some(Change::Broken(message)),
            Effect::Modify => Some(Change::NotModified(message)),
            Effect::Plug(instance) => Some(Change::Detached(instance)),
            // There is no way back: it is tried again.
            Effect::Unplug { .. } | Effect::Delete => None,
        }
    }
}

/// What can be done about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotStep {
    /// On the host.
    Begin,
    /// In the record; from then on it awaits nobody.
    Enter(SnapshotState),
    /// Nothing, until the host has got on with it, or it is this time.
    Wait(Timestamp),
}

/// Until when the host may begin a snapshot: what the volume holds then is what it is of.
pub fn beginning_deadline(snapshot: &Snapshot) -> Timestamp {
    after(snapshot.started, DEADLINE)
}

/// Until when the host may make a snapshot.
pub fn snapshot_deadline(snapshot: &Snapshot) -> Timestamp {
    after(snapshot.started, SNAPSHOT_DEADLINE)
}

/// What can be done about a snapshot that is pending, and may begin or not.
pub fn snapshot(
    snapshot: &Snapshot,
    progress: Option<&SnapshotProgress>,
    may_begin: bool,
    now: Timestamp,
) -> SnapshotStep {
    let deadline = snapshot_deadline(snapshot);
    match progress {
        Some(SnapshotProgress::Complete) => SnapshotStep::Enter(SnapshotState::Completed { ended: now }),
        Some(SnapshotProgress::Failed(message)) => {
            SnapshotStep::Enter(SnapshotState::Error { message: message.clone() })
        }
        _ if now >= deadline => {
            SnapshotStep::Enter(SnapshotState::Error { message: late("make the snapshot") })
        }
        Some(SnapshotProgress::Pending { percent }) => {
            let state = SnapshotState::Pending { percent: (*percent).min(99) };
            let is_told = snapshot.state == state && snapshot.awaits.is_none();
            if is_told { SnapshotStep::Wait(deadline) } else { SnapshotStep::Enter(state) }
        }
        None if may_begin => SnapshotStep::Begin,
        None | Some(SnapshotProgress::Beginning) => SnapshotStep::Wait(deadline),
    }
}

/// What an image has become whose snapshots are so; nothing, if they are still being made. None of them: a snapshot is gone.
pub fn image<'a>(
    image: &Image,
    snapshots: impl Iterator<Item = Option<&'a SnapshotState>>,
) -> Option<ImageState> {
    if image.state != ImageState::Pending {
        return None;
    }
    let mut is_complete = true;
    for state in snapshots {
        match state {
            Some(SnapshotState::Completed { .. }) => {}
            Some(SnapshotState::Pending { .. }) => is_complete = false,
            Some(SnapshotState::Error { message }) => {
                return Some(ImageState::Failed { message: message.clone() });
            }
            None => {
                let message = "A snapshot of the image was deleted before it was complete.".to_owned();
                return Some(ImageState::Failed { message });
            }
        }
    }
    is_complete.then_some(ImageState::Available)
}
