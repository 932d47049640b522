//! A blocking client of the control socket, for the command line and for tests.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{ErrorBody, ErrorDetail};
use super::routes::CONSOLE_PROTOCOL;
use crate::descriptors;

/// An answer's head is shorter.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longer than the server makes anyone wait.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot {operation} the control socket")]
    Socket { operation: &'static str, source: io::Error },
    #[error("the control socket answered what is not HTTP")]
    Head { source: httparse::Error },
    #[error("the control socket closed within an answer")]
    Truncated,
    #[error("the answer to {method} {path} is not what was expected")]
    Json { method: String, path: String, source: serde_json::Error },
    /// The machine said no.
    #[error("{}", .detail.message)]
    Refused { status: u16, detail: ErrorDetail },
}

/// An answer that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection to a machine's control socket.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// What came after the last answer.
    received: Vec<u8>,
}

/// A console's stream: what is read from it is the guest's output, after the bytes that came already.
#[derive(Debug)]
pub struct ConsoleStream {
    pub stream: UnixStream,
    pub received: Vec<u8>,
}

impl Client {
    /// # Errors
    /// [`ClientError::Socket`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(socket("connect to"))?;
        Self::over(stream)
    }

    /// A client over a stream that is connected already.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub fn over(stream: UnixStream) -> Result<Self, ClientError> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(socket("configure"))?;
        Ok(Client { stream, received: Vec::new() })
    }

    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when the machine said no.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let reply = self.request("GET", path, &[], &[])?;
        decode("GET", path, &reply)
    }

    /// Posts `body` with `descriptors`, which stay open here.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when the machine said no.
    pub fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<T, ClientError> {
        let reply = self.request("POST", path, &encode("POST", path, body)?, descriptors)?;
        decode("POST", path, &reply)
    }

    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when the machine said no.
    pub fn put<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let reply = self.request("PUT", path, &encode("PUT", path, body)?, &[])?;
        decode("PUT", path, &reply)
    }

    /// Status 202 means that the guest was asked; 204 that it is done.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when the machine said no.
    pub fn delete(&mut self, path: &str) -> Result<Reply, ClientError> {
        self.request("DELETE", path, &[], &[])
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when the machine said no.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Reply, ClientError> {
        let length = body.len();
        let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        self.send(method, path, &fields, body, descriptors)?;
        self.receive()
    }

    /// Becomes a viewer of the console, from `offset` of its output on or from what comes next; with `input`, the one
    /// who types.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when somebody else types.
    pub fn attach_console(mut self, offset: Option<u64>, input: bool) -> Result<ConsoleStream, ClientError> {
        let from = offset.map(|offset| format!("&offset={offset}")).unwrap_or_default();
        let path = format!("/v1/console?input={input}{from}");
        let fields = format!("Connection: Upgrade\r\nUpgrade: {CONSOLE_PROTOCOL}\r\n");
        self.send("GET", &path, &fields, &[], &[])?;
        self.receive()?;
        self.stream.set_read_timeout(None).map_err(socket("configure"))?;
        Ok(ConsoleStream { stream: self.stream, received: self.received })
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let bytes = [head.as_bytes(), body].concat();
        let sent = descriptors::send(&self.stream, &bytes, descriptors).map_err(socket("write to"))?;
        self.stream.write_all(&bytes[sent..]).map_err(socket("write to"))
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut reply = loop {
            if let Some(reply) = self.take_head()? {
                break reply;
            }
            if self.received.len() > HEAD_BYTES_MAX {
                return Err(ClientError::Head { source: httparse::Error::TooManyHeaders });
            }
            self.receive_more()?;
        };
        let length = reply.field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while self.received.len() < length {
            self.receive_more()?;
        }
        let rest = self.received.split_off(length);
        reply.body = std::mem::replace(&mut self.received, rest);
        if reply.status < 400 {
            return Ok(reply);
        }
        let detail = match serde_json::from_slice::<ErrorBody>(&reply.body) {
            Ok(body) => body.error,
            Err(_) => {
                ErrorDetail { code: "unknown".into(), message: format!("HTTP status {}", reply.status) }
            }
        };
        Err(ClientError::Refused { status: reply.status, detail })
    }

    fn take_head(&mut self) -> Result<Option<Reply>, ClientError> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let length = match head.parse(&self.received) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(source) => return Err(ClientError::Head { source }),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields = head.headers.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value)));
        let reply =
            Reply { status: head.code.unwrap_or_default(), fields: fields.collect(), body: Vec::new() };
        self.received.drain(..length);
        Ok(Some(reply))
    }

    fn receive_more(&mut self) -> Result<(), ClientError> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ClientError::Truncated),
            Ok(length) => {
                self.received.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            // A read that has a time-out is not restarted after a signal (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(socket("read from")(error)),
        }
    }
}

fn socket(operation: &'static str) -> impl FnOnce(io::Error) -> ClientError {
    move |source| ClientError::Socket { operation, source }
}

fn encode(method: &str, path: &str, body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|source| unexpected(method, path, source))
}

fn decode<T: DeserializeOwned>(method: &str, path: &str, reply: &Reply) -> Result<T, ClientError> {
    serde_json::from_slice(&reply.body).map_err(|source| unexpected(method, path, source))
}

fn unexpected(method: &str, path: &str, source: serde_json::Error) -> ClientError {
    ClientError::Json { method: method.to_owned(), path: path.to_owned(), source }
}
