//! Heads as they are forwarded: as they came, without what is a connection's, and with what a load balancer says.

use std::io::Write as _;
use std::net::IpAddr;

use super::head::{Field, Known, elements};
use super::{Connection, Framing, Request, Response};
use crate::config::{Attributes, XffMode};

/// What a target is told of a request's way.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub ip: IpAddr,
    pub port: u16,
    pub is_tls: bool,
    /// The port that it came to.
    pub listener_port: u16,
    /// Version and cipher suite of its connection, if the target is to know them.
    pub tls: Option<(&'static str, &'static str)>,
}

/// Writes a request as its target gets it. `trace` is drawn anew for each: its first four bytes are the time in seconds.
pub fn request(
    head: &[u8],
    request: &Request,
    client: &Client,
    attributes: &Attributes,
    trace: [u8; 16],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&head[request.method.clone()]);
    out.push(b' ');
    out.extend_from_slice(&head[request.target.clone()]);
    out.extend_from_slice(if request.is_old { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    write_host(head, request, client, attributes, out);
    let upgrades = request.connection == Connection::Upgrade;
    let (mut forwarded_for, mut traced, mut has_length) =
        (Vec::new(), None, request.framing == Framing::Chunked);
    let mut run = Run::default();
    for field in &request.fields {
        let is_kept = match field.known {
            Some(Known::Host | Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Te) => {
                false
            }
            Some(Known::ForwardedPort | Known::ForwardedProto) => false,
            Some(Known::Upgrade) => upgrades,
            Some(Known::ContentLength) => !std::mem::replace(&mut has_length, true),
            Some(Known::ForwardedFor) => {
                forwarded_for.push(field.value.clone());
                attributes.xff_header_processing == XffMode::Preserve
            }
            Some(Known::TraceId) => {
                traced = Some(field.value.clone());
                false
            }
            Some(Known::Cookie | Known::Expect | Known::TransferEncoding) => true,
            None => {
                let name = &head[field.name.clone()];
                let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
                (!attributes.drop_invalid_header_fields || name.iter().all(is_valid))
                    && (client.tls.is_none() || !is_of_tls(name))
                    && !is_nominated(head, &request.fields, name)
            }
        };
        run.take(head, field, is_kept, out);
    }
    run.end(head, out);
    if attributes.xff_header_processing == XffMode::Append {
        out.extend_from_slice(b"X-Forwarded-For: ");
        for value in forwarded_for {
            out.extend_from_slice(&head[value]);
            out.extend_from_slice(b", ");
        }
        write_source(client, attributes, out);
        out.extend_from_slice(b"\r\n");
    }
    let scheme: &[u8] = if client.is_tls { b"https" } else { b"http" };
    out.extend_from_slice(b"X-Forwarded-Proto: ");
    out.extend_from_slice(scheme);
    out.extend_from_slice(b"\r\nX-Forwarded-Port: ");
    write_number(client.listener_port.into(), out);
    if let Some((version, cipher)) = client.tls {
        write_text(
            format_args!("\r\nX-Amzn-Tls-Version: {version}\r\nX-Amzn-Tls-Cipher-Suite: {cipher}"),
            out,
        );
    }
    out.extend_from_slice(b"\r\nX-Amzn-Trace-Id: ");
    write_trace(traced.map(|value| &head[value]), trace, out);
    out.extend_from_slice(match request.connection {
        Connection::Upgrade => b"\r\nConnection: upgrade\r\n\r\n",
        // An old server closes unless it is asked not to.
        _ if request.is_old => b"\r\nConnection: keep-alive\r\n\r\n",
        _ => b"\r\n\r\n",
    });
}

/// Writes a response as its client gets it, with `added` fields, each with its end. `closes`: the connection ends with it.
pub fn response(
    head: &[u8],
    response: &Response,
    is_old: bool,
    closes: bool,
    added: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&head[response.first_line.clone()]);
    out.extend_from_slice(b"\r\n");
    let upgrades = response.status == 101;
    let mut has_length = false;
    let mut run = Run::default();
    for field in &response.fields {
        let is_kept = match field.known {
            Some(Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Te) => false,
            Some(Known::Upgrade) => upgrades,
            Some(Known::ContentLength) => !std::mem::replace(&mut has_length, true),
            Some(_) => true,
            None => !is_nominated(head, &response.fields, &head[field.name.clone()]),
        };
        run.take(head, field, is_kept, out);
    }
    run.end(head, out);
    out.extend_from_slice(added);
    out.extend_from_slice(match (upgrades, closes, is_old) {
        (true, ..) => b"Connection: upgrade\r\n\r\n",
        (_, true, _) => b"Connection: close\r\n\r\n",
        (_, false, true) => b"Connection: keep-alive\r\n\r\n",
        (_, false, false) => b"\r\n",
    });
}

/// Lines that follow each other and are copied at once.
#[derive(Default)]
struct Run {
    from: usize,
    to: usize,
}

impl Run {
    fn take(&mut self, head: &[u8], field: &Field, is_kept: bool, out: &mut Vec<u8>) {
        if is_kept && field.line.start == self.to {
            self.to = field.line.end;
        } else if is_kept {
            self.end(head, out);
            (self.from, self.to) = (field.line.start, field.line.end);
        }
    }

    fn end(&self, head: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&head[self.from..self.to]);
    }
}

/// Whether only a load balancer may say it.
fn is_of_tls(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"x-amzn-tls-version") || name.eq_ignore_ascii_case(b"x-amzn-tls-cipher-suite")
}

/// Whether `Connection` says that the field is a connection's (RFC 9110, 7.6.1).
fn is_nominated(head: &[u8], fields: &[Field], name: &[u8]) -> bool {
    let mut connections = fields.iter().filter(|field| field.known == Some(Known::Connection));
    connections.any(|field| {
        let value = &head[field.value.clone()];
        // The usual ones nominate nothing.
        value.len() > 10 && elements(value).any(|element| element.eq_ignore_ascii_case(name))
    })
}

fn write_host(head: &[u8], request: &Request, client: &Client, attributes: &Attributes, out: &mut Vec<u8>) {
    let host = &head[request.host.clone()];
    out.extend_from_slice(b"Host: ");
    out.extend_from_slice(host);
    let usual = if client.is_tls { 443 } else { 80 };
    let has_port = host.iter().rposition(|byte| *byte == b':') > host.iter().rposition(|byte| *byte == b']');
    if !attributes.preserve_host_header && client.listener_port != usual && !has_port && !host.is_empty() {
        out.push(b':');
        write_number(client.listener_port.into(), out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_source(client: &Client, attributes: &Attributes, out: &mut Vec<u8>) {
    match client.ip {
        IpAddr::V4(ip) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                write_number(octet.into(), out);
            }
        }
        IpAddr::V6(ip) if attributes.xff_client_port => write_text(format_args!("[{ip}]"), out),
        IpAddr::V6(ip) => write_text(format_args!("{ip}"), out),
    }
    if attributes.xff_client_port {
        out.push(b':');
        write_number(client.port.into(), out);
    }
}

/// As AWS's tracing has it (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-request-tracing.html>): a trace that there is
/// goes on, and gets to know this.
fn write_trace(before: Option<&[u8]>, trace: [u8; 16], out: &mut Vec<u8>) {
    let goes_on = before.is_some_and(|value| value.windows(5).any(|part| part == b"Root="));
    out.extend_from_slice(if goes_on { b"Self=1-" } else { b"Root=1-" });
    write_identity(trace, out);
    if let Some(value) = before {
        out.push(b';');
        out.extend_from_slice(value);
    }
}

fn write_identity(trace: [u8; 16], out: &mut Vec<u8>) {
    for (place, byte) in trace.into_iter().enumerate() {
        if place == 4 {
            out.push(b'-');
        }
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// How a trace is called that begins here.
pub fn trace(trace: [u8; 16]) -> String {
    let mut text = b"Root=1-".to_vec();
    write_identity(trace, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

fn write_number(number: u32, out: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        // A digit.
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_text(text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    // To write into memory cannot fail.
    let _ = out.write_fmt(text);
}
