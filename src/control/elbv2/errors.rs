//! Why ELBv2 refuses: the one place where its error codes are.
//!
//! Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/>, the errors of each operation.

use aws::Error;
use balancer::config::ConfigError;

pub(super) fn validation(why: impl Into<String>) -> Error {
    Error::new("ValidationError", why)
}

pub(super) fn configuration(why: impl Into<String>) -> Error {
    Error::new("InvalidConfigurationRequest", why)
}

/// What AWS does and nimbo does not.
pub(super) fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new("UnsupportedOperation", format!("nimbo does not serve {what}."))
}

pub(super) fn not_permitted(why: impl Into<String>) -> Error {
    Error::new("OperationNotPermitted", why)
}

pub(super) fn in_use(why: impl Into<String>) -> Error {
    Error::new("ResourceInUse", why)
}

/// There are as many as there may be.
pub(super) fn too_many(code: &'static str, what: &str, max: usize) -> Error {
    Error::new(code, format!("The limit of {max} {what} has been reached."))
}

/// What cannot be served, as who would serve it says.
pub(super) fn refused(error: &ConfigError) -> Error {
    let ConfigError { place, problem } = error;
    // What is checked has one listener, one rule or one group.
    let place = ["listeners[0].", "rules[0]."]
        .into_iter()
        .fold(place.as_str(), |place, outer| place.strip_prefix(outer).unwrap_or(place));
    let place = place
        .strip_prefix("target_groups.")
        .and_then(|rest| rest.split_once('.'))
        .map_or(place, |(_, rest)| rest);
    let code = if place.contains("action") { "InvalidLoadBalancerAction" } else { "ValidationError" };
    Error::new(code, format!("{place}: {problem}"))
}
