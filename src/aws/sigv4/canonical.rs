//! The canonical form of a request, which is what gets signed.

use super::{Claim, Denied};
use crate::percent::{self, Plus};
use crate::request::Request;

/// The canonical request.
///
/// # Errors
/// [`Denied::Incomplete`] when a signed header is missing or the query is not text.
pub fn request(request: &Request<'_>, claim: &Claim<'_>, body_hash: &str) -> Result<String, Denied> {
    let mut out = String::with_capacity(512);
    out.push_str(request.method);
    out.push('\n');
    push_path(request.path, &mut out);
    out.push('\n');
    push_query(request.query, &mut out)?;
    out.push('\n');
    for name in claim.signed_headers.split(';') {
        push_header(request, name, &mut out)?;
    }
    out.push('\n');
    out.push_str(&claim.signed_headers);
    out.push('\n');
    out.push_str(body_hash);
    Ok(out)
}

/// The path without `.`, `..` and empty segments, encoded once more than it came.
fn push_path(path: &str, out: &mut String) {
    if path == "/" {
        out.push('/');
        return;
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    for segment in &segments {
        out.push('/');
        percent::encode(segment.as_bytes(), b"", out);
    }
    // A dot at the end leaves no slash, unlike in RFC 3986: so clients sign it.
    if segments.is_empty() || path.ends_with('/') {
        out.push('/');
    }
}

/// All parameters but the signature, encoded in one way and sorted by that.
fn push_query(query: &str, out: &mut String) -> Result<(), Denied> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "X-Amz-Signature" {
            continue;
        }
        pairs.push((encoded(name)?, encoded(value)?));
    }
    pairs.sort_unstable();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
    Ok(())
}

fn encoded(text: &str) -> Result<String, Denied> {
    let decoded = percent::decode(text.as_bytes(), Plus::Space)
        .ok_or_else(|| Denied::Incomplete("The query is not text in percent-encoding.".to_owned()))?;
    let mut out = String::with_capacity(decoded.len());
    percent::encode(decoded.as_bytes(), b"", &mut out);
    Ok(out)
}

/// `name:value\n`, with spaces in the value made one, and several values parted by commas.
fn push_header(request: &Request<'_>, name: &str, out: &mut String) -> Result<(), Denied> {
    let incomplete = |what: &str| {
        let name: String = name.chars().take(120).collect();
        Denied::Incomplete(format!("The signed header '{name}' {what}."))
    };
    let mut values = request.headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Err(incomplete("is not in the request"));
    }
    out.push_str(name);
    let mut before = ':';
    for value in values {
        out.push(before);
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| incomplete("is not text"))?;
        for (at, word) in value.split(' ').filter(|word| !word.is_empty()).enumerate() {
            if at > 0 {
                out.push(' ');
            }
            out.push_str(word);
        }
        before = ',';
    }
    out.push('\n');
    Ok(())
}
