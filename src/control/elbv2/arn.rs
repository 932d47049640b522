//! The names of resources among those of all services, and what has them.
//!
//! ```text
//! arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/NAME/50dc6c495c0c9188
//!                                                     listener/app/NAME/50dc6c495c0c9188/f2f7dc8efc522ab2
//!                                                     listener-rule/app/NAME/50dc6c495c0c9188/f2f7dc8efc522ab2/9683b2d02a6cabee
//!                                                     targetgroup/NAME/73e2d6bc24d8a067
//! ```

use std::fmt::Display;
use std::str::FromStr;

use aws::Error;
use types::{ListenerId, ListenerRuleId, LoadBalancerId, ResourceId, TargetGroupId};

use super::errors::validation;
use crate::records::{Listener, ListenerRule, LoadBalancer, TargetGroup};
use crate::state::{Space, View};

/// A rule as clients see it: one of its own, or what a listener does by default.
#[derive(Debug, Clone, Copy)]
pub(super) enum AnyRule<'a> {
    Own(&'a ListenerRule),
    Default(&'a Listener),
}

fn arn(space: Space, rest: impl Display) -> String {
    format!("arn:aws:elasticloadbalancing:{}:{}:{rest}", space.region, space.account)
}

/// The digits of an id.
pub(super) fn digits(id: impl Display) -> String {
    let id = id.to_string();
    id.rsplit('-').next().unwrap_or_default().to_owned()
}

pub(super) fn of_load_balancer(space: Space, balancer: &LoadBalancer) -> String {
    arn(space, format_args!("loadbalancer/app/{}/{}", balancer.name, digits(balancer.id)))
}

pub(super) fn of_target_group(space: Space, group: &TargetGroup) -> String {
    arn(space, format_args!("targetgroup/{}/{}", group.name, digits(group.id)))
}

/// None: its load balancer is gone, and so is it.
pub(super) fn of_listener(view: View<'_>, listener: &Listener) -> Option<String> {
    let balancer = view.get::<LoadBalancer>(listener.load_balancer)?;
    let ids = format!("{}/{}", digits(balancer.id), digits(listener.id));
    Some(arn(view.space, format_args!("listener/app/{}/{ids}", balancer.name)))
}

/// None: its listener is gone, and so is it.
pub(super) fn of_rule(view: View<'_>, rule: AnyRule<'_>) -> Option<String> {
    let (listener, id) = match rule {
        AnyRule::Own(rule) => (rule.listener, rule.id),
        AnyRule::Default(listener) => (listener.id, listener.default_rule),
    };
    let listener = of_listener(view, view.get::<Listener>(listener)?)?;
    Some(format!("{}/{}", listener.replacen(":listener/", ":listener-rule/", 1), digits(id)))
}

pub(super) fn load_balancer<'a>(view: View<'a>, arn: &str) -> Result<&'a LoadBalancer, Error> {
    let id: Option<LoadBalancerId> = id(arn, "loadbalancer", "load balancer", LoadBalancerId::PREFIX)?;
    let found = id.and_then(|id| view.get::<LoadBalancer>(id));
    let found = found.filter(|found| of_load_balancer(view.space, found) == arn);
    found.ok_or_else(|| Error::new("LoadBalancerNotFound", format!("Load balancer '{arn}' not found")))
}

/// # Errors
/// When it is no target group's ARN, or there is no such group.
pub(crate) fn target_group<'a>(view: View<'a>, arn: &str) -> Result<&'a TargetGroup, Error> {
    let id: Option<TargetGroupId> = id(arn, "targetgroup", "target group", TargetGroupId::PREFIX)?;
    let found = id.and_then(|id| view.get::<TargetGroup>(id));
    let found = found.filter(|found| of_target_group(view.space, found) == arn);
    found.ok_or_else(|| Error::new("TargetGroupNotFound", format!("Target group '{arn}' not found")))
}

pub(super) fn listener<'a>(view: View<'a>, arn: &str) -> Result<&'a Listener, Error> {
    let id: Option<ListenerId> = id(arn, "listener", "listener", ListenerId::PREFIX)?;
    let found = id.and_then(|id| view.get::<Listener>(id));
    let found = found.filter(|found| of_listener(view, found).as_deref() == Some(arn));
    found.ok_or_else(|| Error::new("ListenerNotFound", format!("Listener '{arn}' not found")))
}

pub(super) fn rule<'a>(view: View<'a>, arn: &str) -> Result<AnyRule<'a>, Error> {
    let id: Option<ListenerRuleId> = id(arn, "listener-rule", "listener rule", ListenerRuleId::PREFIX)?;
    let own = id.and_then(|id| view.get::<ListenerRule>(id)).map(AnyRule::Own);
    // That of a default action has its listener's id before its own.
    let by_listener = || {
        let listener: ListenerId =
            format!("{}{}", ListenerId::PREFIX, arn.rsplit('/').nth(1)?).parse().ok()?;
        view.get::<Listener>(listener).map(AnyRule::Default)
    };
    let found = own.or_else(by_listener).filter(|found| of_rule(view, *found).as_deref() == Some(arn));
    found.ok_or_else(|| Error::new("RuleNotFound", format!("Rule '{arn}' not found")))
}

/// The resource that has an ARN, whatever its kind.
pub(super) fn any(view: View<'_>, arn: &str) -> Result<ResourceId, Error> {
    let kind = arn.split(':').nth(5).and_then(|rest| rest.split('/').next());
    Ok(match kind {
        Some("loadbalancer") => load_balancer(view, arn)?.id.into(),
        Some("targetgroup") => target_group(view, arn)?.id.into(),
        Some("listener") => listener(view, arn)?.id.into(),
        Some("listener-rule") => match rule(view, arn)? {
            AnyRule::Own(rule) => rule.id.into(),
            AnyRule::Default(listener) => listener.default_rule.into(),
        },
        _ => return Err(validation(format!("'{arn}' is not a valid ARN"))),
    })
}

/// The id that an ARN of a kind ends in; nothing can have none.
fn id<Id: FromStr>(arn: &str, kind: &str, noun: &str, prefix: &str) -> Result<Option<Id>, Error> {
    let mut parts = arn.splitn(6, ':');
    let is_ours = parts.next() == Some("arn") && parts.nth(1) == Some("elasticloadbalancing");
    let rest = parts.nth(2).filter(|_| is_ours).and_then(|rest| rest.strip_prefix(kind)?.strip_prefix('/'));
    let rest = rest.ok_or_else(|| validation(format!("'{arn}' is not a valid {noun} ARN")))?;
    Ok(rest.rsplit('/').next().and_then(|digits| format!("{prefix}{digits}").parse().ok()))
}
