//! Frames of a balancer's clients and targets: however they are cut, the same comes of them, and requests that come of them are requests of HTTP/1.1.

use std::time::Duration;

use balancer::http1::{Body, Request, end_of_head};
use balancer::http2::{Session, Taken};
use types::Instant;

const NOW: Instant = Instant(Duration::ZERO);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn run(data: &[u8]) {
    let Some((first, frames)) = data.split_first() else { return };
    if first & 1 == 0 {
        let whole = served(frames, frames.len().max(1));
        assert_eq!(served(frames, 1), whole);
        assert_eq!(served(frames, 7), whole);
    } else {
        asked(frames);
    }
}

/// What a server's streams get of this, and whether the connection goes on.
fn served(frames: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut session = Session::server(NOW);
    let mut goes_on = session.receive(PREFACE, NOW).is_ok();
    let mut streams: Vec<(u32, Vec<u8>)> = Vec::new();
    for piece in frames.chunks(piece) {
        goes_on = goes_on && session.receive(piece, NOW).is_ok();
        streams.extend(session.opened().into_iter().map(|id| (id, Vec::new())));
        // Whoever was cancelled before anybody was told of him was never there.
        let (gone, there) = streams.into_iter().partition(|(id, _)| session.is_dead(*id));
        let gone: Vec<(u32, Vec<u8>)> = gone;
        gone.iter().for_each(|(id, _)| session.release(*id));
        streams = there;
    }
    for (id, text) in &mut streams {
        if let Taken::Bytes(bytes) = session.take(*id) {
            understood(&bytes);
            *text = bytes;
        }
        session.write(
            *id,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
        );
        session.finish(*id);
        session.release(*id);
    }
    (streams.into_iter().map(|(_, text)| text).collect(), goes_on)
}

/// One request, framed rightly as far as it is there.
fn understood(text: &[u8]) {
    let end = end_of_head(text, 0).expect("a head comes as a whole");
    let mut request = Request::default();
    if request.parse(&text[..end]).is_ok() {
        let mut body = Body::new(request.framing);
        let rest = &text[end..];
        assert_eq!(body.take(rest).expect("it is framed rightly").bytes, rest.len(), "nothing follows it");
    }
}

/// What a target may answer.
fn asked(frames: &[u8]) {
    let mut session = Session::client(false, NOW);
    for request in
        ["GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"]
    {
        let id = session.open(false);
        session.write(id, request.as_bytes());
    }
    for piece in frames.chunks(9) {
        let _ = session.receive(piece, NOW);
        for id in [1, 3] {
            let _ = session.take(id);
        }
    }
    for id in [1, 3] {
        session.release(id);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        // Settings; a request with fields of the common table; a ping.
        "00 000000040000000000 00000601050000000182868441 0168 000008060000000000 0102030405060708",
        // Settings; a request with a body in two pieces; the window.
        "00 000000040000000000 00000601040000000183868441 0168 000003000000000001616263 000003000100000001646566 000004080000000000 00000100",
        // A request whose fields go on, and that is cancelled.
        "00 000000040000000000 0000020100000000018286 000004090400000001 84410168 000004030000000001 00000008",
        // An answer with trailers, and one that is cut off.
        "01 000000040000000000 00000101040000000188 000003000000000001616263 00000401050000000100016101 000004030000000003 00000002",
        "01 000000040000000000 000008070000000000 0000000100000000",
    ]
    .map(super::http2_fields::bytes)
    .to_vec()
}
