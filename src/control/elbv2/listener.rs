//! Listeners.

use std::sync::Arc;

use aws::page::Page;
use aws::{Call, Error, Table, elbv2};
use balancer::config::Protocol;
use types::LoadBalancerId;

use super::errors::{too_many, unsupported, validation};
use super::limits::LISTENERS_MAX;
use super::load_balancer::remove_listener;
use super::{action, arn, attribute, tags};
use crate::plane::{Plane, Serve as _};
use crate::records::{Listener, LoadBalancer};
use crate::state::{Transaction, View};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<elbv2::CreateListener>(create)
        .changes::<elbv2::DeleteListener>(delete)
        .looks::<elbv2::DescribeListeners>(describe)
        .changes::<elbv2::ModifyListener>(modify)
        .looks::<elbv2::DescribeListenerAttributes>(describe_attributes)
        .changes::<elbv2::ModifyListenerAttributes>(modify_attributes)
}

/// What listeners of Application Load Balancers can speak, as far as it is served.
pub(super) fn protocol(protocol: elbv2::ProtocolEnum) -> Result<Protocol, Error> {
    match protocol {
        elbv2::ProtocolEnum::HTTP => Ok(Protocol::Http),
        elbv2::ProtocolEnum::HTTPS => Err(unsupported("the protocol HTTPS yet")),
        other => {
            let message = format!("The protocol '{other}' is not valid for an application load balancer");
            Err(Error::new("UnsupportedProtocol", message))
        }
    }
}

pub(super) fn shown_protocol(protocol: Protocol) -> elbv2::ProtocolEnum {
    match protocol {
        Protocol::Http => elbv2::ProtocolEnum::HTTP,
        Protocol::Https => elbv2::ProtocolEnum::HTTPS,
    }
}

pub(super) fn port(port: i32) -> Result<u16, Error> {
    u16::try_from(port).map_err(|_| validation(format!("'{port}' is not a valid port")))
}

fn refuse_certificates(certificates: &[elbv2::Certificate], policy: Option<&str>) -> Result<(), Error> {
    if certificates.is_empty() && policy.is_none() {
        return Ok(());
    }
    let message = "Certificates and security policies can only be specified for HTTPS listeners";
    Err(validation(message))
}

fn create(
    tx: &mut Transaction<'_>,
    input: elbv2::CreateListenerInput,
) -> Result<elbv2::CreateListenerOutput, Error> {
    let view = tx.view();
    let balancer = arn::load_balancer(view, &input.load_balancer_arn)?;
    let protocol =
        protocol(input.protocol.ok_or_else(|| validation("A listener protocol must be specified"))?)?;
    let port = port(input.port.ok_or_else(|| validation("A listener port must be specified"))?)?;
    refuse_certificates(&input.certificates, input.ssl_policy.as_deref())?;
    let default_action = action::read(view, balancer, &input.default_actions)?;
    action::check(view, port, protocol, &default_action, Vec::new())?;
    let tags = tags::read(&input.tags)?;
    if let Some(known) = by_port(view, balancer.id, port) {
        if known.protocol == protocol && known.default_action == default_action {
            return Ok(elbv2::CreateListenerOutput { listeners: Some(vec![shown(view, known)]) });
        }
        return Err(duplicate(&input.load_balancer_arn));
    }
    let id = balancer.id;
    if view.tables().listeners.linked_to(id).count() >= LISTENERS_MAX {
        return Err(too_many("TooManyListeners", "listeners of a load balancer", LISTENERS_MAX));
    }
    let listener = Listener {
        id: tx.new_id(),
        load_balancer: id,
        port,
        protocol,
        default_action,
        default_rule: tx.new_id(),
    };
    tx.put(listener.clone());
    tags::add(tx, listener.id, tags)?;
    Ok(elbv2::CreateListenerOutput { listeners: Some(vec![shown(tx.view(), &listener)]) })
}

fn by_port(view: View<'_>, balancer: LoadBalancerId, port: u16) -> Option<&Listener> {
    let mut listeners = view.tables().listeners.linked_to(balancer);
    listeners.find(|listener| listener.port == port).map(AsRef::as_ref)
}

fn duplicate(arn: &str) -> Error {
    let message = format!("A listener already exists on this port for this load balancer '{arn}'");
    Error::new("DuplicateListener", message)
}

fn modify(
    tx: &mut Transaction<'_>,
    input: elbv2::ModifyListenerInput,
) -> Result<elbv2::ModifyListenerOutput, Error> {
    let view = tx.view();
    let mut listener = arn::listener(view, &input.listener_arn)?.clone();
    refuse_certificates(&input.certificates, input.ssl_policy.as_deref())?;
    if let Some(wanted) = input.protocol {
        listener.protocol = protocol(wanted)?;
    }
    if let Some(wanted) = input.port {
        listener.port = port(wanted)?;
    }
    let other = by_port(view, listener.load_balancer, listener.port);
    let balancer = view.get::<LoadBalancer>(listener.load_balancer).ok_or_else(Error::internal)?;
    if other.is_some_and(|other| other.id != listener.id) {
        return Err(duplicate(&arn::of_load_balancer(view.space, balancer)));
    }
    if !input.default_actions.is_empty() {
        listener.default_action = action::read(view, balancer, &input.default_actions)?;
    }
    // What its rules do may go with its port, or not.
    let rules = view.tables().listener_rules.linked_to(listener.id).map(|rule| rule.rule.clone()).collect();
    action::check(view, listener.port, listener.protocol, &listener.default_action, rules)?;
    tx.put(listener.clone());
    Ok(elbv2::ModifyListenerOutput { listeners: Some(vec![shown(tx.view(), &listener)]) })
}

fn delete(
    tx: &mut Transaction<'_>,
    input: elbv2::DeleteListenerInput,
) -> Result<elbv2::DeleteListenerOutput, Error> {
    let id = arn::listener(tx.view(), &input.listener_arn)?.id;
    remove_listener(tx, id);
    Ok(elbv2::DeleteListenerOutput {})
}

fn describe(
    view: View<'_>,
    call: &Call<elbv2::DescribeListenersInput>,
) -> Result<elbv2::DescribeListenersOutput, Error> {
    let mut listeners: Vec<&Listener> =
        match (call.input.load_balancer_arn.as_deref(), call.input.listener_arns.as_slice()) {
            (Some(balancer), []) => {
                let id = arn::load_balancer(view, balancer)?.id;
                view.tables().listeners.linked_to(id).map(AsRef::as_ref).collect()
            }
            (None, arns @ [_, ..]) => {
                arns.iter().map(|arn| arn::listener(view, arn)).collect::<Result<_, _>>()?
            }
            _ => {
                let message = "You must specify either listener ARNs or a load balancer ARN";
                return Err(validation(message));
            }
        };
    listeners.sort_by_key(|listener| listener.id);
    listeners.dedup_by_key(|listener| listener.id);
    let (listeners, next_marker) =
        Page::of::<elbv2::DescribeListeners>(call)?.take(listeners, |listener| listener.id.to_string());
    let listeners = Some(listeners.into_iter().map(|listener| shown(view, listener)).collect());
    Ok(elbv2::DescribeListenersOutput { listeners, next_marker })
}

fn shown(view: View<'_>, listener: &Listener) -> elbv2::Listener {
    let balancer = view.get::<LoadBalancer>(listener.load_balancer);
    elbv2::Listener {
        listener_arn: arn::of_listener(view, listener),
        load_balancer_arn: balancer.map(|balancer| arn::of_load_balancer(view.space, balancer)),
        port: Some(listener.port.into()),
        protocol: Some(shown_protocol(listener.protocol)),
        default_actions: Some(vec![action::shown(view, &listener.default_action)]),
        ..Default::default()
    }
}

fn describe_attributes(
    view: View<'_>,
    call: &Call<elbv2::DescribeListenerAttributesInput>,
) -> Result<elbv2::DescribeListenerAttributesOutput, Error> {
    arn::listener(view, &call.input.listener_arn)?;
    Ok(elbv2::DescribeListenerAttributesOutput { attributes: Some(shown_attributes()) })
}

/// No listener has others than the defaults.
fn shown_attributes() -> Vec<elbv2::ListenerAttribute> {
    let none = attribute::Kept::new();
    let all = attribute::shown(attribute::OF_LISTENERS, &none);
    all.map(|(key, value)| elbv2::ListenerAttribute { key: Some(key), value: Some(value) }).collect()
}

fn modify_attributes(
    tx: &mut Transaction<'_>,
    input: elbv2::ModifyListenerAttributesInput,
) -> Result<elbv2::ModifyListenerAttributesOutput, Error> {
    arn::listener(tx.view(), &input.listener_arn)?;
    let wanted =
        input.attributes.iter().map(|attribute| (attribute.key.as_deref(), attribute.value.as_deref()));
    attribute::set(attribute::OF_LISTENERS, &mut attribute::Kept::new(), wanted)?;
    Ok(elbv2::ModifyListenerAttributesOutput { attributes: Some(shown_attributes()) })
}
