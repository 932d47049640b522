//! Requests that come again: with the same client token, what was made is told again, and nothing is made.
//!
//! Source: <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>.

use std::fmt::Debug;

use aws::Error;
use aws::service::Idempotent;
use jiff::SignedDuration;
use types::ResourceId;

use super::errors::no_resource;
use super::launch_template;
use crate::records::{ClientToken, Fingerprint, Instance, InstanceState, TokenId};
use crate::state::Transaction;

/// How long a token is remembered.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
const TOKEN_CHARS_MAX: usize = 64;

/// What `make` makes for this request, or what it made for one before with the same token.
///
/// # Errors
/// When the one before wanted something else, when what it made is gone, and those of `make`.
pub(super) fn once<O, Id>(
    tx: &mut Transaction<'_>,
    input: O::Input,
    make: impl FnOnce(&mut Transaction<'_>, O::Input) -> Result<Id, Error>,
) -> Result<Id, Error>
where
    O: Idempotent<Input: Debug>,
    Id: Into<ResourceId> + TryFrom<ResourceId> + Copy,
{
    let Some(token) = O::client_token(&input).filter(|token| !token.is_empty()) else {
        return make(tx, input);
    };
    if token.chars().count() > TOKEN_CHARS_MAX {
        let message = format!("The client token has more than {TOKEN_CHARS_MAX} characters.");
        return Err(Error::new("InvalidParameterValue", message));
    }
    let id = TokenId(Fingerprint::of(format!("{}/{token}", O::INFO.name).as_bytes()));
    let request = Fingerprint::of(format!("{input:?}").as_bytes());
    let is_fresh =
        |known: &&ClientToken| known.since.saturating_add(REMEMBERED).is_ok_and(|end| end > tx.now());
    if let Some(known) = tx.get::<ClientToken>(id).filter(is_fresh) {
        let made = Id::try_from(known.resource).ok().filter(|_| known.request == request);
        let made = made.ok_or_else(|| {
            let message = "The client token was used before, in a request with other parameters.";
            Error::new("IdempotentParameterMismatch", message)
        })?;
        let resource = known.resource;
        return if is_there(tx, resource) { Ok(made) } else { Err(gone(resource)) };
    }
    let made = make(tx, input)?;
    let since = tx.now();
    tx.put(ClientToken { id, request, resource: made.into(), since });
    Ok(made)
}

/// A reservation is there as long as one of its instances is.
fn is_there(tx: &Transaction<'_>, resource: ResourceId) -> bool {
    match resource {
        ResourceId::Reservation(_) => {
            let is_over = |instance: &Instance| matches!(instance.state, InstanceState::Terminated { .. });
            tx.tables().instances.linked_to(resource).any(|instance| !is_over(instance))
        }
        _ => tx.tables().hold(resource),
    }
}

/// It is not made again: the request was answered, and somebody did away with what it made.
fn gone(resource: ResourceId) -> Error {
    match resource {
        ResourceId::Reservation(_) => Error::new(
            "IdempotentInstanceTerminated",
            "The client token was used before, and the instances that were launched with it are terminated.",
        ),
        ResourceId::LaunchTemplate(template) => launch_template::not_found(template),
        _ => no_resource(resource),
    }
}
