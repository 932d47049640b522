//! Why Auto Scaling refuses: nearly always a `ValidationError`, told apart by its message.

use std::fmt::Display;

use aws::Error;
use types::InstanceId;

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new("ValidationError", message)
}

/// What AWS does and nimbo does not.
pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new("UnsupportedOperation", message)
}

/// A value of a member that breaks a rule.
pub(super) fn constraint(value: impl Display, member: &str, rule: impl Display) -> Error {
    invalid(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {rule}"
    ))
}

/// A number that counts something.
///
/// # Errors
/// When it is negative.
pub(super) fn natural(value: i32, member: &str) -> Result<u32, Error> {
    u32::try_from(value)
        .map_err(|_| constraint(value, member, "Member must have value greater than or equal to 0"))
}

pub(super) fn no_group(name: &str) -> Error {
    invalid(format!("AutoScalingGroup name not found - AutoScalingGroup '{name}' not found"))
}

pub(super) fn not_in_group(instance: impl Display, group: &str) -> Error {
    invalid(format!("The instance {instance} is not part of Auto Scaling group {group}."))
}

pub(super) fn wrong_state(instance: InstanceId, wanted: &str) -> Error {
    invalid(format!("The instance {instance} is not in {wanted}."))
}

/// An instance's id, as a client wrote it.
///
/// # Errors
/// When it is none.
pub(super) fn instance_id(text: &str) -> Result<InstanceId, Error> {
    text.parse().map_err(|_| invalid(format!("Invalid Instance ID - '{text}'")))
}
