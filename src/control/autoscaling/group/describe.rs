//! Groups as clients see them.

use aws::filters::{Filtered, Filters, Values};
use aws::{Call, Error, autoscaling as api};

use super::super::decide::{Condition, Seen, condition};
use super::super::launch::version_text;
use super::super::observe::{by_name, members, seen};
use super::super::page::page;
use super::super::tag;
use crate::records::{Instance, LaunchTemplate, MemberState, ScalingGroup, ScalingMember, VersionId};
use crate::state::{Space, View};

pub(in super::super) fn describe(
    view: View<'_>,
    call: &Call<api::AutoScalingGroupNamesType>,
) -> Result<api::AutoScalingGroupsType, Error> {
    let input = &call.input;
    let filters = input.filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
    let filters = Filters::new::<Row<'_>>(filters).map_err(tag::bad_filter)?;
    let mut groups: Vec<&ScalingGroup> = if input.auto_scaling_group_names.is_empty() {
        view.tables().scaling_groups.iter().map(AsRef::as_ref).collect()
    } else {
        input.auto_scaling_group_names.iter().filter_map(|name| by_name(view, name)).collect()
    };
    groups.retain(|group| filters.admit(&Row(group)));
    groups.sort_by(|one, other| one.name.cmp(&other.name));
    groups.dedup_by(|one, other| one.id == other.id);
    let (groups, next_token) =
        page::<api::DescribeAutoScalingGroups, _, _>(call, groups, |group| &group.name)?;
    let has_instances = input.include_instances != Some(false);
    let shown = groups.into_iter().map(|group| shown(view, group, has_instances)).collect();
    Ok(api::AutoScalingGroupsType { auto_scaling_groups: Some(shown), next_token })
}

/// Groups in filters.
struct Row<'a>(&'a ScalingGroup);

/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingGroups.html>.
impl Filtered for Row<'_> {
    const NAMES: &'static [&'static str] = &["tag-value"];

    fn values(&self, _: &str, values: &mut Values<'_>) {
        self.0.tags.values().for_each(|tag| values.text(&tag.value));
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        Some(self.0.tags.iter().map(|(key, tag)| (key.as_str(), tag.value.as_str())))
    }
}

pub(in super::super) fn arn(space: Space, group: &ScalingGroup) -> String {
    let Space { account, region } = space;
    format!(
        "arn:aws:autoscaling:{region}:{account}:autoScalingGroup:{}:autoScalingGroupName/{}",
        group.id, group.name
    )
}

fn shown(view: View<'_>, group: &ScalingGroup, has_instances: bool) -> api::AutoScalingGroup {
    let mut zones: Vec<String> = group.places.iter().map(|place| place.zone.to_string()).collect();
    zones.sort_unstable();
    zones.dedup();
    let subnets: Vec<String> = group.places.iter().map(|place| place.subnet.to_string()).collect();
    let instances = members(view, group.id).filter(|_| has_instances);
    let suspended = group.suspended.iter().map(|process| api::SuspendedProcess {
        process_name: Some(process.as_str().to_owned()),
        suspension_reason: Some("User suspended".to_owned()),
    });
    let policies = group.termination_policies.iter().map(|policy| policy.as_str().to_owned());
    api::AutoScalingGroup {
        auto_scaling_group_name: Some(group.name.clone()),
        auto_scaling_group_arn: Some(arn(view.space, group)),
        launch_template: Some(specification(view, group)),
        min_size: Some(shown_number(group.min)),
        max_size: Some(shown_number(group.max)),
        desired_capacity: Some(shown_number(group.desired)),
        default_cooldown: Some(shown_number(group.cooldown_s)),
        availability_zones: Some(zones),
        load_balancer_names: Some(Vec::new()),
        target_group_arns: Some(Vec::new()),
        traffic_sources: Some(Vec::new()),
        health_check_type: Some("EC2".to_owned()),
        health_check_grace_period: Some(shown_number(group.grace_s)),
        instances: Some(instances.map(|member| instance(view, group, &seen(view, member))).collect()),
        created_time: Some(group.created),
        suspended_processes: Some(suspended.collect()),
        vpc_zone_identifier: Some(if group.has_named_subnets { subnets.join(",") } else { String::new() }),
        enabled_metrics: Some(Vec::new()),
        status: group.is_deleting.then(|| "Delete in progress".to_owned()),
        tags: Some(group.tags.iter().map(|(key, tag)| tag::shown(&group.name, key, tag)).collect()),
        termination_policies: Some(policies.collect()),
        new_instances_protected_from_scale_in: Some(group.protects_new),
        max_instance_lifetime: group.lifetime_max_s.map(shown_number),
        capacity_rebalance: Some(false),
        context: group.context.clone(),
        default_instance_warmup: group.warmup_s.map(shown_number),
        deletion_protection: group.deletion_protection.as_str().parse().ok(),
        availability_zone_distribution: Some(api::AvailabilityZoneDistribution {
            capacity_distribution_strategy: Some(if group.balances_only {
                api::CapacityDistributionStrategy::BalancedOnly
            } else {
                api::CapacityDistributionStrategy::BalancedBestEffort
            }),
        }),
        ..Default::default()
    }
}

pub(in super::super) fn shown_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The template with the version that was asked for.
fn specification(view: View<'_>, group: &ScalingGroup) -> api::LaunchTemplateSpecification {
    let id = group.template.template;
    api::LaunchTemplateSpecification {
        launch_template_id: Some(id.to_string()),
        launch_template_name: view.get::<LaunchTemplate>(id).map(|template| template.name.clone()),
        version: Some(version_text(group.template.version)),
    }
}

/// The version that an instance was launched with.
pub(in super::super) fn template_shown(
    view: View<'_>,
    version: VersionId,
) -> api::LaunchTemplateSpecification {
    let template = view.get::<LaunchTemplate>(version.template);
    api::LaunchTemplateSpecification {
        launch_template_id: Some(version.template.to_string()),
        launch_template_name: template.map(|template| template.name.clone()),
        version: Some(version.number.to_string()),
    }
}

fn instance(view: View<'_>, group: &ScalingGroup, seen: &Seen<'_>) -> api::Instance {
    let Seen { member, instance } = *seen;
    api::Instance {
        instance_id: Some(member.id.instance.to_string()),
        instance_type: instance.map(|instance: &Instance| instance.instance_type.clone()),
        availability_zone: Some(member.place.zone.to_string()),
        availability_zone_id: Some(member.place.zone.id()),
        lifecycle_state: lifecycle_word(member).parse().ok(),
        health_status: Some(health_word(view, group, seen).to_owned()),
        launch_template: member.template.map(|version| template_shown(view, version)),
        protected_from_scale_in: Some(member.is_protected),
        image_id: instance.map(|instance| instance.image.to_string()),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html>.
pub(in super::super) const fn lifecycle_word(member: &ScalingMember) -> &'static str {
    match member.state {
        MemberState::Pending { .. } => "Pending",
        MemberState::PendingWait { .. } => "Pending:Wait",
        MemberState::InService { .. } => "InService",
        MemberState::Standby => "Standby",
        MemberState::TerminatingWait { .. } => "Terminating:Wait",
        MemberState::Terminating { .. } => "Terminating",
    }
}

/// As it is, or as it was when it had to leave for that.
pub(in super::super) fn health_word(view: View<'_>, group: &ScalingGroup, seen: &Seen<'_>) -> &'static str {
    let is_leaving =
        matches!(seen.member.state, MemberState::TerminatingWait { .. } | MemberState::Terminating { .. });
    let is_unhealthy = match condition(group, seen, view.now) {
        Condition::Unhealthy(_) => true,
        Condition::Healthy | Condition::InGrace(_) => is_leaving && seen.member.unhealthy.is_some(),
    };
    if is_unhealthy { "Unhealthy" } else { "Healthy" }
}
