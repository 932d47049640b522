//! What instances are told that is to become of them: what AWS's API has no operation for.
//!
//! | request | is |
//! | --- | --- |
//! | `POST /_nimbo/notices/INSTANCE` with a [`Wanted`] | what the instance has been told in all, as [`InstanceNotices`] |
//!
//! Requests are signed as those of AWS's API are, for any service and region, by the account that has the instance.

use std::sync::Arc;

use aws::answer::Answer;
use aws::api::Api;
use aws::request::Request;
use control::notices::{self, Notice};
use control::plane::Plane;
use control::records::{InstanceNotices, Interruption};
use jiff::Timestamp;
use serde_json::json;
use types::InstanceId;

use super::front::{answer, caller, refusal};
use crate::notice::Wanted;

/// What paths of this begin with.
pub(crate) const PATH: &str = "/_nimbo/notices/";

/// Answers a request whose path begins with [`PATH`].
pub(super) async fn respond(api: &Api<Arc<Plane>>, request: &Request<'_>) -> Answer {
    let account = match caller(api, request) {
        Ok(account) => account,
        Err(refused) => return refused,
    };
    if request.method != "POST" {
        return refusal(405, "MethodNotAllowed", "Notices are given and asked for by POST.");
    }
    let name = request.path.strip_prefix(PATH).unwrap_or_default();
    let Ok(id) = name.parse::<InstanceId>() else {
        return refusal(404, "NotFound", &format!("There is no instance {name:?}."));
    };
    let wanted: Wanted = match serde_json::from_slice(request.body) {
        Ok(wanted) => wanted,
        Err(error) => {
            return refusal(400, "InvalidParameterValue", &format!("The body is no notice: {error}."));
        }
    };
    let plane = &api.context;
    let now = plane.ledger.now();
    let outcome: Result<InstanceNotices, _> = match wanted {
        Wanted::List => notices::list(plane, account, id).await,
        Wanted::Clear => notices::clear(plane, account, id).await,
        Wanted::Rebalance => notices::give(plane, account, id, Notice::Rebalance).await,
        Wanted::SpotInterruption { action, at } => {
            let interruption = Interruption { action, at: in_whole_seconds(at.after(now)) };
            notices::give(plane, account, id, Notice::Interruption(interruption)).await
        }
        Wanted::Event { code, not_before } => {
            let not_before = in_whole_seconds(not_before.after(now));
            notices::give(plane, account, id, Notice::Event { code, not_before }).await
        }
    };
    match outcome {
        Ok(notices) => answer(200, &json!(notices)),
        Err(error) => refusal(error.status, &error.code, &error.message),
    }
}

/// As a guest is told it: what it reads is when it happens.
fn in_whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
