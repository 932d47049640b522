//! Attributes of load balancers, target groups and listeners.
//!
//! Those that nothing here depends on can be given their default and nothing else: what is answered is true.
//!
//! Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerAttribute.html> and those of the other two.

use std::collections::BTreeMap;

use aws::Error;
use balancer::config::{Algorithm, Attributes, DesyncMode, Stickiness, XffMode};

use super::errors::{configuration, unsupported, validation};

/// What there is, and what it may be.
pub(super) struct Attribute {
    key: &'static str,
    default: &'static str,
    values: Values,
}

enum Values {
    /// The default alone.
    Fixed,
    Flag,
    Number(u32, u32),
    Words(&'static [&'static str]),
    Text,
}

const fn fixed(key: &'static str, default: &'static str) -> Attribute {
    Attribute { key, default, values: Values::Fixed }
}

const fn flag(key: &'static str, default: &'static str) -> Attribute {
    Attribute { key, default, values: Values::Flag }
}

const fn number(key: &'static str, default: &'static str, min: u32, max: u32) -> Attribute {
    Attribute { key, default, values: Values::Number(min, max) }
}

const fn words(key: &'static str, default: &'static str, words: &'static [&'static str]) -> Attribute {
    Attribute { key, default, values: Values::Words(words) }
}

pub(super) const DELETION_PROTECTION: &str = "deletion_protection.enabled";
const IDLE_TIMEOUT: &str = "idle_timeout.timeout_seconds";
const HTTP2: &str = "routing.http2.enabled";
const DROP_INVALID: &str = "routing.http.drop_invalid_header_fields.enabled";
const XFF_CLIENT_PORT: &str = "routing.http.xff_client_port.enabled";
const PRESERVE_HOST: &str = "routing.http.preserve_host_header.enabled";
const XFF_MODE: &str = "routing.http.xff_header_processing.mode";
const DESYNC: &str = "routing.http.desync_mitigation_mode";
const TLS_FIELDS: &str = "routing.http.x_amzn_tls_version_and_cipher_suite.enabled";
const KEEP_ALIVE: &str = "client_keep_alive.seconds";

pub(super) const OF_LOAD_BALANCERS: &[Attribute] = &[
    fixed("access_logs.s3.enabled", "false"),
    fixed("access_logs.s3.bucket", ""),
    fixed("access_logs.s3.prefix", ""),
    number(IDLE_TIMEOUT, "60", 1, 4000),
    flag(DELETION_PROTECTION, "false"),
    flag(HTTP2, "true"),
    flag(DROP_INVALID, "false"),
    flag(XFF_CLIENT_PORT, "false"),
    flag(PRESERVE_HOST, "false"),
    words(XFF_MODE, "append", &["append", "preserve", "remove"]),
    fixed("load_balancing.cross_zone.enabled", "true"),
    words(DESYNC, "defensive", &["monitor", "defensive", "strictest"]),
    number(KEEP_ALIVE, "3600", 60, 604_800),
    fixed("waf.fail_open.enabled", "false"),
    flag(TLS_FIELDS, "false"),
    fixed("zonal_shift.config.enabled", "false"),
    fixed("connection_logs.s3.enabled", "false"),
    fixed("connection_logs.s3.bucket", ""),
    fixed("connection_logs.s3.prefix", ""),
    fixed("health_check_logs.s3.enabled", "false"),
    fixed("health_check_logs.s3.bucket", ""),
    fixed("health_check_logs.s3.prefix", ""),
    fixed("ipv6.deny_all_igw_traffic", "false"),
];

const DELAY: &str = "deregistration_delay.timeout_seconds";
const ALGORITHM: &str = "load_balancing.algorithm.type";
const SLOW_START: &str = "slow_start.duration_seconds";
const STICKY: &str = "stickiness.enabled";
const STICKY_TYPE: &str = "stickiness.type";
const LB_COOKIE_DURATION: &str = "stickiness.lb_cookie.duration_seconds";
const APP_COOKIE_NAME: &str = "stickiness.app_cookie.cookie_name";
const APP_COOKIE_DURATION: &str = "stickiness.app_cookie.duration_seconds";

pub(super) const OF_TARGET_GROUPS: &[Attribute] = &[
    number(DELAY, "300", 0, 3600),
    flag(STICKY, "false"),
    words(STICKY_TYPE, "lb_cookie", &["lb_cookie", "app_cookie"]),
    number(LB_COOKIE_DURATION, "86400", 1, 604_800),
    Attribute { key: APP_COOKIE_NAME, default: "", values: Values::Text },
    number(APP_COOKIE_DURATION, "86400", 1, 604_800),
    number(SLOW_START, "0", 0, 900),
    words(ALGORITHM, "round_robin", &["round_robin", "least_outstanding_requests", "weighted_random"]),
    fixed("load_balancing.algorithm.anomaly_mitigation", "off"),
    words(
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
        // It is the same: a load balancer's own is always on.
        &["use_load_balancer_configuration", "true"],
    ),
    fixed("target_group_health.dns_failover.minimum_healthy_targets.count", "1"),
    fixed("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off"),
    fixed("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1"),
    fixed("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off"),
];

pub(super) const OF_LISTENERS: &[Attribute] = &[
    fixed("routing.http.response.server.enabled", "true"),
    fixed("routing.http.response.strict_transport_security.header_value", ""),
    fixed("routing.http.response.access_control_allow_origin.header_value", ""),
    fixed("routing.http.response.access_control_allow_methods.header_value", ""),
    fixed("routing.http.response.access_control_allow_headers.header_value", ""),
    fixed("routing.http.response.access_control_allow_credentials.header_value", ""),
    fixed("routing.http.response.access_control_expose_headers.header_value", ""),
    fixed("routing.http.response.access_control_max_age.header_value", ""),
    fixed("routing.http.response.content_security_policy.header_value", ""),
    fixed("routing.http.response.x_content_type_options.header_value", ""),
    fixed("routing.http.response.x_frame_options.header_value", ""),
];

/// Those that were set, by their keys.
pub(super) type Kept = BTreeMap<String, String>;

/// Sets attributes of a kind.
///
/// # Errors
/// When one is unknown, cannot be so, or is not served so.
pub(super) fn set<'a>(
    all: &[Attribute],
    kept: &mut Kept,
    wanted: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
) -> Result<(), Error> {
    for (key, value) in wanted {
        let key = key.ok_or_else(|| validation("An attribute must have a key"))?;
        let value = value.unwrap_or_default();
        let attribute = all.iter().find(|known| known.key == key);
        let attribute = attribute
            .ok_or_else(|| validation(format!("Load balancer attribute key '{key}' is not recognized")))?;
        let is_one = match attribute.values {
            Values::Fixed if value == attribute.default => true,
            Values::Fixed => {
                return Err(unsupported(format_args!("the attribute {key} with the value '{value}'")));
            }
            Values::Flag => ["true", "false"].contains(&value),
            Values::Number(min, max) => value.parse().is_ok_and(|value| (min..=max).contains(&value)),
            Values::Words(words) => words.contains(&value),
            Values::Text => true,
        };
        if !is_one {
            return Err(configuration(format!("'{value}' is not a valid value for the attribute '{key}'")));
        }
        kept.insert(key.to_owned(), value.to_owned());
    }
    Ok(())
}

/// All attributes of a kind, with their values.
pub(super) fn shown(all: &'static [Attribute], kept: &Kept) -> impl Iterator<Item = (String, String)> {
    all.iter().map(move |known| (known.key.to_owned(), value(all, kept, known.key).to_owned()))
}

fn value<'a>(all: &'static [Attribute], kept: &'a Kept, key: &str) -> &'a str {
    let default = || all.iter().find(|known| known.key == key).map_or("", |known| known.default);
    kept.get(key).map_or_else(default, String::as_str)
}

pub(super) fn is_protected(kept: &Kept) -> bool {
    value(OF_LOAD_BALANCERS, kept, DELETION_PROTECTION) == "true"
}

/// Seconds for which a target that is taken out may still answer.
pub(super) fn delay_s(kept: &Kept) -> u32 {
    seconds(OF_TARGET_GROUPS, kept, DELAY)
}

fn seconds(all: &'static [Attribute], kept: &Kept, key: &str) -> u32 {
    // That it is a number was seen when it was set.
    value(all, kept, key).parse().unwrap_or_default()
}

pub(super) fn of_load_balancer(kept: &Kept) -> Attributes {
    let all = OF_LOAD_BALANCERS;
    let is_on = |key| value(all, kept, key) == "true";
    Attributes {
        idle_timeout_s: seconds(all, kept, IDLE_TIMEOUT),
        client_keep_alive_s: seconds(all, kept, KEEP_ALIVE),
        drop_invalid_header_fields: is_on(DROP_INVALID),
        preserve_host_header: is_on(PRESERVE_HOST),
        xff_header_processing: match value(all, kept, XFF_MODE) {
            "preserve" => XffMode::Preserve,
            "remove" => XffMode::Remove,
            _ => XffMode::Append,
        },
        xff_client_port: is_on(XFF_CLIENT_PORT),
        desync_mitigation_mode: match value(all, kept, DESYNC) {
            "monitor" => DesyncMode::Monitor,
            "strictest" => DesyncMode::Strictest,
            _ => DesyncMode::Defensive,
        },
        http2: is_on(HTTP2),
        x_amzn_tls_version_and_cipher_suite: is_on(TLS_FIELDS),
    }
}

/// How targets of a group are picked.
pub(super) struct Picking {
    pub algorithm: Algorithm,
    pub stickiness: Option<Stickiness>,
    pub slow_start_s: u32,
}

pub(super) fn of_target_group(kept: &Kept) -> Picking {
    let all = OF_TARGET_GROUPS;
    let algorithm = match value(all, kept, ALGORITHM) {
        "least_outstanding_requests" => Algorithm::LeastOutstandingRequests,
        "weighted_random" => Algorithm::WeightedRandom,
        _ => Algorithm::RoundRobin,
    };
    let stickiness = || match value(all, kept, STICKY_TYPE) {
        "app_cookie" => Stickiness::AppCookie {
            name: value(all, kept, APP_COOKIE_NAME).to_owned(),
            duration_s: seconds(all, kept, APP_COOKIE_DURATION),
        },
        _ => Stickiness::LbCookie { duration_s: seconds(all, kept, LB_COOKIE_DURATION) },
    };
    let is_sticky = value(all, kept, STICKY) == "true";
    let slow_start_s = seconds(all, kept, SLOW_START);
    Picking { algorithm, stickiness: is_sticky.then(stickiness), slow_start_s }
}
