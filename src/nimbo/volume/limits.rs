//! The limits that a command is to enforce.

use anyhow::bail;
use types::VolumeKind;

use super::served::api::LimitsSpec;

// What a volume gives in a second.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// Give no more operations and bytes a second than a volume of its type and size does, each volume by itself
    #[arg(long, requires = "kind")]
    enforce_limits: bool,
    #[command(flatten)]
    kind: KindArgs,
}

// What a volume is provisioned as.
#[derive(Debug, clap::Args)]
pub(crate) struct KindArgs {
    /// The type: gp2, gp3, io1, io2, st1, sc1 or standard
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<VolumeKind>,
    /// Operations a second, for types that let you choose: gp3, io1, io2
    #[arg(long, value_name = "NUMBER", requires = "kind")]
    iops: Option<u32>,
    /// MiB a second, for gp3
    #[arg(long, value_name = "NUMBER", requires = "kind")]
    throughput: Option<u32>,
}

impl LimitArgs {
    /// What is to be enforced, if anything.
    ///
    /// # Errors
    /// When a type is given that would change nothing.
    pub(super) fn spec(&self) -> anyhow::Result<Option<LimitsSpec>> {
        let spec = self.kind.spec();
        if spec.is_some() && !self.enforce_limits {
            bail!("--type says how much --enforce-limits gives, which is missing");
        }
        Ok(spec)
    }
}

impl KindArgs {
    pub(super) fn spec(&self) -> Option<LimitsSpec> {
        let Self { iops, throughput: throughput_mib_s, .. } = *self;
        self.kind.map(|kind| LimitsSpec { kind, iops, throughput_mib_s })
    }
}
