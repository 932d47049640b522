//! As much of an HTTP/1.1 client (RFC 9112) as the metadata service needs: one request for one connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Answers longer than this are not read: user-data has at most 16 KiB.
const LENGTH_MAX: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("connect to {server}")]
    Connect { server: SocketAddr, source: std::io::Error },
    #[error("exchange with {server}")]
    Exchange { server: SocketAddr, source: std::io::Error },
    #[error("{server} has not answered in {limit:?}")]
    TimedOut { server: SocketAddr, limit: Duration },
    #[error("the answer of {server} is not HTTP: {what}")]
    Malformed { server: SocketAddr, what: &'static str },
}

/// Sends a request without a body. `limit` is for all of it.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    limit: Duration,
) -> Result<Response, HttpError> {
    let deadline = Instant::now() + limit;
    let mut stream =
        TcpStream::connect_timeout(&server, limit).map_err(|source| HttpError::Connect { server, source })?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", server.ip());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if method == "PUT" {
        text += "Content-Length: 0\r\n";
    }
    text += "\r\n";
    let failed = |source| HttpError::Exchange { server, source };
    stream.write_all(text.as_bytes()).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HttpError::TimedOut { server, limit });
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        let length = match stream.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(source) => return Err(failed(source)),
        };
        bytes.extend_from_slice(&buffer[..length]);
        match parse(&bytes, length == 0) {
            Ok(Some(response)) => return Ok(response),
            Ok(None) if bytes.len() > LENGTH_MAX => {
                return Err(HttpError::Malformed { server, what: "it is too long" });
            }
            Ok(None) => {}
            Err(what) => return Err(HttpError::Malformed { server, what }),
        }
    }
}

/// Nothing until the answer is whole; `ended` says that no more will come.
fn parse(bytes: &[u8], ended: bool) -> Result<Option<Response>, &'static str> {
    let cut = "it was cut off";
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if ended { Err(cut) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "its head is not text")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok()).filter(|_| version.starts_with("HTTP/1."));
    let status = status.ok_or("it has no status line")?;
    let (mut length, mut is_chunked) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|_| "its length is not a number")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let rest = &bytes[end + 4..];
    let body = if is_chunked {
        chunks(rest)?
    } else {
        match length {
            Some(length) => rest.get(..length).map(<[u8]>::to_vec),
            None if ended => Some(rest.to_vec()),
            None => return Ok(None),
        }
    };
    match body {
        Some(body) => Ok(Some(Response { status, body })),
        None if ended => Err(cut),
        None => Ok(None),
    }
}

/// Joins the chunks, if the last one is there.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let bad = "the length of a chunk is not a number";
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| bad)?;
        let length =
            usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| bad)?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = rest.get(..length) else { return Ok(None) };
        body.extend_from_slice(chunk);
        let Some(after) = rest.get(length.saturating_add(2)..) else { return Ok(None) };
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str, ended: bool) -> Option<(u16, String)> {
        parse(text.as_bytes(), ended).unwrap().map(|r| (r.status, String::from_utf8(r.body).unwrap()))
    }

    #[test]
    fn the_three_ways_to_end_a_body() {
        let sized = "HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nhi";
        assert_eq!(whole(sized, false), Some((200, "hi".into())));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x\r\ni\r\n0\r\n\r\n";
        assert_eq!(whole(chunked, false), Some((200, "hi".into())));
        let closed = "HTTP/1.0 404 Not Found\r\n\r\nno";
        assert_eq!(whole(closed, false), None);
        assert_eq!(whole(closed, true), Some((404, "no".into())));
    }

    #[test]
    fn what_is_cut_off_is_an_error_only_at_the_end() {
        for text in ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "HTTP/1.1 2"] {
            assert_eq!(parse(text.as_bytes(), false), Ok(None));
            assert!(parse(text.as_bytes(), true).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(rest in prop::collection::vec(any::<u8>(), 0..100), chunked: bool) {
            let _ = parse(&rest, true);
            let head: &[u8] = if chunked { b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n" } else { b"HTTP/1.1 200 x\r\nContent-Length: " };
            let _ = parse(&[head, &rest].concat(), true);
        }
    }
}
