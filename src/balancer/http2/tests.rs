use proptest::prelude::*;
use std::time::Duration;

use types::Instant;

use super::*;

const NOW: Instant = Instant(Duration::ZERO);

/// Two ends, and what passes between them.
struct Pair {
    client: Session,
    server: Session,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self { client: Session::client(true, NOW), server: Session::server(NOW) };
        pair.pass();
        pair
    }

    /// All that there is to be said, however often, `piece` by piece.
    fn pass_by(&mut self, piece: usize) {
        while self.client.has_output() || self.server.has_output() {
            exchange(&mut self.client, &mut self.server, piece);
            exchange(&mut self.server, &mut self.client, piece);
        }
    }

    fn pass(&mut self) {
        self.pass_by(usize::MAX);
    }
}

fn exchange(from: &mut Session, to: &mut Session, piece: usize) {
    let mut out = Vec::new();
    from.output(&mut out);
    for piece in out.chunks(piece) {
        to.receive(piece, NOW).unwrap();
    }
}

/// All that there is of it, and how it ended.
fn taken(session: &mut Session, id: u32) -> (String, Taken) {
    let mut text = Vec::new();
    loop {
        match session.take(id) {
            Taken::Bytes(bytes) => text.extend(bytes),
            other => return (String::from_utf8(text).unwrap(), other),
        }
    }
}

#[test]
fn a_request_and_its_answer_pass_in_frames() {
    let mut pair = Pair::new();
    let id = pair.client.open(false);
    let request = "POST /a?b HTTP/1.1\r\nHost: shop.example\r\nX-Case: Aa\r\nContent-Length: 5\r\n\r\nhello";
    // However it is cut.
    let (head, body) = request.as_bytes().split_at(30);
    pair.client.write(id, head);
    pair.client.write(id, body);
    pair.pass_by(7);
    assert_eq!(pair.server.opened(), [id]);
    assert_eq!(
        taken(&mut pair.server, id),
        (
            "POST /a?b HTTP/1.1\r\nhost: shop.example\r\nx-case: Aa\r\nte: trailers\r\ncontent-length: 5\r\n\r\nhello".into(),
            Taken::Nothing
        )
    );
    let answer = "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n\
                  3;x\r\nabc\r\n2\r\nde\r\n0\r\nGrpc-Status: 7\r\n\r\n";
    for byte in answer.as_bytes().chunks(1) {
        pair.server.write(id, byte);
    }
    assert!(pair.server.is_drained(id));
    assert_eq!(pair.server.take(id), Taken::End);
    pair.pass();
    let (text, end) = taken(&mut pair.client, id);
    assert_eq!(end, Taken::End);
    assert!(
        text.starts_with(
            "HTTP/1.1 103 \r\nlink: x\r\n\r\nHTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("\r\n0\r\ngrpc-status: 7\r\n\r\n"), "{text}");
    pair.client.release(id);
    pair.server.release(id);
    assert!(pair.client.is_idle_now() && pair.server.is_idle_now());
    assert!(!pair.client.has_output() && !pair.server.has_output());
}

#[test]
fn more_than_the_windows_waits_until_it_is_taken() {
    let mut pair = Pair::new();
    let ids: Vec<u32> = (0..3).map(|_| pair.client.open(false)).collect();
    for id in &ids {
        pair.client.write(*id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    pair.pass();
    assert_eq!(pair.server.opened(), ids);
    let body = vec![b'x'; 1 << 20];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    for id in &ids {
        pair.server.write(*id, head.as_bytes());
        pair.server.write(*id, &body);
        assert!(!pair.server.is_drained(*id));
    }
    pair.pass();
    let mut got = [0, 0, 0];
    for _ in 0..100 {
        for (id, got) in ids.iter().zip(&mut got) {
            let (text, _) = taken(&mut pair.client, *id);
            *got += text.bytes().filter(|byte| *byte == b'x').count();
        }
        pair.pass();
    }
    assert_eq!(got, [1 << 20; 3]);
    assert!(ids.iter().all(|id| pair.server.is_drained(*id)));
}

#[test]
fn what_is_cut_off_is_so_at_both_ends() {
    let mut pair = Pair::new();
    let mut begin = || {
        let id = pair.client.open(false);
        pair.client.write(id, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        pair.pass();
        id
    };
    let (first, second, third) = (begin(), begin(), begin());
    pair.client.release(first);
    pair.server.release(second);
    // A whole answer before the request has ended.
    pair.server.write(third, b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno");
    pair.server.finish(third);
    pair.pass();
    assert!(matches!(taken(&mut pair.server, first), (text, Taken::Failed) if text.is_empty()));
    assert!(matches!(taken(&mut pair.client, second), (_, Taken::Failed)));
    let (text, end) = taken(&mut pair.client, third);
    assert!(text.ends_with("\r\n\r\nno") && end == Taken::End, "{text}");
    // An answer that is not whole, and one that ends with its connection.
    let (fourth, fifth) = (begin_get(&mut pair), begin_get(&mut pair));
    pair.server.write(fourth, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc");
    pair.server.write(fifth, b"HTTP/1.1 200 OK\r\n\r\nabc");
    pair.server.finish(fourth);
    pair.server.finish(fifth);
    pair.pass();
    assert!(matches!(taken(&mut pair.client, fourth), (_, Taken::Failed)));
    let (text, end) = taken(&mut pair.client, fifth);
    assert!(text.ends_with("3\r\nabc\r\n0\r\n\r\n") && end == Taken::End, "{text}");
}

fn begin_get(pair: &mut Pair) -> u32 {
    let id = pair.client.open(false);
    pair.client.write(id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    pair.pass();
    id
}

#[test]
fn a_stream_that_never_began_is_never_spoken_of() {
    let mut pair = Pair::new();
    let first = pair.client.open(false);
    let id = begin_get(&mut pair);
    pair.client.release(first);
    pair.pass();
    assert_eq!(pair.server.opened(), [id]);
}

#[test]
fn a_server_that_leaves_serves_what_it_has() {
    let mut pair = Pair::new();
    let id = begin_get(&mut pair);
    pair.server.go_away();
    pair.pass();
    assert!(!pair.client.has_room() && !pair.server.is_over());
    pair.server.write(id, b"HTTP/1.1 204 No Content\r\n\r\n");
    pair.pass();
    assert_eq!(taken(&mut pair.client, id).1, Taken::End);
    pair.server.release(id);
    assert!(pair.server.is_over());
}

/// A frame, by hand.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(kind, flags, stream, payload, &mut out);
    out
}

/// A server that has had its client's preface.
fn server() -> Session {
    let mut server = Session::server(NOW);
    let begin = [&frame::PREFACE[..], &frame(frame::SETTINGS, 0, 0, b"")].concat();
    server.receive(&begin, NOW).unwrap();
    server
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::write(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "h")];
const WHOLE: u8 = frame::END_HEADERS | frame::END_STREAM;

fn fault(server: &mut Session, bytes: &[u8]) -> Fault {
    server.receive(bytes, NOW).unwrap_err()
}

#[test]
fn floods_end_a_connection_and_are_named() {
    let get = block(&GET);
    let reset = |stream| {
        [frame(frame::HEADERS, WHOLE, stream, &get), frame(frame::RST_STREAM, 0, stream, &[0; 4])].concat()
    };
    let rapid: Vec<u8> = (0..300).flat_map(|place| reset(2 * place + 1)).collect();
    let open: Vec<u8> =
        (0..400).flat_map(|place| frame(frame::HEADERS, WHOLE, 2 * place + 1, &get)).collect();
    let mut endless = frame(frame::HEADERS, 0, 1, &get);
    (0..40).for_each(|_| endless.extend(frame(frame::CONTINUATION, 0, 1, b"")));
    let mut large = frame(frame::HEADERS, 0, 1, &[0; 16 << 10]);
    (0..5).for_each(|_| large.extend(frame(frame::CONTINUATION, 0, 1, &[0; 16 << 10])));
    let many = |count, frame: Vec<u8>| frame.repeat(count);
    let mut empty =
        frame(frame::HEADERS, frame::END_HEADERS, 1, &block(&[(":method", "POST"), GET[1], GET[2], GET[3]]));
    empty.extend(many(200, frame(frame::DATA, 0, 1, b"")));
    for (bytes, flood) in [
        (rapid, Flood::Resets),
        (open, Flood::Resets),
        (endless, Flood::Continuations),
        (large, Flood::Continuations),
        (many(40, frame(frame::SETTINGS, 0, 0, b"")), Flood::Settings),
        (many(80, frame(frame::PING, 0, 0, &[0; 8])), Flood::Pings),
        (empty, Flood::EmptyFrames),
        (many(600, frame(frame::PRIORITY, 0, 1, &[0; 5])), Flood::IdleFrames),
        (many(600, frame(0x77, 0, 1, b"x")), Flood::IdleFrames),
    ] {
        let mut server = server();
        assert_eq!(fault(&mut server, &bytes), Fault::Flood(flood));
        assert!(server.is_over());
        let mut out = Vec::new();
        server.output(&mut out);
        let last = &out[out.len() - 4..];
        assert_eq!(last, (Code::EnhanceYourCalm as u32).to_be_bytes(), "{flood:?}");
        assert_eq!(fault(&mut server, b""), Fault::Flood(flood), "it stays so");
    }
}

#[test]
fn a_client_that_does_not_read_is_not_answered_for_ever() {
    let mut server = server();
    let get = block(&GET);
    let answer =
        format!("HTTP/1.1 302 Found\r\nLocation: /{}\r\nContent-Length: 0\r\n\r\n", "x".repeat(1000));
    let ended = (0..1000).find_map(|place| {
        let came = server.receive(&frame(frame::HEADERS, WHOLE, 2 * place + 1, &get), NOW);
        for id in server.opened() {
            server.write(id, answer.as_bytes());
            server.release(id);
        }
        came.err()
    });
    assert_eq!(ended, Some(Fault::Flood(Flood::Unread)));
    assert!(server.output.len() < 600 << 10);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let get = block(&GET);
    let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let opened = frame(frame::HEADERS, frame::END_HEADERS, 1, &get);
    for (bytes, code) in [
        (frame(frame::DATA, 0, 0, b"x"), Code::ProtocolError),
        (frame(frame::DATA, 0, 1, b"x"), Code::ProtocolError),
        (frame(frame::HEADERS, WHOLE, 2, &get), Code::ProtocolError),
        (frame(frame::HEADERS, WHOLE, 0, &get), Code::ProtocolError),
        (frame(frame::HEADERS, WHOLE, 1, b"\x80"), Code::CompressionError),
        (frame(frame::HEADERS, WHOLE | frame::PADDED, 1, b"\x09x"), Code::ProtocolError),
        (frame(frame::HEADERS, WHOLE | frame::HAS_PRIORITY, 1, b"abc"), Code::FrameSizeError),
        (frame(frame::CONTINUATION, frame::END_HEADERS, 1, &get), Code::ProtocolError),
        (
            [frame(frame::HEADERS, 0, 1, &get), frame(frame::PING, 0, 0, &[0; 8])].concat(),
            Code::ProtocolError,
        ),
        (
            [frame(frame::HEADERS, WHOLE, 3, &get), frame(frame::HEADERS, WHOLE, 1, &get)].concat(),
            Code::StreamClosed,
        ),
        (frame(frame::RST_STREAM, 0, 1, &[0; 4]), Code::ProtocolError),
        ([opened, frame(frame::RST_STREAM, 0, 1, &[0; 3])].concat(), Code::FrameSizeError),
        (frame(frame::SETTINGS, 0, 0, b"x"), Code::FrameSizeError),
        (frame(frame::SETTINGS, 0, 1, b""), Code::ProtocolError),
        (frame(frame::SETTINGS, frame::ACK, 0, &setting(2, 0)), Code::FrameSizeError),
        (frame(frame::SETTINGS, 0, 0, &setting(2, 2)), Code::ProtocolError),
        (frame(frame::SETTINGS, 0, 0, &setting(4, 1 << 31)), Code::FlowControlError),
        (frame(frame::SETTINGS, 0, 0, &setting(5, 1)), Code::ProtocolError),
        (frame(frame::PING, 0, 0, b""), Code::FrameSizeError),
        (frame(frame::PING, 0, 1, &[0; 8]), Code::ProtocolError),
        (frame(frame::GOAWAY, 0, 0, b""), Code::ProtocolError),
        (frame(frame::WINDOW_UPDATE, 0, 0, &[0; 4]), Code::ProtocolError),
        (frame(frame::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), Code::FlowControlError),
        (frame(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Code::ProtocolError),
        (frame(frame::PUSH_PROMISE, 0, 1, &get), Code::ProtocolError),
        ([&[0, 0x40, 1, 0, 0, 0, 0, 0, 1][..]].concat(), Code::FrameSizeError),
    ] {
        assert_eq!(fault(&mut server(), &bytes), Fault::Broken(code), "{:x?}", &bytes[..bytes.len().min(40)]);
    }
    assert_eq!(fault(&mut Session::server(NOW), b"GET / HTTP/1.1\r\n"), Fault::Broken(Code::ProtocolError));
    let early = [&frame::PREFACE[..], &frame(frame::PING, 0, 0, &[0; 8])].concat();
    assert_eq!(fault(&mut Session::server(NOW), &early), Fault::Broken(Code::ProtocolError));
}

#[test]
fn requests_that_are_malformed_are_no_requests() {
    let with = |extra: &[(&'static str, &'static str)]| [&GET[..], extra].concat();
    let without = |name: &str| GET.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let replaced = |name: &'static str, value| {
        without(name).into_iter().rev().chain([(name, value)]).rev().collect::<Vec<_>>()
    };
    let bad = [
        without(":method"),
        without(":scheme"),
        without(":path"),
        with(&[(":path", "/b")]),
        with(&[(":status", "200")]),
        with(&[("a", "b"), (":authority", "x")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("keep-alive", "1")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("host", "other")]),
        with(&[("host", "h"), ("host", "h")]),
        with(&[("a b", "c")]),
        with(&[("", "c")]),
        with(&[("a", "b\r\nc: d")]),
        with(&[("a", "b\0")]),
        with(&[("a", " b")]),
        with(&[("content-length", "1")]),
        with(&[("content-length", "x")]),
        with(&[("content-length", "0"), ("content-length", "1")]),
        replaced(":path", "a"),
        replaced(":path", "/a b"),
        replaced(":path", "/ HTTP/1.1\r\nx: y"),
        replaced(":path", ""),
        replaced(":method", "G T"),
        replaced(":method", ""),
    ];
    for fields in bad {
        let mut server = server();
        server.receive(&frame(frame::HEADERS, WHOLE, 1, &block(&fields)), NOW).unwrap();
        assert_eq!(server.opened(), [0_u32; 0], "{fields:?}");
        // The connection goes on.
        server.receive(&frame(frame::HEADERS, WHOLE, 3, &block(&GET)), NOW).unwrap();
        assert_eq!(server.opened(), [3], "{fields:?}");
    }
    // Upper case cannot be written by what writes blocks here.
    let mut server = server();
    let upper = [&block(&GET)[..], b"\x00\x01A\x01b"].concat();
    server.receive(&frame(frame::HEADERS, WHOLE, 1, &upper), NOW).unwrap();
    assert_eq!(server.opened(), [0_u32; 0]);
    for (length, data) in [("3", "ab"), ("1", "ab")] {
        let post = block(&[(":method", "POST"), GET[1], GET[2], GET[3], ("content-length", length)]);
        let stream = server.last + 2;
        server.receive(&frame(frame::HEADERS, frame::END_HEADERS, stream, &post), NOW).unwrap();
        server.receive(&frame(frame::DATA, frame::END_STREAM, stream, data.as_bytes()), NOW).unwrap();
        assert_eq!(server.take(stream), Taken::Failed, "{length} of {data}");
    }
}

#[test]
fn whoever_sends_more_than_there_is_room_for_is_cut_off() {
    let mut server = server();
    let post = block(&[(":method", "POST"), GET[1], GET[2], GET[3]]);
    server.receive(&frame(frame::HEADERS, frame::END_HEADERS, 1, &post), NOW).unwrap();
    let piece = frame(frame::DATA, 0, 1, &[0; 16 << 10]);
    (0..8).for_each(|_| server.receive(&piece, NOW).unwrap());
    assert!(!server.is_dead(1));
    server.receive(&piece, NOW).unwrap();
    assert!(server.is_dead(1));
    // What nobody keeps takes no room.
    (0..200).for_each(|_| server.receive(&piece, NOW).unwrap());
}

#[test]
fn cookies_in_parts_are_one_and_large_requests_none() {
    let mut server = server();
    let fields = [&GET[..], &[("cookie", "a=b"), ("x", "y"), ("cookie", "c=d")]].concat();
    server.receive(&frame(frame::HEADERS, WHOLE, 1, &block(&fields)), NOW).unwrap();
    let (text, _) = taken(&mut server, 1);
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: h\r\ncookie: a=b; c=d\r\nx: y\r\n\r\n");
    // One that goes on after what is kept: padding is nothing of it.
    let value = "z".repeat(3000);
    let many: Vec<_> = (0..24).map(|_| ("large", value.as_str())).collect();
    let fields = [&GET[..], &many].concat();
    let mut coded = Vec::new();
    fields.iter().for_each(|(name, value)| hpack::write(name.as_bytes(), value.as_bytes(), &mut coded));
    assert!(coded.len() > 64 << 10);
    let mut again = Session::server(NOW);
    again.receive(&[&frame::PREFACE[..], &frame(frame::SETTINGS, 0, 0, b"")].concat(), NOW).unwrap();
    let mut frames = Vec::new();
    frame::headers(1, true, &coded[..60 << 10], 16 << 10, &mut frames);
    assert_eq!(fault(&mut again, &frames), Fault::Broken(Code::CompressionError));
}

proptest! {
    #[test]
    fn a_message_is_the_same_behind_both_ends(
        length in 0_usize..200_000,
        pieces in prop::collection::vec(1_usize..40_000, 1..12),
        is_chunked in any::<bool>(),
        by in prop::sample::select(vec![1_usize, 9, 1000, usize::MAX]),
    ) {
        prop_assume!(by > 1 || length < 2000);
        let body: Vec<u8> = (0..length).map(|place| b'a' + u8::try_from(place % 23).unwrap()).collect();
        let mut text = Vec::new();
        if is_chunked {
            text.extend_from_slice(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(pieces[0]) {
                text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
        } else {
            text.extend_from_slice(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            text.extend_from_slice(&body);
        }
        let mut pair = Pair::new();
        let id = begin_get(&mut pair);
        let mut got = String::new();
        let (mut rest, mut sizes) = (&text[..], pieces.iter().cycle());
        let mut end = Taken::Nothing;
        for _ in 0..10_000 {
            if pair.server.is_drained(id) && !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                pair.server.write(id, piece);
                rest = after;
            }
            pair.pass_by(by);
            let (text, state) = taken(&mut pair.client, id);
            got += &text;
            end = state;
            if end != Taken::Nothing {
                break;
            }
        }
        prop_assert_eq!(end, Taken::End);
        let (_, got) = got.split_once("\r\n\r\n").unwrap();
        let mut body_again = Vec::new();
        let mut framed = crate::http1::Body::new(if is_chunked { crate::http1::Framing::Chunked } else { crate::http1::Framing::Length(length as u64) });
        let mut got = got.as_bytes();
        while !framed.has_ended() {
            let (taken, part) = framed.take_part(got).unwrap();
            if part == crate::http1::Part::Data {
                body_again.extend_from_slice(&got[..taken]);
            }
            got = &got[taken..];
        }
        prop_assert!(body_again == body);
        pair.client.release(id);
        pair.server.release(id);
        prop_assert!(pair.client.is_idle_now() && pair.server.is_idle_now());
    }

    #[test]
    fn nothing_that_comes_is_a_panic(
        frames in prop::collection::vec((0_u8..11, any::<u8>(), 0_u32..8, prop::collection::vec(any::<u8>(), 0..40)), 0..30),
    ) {
        let mut server = server();
        for (kind, flags, stream, payload) in frames {
            let _ = server.receive(&frame(kind, flags, stream, &payload), NOW);
            for id in server.opened() {
                server.write(id, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
                server.finish(id);
                server.release(id);
            }
        }
    }
}
