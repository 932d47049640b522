//! Instance types, as AWS publishes them.
//!
//! Sources: <https://docs.aws.amazon.com/ec2/latest/instancetypes/gp.html> and its siblings for processors, memory and interfaces,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html> for credits. Only x86 types, and only those with as many
//! processors as a microVM can have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use types::ByteSize;

/// A type by its published figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceType {
    pub name: &'static str,
    pub vcpus: u8,
    pub memory_mib: u32,
    /// How many interfaces an instance can have.
    pub interfaces_max: u8,
    /// How many addresses each of them.
    pub addresses_per_interface_max: u8,
    pub burst: Option<Burst>,
}

/// Of a type whose processors are only partly its own. One credit is one processor for one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    pub family: BurstFamily,
    /// In tenths, for one type earns 81.6.
    pub credits_per_hour_tenths: u16,
    /// Of a processor, for each of them: in thousandths.
    pub baseline_per_mille: u16,
}

impl Burst {
    /// An instance keeps what it earns in a day.
    pub const fn credits_max_tenths(self) -> u32 {
        self.credits_per_hour_tenths as u32 * 24
    }
}

/// The types that have CPU credits, by what is before the dot of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BurstFamily {
    T2,
    T3,
    T3a,
}

impl BurstFamily {
    const ALL: [Self; 3] = [Self::T2, Self::T3, Self::T3a];

    /// As AWS has it: instances spend credits that they have not earned unless told otherwise.
    pub const fn is_unlimited_by_default(self) -> bool {
        !matches!(self, Self::T2)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::T2 => "t2",
            Self::T3 => "t3",
            Self::T3a => "t3a",
        }
    }
}

impl fmt::Display for BurstFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BurstFamily {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|family| family.name() == text).ok_or(())
    }
}

impl InstanceType {
    pub fn memory(&self) -> ByteSize {
        ByteSize::from_bytes(u64::from(self.memory_mib) << 20)
    }

    /// `t3` of `t3.micro`.
    pub fn family(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(family, _)| family)
    }

    /// Xen gave the oldest types their disks, and some names to them.
    pub fn is_nitro(&self) -> bool {
        self.family() != "t2"
    }

    /// Whether instances of this type can be in placement groups of the strategy `cluster`: burstable ones cannot.
    pub fn can_be_in_cluster(&self) -> bool {
        self.burst.is_none()
    }

    /// The type of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TYPES.iter().find(|known| known.name == name)
    }

    /// All of them, family by family, the small ones first.
    pub fn all() -> &'static [Self] {
        &TYPES
    }
}

const fn fixed(name: &'static str, vcpus: u8, memory_gib: u32) -> InstanceType {
    let (interfaces_max, addresses_per_interface_max) = match vcpus {
        0..=2 => (3, 10),
        3..=8 => (4, 15),
        _ => (8, 30),
    };
    InstanceType {
        name,
        vcpus,
        memory_mib: memory_gib << 10,
        interfaces_max,
        addresses_per_interface_max,
        burst: None,
    }
}

/// `credits` are tenths of one an hour, `baseline` thousandths of a processor.
const fn burst(
    name: &'static str,
    (vcpus, memory_mib): (u8, u32),
    (interfaces_max, addresses_per_interface_max): (u8, u8),
    credits_per_hour_tenths: u16,
    baseline_per_mille: u16,
) -> InstanceType {
    let family = match name.as_bytes() {
        [_, b'2', ..] => BurstFamily::T2,
        [_, b'3', b'a', ..] => BurstFamily::T3a,
        _ => BurstFamily::T3,
    };
    let burst = Some(Burst { family, credits_per_hour_tenths, baseline_per_mille });
    InstanceType { name, vcpus, memory_mib, interfaces_max, addresses_per_interface_max, burst }
}

const TYPES: [InstanceType; 57] = [
    burst("t2.nano", (1, 512), (2, 2), 30, 50),
    burst("t2.micro", (1, 1024), (2, 2), 60, 100),
    burst("t2.small", (1, 2048), (3, 4), 120, 200),
    burst("t2.medium", (2, 4096), (3, 6), 240, 200),
    burst("t2.large", (2, 8192), (3, 12), 360, 300),
    burst("t2.xlarge", (4, 16384), (3, 15), 540, 225),
    burst("t2.2xlarge", (8, 32768), (3, 15), 816, 170),
    burst("t3.nano", (2, 512), (2, 2), 60, 50),
    burst("t3.micro", (2, 1024), (2, 2), 120, 100),
    burst("t3.small", (2, 2048), (3, 4), 240, 200),
    burst("t3.medium", (2, 4096), (3, 6), 240, 200),
    burst("t3.large", (2, 8192), (3, 12), 360, 300),
    burst("t3.xlarge", (4, 16384), (4, 15), 960, 400),
    burst("t3.2xlarge", (8, 32768), (4, 15), 1920, 400),
    burst("t3a.nano", (2, 512), (2, 2), 60, 50),
    burst("t3a.micro", (2, 1024), (2, 2), 120, 100),
    burst("t3a.small", (2, 2048), (2, 4), 240, 200),
    burst("t3a.medium", (2, 4096), (3, 6), 240, 200),
    burst("t3a.large", (2, 8192), (3, 12), 360, 300),
    burst("t3a.xlarge", (4, 16384), (4, 15), 960, 400),
    burst("t3a.2xlarge", (8, 32768), (4, 15), 1920, 400),
    fixed("m5.large", 2, 8),
    fixed("m5.xlarge", 4, 16),
    fixed("m5.2xlarge", 8, 32),
    fixed("m5.4xlarge", 16, 64),
    fixed("m5.8xlarge", 32, 128),
    fixed("m6i.large", 2, 8),
    fixed("m6i.xlarge", 4, 16),
    fixed("m6i.2xlarge", 8, 32),
    fixed("m6i.4xlarge", 16, 64),
    fixed("m6i.8xlarge", 32, 128),
    fixed("m7i.large", 2, 8),
    fixed("m7i.xlarge", 4, 16),
    fixed("m7i.2xlarge", 8, 32),
    fixed("m7i.4xlarge", 16, 64),
    fixed("m7i.8xlarge", 32, 128),
    fixed("c5.large", 2, 4),
    fixed("c5.xlarge", 4, 8),
    fixed("c5.2xlarge", 8, 16),
    fixed("c5.4xlarge", 16, 32),
    fixed("c6i.large", 2, 4),
    fixed("c6i.xlarge", 4, 8),
    fixed("c6i.2xlarge", 8, 16),
    fixed("c6i.4xlarge", 16, 32),
    fixed("c6i.8xlarge", 32, 64),
    fixed("c7i.large", 2, 4),
    fixed("c7i.xlarge", 4, 8),
    fixed("r5.large", 2, 16),
    fixed("r5.xlarge", 4, 32),
    fixed("r5.2xlarge", 8, 64),
    fixed("r5.4xlarge", 16, 128),
    fixed("r5.8xlarge", 32, 256),
    fixed("r6i.large", 2, 16),
    fixed("r6i.xlarge", 4, 32),
    fixed("r6i.2xlarge", 8, 64),
    fixed("r6i.4xlarge", 16, 128),
    fixed("r6i.8xlarge", 32, 256),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_found_by_its_name_and_named_once() {
        for known in InstanceType::all() {
            assert_eq!(InstanceType::find(known.name), Some(known));
            assert!(known.vcpus <= 32);
        }
        assert_eq!(InstanceType::find("t3.huge"), None);
    }

    #[test]
    fn the_baseline_is_what_credits_are_earned_for() {
        for known in InstanceType::all() {
            let Some(burst) = known.burst else { continue };
            assert_eq!(known.family().parse(), Ok(burst.family));
            // A credit is a processor for a minute, so 60 of them an hour are one whole processor.
            let earned_per_mille = u32::from(burst.credits_per_hour_tenths) * 1000 / 600;
            let baseline = u32::from(burst.baseline_per_mille) * u32::from(known.vcpus);
            assert!(earned_per_mille.abs_diff(baseline) <= 2, "{known:?}: {earned_per_mille} {baseline}");
        }
    }
}
