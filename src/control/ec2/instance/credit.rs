//! Whether an instance of a burstable type may spend more CPU credits than it has earned.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};
use types::InstanceId;

use crate::catalog::{Burst, BurstFamily, InstanceType};
use crate::ec2::errors::{Identified as _, id, invalid_value, not_found, unsupported};
use crate::ec2::row::{read_filters, select};
use crate::records::{CreditDefault, Instance, InstanceState};
use crate::state::{Transaction, View};

/// What `CpuCredits` says.
///
/// # Errors
/// When it says neither.
pub(super) fn is_unlimited(text: &str) -> Result<bool, Error> {
    match text {
        "standard" => Ok(false),
        "unlimited" => Ok(true),
        _ => Err(invalid_value(text, "CpuCredits", "It is standard or unlimited.")),
    }
}

/// The credits that a type has, if it has any.
pub(super) fn burst(instance_type: &str) -> Option<Burst> {
    InstanceType::find(instance_type)?.burst
}

/// Whether a new instance of this type spends credits that it has not earned, where nobody says so of the instance.
pub(super) fn is_unlimited_by_default(view: View<'_>, kind: &InstanceType) -> bool {
    kind.burst.is_some_and(|burst| is_unlimited_family(view, burst.family))
}

fn is_unlimited_family(view: View<'_>, family: BurstFamily) -> bool {
    let wanted = view.get::<CreditDefault>(family).map(|default| default.is_unlimited);
    wanted.unwrap_or_else(|| family.is_unlimited_by_default())
}

const fn word(is_unlimited: bool) -> &'static str {
    if is_unlimited { "unlimited" } else { "standard" }
}

/// # Errors
/// When it is one of AWS's that has no types here.
fn family(wanted: ec2::UnlimitedSupportedInstanceFamily) -> Result<BurstFamily, Error> {
    let refused = |()| unsupported(format!("nimbo has no instance types of the family {wanted}."));
    wanted.as_str().parse().map_err(refused)
}

fn shown_default(view: View<'_>, family: BurstFamily) -> Option<ec2::InstanceFamilyCreditSpecification> {
    Some(ec2::InstanceFamilyCreditSpecification {
        instance_family: family.to_string().parse().ok(),
        cpu_credits: Some(word(is_unlimited_family(view, family)).to_owned()),
    })
}

pub(super) fn get_default(
    view: View<'_>,
    call: &Call<ec2::GetDefaultCreditSpecificationRequest>,
) -> Result<ec2::GetDefaultCreditSpecificationResult, Error> {
    let family = family(call.input.instance_family)?;
    let instance_family_credit_specification = shown_default(view, family);
    Ok(ec2::GetDefaultCreditSpecificationResult { instance_family_credit_specification })
}

/// Instances that there are keep what they have.
pub(super) fn modify_default(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyDefaultCreditSpecificationRequest,
) -> Result<ec2::ModifyDefaultCreditSpecificationResult, Error> {
    let family = family(input.instance_family)?;
    let is_unlimited = is_unlimited(&input.cpu_credits)?;
    if is_unlimited == family.is_unlimited_by_default() {
        tx.remove::<CreditDefault>(family);
    } else {
        tx.put(CreditDefault { family, is_unlimited });
    }
    let instance_family_credit_specification = shown_default(tx.view(), family);
    Ok(ec2::ModifyDefaultCreditSpecificationResult { instance_family_credit_specification })
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeInstanceCreditSpecificationsRequest>,
) -> Result<ec2::DescribeInstanceCreditSpecificationsResult, Error> {
    let input = &call.input;
    let filters = read_filters::<Specified<'_>>(&input.filters)?;
    let mut rows = select::<Instance>(view, &input.instance_ids, &[])?;
    let asks_for_all = input.instance_ids.is_empty();
    for row in &rows {
        if !asks_for_all && burst(&row.record.instance_type).is_none() {
            let message = format!(
                "The instance {} is of type {}, which has no CPU credits.",
                row.record.id, row.record.instance_type
            );
            return Err(Error::new("InvalidInstanceCreditSpecification.NotSupported", message));
        }
    }
    // Without ids, those that are as nobody wanted them otherwise are left out.
    rows.retain(|row| {
        burst(&row.record.instance_type).is_some()
            && (!asks_for_all || row.record.has_unlimited_credits)
            && filters.admit(&Specified(row.record))
    });
    let (rows, next_token) = Page::of::<ec2::DescribeInstanceCreditSpecifications>(call)?
        .take(rows, |row| row.record.id.to_string());
    let specifications = rows.iter().map(|row| ec2::InstanceCreditSpecification {
        instance_id: Some(row.record.id.to_string()),
        cpu_credits: Some(word(row.record.has_unlimited_credits).to_owned()),
    });
    let instance_credit_specifications = Some(specifications.collect());
    Ok(ec2::DescribeInstanceCreditSpecificationsResult { instance_credit_specifications, next_token })
}

pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyInstanceCreditSpecificationRequest,
) -> Result<ec2::ModifyInstanceCreditSpecificationResult, Error> {
    let (mut successful, mut unsuccessful) = (Vec::new(), Vec::new());
    for wanted in input.instance_credit_specifications {
        let is_unlimited = is_unlimited(wanted.cpu_credits.as_deref().unwrap_or("standard"))?;
        let instance_id = Some(wanted.instance_id.clone());
        match change(tx, &wanted.instance_id, is_unlimited) {
            Ok(()) => successful.push(ec2::SuccessfulInstanceCreditSpecificationItem { instance_id }),
            Err((code, message)) => {
                let error = ec2::UnsuccessfulInstanceCreditSpecificationItemError {
                    code: Some(code),
                    message: Some(message),
                };
                let item =
                    ec2::UnsuccessfulInstanceCreditSpecificationItem { instance_id, error: Some(error) };
                unsuccessful.push(item);
            }
        }
    }
    Ok(ec2::ModifyInstanceCreditSpecificationResult {
        successful_instance_credit_specifications: Some(successful),
        unsuccessful_instance_credit_specifications: Some(unsuccessful),
    })
}

fn change(
    tx: &mut Transaction<'_>,
    text: &str,
    is_unlimited: bool,
) -> Result<(), (ec2::UnsuccessfulInstanceCreditSpecificationErrorCode, String)> {
    use ec2::UnsuccessfulInstanceCreditSpecificationErrorCode as Code;

    let id: InstanceId = id(text).map_err(|error| (Code::InvalidInstanceIDMalformed, error.message))?;
    let instance =
        tx.get::<Instance>(id).ok_or_else(|| (Code::InvalidInstanceIDNotFound, not_found(id).message))?;
    if matches!(instance.state, InstanceState::ShuttingDown { .. } | InstanceState::Terminated { .. }) {
        return Err((
            Code::IncorrectInstanceState,
            format!("The {} '{id}' is terminated.", InstanceId::NAMED.noun),
        ));
    }
    if burst(&instance.instance_type).is_none() {
        let message = format!("The instance type {} has no CPU credits.", instance.instance_type);
        return Err((Code::InstanceCreditSpecificationNotSupported, message));
    }
    tx.update::<Instance>(id, |instance| instance.has_unlimited_credits = is_unlimited);
    Ok(())
}

/// An instance by what can be filtered here.
struct Specified<'a>(&'a Instance);

impl Filtered for Specified<'_> {
    const NAMES: &'static [&'static str] = &["instance-id"];

    fn values(&self, _: &str, values: &mut Values<'_>) {
        values.shown(self.0.id);
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}
