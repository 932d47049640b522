//! Rules of listeners.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws::page::Page;
use aws::{Call, Error, Table, elbv2};
use balancer::config::{Action, FixedResponse, Rule};

use super::arn::{self, AnyRule};
use super::errors::{not_permitted, too_many, validation};
use super::limits::RULES_MAX;
use super::{action, condition, tags};
use crate::plane::{Plane, Serve as _};
use crate::records::{Listener, ListenerRule, LoadBalancer};
use crate::state::{Transaction, View};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<elbv2::CreateRule>(create)
        .changes::<elbv2::DeleteRule>(delete)
        .looks::<elbv2::DescribeRules>(describe)
        .changes::<elbv2::ModifyRule>(modify)
        .changes::<elbv2::SetRulePriorities>(set_priorities)
}

fn create(tx: &mut Transaction<'_>, input: elbv2::CreateRuleInput) -> Result<elbv2::CreateRuleOutput, Error> {
    let view = tx.view();
    let listener = arn::listener(view, &input.listener_arn)?;
    let balancer = view.get::<LoadBalancer>(listener.load_balancer).ok_or_else(Error::internal)?;
    let rule = Rule {
        priority: priority(input.priority)?,
        conditions: condition::read(&input.conditions)?,
        action: action::read(view, balancer, &input.actions)?,
    };
    check(view, listener, &rule)?;
    let tags = tags::read(&input.tags)?;
    let known = view.tables().listener_rules.linked_to(listener.id);
    if let Some(known) = known.map(AsRef::as_ref).find(|known| known.rule.priority == rule.priority) {
        if known.rule == rule {
            return Ok(elbv2::CreateRuleOutput { rules: Some(vec![shown(view, AnyRule::Own(known))]) });
        }
        return Err(priority_in_use(rule.priority));
    }
    if view.tables().listener_rules.linked_to(balancer.id).count() >= RULES_MAX {
        return Err(too_many("TooManyRules", "rules of a load balancer", RULES_MAX));
    }
    let (listener, load_balancer) = (listener.id, balancer.id);
    let made = ListenerRule { id: tx.new_id(), listener, load_balancer, rule };
    tx.put(made.clone());
    tags::add(tx, made.id, tags)?;
    Ok(elbv2::CreateRuleOutput { rules: Some(vec![shown(tx.view(), AnyRule::Own(&made))]) })
}

fn priority(priority: i32) -> Result<u32, Error> {
    u32::try_from(priority).map_err(|_| validation(format!("'{priority}' is not a valid priority")))
}

fn priority_in_use(priority: u32) -> Error {
    Error::new("PriorityInUse", format!("Priority '{priority}' is currently in use"))
}

/// Whether a listener can have a rule; whatever it does by default is not to blame.
fn check(view: View<'_>, listener: &Listener, rule: &Rule) -> Result<(), Error> {
    let nothing =
        Action::FixedResponse(FixedResponse { status: 503, content_type: None, body: String::new() });
    action::check(view, listener.port, listener.protocol, &nothing, vec![rule.clone()])
}

/// The rule, which is no listener's default one.
fn own<'a>(view: View<'a>, arn: &str, what: &str) -> Result<&'a ListenerRule, Error> {
    match arn::rule(view, arn)? {
        AnyRule::Own(rule) => Ok(rule),
        AnyRule::Default(_) => Err(not_permitted(format!("Default rule '{arn}' cannot be {what}"))),
    }
}

fn modify(tx: &mut Transaction<'_>, input: elbv2::ModifyRuleInput) -> Result<elbv2::ModifyRuleOutput, Error> {
    let view = tx.view();
    let mut rule = own(view, &input.rule_arn, "modified")?.clone();
    let listener = view.get::<Listener>(rule.listener).ok_or_else(Error::internal)?;
    let balancer = view.get::<LoadBalancer>(rule.load_balancer).ok_or_else(Error::internal)?;
    if !input.conditions.is_empty() {
        rule.rule.conditions = condition::read(&input.conditions)?;
    }
    if !input.actions.is_empty() {
        rule.rule.action = action::read(view, balancer, &input.actions)?;
    }
    check(view, listener, &rule.rule)?;
    tx.put(rule.clone());
    Ok(elbv2::ModifyRuleOutput { rules: Some(vec![shown(tx.view(), AnyRule::Own(&rule))]) })
}

fn delete(tx: &mut Transaction<'_>, input: elbv2::DeleteRuleInput) -> Result<elbv2::DeleteRuleOutput, Error> {
    let id = own(tx.view(), &input.rule_arn, "deleted")?.id;
    tx.remove::<ListenerRule>(id);
    Ok(elbv2::DeleteRuleOutput {})
}

fn set_priorities(
    tx: &mut Transaction<'_>,
    input: elbv2::SetRulePrioritiesInput,
) -> Result<elbv2::SetRulePrioritiesOutput, Error> {
    let mut changed = Vec::new();
    for pair in &input.rule_priorities {
        let arn = pair.rule_arn.as_deref().ok_or_else(|| validation("A rule ARN must be specified"))?;
        let mut rule = own(tx.view(), arn, "modified")?.clone();
        rule.rule.priority =
            priority(pair.priority.ok_or_else(|| validation("A priority must be specified"))?)?;
        changed.push(rule);
    }
    changed.iter().for_each(|rule| tx.put(rule.clone()));
    let view = tx.view();
    let listeners: BTreeSet<_> = changed.iter().map(|rule| rule.listener).collect();
    for listener in listeners {
        let mut seen = BTreeSet::new();
        let mut priorities = view.tables().listener_rules.linked_to(listener).map(|rule| rule.rule.priority);
        if let Some(twice) = priorities.find(|priority| !seen.insert(*priority)) {
            return Err(priority_in_use(twice));
        }
    }
    let rules = changed.iter().map(|rule| shown(view, AnyRule::Own(rule))).collect();
    Ok(elbv2::SetRulePrioritiesOutput { rules: Some(rules) })
}

fn describe(
    view: View<'_>,
    call: &Call<elbv2::DescribeRulesInput>,
) -> Result<elbv2::DescribeRulesOutput, Error> {
    let rules: Vec<AnyRule<'_>> = match (call.input.listener_arn.as_deref(), call.input.rule_arns.as_slice())
    {
        (Some(listener), []) => {
            let listener = arn::listener(view, listener)?;
            let own = view.tables().listener_rules.linked_to(listener.id);
            own.map(|rule| AnyRule::Own(rule.as_ref())).chain([AnyRule::Default(listener)]).collect()
        }
        (None, arns @ [_, ..]) => arns.iter().map(|arn| arn::rule(view, arn)).collect::<Result<_, _>>()?,
        _ => return Err(validation("You must specify either a listener ARN or rule ARNs")),
    };
    let mut rules: Vec<_> = rules.into_iter().map(|rule| (place(rule), rule)).collect();
    rules.sort_by(|(one, _), (other, _)| one.cmp(other));
    rules.dedup_by(|(one, _), (other, _)| one == other);
    let (rules, next_marker) =
        Page::of::<elbv2::DescribeRules>(call)?.take(rules, |(place, _)| place.clone());
    let rules = Some(rules.into_iter().map(|(_, rule)| shown(view, rule)).collect());
    Ok(elbv2::DescribeRulesOutput { rules, next_marker })
}

/// By listeners, each of which has its default rule last.
fn place(rule: AnyRule<'_>) -> String {
    match rule {
        AnyRule::Own(rule) => format!("{}/{:05}", rule.listener, rule.rule.priority),
        AnyRule::Default(listener) => format!("{}/default", listener.id),
    }
}

fn shown(view: View<'_>, any: AnyRule<'_>) -> elbv2::Rule {
    let (priority, conditions, action) = match any {
        AnyRule::Own(ListenerRule { rule, .. }) => {
            (rule.priority.to_string(), rule.conditions.as_slice(), &rule.action)
        }
        AnyRule::Default(listener) => ("default".to_owned(), [].as_slice(), &listener.default_action),
    };
    elbv2::Rule {
        rule_arn: arn::of_rule(view, any),
        priority: Some(priority),
        conditions: Some(conditions.iter().map(condition::shown).collect()),
        actions: Some(vec![action::shown(view, action)]),
        is_default: Some(matches!(any, AnyRule::Default(_))),
        ..Default::default()
    }
}
