//! The limits that a command is to enforce.

use std::sync::Arc;

use ::volume::{BlockBackend, Limited, VolumeKind, VolumeSpec};
use anyhow::Context as _;

const GIB: u64 = 1 << 30;

/// What a volume gives in a second.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// Give no more operations and bytes a second than a volume of its type and size does, each volume by itself
    #[arg(long, requires = "kind")]
    enforce_limits: bool,
    /// The type: gp2, gp3, io1, io2, st1, sc1 or standard
    #[arg(long = "type", value_name = "TYPE", requires = "enforce_limits")]
    kind: Option<VolumeKind>,
    /// Operations a second, for types that let you choose: gp3, io1, io2
    #[arg(long, value_name = "NUMBER", requires = "enforce_limits")]
    iops: Option<u32>,
    /// MiB a second, for gp3
    #[arg(long, value_name = "NUMBER", requires = "enforce_limits")]
    throughput: Option<u32>,
}

impl LimitArgs {
    /// The disk with the limits, if there are to be any.
    pub(super) fn apply(&self, disk: Arc<dyn BlockBackend>) -> anyhow::Result<Arc<dyn BlockBackend>> {
        let Some(kind) = self.kind else { return Ok(disk) };
        let spec = VolumeSpec {
            kind,
            size_gib: disk.size_bytes().div_ceil(GIB),
            iops: self.iops,
            throughput_mib_s: self.throughput,
        };
        let limits = spec.check().context("there is no such volume")?;
        Ok(Arc::new(Limited::new(disk, limits).context("cannot limit the volume")?))
    }
}
