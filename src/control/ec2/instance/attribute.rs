//! An instance's attributes, one at a time.

use aws::service::Empty;
use aws::{Call, Error, ec2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use types::{InstanceId, SecurityGroupId};

use super::lifecycle::interfaces;
use super::{credit, named, placement, show, types as kinds, wrong_state};
use crate::ec2::errors::{id, invalid_value, not_found};
use crate::ec2::interface::shown_groups;
use crate::records::{Instance, InstanceState, NetworkInterface, SecurityGroup, ShutdownBehavior, Volume};
use crate::state::{Transaction, View};

/// Of user data, before base64.
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html>.
const USER_DATA_BYTES_MAX: usize = 16 << 10;

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeInstanceAttributeRequest>,
) -> Result<ec2::InstanceAttribute, Error> {
    use ec2::InstanceAttributeName as Name;

    let id: InstanceId = id(&call.input.instance_id)?;
    let instance = view.get::<Instance>(id).ok_or_else(|| not_found(id))?;
    let all = interfaces(view, id);
    let primary = all.first();
    let text = |text: &str| Some(ec2::AttributeValue { value: Some(text.to_owned()) });
    let flag = |flag| Some(ec2::AttributeBooleanValue { value: Some(flag) });
    let mut answer = ec2::InstanceAttribute { instance_id: Some(id.to_string()), ..Default::default() };
    match call.input.attribute {
        Name::InstanceType => answer.instance_type = text(&instance.instance_type),
        Name::UserData => {
            let has_any = !instance.user_data.is_empty();
            let value = has_any.then(|| STANDARD.encode(&instance.user_data));
            answer.user_data = Some(ec2::AttributeValue { value });
        }
        Name::DisableApiTermination => {
            answer.disable_api_termination = flag(instance.is_protected_from_termination)
        }
        Name::DisableApiStop => answer.disable_api_stop = flag(instance.is_protected_from_stop),
        Name::InstanceInitiatedShutdownBehavior => {
            answer.instance_initiated_shutdown_behavior = text(behavior_name(instance.shutdown_behavior));
        }
        Name::RootDeviceName => answer.root_device_name = text(&instance.root_device_name),
        Name::BlockDeviceMapping => answer.block_device_mappings = Some(show::block_devices(view, instance)),
        Name::ProductCodes => answer.product_codes = Some(Vec::new()),
        Name::SourceDestCheck => {
            answer.source_dest_check =
                primary.and_then(|interface| flag(interface.checks_source_and_destination));
        }
        Name::GroupSet => {
            answer.groups =
                Some(primary.map(|interface| shown_groups(view, &interface.groups)).unwrap_or_default())
        }
        Name::EbsOptimized => answer.ebs_optimized = flag(instance.is_ebs_optimized),
        Name::EnaSupport => answer.ena_support = flag(true),
        Name::EnclaveOptions => answer.enclave_options = Some(ec2::EnclaveOptions { enabled: Some(false) }),
        // A disk brings its own kernel, and there is no SR-IOV.
        Name::Kernel | Name::Ramdisk | Name::SriovNetSupport => {}
    }
    Ok(answer)
}

pub(super) fn behavior_name(behavior: ShutdownBehavior) -> &'static str {
    match behavior {
        ShutdownBehavior::Stop => "stop",
        ShutdownBehavior::Terminate => "terminate",
    }
}

/// What user data is, of its base64.
///
/// # Errors
/// When it is no base64, or too long.
pub(super) fn user_data(base64: &str) -> Result<Vec<u8>, Error> {
    let text: String = base64.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| Error::new("InvalidParameterValue", "Invalid BASE64 encoding of user data."))?;
    limited(bytes)
}

fn limited(bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if bytes.len() > USER_DATA_BYTES_MAX {
        let message = format!("User data is limited to {USER_DATA_BYTES_MAX} bytes");
        return Err(Error::new("InvalidParameterValue", message));
    }
    Ok(bytes)
}

/// What one request changes: AWS takes one attribute at a time, and so does everybody who asks.
pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyInstanceAttributeRequest,
) -> Result<Empty, Error> {
    let id = named(tx, &input.instance_id)?.id;
    let change = wanted(&input)?;
    apply(tx, id, change)?;
    Ok(Empty)
}

enum Change {
    InstanceType(String),
    UserData(Vec<u8>),
    ProtectFromTermination(bool),
    ProtectFromStop(bool),
    Behavior(ShutdownBehavior),
    CheckSourceAndDestination(bool),
    Groups(Vec<String>),
    EbsOptimized(bool),
    DeleteOnTermination(Vec<(String, bool)>),
}

/// The one change that a request wants, in the form of a member of its own, or in that of `Attribute` and `Value`.
fn wanted(input: &ec2::ModifyInstanceAttributeRequest) -> Result<Change, Error> {
    let flag = |value: &Option<ec2::AttributeBooleanValue>| value.as_ref().and_then(|value| value.value);
    let text = |value: &Option<ec2::AttributeValue>| value.as_ref().and_then(|value| value.value.clone());
    let mut changes = Vec::new();
    changes.extend(text(&input.instance_type).map(Change::InstanceType));
    if let Some(data) = &input.user_data {
        changes.push(Change::UserData(limited(data.value.clone().unwrap_or_default())?));
    }
    changes.extend(flag(&input.disable_api_termination).map(Change::ProtectFromTermination));
    changes.extend(flag(&input.disable_api_stop).map(Change::ProtectFromStop));
    if let Some(text) = text(&input.instance_initiated_shutdown_behavior) {
        changes.push(Change::Behavior(behavior(&text)?));
    }
    changes.extend(flag(&input.source_dest_check).map(Change::CheckSourceAndDestination));
    if !input.groups.is_empty() {
        changes.push(Change::Groups(input.groups.clone()));
    }
    changes.extend(flag(&input.ebs_optimized).map(Change::EbsOptimized));
    if flag(&input.ena_support) == Some(false) {
        return Err(Error::new(
            "UnsupportedOperation",
            "Instances of nimbo have one kind of network interface: ENA cannot be switched off.",
        ));
    }
    if !input.block_device_mappings.is_empty() {
        changes.push(Change::DeleteOnTermination(deletions(&input.block_device_mappings)?));
    }
    if let Some(attribute) = input.attribute {
        changes.extend(by_name(attribute, input.value.as_deref().unwrap_or_default())?);
    }
    let mut changes = changes.into_iter();
    match (changes.next(), changes.next()) {
        (Some(change), None) => Ok(change),
        (None, _) => Err(Error::new("InvalidParameterCombination", "No attributes specified.")),
        (Some(_), Some(_)) => {
            let message =
                "Fields for multiple attribute types specified. Only one attribute can be changed at a time.";
            Err(Error::new("InvalidParameterCombination", message))
        }
    }
}

fn deletions(
    mappings: &[ec2::InstanceBlockDeviceMappingSpecification],
) -> Result<Vec<(String, bool)>, Error> {
    let deletion = |mapping: &ec2::InstanceBlockDeviceMappingSpecification| {
        let device = mapping.device_name.clone();
        let goes = mapping.ebs.as_ref().and_then(|ebs| ebs.delete_on_termination);
        let message = "A block device mapping is changed by its DeviceName and Ebs.DeleteOnTermination.";
        device.zip(goes).ok_or_else(|| Error::new("InvalidParameterCombination", message))
    };
    mappings.iter().map(deletion).collect()
}

fn by_name(attribute: ec2::InstanceAttributeName, value: &str) -> Result<Option<Change>, Error> {
    use ec2::InstanceAttributeName as Name;

    let flag = || match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid_value(value, "value", "It is true or false.")),
    };
    Ok(Some(match attribute {
        Name::InstanceType => Change::InstanceType(value.to_owned()),
        Name::UserData => Change::UserData(user_data(value)?),
        Name::DisableApiTermination => Change::ProtectFromTermination(flag()?),
        Name::DisableApiStop => Change::ProtectFromStop(flag()?),
        Name::InstanceInitiatedShutdownBehavior => Change::Behavior(behavior(value)?),
        Name::SourceDestCheck => Change::CheckSourceAndDestination(flag()?),
        Name::EbsOptimized => Change::EbsOptimized(flag()?),
        // Its value is the mappings.
        Name::BlockDeviceMapping => return Ok(None),
        _ => {
            let message = format!("The attribute {attribute} cannot be modified.");
            return Err(Error::new("UnsupportedOperation", message));
        }
    }))
}

/// # Errors
/// When it is none of the two.
pub(super) fn behavior(text: &str) -> Result<ShutdownBehavior, Error> {
    match text {
        "stop" => Ok(ShutdownBehavior::Stop),
        "terminate" => Ok(ShutdownBehavior::Terminate),
        _ => Err(invalid_value(text, "instanceInitiatedShutdownBehavior", "It is stop or terminate.")),
    }
}

fn apply(tx: &mut Transaction<'_>, id: InstanceId, change: Change) -> Result<(), Error> {
    if matches!(change, Change::InstanceType(_) | Change::UserData(_) | Change::EbsOptimized(_))
        && let Some(instance) = tx.get::<Instance>(id)
        && !matches!(instance.state, InstanceState::Stopped { .. })
    {
        return Err(wrong_state(instance, "modified in this way"));
    }
    match change {
        Change::InstanceType(name) => {
            let kind = kinds::find(&name)?;
            let group = tx.get::<Instance>(id).and_then(|instance| instance.placement_group);
            placement::check_type(kind, group.and_then(|group| tx.get(group)))?;
            let name = kind.name.to_owned();
            let is_unlimited = credit::is_unlimited_by_default(tx.view(), kind);
            tx.update::<Instance>(id, |instance| {
                // A type of another family has its own idea of credits.
                if credit::burst(&instance.instance_type).is_none() {
                    instance.has_unlimited_credits = is_unlimited;
                }
                instance.instance_type = name;
            });
        }
        Change::UserData(data) => {
            tx.update::<Instance>(id, |instance| instance.user_data = data);
        }
        Change::ProtectFromTermination(is) => {
            tx.update::<Instance>(id, |instance| instance.is_protected_from_termination = is);
        }
        Change::ProtectFromStop(is) => {
            tx.update::<Instance>(id, |instance| instance.is_protected_from_stop = is);
        }
        Change::Behavior(behavior) => {
            tx.update::<Instance>(id, |instance| instance.shutdown_behavior = behavior);
        }
        Change::EbsOptimized(is) => {
            tx.update::<Instance>(id, |instance| instance.is_ebs_optimized = is);
        }
        Change::CheckSourceAndDestination(checks) => {
            change_primary(tx, id, |interface| interface.checks_source_and_destination = checks)?;
        }
        Change::Groups(texts) => {
            let groups = groups_of_its_vpc(tx, id, &texts)?;
            change_primary(tx, id, |interface| interface.groups = groups)?;
        }
        Change::DeleteOnTermination(changes) => delete_on_termination(tx, id, &changes)?,
    }
    Ok(())
}

/// # Errors
/// When there is more than one interface: then it must be said whose it is.
fn change_primary(
    tx: &mut Transaction<'_>,
    id: InstanceId,
    change: impl FnOnce(&mut NetworkInterface),
) -> Result<(), Error> {
    let ids: Vec<_> = interfaces(tx.view(), id).iter().map(|interface| interface.id).collect();
    match ids[..] {
        [only] => {
            tx.update::<NetworkInterface>(only, change);
            Ok(())
        }
        _ => {
            let message = format!(
                "There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for the operation instead."
            );
            Err(Error::new("InvalidInstanceID", message))
        }
    }
}

fn groups_of_its_vpc(
    tx: &Transaction<'_>,
    id: InstanceId,
    texts: &[String],
) -> Result<Vec<SecurityGroupId>, Error> {
    let vpc = interfaces(tx.view(), id).first().map(|interface| interface.vpc);
    let groups = crate::ec2::errors::ids::<SecurityGroupId>(texts)?;
    for group in &groups {
        let found = tx.get::<SecurityGroup>(*group).ok_or_else(|| not_found(*group))?;
        if Some(found.vpc) != vpc {
            let message = "You have specified two resources that belong to different networks.";
            return Err(Error::new("InvalidGroup.NotFound", message));
        }
    }
    Ok(groups)
}

/// An attribute goes back to what it is if nobody says anything.
pub(super) fn reset(
    tx: &mut Transaction<'_>,
    input: ec2::ResetInstanceAttributeRequest,
) -> Result<Empty, Error> {
    let id = named(tx, &input.instance_id)?.id;
    match input.attribute {
        ec2::InstanceAttributeName::SourceDestCheck => {
            change_primary(tx, id, |interface| interface.checks_source_and_destination = true)?;
            Ok(Empty)
        }
        other => Err(Error::new(
            "UnsupportedOperation",
            format!("The attribute {other} cannot be reset: a disk brings its own kernel."),
        )),
    }
}

fn delete_on_termination(
    tx: &mut Transaction<'_>,
    id: InstanceId,
    changes: &[(String, bool)],
) -> Result<(), Error> {
    for (device, goes) in changes {
        let has_it =
            |volume: &Volume| volume.attachment(id).is_some_and(|attachment| attachment.device == *device);
        let found = tx.tables().volumes.linked_to(id).find(|volume| has_it(volume)).map(|volume| volume.id);
        let volume = found.ok_or_else(|| {
            let message = format!("No device is currently mapped at {device}");
            Error::new("InvalidInstanceAttributeValue", message)
        })?;
        tx.update::<Volume>(volume, |volume| {
            for attachment in volume.attachments.iter_mut().filter(|attachment| attachment.instance == id) {
                attachment.delete_on_termination = *goes;
            }
        });
    }
    Ok(())
}
