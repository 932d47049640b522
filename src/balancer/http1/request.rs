//! The head of a request.

use std::ops::Range;

use super::Framing;
use super::head::{BadField, Field, Known, elements, is_token, length, line_end, read_fields};

/// What is wrong with a request, in the words of AWS's table of reasons
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html#desync-mitigation-mode>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    AmbiguousUri,
    BadContentLength,
    BadHeader,
    BadMethod,
    BadTransferEncoding,
    BadUri,
    BadVersion,
    BothTeClPresent,
    DuplicateContentLength,
    GetHeadZeroContentLength,
    MultipleContentLength,
    MultipleTransferEncodingChunked,
    NonCompliantHeader,
    NonCompliantVersion,
    SpaceInUri,
    SuspiciousHeader,
    UndefinedContentLengthSemantics,
    UndefinedTransferEncodingSemantics,
}

/// How bad a [`Flaw`] is: how sure it is that all servers understand the request in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It follows no standard, and is understood all the same.
    Acceptable,
    /// Servers may differ about it.
    Ambiguous,
    /// It is refused, whatever the mode.
    Severe,
}

impl Flaw {
    pub fn severity(self) -> Severity {
        match self {
            Flaw::GetHeadZeroContentLength
            | Flaw::NonCompliantHeader
            | Flaw::NonCompliantVersion
            | Flaw::SpaceInUri
            | Flaw::UndefinedContentLengthSemantics => Severity::Acceptable,
            Flaw::AmbiguousUri
            | Flaw::BothTeClPresent
            | Flaw::DuplicateContentLength
            | Flaw::SuspiciousHeader
            | Flaw::UndefinedTransferEncodingSemantics => Severity::Ambiguous,
            Flaw::BadContentLength
            | Flaw::BadHeader
            | Flaw::BadMethod
            | Flaw::BadTransferEncoding
            | Flaw::BadUri
            | Flaw::BadVersion
            | Flaw::MultipleContentLength
            | Flaw::MultipleTransferEncodingChunked => Severity::Severe,
        }
    }
}

/// What a message says of the connection that it came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    KeepAlive,
    Close,
    /// It is to become one of another protocol, if the other end wants that.
    Upgrade,
}

/// The head of a request: places in the bytes that it was read from. One can be used for many, one after the other.
#[derive(Debug)]
pub struct Request {
    pub method: Range<usize>,
    /// Path and query, or `*`.
    pub target: Range<usize>,
    /// The host that it is for, with its port.
    pub host: Range<usize>,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub connection: Connection,
    /// It is of HTTP/1.0.
    pub is_old: bool,
    /// It waits for `100 Continue` with its body.
    pub expects_continue: bool,
    /// The worst of it.
    pub flaw: Option<Flaw>,
    /// Where the first line ends.
    pub fields_from: usize,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            method: 0..0,
            target: 0..0,
            host: 0..0,
            fields: Vec::new(),
            framing: Framing::None,
            connection: Connection::KeepAlive,
            is_old: false,
            expects_continue: false,
            flaw: None,
            fields_from: 0,
        }
    }
}

/// What there was of the fields that say where the body ends.
#[derive(Default)]
struct Lengths {
    length: Option<u64>,
    is_chunked: bool,
}

impl Request {
    /// Reads a head that is whole (see [`end_of_head`](super::end_of_head)) into this.
    ///
    /// # Errors
    /// The flaw for which it cannot be understood, a severe one.
    pub fn parse(&mut self, head: &[u8]) -> Result<(), Flaw> {
        self.flaw = None;
        let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
        let end = line_end(head, start).ok_or(Flaw::BadHeader)?;
        self.first_line(head, start..end)?;
        self.fields_from = end + 2;
        match read_fields(head, self.fields_from, &mut self.fields) {
            Ok(false) => {}
            Ok(true) => self.note(Flaw::NonCompliantHeader),
            Err(BadField::Name | BadField::Value | BadField::TooMany) => return Err(Flaw::BadHeader),
        }
        self.read_known(head)
    }

    fn note(&mut self, flaw: Flaw) {
        if self.flaw.is_none_or(|worst| worst.severity() < flaw.severity()) {
            self.flaw = Some(flaw);
        }
    }

    fn first_line(&mut self, head: &[u8], line: Range<usize>) -> Result<(), Flaw> {
        let text = &head[line.clone()];
        let space = text.iter().position(|byte| *byte == b' ').ok_or(Flaw::BadMethod)?;
        if space == 0 || !text[..space].iter().all(|byte| is_token(*byte)) {
            return Err(Flaw::BadMethod);
        }
        let last = text.iter().rposition(|byte| *byte == b' ').filter(|last| *last > space);
        let last = last.ok_or(Flaw::BadVersion)?;
        self.is_old = match &text[last + 1..] {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => {
                self.note(Flaw::NonCompliantVersion);
                false
            }
            _ => return Err(Flaw::BadVersion),
        };
        (self.method, self.target) =
            (line.start..line.start + space, line.start + space + 1..line.start + last);
        self.host = 0..0;
        self.read_target(head)
    }

    fn read_target(&mut self, head: &[u8]) -> Result<(), Flaw> {
        let target = &head[self.target.clone()];
        for byte in target {
            match byte {
                0 | b'\r' => return Err(Flaw::BadUri),
                b' ' => self.note(Flaw::SpaceInUri),
                b'!'..=b'~' | 0x80.. => {}
                _ => self.note(Flaw::AmbiguousUri),
            }
        }
        match target {
            [b'/', ..] => Ok(()),
            b"*" if head[self.method.clone()] == *b"OPTIONS" => Ok(()),
            // RFC 9112, 3.2.2: what is forwarded names the path alone, and the host as the URI has it.
            _ => {
                let scheme = if starts_with(target, b"http://") { 7 } else { 8 };
                if scheme == 8 && !starts_with(target, b"https://") {
                    return Err(Flaw::BadUri);
                }
                let rest = self.target.start + scheme;
                let path = head[rest..self.target.end].iter().position(|byte| matches!(byte, b'/' | b'?'));
                let path = rest + path.ok_or(Flaw::BadUri)?;
                if path == rest || head[path] != b'/' || !is_host(&head[rest..path]) {
                    return Err(Flaw::BadUri);
                }
                (self.host, self.target) = (rest..path, path..self.target.end);
                Ok(())
            }
        }
    }

    fn read_known(&mut self, head: &[u8]) -> Result<(), Flaw> {
        let mut lengths = Lengths::default();
        let mut hosts = 0;
        let (mut closes, mut stays, mut upgrades, mut has_upgrade) = (false, false, false, false);
        self.expects_continue = false;
        let fields = std::mem::take(&mut self.fields);
        let mut outcome = Ok(());
        for field in &fields {
            let value = &head[field.value.clone()];
            let read = match field.known {
                Some(Known::ContentLength) => self.content_length(value, &mut lengths),
                Some(Known::TransferEncoding) => self.transfer_encoding(value, &mut lengths),
                Some(Known::Host) => {
                    hosts += 1;
                    // A URI's host comes before it.
                    if self.host.is_empty() {
                        self.host = field.value.clone();
                    }
                    is_host(value).then_some(()).ok_or(Flaw::BadHeader)
                }
                Some(Known::Connection) => {
                    for element in elements(value) {
                        closes |= element.eq_ignore_ascii_case(b"close");
                        stays |= element.eq_ignore_ascii_case(b"keep-alive");
                        upgrades |= element.eq_ignore_ascii_case(b"upgrade");
                    }
                    Ok(())
                }
                Some(Known::Upgrade) => {
                    has_upgrade = true;
                    Ok(())
                }
                Some(Known::Expect) => {
                    self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
                    Ok(())
                }
                Some(_) => Ok(()),
                None => {
                    if is_suspicious(&head[field.name.clone()]) {
                        self.note(Flaw::SuspiciousHeader);
                    }
                    Ok(())
                }
            };
            outcome = outcome.and(read);
        }
        self.fields = fields;
        outcome?;
        if hosts != 1 && !(hosts == 0 && self.is_old) {
            return Err(Flaw::BadHeader);
        }
        self.connection = match self.is_old {
            _ if closes => Connection::Close,
            false if upgrades && has_upgrade => Connection::Upgrade,
            true if !stays => Connection::Close,
            _ => Connection::KeepAlive,
        };
        self.decide_framing(head, &lengths)
    }

    fn content_length(&mut self, value: &[u8], lengths: &mut Lengths) -> Result<(), Flaw> {
        let length = length(value).ok_or(Flaw::BadContentLength)?;
        match lengths.length.replace(length) {
            None => {}
            Some(before) if before == length => self.note(Flaw::DuplicateContentLength),
            Some(_) => return Err(Flaw::MultipleContentLength),
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8], lengths: &mut Lengths) -> Result<(), Flaw> {
        if self.is_old || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Flaw::BadTransferEncoding);
        }
        if std::mem::replace(&mut lengths.is_chunked, true) {
            return Err(Flaw::MultipleTransferEncodingChunked);
        }
        Ok(())
    }

    fn decide_framing(&mut self, head: &[u8], lengths: &Lengths) -> Result<(), Flaw> {
        let is_bare = matches!(&head[self.method.clone()], b"GET" | b"HEAD");
        self.framing = match (lengths.is_chunked, lengths.length) {
            (true, length) => {
                if length.is_some() {
                    self.note(Flaw::BothTeClPresent);
                }
                if is_bare {
                    self.note(Flaw::UndefinedTransferEncodingSemantics);
                }
                Framing::Chunked
            }
            (false, Some(length)) => {
                if is_bare {
                    self.note(if length == 0 {
                        Flaw::GetHeadZeroContentLength
                    } else {
                        Flaw::UndefinedContentLengthSemantics
                    });
                }
                if length == 0 { Framing::None } else { Framing::Length(length) }
            }
            (false, None) => Framing::None,
        };
        Ok(())
    }
}

/// A host, perhaps with its port; nothing that begins another part of a URI.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'!'..=b'~' if !b"/?#@\\,".contains(byte)))
}

fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether some server may take the name for that of a field that says where a body ends: gateways hand names to programs with `_` for `-`.
fn is_suspicious(name: &[u8]) -> bool {
    let is = |known: &[u8]| {
        let same = |(one, other): (&u8, &u8)| {
            one.eq_ignore_ascii_case(other) || (*other == b'-' && !one.is_ascii_alphanumeric())
        };
        name.len() == known.len() && name.iter().zip(known).all(same)
    };
    is(b"content-length") || is(b"transfer-encoding")
}
