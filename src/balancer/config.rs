//! What a load balancer is to be, in the terms of ELBv2's API: the control plane writes it, and people for `nimbo balancer --config`.
//!
//! Numbers are seconds where a name ends in `_s`. What is left out has the default that AWS publishes. Ranges are checked by
//! [`LoadBalancer::check`], which is asked before any of it is used.

mod check;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::health::{Matcher, MatcherError};
pub use check::{ConfigError, Problem};

/// An Application Load Balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    pub listeners: Vec<Listener>,
    /// By their names, which actions use.
    pub target_groups: BTreeMap<String, TargetGroup>,
    #[serde(default)]
    pub attributes: Attributes,
    /// Where it is written down who asked what.
    #[serde(default)]
    pub access_log: Option<AccessLog>,
    /// The address from which targets are connected to. None: the kernel chooses.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

/// A line for each request, in AWS's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// Lines are added to what is in it.
    pub file: PathBuf,
    /// What the load balancer is called in it, such as `app/shop/50dc6c495c0c9188`.
    #[serde(default = "unnamed")]
    pub name: String,
}

fn unnamed() -> String {
    "-".to_owned()
}

/// Of the whole load balancer
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html#load-balancer-attributes>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attributes {
    /// 1 to 4000.
    pub idle_timeout_s: u32,
    /// How long a client's connection may be open without a request under way: 60 to 604800.
    pub client_keep_alive_s: u32,
    pub drop_invalid_header_fields: bool,
    pub preserve_host_header: bool,
    pub xff_header_processing: XffMode,
    /// `X-Forwarded-For` has the client's port, too.
    pub xff_client_port: bool,
    pub desync_mitigation_mode: DesyncMode,
    /// HTTP/2 is offered to clients of HTTPS.
    pub http2: bool,
    /// Targets are told how the client's connection is secured, by `X-Amzn-Tls-Version` and `X-Amzn-Tls-Cipher-Suite`.
    pub x_amzn_tls_version_and_cipher_suite: bool,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            idle_timeout_s: 60,
            client_keep_alive_s: 3600,
            drop_invalid_header_fields: false,
            preserve_host_header: false,
            xff_header_processing: XffMode::Append,
            xff_client_port: false,
            desync_mitigation_mode: DesyncMode::Defensive,
            http2: true,
            x_amzn_tls_version_and_cipher_suite: false,
        }
    }
}

/// What is done to `X-Forwarded-For`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XffMode {
    Append,
    Preserve,
    Remove,
}

/// What becomes of requests that two servers may understand differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesyncMode {
    Monitor,
    Defensive,
    Strictest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub address: SocketAddr,
    #[serde(default)]
    pub protocol: Protocol,
    /// Of HTTPS: which versions and suites clients may have, by AWS's name ([`crate::tls::POLICIES`]). None: [`crate::tls::DEFAULT`].
    #[serde(default)]
    pub security_policy: Option<String>,
    /// Of HTTPS, which needs one: the first is the default, and of the others one is taken that has the name that a client asks for.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// What becomes of a request for which no rule is.
    pub default_action: Action,
    /// In any order; of two that fit, the one with the lower priority is taken.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// In PEM, which stands here, or in a file of which the path stands here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate, and those of its issuers in their order.
    pub chain: String,
    /// In PKCS #8, PKCS #1 or SEC 1.
    pub key: String,
}

impl std::fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Certificate").field("chain", &self.chain).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// 1 to 50000, each of which one rule of a listener has.
    pub priority: u32,
    /// All must hold.
    pub conditions: Vec<Condition>,
    pub action: Action,
}

/// Holds if one of its values does
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/rule-condition-types.html>). In patterns `*` stands for any
/// characters, also none, `?` for one, and a backslash takes either's meaning away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// Case does not matter.
    HostHeader(Vec<String>),
    /// Of the path alone, without the query. Case matters.
    PathPattern(Vec<String>),
    /// Case does not matter, neither of the name nor of values.
    HttpHeader {
        name: String,
        values: Vec<String>,
    },
    /// Exactly; there are no patterns.
    HttpRequestMethod(Vec<String>),
    QueryString(Vec<QueryPattern>),
    /// Of the connection, not what `X-Forwarded-For` says.
    SourceIp(Vec<IpNet>),
}

/// A pair in the query. Case does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryPattern {
    /// None: any key.
    #[serde(default)]
    pub key: Option<String>,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    FixedResponse(FixedResponse),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// 1 to 5.
    pub target_groups: Vec<WeightedTargetGroup>,
    /// How long a client stays with the group that it was once given to: 1 to 604800.
    #[serde(default)]
    pub stickiness_s: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedTargetGroup {
    pub name: String,
    /// 0 to 999; with 0 it gets nothing.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// To another URL, which is this one but for what is said. `#{protocol}`, `#{host}`, `#{port}`, `#{path}` (without its first slash) and `#{query}` stand
/// for this one's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    #[serde(default = "same::protocol")]
    pub protocol: String,
    #[serde(default = "same::host")]
    pub host: String,
    #[serde(default = "same::port")]
    pub port: String,
    #[serde(default = "same::path")]
    pub path: String,
    #[serde(default = "same::query")]
    pub query: String,
    /// 301 or 302.
    pub status: u16,
}

mod same {
    pub(super) fn protocol() -> String {
        "#{protocol}".to_owned()
    }

    pub(super) fn host() -> String {
        "#{host}".to_owned()
    }

    pub(super) fn port() -> String {
        "#{port}".to_owned()
    }

    pub(super) fn path() -> String {
        "/#{path}".to_owned()
    }

    pub(super) fn query() -> String {
        "#{query}".to_owned()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedResponse {
    /// 2xx, 4xx or 5xx.
    pub status: u16,
    /// `text/plain`, `text/css`, `text/html`, `application/javascript` or `application/json`.
    #[serde(default)]
    pub content_type: Option<String>,
    /// 1024 bytes at most.
    #[serde(default)]
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetGroup {
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default)]
    pub protocol_version: ProtocolVersion,
    #[serde(default)]
    pub algorithm: Algorithm,
    #[serde(default)]
    pub targets: Vec<Target>,
    #[serde(default)]
    pub stickiness: Option<Stickiness>,
    /// A target that becomes healthy gets a growing share for so long: 30 to 900, or 0.
    #[serde(default)]
    pub slow_start_s: u32,
    /// How long a target that is taken away may still answer: 0 to 3600.
    #[serde(default = "deregistration_delay_s")]
    pub deregistration_delay_s: u32,
    #[serde(default)]
    pub health_check: HealthCheck,
}

fn deregistration_delay_s() -> u32 {
    300
}

/// What targets are asked in
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-target-groups.html#target-group-protocol-version>).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProtocolVersion {
    #[default]
    Http1,
    /// Only requests that came in HTTP/2.
    Http2,
    /// Only calls of gRPC.
    Grpc,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    #[default]
    RoundRobin,
    LeastOutstandingRequests,
    WeightedRandom,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// An instance's id, or an address.
    pub id: String,
    pub ip: IpAddr,
    pub port: u16,
    /// Where it is: with cross-zone balancing off, a load balancer's node keeps to its own zone.
    #[serde(default)]
    pub zone: Option<String>,
}

/// How a client stays with a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stickiness {
    /// By a cookie of the load balancer's, for 1 to 604800 s.
    LbCookie { duration_s: u32 },
    /// As long as the target's own cookie of this name is sent, and for 1 to 604800 s.
    AppCookie { name: String, duration_s: u32 },
}

/// When a target is healthy
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html>).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    pub protocol: Protocol,
    /// None: the one on which a target serves.
    pub port: Option<u16>,
    /// Of gRPC, the method that is called. Empty: `/`, or of gRPC `/AWS.ALB/healthcheck`.
    pub path: String,
    /// 5 to 300.
    pub interval_s: u32,
    /// 2 to 120.
    pub timeout_s: u32,
    /// 2 to 10.
    pub healthy_threshold: u32,
    /// 2 to 10.
    pub unhealthy_threshold: u32,
    /// Statuses that are a success: `200`, `200,202` or `200-299`; of gRPC its own. Empty: `200`, or of gRPC `12`, which says that the
    /// method is none.
    pub matcher: String,
}

impl HealthCheck {
    /// What is asked for.
    pub fn path(&self, version: ProtocolVersion) -> &str {
        match (self.path.as_str(), version) {
            ("", ProtocolVersion::Grpc) => "/AWS.ALB/healthcheck",
            ("", _) => "/",
            (path, _) => path,
        }
    }

    /// Which answers are a success.
    ///
    /// # Errors
    /// What is wrong with [`HealthCheck::matcher`].
    pub fn matcher(&self, version: ProtocolVersion) -> Result<Matcher, MatcherError> {
        match (self.matcher.as_str(), version) {
            ("", ProtocolVersion::Grpc) => Matcher::grpc("12"),
            ("", _) => Matcher::http("200"),
            (text, ProtocolVersion::Grpc) => Matcher::grpc(text),
            (text, _) => Matcher::http(text),
        }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http,
            port: None,
            path: String::new(),
            interval_s: 30,
            timeout_s: 5,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: String::new(),
        }
    }
}
