//! What a load balancer says by itself.

use std::io::Write as _;
use std::time::SystemTime;

use crate::config::FixedResponse;

/// What the connection of a response is for afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// To a HEAD there is no body.
    pub(super) to_head: bool,
    pub(super) closes: bool,
}

/// A status, with a page for people.
pub(super) fn status(status: u16, manner: Manner, out: &mut Vec<u8>) {
    let reason = reason(status);
    let page = format!(
        "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    write(status, Some("text/html"), &[], page.as_bytes(), manner, out);
}

pub(super) fn fixed(response: &FixedResponse, manner: Manner, out: &mut Vec<u8>) {
    write(response.status, response.content_type.as_deref(), &[], response.body.as_bytes(), manner, out);
}

pub(super) fn redirect(status: u16, location: &str, manner: Manner, out: &mut Vec<u8>) {
    let field = format!("Location: {location}\r\n");
    write(status, None, field.as_bytes(), &[], manner, out);
}

fn write(status: u16, kind: Option<&str>, fields: &[u8], body: &[u8], manner: Manner, out: &mut Vec<u8>) {
    let date = httpdate::fmt_http_date(SystemTime::now());
    // To write into memory cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\nServer: nimbo\r\nDate: {date}\r\n", reason(status));
    if let Some(kind) = kind {
        let _ = write!(out, "Content-Type: {kind}\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\nConnection: ", body.len());
    out.extend_from_slice(if manner.closes { b"close\r\n" } else { b"keep-alive\r\n" });
    out.extend_from_slice(fields);
    out.extend_from_slice(b"\r\n");
    if !manner.to_head {
        out.extend_from_slice(body);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Payload Too Large",
        429 => "Too Many Requests",
        464 => "Incompatible Protocol",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
