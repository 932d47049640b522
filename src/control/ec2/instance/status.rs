//! `DescribeInstanceStatus`: whether instances and their hosts are well.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};

use super::show;
use crate::ec2::row::{Row, read_filters, select};
use crate::records::{Instance, InstanceState};
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
    let instance_statuses = Some(rows.iter().map(|row| shown(row.record)).collect());
    Ok(ec2::DescribeInstanceStatusResult { instance_statuses, next_token })
}

/// A guest that runs is well as far as its host can see: it has ended otherwise.
fn summary(instance: &Instance) -> (ec2::SummaryStatus, Option<ec2::StatusType>) {
    match instance.state {
        InstanceState::Running => (ec2::SummaryStatus::Ok, Some(ec2::StatusType::Passed)),
        InstanceState::Pending => (ec2::SummaryStatus::Initializing, Some(ec2::StatusType::Initializing)),
        _ => (ec2::SummaryStatus::NotApplicable, None),
    }
}

fn shown(instance: &Instance) -> ec2::InstanceStatus {
    let (status, reachability) = summary(instance);
    let check = || ec2::InstanceStatusSummary {
        details: Some(
            reachability
                .into_iter()
                .map(|status| ec2::InstanceStatusDetails {
                    name: Some(ec2::StatusName::Reachability),
                    status: Some(status),
                    ..Default::default()
                })
                .collect(),
        ),
        status: Some(status),
    };
    ec2::InstanceStatus {
        availability_zone: Some(instance.zone.to_string()),
        availability_zone_id: Some(instance.zone.id()),
        events: Some(Vec::new()),
        instance_id: Some(instance.id.to_string()),
        instance_state: Some(show::state(&instance.state)),
        instance_status: Some(check()),
        system_status: Some(check()),
        ..Default::default()
    }
}

struct Status<'a>(Row<'a, Instance>);

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html>. There are no events here to filter by.
impl Filtered for Status<'_> {
    const NAMES: &'static [&'static str] = &[
        "availability-zone",
        "availability-zone-id",
        "instance-state-code",
        "instance-state-name",
        "instance-status.reachability",
        "instance-status.status",
        "system-status.reachability",
        "system-status.status",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let instance = self.0.record;
        let (status, reachability) = summary(instance);
        match name {
            "availability-zone" => values.shown(instance.zone),
            "availability-zone-id" => values.text(&instance.zone.id()),
            "instance-state-code" => {
                show::state(&instance.state).code.into_iter().for_each(|code| values.shown(code))
            }
            "instance-state-name" => values.shown(show::state_name(&instance.state)),
            "instance-status.reachability" | "system-status.reachability" => {
                reachability.into_iter().for_each(|status| values.shown(status));
            }
            "instance-status.status" | "system-status.status" => values.shown(status),
            _ => unreachable!("{name} is no filter of statuses"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.0.tag_pairs()
    }
}
