//! The API on sockets: HTTP/1.1 with connections that are kept, and limits on all that a client can have the server hold or wait for.
//!
//! A request's head and its body have time limits, a body has a size limit that is checked before it is read, and so does an answer that
//! nobody takes. Any stream of bytes can be served: who wants TLS puts it below ([`Transport`]).

mod stalled;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::answer::Answer;
use crate::api::Api;
use crate::error::Error;
use crate::request::Request;
use stalled::Unstalled;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// After an error of the listening socket, so that one which lasts does not take a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// A head with all its headers, of which a presigned URL is the largest.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; the next one waits.
    pub connections: usize,
    pub body_bytes: usize,
    /// For what comes before HTTP: a handshake of TLS.
    pub open_time: Duration,
    /// For a head to arrive, and between two on one connection.
    pub head_time: Duration,
    /// For a body to arrive.
    pub body_time: Duration,
    /// For a part of an answer to be taken.
    pub write_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            body_bytes: 1 << 20,
            open_time: Duration::from_secs(10),
            head_time: Duration::from_secs(60),
            body_time: Duration::from_secs(20),
            write_time: Duration::from_secs(60),
        }
    }
}

/// What answers requests: an [`Api`], or what has other paths beside one.
pub trait Respond: Send + Sync + 'static {
    fn respond(&self, request: &Request<'_>) -> impl Future<Output = Answer> + Send;

    /// The answer to a request whose body was not read, because of `error`.
    fn refuse(&self, request: &Request<'_>, error: &Error) -> Answer;
}

impl<C: Clone + Send + Sync + 'static> Respond for Api<C> {
    fn respond(&self, request: &Request<'_>) -> impl Future<Output = Answer> + Send {
        self.answer(request)
    }

    fn refuse(&self, request: &Request<'_>, error: &Error) -> Answer {
        Api::refuse(self, request, error)
    }
}

/// What lies between a socket and HTTP.
pub trait Transport: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// Makes a stream for HTTP of a connection. It is given up on after [`Limits::open_time`].
    ///
    /// # Errors
    /// When the client speaks something else.
    fn open(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Nothing.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;

    async fn open(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }
}

/// Answers on `listener` for as long as this future is polled.
pub async fn serve(listener: TcpListener, api: Arc<impl Respond>, limits: Limits) {
    serve_through(Arc::new(Plain), listener, api, limits).await;
}

/// As [`serve`], with something between the sockets and HTTP.
pub async fn serve_through(
    transport: Arc<impl Transport>,
    listener: TcpListener,
    api: Arc<impl Respond>,
    limits: Limits,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                // Answers are written whole; what is small shall not wait for more.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, %client, "the connection sends small answers late");
                }
                let (transport, api) = (transport.clone(), api.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(limits.open_time, transport.open(stream)).await {
                        Ok(Ok(stream)) => {
                            if let Err(error) = converse(stream, api, limits).await {
                                tracing::debug!(%error, %client, "a connection failed");
                            }
                        }
                        Ok(Err(error)) => tracing::debug!(%error, %client, "a connection was not opened"),
                        Err(_) => tracing::debug!(%client, "a connection was not opened in time"),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API failed to accept a connection");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Answers requests on one connection until it ends.
///
/// # Errors
/// When it fails, or the client is too slow.
pub async fn converse<S>(stream: S, api: Arc<impl Respond>, limits: Limits) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let stream = Unstalled::new(stream, limits.write_time);
    let handle = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(exchange(request, &*api, limits).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), handle)
        .await
}

async fn exchange(
    request: hyper::Request<Incoming>,
    api: &impl Respond,
    limits: Limits,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let with_body = |body| Request {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &head.headers,
        body,
    };
    match read(body, limits).await {
        Ok(body) => response(api.respond(&with_body(&body)).await),
        Err(error) => {
            let mut response = response(api.refuse(&with_body(b""), &error));
            // What is left of the body is not read.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// The body, if it is not too large and comes in time.
async fn read(body: Incoming, limits: Limits) -> Result<Bytes, Error> {
    let too_large = || {
        let message = format!("The request is larger than the {} bytes that are read.", limits.body_bytes);
        Error::new("RequestEntityTooLarge", message)
    };
    if body.size_hint().lower() > u64::try_from(limits.body_bytes).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let limited = Limited::new(body, limits.body_bytes);
    match tokio::time::timeout(limits.body_time, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let cut = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
            let what = if cut { "It ended too early" } else { "It is not what HTTP allows" };
            Err(Error::new("MalformedHttpRequest", format!("The body cannot be read. {what}.")))
        }
        Err(_) => {
            let message = "The body did not arrive in time.";
            Err(Error::new("RequestTimeout", message).with_status(408))
        }
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body.into()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    // A UUID is a valid value.
    if let Ok(id) = HeaderValue::from_str(answer.request_id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
