//! What an instance is beside its disks and interfaces.

use aws::{Error, ec2};
use types::PlacementGroupId;

use crate::catalog::InstanceType;
use crate::ec2::instance::{attribute, credit, metadata, placement, types as kinds};
use crate::ports::LoginKey;
use crate::records::{Image, KeyPair, MetadataOptions, ShutdownBehavior};
use crate::state::View;

/// When nobody says which type, AWS launches m1.small: this is the smallest of today's that is as large.
const DEFAULT_TYPE_HERE: &str = "t3.small";

pub(super) struct Options {
    pub kind: &'static InstanceType,
    pub key: Option<LoginKey>,
    pub user_data: Vec<u8>,
    pub metadata_options: MetadataOptions,
    pub shutdown_behavior: ShutdownBehavior,
    pub has_unlimited_credits: bool,
    pub placement_group: Option<PlacementGroupId>,
    pub partition: Option<u8>,
}

impl Options {
    /// # Errors
    /// What is wrong with the request.
    pub(super) fn of(view: View<'_>, input: &ec2::RunInstancesRequest, image: &Image) -> Result<Self, Error> {
        let name = input.instance_type.as_deref().unwrap_or(DEFAULT_TYPE_HERE);
        let kind = kinds::find(name)?;
        check_processors(kind, input.cpu_options.as_ref())?;
        check_names(input.private_dns_name_options.as_ref())?;
        if input
            .iam_instance_profile
            .as_ref()
            .is_some_and(|profile| profile.arn.is_some() || profile.name.is_some())
        {
            return Err(Error::new(
                "UnsupportedOperation",
                "nimbo has no roles: launch without IamInstanceProfile.",
            ));
        }
        let (placement_group, partition) = wanted_placement(view, kind, input.placement.as_ref())?;
        Ok(Self {
            kind,
            key: key(view, input.key_name.as_deref())?,
            user_data: input.user_data.as_deref().map(attribute::user_data).transpose()?.unwrap_or_default(),
            metadata_options: metadata_options(input.metadata_options.as_ref(), image)?,
            shutdown_behavior: match input.instance_initiated_shutdown_behavior {
                Some(ec2::ShutdownBehavior::Terminate) => ShutdownBehavior::Terminate,
                Some(ec2::ShutdownBehavior::Stop) | None => ShutdownBehavior::Stop,
            },
            has_unlimited_credits: unlimited(view, kind, input.credit_specification.as_ref())?,
            placement_group,
            partition,
        })
    }
}

fn key(view: View<'_>, name: Option<&str>) -> Result<Option<LoginKey>, Error> {
    let Some(name) = name else { return Ok(None) };
    let pair = view.tables().key_pairs.iter().find(|pair: &&std::sync::Arc<KeyPair>| pair.name == name);
    let pair = pair.ok_or_else(|| {
        Error::new("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist"))
    })?;
    Ok(Some(LoginKey { name: pair.name.clone(), public_key: pair.public_key.clone() }))
}

fn metadata_options(
    input: Option<&ec2::InstanceMetadataOptionsRequest>,
    image: &Image,
) -> Result<MetadataOptions, Error> {
    let before = MetadataOptions {
        requires_token: image.requires_metadata_token,
        token_hop_limit: if image.requires_metadata_token { 2 } else { 1 },
        ..MetadataOptions::default()
    };
    let Some(input) = input else { return Ok(before) };
    let wanted = metadata::Wanted {
        tokens: input.http_tokens,
        hop_limit: input.http_put_response_hop_limit,
        endpoint: input.http_endpoint,
        tags: input.instance_metadata_tags,
        ipv6: input.http_protocol_ipv6,
    };
    wanted.over(before)
}

fn unlimited(
    view: View<'_>,
    kind: &InstanceType,
    input: Option<&ec2::CreditSpecificationRequest>,
) -> Result<bool, Error> {
    match (kind.burst, input) {
        (Some(_), Some(wanted)) => credit::is_unlimited(&wanted.cpu_credits),
        (_, None) => Ok(credit::is_unlimited_by_default(view, kind)),
        (None, Some(_)) => {
            let message = format!("The instance type {} has no CPU credits.", kind.name);
            Err(Error::new("InvalidParameterCombination", message))
        }
    }
}

/// A type has as many processors as it has: fewer cannot be had for less here.
fn check_processors(kind: &InstanceType, input: Option<&ec2::CpuOptionsRequest>) -> Result<(), Error> {
    let Some(input) = input else { return Ok(()) };
    let (cores, threads) = (i32::from(kind.vcpus.div_ceil(2)), i32::from(kind.vcpus.min(2)));
    if input.core_count.unwrap_or(cores) == cores && input.threads_per_core.unwrap_or(threads) == threads {
        return Ok(());
    }
    let message = format!(
        "nimbo gives {} its {cores} cores with {threads} threads each, and no other CpuOptions.",
        kind.name
    );
    Err(Error::new("UnsupportedOperation", message))
}

fn check_names(input: Option<&ec2::PrivateDnsNameOptionsRequest>) -> Result<(), Error> {
    let Some(input) = input else { return Ok(()) };
    let is_by_address = input.hostname_type.is_none_or(|kind| kind == ec2::HostnameType::IpName);
    if is_by_address && input.enable_resource_name_dns_a_record != Some(true) {
        return Ok(());
    }
    Err(Error::new("UnsupportedOperation", "nimbo names instances by their addresses: 'ip-name'."))
}

/// The group that is named, and the partition of it.
fn wanted_placement(
    view: View<'_>,
    kind: &InstanceType,
    input: Option<&ec2::Placement>,
) -> Result<(Option<PlacementGroupId>, Option<u8>), Error> {
    let Some(input) = input else { return Ok((None, None)) };
    if input.tenancy.is_some_and(|tenancy| tenancy != ec2::Tenancy::Default) {
        return Err(placement::no_tenancy());
    }
    let name = input.group_name.as_deref().filter(|name| !name.is_empty());
    let group = placement::group(view, name, input.group_id.as_deref())?;
    placement::check_type(kind, group)?;
    let partition = placement::partition(group, input.partition_number)?;
    Ok((group.map(|group| group.id), partition))
}
