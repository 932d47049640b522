use std::hint::black_box;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::config::{Action, FixedResponse, QueryPattern, Rule};

type Headers<'a> = std::iter::Copied<std::slice::Iter<'a, (&'a [u8], &'a [u8])>>;

fn rule(priority: u32, conditions: Vec<config::Condition>) -> Rule {
    let action =
        Action::FixedResponse(FixedResponse { status: 200, content_type: None, body: String::new() });
    Rule { priority, conditions, action }
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn hosts(values: &[&str]) -> config::Condition {
    config::Condition::HostHeader(strings(values))
}

fn paths(values: &[&str]) -> config::Condition {
    config::Condition::PathPattern(strings(values))
}

/// `GET http://example.com/`, without any field.
fn get<'a>() -> RequestView<'a, Headers<'a>> {
    RequestView {
        host: b"example.com",
        path: b"/",
        query: None,
        method: b"GET",
        headers: [].iter().copied(),
        source: IpAddr::from([192, 0, 2, 7]),
    }
}

fn is_met(condition: config::Condition, request: &RequestView<'_, Headers<'_>>) -> bool {
    Table::new(&[rule(1, vec![condition])]).pick(request).is_some()
}

#[test]
fn the_lowest_priority_wins_whatever_the_order_in_which_rules_are_written() {
    let rules = [
        rule(30, vec![paths(&["/*"])]),
        rule(10, vec![paths(&["/img/*"])]),
        rule(20, vec![paths(&["/img/*"])]),
    ];
    let table = Table::new(&rules);
    assert_eq!(table.pick(&RequestView { path: b"/img/a", ..get() }), Some(1));
    assert_eq!(table.pick(&RequestView { path: b"/css/a", ..get() }), Some(0));
    assert_eq!(Table::new(&[]).pick(&get()), None);
}

#[test]
fn all_conditions_must_hold_and_one_value_of_each() {
    let both = [rule(1, vec![hosts(&["a.example.com", "b.example.com"]), paths(&["/x", "/y/*"])])];
    let table = Table::new(&both);
    for (host, path, is_picked) in [
        ("a.example.com", "/x", true),
        ("b.example.com", "/y/1", true),
        ("b.example.com", "/z", false),
        ("c.example.com", "/x", false),
    ] {
        let request = RequestView { host: host.as_bytes(), path: path.as_bytes(), ..get() };
        assert_eq!(table.pick(&request).is_some(), is_picked, "{host}{path}");
    }
}

#[test]
fn a_host_is_compared_without_its_port_and_in_any_case() {
    for (pattern, host, is_match) in [
        ("Example.COM", "eXample.com:8080", true),
        ("*.example.com", "a.b.Example.com", true),
        ("*.example.com", "example.com", false),
        ("example.com", "example.com.", false),
        ("*.example.com", "", false),
    ] {
        assert_eq!(
            is_met(hosts(&[pattern]), &RequestView { host: host.as_bytes(), ..get() }),
            is_match,
            "{host}"
        );
    }
    assert_eq!(without_port(b"[2001:db8::1]:80"), b"[2001:db8::1]");
    assert_eq!(without_port(b"[2001:db8::1]"), b"[2001:db8::1]");
}

#[test]
fn a_path_is_compared_with_its_case_and_as_it_was_sent() {
    assert!(!is_met(paths(&["/Img/*"]), &RequestView { path: b"/img/a", ..get() }));
    assert!(!is_met(paths(&["/a b"]), &RequestView { path: b"/a%20b", ..get() }));
    assert!(is_met(paths(&["*.png"]), &RequestView { path: b"/a/b.png", ..get() }));
}

#[test]
fn header_fields_of_one_name_are_tried_one_after_another() {
    let condition = || config::Condition::HttpHeader {
        name: "User-Agent".to_owned(),
        values: strings(&["*Chrome*", "*Safari*"]),
    };
    let fields: [(&[u8], &[u8]); 3] =
        [(b"accept", b"Chrome"), (b"USER-AGENT", b"curl/8"), (b"user-agent", b"mozilla safari/9")];
    let request = |count: usize| RequestView { headers: fields[..count].iter().copied(), ..get() };
    assert!(!is_met(condition(), &request(2)));
    assert!(is_met(condition(), &request(3)));
}

#[test]
fn a_method_is_compared_exactly() {
    let condition = || config::Condition::HttpRequestMethod(strings(&["GET", "PURGE"]));
    assert!(is_met(condition(), &get()));
    assert!(!is_met(condition(), &RequestView { method: b"get", ..get() }));
}

#[test]
fn a_pair_or_a_value_under_any_key_is_found_in_the_query() {
    let pair = |key: Option<&str>, value: &str| QueryPattern {
        key: key.map(str::to_owned),
        value: value.to_owned(),
    };
    let condition = config::Condition::QueryString(vec![
        pair(Some("version"), "v1"),
        pair(None, "example"),
        pair(None, r"\*"),
    ]);
    let table = Table::new(&[rule(1, vec![condition])]);
    for (query, is_found) in [
        (Some("a=b&Version=V1"), true),
        (Some("version=v2"), false),
        (Some("x=EXAMPLE"), true),
        (Some("example"), false),
        (Some("x=*"), true),
        (Some("version=v1=2"), false),
        (Some("version=%76%31"), false),
        (Some(""), false),
        (None, false),
    ] {
        let request = RequestView { query: query.map(str::as_bytes), ..get() };
        assert_eq!(table.pick(&request).is_some(), is_found, "{query:?}");
    }
}

#[test]
fn the_source_is_the_connections_also_as_a_mapped_address() {
    let condition = || config::Condition::SourceIp(vec!["192.0.2.0/24".parse().unwrap()]);
    assert!(is_met(condition(), &get()));
    assert!(is_met(condition(), &RequestView { source: "::ffff:192.0.2.9".parse().unwrap(), ..get() }));
    assert!(!is_met(condition(), &RequestView { source: "198.51.100.1".parse().unwrap(), ..get() }));
}

/// A pattern's meaning, without regard to time.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|at| fits(rest, &text[at..])),
        [b'?', rest @ ..] => !text.is_empty() && fits(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && fits(rest, &text[1..]),
    }
}

fn holds(condition: &config::Condition, request: &RequestView<'_, Headers<'_>>) -> bool {
    let lower = <[u8]>::to_ascii_lowercase;
    let any_case = |pattern: &String, text: &[u8]| fits(&lower(pattern.as_bytes()), &lower(text));
    match condition {
        config::Condition::HostHeader(values) => values.iter().any(|value| any_case(value, request.host)),
        config::Condition::PathPattern(values) => {
            values.iter().any(|value| fits(value.as_bytes(), request.path))
        }
        config::Condition::HttpRequestMethod(values) => {
            values.iter().any(|value| value.as_bytes() == request.method)
        }
        config::Condition::SourceIp(values) => values.iter().any(|value| value.contains(&request.source)),
        config::Condition::HttpHeader { name, values } => request
            .headers
            .clone()
            .any(|(field, text)| any_case(name, field) && values.iter().any(|value| any_case(value, text))),
        config::Condition::QueryString(values) => {
            let query = String::from_utf8_lossy(request.query.unwrap_or_default());
            query.split('&').filter(|pair| !pair.is_empty()).any(|pair| {
                let (key, text) = pair.split_once('=').unwrap_or((pair, ""));
                values.iter().any(|value| {
                    value.key.as_ref().is_none_or(|wanted| any_case(wanted, key.as_bytes()))
                        && any_case(&value.value, text.as_bytes())
                })
            })
        }
    }
}

/// The first rule that fits, by a walk over all of them.
fn walk(rules: &[Rule], request: &RequestView<'_, Headers<'_>>) -> Option<usize> {
    (0..rules.len())
        .filter(|index| rules[*index].conditions.iter().all(|condition| holds(condition, request)))
        .min_by_key(|index| rules[*index].priority)
}

fn any_condition() -> impl Strategy<Value = config::Condition> {
    let some = |pattern: &'static str| prop::collection::vec(pattern.prop_map(String::from), 1..4);
    prop_oneof![
        3 => some("[abA.*?]{1,5}").prop_map(config::Condition::HostHeader),
        3 => some("/?[abA/*?]{1,5}").prop_map(config::Condition::PathPattern),
        1 => some("[GP]").prop_map(config::Condition::HttpRequestMethod),
        1 => prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0"])
            .prop_map(|network| config::Condition::SourceIp(vec![network.parse().unwrap()])),
        1 => ("[xyX]", some("[ab*]{1,3}"))
            .prop_map(|(name, values)| config::Condition::HttpHeader { name, values }),
        1 => prop::collection::vec((prop::option::of("[kK?]"), "[vV*]{1,2}"), 1..3).prop_map(|pairs| {
            config::Condition::QueryString(
                pairs.into_iter().map(|(key, value)| QueryPattern { key, value }).collect(),
            )
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_table_picks_what_a_walk_over_the_rules_does(
        rules in prop::collection::vec(prop::collection::vec(any_condition(), 1..3), 0..150),
        requests in prop::collection::vec(
            ("[abAB.]{0,5}", "/[abA/]{0,5}", prop::option::of("([kK](=[vV]{0,2})?&?){0,2}"), "[GP]", "[xyXa]", "[ab]{0,2}", any::<[u8; 2]>()),
            1..8,
        ),
    ) {
        let count = u32::try_from(rules.len()).unwrap();
        // Priorities in another order than the rules: 7919 has no divisor in common with what is less.
        let rules: Vec<Rule> = (0..count)
            .zip(rules)
            .map(|(index, conditions)| rule(1 + index * 7919 % count, conditions))
            .collect();
        let table = Table::new(&rules);
        for (host, path, query, method, name, value, [b, d]) in &requests {
            let headers: [(&[u8], &[u8]); 1] = [(name.as_bytes(), value.as_bytes())];
            let request = RequestView {
                host: host.as_bytes(),
                path: path.as_bytes(),
                query: query.as_ref().map(String::as_bytes),
                method: method.as_bytes(),
                headers: headers.iter().copied(),
                source: IpAddr::from([10, b % 2, 0, *d]),
            };
            prop_assert_eq!(table.pick(&request), walk(&rules, &request));
        }
    }
}

/// What the rule with a number asks for.
type Conditions = Box<dyn Fn(u32) -> Vec<config::Condition>>;

/// What a pick costs with a hundred rules: `cargo test --release -p balancer -- --ignored --nocapture nanoseconds`.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_of_a_pick_among_a_hundred_rules() {
    let agents =
        config::Condition::HttpHeader { name: "User-Agent".to_owned(), values: strings(&["*Chrome/9*"]) };
    let numbered = |text: &str, number: u32| text.replace('N', &number.to_string());
    let kinds: Vec<(&str, Conditions)> = vec![
        ("no rules", Box::new(|_| vec![])),
        ("hosts", Box::new(move |n| vec![hosts(&[&numbered("service-N.example.com", n)])])),
        ("wildcard hosts", Box::new(move |n| vec![hosts(&[&numbered("*.tenant-N.example.com", n)])])),
        ("paths", Box::new(move |n| vec![paths(&[&numbered("/api/v1/service-N", n)])])),
        ("path prefixes", Box::new(move |n| vec![paths(&[&numbered("/api/v1/service-N/*", n)])])),
        (
            "hosts and prefixes",
            Box::new(move |n| {
                vec![
                    hosts(&[&numbered("service-N.example.com", n / 10)]),
                    paths(&[&numbered("/api/vN/*", n % 10)]),
                ]
            }),
        ),
        ("suffixes of paths", Box::new(move |n| vec![paths(&[&numbered("*.tN", n)])])),
        ("wildcards in a header", Box::new(move |_| vec![agents.clone()])),
        (
            "values of a header",
            Box::new(move |n| {
                let name = "X-Tenant".to_owned();
                vec![config::Condition::HttpHeader { name, values: strings(&[&numbered("tenant-N", n)]) }]
            }),
        ),
    ];
    let headers: [(&[u8], &[u8]); 7] = [
        (b"Host", b"service-99.example.com"),
        (
            b"User-Agent",
            b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0",
        ),
        (b"Accept", b"text/html"),
        (b"Accept-Encoding", b"gzip"),
        (b"Accept-Language", b"en"),
        (b"Cookie", b"session=0123456789"),
        (b"x-tenant", b"tenant-99"),
    ];
    for (kind, conditions) in kinds {
        let count = if kind == "no rules" { 0 } else { 100 };
        let rules: Vec<Rule> = (0..count).map(|n| rule(n + 1, conditions(n))).collect();
        let table = Table::new(&rules);
        let ask = |host: &'static [u8], path: &'static [u8]| {
            let request = RequestView { host, path, headers: headers.iter().copied(), ..get() };
            // The quietest of some rounds: what else runs on the machine only adds to it.
            let round = |_| {
                let started = Instant::now();
                for _ in 0..1000 {
                    black_box(table.pick(black_box(&request)));
                }
                started.elapsed().as_nanos() / 1000
            };
            (table.pick(&request), (0..100).map(round).min().unwrap_or_default())
        };
        let tenant = ask(b"www.tenant-99.example.com:8080", b"/static/picture.t99");
        let service = ask(b"service-99.example.com", b"/api/v1/service-99/items/1");
        let last = ask(b"service-9.example.com", b"/api/v9/items/1");
        let whole = ask(b"example.com", b"/api/v1/service-99");
        println!("{kind:22} {tenant:?} {service:?} {last:?} {whole:?}");
    }
}
