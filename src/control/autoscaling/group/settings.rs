//! What requests to create and to update a group have in common.

use std::collections::BTreeSet;

use aws::{Error, autoscaling as api};
use types::{SubnetId, Zone};

use crate::autoscaling::errors::{constraint, invalid, natural, unsupported};
use crate::records::{DeletionProtection, Place, ScalingGroup, Subnet, TerminationPolicy};
use crate::state::View;

/// A day to a year. Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-max-instance-lifetime.html>.
const LIFETIME_S: std::ops::RangeInclusive<u32> = 86_400..=31_536_000;

/// Members of a request that are there.
pub(super) struct Settings {
    min: Option<i32>,
    max: Option<i32>,
    desired: Option<i32>,
    cooldown: Option<i32>,
    zones: Vec<String>,
    subnets: Option<String>,
    health_check: Option<String>,
    grace: Option<i32>,
    termination_policies: Vec<String>,
    protects_new: Option<bool>,
    deletion_protection: Option<api::DeletionProtection>,
    lifetime_max: Option<i32>,
    warmup: Option<i32>,
    context: Option<String>,
    desired_type: Option<String>,
    distribution: Option<api::AvailabilityZoneDistribution>,
}

/// Both have all but the sizes by the same names.
macro_rules! settings {
    ($input:ident, $min:expr, $max:expr) => {
        Settings {
            min: $min,
            max: $max,
            desired: $input.desired_capacity,
            cooldown: $input.default_cooldown,
            zones: $input.availability_zones,
            subnets: $input.vpc_zone_identifier,
            health_check: $input.health_check_type,
            grace: $input.health_check_grace_period,
            termination_policies: $input.termination_policies,
            protects_new: $input.new_instances_protected_from_scale_in,
            deletion_protection: $input.deletion_protection,
            lifetime_max: $input.max_instance_lifetime,
            warmup: $input.default_instance_warmup,
            context: $input.context,
            desired_type: $input.desired_capacity_type,
            distribution: $input.availability_zone_distribution,
        }
    };
}

impl From<api::CreateAutoScalingGroupType> for Settings {
    /// As many as there are to be at least are desired, if nobody says otherwise.
    fn from(input: api::CreateAutoScalingGroupType) -> Self {
        let (min, max) = (input.min_size, input.max_size);
        let settings = settings!(input, Some(min), Some(max));
        Self { desired: settings.desired.or(Some(min)), ..settings }
    }
}

impl From<api::UpdateAutoScalingGroupType> for Settings {
    fn from(input: api::UpdateAutoScalingGroupType) -> Self {
        settings!(input, input.min_size, input.max_size)
    }
}

impl Settings {
    /// Has the group be so.
    ///
    /// # Errors
    /// What cannot be. Sizes are not compared.
    pub(super) fn apply(self, view: View<'_>, group: &mut ScalingGroup) -> Result<(), Error> {
        self.apply_numbers(group)?;
        if let Some(places) = self.places(view)? {
            group.has_named_subnets = self.subnets.as_deref().is_some_and(|text| !text.is_empty());
            group.places = places;
        }
        if let Some(text) = &self.health_check {
            check_health_types(text)?;
        }
        if !self.termination_policies.is_empty() {
            let policies = self.termination_policies.iter().map(|word| termination_policy(word));
            group.termination_policies = policies.collect::<Result<_, _>>()?;
        }
        if let Some(protects) = self.protects_new {
            group.protects_new = protects;
        }
        if let Some(protection) = self.deletion_protection {
            group.deletion_protection =
                DeletionProtection::of(protection.as_str()).ok_or_else(Error::internal)?;
        }
        if let Some(context) = self.context {
            group.context = Some(context).filter(|context| !context.is_empty());
        }
        if let Some(text) = self.desired_type.filter(|text| text != "units") {
            return Err(unsupported(format!(
                "nimbo counts instances: DesiredCapacityType is units, and not {text:?}."
            )));
        }
        if let Some(strategy) = self.distribution.and_then(|it| it.capacity_distribution_strategy) {
            group.balances_only = match strategy {
                api::CapacityDistributionStrategy::BalancedOnly => true,
                api::CapacityDistributionStrategy::BalancedBestEffort => false,
                other @ api::CapacityDistributionStrategy::ReservationsThenBalanced => {
                    return Err(unsupported(format!("nimbo has no reservations: {other} is not served.")));
                }
            };
        }
        Ok(())
    }

    fn apply_numbers(&self, group: &mut ScalingGroup) -> Result<(), Error> {
        let set = |target: &mut u32, value: Option<i32>, member| {
            if let Some(value) = value {
                *target = natural(value, member)?;
            }
            Ok::<_, Error>(())
        };
        set(&mut group.min, self.min, "minSize")?;
        set(&mut group.max, self.max, "maxSize")?;
        set(&mut group.desired, self.desired, "desiredCapacity")?;
        set(&mut group.cooldown_s, self.cooldown, "defaultCooldown")?;
        set(&mut group.grace_s, self.grace, "healthCheckGracePeriod")?;
        if let Some(seconds) = self.lifetime_max {
            let seconds = natural(seconds, "maxInstanceLifetime")?;
            if seconds != 0 && !LIFETIME_S.contains(&seconds) {
                let rule =
                    format!("Member must be 0, or between {} and {}", LIFETIME_S.start(), LIFETIME_S.end());
                return Err(constraint(seconds, "maxInstanceLifetime", rule));
            }
            group.lifetime_max_s = Some(seconds).filter(|seconds| *seconds != 0);
        }
        if let Some(seconds) = self.warmup {
            // -1 takes it away.
            group.warmup_s =
                if seconds == -1 { None } else { Some(natural(seconds, "defaultInstanceWarmup")?) };
        }
        Ok(())
    }

    /// The places that are named: by subnets, or by zones, in whose default subnets instances are then.
    fn places(&self, view: View<'_>) -> Result<Option<Vec<Place>>, Error> {
        let zones: BTreeSet<Zone> =
            self.zones.iter().map(|name| zone(view, name)).collect::<Result<_, _>>()?;
        let Some(text) = self.subnets.as_deref().filter(|text| !text.is_empty()) else {
            let places = zones.into_iter().map(|zone| default_place(view, zone));
            let places: Vec<Place> = places.collect::<Result<_, _>>()?;
            return Ok(Some(places).filter(|places| !places.is_empty()));
        };
        let mut places = Vec::new();
        for text in text.split(',').map(str::trim) {
            let place = named_place(view, text)?;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let of_subnets: BTreeSet<Zone> = places.iter().map(|place| place.zone).collect();
        if !zones.is_empty() && zones != of_subnets {
            return Err(invalid(
                "The availability zones of the specified subnets and the AutoScalingGroup do not match",
            ));
        }
        Ok(Some(places))
    }
}

fn zone(view: View<'_>, name: &str) -> Result<Zone, Error> {
    let mut zones = view.space.region.zones().into_iter();
    zones
        .find(|zone| zone.to_string() == name)
        .ok_or_else(|| invalid(format!("Invalid availability zones: [{name}]")))
}

fn named_place(view: View<'_>, text: &str) -> Result<Place, Error> {
    let id: Option<SubnetId> = text.parse().ok();
    let subnet = id.and_then(|id| view.get::<Subnet>(id));
    let subnet = subnet.ok_or_else(|| invalid(format!("The subnet ID '{text}' does not exist")))?;
    Ok(Place { zone: subnet.zone, subnet: subnet.id })
}

fn default_place(view: View<'_>, zone: Zone) -> Result<Place, Error> {
    let mut subnets = view.tables().subnets.iter();
    let default = subnets.find(|subnet| subnet.is_default_for_zone && subnet.zone == zone);
    let default =
        default.ok_or_else(|| invalid(format!("No default subnet for availability zone: '{zone}'")))?;
    Ok(Place { zone, subnet: default.id })
}

/// What says whether a member is well: EC2 always does, and so far nobody else.
fn check_health_types(text: &str) -> Result<(), Error> {
    text.split(',').map(str::trim).try_for_each(|word| match word {
        "EC2" => Ok(()),
        "ELB" | "EBS" | "VPC_LATTICE" => {
            Err(unsupported(format!("The HealthCheckType {word} is not served yet: nimbo checks EC2.")))
        }
        _ => Err(invalid(format!("Unsupported health check type: {word}"))),
    })
}

fn termination_policy(word: &str) -> Result<TerminationPolicy, Error> {
    if word.starts_with("arn:") {
        return Err(unsupported(
            "nimbo has no functions: termination policies are those that are predefined.",
        ));
    }
    TerminationPolicy::of(word).ok_or_else(|| {
        let all: Vec<_> = TerminationPolicy::ALL.iter().map(|policy| policy.as_str()).collect();
        invalid(format!("{word} is not a valid termination policy: it is one of {}", all.join(", ")))
    })
}
