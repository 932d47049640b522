//! Why an Auto Scaling group is as it is: what AWS tells in activities, and what is decided right now.
//!
//! | request | is |
//! | --- | --- |
//! | `POST /_nimbo/explain` with a [`Question`] | an [`Explanation`](control::autoscaling::Explanation) |
//!
//! Requests are signed as those of AWS's API are, for any service and region; the group is one of the account's own.

use std::sync::Arc;

use aws::answer::Answer;
use aws::api::Api;
use aws::request::Request;
use control::autoscaling;
use control::plane::Plane;
use control::state::{Space, View};
use serde_json::json;

use super::front::{answer, caller, refusal};
use crate::explain::Question;

pub(crate) const PATH: &str = "/_nimbo/explain";

/// Answers a request for [`PATH`].
pub(super) async fn respond(api: &Api<Arc<Plane>>, request: &Request<'_>) -> Answer {
    let account = match caller(api, request) {
        Ok(account) => account,
        Err(refused) => return refused,
    };
    if request.method != "POST" {
        return refusal(405, "MethodNotAllowed", "What is decided about a group is asked by POST.");
    }
    let question: Question = match serde_json::from_slice(request.body) {
        Ok(question) => question,
        Err(error) => {
            return refusal(400, "InvalidParameterValue", &format!("The body is no question: {error}."));
        }
    };
    let ledger = &api.context.ledger;
    let (now, space) = (ledger.now(), Space { account, region: question.region });
    let (told, as_of) =
        ledger.read(|state| autoscaling::explain(View::new(state, space, now), &question.asg));
    if ledger.settled(as_of).await.is_err() {
        return refusal(503, "Unavailable", "The server ends.");
    }
    match told {
        Some(told) => answer(200, &json!(told)),
        None => {
            let message =
                format!("There is no Auto Scaling group {:?} in {}.", question.asg, question.region);
            refusal(404, "NotFound", &message)
        }
    }
}
