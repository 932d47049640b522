//! Where a redirect leads.

use crate::config::{Protocol, Redirect};

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

/// Where `redirect` sends a client that asked for `origin`: the value of `Location`. The URL always has its port, also the protocol's usual
/// one, and a `?` only if a query follows
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_RedirectActionConfig.html>).
///
/// What may not stand in a field's value is percent-encoded, so no request can write another field into the answer.
pub fn location(redirect: &Redirect, origin: Origin<'_>) -> String {
    let mut url = expand(&redirect.protocol, &origin).to_ascii_lowercase();
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
    printable(&url)
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
            "#{protocol}" => text.extend_from_slice(match origin.protocol {
                Protocol::Http => b"HTTP",
                Protocol::Https => b"HTTPS",
            }),
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

fn printable(url: &[u8]) -> String {
    let mut text = String::with_capacity(url.len());
    for byte in url {
        if byte.is_ascii_graphic() {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
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

    /// Of a redirect as somebody would write it: with what is left out.
    fn located(json: &str, origin: Origin<'_>) -> String {
        location(&serde_json::from_str(json).unwrap(), origin)
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_change() {
        let to_https = r#"{"protocol": "HTTPS", "port": "443", "status": 301}"#;
        assert_eq!(located(to_https, ORIGIN), "https://example.com:443/a/b?x=1");
        let bare = Origin { path: b"/", query: None, ..ORIGIN };
        assert_eq!(located(to_https, bare), "https://example.com:443/");
    }

    #[test]
    fn keywords_stand_for_parts_of_what_was_asked_for() {
        let moved = r##"{"host": "new.#{host}", "path": "/#{port}/#{host}/new/#{path}", "query": "#{query}&from=#{protocol}", "status": 302}"##;
        assert_eq!(located(moved, ORIGIN), "http://new.example.com:80/80/example.com/new/a/b?x=1&from=HTTP");
        let dropped = r##"{"path": "/gone", "query": "", "status": 302}"##;
        assert_eq!(located(dropped, ORIGIN), "http://example.com:80/gone");
        // A client's own text is not looked through for keywords.
        let sly = Origin { path: b"/#{host}", ..ORIGIN };
        assert_eq!(located(r#"{"port": "81", "status": 302}"#, sly), "http://example.com:81/#{host}?x=1");
    }

    #[test]
    fn no_request_can_write_a_field_of_its_own_into_the_answer() {
        let sly = Origin { path: b"/\r\nSet-Cookie: a=b", query: Some(b"\xff \x00"), ..ORIGIN };
        assert_eq!(
            located(r#"{"port": "81", "status": 302}"#, sly),
            "http://example.com:81/%0D%0ASet-Cookie:%20a=b?%FF%20%00"
        );
    }
}
