//! Which protocol a request speaks.

use crate::request::Request;
use crate::service::{Protocol, Service};

/// The protocol of a request to `service`.
pub fn protocol(service: &Service, request: &Request<'_>) -> Protocol {
    let spoken = spoken(request);
    let has = |protocol: &Protocol| match spoken {
        Spoken::Cbor => *protocol == Protocol::Cbor,
        Spoken::Target => *protocol == Protocol::Json,
        Spoken::Other => matches!(protocol, Protocol::Ec2 | Protocol::Query | Protocol::RestJson),
    };
    let first = service.protocols.first().copied().unwrap_or(Protocol::Query);
    service.protocols.iter().copied().find(has).unwrap_or(first)
}

/// In which form a request that says of no service that it is for it is told what is wrong.
pub fn speech(
    mut services: impl Iterator<Item = &'static Service>,
    request: &Request<'_>,
) -> (Option<&'static Service>, Protocol) {
    match spoken(request) {
        Spoken::Cbor => return (None, Protocol::Cbor),
        Spoken::Target => return (None, Protocol::Json),
        Spoken::Other => {}
    }
    if request.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return (None, Protocol::RestJson);
    }
    let names = |service: &&Service| {
        let version = format!("Version={}", service.version);
        memchr::memmem::find(request.query.as_bytes(), version.as_bytes()).is_some()
            || memchr::memmem::find(request.body, version.as_bytes()).is_some()
    };
    let service = services.find(names);
    (service, service.map_or(Protocol::Query, |service| protocol(service, request)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Cbor,
    /// By `X-Amz-Target`, which is JSON.
    Target,
    Other,
}

fn spoken(request: &Request<'_>) -> Spoken {
    if request.header("smithy-protocol") == Some("rpc-v2-cbor") {
        Spoken::Cbor
    } else if request.headers.contains_key("x-amz-target") {
        Spoken::Target
    } else {
        Spoken::Other
    }
}
