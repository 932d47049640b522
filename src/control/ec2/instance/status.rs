//! `DescribeInstanceStatus`: whether instances and their hosts are well.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};
use jiff::Timestamp;

use super::show;
use crate::ec2::row::{Row, read_filters, select};
use crate::records::{EventCode, Health, Instance, InstanceEvent, InstanceNotices, InstanceState};
use crate::state::View;

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeInstanceStatusRequest>,
) -> Result<ec2::DescribeInstanceStatusResult, Error> {
    let input = &call.input;
    let filters = read_filters::<Status<'_>>(&input.filters)?;
    let mut rows = select::<Instance>(view, &input.instance_ids, &[])?;
    let has_all = input.include_all_instances == Some(true);
    rows.retain(|row| {
        (has_all || row.record.state == InstanceState::Running) && filters.admit(&Status(*row))
    });
    let (rows, next_token) =
        Page::of::<ec2::DescribeInstanceStatus>(call)?.take(rows, |row| row.record.id.to_string());
    let instance_statuses = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribeInstanceStatusResult { instance_statuses, next_token })
}

/// What a check found, and since when it is not well.
#[derive(Clone, Copy)]
struct Check {
    status: ec2::SummaryStatus,
    reachability: Option<ec2::StatusType>,
    impaired_since: Option<Timestamp>,
}

impl Check {
    const NONE: Self =
        Self { status: ec2::SummaryStatus::NotApplicable, reachability: None, impaired_since: None };
    const INITIALIZING: Self = Self {
        status: ec2::SummaryStatus::Initializing,
        reachability: Some(ec2::StatusType::Initializing),
        impaired_since: None,
    };
    const OK: Self = Self {
        status: ec2::SummaryStatus::Ok,
        reachability: Some(ec2::StatusType::Passed),
        impaired_since: None,
    };

    fn impaired(since: Timestamp) -> Self {
        Self {
            status: ec2::SummaryStatus::Impaired,
            reachability: Some(ec2::StatusType::Failed),
            impaired_since: Some(since),
        }
    }

    /// Of the host that an instance is on: it is well while its microVM runs.
    fn of_system(instance: &Instance) -> Self {
        match (&instance.state, instance.outage) {
            (InstanceState::Running, Some(outage)) => Self::impaired(outage.since),
            (InstanceState::Running, None) => Self::OK,
            (InstanceState::Pending, _) => Self::INITIALIZING,
            _ => Self::NONE,
        }
    }

    /// Of the guest.
    fn of_instance(instance: &Instance) -> Self {
        match (&instance.state, instance.outage, instance.health) {
            (InstanceState::Running, Some(outage), _) => Self::impaired(outage.since),
            (InstanceState::Running, None, Health::Well) => Self::OK,
            (InstanceState::Running, None, Health::Impaired { since }) => Self::impaired(since),
            (InstanceState::Running, None, Health::Initializing) | (InstanceState::Pending, ..) => {
                Self::INITIALIZING
            }
            _ => Self::NONE,
        }
    }

    fn shown(self) -> ec2::InstanceStatusSummary {
        let details = |status| ec2::InstanceStatusDetails {
            impaired_since: self.impaired_since,
            name: Some(ec2::StatusName::Reachability),
            status: Some(status),
        };
        ec2::InstanceStatusSummary {
            details: Some(self.reachability.into_iter().map(details).collect()),
            status: Some(self.status),
        }
    }
}

fn events<'a>(row: &Row<'a, Instance>) -> &'a [InstanceEvent] {
    row.view.get::<InstanceNotices>(row.record.id).map_or(&[], |notices| &notices.events)
}

fn shown_event(event: &InstanceEvent) -> ec2::InstanceStatusEvent {
    ec2::InstanceStatusEvent {
        instance_event_id: Some(event.id.clone()),
        code: Some(match event.code {
            EventCode::InstanceReboot => ec2::EventCode::InstanceReboot,
            EventCode::InstanceRetirement => ec2::EventCode::InstanceRetirement,
            EventCode::InstanceStop => ec2::EventCode::InstanceStop,
            EventCode::SystemMaintenance => ec2::EventCode::SystemMaintenance,
            EventCode::SystemReboot => ec2::EventCode::SystemReboot,
        }),
        description: Some(event.description()),
        not_before: Some(event.not_before),
        ..Default::default()
    }
}

fn shown(row: &Row<'_, Instance>) -> ec2::InstanceStatus {
    let instance = row.record;
    ec2::InstanceStatus {
        availability_zone: Some(instance.zone.to_string()),
        availability_zone_id: Some(instance.zone.id()),
        events: Some(events(row).iter().map(shown_event).collect()),
        instance_id: Some(instance.id.to_string()),
        instance_state: Some(show::state(&instance.state)),
        instance_status: Some(Check::of_instance(instance).shown()),
        system_status: Some(Check::of_system(instance).shown()),
        ..Default::default()
    }
}

struct Status<'a>(Row<'a, Instance>);

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html>. Events here have no end and no deadline to filter by.
impl Filtered for Status<'_> {
    const NAMES: &'static [&'static str] = &[
        "availability-zone",
        "availability-zone-id",
        "event.code",
        "event.description",
        "event.instance-event-id",
        "event.not-before",
        "instance-state-code",
        "instance-state-name",
        "instance-status.reachability",
        "instance-status.status",
        "system-status.reachability",
        "system-status.status",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let instance = self.0.record;
        let check = if name.starts_with("system-") {
            Check::of_system(instance)
        } else {
            Check::of_instance(instance)
        };
        match name {
            "availability-zone" => values.shown(instance.zone),
            "availability-zone-id" => values.text(&instance.zone.id()),
            "event.code" => events(&self.0).iter().for_each(|event| values.text(event.code.word())),
            "event.description" => events(&self.0).iter().for_each(|event| values.text(&event.description())),
            "event.instance-event-id" => events(&self.0).iter().for_each(|event| values.text(&event.id)),
            "event.not-before" => events(&self.0).iter().for_each(|event| {
                values.text(&event.not_before.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }),
            "instance-state-code" => {
                show::state(&instance.state).code.into_iter().for_each(|code| values.shown(code))
            }
            "instance-state-name" => values.shown(show::state_name(&instance.state)),
            "instance-status.reachability" | "system-status.reachability" => {
                check.reachability.into_iter().for_each(|status| values.shown(status));
            }
            "instance-status.status" | "system-status.status" => values.shown(check.status),
            _ => unreachable!("{name} is no filter of statuses"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.0.tag_pairs()
    }
}
