//! How much an account may have.
//!
//! Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html>.

use std::sync::Arc;

use aws::page::Page;
use aws::{Call, Error, Table, elbv2};

use crate::plane::{Plane, Serve as _};
use crate::state::View;

pub(super) const LOAD_BALANCERS_MAX: usize = 50;
pub(super) const TARGET_GROUPS_MAX: usize = 3000;
/// Of one load balancer; default rules are not counted.
pub(super) const LISTENERS_MAX: usize = 50;
pub(super) const RULES_MAX: usize = 100;
pub(super) const TARGETS_MAX: usize = 1000;
pub(super) const GROUPS_OF_ONE_MAX: usize = 100;
/// Of one target group.
pub(super) const TARGETS_OF_GROUP_MAX: usize = 1000;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table.looks::<elbv2::DescribeAccountLimits>(describe)
}

fn describe(
    _: View<'_>,
    call: &Call<elbv2::DescribeAccountLimitsInput>,
) -> Result<elbv2::DescribeAccountLimitsOutput, Error> {
    let mut limits = [
        ("application-load-balancers", LOAD_BALANCERS_MAX),
        // Those of the balancer's own (`balancer::config`).
        ("condition-values-per-alb-rule", 5),
        ("condition-wildcards-per-alb-rule", 5),
        ("listeners-per-application-load-balancer", LISTENERS_MAX),
        ("rules-per-application-load-balancer", RULES_MAX),
        ("target-groups", TARGET_GROUPS_MAX),
        ("target-groups-per-action-on-application-load-balancer", 5),
        ("target-groups-per-application-load-balancer", GROUPS_OF_ONE_MAX),
        ("targets-per-application-load-balancer", TARGETS_MAX),
        ("targets-per-target-group", TARGETS_OF_GROUP_MAX),
    ];
    limits.sort_unstable();
    let (limits, next_marker) =
        Page::of::<elbv2::DescribeAccountLimits>(call)?.take(limits, |(name, _)| (*name).to_owned());
    let limit =
        |(name, max): (&str, usize)| elbv2::Limit { name: Some(name.to_owned()), max: Some(max.to_string()) };
    let limits = Some(limits.into_iter().map(limit).collect());
    Ok(elbv2::DescribeAccountLimitsOutput { limits, next_marker })
}
