//! Zones that fail and recover because somebody says so: what AWS's API has no operation for.
//!
//! | request | is |
//! | --- | --- |
//! | `POST /_nimbo/zones/NAME` with `{"state": "failed"}` or `{"state": "available"}` | the zone is so when it answers |
//!
//! Requests are signed as those of AWS's API are, for any service and region, by anybody who has an access key: whoever has one can end all
//! instances of their account anyway, and the others are guests on the same machine.

use std::sync::Arc;

use aws::answer::Answer;
use aws::api::Api;
use aws::request::Request;
use control::plane::Plane;
use control::zones::{self, ZoneState};
use serde::Deserialize;
use serde_json::json;
use types::Zone;

use super::front::{answer, caller, refusal};

/// What paths of this begin with.
pub(crate) const PATH: &str = "/_nimbo/zones/";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    state: Word,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Available,
    Failed,
}

/// Answers a request whose path begins with [`PATH`].
pub(super) async fn respond(api: &Api<Arc<Plane>>, request: &Request<'_>) -> Answer {
    if let Err(refused) = caller(api, request) {
        return refused;
    }
    if request.method != "POST" {
        return refusal(405, "MethodNotAllowed", "A zone is changed by POST.");
    }
    let name = request.path.strip_prefix(PATH).unwrap_or_default();
    let Ok(zone) = name.parse::<Zone>() else {
        return refusal(404, "NotFound", &format!("There is no availability zone {name:?}."));
    };
    let state = match serde_json::from_slice(request.body) {
        Ok(Wanted { state: Word::Available }) => ZoneState::Available,
        Ok(Wanted { state: Word::Failed }) => ZoneState::Failed,
        Err(error) => {
            let why =
                format!("The body is {{\"state\": \"failed\"}} or {{\"state\": \"available\"}}: {error}.");
            return refusal(400, "InvalidParameterValue", &why);
        }
    };
    match zones::set(&api.context, zone, state).await {
        Ok(()) => answer(200, &json!({})),
        Err(error) => refusal(error.status, &error.code, &error.message),
    }
}
