//! An instance for tests, of this crate and of those that put the service somewhere.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use types::MacAddress;

use crate::{InstanceMetadata, MetadataOptions, NetworkInterface, Notices, Placement};

/// An instance that has nothing but itself.
///
/// # Panics
/// Never: the ids are good.
pub fn instance() -> InstanceMetadata {
    InstanceMetadata {
        instance_id: "i-0000000000000000f".parse().expect("an id"),
        image_id: "ami-00000000000000010".parse().expect("an id"),
        reservation_id: "r-00000000000000011".parse().expect("an id"),
        launch_index: 0,
        instance_type: "t3.micro".into(),
        account_id: "123456789012".into(),
        pending_time: SystemTime::UNIX_EPOCH,
        placement: Placement {
            region: "us-east-1".into(),
            availability_zone: "us-east-1a".into(),
            availability_zone_id: "use1-az1".into(),
        },
        interfaces: Vec::new(),
        block_devices: Vec::new(),
        public_keys: Vec::new(),
        user_data: None,
        tags: BTreeMap::new(),
        notices: Notices::default(),
        options: MetadataOptions::default(),
    }
}

/// An interface at 10.0.0.4, in one security group.
///
/// # Panics
/// Never: ids and ranges are good.
pub fn interface() -> NetworkInterface {
    NetworkInterface {
        id: "eni-0000000000000000a".parse().expect("an id"),
        mac: MacAddress::new([6, 0, 0, 0, 0, 4]),
        device_number: 0,
        addresses: vec![Ipv4Addr::new(10, 0, 0, 4)],
        public_addresses: BTreeMap::new(),
        host_name: "ip-10-0-0-4.ec2.internal".into(),
        public_host_name: None,
        subnet_id: "subnet-0000000000000000b".parse().expect("an id"),
        subnet_range: "10.0.0.0/20".parse().expect("a range"),
        vpc_id: "vpc-0000000000000000c".parse().expect("an id"),
        vpc_ranges: vec!["10.0.0.0/16".parse().expect("a range")],
        security_groups: vec![("sg-0000000000000000d".parse().expect("an id"), "default".into())],
    }
}
