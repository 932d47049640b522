//! The types of volumes, as AWS publishes them, and what each may be asked for. Nothing here does I/O.
//!
//! Source: Amazon EBS User Guide, "Amazon EBS volume types", "General Purpose SSD volumes", "Provisioned IOPS SSD volumes", "Throughput
//! Optimized HDD and Cold HDD volumes", "previous generation volumes" (docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html), with
//! the maxima of gp3 since September 2025 (64 TiB, 80,000 IOPS, 2,000 MiB/s) and io2 as Block Express everywhere.
//!
//! | type | GiB | IOPS | MiB/s |
//! | --- | --- | --- | --- |
//! | gp2 | 1 to 16,384 | 3 per GiB, 100 to 16,000; below 1,000 GiB bursts of 3,000 from 5.4 million credits | 128 up to 170 GiB, then 250 |
//! | gp3 | 1 to 65,536 | 3,000; up to 80,000, 500 per GiB | 125; up to 2,000, 0.25 per IOPS |
//! | io1 | 4 to 16,384 | 100 to 64,000, 50 per GiB | 256 KiB for each IOPS up to 500; beyond 32,000 IOPS 16 KiB for each |
//! | io2 | 4 to 65,536 | 100 to 256,000, 1,000 per GiB | 256 KiB for each IOPS, up to 4,000 |
//! | st1 | 125 to 16,384 | 500 | 40 per TiB, bursts of 250 per TiB from 1 TiB of credits per TiB; at most 500 |
//! | sc1 | 125 to 16,384 | 250 | 12 per TiB, bursts of 80 per TiB from 1 TiB of credits per TiB; at most 250 |
//! | standard | 1 to 1,024 | 200 | 90 |

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A type's numbers per TiB are per so many GiB.
const GIB_PER_TIB: u64 = 1024;

/// The most that an SSD counts as one operation, in bytes.
const SSD_UNIT_BYTES: u64 = 256 * KIB;
/// The same for a hard disk.
const HDD_UNIT_BYTES: u64 = MIB;

const GP2_BURST_IOPS: u64 = 3000;
const GP2_CREDITS: u64 = 5_400_000;
const GP3_IOPS: u32 = 3000;
const GP3_THROUGHPUT_MIB_S: u32 = 125;
/// Up to so many GiB a gp2 volume has less throughput.
const GP2_SMALL_GIB: u64 = 170;
/// Up to so many IOPS the throughput of an io1 volume stands at what 256 KiB for each would give, at most 500 MiB/s.
const IO1_SMALL_IOPS: u64 = 32_000;

/// A type of volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    Gp2,
    Gp3,
    Io1,
    Io2,
    St1,
    Sc1,
    Standard,
}

use VolumeKind::{Gp2, Gp3, Io1, Io2, Sc1, St1, Standard};

impl VolumeKind {
    /// All of them.
    pub const ALL: [Self; 7] = [Gp2, Gp3, Io1, Io2, St1, Sc1, Standard];

    pub fn as_str(self) -> &'static str {
        match self {
            Gp2 => "gp2",
            Gp3 => "gp3",
            Io1 => "io1",
            Io2 => "io2",
            St1 => "st1",
            Sc1 => "sc1",
            Standard => "standard",
        }
    }

    fn sizes_gib(self) -> RangeInclusive<u64> {
        match self {
            Gp2 => 1..=16_384,
            Gp3 => 1..=65_536,
            Io1 => 4..=16_384,
            Io2 => 4..=65_536,
            St1 | Sc1 => 125..=16_384,
            Standard => 1..=1024,
        }
    }

    /// Whether one can ask for IOPS.
    pub fn is_provisioned(self) -> bool {
        self.iops().is_some()
    }

    /// What IOPS can be asked for, and the most for each GiB; nothing where the type decides.
    fn iops(self) -> Option<(RangeInclusive<u32>, u32)> {
        match self {
            Gp3 => Some((GP3_IOPS..=80_000, 500)),
            Io1 => Some((100..=64_000, 50)),
            Io2 => Some((100..=256_000, 1000)),
            Gp2 | St1 | Sc1 | Standard => None,
        }
    }
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no type of volume: it must be gp2, gp3, io1, io2, st1, sc1 or standard")]
pub struct UnknownKind {
    text: String,
}

impl FromStr for VolumeKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| UnknownKind { text: text.to_owned() })
    }
}

/// What somebody asks a volume to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub kind: VolumeKind,
    pub size_gib: u64,
    /// Where the type lets one choose; io1 and io2 must be told.
    pub iops: Option<u32>,
    /// Of gp3.
    pub throughput_mib_s: Option<u32>,
}

/// Why a volume cannot be what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("a volume of type {kind} has {min} to {max} GiB, not {size_gib}")]
    Size { kind: VolumeKind, size_gib: u64, min: u64, max: u64 },
    #[error("the IOPS of a volume of type {kind} cannot be chosen; gp3, io1 and io2 let you")]
    IopsNotChosen { kind: VolumeKind },
    #[error("a volume of type {kind} needs to be told its IOPS, {min} to {max}")]
    IopsMissing { kind: VolumeKind, min: u32, max: u32 },
    #[error("a volume of type {kind} has {min} to {max} IOPS, not {iops}")]
    Iops { kind: VolumeKind, iops: u32, min: u32, max: u32 },
    #[error(
        "{iops} IOPS are too many for {size_gib} GiB of type {kind}, which has at most {ratio} for each GiB, here {most}"
    )]
    IopsRatio { kind: VolumeKind, iops: u32, size_gib: u64, ratio: u32, most: u64 },
    #[error("the throughput of a volume of type {kind} cannot be chosen; gp3 lets you")]
    ThroughputNotChosen { kind: VolumeKind },
    #[error("a volume of type {kind} has a throughput of {min} to {max} MiB/s, not {throughput_mib_s}")]
    Throughput { kind: VolumeKind, throughput_mib_s: u32, min: u32, max: u32 },
    #[error(
        "{throughput_mib_s} MiB/s are too many for {iops} IOPS of type {kind}, which has at most 0.25 MiB/s for each, here {most}"
    )]
    ThroughputRatio { kind: VolumeKind, throughput_mib_s: u32, iops: u32, most: u32 },
}

/// So much in a second, and for a while more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// A second, always.
    pub base: u64,
    /// A second, as long as there are credits.
    pub peak: u64,
    /// The most credits, which come at the rate of the base. Each is for one; a new volume has them all.
    pub credits: u64,
}

impl Allowance {
    fn always(base: u64) -> Self {
        Self { base, peak: base, credits: 0 }
    }
}

/// What a volume gives in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations.
    pub iops: Allowance,
    pub bytes: Allowance,
    /// The most bytes that are one operation: a larger request is several, and several that follow each other up to here are one.
    pub unit_bytes: u64,
    /// An operation takes the throughput of a whole unit, as where a hard disk must seek.
    pub whole_units: bool,
}

impl VolumeSpec {
    /// What such a volume gives, if there is such a volume.
    ///
    /// # Errors
    /// [`SpecError`], with what is wrong and what would be right.
    pub fn check(&self) -> Result<Limits, SpecError> {
        let Self { kind, size_gib, .. } = *self;
        let sizes = kind.sizes_gib();
        if !sizes.contains(&size_gib) {
            return Err(SpecError::Size { kind, size_gib, min: *sizes.start(), max: *sizes.end() });
        }
        let iops = self.checked_iops()?;
        let throughput_mib_s = self.checked_throughput(iops)?;
        Ok(limits(kind, size_gib, iops, throughput_mib_s))
    }

    /// What was asked for, or what the type has; 0 where it is not a matter of asking.
    fn checked_iops(&self) -> Result<u32, SpecError> {
        let Self { kind, size_gib, .. } = *self;
        let Some((range, ratio)) = kind.iops() else {
            return match self.iops {
                Some(_) => Err(SpecError::IopsNotChosen { kind }),
                None => Ok(0),
            };
        };
        let (min, max) = (*range.start(), *range.end());
        let default = (kind == Gp3).then_some(GP3_IOPS);
        let iops = self.iops.or(default).ok_or(SpecError::IopsMissing { kind, min, max })?;
        if !range.contains(&iops) {
            return Err(SpecError::Iops { kind, iops, min, max });
        }
        let most = (size_gib * u64::from(ratio)).max(u64::from(default.unwrap_or(0)));
        if u64::from(iops) > most {
            return Err(SpecError::IopsRatio { kind, iops, size_gib, ratio, most });
        }
        Ok(iops)
    }

    fn checked_throughput(&self, iops: u32) -> Result<u32, SpecError> {
        let kind = self.kind;
        let Some(throughput_mib_s) = self.throughput_mib_s else { return Ok(GP3_THROUGHPUT_MIB_S) };
        if kind != Gp3 {
            return Err(SpecError::ThroughputNotChosen { kind });
        }
        let (min, max) = (GP3_THROUGHPUT_MIB_S, 2000);
        if !(min..=max).contains(&throughput_mib_s) {
            return Err(SpecError::Throughput { kind, throughput_mib_s, min, max });
        }
        let most = iops / 4;
        if throughput_mib_s > most {
            return Err(SpecError::ThroughputRatio { kind, throughput_mib_s, iops, most });
        }
        Ok(throughput_mib_s)
    }
}

fn limits(kind: VolumeKind, size_gib: u64, iops: u32, throughput_mib_s: u32) -> Limits {
    let iops = u64::from(iops);
    let per_tib = |rate: u64, most: u64| (rate * size_gib * MIB / GIB_PER_TIB).min(most * MIB);
    let disk = |base, peak, most| Allowance {
        base: per_tib(base, most),
        peak: per_tib(peak, most),
        credits: size_gib * GIB,
    };
    let (iops, bytes) = match kind {
        Gp2 => {
            let base = (3 * size_gib).clamp(100, 16_000);
            let is_small = size_gib <= GP2_SMALL_GIB;
            let bytes = Allowance::always(if is_small { 128 } else { 250 } * MIB);
            let bursts = Allowance { base, peak: GP2_BURST_IOPS, credits: GP2_CREDITS };
            (if base < GP2_BURST_IOPS { bursts } else { Allowance::always(base) }, bytes)
        }
        Gp3 => (Allowance::always(iops), Allowance::always(u64::from(throughput_mib_s) * MIB)),
        Io1 => {
            let small = (iops * SSD_UNIT_BYTES).min(500 * MIB);
            let bytes = if iops <= IO1_SMALL_IOPS { small } else { iops * 16 * KIB };
            (Allowance::always(iops), Allowance::always(bytes))
        }
        Io2 => (Allowance::always(iops), Allowance::always((iops * SSD_UNIT_BYTES).min(4000 * MIB))),
        St1 => (Allowance::always(500), disk(40, 250, 500)),
        Sc1 => (Allowance::always(250), disk(12, 80, 250)),
        Standard => (Allowance::always(200), Allowance::always(90 * MIB)),
    };
    let whole_units = matches!(kind, St1 | Sc1);
    let unit_bytes = if whole_units { HDD_UNIT_BYTES } else { SSD_UNIT_BYTES };
    Limits { iops, bytes, unit_bytes, whole_units }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(kind: VolumeKind, size_gib: u64, iops: Option<u32>, throughput_mib_s: Option<u32>) -> VolumeSpec {
        VolumeSpec { kind, size_gib, iops, throughput_mib_s }
    }

    #[test]
    fn the_published_numbers_come_out() {
        let always = Allowance::always;
        let mib = |rate: u64| always(rate * MIB);
        let bursts = |base| Allowance { base, peak: 3000, credits: 5_400_000 };
        let disk = |base, peak, size_gib: u64| Allowance { base, peak, credits: size_gib * GIB };
        for (spec, iops, bytes) in [
            (spec(Gp2, 1, None, None), bursts(100), mib(128)),
            (spec(Gp2, 334, None, None), bursts(1002), mib(250)),
            (spec(Gp2, 1000, None, None), always(3000), mib(250)),
            (spec(Gp2, 16_384, None, None), always(16_000), mib(250)),
            (spec(Gp3, 1, None, None), always(3000), mib(125)),
            (spec(Gp3, 160, Some(80_000), Some(2000)), always(80_000), mib(2000)),
            (spec(Io1, 4, Some(200), None), always(200), mib(50)),
            (spec(Io1, 640, Some(32_000), None), always(32_000), mib(500)),
            (spec(Io1, 1280, Some(64_000), None), always(64_000), mib(1000)),
            (spec(Io2, 256, Some(256_000), None), always(256_000), mib(4000)),
            (spec(St1, 1024, None, None), always(500), disk(40 * MIB, 250 * MIB, 1024)),
            (spec(St1, 16_384, None, None), always(500), disk(500 * MIB, 500 * MIB, 16_384)),
            (spec(Sc1, 512, None, None), always(250), disk(6 * MIB, 40 * MIB, 512)),
            (spec(Standard, 1024, None, None), always(200), mib(90)),
        ] {
            let found = spec.check().unwrap();
            assert_eq!((found.iops, found.bytes), (iops, bytes), "{spec:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (spec, expected) in [
            (spec(Gp3, 0, None, None), "a volume of type gp3 has 1 to 65536 GiB, not 0"),
            (spec(St1, 124, None, None), "a volume of type st1 has 125 to 16384 GiB, not 124"),
            (spec(Gp2, 100, Some(300), None), "the IOPS of a volume of type gp2 cannot be chosen"),
            (spec(Io2, 100, None, None), "needs to be told its IOPS, 100 to 256000"),
            (spec(Gp3, 100, Some(2999), None), "has 3000 to 80000 IOPS, not 2999"),
            (spec(Gp3, 10, Some(5001), None), "at most 500 for each GiB, here 5000"),
            (spec(Io1, 4, Some(201), None), "at most 50 for each GiB, here 200"),
            (
                spec(Io1, 400, Some(2000), Some(500)),
                "the throughput of a volume of type io1 cannot be chosen",
            ),
            (spec(Gp3, 100, None, Some(2001)), "has a throughput of 125 to 2000 MiB/s, not 2001"),
            (spec(Gp3, 100, None, Some(751)), "at most 0.25 MiB/s for each, here 750"),
        ] {
            let said = spec.check().unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_has_an_answer(
            kind in prop::sample::select(VolumeKind::ALL.to_vec()),
            size_gib in prop_oneof![0u64..200, 0u64..70_000, any::<u64>()],
            iops in prop::option::of(prop_oneof![0u32..100_000, any::<u32>()]),
            throughput_mib_s in prop::option::of(prop_oneof![0u32..3000, any::<u32>()]),
        ) {
            prop_assert_eq!(kind.as_str().parse(), Ok(kind));
            if let Ok(limits) = spec(kind, size_gib, iops, throughput_mib_s).check() {
                for allowance in [limits.iops, limits.bytes] {
                    prop_assert!(0 < allowance.base && allowance.base <= allowance.peak);
                }
                prop_assert!(limits.iops.peak <= 256_000 && limits.bytes.peak <= 4000 * MIB);
            }
        }
    }
}
