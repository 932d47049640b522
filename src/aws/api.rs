//! Requests to answers: which service and protocol a request speaks, who sent it, what it wants.
//!
//! The service is that of the credential scope: clients of all services come to one address. The protocol is told by headers and
//! path, among those that the service has. Nothing of the input is read before the signature is verified.

mod guess;
mod rest;

use std::fmt;

use crate::answer::{self, Answer};
use crate::error::Error;
use crate::node::{Node, NodeError};
use crate::query::{self, Param};
use crate::request::{Request, RequestId};
use crate::service::{Protocol, Service};
use crate::sigv4::{Claim, Verifier};
use crate::table::{Exchange, Reply, Table};
use crate::{cbor, json};

/// All that answers a request.
pub struct Api<C> {
    pub table: Table<C>,
    pub verifier: Verifier,
    /// Handlers get a clone of it.
    pub context: C,
}

impl<C> fmt::Debug for Api<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("table", &self.table).finish_non_exhaustive()
    }
}

/// What a request wants: the name of an operation, and its input.
type Wanted<'a> = (String, Node<'a>);

impl<C: Clone + Send + 'static> Api<C> {
    /// Answers `request`, whatever it is.
    pub async fn answer(&self, request: &Request<'_>) -> Answer {
        match self.reply(request) {
            Reply::Now(answer) => answer,
            Reply::Later(future) => future.await,
        }
    }

    /// All that is done with the request itself; what is left does not need it.
    pub fn reply(&self, request: &Request<'_>) -> Reply {
        let request_id = RequestId::generate();
        let failed = |service, protocol, error: &Error| {
            Reply::Now(answer::failure(service, protocol, request_id, error))
        };
        let claim = match Claim::of(request) {
            Ok(claim) => claim,
            Err(denied) => {
                let (service, protocol) = guess::speech(self.table.services(), request);
                return failed(service, protocol, &denied.error(protocol));
            }
        };
        let Some(service) = self.table.services().find(|service| service.signing_name == claim.service())
        else {
            let (_, protocol) = guess::speech(std::iter::empty(), request);
            let name: String = claim.service().chars().take(100).collect();
            let error =
                Error::new("UnsupportedOperation", format!("nimbo does not serve the service {name}."));
            return failed(None, protocol, &error);
        };
        let protocol = guess::protocol(service, request);
        let caller = match self.verifier.verify(request, &claim) {
            Ok(caller) => caller,
            Err(denied) => return failed(Some(service), protocol, &denied.error(protocol)),
        };
        let exchange = Exchange { protocol, caller, request_id };
        let reply = self
            .wanted(service, protocol, request)
            .and_then(|(name, input)| self.table.run(service, &name, self.context.clone(), &input, exchange));
        reply.unwrap_or_else(|error| failed(Some(service), protocol, &error))
    }

    /// The answer to a request of which no more than the head is known, because of `error`.
    pub fn refuse(&self, request: &Request<'_>, error: &Error) -> Answer {
        let service = Claim::of(request)
            .ok()
            .and_then(|claim| self.table.services().find(|service| service.signing_name == claim.service()));
        let (service, protocol) = match service {
            Some(service) => (Some(service), guess::protocol(service, request)),
            None => guess::speech(self.table.services(), request),
        };
        answer::failure(service, protocol, RequestId::generate(), error)
    }

    fn wanted<'a>(
        &self,
        service: &'static Service,
        protocol: Protocol,
        request: &Request<'a>,
    ) -> Result<Wanted<'a>, Error> {
        match protocol {
            Protocol::Ec2 | Protocol::Query => of_query(service, protocol, request),
            Protocol::Json => {
                let target = request.header("x-amz-target").unwrap_or_default();
                let name = target.strip_prefix(service.target_prefix).and_then(|rest| rest.strip_prefix('.'));
                let name = name.unwrap_or(target);
                Ok((name.to_owned(), json::parse(request.body).map_err(serialization)?))
            }
            Protocol::RestJson => rest::wanted(self.table.operations(service), service, request),
            Protocol::Cbor => {
                let name = request.path.rsplit('/').next().unwrap_or_default();
                Ok((name.to_owned(), cbor::parse(request.body).map_err(serialization)?))
            }
        }
    }
}

fn serialization(error: NodeError) -> Error {
    Error::new("SerializationException", format!("The body cannot be read: {error}."))
}

/// A query has its operation and the version of its API beside the input, and those of its signature if it is presigned.
fn of_query<'a>(service: &Service, protocol: Protocol, request: &Request<'a>) -> Result<Wanted<'a>, Error> {
    let malformed = |error: NodeError| match error {
        NodeError::Twice(_) | NodeError::Both(_) => Error::new("InvalidParameterValue", format!("{error}.")),
        _ => Error::new("MalformedQueryString", format!("The query string cannot be read: {error}.")),
    };
    let mut params = Vec::new();
    query::parse(request.query.as_bytes(), &mut params).map_err(malformed)?;
    query::parse(request.body, &mut params).map_err(malformed)?;
    let (mut action, mut version) = (None, None);
    params.retain_mut(|Param { name, value }| match &**name {
        "Action" if action.is_none() => {
            action = Some(std::mem::take(value).into_owned());
            false
        }
        "Version" if version.is_none() => {
            version = Some(std::mem::take(value).into_owned());
            false
        }
        name => !name.starts_with("X-Amz-"),
    });
    let action = action.ok_or_else(|| {
        let message = "The request is missing an action or a required parameter.";
        Error::new("MissingAction", message)
    })?;
    match version {
        Some(version) if version == service.version => {}
        Some(version) => {
            let version: String = version.chars().take(40).collect();
            let (code, message) = match protocol {
                Protocol::Ec2 => (
                    "NoSuchVersion",
                    format!("The requested version ({version}) of service AmazonEC2 does not exist"),
                ),
                _ => (
                    "InvalidAction",
                    format!("Could not find operation {} for version {version}", shown(&action)),
                ),
            };
            return Err(Error::new(code, message));
        }
        None => return Err(Error::new("MissingParameter", "The request must contain the parameter Version")),
    }
    Ok((action, query::tree(params).map_err(malformed)?))
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}
