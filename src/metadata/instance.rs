//! What is known of an instance, in types. Which path shows which of it is [`crate::tree`]'s matter.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use ipnet::Ipv4Net;
use types::{
    ImageId, InstanceId, MacAddress, NetworkInterfaceId, ReservationId, SecurityGroupId, SubnetId, VpcId,
};

/// All that an instance is told about itself.
#[derive(Debug, Clone)]
pub struct InstanceMetadata {
    pub instance_id: InstanceId,
    pub image_id: ImageId,
    pub reservation_id: ReservationId,
    /// The instance's place among those of its launch.
    pub launch_index: u32,
    /// Such as `t3.micro`.
    pub instance_type: String,
    /// Of the account that the instance belongs to, twelve digits.
    pub account_id: String,
    /// When the instance was asked for.
    pub pending_time: SystemTime,
    pub placement: Placement,
    /// The first is the primary one.
    pub interfaces: Vec<NetworkInterface>,
    pub block_devices: Vec<BlockDevice>,
    pub public_keys: Vec<PublicKey>,
    /// As it was given, compressed or not.
    pub user_data: Option<Vec<u8>>,
    pub tags: BTreeMap<String, String>,
    pub notices: Notices,
    pub options: MetadataOptions,
}

/// What the instance is told that is to become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// That it is interrupted, as Spot Instances are.
    pub interruption: Option<Interruption>,
    /// When it was told that its interruption is more likely.
    pub rebalance: Option<SystemTime>,
    /// Scheduled for it.
    pub scheduled: Vec<Event>,
    /// What was scheduled, and is over.
    pub history: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interruption {
    /// `hibernate`, `stop` or `terminate`.
    pub action: &'static str,
    pub time: SystemTime,
}

/// A maintenance event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `instance-event-…`.
    pub id: String,
    /// Such as `system-reboot`.
    pub code: &'static str,
    pub description: String,
    pub not_before: SystemTime,
    /// `active`, `canceled` or `completed`.
    pub state: &'static str,
}

/// Where the instance runs.
#[derive(Debug, Clone)]
pub struct Placement {
    pub region: String,
    /// The account's name of the zone, such as `us-east-1a`.
    pub availability_zone: String,
    /// The same in all accounts, such as `use1-az1`.
    pub availability_zone_id: String,
}

#[derive(Debug, Clone)]
pub struct NetworkInterface {
    pub id: NetworkInterfaceId,
    pub mac: MacAddress,
    pub device_number: u32,
    /// The first is the primary one.
    pub addresses: Vec<Ipv4Addr>,
    /// The public address of each private one that has one.
    pub public_addresses: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// The full private name, such as `ip-10-0-0-4.ec2.internal`.
    pub host_name: String,
    /// The full public name, if there is a public address.
    pub public_host_name: Option<String>,
    pub subnet_id: SubnetId,
    pub subnet_range: Ipv4Net,
    pub vpc_id: VpcId,
    pub vpc_ranges: Vec<Ipv4Net>,
    pub security_groups: Vec<(SecurityGroupId, String)>,
}

/// A device by what it is for: `ami`, `root`, `ebs1`, `ephemeral0`.
#[derive(Debug, Clone)]
pub struct BlockDevice {
    pub role: String,
    /// Such as `/dev/vda`, or `vda` for `ami`.
    pub device: String,
}

/// A key that its owner may log in with.
#[derive(Debug, Clone)]
pub struct PublicKey {
    pub name: String,
    /// As in `authorized_keys`.
    pub openssh: String,
}

/// How the service behaves for an instance (API `InstanceMetadataOptions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataOptions {
    pub http_tokens: HttpTokens,
    /// How many routers a session token may pass, 1 to 64. With 1, what the guest itself forwards to,
    /// such as a container behind a bridge, gets no token.
    pub put_response_hop_limit: u8,
    /// Whether tags are shown.
    pub instance_tags: bool,
}

/// Whether a request needs a session token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpTokens {
    /// Version 1 is answered too.
    Optional,
    /// Only version 2 is.
    Required,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self { http_tokens: HttpTokens::Optional, put_response_hop_limit: 1, instance_tags: false }
    }
}
