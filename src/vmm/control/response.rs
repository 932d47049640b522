//! Answers, and the one place that says what each refusal looks like.

use std::borrow::Cow;

use serde::Serialize;

use super::api::{ErrorBody, ErrorDetail};
use super::operations::OperationError;
use super::request::{BODY_BYTES_MAX, DESCRIPTORS_MAX, HEAD_BYTES_MAX};

/// An answer before it is bytes.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    /// `value` as JSON.
    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Response { status, fields: vec![("Content-Type", "application/json".to_owned())], body }
            }
            Err(e) => Response::error(500, "host", &format!("the answer cannot be written as JSON: {e}")),
        }
    }

    pub(super) fn error(status: u16, code: &'static str, message: &str) -> Self {
        let detail = ErrorDetail { code: Cow::Borrowed(code), message: message.to_owned() };
        Response::json(status, &ErrorBody { error: detail })
    }

    pub(super) fn no_content() -> Self {
        Response { status: 204, fields: Vec::new(), body: Vec::new() }
    }

    pub(super) fn bytes(body: Vec<u8>) -> Self {
        let fields = vec![("Content-Type", "application/octet-stream".to_owned())];
        Response { status: 200, fields, body }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    /// The answer as it goes out. `head_only` answers a `HEAD` request.
    pub(super) fn into_bytes(self, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).into_bytes();
        let mut field = |name: &str, value: &str| bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        for (name, value) in &self.fields {
            field(name, value);
        }
        if self.status != 204 {
            field("Content-Length", &self.body.len().to_string());
        }
        if !keep_alive {
            field("Connection", "close");
        }
        bytes.extend_from_slice(b"\r\n");
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

impl From<&OperationError> for Response {
    fn from(error: &OperationError) -> Self {
        let (status, code) = error.status();
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            message.push_str(": ");
            message.push_str(&source.to_string());
            cause = source.source();
        }
        Response::error(status, code, &message)
    }
}

/// Why a request is not served at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the request is not HTTP: {reason}")]
    Malformed { reason: &'static str },
    #[error("the request's head is longer than {HEAD_BYTES_MAX} bytes or has too many fields")]
    HeadTooLong,
    #[error("the request's body is longer than {BODY_BYTES_MAX} bytes")]
    BodyTooLong,
    #[error("chunked bodies are not served: send Content-Length")]
    LengthRequired,
    #[error("no transfer coding is served: send Content-Length")]
    TransferCoding,
    #[error("the only expectation that is met is 100-continue")]
    Expectation,
    #[error("HTTP/1.1 is served, and HTTP/1.0")]
    Version,
    #[error(
        "more than {DESCRIPTORS_MAX} descriptors came with one request, or more than this process may open"
    )]
    TooManyDescriptors,
    #[error("the request took too long to come")]
    TimeOut,
    #[error("as many clients as are served are connected already: try again later")]
    Busy,
}

impl Refusal {
    fn status(&self) -> (u16, &'static str) {
        match self {
            Refusal::Malformed { .. } => (400, "malformed"),
            Refusal::TooManyDescriptors => (400, "descriptors"),
            Refusal::TimeOut => (408, "time_out"),
            Refusal::LengthRequired => (411, "length_required"),
            Refusal::BodyTooLong => (413, "body_too_long"),
            Refusal::Expectation => (417, "expectation"),
            Refusal::HeadTooLong => (431, "head_too_long"),
            Refusal::TransferCoding => (501, "transfer_coding"),
            Refusal::Busy => (503, "busy"),
            Refusal::Version => (505, "version"),
        }
    }
}

impl From<&Refusal> for Response {
    fn from(refusal: &Refusal) -> Self {
        let (status, code) = refusal.status();
        Response::error(status, code, &refusal.to_string())
    }
}

impl From<httparse::Error> for Refusal {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Refusal::Malformed { reason: "a field's name is wrong" },
            httparse::Error::HeaderValue => Refusal::Malformed { reason: "a field's value is wrong" },
            httparse::Error::NewLine => Refusal::Malformed { reason: "a line's end is wrong" },
            httparse::Error::TooManyHeaders => Refusal::HeadTooLong,
            httparse::Error::Version => Refusal::Version,
            httparse::Error::Status | httparse::Error::Token => {
                Refusal::Malformed { reason: "the request line is wrong" }
            }
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
