//! Target groups.

use std::sync::Arc;

use aws::page::Page;
use aws::{Call, Error, Table, elbv2};
use balancer::config::{self, HealthCheck};
use types::{TargetGroupId, VpcId};

use super::errors::{configuration, in_use, refused, too_many, unsupported, validation};
use super::limits::TARGET_GROUPS_MAX;
use super::listener::{port, shown_protocol};
use super::spec::{group_config, groups_of, users};
use super::{arn, attribute, tags};
use crate::plane::{Plane, Serve as _};
use crate::records::{LoadBalancer, RegisteredTarget, TargetGroup, TargetKey, TargetType, Vpc};
use crate::state::{Key, Transaction, View};

const NAME_CHARS_MAX: usize = 32;
/// That a health check asks the port on which the target serves.
const TRAFFIC_PORT: &str = "traffic-port";

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<elbv2::CreateTargetGroup>(create)
        .changes::<elbv2::DeleteTargetGroup>(delete)
        .looks::<elbv2::DescribeTargetGroups>(describe)
        .changes::<elbv2::ModifyTargetGroup>(modify)
        .looks::<elbv2::DescribeTargetGroupAttributes>(describe_attributes)
        .changes::<elbv2::ModifyTargetGroupAttributes>(modify_attributes)
}

fn create(
    tx: &mut Transaction<'_>,
    input: elbv2::CreateTargetGroupInput,
) -> Result<elbv2::CreateTargetGroupOutput, Error> {
    check_name(&input.name)?;
    let target_type = match input.target_type.unwrap_or(elbv2::TargetTypeEnum::Instance) {
        elbv2::TargetTypeEnum::Instance => TargetType::Instance,
        elbv2::TargetTypeEnum::Ip => TargetType::Ip,
        other => return Err(unsupported(format_args!("targets of the type {other} yet"))),
    };
    if let Some(other) =
        input.ip_address_type.filter(|kind| *kind != elbv2::TargetGroupIpAddressTypeEnum::Ipv4)
    {
        return Err(unsupported(format_args!("the IP address type {other}")));
    }
    let protocol = protocol(input.protocol.ok_or_else(|| validation("A protocol must be specified"))?)?;
    match input.protocol_version.as_deref() {
        None | Some("HTTP1") => {}
        Some(other @ ("HTTP2" | "GRPC")) => {
            return Err(unsupported(format_args!("the protocol version {other} yet")));
        }
        Some(other) => return Err(validation(format!("'{other}' is not a valid protocol version"))),
    }
    let vpc = input.vpc_id.as_deref().ok_or_else(|| validation("A VPC ID must be specified"))?;
    let vpc = vpc
        .parse()
        .ok()
        .filter(|id: &VpcId| tx.get::<Vpc>(*id).is_some())
        .ok_or_else(|| validation(format!("The VPC ID '{vpc}' is not found")))?;
    let port = port(input.port.ok_or_else(|| validation("A port must be specified"))?)?;
    let mut health_check =
        HealthCheck { path: "/".to_owned(), matcher: "200".to_owned(), ..HealthCheck::default() };
    Check {
        protocol: input.health_check_protocol,
        port: input.health_check_port.as_deref(),
        path: input.health_check_path.as_deref(),
        enabled: input.health_check_enabled,
        interval: input.health_check_interval_seconds,
        timeout: input.health_check_timeout_seconds,
        healthy: input.healthy_threshold_count,
        unhealthy: input.unhealthy_threshold_count,
        matcher: input.matcher.as_ref(),
    }
    .apply(&mut health_check)?;
    let tags = tags::read(&input.tags)?;
    let group = TargetGroup {
        id: tx.new_id(),
        name: input.name,
        vpc,
        target_type,
        protocol,
        port,
        health_check,
        attributes: attribute::Kept::new(),
        created: tx.now(),
    };
    check(&group)?;
    let view = tx.view();
    if let Some(known) = by_name(view, &group.name) {
        let like = TargetGroup {
            id: known.id,
            created: known.created,
            attributes: known.attributes.clone(),
            ..group
        };
        if *known == like {
            return Ok(elbv2::CreateTargetGroupOutput { target_groups: Some(vec![shown(view, known)]) });
        }
        let message =
            format!("A target group with the same name '{}' exists, but with different settings", known.name);
        return Err(Error::new("DuplicateTargetGroupName", message));
    }
    if view.tables().target_groups.iter().len() >= TARGET_GROUPS_MAX {
        return Err(too_many("TooManyTargetGroups", "target groups", TARGET_GROUPS_MAX));
    }
    tx.put(group.clone());
    tags::add(tx, group.id, tags)?;
    Ok(elbv2::CreateTargetGroupOutput { target_groups: Some(vec![shown(tx.view(), &group)]) })
}

fn check_name(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        format!("cannot be empty or longer than '{NAME_CHARS_MAX}' characters")
    } else if !name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-') {
        "can only contain alphanumeric characters and hyphens".to_owned()
    } else if name.starts_with('-') || name.ends_with('-') {
        "must not begin or end with a hyphen".to_owned()
    } else {
        return Ok(());
    };
    Err(validation(format!("Target group name '{name}' {why}")))
}

fn protocol(protocol: elbv2::ProtocolEnum) -> Result<config::Protocol, Error> {
    match protocol {
        elbv2::ProtocolEnum::HTTP => Ok(config::Protocol::Http),
        elbv2::ProtocolEnum::HTTPS => Err(unsupported("the protocol HTTPS yet")),
        other => Err(unsupported(format_args!(
            "the protocol {other} yet, which is one of Network and Gateway Load Balancers"
        ))),
    }
}

/// What a request says of health checks.
struct Check<'a> {
    protocol: Option<elbv2::ProtocolEnum>,
    port: Option<&'a str>,
    path: Option<&'a str>,
    enabled: Option<bool>,
    interval: Option<i32>,
    timeout: Option<i32>,
    healthy: Option<i32>,
    unhealthy: Option<i32>,
    matcher: Option<&'a elbv2::Matcher>,
}

impl Check<'_> {
    fn apply(self, check: &mut HealthCheck) -> Result<(), Error> {
        if self.enabled == Some(false) {
            let message = "Health checks can only be disabled for target groups of the target type lambda";
            return Err(configuration(message));
        }
        match self.protocol {
            Some(elbv2::ProtocolEnum::HTTP) => check.protocol = config::Protocol::Http,
            Some(elbv2::ProtocolEnum::HTTPS) => return Err(unsupported("the protocol HTTPS yet")),
            Some(other) => {
                let message =
                    format!("The health check protocol '{other}' is not valid for this target group");
                return Err(configuration(message));
            }
            None => {}
        }
        match self.port {
            Some(TRAFFIC_PORT) => check.port = None,
            Some(port) => {
                let number = port.parse().ok().filter(|port| *port > 0);
                let message = || {
                    validation(format!(
                        "Health check port '{port}' must be in the range 1-65535 or be '{TRAFFIC_PORT}'"
                    ))
                };
                check.port = Some(number.ok_or_else(message)?);
            }
            None => {}
        }
        if let Some(path) = self.path {
            path.clone_into(&mut check.path);
        }
        let set = |number: &mut u32, wanted: Option<i32>| {
            // The model has their ranges.
            if let Some(wanted) = wanted.and_then(|wanted| u32::try_from(wanted).ok()) {
                *number = wanted;
            }
        };
        set(&mut check.interval_s, self.interval);
        set(&mut check.timeout_s, self.timeout);
        set(&mut check.healthy_threshold, self.healthy);
        set(&mut check.unhealthy_threshold, self.unhealthy);
        if let Some(matcher) = self.matcher {
            if matcher.grpc_code.is_some() {
                return Err(unsupported("codes of gRPC yet"));
            }
            if let Some(codes) = &matcher.http_code {
                codes.clone_into(&mut check.matcher);
            }
        }
        Ok(())
    }
}

/// Whether a group can be served.
fn check(group: &TargetGroup) -> Result<(), Error> {
    let config = config::LoadBalancer {
        listeners: Vec::new(),
        target_groups: [(group.id.to_string(), group_config(group, Vec::new()))].into(),
        attributes: config::Attributes::default(),
        access_log: None,
        source: None,
    };
    config.check().map_err(|error| refused(&error))
}

fn modify(
    tx: &mut Transaction<'_>,
    input: elbv2::ModifyTargetGroupInput,
) -> Result<elbv2::ModifyTargetGroupOutput, Error> {
    let mut group = arn::target_group(tx.view(), &input.target_group_arn)?.clone();
    Check {
        protocol: input.health_check_protocol,
        port: input.health_check_port.as_deref(),
        path: input.health_check_path.as_deref(),
        enabled: input.health_check_enabled,
        interval: input.health_check_interval_seconds,
        timeout: input.health_check_timeout_seconds,
        healthy: input.healthy_threshold_count,
        unhealthy: input.unhealthy_threshold_count,
        matcher: input.matcher.as_ref(),
    }
    .apply(&mut group.health_check)?;
    check(&group)?;
    tx.put(group.clone());
    Ok(elbv2::ModifyTargetGroupOutput { target_groups: Some(vec![shown(tx.view(), &group)]) })
}

/// What is not there is no error.
fn delete(
    tx: &mut Transaction<'_>,
    input: elbv2::DeleteTargetGroupInput,
) -> Result<elbv2::DeleteTargetGroupOutput, Error> {
    let arn = &input.target_group_arn;
    let id = match arn::target_group(tx.view(), arn) {
        Ok(group) => group.id,
        Err(error) if error.code == "TargetGroupNotFound" => return Ok(elbv2::DeleteTargetGroupOutput {}),
        Err(error) => return Err(error),
    };
    if !users(tx.view(), id).is_empty() {
        return Err(in_use(format!("Target group '{arn}' is currently in use by a listener or a rule")));
    }
    let targets: Vec<TargetKey> =
        tx.tables().registered_targets.linked_to(id).map(|target| target.id).collect();
    targets.into_iter().for_each(|target| tx.remove::<RegisteredTarget>(target));
    tx.remove::<TargetGroup>(id);
    Ok(elbv2::DeleteTargetGroupOutput {})
}

fn describe(
    view: View<'_>,
    call: &Call<elbv2::DescribeTargetGroupsInput>,
) -> Result<elbv2::DescribeTargetGroupsOutput, Error> {
    let input = &call.input;
    let balancer = input.load_balancer_arn.as_deref();
    let mut groups: Vec<&TargetGroup> =
        match (balancer, input.target_group_arns.as_slice(), input.names.as_slice()) {
            (None, [], []) => view.tables().target_groups.iter().map(AsRef::as_ref).collect(),
            (Some(balancer), [], []) => {
                let id = arn::load_balancer(view, balancer)?.id;
                groups_of(view, id).into_iter().filter_map(|group| view.get::<TargetGroup>(group)).collect()
            }
            (None, arns, []) => {
                arns.iter().map(|arn| arn::target_group(view, arn)).collect::<Result<_, _>>()?
            }
            (None, [], names) => {
                let named = |name: &String| {
                    let missing = format!("Target groups '[{name}]' not found");
                    by_name(view, name).ok_or_else(|| Error::new("TargetGroupNotFound", missing))
                };
                names.iter().map(named).collect::<Result<_, _>>()?
            }
            _ => {
                let message = "Only one of a load balancer ARN, target group ARNs and names can be specified";
                return Err(validation(message));
            }
        };
    groups.sort_by(|one, other| one.name.cmp(&other.name));
    groups.dedup_by_key(|group| group.id);
    let (groups, next_marker) =
        Page::of::<elbv2::DescribeTargetGroups>(call)?.take(groups, |group| group.name.clone());
    let target_groups = Some(groups.into_iter().map(|group| shown(view, group)).collect());
    Ok(elbv2::DescribeTargetGroupsOutput { target_groups, next_marker })
}

fn by_name<'a>(view: View<'a>, name: &str) -> Option<&'a TargetGroup> {
    view.tables().target_groups.keyed(&Key::Name(name.to_owned())).map(AsRef::as_ref)
}

fn shown(view: View<'_>, group: &TargetGroup) -> elbv2::TargetGroup {
    let check = &group.health_check;
    let number = |number: u32| i32::try_from(number).ok();
    let target_type = match group.target_type {
        TargetType::Instance => elbv2::TargetTypeEnum::Instance,
        TargetType::Ip => elbv2::TargetTypeEnum::Ip,
    };
    elbv2::TargetGroup {
        target_group_arn: Some(arn::of_target_group(view.space, group)),
        target_group_name: Some(group.name.clone()),
        protocol: Some(shown_protocol(group.protocol)),
        port: Some(group.port.into()),
        vpc_id: Some(group.vpc.to_string()),
        health_check_protocol: Some(shown_protocol(check.protocol)),
        health_check_port: Some(check.port.map_or_else(|| TRAFFIC_PORT.to_owned(), |port| port.to_string())),
        health_check_enabled: Some(true),
        health_check_interval_seconds: number(check.interval_s),
        health_check_timeout_seconds: number(check.timeout_s),
        healthy_threshold_count: number(check.healthy_threshold),
        unhealthy_threshold_count: number(check.unhealthy_threshold),
        health_check_path: Some(check.path.clone()),
        matcher: Some(elbv2::Matcher { http_code: Some(check.matcher.clone()), ..Default::default() }),
        load_balancer_arns: Some(users_of(view, group.id)),
        target_type: Some(target_type),
        protocol_version: Some("HTTP1".to_owned()),
        ip_address_type: Some(elbv2::TargetGroupIpAddressTypeEnum::Ipv4),
        ..Default::default()
    }
}

fn users_of(view: View<'_>, group: TargetGroupId) -> Vec<String> {
    let balancers = users(view, group).into_iter().filter_map(|id| view.get::<LoadBalancer>(id));
    balancers.map(|balancer| arn::of_load_balancer(view.space, balancer)).collect()
}

fn describe_attributes(
    view: View<'_>,
    call: &Call<elbv2::DescribeTargetGroupAttributesInput>,
) -> Result<elbv2::DescribeTargetGroupAttributesOutput, Error> {
    let group = arn::target_group(view, &call.input.target_group_arn)?;
    Ok(elbv2::DescribeTargetGroupAttributesOutput { attributes: Some(shown_attributes(group)) })
}

fn shown_attributes(group: &TargetGroup) -> Vec<elbv2::TargetGroupAttribute> {
    let all = attribute::shown(attribute::OF_TARGET_GROUPS, &group.attributes);
    all.map(|(key, value)| elbv2::TargetGroupAttribute { key: Some(key), value: Some(value) }).collect()
}

fn modify_attributes(
    tx: &mut Transaction<'_>,
    input: elbv2::ModifyTargetGroupAttributesInput,
) -> Result<elbv2::ModifyTargetGroupAttributesOutput, Error> {
    let mut group = arn::target_group(tx.view(), &input.target_group_arn)?.clone();
    let wanted =
        input.attributes.iter().map(|attribute| (attribute.key.as_deref(), attribute.value.as_deref()));
    attribute::set(attribute::OF_TARGET_GROUPS, &mut group.attributes, wanted)?;
    check(&group)?;
    let attributes = Some(shown_attributes(&group));
    tx.put(group);
    Ok(elbv2::ModifyTargetGroupAttributesOutput { attributes })
}
