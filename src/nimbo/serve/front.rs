//! What the server answers besides AWS's API: what it is, [zones that fail](super::zones), [notices to instances](super::notices), [what passes
//! in networks](super::why) and [what they drop](super::drops), [what is decided](super::explain), and, if it simulates, a way to begin anew. What it is, and that it begins
//! anew, is not signed.
//!
//! | request | is |
//! | --- | --- |
//! | `GET /_nimbo/server` | [`About`] the server |
//! | `POST /_nimbo/reset` | all accounts in all regions are as in the beginning when it answers; of a simulation only |
//! | `POST /_nimbo/zones/NAME` | a zone fails or recovers |
//! | `POST /_nimbo/notices/INSTANCE` | what an instance is told that is to become of it |
//! | `POST /_nimbo/drops` | how many packets networks have dropped, and why |
//! | `POST /_nimbo/why` | what passes a packet, or stops it |
//! | `POST /_nimbo/explain` | what is decided about an Auto Scaling group, and why |

use std::path::PathBuf;
use std::sync::Arc;

use aws::Error;
use aws::answer::Answer;
use aws::api::Api;
use aws::request::{Request, RequestId};
use aws::server::Respond;
use aws::service::Protocol;
use aws::sigv4::Claim;
use control::SeedImage;
use control::plane::Plane;
use control::ports::Networks;
use control::simulation::Simulation;
use serde_json::{Value, json};
use types::{AccountId, Region};

use super::{drops, explain, notices, why, zones};
use crate::client::{ABOUT_PATH, About};

const RESET_PATH: &str = "/_nimbo/reset";
const WHAT_THERE_IS: &str = "GET /_nimbo/server, and POST /_nimbo/reset, /_nimbo/zones/NAME, /_nimbo/notices/INSTANCE, /_nimbo/drops, /_nimbo/why and /_nimbo/explain are what there is.";

/// AWS's API, and what is beside it.
pub(super) struct Front {
    pub(super) api: Api<Arc<Plane>>,
    pub(super) region: Region,
    pub(super) state: Option<PathBuf>,
    /// None, if it simulates.
    pub(super) networks: Option<Arc<dyn Networks>>,
    pub(super) simulated: Option<Simulated>,
}

/// What a simulation begins with.
pub(super) struct Simulated {
    pub(super) host: Arc<Simulation>,
    pub(super) seeds: Vec<SeedImage>,
}

impl Front {
    fn about(&self) -> About {
        let (regions, _) = self.api.context.ledger.read(|state| {
            let spaces = state.spaces();
            let used =
                spaces.filter(|(_, tables)| tables.instances.iter().len() + tables.volumes.iter().len() > 0);
            let mut regions: Vec<_> = used.map(|(space, _)| space.region).collect();
            regions.sort_unstable();
            regions.dedup();
            regions
        });
        About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            is_simulated: self.simulated.is_some(),
            region: self.region,
            regions,
            state: self.state.clone(),
        }
    }

    async fn reset(&self, simulated: &Simulated) -> Result<(), Error> {
        let plane = &self.api.context;
        plane.reset().await?;
        let ((), as_of) = plane.ledger.read(|state| simulated.host.forget_unknown(state));
        plane.ledger.settled(as_of).await.map_err(|_| Error::internal())?;
        control::seed_images(plane, &simulated.seeds).await
    }

    async fn respond_itself(&self, request: &Request<'_>) -> Answer {
        match (request.method, request.path, &self.simulated) {
            (_, path, _) if path.starts_with(zones::PATH) => zones::respond(&self.api, request).await,
            (_, path, _) if path.starts_with(notices::PATH) => notices::respond(&self.api, request).await,
            (_, drops::PATH, _) => drops::respond(&self.api, self.networks.as_deref(), request).await,
            (_, why::PATH, _) => why::respond(&self.api, request).await,
            (_, explain::PATH, _) => explain::respond(&self.api, request).await,
            ("GET" | "HEAD", ABOUT_PATH, _) => answer(200, &json!(self.about())),
            // A page in somebody's browser shall not, and a browser says whose page it is.
            ("POST", RESET_PATH, Some(_)) if request.headers.contains_key("origin") => {
                refusal(403, "Forbidden", "A page in a browser may not reset the server.")
            }
            ("POST", RESET_PATH, Some(simulated)) => match self.reset(simulated).await {
                Ok(()) => answer(200, &json!({})),
                Err(error) => refusal(500, &error.code, &error.message),
            },
            ("POST", RESET_PATH, None) => refusal(
                403,
                "Forbidden",
                "Only a server that simulates can be reset: nimbo serve --simulate.",
            ),
            (_, ABOUT_PATH | RESET_PATH, _) => refusal(405, "MethodNotAllowed", WHAT_THERE_IS),
            _ => refusal(404, "NotFound", WHAT_THERE_IS),
        }
    }
}

/// The account that has signed a request, for any service and region.
///
/// # Errors
/// The refusal, if none has.
pub(super) fn caller(api: &Api<Arc<Plane>>, request: &Request<'_>) -> Result<AccountId, Answer> {
    let signed = Claim::of(request).and_then(|claim| api.verifier.verify(request, &claim));
    let caller = signed.map_err(|denied| denied.error(Protocol::RestJson));
    let account = caller.and_then(|caller| caller.account.parse().map_err(|_| Error::internal()));
    account.map_err(|error| refusal(error.status, &error.code, &error.message))
}

pub(super) fn answer(status: u16, body: &Value) -> Answer {
    let body = format!("{body}\n").into_bytes();
    let (content_type, request_id) = ("application/json", RequestId::generate());
    Answer { status, content_type, headers: Vec::new(), body, request_id }
}

pub(super) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    answer(status, &json!({ "error": { "code": code, "message": message } }))
}

impl Respond for Front {
    async fn respond(&self, request: &Request<'_>) -> Answer {
        if request.path.starts_with("/_nimbo/") {
            self.respond_itself(request).await
        } else {
            self.api.answer(request).await
        }
    }

    fn refuse(&self, request: &Request<'_>, error: &Error) -> Answer {
        self.api.refuse(request, error)
    }
}
