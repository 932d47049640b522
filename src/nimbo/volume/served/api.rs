//! What goes over the control socket of a volume, as types: version 1. `docs/volume-control-api.md` shows each with an example.
//!
//! Requests refuse members that they do not know; answers may gain some.

use std::fmt;

use ::volume::snapshot::SnapshotName;
use serde::{Deserialize, Serialize};
use types::ByteSize;
use types::volume::{Limits, SpecError, VolumeKind, VolumeSpec};

/// `GET /v1/volume`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeStatus {
    pub(crate) size_bytes: ByteSize,
    /// The key that it is encrypted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) layers: usize,
    /// What the files of the folder take on their file system.
    pub(crate) disk_bytes: ByteSize,
    /// The memory that the map takes while the volume is open.
    pub(crate) map_bytes: ByteSize,
    /// The snapshot that it was made from, until it has all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<SnapshotName>,
    /// The snapshot that was begun and is not complete, the oldest if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending_snapshot: Option<SnapshotName>,
    /// Those that were begun after it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) queued_snapshots: Vec<SnapshotName>,
    /// What is enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<LimitsSpec>,
    /// How many writes wait because the file system is full.
    #[serde(default)]
    pub(crate) waiting_for_room: usize,
    /// How many microVMs use it.
    #[serde(default)]
    pub(crate) guests: usize,
    /// A name that nothing else has, and that the next snapshot can be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_snapshot: Option<SnapshotName>,
}

impl VolumeStatus {
    /// Whether a snapshot was begun and is not complete.
    pub(crate) fn has_pending(&self, name: SnapshotName) -> bool {
        self.pending_snapshot == Some(name) || self.queued_snapshots.contains(&name)
    }
}

/// `PUT /v1/volume/size`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SizeSpec {
    pub(crate) size_bytes: ByteSize,
}

/// `PUT /v1/volume/limits`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsSpec {
    #[serde(rename = "type")]
    pub(crate) kind: VolumeKind,
    /// A second, where the type lets one choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iops: Option<u32>,
    /// A second, of gp3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) throughput_mib_s: Option<u32>,
}

impl LimitsSpec {
    /// What a volume of this size gives.
    ///
    /// # Errors
    /// When AWS has no such volume.
    pub(crate) fn check(self, size_bytes: u64) -> Result<Limits, SpecError> {
        let Self { kind, iops, throughput_mib_s } = self;
        let size_gib = size_bytes.div_ceil(1 << 30);
        VolumeSpec { kind, size_gib, iops, throughput_mib_s }.check()
    }
}

impl fmt::Display for LimitsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if let Some(iops) = self.iops {
            write!(f, ", {iops} IOPS")?;
        }
        self.throughput_mib_s.map_or(Ok(()), |throughput| write!(f, ", {throughput} MiB/s"))
    }
}

/// `POST /v1/snapshot` and `DELETE /v1/snapshot`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotSpec {
    /// The object store: a folder, or `s3://BUCKET/PREFIX` with what this process's environment says.
    pub(crate) objects: String,
    /// What it is to be called: a name of the volume's lineage that nothing else has. The same again does nothing. Of one that is to be given up, its
    /// name; without it, the oldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<SnapshotName>,
}

/// `PUT /v1/pause`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseSpec {
    /// At most so long; 1 to 10,000.
    pub(crate) at_most_ms: u64,
}

/// `DELETE /v1/pause`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resumed {
    /// The pause lasted until now, and did not end by itself.
    pub(crate) was_paused: bool,
}

/// `POST /v1/fill`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FillSpec {
    /// The object store from which it was opened.
    pub(crate) objects: String,
    /// At most so many in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_second: Option<ByteSize>,
}

/// How work in the background stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskState {
    #[default]
    Running,
    Done,
    /// By request; it can be gone on with.
    Stopped,
    /// It can be tried again.
    Failed,
}

/// `GET /v1/snapshot` and `GET /v1/fill`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskStatus {
    /// What is made, or filled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotName>,
    pub(crate) state: TaskState,
    pub(crate) done_bytes: ByteSize,
    /// 0 until it is known.
    pub(crate) total_bytes: ByteSize,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// `GET /v1/counters`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Of each microVM that uses the volume: bytes, operations, errors and latency.
    pub(crate) guests: Vec<serde_json::Value>,
}

/// A request without members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}
