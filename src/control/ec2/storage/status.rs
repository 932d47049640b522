//! Whether volumes are in order. One in a zone that has failed is impaired until the zone is back: its instances do not get at it.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::VolumeId;

use crate::ec2::errors::{id, missing, not_found};
use crate::ec2::row::{Row, read_filters, select};
use crate::records::{FailedZone, Volume, VolumeState};
use crate::state::{Transaction, View};

/// A volume by how it is.
struct Condition<'a> {
    row: Row<'a, Volume>,
    /// Its zone has failed, and not recovered.
    is_out: bool,
}

impl<'a> Condition<'a> {
    fn of(view: View<'_>, row: Row<'a, Volume>) -> Self {
        let is_out = FailedZone::find(view.state, row.record.zone).is_some();
        Self { row, is_out }
    }

    fn status(&self) -> ec2::VolumeStatusInfoStatus {
        match (&self.row.record.state, self.is_out) {
            (VolumeState::Creating, _) => ec2::VolumeStatusInfoStatus::InsufficientData,
            (VolumeState::Error { .. }, _) | (VolumeState::Available, true) => {
                ec2::VolumeStatusInfoStatus::Impaired
            }
            (VolumeState::Available | VolumeState::Deleting, _) => ec2::VolumeStatusInfoStatus::Ok,
        }
    }

    /// Of all that is looked at: whether there is I/O, and as fast as it should be.
    fn details(&self) -> [(ec2::VolumeStatusName, &'static str); 2] {
        let (enabled, performance) = match self.status() {
            ec2::VolumeStatusInfoStatus::Ok => ("passed", "not-applicable"),
            ec2::VolumeStatusInfoStatus::Impaired => ("failed", "not-applicable"),
            _ => ("insufficient-data", "insufficient-data"),
        };
        [(ec2::VolumeStatusName::IoEnabled, enabled), (ec2::VolumeStatusName::IoPerformance, performance)]
    }

    fn shown(&self) -> ec2::VolumeStatusItem {
        let volume = self.row.record;
        let details = self.details().map(|(name, status)| ec2::VolumeStatusDetails {
            name: Some(name),
            status: Some(status.to_owned()),
        });
        let attachments = volume.attachments.iter().map(|attachment| ec2::VolumeStatusAttachmentStatus {
            io_performance: Some("not-applicable".to_owned()),
            instance_id: Some(attachment.instance.to_string()),
        });
        ec2::VolumeStatusItem {
            actions: Some(Vec::new()),
            availability_zone: Some(volume.zone.to_string()),
            events: Some(Vec::new()),
            volume_id: Some(volume.id.to_string()),
            volume_status: Some(ec2::VolumeStatusInfo {
                details: Some(details.into()),
                status: Some(self.status()),
            }),
            attachment_statuses: Some(attachments.collect()),
            availability_zone_id: Some(volume.zone.id()),
            ..Default::default()
        }
    }
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeVolumeStatusRequest>,
) -> Result<ec2::DescribeVolumeStatusResult, Error> {
    let filters = read_filters::<Condition<'_>>(&call.input.filters)?;
    let rows = select::<Volume>(view, &call.input.volume_ids, &[])?;
    let conditions = rows.into_iter().map(|row| Condition::of(view, row));
    let rows = conditions.filter(|condition| filters.admit(condition));
    let page = Page::of::<ec2::DescribeVolumeStatus>(call)?;
    let (rows, next_token) = page.take(rows, |condition| condition.row.record.id.to_string());
    let volume_statuses = Some(rows.iter().map(Condition::shown).collect());
    Ok(ec2::DescribeVolumeStatusResult { next_token, volume_statuses })
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVolumeStatus.html>. There are no events, and no actions.
impl Filtered for Condition<'_> {
    const NAMES: &'static [&'static str] = &[
        "action.code",
        "action.description",
        "action.event-id",
        "availability-zone",
        "availability-zone-id",
        "event.description",
        "event.event-id",
        "event.event-type",
        "event.not-after",
        "event.not-before",
        "volume-status.details-name",
        "volume-status.details-status",
        "volume-status.status",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let volume = self.row.record;
        match name {
            "availability-zone" => values.shown(volume.zone),
            "availability-zone-id" => values.text(&volume.zone.id()),
            "volume-status.details-name" => {
                self.details().iter().for_each(|(name, _)| values.text(name.as_str()));
            }
            "volume-status.details-status" => {
                self.details().iter().for_each(|(_, status)| values.text(status));
            }
            "volume-status.status" => values.text(self.status().as_str()),
            _ => {}
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.row.tag_pairs()
    }
}

pub(super) fn describe_attribute(
    view: View<'_>,
    call: &Call<ec2::DescribeVolumeAttributeRequest>,
) -> Result<ec2::DescribeVolumeAttributeResult, Error> {
    let id: VolumeId = id(&call.input.volume_id)?;
    let volume = view.get::<Volume>(id).ok_or_else(|| not_found(id))?;
    let answer = ec2::DescribeVolumeAttributeResult { volume_id: Some(id.to_string()), ..Default::default() };
    Ok(match call.input.attribute {
        ec2::VolumeAttributeName::AutoEnableIO => ec2::DescribeVolumeAttributeResult {
            auto_enable_io: Some(ec2::AttributeBooleanValue { value: Some(volume.enables_io_by_itself) }),
            ..answer
        },
        ec2::VolumeAttributeName::ProductCodes => {
            ec2::DescribeVolumeAttributeResult { product_codes: Some(Vec::new()), ..answer }
        }
    })
}

pub(super) fn modify_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyVolumeAttributeRequest,
) -> Result<Empty, Error> {
    let id: VolumeId = id(&input.volume_id)?;
    let wanted = input.auto_enable_io.and_then(|attribute| attribute.value);
    let wanted = wanted.ok_or_else(|| missing("autoEnableIO"))?;
    if tx.update::<Volume>(id, |volume| volume.enables_io_by_itself = wanted) {
        Ok(Empty)
    } else {
        Err(not_found(id))
    }
}
