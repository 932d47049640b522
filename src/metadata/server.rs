//! The service on a socket: HTTP/1.1, limits, and the hop limit of tokens.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::service::{Answer, Method, Request, Service};
use crate::token::Ttl;

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// Connections at once; the next one waits.
const CONNECTIONS_MAX: usize = 128;
/// For a request's head to arrive, and between two on one connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Of a request's head; a longer one is refused. Of a body nothing is kept: no request has one.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// A pause after an error of the listening socket, so that one which lasts does not take a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The service cannot be put on its socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metadata on this socket")]
pub struct Error(#[source] io::Error);

/// Answers on `listener` until it is dropped. The socket must not block; it may be of another network
/// namespace than the thread that drives this.
///
/// # Errors
/// When the socket cannot be watched. Errors of single connections are theirs.
pub async fn serve(listener: TcpListener, service: Arc<Service>) -> Result<(), Error> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Error)?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, service).await {
                        tracing::debug!(error, %client, "a metadata connection failed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the metadata service failed to accept");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn converse(stream: TcpStream, service: Arc<Service>) -> Result<(), Box<dyn std::error::Error>> {
    // Another hold on the same connection, by which its hop limit is set while hyper has the first.
    let stream = stream.into_std()?;
    let connection = Arc::new(stream.try_clone()?);
    let usual_hops = connection.ttl()?;
    let stream = TcpStream::from_std(stream)?;
    let handle = service_fn(move |request: hyper::Request<Incoming>| {
        let (service, connection) = (service.clone(), connection.clone());
        async move {
            let answer = service.answer(read(&request));
            let hops = match answer {
                Answer::Token { hop_limit, .. } => u32::from(hop_limit),
                _ => usual_hops,
            };
            if let Err(error) = connection.set_ttl(hops) {
                // A token that may go further than it should is not given.
                tracing::warn!(%error, "the hop limit of a metadata connection cannot be set");
                return Ok::<_, Infallible>(plain(StatusCode::INTERNAL_SERVER_ERROR));
            }
            Ok(write(answer))
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), handle)
        .await?;
    Ok(())
}

fn read<B>(request: &hyper::Request<B>) -> Request<'_> {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    Request {
        method: match *request.method() {
            hyper::Method::GET | hyper::Method::HEAD => Method::Get,
            hyper::Method::PUT => Method::Put,
            _ => Method::Other,
        },
        path: request.uri().path(),
        token: header(TOKEN),
        ttl: header(TOKEN_TTL),
        is_forwarded: request.headers().contains_key("x-forwarded-for"),
    }
}

fn write(answer: Answer) -> Response<Full<Bytes>> {
    match answer {
        Answer::Text { body, token_ttl } => success("text/plain", body.into(), token_ttl),
        Answer::UserData { body, token_ttl } => success("application/octet-stream", body.into(), token_ttl),
        Answer::Token { token, ttl, .. } => success("text/plain", token.into(), Some(ttl)),
        Answer::BadRequest => plain(StatusCode::BAD_REQUEST),
        Answer::Unauthorized => plain(StatusCode::UNAUTHORIZED),
        Answer::Forbidden => plain(StatusCode::FORBIDDEN),
        Answer::NotFound => plain(StatusCode::NOT_FOUND),
        Answer::MethodNotAllowed => plain(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn success(kind: &'static str, body: Bytes, token_ttl: Option<Ttl>) -> Response<Full<Bytes>> {
    let mut response = headed(StatusCode::OK, kind, body);
    if let Some(ttl) = token_ttl {
        response.headers_mut().insert(TOKEN_TTL, ttl.as_secs().into());
    }
    response
}

/// A page that says no more than the status does.
fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let title = format!("{} - {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let page = format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n");
    headed(status, "text/html", page.into())
}

fn headed(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // By this name clients know whom they talk to.
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    response
}
