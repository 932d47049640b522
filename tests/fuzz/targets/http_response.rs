//! Answers of a balancer's targets: what a client is told is understood in the same way again.

use balancer::http1::{Framing, Response, end_of_head, rewrite_response};

use super::http_request::taken;

pub fn run(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let (to_head, is_old, closes) = (how & 1 != 0, how & 2 != 0, how & 4 != 0);
    let Some(end) = end_of_head(data, 0) else { return };
    let (head, rest) = data.split_at(end);
    let mut response = Response::default();
    if response.parse(head, to_head).is_err() {
        return;
    }
    let mut out = Vec::new();
    rewrite_response(head, &response, is_old, closes, b"Set-Cookie: a\r\n", &mut out);
    assert_eq!(end_of_head(&out, 0), Some(out.len()));
    let mut again = Response::default();
    again.parse(&out, to_head).expect("what is told is an answer");
    assert_eq!((again.status, again.framing), (response.status, response.framing));
    assert!(!(closes && again.stays && again.status != 101), "whose connection ends is told so");
    if response.framing != Framing::UntilClose {
        let whole = taken(response.framing, rest, rest.len().max(1));
        assert_eq!(taken(response.framing, rest, 1), whole);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        "\x01HTTP/1.0 404 Not Found\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        "\x04HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
        "\x06HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "\0HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
