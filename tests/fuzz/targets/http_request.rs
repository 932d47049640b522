//! Requests of a balancer's clients: what is forwarded is understood in the same way again, and by another parser.

use std::net::{IpAddr, Ipv4Addr};

use balancer::config::{Attributes, XffMode};
use balancer::http1::{Body, Client, Connection, Framing, Request, Severity, end_of_head, rewrite_request};

/// The bytes of a body, and whether it ended; none if it is framed wrongly.
pub(super) fn taken(framing: Framing, bytes: &[u8], piece: usize) -> Option<(usize, bool)> {
    let mut body = Body::new(framing);
    let mut total = 0;
    for piece in bytes.chunks(piece) {
        total += body.take(piece).ok()?.bytes;
    }
    Some((total, body.has_ended()))
}

pub fn run(data: &[u8]) {
    let Some(end) = end_of_head(data, 0) else { return };
    assert_eq!(end_of_head(data, end - 1), Some(end), "it does not matter how much was seen before");
    let (head, rest) = data.split_at(end);
    let mut request = Request::default();
    if request.parse(head).is_err() {
        return;
    }
    assert!(request.flaw.is_none_or(|flaw| flaw.severity() < Severity::Severe));
    let client =
        Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 1, is_tls: false, listener_port: 80, tls: None };
    for xff_header_processing in [XffMode::Append, XffMode::Preserve, XffMode::Remove] {
        let attributes = Attributes { xff_header_processing, ..Attributes::default() };
        let mut out = Vec::new();
        rewrite_request(head, &request, &client, &attributes, [0; 16], &mut out);
        assert_eq!(end_of_head(&out, 0), Some(out.len()));
        let mut again = Request::default();
        again.parse(&out).expect("what is forwarded is a request");
        assert_eq!(again.framing, request.framing);
        assert_eq!(again.is_old, request.is_old);
        assert_eq!(&out[again.method.clone()], &head[request.method.clone()]);
        assert_eq!(&out[again.target.clone()], &head[request.target.clone()]);
        if request.connection == Connection::Upgrade {
            assert_eq!(again.connection, Connection::Upgrade);
        }
        agrees(&out, &again);
    }
    let whole = taken(request.framing, rest, rest.len().max(1));
    assert_eq!(taken(request.framing, rest, 1), whole);
    assert_eq!(taken(request.framing, rest, 3), whole);
}

/// A parser that others use finds the same fields in what is forwarded.
fn agrees(head: &[u8], request: &Request) {
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut other = httparse::Request::new(&mut fields);
    // It knows fewer first lines, and fewer characters.
    let Ok(httparse::Status::Complete(length)) = other.parse(head) else { return };
    assert_eq!(length, head.len());
    let ours = request.fields.iter().map(|field| (&head[field.name.clone()], &head[field.value.clone()]));
    let theirs = other.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    assert!(ours.eq(theirs));
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /a?b HTTP/1.1\r\nHost: h:80\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhelloGET",
        "PUT http://a/b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: u\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade, x\r\nUpgrade: websocket\r\nx: y\r\nX-Amzn-Trace-Id: Root=1-2-3\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\nContent_Length: 4\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
