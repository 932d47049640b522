//! Whether a configuration can be used: what ELBv2 would refuse is refused, with the place of what is wrong.
//!
//! The limits are those that AWS publishes and does not raise. Quotas of an account (how many listeners, rules and targets) are the
//! control plane's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::{
    Action, Attributes, Condition, FixedResponse, Forward, HealthCheck, Listener, LoadBalancer, Protocol,
    ProtocolVersion, Redirect, Rule, Stickiness, TargetGroup,
};
use crate::config::Algorithm;
use crate::health::MatcherError;
use crate::rules::Pattern;

const WEEK_S: u32 = 604_800;
/// Of values in one condition, and in all of a rule's; and of wildcards in all of a rule's
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html>).
const CONDITION_VALUES: usize = 3;
const RULE_VALUES: usize = 5;
const RULE_WILDCARDS: usize = 5;
const CONTENT_TYPES: [&str; 5] =
    ["text/plain", "text/css", "text/html", "application/javascript", "application/json"];

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// Such as `listeners[0].rules[3].conditions[1]`.
    pub place: String,
    pub problem: Problem,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{value} is not within {min} to {max}")]
    Range { value: u64, min: u64, max: u64 },
    #[error("{value} is neither 0 nor within {min} to {max}")]
    RangeOrZero { value: u64, min: u64, max: u64 },
    #[error("it has {length} characters, and must have {min} to {max}")]
    Length { length: usize, min: usize, max: usize },
    #[error("there are {count}, and must be {min} to {max}")]
    Count { count: usize, min: usize, max: usize },
    #[error("{value:?} has {found:?}, and may have {allowed} only")]
    Character { value: String, found: char, allowed: &'static str },
    #[error("{value:?} is not one of {allowed}")]
    Choice { value: String, allowed: &'static str },
    #[error("{0} is there twice")]
    Duplicate(String),
    #[error("no target group is named {0:?}")]
    UnknownTargetGroup(String),
    #[error("{0:?} is no host name: it needs a dot, and letters alone after the last one")]
    Host(String),
    #[error("{0:?} must begin with \"/\"")]
    NotAbsolute(String),
    #[error("the field Host has a condition of its own, host_header")]
    HostAsHeader,
    #[error("{keyword} cannot stand here: {allowed} can")]
    Keyword { keyword: String, allowed: &'static str },
    #[error("this redirects to where the request came from: change the protocol, host, port or path")]
    RedirectLoop,
    #[error("this redirects from HTTPS to HTTP")]
    RedirectToPlain,
    #[error("slow start goes with round_robin alone")]
    SlowStart,
    #[error("a target group of gRPC can be forwarded to from HTTPS only: {0:?} is one")]
    GrpcToPlain(String),
    #[error("it goes with HTTPS alone")]
    HttpsOnly,
    #[error("{0:?} is reserved for the load balancer's own cookies")]
    ReservedCookie(String),
    #[error("the time-out of {timeout_s} s must be shorter than the interval of {interval_s} s")]
    Timeout { timeout_s: u32, interval_s: u32 },
    #[error(
        "{0:?} cannot be served: of AWS's policies those are that begin with TLS 1.2 and have neither FIPS nor PQ, such as {default}",
        default = crate::tls::DEFAULT
    )]
    SecurityPolicy(String),
    #[error("{0}")]
    Tls(String),
    #[error(transparent)]
    Matcher(#[from] MatcherError),
}

type Checked = Result<(), ConfigError>;

impl LoadBalancer {
    /// If all of this can be used together.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        let root = Place(String::new());
        attributes(&self.attributes, &root.field("attributes"))?;
        let addresses = self.listeners.iter().map(|listener| listener.address);
        unique(addresses, |at| root.item("listeners", at).field("address"))?;
        for (at, one) in self.listeners.iter().enumerate() {
            listener(one, &self.target_groups, &root.item("listeners", at))?;
        }
        for (name, one) in &self.target_groups {
            target_group(one, &root.field(&format!("target_groups.{name}")))?;
        }
        Ok(())
    }
}

/// Where something stands in a configuration.
struct Place(String);

impl Place {
    fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    fn item(&self, list: &str, at: usize) -> Self {
        self.field(&format!("{list}[{at}]"))
    }

    fn refuse<T>(&self, problem: Problem) -> Result<T, ConfigError> {
        Err(ConfigError { place: self.0.clone(), problem })
    }

    fn range(&self, value: impl Into<u64>, min: u64, max: u64) -> Checked {
        match value.into() {
            value if (min..=max).contains(&value) => Ok(()),
            value => self.refuse(Problem::Range { value, min, max }),
        }
    }

    fn count(&self, count: usize, min: usize, max: usize) -> Checked {
        if (min..=max).contains(&count) { Ok(()) } else { self.refuse(Problem::Count { count, min, max }) }
    }

    /// That `value` has `min` to `max` characters, each of which `is_allowed`.
    fn text(
        &self,
        value: &str,
        min: usize,
        max: usize,
        allowed: &'static str,
        is_allowed: impl Fn(char) -> bool,
    ) -> Checked {
        let length = value.chars().count();
        if !(min..=max).contains(&length) {
            return self.refuse(Problem::Length { length, min, max });
        }
        match value.chars().find(|char| !is_allowed(*char)) {
            None => Ok(()),
            Some(found) => self.refuse(Problem::Character { value: value.to_owned(), found, allowed }),
        }
    }
}

fn unique<T: Ord + Display>(values: impl Iterator<Item = T>, place: impl Fn(usize) -> Place) -> Checked {
    let mut seen = BTreeSet::new();
    for (at, value) in values.enumerate() {
        if let Some(again) = seen.replace(value) {
            return place(at).refuse(Problem::Duplicate(again.to_string()));
        }
    }
    Ok(())
}

fn attributes(attributes: &Attributes, place: &Place) -> Checked {
    place.field("idle_timeout_s").range(attributes.idle_timeout_s, 1, 4000)?;
    place.field("client_keep_alive_s").range(attributes.client_keep_alive_s, 60, WEEK_S.into())
}

fn listener(listener: &Listener, groups: &BTreeMap<String, TargetGroup>, place: &Place) -> Checked {
    place.field("address.port").range(listener.address.port(), 1, 65535)?;
    if listener.protocol == Protocol::Http {
        if listener.security_policy.is_some() {
            return place.field("security_policy").refuse(Problem::HttpsOnly);
        }
        if !listener.certificates.is_empty() {
            return place.field("certificates").refuse(Problem::HttpsOnly);
        }
    }
    action(&listener.default_action, listener, groups, &place.field("default_action"))?;
    let priorities = listener.rules.iter().map(|rule| rule.priority);
    unique(priorities, |at| place.item("rules", at).field("priority"))?;
    for (at, one) in listener.rules.iter().enumerate() {
        let place = place.item("rules", at);
        rule(one, &place)?;
        action(&one.action, listener, groups, &place.field("action"))?;
    }
    Ok(())
}

fn rule(rule: &Rule, place: &Place) -> Checked {
    place.field("priority").range(rule.priority, 1, 50_000)?;
    place.field("conditions").count(rule.conditions.len(), 1, RULE_VALUES)?;
    let kinds = rule.conditions.iter().filter_map(|condition| match condition {
        Condition::HostHeader(_) => Some("host_header"),
        Condition::PathPattern(_) => Some("path_pattern"),
        Condition::HttpRequestMethod(_) => Some("http_request_method"),
        Condition::SourceIp(_) => Some("source_ip"),
        Condition::HttpHeader { .. } | Condition::QueryString(_) => None,
    });
    unique(kinds, |_| place.field("conditions"))?;
    let (mut values, mut wildcards) = (0, 0);
    for (at, one) in rule.conditions.iter().enumerate() {
        let place = place.item("conditions", at);
        let size = condition(one, &place)?;
        place.count(size.values, 1, CONDITION_VALUES)?;
        values += size.values;
        wildcards += size.wildcards;
    }
    place.field("conditions (values)").count(values, 1, RULE_VALUES)?;
    place.field("conditions (wildcards)").count(wildcards, 0, RULE_WILDCARDS)
}

/// How much of a rule's limits a condition takes.
struct Size {
    values: usize,
    wildcards: usize,
}

fn condition(condition: &Condition, place: &Place) -> Result<Size, ConfigError> {
    let wildcards =
        |values: &[String]| values.iter().map(|value| Pattern::exact_case(value).wildcards()).sum();
    match condition {
        Condition::HostHeader(hosts) => {
            hosts.iter().try_for_each(|host| host_pattern(host, place))?;
            Ok(Size { values: hosts.len(), wildcards: wildcards(hosts) })
        }
        Condition::PathPattern(paths) => {
            paths.iter().try_for_each(|path| path_pattern(path, place))?;
            Ok(Size { values: paths.len(), wildcards: wildcards(paths) })
        }
        Condition::HttpHeader { name, values } => {
            place.field("name").text(name, 1, 40, "a field name's characters (RFC 9110, 5.1)", is_token)?;
            if name.eq_ignore_ascii_case("host") {
                return place.refuse(Problem::HostAsHeader);
            }
            values.iter().try_for_each(|value| printable(value, place))?;
            Ok(Size { values: values.len(), wildcards: wildcards(values) })
        }
        Condition::HttpRequestMethod(methods) => {
            for method in methods {
                let is_allowed = |char: char| char.is_ascii_uppercase() || "-_".contains(char);
                place.text(method, 1, 40, "A-Z, - and _", is_allowed)?;
            }
            Ok(Size { values: methods.len(), wildcards: 0 })
        }
        Condition::QueryString(pairs) => {
            let texts = || pairs.iter().flat_map(|pair| pair.key.iter().chain([&pair.value]));
            texts().try_for_each(|text| printable(text, place))?;
            Ok(Size {
                values: pairs.len(),
                wildcards: texts().map(|text| Pattern::exact_case(text).wildcards()).sum(),
            })
        }
        Condition::SourceIp(networks) => Ok(Size { values: networks.len(), wildcards: 0 }),
    }
}

fn host_pattern(host: &str, place: &Place) -> Checked {
    place.text(host, 1, 128, "A-Z, a-z, 0-9, -, ., * and ?", |char| {
        char.is_ascii_alphanumeric() || "-.*?".contains(char)
    })?;
    match host.rsplit_once('.') {
        Some((_, last)) if last.chars().all(|char| char.is_ascii_alphabetic()) => Ok(()),
        _ => place.refuse(Problem::Host(host.to_owned())),
    }
}

fn path_pattern(path: &str, place: &Place) -> Checked {
    place.text(path, 1, 128, "A-Z, a-z, 0-9, *, ? and _-.$/~\"'@:+&", |char| {
        char.is_ascii_alphanumeric() || "_-.$/~\"'@:+&*?".contains(char)
    })
}

fn printable(value: &str, place: &Place) -> Checked {
    place.text(value, 1, 128, "printable ASCII", |char| matches!(char, ' '..='~'))
}

fn is_token(char: char) -> bool {
    char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char)
}

fn action(
    action: &Action,
    listener: &Listener,
    groups: &BTreeMap<String, TargetGroup>,
    place: &Place,
) -> Checked {
    match action {
        Action::Forward(action) => forward(action, listener, groups, &place.field("forward")),
        Action::Redirect(action) => redirect(action, listener, &place.field("redirect")),
        Action::FixedResponse(action) => fixed_response(action, &place.field("fixed_response")),
    }
}

fn forward(
    forward: &Forward,
    listener: &Listener,
    groups: &BTreeMap<String, TargetGroup>,
    place: &Place,
) -> Checked {
    place.field("target_groups").count(forward.target_groups.len(), 1, 5)?;
    let names = forward.target_groups.iter().map(|group| group.name.as_str());
    unique(names, |at| place.item("target_groups", at))?;
    for (at, group) in forward.target_groups.iter().enumerate() {
        let place = place.item("target_groups", at);
        place.field("weight").range(group.weight, 0, 999)?;
        match groups.get(&group.name) {
            None => return place.refuse(Problem::UnknownTargetGroup(group.name.clone())),
            Some(its)
                if its.protocol_version == ProtocolVersion::Grpc && listener.protocol == Protocol::Http =>
            {
                return place.refuse(Problem::GrpcToPlain(group.name.clone()));
            }
            Some(_) => {}
        }
    }
    forward
        .stickiness_s
        .map_or(Ok(()), |duration| place.field("stickiness_s").range(duration, 1, WEEK_S.into()))
}

fn redirect(redirect: &Redirect, listener: &Listener, place: &Place) -> Checked {
    let Redirect { protocol, host, port, path, query, status } = redirect;
    if !["HTTP", "HTTPS", "#{protocol}"].contains(&protocol.as_str()) {
        let allowed = "HTTP, HTTPS and #{protocol}";
        return place.field("protocol").refuse(Problem::Choice { value: protocol.clone(), allowed });
    }
    template(host, 1, "#{host}", "A-Z, a-z, 0-9, - and .", &place.field("host"), |char| {
        char.is_ascii_alphanumeric() || "-.".contains(char)
    })?;
    if port != "#{port}" && !port.parse::<u16>().is_ok_and(|number| number.to_string() == *port && number > 0)
    {
        let allowed = "1 to 65535 and #{port}";
        return place.field("port").refuse(Problem::Choice { value: port.clone(), allowed });
    }
    let graphic = "printable ASCII without spaces";
    let is_graphic = |char: char| char.is_ascii_graphic();
    template(path, 1, "#{host}, #{path}, #{port}", graphic, &place.field("path"), is_graphic)?;
    if !path.starts_with('/') {
        return place.field("path").refuse(Problem::NotAbsolute(path.clone()));
    }
    let any = "#{protocol}, #{host}, #{port}, #{path}, #{query}";
    template(query, 0, any, graphic, &place.field("query"), is_graphic)?;
    if ![301, 302].contains(status) {
        let allowed = "301 and 302";
        return place.field("status").refuse(Problem::Choice { value: status.to_string(), allowed });
    }
    let own = match listener.protocol {
        Protocol::Http => "HTTP",
        Protocol::Https => "HTTPS",
    };
    if own == "HTTPS" && protocol == "HTTP" {
        return place.refuse(Problem::RedirectToPlain);
    }
    let is_same = (protocol == "#{protocol}" || protocol == own)
        && host == "#{host}"
        && (port == "#{port}" || *port == listener.address.port().to_string())
        && path == "/#{path}";
    if is_same { place.refuse(Problem::RedirectLoop) } else { Ok(()) }
}

/// A part of a redirect's URL, in which the keywords of the list `keywords` may stand.
fn template(
    text: &str,
    min: usize,
    keywords: &'static str,
    allowed: &'static str,
    place: &Place,
    is_allowed: impl Fn(char) -> bool,
) -> Checked {
    place.text(text, min, 128, "printable ASCII", |char| matches!(char, ' '..='~'))?;
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once("#{") {
        place.text(literal, 0, 128, allowed, &is_allowed)?;
        let (name, after) =
            after.split_inclusive('}').next().map_or(("", ""), |name| after.split_at(name.len()));
        let keyword = format!("#{{{name}");
        if !keywords.split(", ").any(|known| known == keyword) {
            return place.refuse(Problem::Keyword { keyword, allowed: keywords });
        }
        rest = after;
    }
    place.text(rest, 0, 128, allowed, is_allowed)
}

fn fixed_response(response: &FixedResponse, place: &Place) -> Checked {
    if !matches!(response.status / 100, 2 | 4 | 5) {
        let value = response.status.to_string();
        return place.field("status").refuse(Problem::Choice { value, allowed: "2xx, 4xx and 5xx" });
    }
    let length = response.body.len();
    if length > 1024 {
        return place.field("body").refuse(Problem::Length { length, min: 0, max: 1024 });
    }
    match &response.content_type {
        Some(value) if !CONTENT_TYPES.contains(&value.as_str()) => {
            let allowed = "text/plain, text/css, text/html, application/javascript and application/json";
            place.field("content_type").refuse(Problem::Choice { value: value.clone(), allowed })
        }
        _ => Ok(()),
    }
}

fn target_group(group: &TargetGroup, place: &Place) -> Checked {
    place.field("deregistration_delay_s").range(group.deregistration_delay_s, 0, 3600)?;
    if group.slow_start_s != 0 {
        let place = place.field("slow_start_s");
        if !(30..=900).contains(&group.slow_start_s) {
            return place.refuse(Problem::RangeOrZero {
                value: group.slow_start_s.into(),
                min: 30,
                max: 900,
            });
        }
        if group.algorithm != Algorithm::RoundRobin {
            return place.refuse(Problem::SlowStart);
        }
    }
    let targets = group.targets.iter().map(|target| format!("{}:{}", target.id, target.port));
    unique(targets, |at| place.item("targets", at))?;
    for (at, target) in group.targets.iter().enumerate() {
        place.item("targets", at).field("port").range(target.port, 1, 65535)?;
    }
    if let Some(one) = &group.stickiness {
        stickiness(one, &place.field("stickiness"))?;
    }
    health_check(&group.health_check, group.protocol_version, &place.field("health_check"))
}

fn stickiness(stickiness: &Stickiness, place: &Place) -> Checked {
    let duration_s = match stickiness {
        Stickiness::LbCookie { duration_s } => duration_s,
        Stickiness::AppCookie { name, duration_s } => {
            let place = place.field("app_cookie.name");
            place.text(name, 1, 256, "a token's characters (RFC 6265, 4.1.1)", is_token)?;
            // The prefix of all of its own: AWSALB, AWSALBTG and AWSALBAPP.
            if name.starts_with("AWSALB") {
                return place.refuse(Problem::ReservedCookie(name.clone()));
            }
            duration_s
        }
    };
    place.field("duration_s").range(*duration_s, 1, WEEK_S.into())
}

fn health_check(check: &HealthCheck, version: ProtocolVersion, place: &Place) -> Checked {
    if let Some(port) = check.port {
        place.field("port").range(port, 1, 65535)?;
    }
    let path = place.field("path");
    let asked = check.path(version);
    path.text(asked, 1, 1024, "printable ASCII without spaces", |char| char.is_ascii_graphic())?;
    if !asked.starts_with('/') {
        return path.refuse(Problem::NotAbsolute(asked.to_owned()));
    }
    place.field("interval_s").range(check.interval_s, 5, 300)?;
    place.field("timeout_s").range(check.timeout_s, 2, 120)?;
    if check.timeout_s >= check.interval_s {
        let (timeout_s, interval_s) = (check.timeout_s, check.interval_s);
        return place.field("timeout_s").refuse(Problem::Timeout { timeout_s, interval_s });
    }
    place.field("healthy_threshold").range(check.healthy_threshold, 2, 10)?;
    place.field("unhealthy_threshold").range(check.unhealthy_threshold, 2, 10)?;
    match check.matcher(version) {
        Ok(_) => Ok(()),
        Err(problem) => place.field("matcher").refuse(problem.into()),
    }
}

#[cfg(test)]
mod tests;
