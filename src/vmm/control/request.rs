//! HTTP/1.1 requests out of a stream of bytes (RFC 9112), bounded in every direction.
//!
//! ```text
//!  bytes ──feed──▶ [ head …\r\n\r\n | body ][ next request … ]
//!  descriptors ──▶ marked with the offset of the byte they came with ──▶ the request that ends at or after it
//! ```
//!
//! It is pure: bytes go in, requests come out, whichever way the bytes were cut. Heads are parsed once, when they are
//! complete. What is not served is refused, never guessed: chunked bodies, other versions, two lengths.

use std::os::fd::OwnedFd;

use super::response::Refusal;
use crate::console::count;

/// The longest head: request line and header fields.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest body.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The most descriptors with one request: a tap's for each of an interface's pairs of queues.
pub(super) const DESCRIPTORS_MAX: usize = 32;
const FIELDS_MAX: usize = 64;

/// One whole request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    /// What follows the `?`, empty if nothing does.
    pub(super) query: String,
    /// The protocol that the client wants to change to.
    pub(super) upgrade: Option<String>,
    pub(super) keep_alive: bool,
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What [`RequestReader::next`] found.
#[derive(Debug)]
pub(super) enum Progress {
    /// No whole request yet.
    Incomplete,
    /// The same, and the client waits for `100 Continue` before it sends the body. Said once.
    ExpectsContinue,
    Complete(Request),
}

/// A head whose body is still coming.
#[derive(Debug)]
struct Head {
    /// The request, but for its body and descriptors.
    request: Request,
    body_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct RequestReader {
    /// What has come and belongs to no complete request yet.
    buffer: Vec<u8>,
    /// How far the buffer was searched for the end of a head.
    searched: usize,
    head: Option<Head>,
    /// The stream's offset of the buffer's first byte.
    offset: u64,
    /// Descriptors, and the stream's offset behind the byte that they came with.
    descriptors: Vec<(u64, OwnedFd)>,
}

impl RequestReader {
    /// Takes what one receive gave.
    pub(super) fn feed(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        self.buffer.extend_from_slice(bytes);
        let behind = self.offset + count(self.buffer.len());
        self.descriptors.extend(descriptors.into_iter().map(|fd| (behind, fd)));
    }

    /// Whether more bytes could be of use: not while a whole request's worth waits.
    pub(super) fn has_room(&self) -> bool {
        self.buffer.len() < HEAD_BYTES_MAX + BODY_BYTES_MAX
    }

    /// Whether a request has begun and is not complete.
    pub(super) fn is_within_request(&self) -> bool {
        self.head.is_some() || !self.buffer.is_empty()
    }

    /// Bytes after the last request: of another protocol, once the connection changed to it.
    pub(super) fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// The next whole request, if it has come.
    ///
    /// # Errors
    /// A [`Refusal`]: where this request ends is unknown then, so that nothing after it can be read.
    pub(super) fn next(&mut self) -> Result<Progress, Refusal> {
        let mut said_continue = true;
        if self.head.is_none() {
            let Some((head, length, expects_continue)) = self.take_head()? else {
                return Ok(Progress::Incomplete);
            };
            self.consume(length);
            self.searched = 0;
            said_continue = !expects_continue;
            self.head = Some(head);
        }
        match self.head.take() {
            Some(head) if self.buffer.len() >= head.body_bytes => self.complete(head).map(Progress::Complete),
            unfinished => {
                self.head = unfinished;
                Ok(if said_continue { Progress::Incomplete } else { Progress::ExpectsContinue })
            }
        }
    }

    fn complete(&mut self, head: Head) -> Result<Request, Refusal> {
        let mut request = head.request;
        request.body = self.consume(head.body_bytes);
        let end = self.offset;
        let ours = self.descriptors.iter().take_while(|(behind, _)| *behind <= end).count();
        request.descriptors = self.descriptors.drain(..ours).map(|(_, fd)| fd).collect();
        if request.descriptors.len() > DESCRIPTORS_MAX {
            return Err(Refusal::TooManyDescriptors);
        }
        Ok(request)
    }

    fn consume(&mut self, length: usize) -> Vec<u8> {
        self.offset += count(length);
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// The head at the beginning of the buffer, its length, and whether it waits for `100 Continue`.
    fn take_head(&mut self) -> Result<Option<(Head, usize, bool)>, Refusal> {
        let window = &self.buffer[..self.buffer.len().min(HEAD_BYTES_MAX)];
        if !has_empty_line(window, self.searched) {
            self.searched = window.len();
            return if window.len() == HEAD_BYTES_MAX { Err(Refusal::HeadTooLong) } else { Ok(None) };
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(window).map_err(Refusal::from)? {
            httparse::Status::Complete(length) => {
                let (head, expects_continue) = interpret(&parsed)?;
                Ok(Some((head, length, expects_continue)))
            }
            // Empty lines before the request, which are allowed.
            httparse::Status::Partial if window.len() == HEAD_BYTES_MAX => Err(Refusal::HeadTooLong),
            httparse::Status::Partial => Ok(None),
        }
    }
}

/// Whether an empty line ends in `bytes` behind `from`.
fn has_empty_line(bytes: &[u8], from: usize) -> bool {
    let mut ends = bytes.iter().enumerate().skip(from).filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at);
    ends.any(|at| bytes[..at].ends_with(b"\n") || bytes[..at].ends_with(b"\n\r"))
}

/// A parsed head as what it means to this server.
fn interpret(parsed: &httparse::Request<'_, '_>) -> Result<(Head, bool), Refusal> {
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::Malformed { reason: "the request line is incomplete" });
    };
    let fields = Fields(parsed.headers);
    if minor == 1 && fields.all("host").count() != 1 {
        return Err(Refusal::Malformed { reason: "HTTP/1.1 wants exactly one Host field" });
    }
    let body_bytes = body_length(&fields)?;
    let expects_continue = match fields.one("expect")? {
        None => false,
        Some(expected) if expected.eq_ignore_ascii_case("100-continue") => minor == 1 && body_bytes > 0,
        Some(_) => return Err(Refusal::Expectation),
    };
    let (path, query) = split_target(target);
    let keep_alive =
        !fields.lists("connection", "close") && (minor == 1 || fields.lists("connection", "keep-alive"));
    let upgrade = if fields.lists("connection", "upgrade") { fields.one("upgrade")? } else { None };
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        upgrade: upgrade.map(str::to_owned),
        keep_alive,
        body: Vec::new(),
        descriptors: Vec::new(),
    };
    Ok((Head { request, body_bytes }, expects_continue))
}

/// How long the body is (RFC 9112, section 6.3).
fn body_length(fields: &Fields<'_, '_>) -> Result<usize, Refusal> {
    if let Some(coding) = fields.one("transfer-encoding")? {
        let chunked = coding.eq_ignore_ascii_case("chunked");
        return Err(if chunked { Refusal::LengthRequired } else { Refusal::TransferCoding });
    }
    let Some(text) = fields.one("content-length")? else { return Ok(0) };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::Malformed { reason: "Content-Length is not a number" });
    }
    match text.parse() {
        Ok(length) if length <= BODY_BYTES_MAX => Ok(length),
        _ => Err(Refusal::BodyTooLong),
    }
}

/// Path and query of a request's target, which may name the host as well (RFC 9112, section 3.2.2).
fn split_target(target: &str) -> (&str, &str) {
    let target = match target.strip_prefix("http://") {
        Some(absolute) => absolute.find('/').map_or("/", |at| &absolute[at..]),
        None => target,
    };
    target.split_once('?').unwrap_or((target, ""))
}

struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value of a field that must not come twice.
    fn one(&self, name: &str) -> Result<Option<&'b str>, Refusal> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Refusal::Malformed { reason: "a field came twice that must come once" });
        }
        let Some(value) = first else { return Ok(None) };
        let text =
            str::from_utf8(value).map_err(|_| Refusal::Malformed { reason: "a field is not UTF-8" })?;
        Ok(Some(text.trim()))
    }

    /// Whether the comma-separated list `name` has `member`.
    fn lists(&self, name: &str, member: &str) -> bool {
        let member = member.as_bytes();
        self.all(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(member))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader makes of bytes that come in `pieces`: a line for each request, and one for a refusal.
    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = RequestReader::default();
        let mut found = Vec::new();
        for piece in pieces {
            reader.feed(piece, Vec::new());
            loop {
                match reader.next() {
                    Ok(Progress::Complete(request)) => found.push(format!("{request:?}")),
                    Ok(Progress::ExpectsContinue) => {}
                    Ok(Progress::Incomplete) => break,
                    Err(refusal) => {
                        found.push(refusal.to_string());
                        return found;
                    }
                }
            }
        }
        found
    }

    fn any_request() -> impl Strategy<Value = Vec<u8>> {
        let line = "(GET|PUT) /[a-z]{0,5}(\\?a=1)? HTTP/1\\.[012]";
        let field = "(Host: x|Content-Length: [0-9]{1,2}|Expect: 100-continue|Connection: (close|upgrade)|[a-z]{1,3} ?: ?[ -~]{0,5})";
        let head = (line, prop::collection::vec(field, 0..5), "(\r\n|\n)");
        (head, prop::collection::vec(any::<u8>(), 0..30)).prop_map(|((line, fields, end), body)| {
            let mut bytes = format!("{line}{end}").into_bytes();
            for field in fields {
                bytes.extend(format!("{field}{end}").into_bytes());
            }
            bytes.extend(end.into_bytes());
            bytes.extend(body);
            bytes
        })
    }

    proptest! {
        #[test]
        fn how_the_bytes_were_cut_does_not_matter(
            requests in prop::collection::vec(any_request(), 1..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = requests.concat();
            let whole = read(&[&bytes]);
            let each: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&read(&each), &whole);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&read(&pieces), &whole);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            read(&[&bytes]);
        }
    }
}
