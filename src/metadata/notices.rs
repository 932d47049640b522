//! What an instance is told that is to become of it, as AWS writes it.
//!
//! Sources: Amazon EC2 User Guide, "Spot Instance interruption notices", "EC2 instance rebalance recommendations", "View scheduled events".

use std::time::SystemTime;

use serde::Serialize;

use crate::identity::whole_seconds;
use crate::instance::{Event, Interruption};

/// As in `spot/instance-action`.
pub(crate) fn action(interruption: &Interruption) -> String {
    let time = whole_seconds(interruption.time);
    format!(r#"{{"action": "{}", "time": "{time}"}}"#, interruption.action)
}

/// As in `events/recommendations/rebalance`.
pub(crate) fn rebalance(told: SystemTime) -> String {
    format!(r#"{{"noticeTime": "{}"}}"#, whole_seconds(told))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownEvent<'a> {
    not_before: String,
    code: &'a str,
    description: &'a str,
    event_id: &'a str,
    state: &'a str,
}

/// As in `events/maintenance/scheduled` and `events/maintenance/history`.
pub(crate) fn events(events: &[Event]) -> String {
    let shown = events.iter().map(|event| ShownEvent {
        not_before: long_date(event.not_before),
        code: event.code,
        description: &event.description,
        event_id: &event.id,
        state: event.state,
    });
    // Strings always have a form in JSON.
    serde_json::to_string_pretty(&shown.collect::<Vec<_>>()).unwrap_or_default()
}

/// `21 Jan 2019 09:00:43 GMT`.
fn long_date(moment: SystemTime) -> String {
    let moment = jiff::Timestamp::try_from(moment).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%d %b %Y %H:%M:%S GMT").to_string()
}
