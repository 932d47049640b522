//! What passes a packet between two ends, or stops it, and the answer to it: what AWS's Reachability Analyzer is asked for.
//!
//! | request | is |
//! | --- | --- |
//! | `POST /_nimbo/why` with a [`Question`] | an [`Explanation`] |
//!
//! It is answered from records, by the policy that hosts enforce, so a simulation answers too. Requests are signed as those of AWS's API are, for any
//! service and region. Ends are the account's own, in any region; of what other accounts' networks do with a packet nothing is told but
//! whether they stop it.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use aws::answer::Answer;
use aws::api::Api;
use aws::request::Request;
use control::plane::Plane;
use control::ports::VpcSpec;
use control::records::{AttachmentState, Instance, InstanceState, InterfaceOwner};
use control::state::{Space, State};
use control::survey::{self, Endpoint};
use jiff::Timestamp;
use network::path::{Exchange, Spot, Why};
use network::policy::{Packet, Place, Stop, Transport};
use network::{STAND_IN, outward_address};
use serde_json::json;
use types::{AccountId, VpcId};

use super::front::{answer, caller, refusal};
use crate::host::site;
use crate::why::{By, EndName, EndTold, Explanation, PacketKind, PathTold, Question, StepTold, StopTold};
use told::Teller;

pub(crate) const PATH: &str = "/_nimbo/why";

const ECHO_REQUEST: u8 = 8;

/// Why nothing is explained: a code, and a message.
type Refused = (&'static str, String);

/// Answers a request for [`PATH`].
pub(super) async fn respond(api: &Api<Arc<Plane>>, request: &Request<'_>) -> Answer {
    let account = match caller(api, request) {
        Ok(account) => account,
        Err(refused) => return refused,
    };
    if request.method != "POST" {
        return refusal(405, "MethodNotAllowed", "What passes a packet is asked by POST.");
    }
    let question: Question = match serde_json::from_slice(request.body) {
        Ok(question) => question,
        Err(error) => {
            return refusal(400, "InvalidParameterValue", &format!("The body is no question: {error}."));
        }
    };
    let ledger = &api.context.ledger;
    let now = ledger.now();
    let (explained, as_of) = ledger.read(|state| explain(state, account, now, &question));
    if ledger.settled(as_of).await.is_err() {
        return refusal(503, "Unavailable", "The server ends.");
    }
    match explained {
        Ok(explanation) => answer(200, &json!(explanation)),
        Err((code, message)) => refusal(400, code, &message),
    }
}

/// An end, as it was named.
struct End<'a> {
    /// None: it is nobody's of the account's.
    endpoint: Option<&'a Endpoint>,
    address: Ipv4Addr,
}

fn explain(
    state: &State,
    account: AccountId,
    now: Timestamp,
    question: &Question,
) -> Result<Explanation, Refused> {
    let all: Vec<_> = survey::endpoints(state, account, now).collect();
    let near = |endpoint: Option<&Endpoint>| -> BTreeSet<VpcId> {
        survey::vpcs(state, endpoint.map(|endpoint| endpoint.interface.vpc), now).into_keys().collect()
    };
    let goals = candidates(&all, question.destination)?;
    let from = match question.source {
        Some(name) => {
            let goal = goals.first().copied().filter(|_| goals.len() == 1);
            the_one(candidates(&all, name)?, name, || near(goal))?
        }
        None => None,
    };
    let to = the_one(goals, question.destination, || near(from))?;
    let source = End { endpoint: from, address: source_address(from, question.source) };
    let Some(address) = destination_address(to, question.destination, from.map(|_| near(from))) else {
        return Ok(never_outside(&source, to));
    };
    let destination = End { endpoint: to, address };
    let homes = [from, to].into_iter().flatten().map(|endpoint| endpoint.interface.vpc);
    let specs = survey::vpcs(state, homes.chain(survey::holder(state, address)), now);
    Ok(walk(&specs, account, &source, &destination, question.packet))
}

/// Who is named: nobody, if it is an address of nobody's.
fn candidates(all: &[Endpoint], name: EndName) -> Result<Vec<&Endpoint>, Refused> {
    let found: Vec<_> = match name {
        EndName::Instance(id) => {
            let its = all.iter().filter(|end| end.instance.as_ref().is_some_and(|its| its.id == id));
            its.min_by_key(|end| end.interface.device_index).into_iter().collect()
        }
        EndName::Interface(id) => all.iter().filter(|end| end.interface.id == id).collect(),
        EndName::Address(named) => {
            let has = |end: &&Endpoint| {
                let mut pairs = end.interface.addresses.iter();
                pairs.any(|(address, public)| *address == named || *public == Some(named))
            };
            return Ok(all.iter().filter(has).collect());
        }
    };
    match found.is_empty() {
        true => Err(("NotFound", format!("There is no {name}, or it has no network interface."))),
        false => Ok(found),
    }
}

/// The one that is meant: of several with the same address the one that is near to the other end.
fn the_one(
    candidates: Vec<&Endpoint>,
    name: EndName,
    near: impl FnOnce() -> BTreeSet<VpcId>,
) -> Result<Option<&Endpoint>, Refused> {
    if candidates.len() < 2 {
        return Ok(candidates.first().copied());
    }
    let near = near();
    let mut meant = candidates.iter().filter(|end| near.contains(&end.interface.vpc));
    match (meant.next(), meant.next()) {
        (Some(end), None) => Ok(Some(end)),
        _ => {
            let all: Vec<_> = candidates.iter().map(|end| end.interface.id.to_string()).collect();
            let message =
                format!("Several interfaces have the address {name}: name one of {}.", all.join(", "));
            Err(("Ambiguous", message))
        }
    }
}

/// This machine, as instances see it where nothing of theirs is in the way.
fn host() -> Ipv4Addr {
    outward_address().unwrap_or(STAND_IN)
}

/// Nobody is this machine.
fn source_address(from: Option<&Endpoint>, name: Option<EndName>) -> Ipv4Addr {
    let named = match name {
        Some(EndName::Address(address)) => Some(address),
        _ => None,
    };
    let Some(endpoint) = from else { return named.unwrap_or_else(host) };
    // What it sends from a public address it sends from the private one.
    let mut pairs = endpoint.interface.addresses.iter();
    let is_named = |(address, public): &&(Ipv4Addr, Option<Ipv4Addr>)| {
        named.is_none_or(|named| *address == named || *public == Some(named))
    };
    pairs.find(is_named).map_or_else(host, |(address, _)| *address)
}

/// Where a packet is sent that is for who is named: to the private address if the sender's VPC reaches that, else to the public one. `near` is the sender's VPC
/// and its peers; none: the sender is outside. None: there is no address for who is outside.
fn destination_address(
    to: Option<&Endpoint>,
    name: EndName,
    near: Option<BTreeSet<VpcId>>,
) -> Option<Ipv4Addr> {
    if let EndName::Address(address) = name {
        return Some(address);
    }
    let interface = &to?.interface;
    let private = interface.addresses.first().map(|(address, _)| *address);
    let public = interface.addresses.iter().find_map(|(_, public)| *public);
    match near {
        Some(near) if near.contains(&interface.vpc) => private,
        Some(_) => public.or(private),
        None => public,
    }
}

/// From outside, to an interface without a public address.
fn never_outside(source: &End<'_>, to: Option<&Endpoint>) -> Explanation {
    let address =
        to.and_then(|end| end.interface.addresses.first()).map_or_else(host, |(address, _)| *address);
    let destination = End { endpoint: to, address };
    let id = to.map(|end| end.interface.id.to_string()).unwrap_or_default();
    let step = StepTold {
        by: By::NetworkInterface,
        at: to.map(|end| end.interface.vpc.to_string()).unwrap_or_default(),
        part: None,
        says: format!(
            "{id} has no public address, so nobody outside of its VPC and that one's peers reaches it"
        ),
        id,
    };
    // An instance that is stopped has lost its own.
    let stop = to.and_then(obstacle).unwrap_or(StopTold { reason: "no_public_address".to_owned(), step });
    stopped(source, &destination, Vec::new(), stop)
}

fn stopped(source: &End<'_>, destination: &End<'_>, passed: Vec<StepTold>, stop: StopTold) -> Explanation {
    let request = PathTold { passed, stopped: Some(stop) };
    Explanation {
        passes: false,
        source: source.told(),
        destination: destination.told(),
        request,
        answer: None,
    }
}

fn walk(
    specs: &BTreeMap<VpcId, (Space, VpcSpec)>,
    account: AccountId,
    source: &End<'_>,
    destination: &End<'_>,
    kind: PacketKind,
) -> Explanation {
    if let Some(stop) = source.endpoint.and_then(obstacle) {
        return stopped(source, destination, Vec::new(), stop);
    }
    let sites: BTreeMap<_, _> = specs.iter().map(|(id, (_, spec))| (*id, site(spec))).collect();
    let transport = match kind {
        PacketKind::Tcp { port, source_port } => Transport::Tcp { source: source_port, destination: port },
        PacketKind::Udp { port, source_port } => Transport::Udp { source: source_port, destination: port },
        PacketKind::Icmp => Transport::Icmp { icmp_type: ECHO_REQUEST, code: 0 },
    };
    let packet = Packet { source: source.address, destination: destination.address, transport };
    let from = source.endpoint.map_or(Spot::Outside, |endpoint| {
        Spot::Vpc(endpoint.interface.vpc, Place::Interface(endpoint.interface.id))
    });
    let exchange = Exchange::of(&sites, host(), from, packet);
    let teller = Teller { account, specs, sites: &sites };
    let request = teller.path(&exchange.request);
    // Nobody is there, or nobody listens.
    let comes_near = exchange
        .request
        .end
        .as_ref()
        .err()
        .is_none_or(|halt| matches!(halt.why, Why::NobodyHas | Why::Policy(Stop::NobodyThere)));
    if let Some(stop) = destination.endpoint.filter(|_| comes_near).and_then(obstacle) {
        return stopped(source, destination, request.passed, stop);
    }
    Explanation {
        passes: exchange.passes(),
        source: source.told(),
        destination: destination.told(),
        request,
        answer: exchange.answer.as_ref().map(|path| teller.path(path)),
    }
}

impl End<'_> {
    fn told(&self) -> EndTold {
        let interface = self.endpoint.map(|endpoint| &endpoint.interface);
        EndTold {
            address: self.address,
            interface: interface.map(|interface| interface.id),
            instance: self.endpoint.and_then(|endpoint| Some(endpoint.instance.as_ref()?.id)),
            vpc: interface.map(|interface| interface.vpc),
        }
    }
}

/// Why an end neither sends nor gets anything, whatever its network says.
fn obstacle(endpoint: &Endpoint) -> Option<StopTold> {
    let interface = endpoint.interface.id.to_string();
    let stop = |reason: &str, by, id: String, says| {
        let step = StepTold { by, id, part: None, at: endpoint.interface.id.to_string(), says };
        Some(StopTold { reason: reason.to_owned(), step })
    };
    let Some(instance) = &endpoint.instance else {
        if endpoint.owner != InterfaceOwner::User {
            return None;
        }
        let says = format!("{interface} is attached to no instance");
        return stop("not_attached", By::NetworkInterface, interface, says);
    };
    let id = instance.id.to_string();
    if instance.is_up() {
        let is_coming = matches!(endpoint.attachment, Some(AttachmentState::Attaching));
        let says = format!("{interface} is being attached, and the guest of {id} does not have it yet");
        return is_coming.then(|| stop("not_attached", By::NetworkInterface, interface, says)).flatten();
    }
    if instance.outage.is_some() {
        return stop(
            "zone_failed",
            By::Instance,
            id.clone(),
            format!("the zone of {id} has failed, and it has not booted since"),
        );
    }
    let says = format!("{id} is {}", state_word(instance));
    stop("instance_not_running", By::Instance, id, says)
}

fn state_word(instance: &Instance) -> &'static str {
    match instance.state {
        InstanceState::Pending => "pending",
        InstanceState::Running => "down while an image is made of it",
        InstanceState::Stopping { .. } => "stopping",
        InstanceState::Stopped { .. } => "stopped",
        InstanceState::ShuttingDown { .. } => "shutting down",
        InstanceState::Terminated { .. } => "terminated",
    }
}
