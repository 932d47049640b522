//! The instance identity document: who the instance is, as JSON.
//!
//! Its members and their order are AWS's; members that never have a value here are `null`, as there.

use std::net::Ipv4Addr;

use serde::Serialize;
use types::{ImageId, InstanceId};

use crate::instance::InstanceMetadata;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    account_id: &'a str,
    architecture: &'a str,
    availability_zone: &'a str,
    billing_products: Option<Vec<String>>,
    devpay_product_codes: Option<Vec<String>>,
    marketplace_product_codes: Option<Vec<String>>,
    image_id: ImageId,
    instance_id: InstanceId,
    instance_type: &'a str,
    kernel_id: Option<String>,
    pending_time: String,
    private_ip: Option<Ipv4Addr>,
    ramdisk_id: Option<String>,
    region: &'a str,
    version: &'a str,
}

/// The format's own version.
const VERSION: &str = "2017-09-30";

pub(crate) fn document(instance: &InstanceMetadata) -> String {
    let document = Document {
        account_id: &instance.account_id,
        architecture: "x86_64",
        availability_zone: &instance.placement.availability_zone,
        billing_products: None,
        devpay_product_codes: None,
        marketplace_product_codes: None,
        image_id: instance.image_id,
        instance_id: instance.instance_id,
        instance_type: &instance.instance_type,
        kernel_id: None,
        pending_time: whole_seconds(instance.pending_time),
        private_ip: instance.interfaces.first().and_then(|primary| primary.addresses.first().copied()),
        ramdisk_id: None,
        region: &instance.placement.region,
        version: VERSION,
    };
    // Strings and numbers always have a form in JSON.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// A moment as RFC 3339 writes it, in UTC; one out of a calendar's range is its first.
pub(crate) fn whole_seconds(moment: std::time::SystemTime) -> String {
    let moment = jiff::Timestamp::try_from(moment).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
