use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use types::ManualClock;

use super::*;
use crate::instance::{
    BlockDevice, Event, Interruption, MetadataOptions, NetworkInterface, Notices, PublicKey,
};
use crate::testing;

const MAC: &str = "06:00:00:00:00:04";

fn instance() -> InstanceMetadata {
    let interface = NetworkInterface {
        security_groups: vec![
            ("sg-0000000000000000d".parse().unwrap(), "default".into()),
            ("sg-0000000000000000e".parse().unwrap(), "web".into()),
        ],
        ..testing::interface()
    };
    InstanceMetadata {
        pending_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        interfaces: vec![interface],
        block_devices: vec![
            BlockDevice { role: "ami".into(), device: "vda".into() },
            BlockDevice { role: "root".into(), device: "/dev/vda".into() },
        ],
        public_keys: vec![PublicKey { name: "my key".into(), openssh: "ssh-ed25519 AAAA me\n".into() }],
        user_data: Some(b"#!/bin/sh\necho hello\n".to_vec()),
        tags: BTreeMap::from([("Name".into(), "web 1".into()), ("not a path".into(), "x".into())]),
        ..testing::instance()
    }
}

struct Fixture {
    service: Service,
    clock: Arc<ManualClock>,
}

fn serve(instance: InstanceMetadata) -> Fixture {
    let clock = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH));
    let key = TokenKey::generate(&mut [9; 32].as_slice()).unwrap();
    Fixture { service: Service::new(instance, key, clock.clone()), clock }
}

fn get(path: &str) -> Request<'_> {
    Request { method: Method::Get, path, token: None, ttl: None, is_forwarded: false }
}

fn put<'a>(ttl: Option<&'a str>) -> Request<'a> {
    let path = "/latest/api/token";
    Request { method: Method::Put, path, token: None, ttl: ttl.map(str::as_bytes), is_forwarded: false }
}

impl Fixture {
    #[track_caller]
    fn text(&self, path: &str) -> String {
        match self.service.answer(get(path)) {
            Answer::Text { body, .. } => body,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[track_caller]
    fn token(&self, ttl: &str) -> String {
        match self.service.answer(put(Some(ttl))) {
            Answer::Token { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    /// Walks a folder as cloud-init does, and gives every value by its path.
    fn walk(&self, folder: &str, found: &mut BTreeMap<String, String>) {
        for line in self.text(folder).lines() {
            let path = match line.split_once('=') {
                Some((number, _)) if number.parse::<u32>().is_ok() => format!("{folder}{number}/openssh-key"),
                _ => format!("{folder}{line}"),
            };
            if path.ends_with('/') {
                self.walk(&path, found);
            } else {
                let value = self.text(&path);
                found.insert(path, value);
            }
        }
    }
}

/// What cloud-init's `DataSourceEc2` asks, in its order.
#[test]
fn cloud_inits_crawl_finds_everything() {
    let fixture = serve(instance());
    let token = fixture.token("21600");
    let ask = |path: &str| fixture.service.answer(Request { token: Some(token.as_bytes()), ..get(path) });
    let id = Answer::Text { body: "i-0000000000000000f".into(), token_ttl: Ttl::from_secs(21_600) };
    for version in ["2021-03-23", "2018-09-24", "2016-09-02", "2009-04-04"] {
        assert_eq!(ask(&format!("/{version}/meta-data/instance-id")), id);
    }
    let Answer::UserData { body, .. } = ask("/2021-03-23/user-data") else {
        panic!("there is user-data");
    };
    assert_eq!(body, b"#!/bin/sh\necho hello\n");

    let mut found = BTreeMap::new();
    fixture.walk("/2021-03-23/meta-data/", &mut found);
    let card = format!("network/interfaces/macs/{MAC}");
    for (path, value) in [
        ("ami-id", "ami-00000000000000010"),
        ("block-device-mapping/ami", "vda"),
        ("hostname", "ip-10-0-0-4.ec2.internal"),
        ("instance-type", "t3.micro"),
        ("local-ipv4", "10.0.0.4"),
        ("mac", MAC),
        (&format!("{card}/device-number"), "0"),
        (&format!("{card}/local-ipv4s"), "10.0.0.4"),
        (&format!("{card}/owner-id"), "123456789012"),
        (&format!("{card}/security-groups"), "default\nweb"),
        (&format!("{card}/subnet-ipv4-cidr-block"), "10.0.0.0/20"),
        (&format!("{card}/vpc-ipv4-cidr-blocks"), "10.0.0.0/16"),
        ("placement/availability-zone", "us-east-1a"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAA me"),
        ("services/partition", "aws"),
    ] {
        assert_eq!(
            found.get(&format!("/2021-03-23/meta-data/{path}")).map(String::as_str),
            Some(value),
            "{path}"
        );
    }
    assert!(!found.keys().any(|path| path.contains("public-ipv4") || path.contains("public-hostname")));

    // Without a slash at its end, and its leaves below.
    assert_eq!(fixture.text("/2021-03-23/dynamic/instance-identity"), "document");
    let document = fixture.text("/2021-03-23/dynamic/instance-identity/document");
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["instanceId"], "i-0000000000000000f");
    assert_eq!(document["region"], "us-east-1");
    assert_eq!(document["privateIp"], "10.0.0.4");
    assert_eq!(document["pendingTime"], "2023-11-14T22:13:20Z");
    assert_eq!(document["kernelId"], serde_json::Value::Null);
}

#[test]
fn listings_are_as_on_aws() {
    let fixture = serve(instance());
    assert_eq!(fixture.text("/").lines().last(), Some("latest"));
    assert_eq!(fixture.text("/latest"), "dynamic\nmeta-data\nuser-data");
    assert_eq!(fixture.text("/latest/dynamic/"), "instance-identity/");
    assert_eq!(fixture.text("/latest/meta-data/public-keys/"), "0=my key");
    assert_eq!(fixture.text("/latest/meta-data/public-keys/0/"), "openssh-key");
    assert_eq!(fixture.text("/latest//meta-data//network/interfaces/macs"), format!("{MAC}/"));
    assert_eq!(fixture.text("/1.0/meta-data/network/interfaces/macs/06%3a00:00:00:00:04/mac"), MAC);
    for path in [
        "/none",
        "/latest/none",
        "/latest/meta-data/none",
        "/latest/meta-data/ami-id/none",
        "/latest/user-data/x",
    ] {
        assert_eq!(fixture.service.answer(get(path)), Answer::NotFound, "{path}");
    }
}

#[test]
fn without_user_data_there_is_none() {
    let fixture = serve(InstanceMetadata { user_data: None, ..instance() });
    assert_eq!(fixture.service.answer(get("/latest/user-data")), Answer::NotFound);
    assert_eq!(fixture.text("/latest/"), "dynamic\nmeta-data");
}

#[test]
fn user_data_comes_back_byte_for_byte() {
    let gzip = vec![0x1f, 0x8b, 0x08, 0, 0xff, 0xfe, 0];
    let fixture = serve(InstanceMetadata { user_data: Some(gzip.clone()), ..instance() });
    let answer = fixture.service.answer(get("/latest/user-data"));
    assert_eq!(answer, Answer::UserData { body: gzip, token_ttl: None });
}

#[test]
fn a_public_address_appears_everywhere_at_once() {
    let mut instance = instance();
    instance.interfaces[0].public_addresses.insert(Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(203, 0, 113, 9));
    instance.interfaces[0].public_host_name = Some("ec2-203-0-113-9.compute-1.amazonaws.com".into());
    let fixture = serve(instance);
    let card = format!("/latest/meta-data/network/interfaces/macs/{MAC}");
    assert_eq!(fixture.text("/latest/meta-data/public-ipv4"), "203.0.113.9");
    assert_eq!(fixture.text(&format!("{card}/public-ipv4s")), "203.0.113.9");
    assert_eq!(fixture.text(&format!("{card}/ipv4-associations/203.0.113.9")), "10.0.0.4");
    assert!(fixture.text("/latest/meta-data/public-hostname").starts_with("ec2-203"));
}

#[test]
fn what_changes_is_shown_and_tokens_stay_good() {
    let fixture = serve(instance());
    let token = fixture.token("60");
    let moved: Ipv4Addr = "198.18.0.9".parse().unwrap();
    let mut changed = instance();
    let private = changed.interfaces[0].addresses[0];
    changed.interfaces[0].public_addresses = BTreeMap::from([(private, moved)]);
    fixture.service.update(changed);
    let request = Request { token: Some(token.as_bytes()), ..get("/latest/meta-data/public-ipv4") };
    let Answer::Text { body, .. } = fixture.service.answer(request) else { panic!("it is refused") };
    assert_eq!(body, moved.to_string());
}

#[test]
fn notices_are_shown_as_aws_writes_them_and_only_while_there_are_some() {
    let fixture = serve(instance());
    for path in [
        "spot/instance-action",
        "spot/termination-time",
        "events/recommendations/rebalance",
        "events/maintenance/scheduled",
        "events/maintenance/history",
    ] {
        let path = format!("/latest/meta-data/{path}");
        assert_eq!(fixture.service.answer(get(&path)), Answer::NotFound, "{path}");
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let event = |code, state| Event {
        id: "instance-event-0d59937288b749b32".to_owned(),
        code,
        description: "scheduled reboot".to_owned(),
        not_before: time,
        state,
    };
    let mut known = instance();
    known.notices = Notices {
        interruption: Some(Interruption { action: "terminate", time }),
        rebalance: Some(time),
        scheduled: vec![event("system-reboot", "active")],
        history: vec![event("system-reboot", "completed")],
    };
    fixture.service.update(known.clone());
    let text = |path: &str| fixture.text(&format!("/latest/meta-data/{path}"));
    assert_eq!(text("spot/instance-action"), r#"{"action": "terminate", "time": "2023-11-14T22:13:20Z"}"#);
    assert_eq!(text("spot/termination-time"), "2023-11-14T22:13:20Z");
    assert_eq!(text("events/recommendations/rebalance"), r#"{"noticeTime": "2023-11-14T22:13:20Z"}"#);
    let scheduled: serde_json::Value = serde_json::from_str(&text("events/maintenance/scheduled")).unwrap();
    let expected = serde_json::json!([{
        "NotBefore": "14 Nov 2023 22:13:20 GMT",
        "Code": "system-reboot",
        "Description": "scheduled reboot",
        "EventId": "instance-event-0d59937288b749b32",
        "State": "active",
    }]);
    assert_eq!(scheduled, expected);
    assert!(text("events/maintenance/history").contains("completed"));
    assert_eq!(text("events/"), "maintenance/\nrecommendations/");
    // Who is stopped is told no time of its end.
    known.notices.interruption = Some(Interruption { action: "stop", time });
    fixture.service.update(known);
    assert_eq!(text("spot/"), "instance-action");
}

#[test]
fn tags_are_shown_only_when_that_is_wanted() {
    assert_eq!(serve(instance()).service.answer(get("/latest/meta-data/tags/")), Answer::NotFound);
    let options = MetadataOptions { instance_tags: true, ..MetadataOptions::default() };
    let fixture = serve(InstanceMetadata { options, ..instance() });
    assert_eq!(fixture.text("/latest/meta-data/tags/instance/"), "Name");
    assert_eq!(fixture.text("/latest/meta-data/tags/instance/Name"), "web 1");
}

#[test]
fn a_token_is_given_for_a_time_in_range_and_not_through_a_proxy() {
    let fixture = serve(instance());
    for ttl in
        [None, Some("0"), Some("21601"), Some("-1"), Some("+5"), Some(""), Some("ten"), Some("99999999999")]
    {
        assert_eq!(fixture.service.answer(put(ttl)), Answer::BadRequest, "{ttl:?}");
    }
    let forwarded = Request { is_forwarded: true, ..put(Some("60")) };
    assert_eq!(fixture.service.answer(forwarded), Answer::Forbidden);
    let elsewhere = Request { path: "/latest/meta-data/", ..put(Some("60")) };
    assert_eq!(fixture.service.answer(elsewhere), Answer::MethodNotAllowed);
    let post = Request { method: Method::Other, ..put(Some("60")) };
    assert_eq!(fixture.service.answer(post), Answer::MethodNotAllowed);
    assert!(matches!(fixture.service.answer(put(Some("60"))), Answer::Token { hop_limit: 1, .. }));
}

#[test]
fn a_request_with_a_bad_token_is_refused_where_one_without_is_not() {
    let fixture = serve(instance());
    let token = fixture.token("60");
    let path = "/latest/meta-data/ami-id";
    let with = |token| fixture.service.answer(Request { token: Some(token), ..get(path) });
    assert!(matches!(with(token.as_bytes()), Answer::Text { .. }));
    assert_eq!(with(b"invented"), Answer::Unauthorized);
    assert_eq!(with(b""), Answer::Unauthorized);
    fixture.clock.advance(Duration::from_secs(60));
    assert_eq!(with(token.as_bytes()), Answer::Unauthorized);
    assert!(matches!(fixture.service.answer(get(path)), Answer::Text { token_ttl: None, .. }));
}

#[test]
fn where_tokens_are_required_nothing_is_shown_without() {
    let options = MetadataOptions { http_tokens: HttpTokens::Required, ..MetadataOptions::default() };
    let fixture = serve(InstanceMetadata { options, ..instance() });
    for path in ["/", "/latest/", "/latest/meta-data/ami-id", "/latest/user-data", "/none"] {
        assert_eq!(fixture.service.answer(get(path)), Answer::Unauthorized, "{path}");
    }
    let token = fixture.token("60");
    let request = Request { token: Some(token.as_bytes()), ..get("/latest/meta-data/ami-id") };
    assert!(matches!(fixture.service.answer(request), Answer::Text { .. }));
}

proptest! {
    #[test]
    fn any_path_is_answered_without_a_panic(path in "[/%a-z0-9.=-]{0,40}|\\PC{0,40}") {
        serve(instance()).service.answer(get(&path));
    }

    #[test]
    fn an_encoded_segment_means_the_same(segment in "[a-z0-9:=.-]{1,20}") {
        let encoded: String = segment.bytes().map(|byte| format!("%{byte:02X}")).collect();
        prop_assert_eq!(decode(&encoded), Some(Cow::Owned(segment)));
    }
}
