use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::config::Attributes;

fn parsed(head: &str) -> Result<Request, Flaw> {
    let mut request = Request::default();
    assert_eq!(end_of_head(head.as_bytes(), 0), Some(head.len()), "{head:?}");
    request.parse(head.as_bytes()).map(|()| request)
}

fn with(fields: &str) -> Result<Request, Flaw> {
    parsed(&format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
}

#[test]
fn every_form_of_smuggling_is_refused_or_named() {
    let severe = [
        ("Content-Length: 5, 5\r\n", Flaw::BadContentLength),
        ("Content-Length: +5\r\n", Flaw::BadContentLength),
        ("Content-Length: 5 5\r\n", Flaw::BadContentLength),
        ("Content-Length: 0x5\r\n", Flaw::BadContentLength),
        ("Content-Length:\r\n", Flaw::BadContentLength),
        ("Content-Length: 99999999999999999999\r\n", Flaw::BadContentLength),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Flaw::MultipleContentLength),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Flaw::MultipleTransferEncodingChunked,
        ),
        ("Transfer-Encoding: xchunked\r\n", Flaw::BadTransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Flaw::BadTransferEncoding),
        ("Transfer-Encoding: chunked, identity\r\n", Flaw::BadTransferEncoding),
        ("Transfer-Encoding : chunked\r\n", Flaw::BadHeader),
        (" Transfer-Encoding: chunked\r\n", Flaw::BadHeader),
        ("X: a\r\n Transfer-Encoding: chunked\r\n", Flaw::BadHeader),
        ("X: a\nTransfer-Encoding: chunked\r\n", Flaw::BadHeader),
        ("X: a\rTransfer-Encoding: chunked\r\n", Flaw::BadHeader),
        ("X: a\0b\r\n", Flaw::BadHeader),
        ("X\r\n", Flaw::BadHeader),
        (": a\r\n", Flaw::BadHeader),
        ("Host: other\r\n", Flaw::BadHeader),
    ];
    for (fields, flaw) in severe {
        assert_eq!(with(fields).map(|request| request.flaw), Err(flaw), "{fields:?}");
        assert_eq!(flaw.severity(), Severity::Severe);
    }
    let named = [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Flaw::DuplicateContentLength, Framing::Length(5)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Flaw::BothTeClPresent, Framing::Chunked),
        ("Transfer_Encoding: chunked\r\n", Flaw::SuspiciousHeader, Framing::None),
        ("Content_Length: 5\r\n", Flaw::SuspiciousHeader, Framing::None),
        ("X: \u{e9}\r\n", Flaw::NonCompliantHeader, Framing::None),
    ];
    for (fields, flaw, framing) in named {
        let request = with(fields).unwrap();
        assert_eq!((request.flaw, request.framing), (Some(flaw), framing), "{fields:?}");
    }
}

#[test]
fn first_lines_are_understood_or_refused() {
    let bad = [
        ("GET\r\nHost: h\r\n\r\n", Flaw::BadMethod),
        ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadMethod),
        (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadMethod),
        ("GET /\r\nHost: h\r\n\r\n", Flaw::BadVersion),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", Flaw::BadVersion),
        ("GET / http/1.1\r\nHost: h\r\n\r\n", Flaw::BadVersion),
        ("GET  HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("GET http://h\u{11}/ HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", Flaw::BadUri),
        ("GET / HTTP/1.1\r\n\r\n", Flaw::BadHeader),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Flaw::BadHeader),
    ];
    for (head, flaw) in bad {
        assert_eq!(parsed(head).map(|request| request.flaw), Err(flaw), "{head:?}");
    }
    let head = "GET /a b HTTP/1.7\r\nHost: h\r\n\r\n";
    let request = parsed(head).unwrap();
    assert_eq!((&head[request.target], request.flaw), ("/a b", Some(Flaw::NonCompliantVersion)));
    let head = "\r\nGET HTTP://a:1/b?c HTTP/1.1\r\nHost: other\r\n\r\n";
    let request = parsed(head).unwrap();
    assert_eq!((&head[request.target], &head[request.host], request.flaw), ("/b?c", "a:1", None));
    assert_eq!(parsed("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().flaw, None);
    let old = parsed("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((old.is_old, old.connection), (true, Connection::Close));
}

#[test]
fn what_is_forwarded_is_the_same_without_what_is_a_connections() {
    let head = "GET /x?y HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop-By-Hop\r\nx-hop-by-hop: 1\r\nAccept: */*\r\n\
                X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\ncOOKIE: a=b\r\nTE: trailers\r\n\r\n";
    let request = parsed(head).unwrap();
    let client = Client {
        ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)),
        port: 4242,
        is_tls: false,
        listener_port: 8080,
        tls: None,
    };
    let mut out = Vec::new();
    rewrite_request(head.as_bytes(), &request, &client, &Attributes::default(), [0x1a; 16], &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET /x?y HTTP/1.1\r\nHost: h:8080\r\nAccept: */*\r\ncOOKIE: a=b\r\nX-Forwarded-For: 9.9.9.9, 10.0.0.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\nX-Amzn-Trace-Id: Root=1-1a1a1a1a-1a1a1a1a1a1a1a1a1a1a1a1a\r\n\r\n"
    );
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nKeep-Alive: timeout=5\r\nconnection: close\r\nETag: x\r\n\r\n";
    let mut response = Response::default();
    response.parse(head.as_bytes(), false).unwrap();
    assert_eq!((response.framing, response.stays), (Framing::Length(3), false));
    let mut out = Vec::new();
    rewrite_response(head.as_bytes(), &response, false, false, b"Set-Cookie: c\r\n", &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: x\r\nSet-Cookie: c\r\n\r\n"
    );
}

#[test]
fn a_target_is_told_how_its_client_is_secured_and_by_nobody_else() {
    let head =
        "GET / HTTP/1.1\r\nHost: h\r\nX-Amzn-TLS-Version: forged\r\nx-amzn-tls-cipher-suite: forged\r\n\r\n";
    let request = parsed(head).unwrap();
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let told = |tls| {
        let client = Client { ip, port: 1, is_tls: true, listener_port: 443, tls };
        let mut out = Vec::new();
        rewrite_request(head.as_bytes(), &request, &client, &Attributes::default(), [0; 16], &mut out);
        String::from_utf8(out).unwrap()
    };
    let secured = told(Some(("TLSv1.3", "TLS_AES_128_GCM_SHA256")));
    assert!(secured.contains("X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n"), "{secured}");
    assert!(
        secured.contains(
            "\r\nX-Amzn-Tls-Version: TLSv1.3\r\nX-Amzn-Tls-Cipher-Suite: TLS_AES_128_GCM_SHA256\r\n"
        )
    );
    assert!(!secured.contains("forged"), "{secured}");
    assert_eq!(told(None).matches("forged").count(), 2);
}

#[test]
fn responses_of_targets_out_of_their_senses_are_none() {
    let bad = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 700 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\r\n\r\n",
    ];
    for head in bad {
        assert_eq!(Response::default().parse(head.as_bytes(), false), Err(BadResponse), "{head:?}");
    }
    let framing = |head: &str, to_head| {
        let mut response = Response::default();
        response.parse(head.as_bytes(), to_head).map(|()| (response.framing, response.stays)).unwrap()
    };
    assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", false), (Framing::UntilClose, false));
    assert_eq!(framing("HTTP/1.1 204\r\n\r\n", false), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", false), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\n", true), (Framing::None, true));
    assert_eq!(framing("HTTP/1.0 200 x\r\nContent-Length: 9\r\n\r\n", false), (Framing::Length(9), false));
}

/// All of `text` in pieces, and what of it was taken.
fn taken(framing: Framing, text: &[u8], piece: usize) -> Result<(usize, bool), BodyError> {
    let mut body = Body::new(framing);
    let mut total = 0;
    for piece in text.chunks(piece) {
        let taken = body.take(piece)?;
        total += taken.bytes;
        if taken.is_end {
            break;
        }
    }
    Ok((total, body.has_ended()))
}

#[test]
fn chunks_that_are_framed_oddly_are_refused() {
    let bad = [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x1\r\n",
        "1\n",
        "1\r\nab",
        "1\r\na\n",
        "1;\n\r\n",
        "1;a\rb\r\n",
        "1111111111111111\r\n",
        "0\r\n\n",
        "0\r\n a: b\r\n\r\n",
        "0\r\na: \0\r\n\r\n",
    ];
    for text in bad {
        for piece in [1, 2, 64] {
            assert_eq!(
                taken(Framing::Chunked, text.as_bytes(), piece),
                Err(BodyError),
                "{text:?} by {piece}"
            );
        }
    }
}

proptest! {
    #[test]
    fn a_chunked_body_ends_where_it_ends_however_it_comes(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        extension in "(;[a-z]{1,5}(=[a-z\"]{1,5})?)?",
        trailers in prop::collection::vec("[a-z]{1,8}: [ -~]{0,9}", 0..3),
        after in prop::collection::vec(any::<u8>(), 0..20),
        piece in 1_usize..50,
    ) {
        let mut text = Vec::new();
        for chunk in &chunks {
            text.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
            text.extend_from_slice(chunk);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(format!("0{extension}\r\n").as_bytes());
        trailers.iter().for_each(|line| text.extend_from_slice(format!("{line}\r\n").as_bytes()));
        text.extend_from_slice(b"\r\n");
        let length = text.len();
        text.extend_from_slice(&after);
        prop_assert_eq!(taken(Framing::Chunked, &text, piece), Ok((length, true)));
        prop_assert_eq!(taken(Framing::Chunked, &text[..length - 1], piece), Ok((length - 1, false)));
    }

    #[test]
    fn nothing_that_comes_is_a_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"GET / HTTP/1.1\r\n:,chunkedHostContent-Length0123456789".to_vec())], 0..200)) {
        if let Some(end) = end_of_head(&bytes, 0) {
            let mut request = Request::default();
            if request.parse(&bytes[..end]).is_ok() {
                let client = Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 1, is_tls: true, listener_port: 443, tls: None };
                rewrite_request(&bytes[..end], &request, &client, &Attributes::default(), [0; 16], &mut Vec::new());
            }
            let _ = Response::default().parse(&bytes[..end], false);
        }
        let _ = taken(Framing::Chunked, &bytes, 7);
    }

    #[test]
    fn what_is_forwarded_is_understood_as_what_came(
        fields in prop::collection::vec(("[a-zA-Z-]{1,12}", "[!-~]{1,10}"), 0..6),
        length in prop::option::of(0_u64..99),
    ) {
        prop_assume!(fields.iter().all(|(name, _)| !["host", "te", "upgrade", "connection"].contains(&name.to_ascii_lowercase().as_str())));
        let mut head = String::from("PUT /p HTTP/1.1\r\nHost: h\r\n");
        fields.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        length.iter().for_each(|length| head += &format!("Content-Length: {length}\r\n"));
        head += "\r\n";
        if let Ok(request) = parsed(&head) {
            let client = Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 1, is_tls: false, listener_port: 80, tls: None };
            let mut out = Vec::new();
            rewrite_request(head.as_bytes(), &request, &client, &Attributes::default(), [0; 16], &mut out);
            let again = parsed(std::str::from_utf8(&out).unwrap()).unwrap();
            prop_assert_eq!((again.framing, again.connection), (request.framing, request.connection));
            for (name, value) in &fields {
                let line = format!("\r\n{name}: {value}\r\n");
                prop_assert!(String::from_utf8_lossy(&out).contains(&line), "{line:?} is missing");
            }
        }
    }
}
