//! Actions of listeners and rules, on the wire and as they are kept.

use std::collections::BTreeSet;

use aws::{Error, elbv2};
use balancer::config::{Action, FixedResponse, Forward, Protocol, Redirect, Rule, WeightedTargetGroup};
use types::TargetGroupId;

use super::errors::{configuration, refused, too_many, unsupported, validation};
use super::limits::{GROUPS_OF_ONE_MAX, TARGETS_MAX};
use super::spec::{self, users};
use super::{arn, limits};
use crate::records::{LoadBalancer, TargetGroup, target_groups};
use crate::state::View;

/// What a request says that is to be done for a load balancer.
///
/// # Errors
/// When it is not clear what is meant, or a target group is not one that the load balancer can have.
pub(super) fn read(
    view: View<'_>,
    balancer: &LoadBalancer,
    actions: &[elbv2::Action],
) -> Result<Action, Error> {
    let action = match actions {
        [] => return Err(validation("An action must be specified")),
        [action] => action,
        [..] => match actions.iter().find(|action| !is_last(action)) {
            Some(other) => return Err(not_served(other)),
            None => {
                return Err(Error::new("TooManyActions", "Only one action of this kind can be specified"));
            }
        },
    };
    let read = match action.r#type.unwrap_or_default() {
        elbv2::ActionTypeEnum::Forward => Action::Forward(forward(view, action)?),
        elbv2::ActionTypeEnum::Redirect => Action::Redirect(redirect(action)?),
        elbv2::ActionTypeEnum::FixedResponse => Action::FixedResponse(fixed_response(action)?),
        _ => return Err(not_served(action)),
    };
    for group in target_groups(&read) {
        check_group(view, balancer, group)?;
    }
    Ok(read)
}

/// Whether the action ends what is done.
fn is_last(action: &elbv2::Action) -> bool {
    use elbv2::ActionTypeEnum::{FixedResponse, Forward, Redirect};
    matches!(action.r#type, Some(Forward | Redirect | FixedResponse))
}

fn not_served(action: &elbv2::Action) -> Error {
    unsupported(format_args!("actions of the type {}", action.r#type.unwrap_or_default()))
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new("InvalidLoadBalancerAction", why)
}

fn forward(view: View<'_>, action: &elbv2::Action) -> Result<Forward, Error> {
    let config = action.forward_config.as_ref();
    let listed = config.and_then(|config| config.target_groups.as_deref()).unwrap_or_default();
    let group = |arn: &str, weight: Option<i32>| {
        let weight =
            u32::try_from(weight.unwrap_or(1)).map_err(|_| invalid("A weight must not be negative"))?;
        Ok(WeightedTargetGroup { name: arn::target_group(view, arn)?.id.to_string(), weight })
    };
    let target_groups = match (action.target_group_arn.as_deref(), listed) {
        (None, []) => return Err(invalid("A target group must be specified for a forward action")),
        (Some(arn), []) => vec![group(arn, None)?],
        (Some(arn), [one]) if one.target_group_arn.as_deref() == Some(arn) => vec![group(arn, one.weight)?],
        (Some(_), _) => {
            let message = "A forward action can have a target group of its own or a list of target groups, not different ones in both";
            return Err(invalid(message));
        }
        (None, listed) => {
            let group = |tuple: &elbv2::TargetGroupTuple| {
                let arn = tuple.target_group_arn.as_deref();
                group(arn.ok_or_else(|| validation("A target group ARN must be specified"))?, tuple.weight)
            };
            listed.iter().map(group).collect::<Result<_, Error>>()?
        }
    };
    let sticky = config.and_then(|config| config.target_group_stickiness_config.as_ref());
    let stickiness_s = match sticky.filter(|sticky| sticky.enabled == Some(true)) {
        None => None,
        Some(sticky) => {
            let duration = sticky.duration_seconds.and_then(|duration| u32::try_from(duration).ok());
            Some(
                duration
                    .ok_or_else(|| invalid("The duration of target group stickiness must be specified"))?,
            )
        }
    };
    Ok(Forward { target_groups, stickiness_s })
}

fn redirect(action: &elbv2::Action) -> Result<Redirect, Error> {
    let config = action.redirect_config.as_ref();
    let config = config.ok_or_else(|| invalid("The configuration of a redirect action must be specified"))?;
    let part = |given: &Option<String>, same: &str| given.clone().unwrap_or_else(|| same.to_owned());
    Ok(Redirect {
        protocol: part(&config.protocol, "#{protocol}"),
        host: part(&config.host, "#{host}"),
        port: part(&config.port, "#{port}"),
        path: part(&config.path, "/#{path}"),
        query: part(&config.query, "#{query}"),
        status: match config.status_code {
            Some(elbv2::RedirectActionStatusCodeEnum::HTTP301) => 301,
            Some(elbv2::RedirectActionStatusCodeEnum::HTTP302) => 302,
            None => return Err(invalid("The status code of a redirect must be specified")),
        },
    })
}

fn fixed_response(action: &elbv2::Action) -> Result<FixedResponse, Error> {
    let config = action.fixed_response_config.as_ref();
    let config =
        config.ok_or_else(|| invalid("The configuration of a fixed-response action must be specified"))?;
    let status = config.status_code.as_deref().and_then(|status| status.parse().ok());
    Ok(FixedResponse {
        status: status.ok_or_else(|| invalid("The status code of a fixed response must be a number"))?,
        content_type: config.content_type.clone().filter(|content_type| !content_type.is_empty()),
        body: config.message_body.clone().unwrap_or_default(),
    })
}

/// Whether a load balancer can forward to a group.
fn check_group(view: View<'_>, balancer: &LoadBalancer, id: TargetGroupId) -> Result<(), Error> {
    let Some(group) = view.get::<TargetGroup>(id) else { return Ok(()) };
    let arn = arn::of_target_group(view.space, group);
    if group.vpc != balancer.vpc {
        let message =
            format!("The target group '{arn}' is not in the load balancer's VPC '{}'", balancer.vpc);
        return Err(configuration(message));
    }
    let mut users = users(view, id);
    if users.is_empty() {
        return check_room(view, balancer, id);
    }
    users.remove(&balancer.id);
    if users.is_empty() {
        return Ok(());
    }
    let message =
        format!("The following target groups cannot be associated with more than one load balancer: {arn}");
    Err(Error::new("TargetGroupAssociationLimit", message))
}

/// Whether a load balancer can have one more group, with its targets.
fn check_room(view: View<'_>, balancer: &LoadBalancer, new: TargetGroupId) -> Result<(), Error> {
    let mut groups = spec::groups_of(view, balancer.id);
    groups.insert(new);
    if groups.len() > GROUPS_OF_ONE_MAX {
        let code = "TooManyUniqueTargetGroupsPerLoadBalancer";
        return Err(too_many(code, "target groups of a load balancer", limits::GROUPS_OF_ONE_MAX));
    }
    let targets = groups.iter().map(|group| view.tables().registered_targets.linked_to(*group).count());
    if targets.sum::<usize>() > TARGETS_MAX {
        return Err(too_many("TooManyTargets", "targets of a load balancer", TARGETS_MAX));
    }
    Ok(())
}

/// Whether a listener can do this, and have these rules.
///
/// # Errors
/// What who would serve it refuses.
pub(super) fn check(
    view: View<'_>,
    port: u16,
    protocol: Protocol,
    default_action: &Action,
    rules: Vec<Rule>,
) -> Result<(), Error> {
    let actions = rules.iter().map(|rule| &rule.action).chain([default_action]);
    let groups: BTreeSet<_> = actions.flat_map(target_groups).collect();
    let config = spec::of_one_listener(view, port, protocol, default_action.clone(), rules, &groups);
    config.check().map_err(|error| refused(&error))
}

pub(super) fn shown(view: View<'_>, action: &Action) -> elbv2::Action {
    let of = |kind| elbv2::Action { r#type: Some(kind), ..Default::default() };
    match action {
        Action::Forward(forward) => {
            let arn = |name: &str| {
                let group = name.parse().ok().and_then(|id: TargetGroupId| view.get::<TargetGroup>(id));
                group.map(|group| arn::of_target_group(view.space, group))
            };
            let tuple = |group: &WeightedTargetGroup| elbv2::TargetGroupTuple {
                target_group_arn: arn(&group.name),
                weight: i32::try_from(group.weight).ok(),
            };
            let only = match forward.target_groups.as_slice() {
                [one] => arn(&one.name),
                _ => None,
            };
            let stickiness = elbv2::TargetGroupStickinessConfig {
                enabled: Some(forward.stickiness_s.is_some()),
                duration_seconds: forward.stickiness_s.and_then(|duration| i32::try_from(duration).ok()),
            };
            let config = elbv2::ForwardActionConfig {
                target_groups: Some(forward.target_groups.iter().map(tuple).collect()),
                target_group_stickiness_config: Some(stickiness),
            };
            elbv2::Action {
                target_group_arn: only,
                forward_config: Some(config),
                ..of(elbv2::ActionTypeEnum::Forward)
            }
        }
        Action::Redirect(redirect) => {
            let status = match redirect.status {
                301 => elbv2::RedirectActionStatusCodeEnum::HTTP301,
                _ => elbv2::RedirectActionStatusCodeEnum::HTTP302,
            };
            let config = elbv2::RedirectActionConfig {
                protocol: Some(redirect.protocol.clone()),
                port: Some(redirect.port.clone()),
                host: Some(redirect.host.clone()),
                path: Some(redirect.path.clone()),
                query: Some(redirect.query.clone()),
                status_code: Some(status),
            };
            elbv2::Action { redirect_config: Some(config), ..of(elbv2::ActionTypeEnum::Redirect) }
        }
        Action::FixedResponse(response) => {
            let config = elbv2::FixedResponseActionConfig {
                message_body: Some(response.body.clone()).filter(|body| !body.is_empty()),
                status_code: Some(response.status.to_string()),
                content_type: response.content_type.clone(),
            };
            elbv2::Action { fixed_response_config: Some(config), ..of(elbv2::ActionTypeEnum::FixedResponse) }
        }
    }
}
