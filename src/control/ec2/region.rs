//! Regions, their zones, and what an account has there.

use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::{Call, Error, Table, ec2};
use jiff::Timestamp;
use types::{Region, Zone};

use super::address;
use super::errors::invalid_value;
use super::interface;
use super::row::read_filters;
use crate::plane::{Plane, Serve as _};
use crate::records::FailedZone;
use crate::state::View;

/// All regions and zones are open to every account.
const OPT_IN: &str = "opt-in-not-required";

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .looks::<ec2::DescribeAccountAttributes>(account_attributes)
        .looks::<ec2::DescribeAvailabilityZones>(zones)
        .looks::<ec2::DescribeRegions>(regions)
}

/// A region as filters see it.
struct RegionRow(Region);

/// A zone as filters see it, and since when it is failed.
struct ZoneRow {
    zone: Zone,
    failed: Option<Timestamp>,
}

impl ZoneRow {
    fn state(&self) -> ec2::AvailabilityZoneState {
        match self.failed {
            Some(_) => ec2::AvailabilityZoneState::Unavailable,
            None => ec2::AvailabilityZoneState::Available,
        }
    }

    fn message(&self) -> Option<String> {
        let since = self.failed?.strftime("%Y-%m-%d %H:%M:%S UTC");
        Some(format!(
            "The Availability Zone {} has failed at {since}: its instances do not run, and no others can be launched.",
            self.zone
        ))
    }
}

fn endpoint(region: Region) -> String {
    format!("ec2.{region}.amazonaws.com")
}

fn regions(
    _: View<'_>,
    call: &Call<ec2::DescribeRegionsRequest>,
) -> Result<ec2::DescribeRegionsResult, Error> {
    let filters = read_filters::<RegionRow>(&call.input.filters)?;
    let named = &call.input.region_names;
    for name in named {
        let parsed: Result<Region, _> = name.parse();
        parsed.map_err(|_| invalid_value(name, "regionName", "There is no such region."))?;
    }
    let is_named = |region: &Region| named.is_empty() || named.iter().any(|name| name == region.name());
    let wanted = Region::all().filter(|region| is_named(region) && filters.admit(&RegionRow(*region)));
    let shown = |region: Region| ec2::Region {
        opt_in_status: Some(OPT_IN.to_owned()),
        region_name: Some(region.to_string()),
        endpoint: Some(endpoint(region)),
        ..Default::default()
    };
    Ok(ec2::DescribeRegionsResult { regions: Some(wanted.map(shown).collect()) })
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeRegions.html>.
impl Filtered for RegionRow {
    const NAMES: &'static [&'static str] = &["endpoint", "opt-in-status", "region-name"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "endpoint" => values.text(&endpoint(self.0)),
            "opt-in-status" => values.text(OPT_IN),
            "region-name" => values.text(self.0.name()),
            _ => unreachable!("{name} is no filter of regions"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}

fn zones(
    view: View<'_>,
    call: &Call<ec2::DescribeAvailabilityZonesRequest>,
) -> Result<ec2::DescribeAvailabilityZonesResult, Error> {
    let filters = read_filters::<ZoneRow>(&call.input.filters)?;
    let all = view.space.region.zones();
    let (names, ids) = (&call.input.zone_names, &call.input.zone_ids);
    if let Some(name) = names.iter().find(|name| !all.iter().any(|zone| zone.to_string() == **name)) {
        return Err(invalid_value(name, "zoneName", "There is no such zone in this region."));
    }
    if let Some(id) = ids.iter().find(|id| !all.iter().any(|zone| zone.id() == **id)) {
        return Err(invalid_value(id, "zoneId", "There is no such zone in this region."));
    }
    let is_named = |zone: &Zone| {
        names.is_empty() && ids.is_empty() || names.contains(&zone.to_string()) || ids.contains(&zone.id())
    };
    let row =
        |zone: Zone| ZoneRow { zone, failed: FailedZone::find(view.state, zone).map(|zone| zone.since) };
    let wanted = all.into_iter().filter(is_named).map(row).filter(|row| filters.admit(row));
    Ok(ec2::DescribeAvailabilityZonesResult { availability_zones: Some(wanted.map(shown_zone).collect()) })
}

/// Zones that fit together are a group, as everywhere outside the local ones.
fn zone_group(region: Region) -> String {
    format!("{region}-zg-1")
}

fn shown_zone(row: ZoneRow) -> ec2::AvailabilityZone {
    let zone = row.zone;
    let message = |message| ec2::AvailabilityZoneMessage { message: Some(message) };
    ec2::AvailabilityZone {
        opt_in_status: Some(ec2::AvailabilityZoneOptInStatus::OptInNotRequired),
        messages: Some(row.message().map(message).into_iter().collect()),
        region_name: Some(zone.region().to_string()),
        zone_name: Some(zone.to_string()),
        zone_id: Some(zone.id()),
        group_name: Some(zone_group(zone.region())),
        network_border_group: Some(zone.region().to_string()),
        zone_type: Some("availability-zone".to_owned()),
        state: Some(row.state()),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeAvailabilityZones.html>.
impl Filtered for ZoneRow {
    const NAMES: &'static [&'static str] = &[
        "group-name",
        "message",
        "opt-in-status",
        "parent-zone-id",
        "parent-zone-name",
        "region-name",
        "state",
        "zone-id",
        "zone-name",
        "zone-type",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "group-name" => values.text(&zone_group(self.zone.region())),
            "message" => self.message().iter().for_each(|message| values.text(message)),
            // None has a parent.
            "parent-zone-id" | "parent-zone-name" => {}
            "opt-in-status" => values.text(OPT_IN),
            "region-name" => values.text(self.zone.region().name()),
            "state" => values.text(self.state().as_str()),
            "zone-id" => values.text(&self.zone.id()),
            "zone-name" => values.shown(self.zone),
            "zone-type" => values.text("availability-zone"),
            _ => unreachable!("{name} is no filter of availability zones"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}

fn account_attributes(
    view: View<'_>,
    call: &Call<ec2::DescribeAccountAttributesRequest>,
) -> Result<ec2::DescribeAccountAttributesResult, Error> {
    let wanted = &call.input.attribute_names;
    let default = view.tables().vpcs.iter().find(|vpc| vpc.is_default);
    let attributes = [
        ("supported-platforms", "VPC".to_owned()),
        ("vpc-max-security-groups-per-interface", interface::GROUPS_MAX.to_string()),
        ("max-elastic-ips", address::ADDRESSES_MAX.to_string()),
        ("vpc-max-elastic-ips", address::ADDRESSES_MAX.to_string()),
        ("default-vpc", default.map_or_else(|| "none".to_owned(), |vpc| vpc.id.to_string())),
    ];
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_str() == name);
    let attributes = attributes.into_iter().filter(|(name, _)| is_wanted(name));
    let shown = |(name, value): (&str, String)| ec2::AccountAttribute {
        attribute_name: Some(name.to_owned()),
        attribute_values: Some(vec![ec2::AccountAttributeValue { attribute_value: Some(value) }]),
    };
    Ok(ec2::DescribeAccountAttributesResult { account_attributes: Some(attributes.map(shown).collect()) })
}
