//! Messages of HTTP/1.1 as HTTP/2 has them: what the proxy writes becomes fields and data.
//!
//! ```text
//! Head ──head──▶ Body ──last byte──▶ Ended
//!  ▲ │ interim    │  └─▶ Trailer ──▶ Ended
//!  └─┘            └─ UntilClose: ends when its writer says so
//! ```

use super::hpack;
use crate::http1::{Body, Field, Known, Part, Request, Response, end_of_head, read_fields};

/// Which messages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Over TLS, or not.
    Request {
        is_tls: bool,
    },
    Response {
        to_head: bool,
    },
}

/// What came of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A block of fields. The message has ended with it, or another or data follow.
    Head { block: Vec<u8>, is_end: bool },
    /// These are data.
    Data(std::ops::Range<usize>),
    /// It has ended, with a block of trailers if there are some.
    End { trailers: Option<Vec<u8>> },
}

/// It is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMessage;

/// A message, as it is written.
#[derive(Debug)]
pub struct Outgoing {
    kind: Kind,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(Vec<u8>),
    Body { body: Body, trailer: Vec<u8> },
    Ended,
}

impl Outgoing {
    pub fn new(kind: Kind) -> Self {
        Self { kind, stage: Stage::Head(Vec::new()) }
    }

    /// It ends where its writer says so.
    pub fn is_until_close(&self) -> bool {
        matches!(self.stage, Stage::Body { body: Body::UntilClose, .. })
    }

    /// Takes `bytes` from `at` on, which it moves, up to one piece. None: all were taken. A head's block is written after `begin`.
    ///
    /// # Errors
    /// [`BadMessage`]; then the message cannot be gone on with.
    pub fn take(&mut self, bytes: &[u8], at: &mut usize, begin: &[u8]) -> Result<Option<Piece>, BadMessage> {
        loop {
            let rest = &bytes[*at..];
            match &mut self.stage {
                _ if rest.is_empty() => return Ok(None),
                Stage::Ended => return Err(BadMessage),
                Stage::Head(head) => {
                    let before = head.len();
                    head.extend_from_slice(rest);
                    let Some(end) = end_of_head(head, before) else {
                        *at = bytes.len();
                        return Ok(None);
                    };
                    *at += end - before;
                    let head = std::mem::take(head);
                    return self.head(&head[..end], begin).map(Some);
                }
                Stage::Body { body, trailer } => {
                    let (taken, part) = body.take_part(rest).map_err(|_| BadMessage)?;
                    let range = *at..*at + taken;
                    *at = range.end;
                    if part == Part::Trailer {
                        trailer.extend_from_slice(&bytes[range.clone()]);
                    }
                    if body.has_ended() && part != Part::Data {
                        let trailers = trailers(&std::mem::take(trailer))?;
                        self.stage = Stage::Ended;
                        return Ok(Some(Piece::End { trailers }));
                    }
                    if part == Part::Data {
                        return Ok(Some(Piece::Data(range)));
                    }
                }
            }
        }
    }

    /// What has ended with the last data: only a body whose length was said does.
    pub fn ends_here(&mut self) -> bool {
        let ends = matches!(self.stage, Stage::Body { body: Body::Ended, .. });
        if ends {
            self.stage = Stage::Ended;
        }
        ends
    }

    fn head(&mut self, head: &[u8], begin: &[u8]) -> Result<Piece, BadMessage> {
        let mut block = begin.to_vec();
        let framing = match self.kind {
            Kind::Request { is_tls } => {
                let mut request = Request::default();
                request.parse(head).map_err(|_| BadMessage)?;
                write_request(head, &request, is_tls, &mut block);
                request.framing
            }
            Kind::Response { to_head } => {
                let mut response = Response::default();
                response.parse(head, to_head).map_err(|_| BadMessage)?;
                hpack::write(b":status", response.status.to_string().as_bytes(), &mut block);
                write_fields(head, &response.fields, &mut block);
                if response.is_interim() {
                    self.stage = Stage::Head(Vec::new());
                    return Ok(Piece::Head { block, is_end: false });
                }
                response.framing
            }
        };
        let body = Body::new(framing);
        let is_end = body.has_ended();
        self.stage = if is_end { Stage::Ended } else { Stage::Body { body, trailer: Vec::new() } };
        Ok(Piece::Head { block, is_end })
    }
}

fn write_request(head: &[u8], request: &Request, is_tls: bool, block: &mut Vec<u8>) {
    hpack::write(b":method", &head[request.method.clone()], block);
    hpack::write(b":scheme", if is_tls { b"https" } else { b"http" }, block);
    hpack::write(b":path", &head[request.target.clone()], block);
    hpack::write(b":authority", &head[request.host.clone()], block);
    write_fields(head, &request.fields, block);
    // What was said of the client's connection was left out; here it is true (RFC 9110, 10.1.4).
    hpack::write(b"te", b"trailers", block);
}

/// Without what is a connection's (RFC 9113, 8.2.2).
fn write_fields(head: &[u8], fields: &[Field], block: &mut Vec<u8>) {
    for field in fields {
        let is_connections = matches!(
            field.known,
            Some(
                Known::Connection
                    | Known::Host
                    | Known::KeepAlive
                    | Known::ProxyConnection
                    | Known::Te
                    | Known::TransferEncoding
                    | Known::Upgrade
            )
        );
        if !is_connections {
            hpack::write(&head[field.name.clone()], &head[field.value.clone()], block);
        }
    }
}

/// The block of what follows the last chunk, if that is anything.
fn trailers(text: &[u8]) -> Result<Option<Vec<u8>>, BadMessage> {
    let mut fields = Vec::new();
    read_fields(text, 0, &mut fields).map_err(|_| BadMessage)?;
    if fields.is_empty() {
        return Ok(None);
    }
    let mut block = Vec::new();
    write_fields(text, &fields, &mut block);
    Ok(Some(block))
}
