//! Load balancers: asked for and given up here, brought about by their [reconciler](crate::reconcile::balancer).
//!
//! What nobody else has is taken at once: an interface in each subnet, and public addresses.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws::page::Page;
use aws::{Call, Error, Table, elbv2};
use types::{
    ListenerId, ListenerRuleId, LoadBalancerId, NetworkInterfaceId, SecurityGroupId, SubnetId, VpcId,
};

use super::errors::{configuration, not_permitted, too_many, unsupported, validation};
use super::limits::LOAD_BALANCERS_MAX;
use super::names::{dns_name, hosted_zone};
use super::{arn, attribute, tags};
use crate::ec2::{self, NewInterface};
use crate::plane::{Plane, Serve as _};
use crate::records::{
    BalancerNode, InterfaceOwner, Listener, ListenerRule, LoadBalancer, LoadBalancerState, NetworkInterface,
    Scheme, SecurityGroup, Subnet, TagSet,
};
use crate::state::{Key, Transaction, View};

const NAME_CHARS_MAX: usize = 32;
/// Zones that one must be in.
const ZONES_MIN: usize = 2;
/// That a subnet must have left, for more nodes.
/// Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html#subnets-load-balancer>.
const FREE_ADDRESSES_MIN: u64 = 8;
/// Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const GROUPS_MAX: usize = 5;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<elbv2::CreateLoadBalancer>(create)
        .changes::<elbv2::DeleteLoadBalancer>(delete)
        .looks::<elbv2::DescribeLoadBalancers>(describe)
        .looks::<elbv2::DescribeLoadBalancerAttributes>(describe_attributes)
        .changes::<elbv2::ModifyLoadBalancerAttributes>(modify_attributes)
        .changes::<elbv2::SetIpAddressType>(set_address_type)
        .changes::<elbv2::SetSecurityGroups>(set_groups)
        .changes::<elbv2::SetSubnets>(set_subnets)
}

fn create(
    tx: &mut Transaction<'_>,
    input: elbv2::CreateLoadBalancerInput,
) -> Result<elbv2::CreateLoadBalancerOutput, Error> {
    match input.r#type.unwrap_or(elbv2::LoadBalancerTypeEnum::Application) {
        elbv2::LoadBalancerTypeEnum::Application => {}
        other => return Err(unsupported(format_args!("load balancers of the type {other} yet"))),
    }
    check_address_type(input.ip_address_type)?;
    check_name(&input.name)?;
    let tags = tags::read(&input.tags)?;
    let scheme = match input.scheme.unwrap_or(elbv2::LoadBalancerSchemeEnum::InternetFacing) {
        elbv2::LoadBalancerSchemeEnum::InternetFacing => Scheme::InternetFacing,
        elbv2::LoadBalancerSchemeEnum::Internal => Scheme::Internal,
    };
    let view = tx.view();
    let subnets = named_subnets(view, &input.subnets, &input.subnet_mappings)?;
    let vpc = check_subnets(view, &subnets, scheme)?;
    let groups = named_groups(view, vpc, &input.security_groups)?;
    if let Some(known) = by_name(view, &input.name) {
        let its: BTreeSet<SubnetId> = known.nodes.iter().map(|node| node.subnet).collect();
        let wanted: BTreeSet<SubnetId> = subnets.iter().map(|subnet| subnet.id).collect();
        let is_same = known.scheme == scheme && its == wanted && is_same_set(&known.groups, &groups);
        if is_same {
            return Ok(elbv2::CreateLoadBalancerOutput { load_balancers: Some(vec![shown(view, known)]) });
        }
        let message = format!(
            "A load balancer with the same name '{}' exists, but with different settings",
            input.name
        );
        return Err(Error::new("DuplicateLoadBalancerName", message));
    }
    if view.tables().load_balancers.iter().len() >= LOAD_BALANCERS_MAX {
        return Err(too_many("TooManyLoadBalancers", "load balancers", LOAD_BALANCERS_MAX));
    }
    let subnets: Vec<Subnet> = subnets.into_iter().cloned().collect();
    let balancer = LoadBalancer {
        id: tx.new_id(),
        name: input.name,
        scheme,
        vpc,
        nodes: Vec::new(),
        groups,
        attributes: attribute::Kept::new(),
        created: tx.now(),
        state: LoadBalancerState::Provisioning,
    };
    let id = balancer.id;
    let nodes = subnets.iter().map(|subnet| make_node(tx, &balancer, subnet));
    let nodes = nodes.collect::<Result<_, Error>>()?;
    tx.put(LoadBalancer { nodes, ..balancer });
    tags::add(tx, id, tags)?;
    Ok(elbv2::CreateLoadBalancerOutput { load_balancers: Some(shown_by_id(tx, id)) })
}

fn is_same_set(one: &[SecurityGroupId], other: &[SecurityGroupId]) -> bool {
    let set = |groups: &[SecurityGroupId]| groups.iter().copied().collect::<BTreeSet<_>>();
    set(one) == set(other)
}

fn check_address_type(address_type: Option<elbv2::IpAddressType>) -> Result<(), Error> {
    match address_type {
        None | Some(elbv2::IpAddressType::Ipv4) => Ok(()),
        Some(other) => Err(unsupported(format_args!("the IP address type {other}"))),
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        format!("cannot be empty or longer than '{NAME_CHARS_MAX}' characters")
    } else if !name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-') {
        "can only contain alphanumeric characters and hyphens".to_owned()
    } else if name.starts_with('-') || name.ends_with('-') {
        "must not begin or end with a hyphen".to_owned()
    } else if name.starts_with("internal-") {
        "must not begin with 'internal-'".to_owned()
    } else {
        return Ok(());
    };
    Err(validation(format!("Load balancer name '{name}' {why}")))
}

fn named_subnets<'a>(
    view: View<'a>,
    plain: &[String],
    mappings: &[elbv2::SubnetMapping],
) -> Result<Vec<&'a Subnet>, Error> {
    let ids = match (plain, mappings) {
        ([], []) => {
            return Err(validation(
                "At least two subnets in two different Availability Zones must be specified",
            ));
        }
        (plain, []) => plain.to_vec(),
        ([], mappings) => mappings.iter().filter_map(|mapping| mapping.subnet_id.clone()).collect(),
        _ => return Err(validation("You must specify subnets or subnet mappings, not both")),
    };
    let subnet = |text: &String| {
        let found = text.parse().ok().and_then(|id: SubnetId| view.get::<Subnet>(id));
        found.ok_or_else(|| Error::new("SubnetNotFound", format!("The subnet ID '{text}' does not exist")))
    };
    let mut subnets = ids.iter().map(subnet).collect::<Result<Vec<_>, Error>>()?;
    subnets.sort_by_key(|subnet| (subnet.zone, subnet.id));
    subnets.dedup_by_key(|subnet| subnet.id);
    Ok(subnets)
}

/// The VPC in which all of them are.
fn check_subnets(view: View<'_>, subnets: &[&Subnet], scheme: Scheme) -> Result<VpcId, Error> {
    let Some(first) = subnets.first() else {
        return Err(validation("At least two subnets in two different Availability Zones must be specified"));
    };
    if let Some(other) = subnets.iter().find(|subnet| subnet.vpc != first.vpc) {
        let message = format!("The subnets '{}' and '{}' are in different VPCs", first.id, other.id);
        return Err(configuration(message));
    }
    if subnets.windows(2).any(|pair| pair[0].zone == pair[1].zone) {
        return Err(configuration(
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
        ));
    }
    if subnets.len() < ZONES_MIN {
        return Err(validation("At least two subnets in two different Availability Zones must be specified"));
    }
    let has_internet = || view.tables().internet_gateways.linked_to(first.vpc).next().is_some();
    if scheme == Scheme::InternetFacing && !has_internet() {
        let message = format!("VPC {} has no internet gateway", first.vpc);
        return Err(Error::new("InvalidSubnet", message));
    }
    Ok(first.vpc)
}

/// The groups with these ids, or the VPC's default one if none is named.
fn named_groups(view: View<'_>, vpc: VpcId, named: &[String]) -> Result<Vec<SecurityGroupId>, Error> {
    if named.is_empty() {
        let mut groups = view.tables().security_groups.linked_to(vpc);
        let default = groups.find(|group| group.name == SecurityGroup::DEFAULT_NAME);
        return Ok(default.map(|group| group.id).into_iter().collect());
    }
    let mut groups = Vec::new();
    for text in named {
        let found = text.parse().ok().and_then(|id: SecurityGroupId| view.get::<SecurityGroup>(id));
        let group = found.ok_or_else(|| {
            Error::new("InvalidSecurityGroup", format!("Security group '{text}' does not exist"))
        })?;
        if group.vpc != vpc {
            let message = format!("Security group '{text}' does not belong to VPC '{vpc}'");
            return Err(configuration(message));
        }
        if !groups.contains(&group.id) {
            groups.push(group.id);
        }
    }
    if groups.len() > GROUPS_MAX {
        return Err(configuration(format!("A load balancer can have at most {GROUPS_MAX} security groups")));
    }
    Ok(groups)
}

/// Its interface in a subnet, with a public address if it is to have one.
fn make_node(
    tx: &mut Transaction<'_>,
    balancer: &LoadBalancer,
    subnet: &Subnet,
) -> Result<BalancerNode, Error> {
    if ec2::free_count(tx.view(), subnet) < FREE_ADDRESSES_MIN {
        let message = format!(
            "Not enough IP space available in {}. ELB requires at least {FREE_ADDRESSES_MIN} free IP addresses in each subnet.",
            subnet.id
        );
        return Err(Error::new("InvalidSubnet", message));
    }
    let new = NewInterface {
        groups: balancer.groups.clone(),
        description: format!("ELB app/{}/{}", balancer.name, arn::digits(balancer.id)),
        owner: InterfaceOwner::LoadBalancer(balancer.id),
        ..NewInterface::of(subnet.id)
    };
    let interface = ec2::make_interface(tx, new)?;
    if balancer.scheme == Scheme::InternetFacing {
        let public = ec2::take_public(tx)?;
        tx.update::<NetworkInterface>(interface, |interface| {
            interface.addresses.iter_mut().for_each(|address| address.public_ip = Some(public));
        });
    }
    Ok(BalancerNode { subnet: subnet.id, interface })
}

/// What is not there is no error.
fn delete(
    tx: &mut Transaction<'_>,
    input: elbv2::DeleteLoadBalancerInput,
) -> Result<elbv2::DeleteLoadBalancerOutput, Error> {
    let arn = &input.load_balancer_arn;
    let balancer = match arn::load_balancer(tx.view(), arn) {
        Ok(balancer) => balancer,
        Err(error) if error.code == "LoadBalancerNotFound" => return Ok(elbv2::DeleteLoadBalancerOutput {}),
        Err(error) => return Err(error),
    };
    if attribute::is_protected(&balancer.attributes) {
        let message =
            format!("Load balancer '{arn}' cannot be deleted because deletion protection is enabled");
        return Err(not_permitted(message));
    }
    let (id, interfaces) =
        (balancer.id, balancer.nodes.iter().map(|node| node.interface).collect::<Vec<_>>());
    let listeners: Vec<ListenerId> =
        tx.tables().listeners.linked_to(id).map(|listener| listener.id).collect();
    listeners.into_iter().for_each(|listener| remove_listener(tx, listener));
    interfaces.into_iter().for_each(|interface| ec2::remove_interface(tx, interface));
    tx.remove::<LoadBalancer>(id);
    Ok(elbv2::DeleteLoadBalancerOutput {})
}

/// Removes a listener, and its rules.
pub(super) fn remove_listener(tx: &mut Transaction<'_>, id: ListenerId) {
    let rules: Vec<ListenerRuleId> = tx.tables().listener_rules.linked_to(id).map(|rule| rule.id).collect();
    rules.into_iter().for_each(|rule| tx.remove::<ListenerRule>(rule));
    if let Some(default) = tx.get::<Listener>(id).map(|listener| listener.default_rule) {
        tx.remove::<TagSet>(default.into());
    }
    tx.remove::<Listener>(id);
}

fn describe(
    view: View<'_>,
    call: &Call<elbv2::DescribeLoadBalancersInput>,
) -> Result<elbv2::DescribeLoadBalancersOutput, Error> {
    let input = &call.input;
    let balancers: Vec<&LoadBalancer> = match (input.load_balancer_arns.as_slice(), input.names.as_slice()) {
        ([], []) => view.tables().load_balancers.iter().map(AsRef::as_ref).collect(),
        (arns, []) => arns.iter().map(|arn| arn::load_balancer(view, arn)).collect::<Result<_, _>>()?,
        ([], names) => {
            let named = |name: &String| {
                let missing = format!("Load balancers '[{name}]' not found");
                by_name(view, name).ok_or_else(|| Error::new("LoadBalancerNotFound", missing))
            };
            names.iter().map(named).collect::<Result<_, _>>()?
        }
        _ => return Err(validation("Load balancer names and ARNs cannot be specified together")),
    };
    let mut balancers = balancers;
    balancers.sort_by(|one, other| one.name.cmp(&other.name));
    balancers.dedup_by_key(|balancer| balancer.id);
    let (balancers, next_marker) =
        Page::of::<elbv2::DescribeLoadBalancers>(call)?.take(balancers, |balancer| balancer.name.clone());
    let load_balancers = Some(balancers.into_iter().map(|balancer| shown(view, balancer)).collect());
    Ok(elbv2::DescribeLoadBalancersOutput { load_balancers, next_marker })
}

fn by_name<'a>(view: View<'a>, name: &str) -> Option<&'a LoadBalancer> {
    view.tables().load_balancers.keyed(&Key::Name(name.to_owned())).map(AsRef::as_ref)
}

fn shown_by_id(tx: &Transaction<'_>, id: LoadBalancerId) -> Vec<elbv2::LoadBalancer> {
    let view = tx.view();
    view.get::<LoadBalancer>(id).map(|balancer| shown(view, balancer)).into_iter().collect()
}

fn shown(view: View<'_>, balancer: &LoadBalancer) -> elbv2::LoadBalancer {
    let (code, reason) = match &balancer.state {
        LoadBalancerState::Provisioning => (elbv2::LoadBalancerStateEnum::Provisioning, None),
        LoadBalancerState::Active => (elbv2::LoadBalancerStateEnum::Active, None),
        LoadBalancerState::Failed { why } => (elbv2::LoadBalancerStateEnum::Failed, Some(why.clone())),
    };
    let scheme = match balancer.scheme {
        Scheme::InternetFacing => elbv2::LoadBalancerSchemeEnum::InternetFacing,
        Scheme::Internal => elbv2::LoadBalancerSchemeEnum::Internal,
    };
    elbv2::LoadBalancer {
        load_balancer_arn: Some(arn::of_load_balancer(view.space, balancer)),
        dns_name: Some(dns_name(view.space.region, balancer)),
        canonical_hosted_zone_id: hosted_zone(view.space.region).map(str::to_owned),
        created_time: Some(balancer.created),
        load_balancer_name: Some(balancer.name.clone()),
        scheme: Some(scheme),
        vpc_id: Some(balancer.vpc.to_string()),
        state: Some(elbv2::LoadBalancerState { code: Some(code), reason }),
        r#type: Some(elbv2::LoadBalancerTypeEnum::Application),
        availability_zones: Some(shown_zones(view, balancer)),
        security_groups: Some(balancer.groups.iter().map(ToString::to_string).collect()),
        ip_address_type: Some(elbv2::IpAddressType::Ipv4),
        ..Default::default()
    }
}

fn shown_zones(view: View<'_>, balancer: &LoadBalancer) -> Vec<elbv2::AvailabilityZone> {
    let zone = |node: &BalancerNode| elbv2::AvailabilityZone {
        zone_name: view.get::<Subnet>(node.subnet).map(|subnet| subnet.zone.to_string()),
        subnet_id: Some(node.subnet.to_string()),
        load_balancer_addresses: Some(Vec::new()),
        ..Default::default()
    };
    balancer.nodes.iter().map(zone).collect()
}

fn describe_attributes(
    view: View<'_>,
    call: &Call<elbv2::DescribeLoadBalancerAttributesInput>,
) -> Result<elbv2::DescribeLoadBalancerAttributesOutput, Error> {
    let balancer = arn::load_balancer(view, &call.input.load_balancer_arn)?;
    let attributes = Some(shown_attributes(balancer));
    Ok(elbv2::DescribeLoadBalancerAttributesOutput { attributes })
}

fn shown_attributes(balancer: &LoadBalancer) -> Vec<elbv2::LoadBalancerAttribute> {
    let all = attribute::shown(attribute::OF_LOAD_BALANCERS, &balancer.attributes);
    all.map(|(key, value)| elbv2::LoadBalancerAttribute { key: Some(key), value: Some(value) }).collect()
}

fn modify_attributes(
    tx: &mut Transaction<'_>,
    input: elbv2::ModifyLoadBalancerAttributesInput,
) -> Result<elbv2::ModifyLoadBalancerAttributesOutput, Error> {
    let mut balancer = arn::load_balancer(tx.view(), &input.load_balancer_arn)?.clone();
    let wanted =
        input.attributes.iter().map(|attribute| (attribute.key.as_deref(), attribute.value.as_deref()));
    attribute::set(attribute::OF_LOAD_BALANCERS, &mut balancer.attributes, wanted)?;
    let attributes = Some(shown_attributes(&balancer));
    tx.put(balancer);
    Ok(elbv2::ModifyLoadBalancerAttributesOutput { attributes })
}

fn set_address_type(
    tx: &mut Transaction<'_>,
    input: elbv2::SetIpAddressTypeInput,
) -> Result<elbv2::SetIpAddressTypeOutput, Error> {
    arn::load_balancer(tx.view(), &input.load_balancer_arn)?;
    check_address_type(Some(input.ip_address_type))?;
    Ok(elbv2::SetIpAddressTypeOutput { ip_address_type: Some(input.ip_address_type) })
}

fn set_groups(
    tx: &mut Transaction<'_>,
    input: elbv2::SetSecurityGroupsInput,
) -> Result<elbv2::SetSecurityGroupsOutput, Error> {
    let mut balancer = arn::load_balancer(tx.view(), &input.load_balancer_arn)?.clone();
    if input.security_groups.is_empty() {
        return Err(configuration("A load balancer must have a security group"));
    }
    balancer.groups = named_groups(tx.view(), balancer.vpc, &input.security_groups)?;
    for node in &balancer.nodes {
        let groups = balancer.groups.clone();
        tx.update::<NetworkInterface>(node.interface, |interface| interface.groups = groups);
    }
    let security_group_ids = Some(balancer.groups.iter().map(ToString::to_string).collect());
    tx.put(balancer);
    Ok(elbv2::SetSecurityGroupsOutput { security_group_ids, ..Default::default() })
}

/// In subnets that it was in before, it stays as it is.
fn set_subnets(
    tx: &mut Transaction<'_>,
    input: elbv2::SetSubnetsInput,
) -> Result<elbv2::SetSubnetsOutput, Error> {
    check_address_type(input.ip_address_type)?;
    let view = tx.view();
    let mut balancer = arn::load_balancer(view, &input.load_balancer_arn)?.clone();
    let subnets = named_subnets(view, &input.subnets, &input.subnet_mappings)?;
    if check_subnets(view, &subnets, balancer.scheme)? != balancer.vpc {
        let message = format!("The subnets are not in the load balancer's VPC '{}'", balancer.vpc);
        return Err(configuration(message));
    }
    let subnets: Vec<Subnet> = subnets.into_iter().cloned().collect();
    let mut nodes = Vec::new();
    for subnet in &subnets {
        let kept = balancer.nodes.iter().find(|node| node.subnet == subnet.id).copied();
        nodes.push(match kept {
            Some(node) => node,
            None => make_node(tx, &balancer, subnet)?,
        });
    }
    let left: Vec<NetworkInterfaceId> =
        balancer.nodes.iter().filter(|node| !nodes.contains(node)).map(|node| node.interface).collect();
    left.into_iter().for_each(|interface| ec2::remove_interface(tx, interface));
    balancer.nodes = nodes;
    let availability_zones = Some(shown_zones(tx.view(), &balancer));
    tx.put(balancer);
    let ip_address_type = Some(elbv2::IpAddressType::Ipv4);
    Ok(elbv2::SetSubnetsOutput { availability_zones, ip_address_type, ..Default::default() })
}
