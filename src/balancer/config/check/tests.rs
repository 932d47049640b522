use serde_json::{Value, json};

use super::*;

/// A configuration that has something of everything and is right.
fn right() -> Value {
    json!({
        "listeners": [
            {
                "address": "0.0.0.0:80",
                "default_action": {"redirect": {"protocol": "HTTPS", "port": "443", "status": 301}},
                "rules": [
                    {
                        "priority": 1,
                        "conditions": [
                            {"host_header": ["*.example.com"]},
                            {"path_pattern": ["/img/*", "*.p?g"]},
                            {"http_header": {"name": "User-Agent", "values": ["*Safari"]}},
                            {"query_string": [{"key": "v", "value": "1"}]}
                        ],
                        "action": {"forward": {"target_groups": [{"name": "web", "weight": 0}, {"name": "api"}], "stickiness_s": 1}}
                    },
                    {
                        "priority": 50000,
                        "conditions": [{"http_request_method": ["GET", "M-SEARCH"]}, {"source_ip": ["10.0.0.0/8", "::/0"]}],
                        "action": {"fixed_response": {"status": 404, "content_type": "text/html", "body": "no"}}
                    }
                ]
            },
            {
                "address": "[::]:443",
                "protocol": "HTTPS",
                "default_action": {"forward": {"target_groups": [{"name": "web"}]}}
            }
        ],
        "target_groups": {
            "web": {
                "slow_start_s": 30,
                "stickiness": {"app_cookie": {"name": "session", "duration_s": 604800}},
                "targets": [
                    {"id": "i-1", "ip": "10.0.0.1", "port": 80},
                    {"id": "i-1", "ip": "10.0.0.1", "port": 81}
                ]
            },
            "api": {
                "algorithm": "least_outstanding_requests",
                "stickiness": {"lb_cookie": {"duration_s": 1}},
                "deregistration_delay_s": 3600,
                "health_check": {"path": "/healthz?full=1", "interval_s": 5, "timeout_s": 2, "matcher": "200-299,304"}
            }
        }
    })
}

fn check(config: Value) -> Result<(), ConfigError> {
    serde_json::from_value::<LoadBalancer>(config).unwrap().check()
}

/// What is said of a configuration in which the value at `pointer` is `value`.
fn said(pointer: &str, value: Value) -> String {
    let mut config = right();
    *config.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is not there")) = value;
    check(config).err().map_or_else(|| "nothing".to_owned(), |error| error.to_string())
}

#[test]
fn what_is_right_passes() {
    assert_eq!(check(right()), Ok(()));
    assert_eq!(check(json!({"listeners": [], "target_groups": {}})), Ok(()));
}

#[test]
fn every_range_is_kept_at_both_ends() {
    let mut config = right();
    config["attributes"] = json!({"idle_timeout_s": 60, "client_keep_alive_s": 3600});
    config["listeners"][0]["rules"][0]["action"]["forward"]["stickiness_s"] = json!(1);
    config["target_groups"]["api"]["health_check"] = json!({"port": 80, "interval_s": 300, "timeout_s": 5, "healthy_threshold": 5, "unhealthy_threshold": 2});
    for (pointer, min, max) in [
        ("/attributes/idle_timeout_s", 1, 4000),
        ("/attributes/client_keep_alive_s", 60, 604_800),
        ("/listeners/0/rules/0/priority", 1, 49_999),
        ("/listeners/0/rules/0/action/forward/stickiness_s", 1, 604_800),
        ("/listeners/0/rules/0/action/forward/target_groups/0/weight", 0, 999),
        ("/target_groups/web/stickiness/app_cookie/duration_s", 1, 604_800),
        ("/target_groups/api/stickiness/lb_cookie/duration_s", 1, 604_800),
        ("/target_groups/web/slow_start_s", 30, 900),
        ("/target_groups/web/targets/0/port", 1, 80),
        ("/target_groups/api/deregistration_delay_s", 0, 3600),
        ("/target_groups/api/health_check/port", 1, 65535),
        ("/target_groups/api/health_check/interval_s", 6, 300),
        ("/target_groups/api/health_check/timeout_s", 2, 120),
        ("/target_groups/api/health_check/healthy_threshold", 2, 10),
        ("/target_groups/api/health_check/unhealthy_threshold", 2, 10),
    ] {
        for (value, is_right) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
            let mut config = config.clone();
            *config.pointer_mut(pointer).unwrap() = json!(value);
            // What does not even parse is refused, too.
            let Ok(config) = serde_json::from_value::<LoadBalancer>(config) else {
                assert!(!is_right, "{pointer}: {value}");
                continue;
            };
            assert_eq!(config.check().is_ok(), is_right, "{pointer}: {value}");
        }
    }
}

#[test]
fn an_error_names_the_place_and_what_is_wrong_there() {
    for (pointer, value, expected) in [
        ("/listeners/1/address", json!("0.0.0.0:80"), "listeners[1].address: 0.0.0.0:80 is there twice"),
        ("/listeners/0/address", json!("0.0.0.0:0"), "listeners[0].address.port: 0 is not within 1 to 65535"),
        ("/listeners/0/rules/1/priority", json!(1), "listeners[0].rules[1].priority: 1 is there twice"),
        (
            "/listeners/0/rules/1/priority",
            json!(50001),
            "listeners[0].rules[1].priority: 50001 is not within 1 to 50000",
        ),
        (
            "/listeners/0/rules/1/conditions",
            json!([]),
            "listeners[0].rules[1].conditions: there are 0, and must be 1 to 5",
        ),
        (
            "/listeners/0/rules/1/conditions/1",
            json!({"http_request_method": ["PUT"]}),
            "listeners[0].rules[1].conditions: http_request_method is there twice",
        ),
        (
            "/listeners/0/rules/0/conditions/1/path_pattern",
            json!(["/a", "/b", "/c", "/d"]),
            "listeners[0].rules[0].conditions[1]: there are 4, and must be 1 to 3",
        ),
        (
            "/listeners/0/rules/0/conditions/1/path_pattern",
            json!(["/a", "/b", "/c"]),
            "listeners[0].rules[0].conditions (values): there are 6, and must be 1 to 5",
        ),
        (
            "/listeners/0/rules/0/conditions/1/path_pattern",
            json!(["/????"]),
            "listeners[0].rules[0].conditions (wildcards): there are 6, and must be 0 to 5",
        ),
        (
            "/listeners/0/rules/0/conditions/1/path_pattern/0",
            json!("/a b"),
            "listeners[0].rules[0].conditions[1]: \"/a b\" has ' ', and may have A-Z, a-z, 0-9, *, ? and _-.$/~\"'@:+& only",
        ),
        (
            "/listeners/0/rules/0/conditions/1/path_pattern/0",
            json!("/".repeat(129)),
            "listeners[0].rules[0].conditions[1]: it has 129 characters, and must have 1 to 128",
        ),
        (
            "/listeners/0/rules/0/conditions/0/host_header/0",
            json!("localhost"),
            "listeners[0].rules[0].conditions[0]: \"localhost\" is no host name: it needs a dot, and letters alone after the last one",
        ),
        (
            "/listeners/0/rules/0/conditions/2/http_header/name",
            json!("HOST"),
            "listeners[0].rules[0].conditions[2]: the field Host has a condition of its own, host_header",
        ),
        (
            "/listeners/0/rules/0/conditions/2/http_header/name",
            json!("User-*:"),
            "listeners[0].rules[0].conditions[2].name: \"User-*:\" has ':', and may have a field name's characters (RFC 9110, 5.1) only",
        ),
        (
            "/listeners/0/rules/0/conditions/3/query_string/0/value",
            json!(""),
            "listeners[0].rules[0].conditions[3]: it has 0 characters, and must have 1 to 128",
        ),
        (
            "/listeners/0/rules/1/conditions/0/http_request_method/0",
            json!("get"),
            "listeners[0].rules[1].conditions[0]: \"get\" has 'g', and may have A-Z, - and _ only",
        ),
        (
            "/listeners/0/rules/0/action/forward/target_groups/1/name",
            json!("wep"),
            "listeners[0].rules[0].action.forward.target_groups[1]: no target group is named \"wep\"",
        ),
        (
            "/listeners/0/rules/0/action/forward/target_groups/1/name",
            json!("web"),
            "listeners[0].rules[0].action.forward.target_groups[1]: web is there twice",
        ),
        (
            "/listeners/1/default_action/forward/target_groups",
            json!([]),
            "listeners[1].default_action.forward.target_groups: there are 0, and must be 1 to 5",
        ),
        (
            "/listeners/0/rules/1/action/fixed_response/status",
            json!(301),
            "listeners[0].rules[1].action.fixed_response.status: \"301\" is not one of 2xx, 4xx and 5xx",
        ),
        (
            "/listeners/0/rules/1/action/fixed_response/body",
            json!("x".repeat(1025)),
            "listeners[0].rules[1].action.fixed_response.body: it has 1025 characters, and must have 0 to 1024",
        ),
        (
            "/listeners/0/rules/1/action/fixed_response/content_type",
            json!("image/png"),
            "listeners[0].rules[1].action.fixed_response.content_type: \"image/png\" is not one of text/plain, text/css, text/html, application/javascript and application/json",
        ),
        (
            "/target_groups/web/slow_start_s",
            json!(29),
            "target_groups.web.slow_start_s: 29 is neither 0 nor within 30 to 900",
        ),
        (
            "/target_groups/api/deregistration_delay_s",
            json!(3601),
            "target_groups.api.deregistration_delay_s: 3601 is not within 0 to 3600",
        ),
        (
            "/target_groups/web/targets/1/port",
            json!(80),
            "target_groups.web.targets[1]: i-1:80 is there twice",
        ),
        (
            "/target_groups/web/stickiness/app_cookie/name",
            json!("AWSALBAPP"),
            "target_groups.web.stickiness.app_cookie.name: \"AWSALBAPP\" is reserved for the load balancer's own cookies",
        ),
        (
            "/target_groups/api/health_check/timeout_s",
            json!(5),
            "target_groups.api.health_check.timeout_s: the time-out of 5 s must be shorter than the interval of 5 s",
        ),
        (
            "/target_groups/api/health_check/matcher",
            json!("200-599"),
            "target_groups.api.health_check.matcher: \"200-599\" is not within 200 to 499",
        ),
        (
            "/target_groups/api/health_check/path",
            json!("healthz"),
            "target_groups.api.health_check.path: \"healthz\" must begin with \"/\"",
        ),
    ] {
        assert_eq!(said(pointer, value), expected);
    }
}

#[test]
fn slow_start_goes_with_round_robin_alone() {
    let mut config = right();
    for algorithm in ["least_outstanding_requests", "weighted_random"] {
        config["target_groups"]["web"]["algorithm"] = json!(algorithm);
        let error = check(config.clone()).unwrap_err();
        assert_eq!(
            (error.place.as_str(), error.problem),
            ("target_groups.web.slow_start_s", Problem::SlowStart)
        );
    }
}

#[test]
fn a_redirect_must_change_more_than_the_query() {
    let http = |redirect: Value| said("/listeners/0/default_action", json!({"redirect": redirect}));
    let https = |redirect: Value| said("/listeners/1/default_action", json!({"redirect": redirect}));
    let is_loop = |said: String| said.contains("redirects to where the request came from");
    for same in [
        json!({"status": 302}),
        json!({"query": "a=b", "status": 302}),
        json!({"protocol": "HTTP", "status": 302}),
        json!({"protocol": "HTTP", "port": "80", "status": 302}),
    ] {
        assert!(is_loop(http(same)));
    }
    assert!(is_loop(https(json!({"protocol": "HTTPS", "port": "443", "status": 302}))));
    for other in [
        json!({"protocol": "HTTPS", "status": 302}),
        json!({"port": "81", "status": 302}),
        json!({"host": "www.#{host}", "status": 302}),
        json!({"path": "/x/#{path}", "status": 302}),
    ] {
        assert_eq!(http(other), "nothing");
    }
    assert_eq!(
        https(json!({"protocol": "HTTP", "status": 302})),
        "listeners[1].default_action.redirect: this redirects from HTTPS to HTTP"
    );
}

#[test]
fn a_redirects_parts_have_their_forms() {
    let redirect = |part: &str, value: &str| {
        let mut redirect = json!({"protocol": "HTTPS", "status": 302});
        redirect[part] = json!(value);
        said("/listeners/0/default_action", json!({"redirect": redirect}))
    };
    for (part, value) in [
        ("port", "#{port}"),
        ("port", "65535"),
        ("host", "a.#{host}"),
        ("path", "/#{host}/#{port}/#{path}"),
        ("query", "#{protocol}#{host}#{port}#{path}#{query}&a=%20"),
        ("query", ""),
    ] {
        assert_eq!(redirect(part, value), "nothing", "{part} {value}");
    }
    for (part, value) in [
        ("protocol", "https"),
        ("port", "0"),
        ("port", "080"),
        ("port", "+80"),
        ("port", "65536"),
        ("host", ""),
        ("host", "#{path}"),
        ("host", "a/b"),
        ("path", "x"),
        ("path", "/#{query}"),
        ("path", "/#{host"),
        ("path", "/a b"),
        ("query", "#{other}"),
        ("query", "a\r\nb"),
    ] {
        let said = redirect(part, value);
        assert!(
            said.starts_with(&format!("listeners[0].default_action.redirect.{part}: ")),
            "{part} {value}: {said}"
        );
    }
    assert!(said("/listeners/0/default_action/redirect/status", json!(307)).contains("301 and 302"));
}
