//! One check of one target: asks it as its group is asked, and looks at the code that it answers with.
//!
//! Over HTTP/2 the request is written, and the answer read, as HTTP/1.1, which a [`Session`] translates.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use types::{Clock as _, SystemClock};

use crate::config::{HealthCheck, Protocol, ProtocolVersion, TargetGroup};
use crate::health::{Event, Failure};
use crate::http1::{Body, Part, Response, end_of_head, read_fields};
use crate::http2::{Session, Taken};

/// The most that is read of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is asked of whom.
pub(super) struct Probe {
    address: SocketAddr,
    /// From where it is asked. None: the kernel chooses.
    source: Option<IpAddr>,
    version: ProtocolVersion,
    check: HealthCheck,
}

/// An answer, as far as it was read.
#[derive(Default)]
struct Answer {
    text: Vec<u8>,
    response: Response,
    /// Where the head ends.
    head: Option<usize>,
}

impl Probe {
    pub(super) fn new(target: SocketAddr, group: &TargetGroup, source: Option<IpAddr>) -> Self {
        let check = group.health_check.clone();
        let address = SocketAddr::new(target.ip(), check.port.unwrap_or(target.port()));
        Self { address, source, version: group.protocol_version, check }
    }

    pub(super) async fn run(self) -> Event {
        let Ok(matcher) = self.check.matcher(self.version) else { return Event::Failed(Failure::Internal) };
        let time = Duration::from_secs(self.check.timeout_s.into());
        match timeout(time, self.code()).await {
            Ok(Ok(code)) if matcher.matches(code) => Event::Passed,
            Ok(Ok(code)) => Event::Failed(Failure::Code(code)),
            Ok(Err(_)) => Event::Failed(Failure::Connection),
            Err(_) => Event::Failed(Failure::Timeout),
        }
    }

    /// The status that the target answers with, or of gRPC its own.
    async fn code(&self) -> io::Result<u16> {
        let stream = self.connect().await?;
        if self.check.protocol == Protocol::Http {
            return self.ask(stream).await;
        }
        let config =
            crate::tls::of_targets(self.version != ProtocolVersion::Http1).map_err(io::Error::other)?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await?;
        self.ask(stream).await
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(self.address).await
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<u16> {
        let (address, path) = (self.address, self.check.path(self.version));
        let common = format!("Host: {address}\r\nUser-Agent: ELB-HealthChecker/2.0\r\n");
        let mut answer = Answer::default();
        match self.version {
            ProtocolVersion::Http1 => {
                let request = format!(
                    "GET {path} HTTP/1.1\r\n{common}Connection: close\r\nAccept-Encoding: gzip, compressed\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await?;
                while !answer.has_head()? {
                    if stream.read_buf(&mut answer.text).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Ok(answer.response.status)
            }
            ProtocolVersion::Http2 => {
                let request =
                    format!("GET {path} HTTP/1.1\r\n{common}Accept-Encoding: gzip, compressed\r\n\r\n");
                self.ask_http2(stream, request.as_bytes(), &mut answer, Answer::has_head).await?;
                Ok(answer.response.status)
            }
            ProtocolVersion::Grpc => {
                // A message without content, not compressed.
                let request = format!(
                    "POST {path} HTTP/1.1\r\n{common}Content-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0"
                );
                self.ask_http2(stream, request.as_bytes(), &mut answer, Answer::is_whole).await?;
                answer.grpc_status()
            }
        }
    }

    /// Reads an answer until `is_enough`.
    async fn ask_http2(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        request: &[u8],
        answer: &mut Answer,
        is_enough: impl Fn(&mut Answer) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut session = Session::client(self.check.protocol == Protocol::Https, SystemClock.now());
        let id = session.open(false);
        session.write(id, request);
        let mut came = Vec::new();
        loop {
            let mut out = Vec::new();
            session.output(&mut out);
            stream.write_all(&out).await?;
            match session.take(id) {
                Taken::Bytes(bytes) => answer.text.extend(bytes),
                Taken::Nothing => {
                    came.clear();
                    if stream.read_buf(&mut came).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    session
                        .receive(&came, SystemClock.now())
                        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                }
                Taken::End | Taken::Failed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if is_enough(answer)? {
                return Ok(());
            }
        }
    }
}

impl Answer {
    /// # Errors
    /// When it is no answer.
    fn has_head(&mut self) -> io::Result<bool> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        if self.text.len() > ANSWER_BYTES_MAX {
            return Err(invalid());
        }
        if let Some(end) = self.head.is_none().then(|| end_of_head(&self.text, 0)).flatten() {
            self.response.parse(&self.text[..end], false).map_err(|_| invalid())?;
            self.head = Some(end);
        }
        Ok(self.head.is_some())
    }

    fn is_whole(&mut self) -> io::Result<bool> {
        Ok(self.has_head()? && self.trailers()?.is_some())
    }

    /// What follows the body; none as long as it has not ended.
    fn trailers(&self) -> io::Result<Option<Vec<u8>>> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut rest = &self.text[self.head.unwrap_or_default()..];
        let mut body = Body::new(self.response.framing);
        let mut trailers = Vec::new();
        while !body.has_ended() {
            if rest.is_empty() {
                return Ok(None);
            }
            let (taken, part) = body.take_part(rest).map_err(invalid)?;
            if part == Part::Trailer {
                trailers.extend_from_slice(&rest[..taken]);
            }
            rest = &rest[taken..];
        }
        Ok(Some(trailers))
    }

    /// In the trailers, or in the head, if there is no message (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
    fn grpc_status(&self) -> io::Result<u16> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let status = |text: &[u8], fields: &[crate::http1::Field]| {
            let field =
                fields.iter().find(|field| text[field.name.clone()].eq_ignore_ascii_case(b"grpc-status"))?;
            std::str::from_utf8(&text[field.value.clone()]).ok()?.parse().ok()
        };
        let trailers = self.trailers()?.unwrap_or_default();
        let mut fields = Vec::new();
        if !trailers.is_empty() {
            read_fields(&trailers, 0, &mut fields).map_err(|_| invalid())?;
        }
        status(&trailers, &fields).or_else(|| status(&self.text, &self.response.fields)).ok_or_else(invalid)
    }
}
