//! Instance types, and where they are offered: everywhere.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};

use crate::catalog::InstanceType;
use crate::ec2::row::read_filters;
use crate::state::View;

pub(super) fn describe(
    _: View<'_>,
    call: &Call<ec2::DescribeInstanceTypesRequest>,
) -> Result<ec2::DescribeInstanceTypesResult, Error> {
    let input = &call.input;
    let filters = read_filters::<&InstanceType>(&input.filters)?;
    let mut types: Vec<&InstanceType> = if input.instance_types.is_empty() {
        InstanceType::all().iter().collect()
    } else {
        find_all(&input.instance_types)?
    };
    types.retain(|kind| filters.admit(kind));
    types.sort_by_key(|kind| kind.name);
    let (types, next_token) = Page::of::<ec2::DescribeInstanceTypes>(call)?.take(types, |kind| kind.name);
    Ok(ec2::DescribeInstanceTypesResult {
        instance_types: Some(types.into_iter().map(shown).collect()),
        next_token,
    })
}

/// The type of that name.
///
/// # Errors
/// When there is none.
pub(super) fn find(name: &str) -> Result<&'static InstanceType, Error> {
    InstanceType::find(name).ok_or_else(|| {
        let message = format!("Invalid value '{name}' for InstanceType.");
        Error::new("InvalidParameterValue", message)
    })
}

fn find_all(names: &[String]) -> Result<Vec<&'static InstanceType>, Error> {
    let unknown: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| InstanceType::find(name).is_none()).collect();
    if !unknown.is_empty() {
        let message = format!("The following supplied instance types do not exist: [{}]", unknown.join(", "));
        return Err(Error::new("InvalidInstanceType", message));
    }
    Ok(names.iter().filter_map(|name| InstanceType::find(name)).collect())
}

fn shown(kind: &InstanceType) -> ec2::InstanceTypeInfo {
    let threads = kind.vcpus.min(2);
    ec2::InstanceTypeInfo {
        instance_type: Some(kind.name.to_owned()),
        current_generation: Some(kind.is_nitro()),
        free_tier_eligible: Some(matches!(kind.name, "t2.micro" | "t3.micro")),
        supported_usage_classes: Some(vec![ec2::UsageClassType::OnDemand]),
        supported_root_device_types: Some(vec![ec2::RootDeviceType::Ebs]),
        supported_virtualization_types: Some(vec![ec2::VirtualizationType::Hvm]),
        bare_metal: Some(false),
        hypervisor: Some(if kind.is_nitro() {
            ec2::InstanceTypeHypervisor::Nitro
        } else {
            ec2::InstanceTypeHypervisor::Xen
        }),
        processor_info: Some(ec2::ProcessorInfo {
            supported_architectures: Some(vec![ec2::ArchitectureType::X8664]),
            ..Default::default()
        }),
        vcpu_info: Some(ec2::VCpuInfo {
            default_vcpus: Some(i32::from(kind.vcpus)),
            default_cores: Some(i32::from(kind.vcpus.div_ceil(2))),
            default_threads_per_core: Some(i32::from(threads)),
            valid_cores: Some(vec![i32::from(kind.vcpus.div_ceil(2))]),
            valid_threads_per_core: Some(vec![i32::from(threads)]),
        }),
        memory_info: Some(ec2::MemoryInfo { size_in_mib: Some(i64::from(kind.memory_mib)) }),
        instance_storage_supported: Some(false),
        ebs_info: Some(ec2::EbsInfo {
            encryption_support: Some(ec2::EbsEncryptionSupport::Supported),
            ebs_optimized_support: Some(if kind.is_nitro() {
                ec2::EbsOptimizedSupport::Default
            } else {
                ec2::EbsOptimizedSupport::Unsupported
            }),
            nvme_support: Some(ec2::EbsNvmeSupport::Unsupported),
            ..Default::default()
        }),
        network_info: Some(ec2::NetworkInfo {
            maximum_network_interfaces: Some(i32::from(kind.interfaces_max)),
            maximum_network_cards: Some(1),
            default_network_card_index: Some(0),
            ipv4_addresses_per_interface: Some(i32::from(kind.addresses_per_interface_max)),
            ipv6_addresses_per_interface: Some(0),
            ipv6_supported: Some(false),
            ..Default::default()
        }),
        placement_group_info: Some(ec2::PlacementGroupInfo { supported_strategies: Some(strategies(kind)) }),
        hibernation_supported: Some(false),
        burstable_performance_supported: Some(kind.burst.is_some()),
        dedicated_hosts_supported: Some(false),
        auto_recovery_supported: Some(false),
        supported_boot_modes: Some(vec![ec2::BootModeType::LegacyBios]),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/placement-strategies.html>.
fn strategies(kind: &InstanceType) -> Vec<ec2::PlacementGroupStrategy> {
    use ec2::PlacementGroupStrategy as Strategy;

    let cluster = kind.can_be_in_cluster().then_some(Strategy::Cluster);
    cluster.into_iter().chain([Strategy::Partition, Strategy::Spread]).collect()
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html>.
impl Filtered for &InstanceType {
    const NAMES: &'static [&'static str] = &[
        "auto-recovery-supported",
        "bare-metal",
        "burstable-performance-supported",
        "current-generation",
        "dedicated-hosts-supported",
        "ebs-info.encryption-support",
        "ebs-info.nvme-support",
        "free-tier-eligible",
        "hibernation-supported",
        "hypervisor",
        "instance-storage-supported",
        "instance-type",
        "memory-info.size-in-mib",
        "network-info.ipv4-addresses-per-interface",
        "network-info.ipv6-supported",
        "network-info.maximum-network-cards",
        "network-info.maximum-network-interfaces",
        "processor-info.supported-architecture",
        "supported-boot-mode",
        "supported-root-device-type",
        "supported-usage-class",
        "supported-virtualization-type",
        "vcpu-info.default-cores",
        "vcpu-info.default-threads-per-core",
        "vcpu-info.default-vcpus",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "bare-metal"
            | "dedicated-hosts-supported"
            | "hibernation-supported"
            | "instance-storage-supported"
            | "auto-recovery-supported"
            | "network-info.ipv6-supported" => values.flag(false),
            "burstable-performance-supported" => values.flag(self.burst.is_some()),
            "current-generation" => values.flag(self.is_nitro()),
            "ebs-info.encryption-support" => values.text("supported"),
            "ebs-info.nvme-support" => values.text("unsupported"),
            "free-tier-eligible" => values.flag(matches!(self.name, "t2.micro" | "t3.micro")),
            "hypervisor" => values.text(if self.is_nitro() { "nitro" } else { "xen" }),
            "instance-type" => values.text(self.name),
            "memory-info.size-in-mib" => values.shown(self.memory_mib),
            "network-info.ipv4-addresses-per-interface" => values.shown(self.addresses_per_interface_max),
            "network-info.maximum-network-cards" => values.text("1"),
            "network-info.maximum-network-interfaces" => values.shown(self.interfaces_max),
            "processor-info.supported-architecture" => values.text("x86_64"),
            "supported-boot-mode" => values.text("legacy-bios"),
            "supported-root-device-type" => values.text("ebs"),
            "supported-usage-class" => values.text("on-demand"),
            "supported-virtualization-type" => values.text("hvm"),
            "vcpu-info.default-cores" => values.shown(self.vcpus.div_ceil(2)),
            "vcpu-info.default-threads-per-core" => values.shown(self.vcpus.min(2)),
            "vcpu-info.default-vcpus" => values.shown(self.vcpus),
            _ => unreachable!("{name} is no filter of instance types"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}

/// That a type is to be had at a place.
struct Offering {
    name: &'static str,
    location: String,
}

pub(super) fn offerings(
    view: View<'_>,
    call: &Call<ec2::DescribeInstanceTypeOfferingsRequest>,
) -> Result<ec2::DescribeInstanceTypeOfferingsResult, Error> {
    let region = view.space.region;
    let location_type = call.input.location_type.unwrap_or(ec2::LocationType::Region);
    let locations: Vec<String> = match location_type {
        ec2::LocationType::Region => vec![region.to_string()],
        ec2::LocationType::AvailabilityZone => region.zones().iter().map(ToString::to_string).collect(),
        ec2::LocationType::AvailabilityZoneId => region.zones().iter().map(|zone| zone.id()).collect(),
        ec2::LocationType::Outpost => Vec::new(),
    };
    let filters = read_filters::<Offering>(&call.input.filters)?;
    let at = |location: &String| {
        InstanceType::all()
            .iter()
            .map(|kind| Offering { name: kind.name, location: location.clone() })
            .collect::<Vec<_>>()
    };
    let mut offerings: Vec<Offering> =
        locations.iter().flat_map(at).filter(|offering| filters.admit(offering)).collect();
    let key = |offering: &Offering| format!("{}/{}", offering.name, offering.location);
    offerings.sort_by_key(key);
    let (offerings, next_token) = Page::of::<ec2::DescribeInstanceTypeOfferings>(call)?.take(offerings, key);
    let shown = |offering: Offering| ec2::InstanceTypeOffering {
        instance_type: Some(offering.name.to_owned()),
        location_type: Some(location_type),
        location: Some(offering.location),
    };
    let instance_type_offerings = Some(offerings.into_iter().map(shown).collect());
    Ok(ec2::DescribeInstanceTypeOfferingsResult { instance_type_offerings, next_token })
}

impl Filtered for Offering {
    const NAMES: &'static [&'static str] = &["instance-type", "location"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        values.text(if name == "location" { &self.location } else { self.name });
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}
