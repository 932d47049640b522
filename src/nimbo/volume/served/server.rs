//! HTTP/1.1 and JSON on the control socket: `docs/volume-control-api.md`. One thread of its own, on which nothing waits for a disk.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::volume::VolumeError;
use ::volume::snapshot::SnapshotName;
use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot, watch};
use vmm::control::api::{ErrorBody, ErrorDetail, Version};

use super::Shared;
use super::api::{Counters, Nothing, Resumed, TaskState, TaskStatus};
use crate::socket::SocketPath;

/// Connections at once; the next one waits.
const CONNECTIONS_MAX: usize = 32;
const BODY_BYTES_MAX: usize = 64 << 10;
/// For a request's head to arrive, and between two on one connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest that a client may wait for a task.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A pause after an error of the listening socket, so that one which lasts does not take a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub(super) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _socket: SocketPath,
}

impl Server {
    /// Makes the socket, and answers there.
    ///
    /// # Errors
    /// When the socket cannot be made, or the host has no thread to give.
    pub(super) fn start(path: &Path, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let (socket, listener) = SocketPath::listen(path, "the control socket")?;
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect the socket {}", path.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start an event loop")?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, shared) => if let Err(error) = served {
                        eprintln!("nimbo: the control socket of a volume cannot be served: {error}");
                    },
                    // Also when the sender is gone.
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("volume-control".to_owned()).spawn(work);
        let thread = Some(thread.context("cannot start a thread")?);
        Ok(Self { stop: Some(stop), thread, _socket: socket })
    }
}

impl Drop for Server {
    /// What has been asked is carried out.
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was told.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let conversation = converse(stream, Arc::clone(&shared));
                tokio::spawn(async move {
                    conversation.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a volume's control socket failed to accept");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn converse(stream: UnixStream, shared: Arc<Shared>) {
    let handle = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, shared).await.unwrap_or_else(Denied::into)) }
    });
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), handle);
    if let Err(error) = conversation.await {
        tracing::debug!(%error, "a conversation on a volume's control socket failed");
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, Denied> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Denied::Invalid(format!("the body did not arrive: {error}")))?.to_bytes();
    let method = match head.method {
        Method::HEAD => Method::GET,
        method => method,
    };
    if method == Method::GET && ["/v1/snapshot", "/v1/fill"].contains(&head.uri.path()) {
        let query = Query::parse(head.uri.query())?;
        let status = match (head.uri.path(), query.name) {
            ("/v1/snapshot", name) => shared.snapshots().status(name),
            (_, None) => shared.fill().status(),
            (path, Some(_)) => return Err(Denied::Invalid(format!("{path} knows no names"))),
        };
        return Ok(json(StatusCode::OK, &wait(status.ok_or(Denied::NoTask)?, query.time).await));
    }
    if let Some(query) = head.uri.query() {
        return Err(Denied::Invalid(format!("this path has no query, but {query:?} came")));
    }
    // Disks, object stores and tasks that are to end take their time.
    let work = tokio::task::spawn_blocking(move || carry_out(&method, head.uri.path(), &body, &shared));
    work.await.unwrap_or_else(|error| Err(Denied::Operation(error.into())))
}

/// What is asked of a task.
#[derive(Default)]
struct Query {
    /// How long the client would wait for its end.
    time: Duration,
    /// Which snapshot it is about.
    name: Option<SnapshotName>,
}

impl Query {
    fn parse(query: Option<&str>) -> Result<Self, Denied> {
        let mut parsed = Self::default();
        for parameter in query.into_iter().flat_map(|query| query.split('&')) {
            let invalid = || {
                let expected = "expected wait_ms=NUMBER or name=SNAPSHOT after the path";
                Denied::Invalid(format!("{expected}, not {parameter:?}"))
            };
            match parameter.split_once('=') {
                Some(("wait_ms", number)) => {
                    let milliseconds = number.parse().map_err(|_| invalid())?;
                    parsed.time = Duration::from_millis(milliseconds).min(WAIT_MAX);
                }
                Some(("name", name)) => parsed.name = Some(name.parse().map_err(|_| invalid())?),
                _ => return Err(invalid()),
            }
        }
        Ok(parsed)
    }
}

/// How a task stands when it has come to its end, or the time is over that the client would wait.
async fn wait(mut status: watch::Receiver<TaskStatus>, time: Duration) -> TaskStatus {
    let ended = status.wait_for(|status| status.state != TaskState::Running);
    // A task whose thread panicked changes no more; then it stands as it did.
    let _ = tokio::time::timeout(time, ended).await;
    status.borrow().clone()
}

fn carry_out(method: &Method, path: &str, body: &[u8], shared: &Arc<Shared>) -> Result<Answer, Denied> {
    let ok = |value: &_| Ok(json(StatusCode::OK, value));
    match (path, method.as_str()) {
        ("/v1/", "GET") => {
            let program = env!("CARGO_PKG_VERSION").into();
            Ok(json(StatusCode::OK, &Version { api: "v1".into(), program }))
        }
        ("/v1/", _) => Err(Denied::Method("GET")),
        ("/v1/volume", "GET") => ok(&shared.status()?),
        ("/v1/volume", _) => Err(Denied::Method("GET")),
        ("/v1/volume/size", "PUT") => {
            shared.resize(read(body)?)?;
            ok(&shared.status()?)
        }
        ("/v1/volume/size", _) => Err(Denied::Method("PUT")),
        ("/v1/volume/limits", "PUT") => {
            shared.limit(Some(read(body)?))?;
            ok(&shared.status()?)
        }
        ("/v1/volume/limits", "DELETE") => {
            let Nothing {} = read(body)?;
            shared.limit(None)?;
            ok(&shared.status()?)
        }
        ("/v1/volume/limits", _) => Err(Denied::Method("PUT, DELETE")),
        ("/v1/pause", "PUT") => {
            shared.pause(read(body)?)?;
            ok(&shared.status()?)
        }
        ("/v1/pause", "DELETE") => {
            let Nothing {} = read(body)?;
            Ok(json(StatusCode::OK, &Resumed { was_paused: shared.limited.resume() }))
        }
        ("/v1/pause", _) => Err(Denied::Method("PUT, DELETE")),
        ("/v1/counters", "GET") => Ok(json(StatusCode::OK, &Counters { guests: shared.guests.counters() })),
        ("/v1/counters", _) => Err(Denied::Method("GET")),
        ("/v1/snapshot", "POST") => {
            let name = shared.make_snapshot(&read(body)?)?;
            begun(shared.snapshots().status(Some(name)))
        }
        ("/v1/snapshot", "DELETE") => {
            shared.cancel_snapshot(&read(body)?)?;
            ok(&shared.status()?)
        }
        ("/v1/snapshot", _) => Err(Denied::Method("GET, POST, DELETE")),
        ("/v1/fill", "POST") => {
            shared.begin_fill(read(body)?)?;
            begun(shared.fill().status())
        }
        ("/v1/fill", _) => Err(Denied::Method("GET, POST")),
        ("/v1/snapshot/stop", "POST") => {
            let Nothing {} = read(body)?;
            let mut tasks = shared.snapshots();
            tasks.stop();
            stopped(tasks.status(None))
        }
        ("/v1/fill/stop", "POST") => {
            let Nothing {} = read(body)?;
            let mut slot = shared.fill();
            slot.stop();
            stopped(slot.status())
        }
        ("/v1/snapshot/stop" | "/v1/fill/stop", _) => Err(Denied::Method("POST")),
        _ => Err(Denied::NoSuchPath),
    }
}

fn begun(status: Option<watch::Receiver<TaskStatus>>) -> Result<Answer, Denied> {
    Ok(json(StatusCode::ACCEPTED, &*status.ok_or(Denied::NoTask)?.borrow()))
}

fn stopped(status: Option<watch::Receiver<TaskStatus>>) -> Result<Answer, Denied> {
    Ok(json(StatusCode::OK, &*status.ok_or(Denied::NoTask)?.borrow()))
}

/// The body as what the path wants; none is an object without members.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Denied> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Denied::Invalid(format!("the body is not what this path wants: {error}")))
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // What is answered here has text as keys, and so cannot fail to be JSON.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Why a request is not carried out.
enum Denied {
    NoSuchPath,
    NoTask,
    Method(&'static str),
    Invalid(String),
    Operation(anyhow::Error),
}

impl From<anyhow::Error> for Denied {
    fn from(error: anyhow::Error) -> Self {
        Denied::Operation(error)
    }
}

/// Whether a disk or an object store failed, and not what was asked for is wrong.
fn is_of_host(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<io::Error>() || matches!(cause.downcast_ref(), Some(VolumeError::Stopped)))
}

impl From<Denied> for Answer {
    fn from(denied: Denied) -> Self {
        let (status, code, message) = match &denied {
            Denied::NoSuchPath => {
                (StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path".to_owned())
            }
            Denied::NoTask => (StatusCode::NOT_FOUND, "no_task", "nothing of this kind was begun".to_owned()),
            Denied::Method(allowed) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method", format!("this path answers to {allowed}"))
            }
            Denied::Invalid(message) => (StatusCode::BAD_REQUEST, "invalid", message.clone()),
            Denied::Operation(error) if is_of_host(error) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "host", format!("{error:#}"))
            }
            Denied::Operation(error) => (StatusCode::CONFLICT, "refused", format!("{error:#}")),
        };
        let mut answer = json(status, &ErrorBody { error: ErrorDetail { code: code.into(), message } });
        if let Denied::Method(allowed) = denied {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        answer
    }
}
