//! MIME multi-part messages (RFC 2045, 2046), as much as user-data is made of.
//!
//! ```text
//! Content-Type: multipart/mixed; boundary="B"
//!
//! preamble
//! --B
//! Content-Type: text/cloud-config; charset="us-ascii"
//! Content-Transfer-Encoding: base64
//! Content-Disposition: attachment; filename="a.yaml"
//!
//! body
//! --B--
//! ```

use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

/// Base64 as people make it, with or without the padding.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const PARTS_MAX: usize = 1000;
const DEPTH_MAX: usize = 8;

/// A part that has no parts, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// In lower case, without parameters.
    pub content_type: String,
    pub filename: Option<String>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MimeError {
    #[error("a multi-part message names no boundary")]
    NoBoundary,
    #[error("more than {DEPTH_MAX} levels of parts")]
    TooDeep,
    #[error("more than {PARTS_MAX} parts")]
    TooMany,
    #[error("the content of a part of type {content_type} is not {encoding}")]
    Encoding { content_type: String, encoding: &'static str },
    #[error("a part of type {content_type} has the transfer encoding {encoding}, which is not known")]
    UnknownEncoding { content_type: String, encoding: String },
}

/// Whether this looks like a message with headers, and not like a file with its content.
pub fn is_message(bytes: &[u8]) -> bool {
    let (headers, _) = split_head(bytes);
    value(&headers, "content-type").is_some_and(|kind| kind.contains('/'))
}

/// Takes a message apart, parts within parts too.
pub fn parse(bytes: &[u8]) -> Result<Vec<Part>, MimeError> {
    let mut parts = Vec::new();
    collect(bytes, 0, &mut parts)?;
    Ok(parts)
}

fn collect(bytes: &[u8], depth: usize, parts: &mut Vec<Part>) -> Result<(), MimeError> {
    if depth > DEPTH_MAX {
        return Err(MimeError::TooDeep);
    }
    let (headers, body) = split_head(bytes);
    let given = value(&headers, "content-type").unwrap_or("text/plain");
    let content_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if content_type.starts_with("multipart/") {
        let boundary = parameter(given, "boundary").filter(|boundary| !boundary.is_empty());
        for part in split_parts(body, &boundary.ok_or(MimeError::NoBoundary)?) {
            collect(part, depth + 1, parts)?;
        }
        return Ok(());
    }
    if parts.len() == PARTS_MAX {
        return Err(MimeError::TooMany);
    }
    let filename = value(&headers, "content-disposition").and_then(|value| parameter(value, "filename"));
    let body = decode(body, value(&headers, "content-transfer-encoding"), &content_type)?;
    parts.push(Part { content_type, filename, body });
    Ok(())
}

fn decode(body: &[u8], encoding: Option<&str>, content_type: &str) -> Result<Vec<u8>, MimeError> {
    let content_type = || content_type.to_owned();
    match encoding.unwrap_or("7bit").trim().to_ascii_lowercase().as_str() {
        "7bit" | "8bit" | "binary" => Ok(body.to_vec()),
        "base64" => {
            let dense: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let bad = |_| MimeError::Encoding { content_type: content_type(), encoding: "base64" };
            BASE64.decode(dense).map_err(bad)
        }
        "quoted-printable" => unquote_printable(body).ok_or_else(|| MimeError::Encoding {
            content_type: content_type(),
            encoding: "quoted-printable",
        }),
        other => Err(MimeError::UnknownEncoding { content_type: content_type(), encoding: other.to_owned() }),
    }
}

/// `=3D` is a byte in hexadecimal, and `=` at the end of a line joins it with the next.
fn unquote_printable(body: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'=' {
            plain.push(byte);
        } else if let Some(after) = after.strip_prefix(b"\r\n").or_else(|| after.strip_prefix(b"\n")) {
            rest = after;
        } else {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            plain.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        }
    }
    Some(plain)
}

/// The headers, unfolded and with names in lower case, and what follows the empty line.
fn split_head(bytes: &[u8]) -> (Vec<(String, String)>, &[u8]) {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut rest = bytes;
    loop {
        let (line, after) = next_line(rest);
        let text = String::from_utf8_lossy(line);
        if line.is_empty() {
            return (headers, after);
        }
        // mbox files begin with a line "From …".
        let is_mark = headers.is_empty() && text.starts_with("From ");
        let is_folded = text.starts_with([' ', '\t']);
        match (headers.last_mut(), text.split_once(':')) {
            _ if is_mark => {}
            (Some((_, value)), _) if is_folded => {
                value.push(' ');
                value.push_str(text.trim());
            }
            (_, Some((name, value))) if !name.is_empty() && !name.contains(' ') => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            // No header: then there is no head, or it ended without an empty line.
            _ => return (headers, rest),
        }
        rest = after;
    }
}

/// A line without its end, and what follows.
fn next_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, after) = match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), after)
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A parameter such as `boundary="a b"`, without its quotes.
fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|parameter| {
        let (known, value) = parameter.split_once('=')?;
        known.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// What stands between the lines of the boundary. The last line end before one belongs to the boundary.
fn split_parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let closing = format!("--{boundary}--");
    let mut parts = Vec::new();
    let mut start = None;
    let mut at = 0;
    while at < body.len() {
        let (line, after) = next_line(&body[at..]);
        let line = line.trim_ascii_end();
        let next = body.len() - after.len();
        let is_closing = line == closing.as_bytes();
        if is_closing || line == delimiter.as_bytes() {
            if let Some(start) = start {
                parts.push(without_line_end(&body[start..at.max(start)]));
            }
            start = Some(next);
            if is_closing {
                return parts;
            }
        }
        at = next;
    }
    // A message without its closing line was cut off, but what came is whole often enough.
    parts.extend(start.map(|start| &body[start..]));
    parts
}

fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGE: &str = "Content-Type: multipart/mixed;\n boundary=\"==B==\"\nMIME-Version: 1.0\n\npreamble\n\
        --==B==\nContent-Type: text/x-shellscript; charset=\"us-ascii\"\nContent-Disposition: attachment; \
        filename=\"a.sh\"\n\n#!/bin/sh\necho a\n\n--==B==\nContent-Type: TEXT/cloud-config\n\
        Content-Transfer-Encoding: base64\n\naG9zdG5hbWU6\nIHg=\n--==B==\n\
        Content-Type: multipart/mixed; boundary=C\n\n--C\nContent-Transfer-Encoding: quoted-printable\n\n\
        a=3Db=\nc\n--C--\n--==B==--\nepilogue\n";

    fn part(content_type: &str, filename: Option<&str>, body: &str) -> Part {
        let filename = filename.map(str::to_owned);
        Part { content_type: content_type.into(), filename, body: body.into() }
    }

    #[test]
    fn takes_a_message_apart() {
        let want = [
            part("text/x-shellscript", Some("a.sh"), "#!/bin/sh\necho a\n"),
            part("text/cloud-config", None, "hostname: x"),
            part("text/plain", None, "a=bc"),
        ];
        assert!(is_message(MESSAGE.as_bytes()));
        assert_eq!(parse(MESSAGE.as_bytes()).unwrap(), want);
        let with_crlf = MESSAGE.replace('\n', "\r\n");
        assert_eq!(parse(with_crlf.as_bytes()).unwrap()[1..], want[1..]);
    }

    #[test]
    fn python_agrees() {
        let program = "
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
import sys
message = MIMEMultipart()
for kind, body, charset in [('x-shellscript', '#!/bin/sh\\nécho\\n', 'utf-8'), ('cloud-config', 'a: 1\\n', 'us-ascii')]:
    part = MIMEText(body, kind, charset)
    part.add_header('Content-Disposition', 'attachment', filename=kind)
    message.attach(part)
sys.stdout.write(message.as_string())";
        let output = std::process::Command::new("python3").args(["-c", program]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let want = [
            part("text/x-shellscript", Some("x-shellscript"), "#!/bin/sh\nécho\n"),
            part("text/cloud-config", Some("cloud-config"), "a: 1\n"),
        ];
        assert_eq!(parse(&output.stdout).unwrap(), want);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error("Content-Type: multipart/mixed\n\n"), "a multi-part message names no boundary");
        assert!(
            error("Content-Type: text/x-a\nContent-Transfer-Encoding: base64\n\n!")
                .contains("text/x-a is not base64")
        );
        assert!(error("Content-Type: a/b\nContent-Transfer-Encoding: uu\n\n").contains("uu"));
    }

    #[test]
    fn files_are_not_messages() {
        for text in ["#!/bin/sh\necho: a\n", "#cloud-config\nhostname: x\n", "", "hostname: x\n"] {
            assert!(!is_message(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (is_message(&bytes), parse(&bytes));
        }

        #[test]
        fn nor_is_any_multi_part(body in "(--B|--B--|\r?\n|[a-z:= /;-]|Content-Type: multipart/mixed; boundary=B\n){0,60}") {
            let _ = parse(format!("Content-Type: multipart/mixed; boundary=B\n\n{body}").as_bytes());
        }

        #[test]
        fn bodies_come_out_as_they_went_in(bodies in prop::collection::vec("[a-z \n]{0,40}", 0..5)) {
            let mut text = "Content-Type: multipart/mixed; boundary=BOUND\n\n".to_owned();
            for body in &bodies {
                text += &format!("--BOUND\nContent-Type: text/plain\n\n{body}\n");
            }
            text += "--BOUND--\n";
            let parts: Vec<_> = parse(text.as_bytes()).unwrap().into_iter().map(|part| part.body).collect();
            prop_assert_eq!(parts, bodies.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }
    }
}
