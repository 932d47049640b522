//! Which operations are served, and by what.
//!
//! A table is built once, operation by operation. For each, it holds what decodes the input, answers a dry run, calls the handler and encodes the
//! output.
//!
//! ```
//! use aws::{Call, Error, Table, sts};
//!
//! fn identity(
//!     _: (),
//!     call: Call<sts::GetCallerIdentityRequest>,
//! ) -> Result<sts::GetCallerIdentityResponse, Error> {
//!     let account = Some(call.caller.account.to_string());
//!     Ok(sts::GetCallerIdentityResponse { account, ..Default::default() })
//! }
//!
//! let table = Table::new().serve_now::<sts::GetCallerIdentity>(identity);
//! assert_eq!(table.coverage()[0].operations["GetCallerIdentity"], true);
//! assert_eq!(table.coverage()[0].operations["AssumeRole"], false);
//! ```
//!
//! What a table does not hold is told apart: what the service has and nimbo does not serve, and what the service does not have either.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::answer::{self, Answer};
use crate::decode::Decode as _;
use crate::error::Error;
use crate::member::ANY;
use crate::node::Node;
use crate::request::RequestId;
use crate::service::{Info, Operation, Protocol, Service};
use crate::sigv4::Caller;

/// What a handler is given.
#[derive(Debug)]
pub struct Call<I> {
    pub input: I,
    pub caller: Caller,
    pub request_id: RequestId,
}

/// What carries out an operation in its own time. Functions of a context and a [`Call`] are this.
pub trait Handler<C, O: Operation>: Send + Sync + 'static {
    fn handle(
        &self,
        context: C,
        call: Call<O::Input>,
    ) -> impl Future<Output = Result<O::Output, Error>> + Send + 'static;
}

impl<C, O, H, F> Handler<C, O> for H
where
    O: Operation,
    H: Fn(C, Call<O::Input>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<O::Output, Error>> + Send + 'static,
{
    fn handle(
        &self,
        context: C,
        call: Call<O::Input>,
    ) -> impl Future<Output = Result<O::Output, Error>> + Send + 'static {
        self(context, call)
    }
}

/// What is known of a request before its input is read.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub protocol: Protocol,
    pub caller: Caller,
    pub request_id: RequestId,
}

/// An answer, or what will give one.
pub enum Reply {
    Now(Answer),
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

type Run<C> = Box<dyn Fn(C, &Node<'_>, Exchange) -> Reply + Send + Sync>;

struct Served<C> {
    info: &'static Info,
    run: Run<C>,
}

struct Entry<C> {
    service: &'static Service,
    served: BTreeMap<&'static str, Served<C>>,
}

/// The operations that are served, with contexts `C`.
pub struct Table<C> {
    entries: Vec<Entry<C>>,
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<C> fmt::Debug for Table<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.coverage()).finish()
    }
}

/// What of a service is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    pub service: &'static str,
    /// All operations of the service by name, and whether they are served.
    pub operations: BTreeMap<&'static str, bool>,
}

impl<C: Send + 'static> Table<C> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `handler` carry out `O`, instead of one that did before.
    #[must_use]
    pub fn serve<O: Operation>(self, handler: impl Handler<C, O>) -> Self {
        self.with::<O>(Box::new(move |context, node, exchange| {
            let (call, protocol) = match read::<O>(node, exchange) {
                Ok(read) => read,
                Err(answer) => return Reply::Now(*answer),
            };
            let request_id = call.request_id;
            let future = handler.handle(context, call);
            Reply::Later(Box::pin(async move { write::<O>(protocol, request_id, future.await) }))
        }))
    }

    /// As [`Table::serve`], for a handler that never waits.
    #[must_use]
    pub fn serve_now<O: Operation>(
        self,
        handler: impl Fn(C, Call<O::Input>) -> Result<O::Output, Error> + Send + Sync + 'static,
    ) -> Self {
        self.with::<O>(Box::new(move |context, node, exchange| {
            Reply::Now(match read::<O>(node, exchange) {
                Ok((call, protocol)) => {
                    let request_id = call.request_id;
                    write::<O>(protocol, request_id, handler(context, call))
                }
                Err(answer) => *answer,
            })
        }))
    }

    fn with<O: Operation>(mut self, run: Run<C>) -> Self {
        let info = O::INFO;
        let served = (info.name, Served { info, run });
        match self.entries.iter_mut().find(|entry| std::ptr::eq(entry.service, info.service)) {
            Some(entry) => {
                entry.served.insert(served.0, served.1);
            }
            None => self.entries.push(Entry { service: info.service, served: BTreeMap::from([served]) }),
        }
        self
    }
}

impl<C> Table<C> {
    /// Each service of which anything is served, with all its operations.
    pub fn coverage(&self) -> Vec<Coverage> {
        let of = |entry: &Entry<C>| {
            let typed = entry.service.operations.iter().map(|info| info.name);
            let names = typed.chain(entry.service.unserved.iter().copied());
            let operations = names.map(|name| (name, entry.served.contains_key(name))).collect();
            Coverage { service: entry.service.id, operations }
        };
        self.entries.iter().map(of).collect()
    }

    pub fn services(&self) -> impl Iterator<Item = &'static Service> {
        self.entries.iter().map(|entry| entry.service)
    }

    /// The operations of `service` that are served.
    pub(crate) fn operations(&self, service: &'static Service) -> impl Iterator<Item = &'static Info> {
        let entry = self.entries.iter().find(move |entry| std::ptr::eq(entry.service, service));
        entry.into_iter().flat_map(|entry| entry.served.values().map(|served| served.info))
    }

    /// Carries out the operation `name` of `service` with the input `node`.
    ///
    /// # Errors
    /// When it is not served. All else that may be wrong is an answer.
    pub fn run(
        &self,
        service: &'static Service,
        name: &str,
        context: C,
        node: &Node<'_>,
        exchange: Exchange,
    ) -> Result<Reply, Error> {
        let entry = self.entries.iter().find(|entry| std::ptr::eq(entry.service, service));
        match entry.and_then(|entry| entry.served.get(name)) {
            Some(served) => Ok((served.run)(context, node, exchange)),
            None => Err(not_served(service, name, exchange.protocol)),
        }
    }
}

/// The error for an operation that is not in the table.
pub(crate) fn not_served(service: &Service, name: &str, protocol: Protocol) -> Error {
    let is_known =
        service.unserved.contains(&name) || service.operations.iter().any(|info| info.name == name);
    let name: String = name.chars().take(100).collect();
    match (is_known, protocol.is_query()) {
        (true, true) => Error::new(
            "UnsupportedOperation",
            format!("nimbo does not serve the operation {name} of {}.", service.id),
        ),
        (true, false) => Error::new(
            "UnsupportedOperationException",
            format!("nimbo does not serve the operation {name} of {}.", service.id),
        ),
        (false, true) => {
            Error::new("InvalidAction", format!("The action {name} is not valid for this web service."))
        }
        (false, false) => {
            Error::new("UnknownOperationException", format!("{} has no operation {name}.", service.id))
        }
    }
}

/// The input as a call; or the answer, if it is not one or the caller only asks whether it would be.
fn read<O: Operation>(
    node: &Node<'_>,
    exchange: Exchange,
) -> Result<(Call<O::Input>, Protocol), Box<Answer>> {
    let Exchange { protocol, caller, request_id } = exchange;
    let failed = |error| Box::new(answer::failure(Some(O::INFO.service), protocol, request_id, &error));
    let wire = protocol.wire();
    let input = O::Input::decode(node, ANY, wire).map_err(|malformed| failed(malformed.error(wire)))?;
    if O::is_dry_run(&input) {
        let message = "Request would have succeeded, but DryRun flag is set.";
        return Err(failed(Error::new("DryRunOperation", message)));
    }
    Ok((Call { input, caller, request_id }, protocol))
}

fn write<O: Operation>(
    protocol: Protocol,
    request_id: RequestId,
    result: Result<O::Output, Error>,
) -> Answer {
    match result {
        Ok(output) => answer::success(O::INFO, protocol, request_id, &output),
        Err(error) => answer::failure(Some(O::INFO.service), protocol, request_id, &error),
    }
}
