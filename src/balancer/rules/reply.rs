//! Answers that a rule gives by itself: a redirect's and a fixed one.

use crate::config::{FixedResponse, Protocol, Redirect};

/// An answer, but for what every answer has (`Date`, `Server`, `Content-Length`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub location: Option<Vec<u8>>,
    pub body: &'a [u8],
}

/// The URL that was asked for, of which a redirect keeps parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The listener's.
    pub protocol: Protocol,
    /// Without a port.
    pub host: &'a [u8],
    /// The listener's.
    pub port: u16,
    /// From its first `/` up to `?`.
    pub path: &'a [u8],
    /// After the first `?`.
    pub query: Option<&'a [u8]>,
}

/// The answer that `response` tells to give.
pub fn fixed_response(response: &FixedResponse) -> Reply<'_> {
    let default_type = (!response.body.is_empty()).then_some("text/plain; charset=utf-8");
    Reply {
        status: response.status,
        content_type: response.content_type.as_deref().or(default_type),
        location: None,
        body: response.body.as_bytes(),
    }
}

/// The answer that sends a client which asked for `origin` to where `redirect` says. The URL always has its port, also the protocol's
/// usual one, and a `?` only if a query follows
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_RedirectActionConfig.html>).
///
/// What may not stand in a field's value is percent-encoded, so no request can write another field into the answer.
pub fn redirect(redirect: &Redirect, origin: Origin<'_>) -> Reply<'static> {
    let mut url = Vec::with_capacity(64 + origin.path.len() + origin.query.map_or(0, <[u8]>::len));
    let protocol = expand(&redirect.protocol, &origin).to_ascii_lowercase();
    url.extend_from_slice(&protocol);
    url.extend_from_slice(b"://");
    url.extend(expand(&redirect.host, &origin));
    url.push(b':');
    url.extend(expand(&redirect.port, &origin));
    url.extend(expand(&redirect.path, &origin));
    let query = expand(&redirect.query, &origin);
    if !query.is_empty() {
        url.push(b'?');
        url.extend(query);
    }
    Reply { status: redirect.status, content_type: None, location: Some(printable(url)), body: b"" }
}

/// `template` with the parts of `origin` in the places of their keywords.
fn expand(template: &str, origin: &Origin<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("#{") {
        text.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
        match &rest[..end] {
            "#{protocol}" => text.extend_from_slice(name(origin.protocol).as_bytes()),
            "#{host}" => text.extend_from_slice(origin.host),
            "#{port}" => text.extend_from_slice(origin.port.to_string().as_bytes()),
            "#{path}" => text.extend_from_slice(origin.path.strip_prefix(b"/").unwrap_or(origin.path)),
            "#{query}" => text.extend_from_slice(origin.query.unwrap_or_default()),
            other => text.extend_from_slice(other.as_bytes()),
        }
        rest = &rest[end..];
    }
    text.extend_from_slice(rest.as_bytes());
    text
}

/// As redirects name it.
pub(crate) fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Https => "HTTPS",
    }
}

fn printable(url: Vec<u8>) -> Vec<u8> {
    if url.iter().all(u8::is_ascii_graphic) {
        return url;
    }
    let mut encoded = Vec::with_capacity(url.len() + 16);
    for byte in url {
        if byte.is_ascii_graphic() {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin {
        protocol: Protocol::Http,
        host: b"example.com",
        port: 80,
        path: b"/a/b",
        query: Some(b"x=1"),
    };

    /// As somebody would write it: with what is left out.
    fn parse(json: &str) -> Redirect {
        serde_json::from_str(json).unwrap()
    }

    fn location(json: &str, origin: Origin<'_>) -> String {
        let reply = redirect(&parse(json), origin);
        assert_eq!(reply.body, b"");
        String::from_utf8(reply.location.unwrap()).unwrap()
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_change() {
        let to_https = r#"{"protocol": "HTTPS", "port": "443", "status": 301}"#;
        assert_eq!(location(to_https, ORIGIN), "https://example.com:443/a/b?x=1");
        assert_eq!(redirect(&parse(to_https), ORIGIN).status, 301);
        let bare = Origin { path: b"/", query: None, ..ORIGIN };
        assert_eq!(location(to_https, bare), "https://example.com:443/");
    }

    #[test]
    fn keywords_stand_for_parts_of_what_was_asked_for() {
        let moved = r##"{"host": "new.#{host}", "path": "/#{port}/#{host}/new/#{path}", "query": "#{query}&from=#{protocol}", "status": 302}"##;
        assert_eq!(location(moved, ORIGIN), "http://new.example.com:80/80/example.com/new/a/b?x=1&from=HTTP");
        let dropped = r##"{"path": "/gone", "query": "", "status": 302}"##;
        assert_eq!(location(dropped, ORIGIN), "http://example.com:80/gone");
        // A client's own text is not looked through for keywords.
        let sly = Origin { path: b"/#{host}", ..ORIGIN };
        assert_eq!(location(r#"{"port": "81", "status": 302}"#, sly), "http://example.com:81/#{host}?x=1");
    }

    #[test]
    fn no_request_can_write_a_field_of_its_own_into_the_answer() {
        let sly = Origin { path: b"/\r\nSet-Cookie: a=b", query: Some(b"\xff \x00"), ..ORIGIN };
        assert_eq!(
            location(r#"{"port": "81", "status": 302}"#, sly),
            "http://example.com:81/%0D%0ASet-Cookie:%20a=b?%FF%20%00"
        );
    }

    #[test]
    fn a_fixed_response_is_what_was_written() {
        let mut response = FixedResponse { status: 503, content_type: None, body: "closed".to_owned() };
        let reply = fixed_response(&response);
        assert_eq!((reply.status, reply.body, reply.location.as_ref()), (503, b"closed".as_slice(), None));
        assert_eq!(reply.content_type, Some("text/plain; charset=utf-8"));
        response.content_type = Some("application/json".to_owned());
        assert_eq!(fixed_response(&response).content_type, Some("application/json"));
        response = FixedResponse { status: 204, content_type: None, body: String::new() };
        assert_eq!(fixed_response(&response).content_type, None);
    }
}
