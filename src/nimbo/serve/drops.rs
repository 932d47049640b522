//! How many packets networks have dropped, and why.
//!
//! | request | is |
//! | --- | --- |
//! | `POST /_nimbo/drops` | [`Drops`] of the account's VPCs that have a network, in all regions |
//!
//! Requests are signed as those of AWS's API are, for any service and region.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws::answer::Answer;
use aws::api::Api;
use aws::request::Request;
use control::plane::Plane;
use control::ports::Networks;
use serde_json::json;

use super::front::{answer, caller, refusal};
use crate::drops::{Drops, VpcDrops};

pub(crate) const PATH: &str = "/_nimbo/drops";

/// Answers a request for [`PATH`].
pub(super) async fn respond(
    api: &Api<Arc<Plane>>,
    networks: Option<&dyn Networks>,
    request: &Request<'_>,
) -> Answer {
    let account = match caller(api, request) {
        Ok(account) => account,
        Err(refused) => return refused,
    };
    if request.method != "POST" {
        return refusal(405, "MethodNotAllowed", "What was dropped is asked by POST.");
    }
    let Some(networks) = networks else {
        return refusal(400, "UnsupportedOperation", "A server that simulates has no networks.");
    };
    let there: BTreeSet<_> = networks.vpcs().into_iter().collect();
    let (own, as_of) = api.context.ledger.read(|state| {
        let spaces = state.spaces().filter(|(space, _)| space.account == account);
        let vpcs =
            spaces.flat_map(|(space, tables)| tables.vpcs.iter().map(move |vpc| (space.region, vpc.id)));
        vpcs.filter(|(_, id)| there.contains(id)).collect::<Vec<_>>()
    });
    if api.context.ledger.settled(as_of).await.is_err() {
        return refusal(503, "Unavailable", "The server ends.");
    }
    let mut vpcs = Vec::new();
    for (region, vpc) in own {
        match networks.dropped(vpc).await {
            Ok(Some(dropped)) => {
                let dropped =
                    dropped.into_iter().map(|(reason, packets)| (reason.to_owned(), packets)).collect();
                vpcs.push(VpcDrops { region, vpc, dropped });
            }
            // It has none yet, or not any more.
            Ok(None) => {}
            Err(error) => return refusal(503, "Unavailable", &error.to_string()),
        }
    }
    answer(200, &json!(Drops { vpcs }))
}
