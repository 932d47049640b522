//! A request of the guest to the metadata service: its path, its token and its time to live. HTTP around them is hyper's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use metadata::{
    Answer, BlockDevice, HttpTokens, InstanceMetadata, MetadataOptions, Method, NetworkInterface, Placement,
    PublicKey, Request, Service, TokenKey,
};
use types::{MacAddress, ManualClock};

fn instance(http_tokens: HttpTokens) -> InstanceMetadata {
    let interface = NetworkInterface {
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
    };
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
        interfaces: vec![interface],
        block_devices: vec![BlockDevice { role: "ami".into(), device: "vda".into() }],
        public_keys: vec![PublicKey { name: "key".into(), openssh: "ssh-ed25519 AAAA me\n".into() }],
        user_data: Some(b"#!/bin/sh\n".to_vec()),
        tags: BTreeMap::from([("Name".into(), "fuzz".into())]),
        options: MetadataOptions { http_tokens, instance_tags: true, ..MetadataOptions::default() },
    }
}

fn service(http_tokens: HttpTokens) -> Service {
    let key = TokenKey::generate(&mut [7; 32].as_slice()).expect("32 bytes");
    Service::new(instance(http_tokens), key, Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH)))
}

/// Answers the request whose path, token and time to live stand in three lines behind a byte that says the rest.
pub fn run(data: &[u8]) {
    let Some((&what, rest)) = data.split_first() else { return };
    let mut lines = rest.splitn(3, |byte| *byte == b'\n');
    let Ok(path) = str::from_utf8(lines.next().unwrap_or_default()) else { return };
    let (token, ttl) = (lines.next(), lines.next());
    let is_required = what & 4 != 0;
    let service = service(if is_required { HttpTokens::Required } else { HttpTokens::Optional });
    let method = [Method::Get, Method::Put, Method::Other, Method::Get][usize::from(what & 3)];
    let request = Request { method, path, token, ttl, is_forwarded: what & 8 != 0 };
    match service.answer(request) {
        Answer::Token { token, .. } => {
            assert!(method == Method::Put && !request.is_forwarded);
            let with_token =
                Request { method: Method::Get, path: "/", token: Some(token.as_bytes()), ..request };
            assert!(matches!(service.answer(with_token), Answer::Text { .. }), "a token that does not hold");
        }
        Answer::Text { token_ttl, .. } | Answer::UserData { token_ttl, .. } => {
            assert!(token_ttl.is_some() || !is_required, "answered without a token");
        }
        _ => {}
    }
}

/// What clients ask.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "\u{1}/latest/api/token\n\n21600",
        "\u{3}/2021-03-23/meta-data/",
        "\0/latest/user-data",
        "\u{4}/%6catest/dynamic",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
