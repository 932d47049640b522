use serde_json::json;

use super::rules::{Dropper, Found, is_uplink, read};
use super::*;
use crate::netlink::Index;

#[test]
fn uplinks_are_numbered_apart_from_what_else_is_link_local() {
    assert_eq!(transit(0), (Ipv4Addr::new(169, 254, 128, 0), Ipv4Addr::new(169, 254, 128, 1)));
    assert_eq!(transit(1), (Ipv4Addr::new(169, 254, 128, 2), Ipv4Addr::new(169, 254, 128, 3)));
    let (_, last) = transit(SLOTS - 1);
    assert!(last < crate::RESOLVER && last < crate::METADATA, "{last}");
}

#[test]
fn only_a_prefix_and_a_number_is_an_uplink() {
    assert!(is_uplink("nimbo0") && is_uplink("nimbo4095"));
    assert!(!is_uplink("nimbo") && !is_uplink("nimbo-x") && !is_uplink("eth0") && !is_uplink("nimbo1a"));
}

#[test]
fn the_mtu_is_that_of_the_way_out() {
    let link = |index, name: &str, mtu| Link {
        index: Index(index),
        name: name.into(),
        mtu,
        mac: None,
        is_up: true,
        peer: None,
    };
    let route = |range: &str, index| Route {
        range: range.parse().unwrap(),
        device: Some(Index(index)),
        gateway: None,
    };
    let mut survey = Survey {
        links: vec![
            link(1, "lo", u16::MAX),
            link(2, "eth0", 9001),
            link(3, "wg0", 1420),
            link(4, "nimbo0", 1500),
        ],
        routes: vec![route("127.0.0.0/8", 1), route("192.0.2.0/24", 2), route("169.254.128.0/31", 4)],
    };
    assert_eq!(survey.outward_mtu(), 1500);
    survey.routes.push(route("0.0.0.0/0", 3));
    assert_eq!(survey.outward_mtu(), 1420);
    assert_eq!(survey.interfaces().collect::<Vec<_>>(), [("eth0", true), ("wg0", true)]);
    survey.routes.pop();
    assert_eq!(survey.interfaces().collect::<Vec<_>>(), [("eth0", true), ("wg0", false)]);
}

#[test]
fn a_ruleset_is_read_for_what_matters() {
    let chain = |family: &str, table: &str, name: &str, hook: &str, policy: &str| json!({ "chain": { "family": family, "table": table, "name": name, "hook": hook, "policy": policy } });
    let mut ruleset = vec![
        json!({ "metainfo": { "version": "1.0.6" } }),
        json!({ "table": { "family": "ip", "name": "nimbo" } }),
        json!({ "table": { "family": "ip", "name": "nimbo3" } }),
        chain("ip", "filter", "FORWARD", "forward", "drop"),
        json!({ "chain": { "family": "ip", "table": "filter", "name": "DOCKER-USER" } }),
        chain("ip", "filter", "INPUT", "input", "drop"),
        chain("ip6", "filter", "FORWARD", "forward", "drop"),
        chain("inet", "firewall", "through", "forward", "drop"),
        chain("inet", "lenient", "forward", "forward", "accept"),
    ];
    let docker =
        Dropper { family: "ip".into(), table: "filter".into(), chain: "FORWARD".into(), is_docker: true };
    let other = Dropper {
        family: "inet".into(),
        table: "firewall".into(),
        chain: "through".into(),
        is_docker: false,
    };
    let found = Found { uplinks: vec!["nimbo3".into()], shared: true, droppers: vec![docker.clone(), other] };
    assert_eq!(read(&ruleset), found);
    // A firewall with a rule for uplinks has been told.
    ruleset.push(json!({ "rule": { "family": "inet", "table": "firewall", "expr": [{ "x": "nimbo*" }] } }));
    assert_eq!(read(&ruleset).droppers, [docker]);
    assert_eq!(read(&[]), Found::default());
}
