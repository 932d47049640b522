//! The control socket of a load balancer: `GET /v1/status` over HTTP/1.1, in JSON.
//!
//! Answers are made where the load balancer is: each request asks there, and waits.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use balancer::status::Status;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::socket::SocketPath;

/// For a request's head to arrive, and between two on one connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Requests that wait for their answers.
const WAITING_MAX: usize = 32;

/// Whoever wants to know how the load balancer stands.
pub(super) type Question = oneshot::Sender<Status>;

/// A socket that answers, until it is dropped.
pub(super) struct Control {
    questions: mpsc::Receiver<Question>,
    _socket: SocketPath,
}

impl Control {
    /// Makes the socket, and answers there on the current runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(super) fn listen(path: &Path) -> anyhow::Result<Self> {
        let (socket, listener) = SocketPath::listen(path, "the control socket")?;
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect the socket {}", path.display()))?;
        listener.set_nonblocking(true).context("cannot serve the control socket")?;
        let listener = UnixListener::from_std(listener).context("cannot serve the control socket")?;
        let (ask, questions) = mpsc::channel(WAITING_MAX);
        tokio::spawn(serve(listener, ask));
        Ok(Self { questions, _socket: socket })
    }

    /// The next question.
    pub(super) async fn question(&mut self) -> Option<Question> {
        self.questions.recv().await
    }
}

async fn serve(listener: UnixListener, ask: mpsc::Sender<Question>) {
    while !ask.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, ask.clone()))),
            // Too few descriptors are left, say.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: UnixStream, ask: mpsc::Sender<Question>) {
    let handle = service_fn(|request| {
        let ask = ask.clone();
        async move { Ok::<_, Infallible>(answer(request, ask).await) }
    });
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), handle);
    // Whoever leaves early has what he wanted.
    let _ = conversation.await;
}

async fn answer(request: Request<Incoming>, ask: mpsc::Sender<Question>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/v1/status" {
        return plain(StatusCode::NOT_FOUND, "there is /v1/status");
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "there is GET");
    }
    let (tell, told) = oneshot::channel();
    let status = match ask.send(tell).await {
        Ok(()) => told.await.ok(),
        Err(_) => None,
    };
    match status.map(|status| serde_json::to_vec(&status)) {
        Some(Ok(text)) => {
            let mut response = Response::new(Full::from(text));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
            response
        }
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "the load balancer ends"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}
