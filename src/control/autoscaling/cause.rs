//! Why an activity began, in AWS's words.
//!
//! Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-verify-scaling-activity.html>.

use jiff::Timestamp;
use types::InstanceId;

use super::decide::Rule;
use crate::records::CapacityChange;

/// A moment as causes have it.
pub(super) fn time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sentences, each with its time.
fn told(change: Option<&CapacityChange>, rest: &[(Timestamp, String)]) -> String {
    let change = change.map(|change| (change.at, change.why.clone()));
    let sentences = change.iter().chain(rest).map(|(at, what)| format!("At {} {what}.", time(*at)));
    sentences.collect::<Vec<_>>().join("  ")
}

/// Of a launch.
pub(super) fn of_launch(change: Option<&CapacityChange>, rule: &Rule, now: Timestamp) -> String {
    let sentence = match rule {
        Rule::Below { actual, wanted } => format!(
            "an instance was started in response to a difference between desired and actual capacity, increasing the capacity from {actual} to {wanted}"
        ),
        Rule::Unbalanced { crowded } => {
            let zones: Vec<String> = crowded.iter().map(|(zone, _)| zone.to_string()).collect();
            let counts: Vec<String> = crowded.iter().map(|(_, count)| count.to_string()).collect();
            format!(
                "availability zones {} had {} instances respectively. An instance was launched to aid in balancing the group's zones",
                zones.join(" "),
                counts.join(" ")
            )
        }
        _ => {
            "an instance was launched in response to an unhealthy instance needing to be replaced".to_owned()
        }
    };
    told(change, &[(now, sentence)])
}

/// Of a termination.
pub(super) fn of_retirement(
    change: Option<&CapacityChange>,
    rule: &Rule,
    instance: InstanceId,
    now: Timestamp,
) -> String {
    let by = |why: &str| {
        told(None, &[(now, format!("an instance was taken out of service in response to {why}"))])
    };
    match rule {
        Rule::Above { actual, wanted } => selected(change, *actual, *wanted, instance, now),
        Rule::Deleting { actual } => selected(change, *actual, 0, instance, now),
        Rule::Impaired => by("an EC2 instance status checks failure"),
        Rule::SaidUnhealthy => by("a user health-check"),
        Rule::TooOld { .. } => {
            by("a requirement to replace instances that exceed the group's maximum instance lifetime")
        }
        Rule::Abandoned { token } => by(&format!("the lifecycle action with token {token} being abandoned")),
        _ => by("an EC2 health check indicating it has been terminated or stopped"),
    }
}

fn selected(
    change: Option<&CapacityChange>,
    actual: u32,
    wanted: u32,
    instance: InstanceId,
    now: Timestamp,
) -> String {
    let why = format!(
        "an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity from {actual} to {wanted}"
    );
    told(change, &[(now, why), (now, format!("instance {instance} was selected for termination"))])
}

/// Of what a user asked for, with what that made of the size.
pub(super) fn of_request(
    instance: InstanceId,
    what: &str,
    size: Option<(u32, u32)>,
    now: Timestamp,
) -> String {
    let resized = size.map_or_else(String::new, |(from, to)| {
        let way = if to < from { "shrinking" } else { "increasing" };
        format!(", {way} the capacity from {from} to {to}")
    });
    told(None, &[(now, format!("instance {instance} was {what} in response to a user request{resized}"))])
}
