//! From a request to an operation, and from its outcome to an answer.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::api::{
    CaptureSpec, DeviceId, Devices, DiskSpec, Impairments, InterfaceSpec, Interfaces, Nothing, Version,
};
use super::operations::{OperationError, Operations, Removal, Removed};
use super::request::Request;
use super::response::Response;
use crate::console::{Console, ViewerSpec};
use crate::virtio::DeviceKind;

/// The protocol of a console's stream.
pub(super) const CONSOLE_PROTOCOL: &str = "nimbo-console";
/// The longest that a client may wait for an event.
const EVENTS_WAIT_MAX: Duration = Duration::from_secs(60);
/// The serial number of a virtio disk (virtio 1.2, 5.2.6.1, `VIRTIO_BLK_T_GET_ID`).
const SERIAL_BYTES_MAX: usize = 20;
/// The smallest that IPv4 allows (RFC 791).
const MTU_MIN: u16 = 68;

/// What becomes of a request.
pub(super) enum Answer {
    Respond(Response),
    /// The connection becomes a viewer of the console.
    AttachConsole(ViewerSpec),
    /// Answered when something happens after event `after`, or `wait` is over.
    AwaitEvent {
        after: u64,
        wait: Duration,
    },
}

/// Why a request does not become an operation.
enum Denied {
    Operation(OperationError),
    NoSuchPath,
    Method { allowed: &'static str },
    Query { message: String },
    Body { source: serde_json::Error },
    UpgradeRequired,
    Console(crate::console::AttachError),
}

impl From<OperationError> for Denied {
    fn from(error: OperationError) -> Self {
        Denied::Operation(error)
    }
}

impl From<Denied> for Response {
    fn from(denied: Denied) -> Self {
        use crate::console::AttachError;
        match denied {
            Denied::Operation(error) => Response::from(&error),
            Denied::NoSuchPath => Response::error(404, "no_such_path", "there is nothing at this path"),
            Denied::Method { allowed } => {
                let message = format!("this path answers to {allowed}");
                Response::error(405, "method", &message).with("Allow", allowed)
            }
            Denied::Query { message } => Response::error(400, "invalid", &message),
            Denied::Body { source } => {
                Response::error(400, "invalid", &format!("the body is not what this path wants: {source}"))
            }
            Denied::UpgradeRequired => {
                let message = format!("the console speaks no HTTP: ask with `Upgrade: {CONSOLE_PROTOCOL}`");
                Response::error(426, "upgrade_required", &message)
                    .with("Connection", "Upgrade")
                    .with("Upgrade", CONSOLE_PROTOCOL)
            }
            Denied::Console(error @ AttachError::InputTaken) => {
                Response::error(409, "input_taken", &error.to_string())
            }
            Denied::Console(error) => Response::error(503, "busy", &error.to_string()),
        }
    }
}

/// Carries `request` out.
pub(super) fn answer(request: Request, operations: &mut dyn Operations, console: &Console) -> Answer {
    carry_out(request, operations, console).unwrap_or_else(|denied| Answer::Respond(denied.into()))
}

fn carry_out(
    mut request: Request,
    operations: &mut dyn Operations,
    console: &Console,
) -> Result<Answer, Denied> {
    let path = std::mem::take(&mut request.path);
    let Some(route) = path.strip_prefix("/v1/") else { return Err(Denied::NoSuchPath) };
    let segments: Vec<&str> = route.split('/').collect();
    let descriptors = std::mem::take(&mut request.descriptors);
    let takes_descriptors = matches!(
        (&*request.method, &*segments),
        ("POST", ["disks" | "interfaces"] | ["interfaces", _, "captures"]) | ("PUT", ["disks", _])
    );
    if !descriptors.is_empty() && !takes_descriptors {
        return Err(
            OperationError::Descriptors { expected: "no descriptor", received: descriptors.len() }.into()
        );
    }
    let response = match *segments {
        [""] => get(&request, || {
            let program = Cow::Borrowed(env!("CARGO_PKG_VERSION"));
            Ok(Response::json(200, &Version { api: Cow::Borrowed("v1"), program }))
        }),
        ["machine"] => get(&request, || Ok(Response::json(200, &operations.machine()))),
        ["machine", action] => act(&request, action, operations),
        ["counters"] => get(&request, || Ok(Response::json(200, &operations.counters()?))),
        ["devices"] => get(&request, || Ok(Response::json(200, &Devices { devices: operations.devices() }))),
        ["devices", id] => get(&request, || device(id, operations)),
        ["disks"] => post(&request, |spec| add_disk(spec, descriptors, operations)),
        ["disks", id] if request.method == "PUT" => reconnect(&request, id, descriptors, operations),
        ["disks", id] => remove(&request, DeviceKind::Block, id, "DELETE, PUT", operations),
        ["interfaces"] if request.method == "POST" => {
            post(&request, |spec| add_interface(spec, descriptors, operations))
        }
        ["interfaces"] => interfaces(&request, operations),
        ["interfaces", id, "captures"] => post(&request, |spec| capture(spec, id, descriptors, operations)),
        ["interfaces", id, "impairments"] => impair(&request, id, operations),
        ["interfaces", id] => remove(&request, DeviceKind::Net, id, "DELETE", operations),
        ["balloon"] => balloon(&request, operations),
        ["console"] => return attach_console(&request, console),
        ["console", "log"] => console_log(&request, console),
        ["events"] => return await_event(&request),
        _ => Err(Denied::NoSuchPath),
    };
    response.map(Answer::Respond)
}

/// What a path under `/v1/machine/` does.
type Action = fn(&mut dyn Operations) -> Result<(), OperationError>;

fn act(request: &Request, action: &str, operations: &mut dyn Operations) -> Result<Response, Denied> {
    let (status, operation): (u16, Action) = match action {
        "pause" => (200, |machine| machine.pause()),
        "resume" => (200, |machine| machine.resume()),
        "power-button" => (202, |machine| machine.press_power_button()),
        "reboot" => (202, |machine| machine.reboot()),
        "reset" => (200, |machine| machine.reset()),
        "power-off" => (200, |machine| machine.power_off()),
        _ => return Err(Denied::NoSuchPath),
    };
    post(request, |Nothing {}| {
        operation(operations)?;
        Ok(Response::json(status, &operations.machine()))
    })
}

fn device(id: &str, operations: &dyn Operations) -> Result<Response, Denied> {
    let id: DeviceId = id.parse().map_err(|_| Denied::NoSuchPath)?;
    let found = operations.devices().into_iter().find(|device| device.id == id);
    let status = found.ok_or(OperationError::NoDevice { id })?;
    Ok(Response::json(200, &status))
}

fn add_disk(
    spec: DiskSpec,
    descriptors: Vec<OwnedFd>,
    operations: &mut dyn Operations,
) -> Result<Response, Denied> {
    let printable = |serial: &String| serial.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if !spec.serial.iter().all(|serial| serial.len() <= SERIAL_BYTES_MAX && printable(serial)) {
        let reason = format!("expected at most {SERIAL_BYTES_MAX} printable ASCII characters");
        return Err(OperationError::Invalid { member: "serial", reason }.into());
    }
    let received = descriptors.len();
    let [disk] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|_| OperationError::Descriptors { expected: "one descriptor, the disk's,", received })?;
    created(&operations.add_disk(spec, disk)?)
}

fn reconnect(
    request: &Request,
    id: &str,
    descriptors: Vec<OwnedFd>,
    operations: &mut dyn Operations,
) -> Result<Response, Denied> {
    let Nothing {} = body(request)?;
    Query::of(request)?.end()?;
    let id: DeviceId = id.parse().map_err(|_| Denied::NoSuchPath)?;
    let received = descriptors.len();
    let [server] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|_| OperationError::Descriptors { expected: "one descriptor, to the server,", received })?;
    Ok(Response::json(200, &operations.reconnect_disk(&id, server)?))
}

fn add_interface(
    spec: InterfaceSpec,
    taps: Vec<OwnedFd>,
    operations: &mut dyn Operations,
) -> Result<Response, Denied> {
    if spec.mac.is_multicast() {
        let reason = format!("{} names a group, not an interface", spec.mac);
        return Err(OperationError::Invalid { member: "mac", reason }.into());
    }
    if spec.mtu.is_some_and(|mtu| mtu < MTU_MIN) {
        let reason = format!("expected at least {MTU_MIN}");
        return Err(OperationError::Invalid { member: "mtu", reason }.into());
    }
    if taps.is_empty() {
        let expected = "a tap's descriptor for each pair of queues";
        return Err(OperationError::Descriptors { expected, received: 0 }.into());
    }
    created(&operations.add_interface(spec, taps)?)
}

fn interfaces(request: &Request, operations: &dyn Operations) -> Result<Response, Denied> {
    if !matches!(&*request.method, "GET" | "HEAD") {
        return Err(Denied::Method { allowed: "GET, HEAD, POST" });
    }
    get(request, || Ok(Response::json(200, &Interfaces { interfaces: operations.interfaces() })))
}

fn capture(
    spec: CaptureSpec,
    id: &str,
    descriptors: Vec<OwnedFd>,
    operations: &mut dyn Operations,
) -> Result<Response, Denied> {
    let id: DeviceId = id.parse().map_err(|_| Denied::NoSuchPath)?;
    let received = descriptors.len();
    let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|_| OperationError::Descriptors { expected: "one descriptor, a socket,", received })?;
    Ok(Response::json(201, &operations.capture(&id, spec, socket)?))
}

fn impair(request: &Request, id: &str, operations: &mut dyn Operations) -> Result<Response, Denied> {
    if request.method != "PUT" {
        return Err(Denied::Method { allowed: "PUT" });
    }
    Query::of(request)?.end()?;
    let impairments: Impairments = body(request)?;
    for impairment in [&impairments.inbound, &impairments.outbound].into_iter().flatten() {
        impairment.check().map_err(|wrong| OperationError::Invalid {
            member: wrong.member,
            reason: format!("expected {}", wrong.expected),
        })?;
    }
    let id: DeviceId = id.parse().map_err(|_| Denied::NoSuchPath)?;
    Ok(Response::json(200, &operations.impair(&id, impairments)?))
}

fn created(status: &super::api::DeviceStatus) -> Result<Response, Denied> {
    Ok(Response::json(201, status).with("Location", format_args!("/v1/devices/{}", status.id)))
}

fn remove(
    request: &Request,
    kind: DeviceKind,
    id: &str,
    allowed: &'static str,
    operations: &mut dyn Operations,
) -> Result<Response, Denied> {
    if request.method != "DELETE" {
        return Err(Denied::Method { allowed });
    }
    let Nothing {} = body(request)?;
    let mut query = Query::of(request)?;
    let force = query.take("force")?.unwrap_or(false);
    query.end()?;
    let id: DeviceId = id.parse().map_err(|_| Denied::NoSuchPath)?;
    let removal = if force { Removal::Force } else { Removal::Ask };
    Ok(match operations.remove_device(kind, &id, removal)? {
        Removed::Unplugging(status) => Response::json(202, &status),
        Removed::Gone => Response::no_content(),
    })
}

fn balloon(request: &Request, operations: &mut dyn Operations) -> Result<Response, Denied> {
    match &*request.method {
        "GET" | "HEAD" => get(request, || Ok(Response::json(200, &operations.balloon()?))),
        "PUT" => {
            Query::of(request)?.end()?;
            Ok(Response::json(200, &operations.set_balloon(body(request)?)?))
        }
        _ => Err(Denied::Method { allowed: "GET, HEAD, PUT" }),
    }
}

fn attach_console(request: &Request, console: &Console) -> Result<Answer, Denied> {
    let mut query = reading(request)?;
    let offset = query.take("offset")?;
    let input = query.take("input")?.unwrap_or(false);
    query.end()?;
    if request.upgrade.as_deref().is_none_or(|wanted| !wanted.eq_ignore_ascii_case(CONSOLE_PROTOCOL)) {
        return Err(Denied::UpgradeRequired);
    }
    let spec = ViewerSpec { offset, input, ..ViewerSpec::default() };
    console.admits(&spec).map_err(Denied::Console)?;
    Ok(Answer::AttachConsole(spec))
}

/// What is in the ring from an offset on, as it was when the answer was made.
fn console_log(request: &Request, console: &Console) -> Result<Response, Denied> {
    let mut query = reading(request)?;
    let asked = query.take("offset")?.unwrap_or(0);
    query.end()?;
    let output = console.output();
    let end = output.end();
    let mut chunk = vec![0; 16 * 1024];
    let first = output.read(asked, &mut chunk);
    let mut log = chunk[..first.length].to_vec();
    let mut next = first.end();
    // A piece at a time, so that the guest's writing never waits for all of it.
    while next < end {
        let span = output.read(next, &mut chunk);
        if span.lost > 0 {
            break;
        }
        log.extend_from_slice(&chunk[..span.length]);
        next = span.end();
    }
    Ok(Response::bytes(log)
        .with("Nimbo-Console-Offset", first.offset)
        .with("Nimbo-Console-Next", next)
        .with("Nimbo-Console-Lost", first.lost))
}

fn await_event(request: &Request) -> Result<Answer, Denied> {
    let mut query = reading(request)?;
    let after = query.take("after")?.unwrap_or(0);
    let wait = Duration::from_millis(query.take("wait_ms")?.unwrap_or(0));
    query.end()?;
    Ok(Answer::AwaitEvent { after, wait: wait.min(EVENTS_WAIT_MAX) })
}

/// A path that is only read, without a query.
fn get(request: &Request, read: impl FnOnce() -> Result<Response, Denied>) -> Result<Response, Denied> {
    reading(request)?.end()?;
    read()
}

/// A path that is only read: its query.
fn reading(request: &Request) -> Result<Query<'_>, Denied> {
    if !matches!(&*request.method, "GET" | "HEAD") {
        return Err(Denied::Method { allowed: "GET, HEAD" });
    }
    let Nothing {} = body(request)?;
    Query::of(request)
}

/// A path that is only posted to.
fn post<T: DeserializeOwned>(
    request: &Request,
    carry_out: impl FnOnce(T) -> Result<Response, Denied>,
) -> Result<Response, Denied> {
    if request.method != "POST" {
        return Err(Denied::Method { allowed: "POST" });
    }
    Query::of(request)?.end()?;
    carry_out(body(request)?)
}

/// The body as what the path wants; none is an object without members.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Denied> {
    let text = if request.body.is_empty() { b"{}" } else { &*request.body };
    serde_json::from_slice(text).map_err(|source| Denied::Body { source })
}

/// The parameters of a query. Each must be known, and come once.
struct Query<'r>(Vec<(&'r str, &'r str)>);

impl<'r> Query<'r> {
    fn of(request: &'r Request) -> Result<Self, Denied> {
        let pairs = request.query.split('&').filter(|pair| !pair.is_empty());
        Ok(Query(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect()))
    }

    fn take<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, Denied> {
        let Some(at) = self.0.iter().position(|(known, _)| *known == name) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        let wrong = |_| Denied::Query { message: format!("{value:?} is no value for the parameter {name}") };
        value.parse().map(Some).map_err(wrong)
    }

    fn end(self) -> Result<(), Denied> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Denied::Query {
                message: format!("the parameter {name:?} is unknown here, or came twice"),
            }),
        }
    }
}
