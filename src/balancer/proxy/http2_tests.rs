//! HTTP/2 at both ends, with real sockets: a client and a target that are made of a session each.

use std::io::{Read, Write};
use std::net::TcpListener;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::tests::{Lab, PATIENCE, config, echo, forward, target};
use super::*;
use crate::config::{Certificate, HealthCheck, LoadBalancer, Protocol, ProtocolVersion};
use crate::http2::{Session, Taken};
use crate::server::Server;

/// A load balancer of HTTPS before targets that are asked so.
fn secured(targets: Vec<SocketAddr>, version: ProtocolVersion) -> LoadBalancer {
    let mut config = config(forward(), targets, Attributes::default());
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    config.listeners[0].protocol = Protocol::Https;
    config.listeners[0].certificates =
        vec![Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }];
    config.target_groups.get_mut("all").unwrap().protocol_version = version;
    config
}

fn served(config: LoadBalancer) -> Lab {
    Lab { address: config.listeners[0].address, server: Server::start(config, 1, None, [7; 32]).unwrap() }
}

/// Somebody who speaks HTTP/2.
struct Peer<S> {
    stream: S,
    session: Session,
}

impl<S: Read + Write> Peer<S> {
    /// Sends what there is, and takes what comes; none at the end.
    fn pass(&mut self) -> Option<()> {
        self.flush()?;
        let mut came = [0; 32 << 10];
        let length = self.stream.read(&mut came).ok().filter(|length| *length > 0)?;
        self.session.receive(&came[..length], SystemClock.now()).ok()
    }

    fn flush(&mut self) -> Option<()> {
        let mut out = Vec::new();
        self.session.output(&mut out);
        self.stream.write_all(&out).ok()
    }

    /// What comes of the stream until `is_enough`.
    fn until(&mut self, id: u32, mut text: String, is_enough: impl Fn(&str) -> bool) -> String {
        while !is_enough(&text) {
            match self.session.take(id) {
                Taken::Bytes(bytes) => text += std::str::from_utf8(&bytes).unwrap(),
                Taken::Nothing => self.pass().expect("the connection has ended"),
                Taken::End => panic!("it ended with {text:?}"),
                Taken::Failed => return text + "(cut off)",
            }
        }
        text
    }

    fn ask(&mut self, request: &str, end: &str) -> String {
        let id = self.session.open(request.starts_with("HEAD"));
        self.session.write(id, request.as_bytes());
        let answer = self.until(id, String::new(), |text| text.ends_with(end));
        self.session.release(id);
        answer
    }
}

type Client = Peer<StreamOwned<ClientConnection, std::net::TcpStream>>;

fn client(lab: &Lab) -> Client {
    let name = ServerName::try_from("shop.example").unwrap();
    let session = ClientConnection::new(crate::tls::of_targets(true).unwrap(), name).unwrap();
    Peer {
        stream: StreamOwned::new(session, lab.connect()),
        session: Session::client(true, SystemClock.now()),
    }
}

/// A target without TLS, which answers each request of a connection as `answer` says, piece by piece.
fn target_of_http2(answer: fn(&str) -> Vec<Vec<u8>>) -> SocketAddr {
    target(move |stream| {
        let mut peer = Peer { stream, session: Session::server(SystemClock.now()) };
        let mut open: Vec<(u32, String)> = Vec::new();
        while peer.pass().is_some() {
            open.extend(peer.session.opened().into_iter().map(|id| (id, String::new())));
            open.retain_mut(|(id, text)| {
                loop {
                    match peer.session.take(*id) {
                        Taken::Bytes(bytes) => *text += std::str::from_utf8(&bytes).unwrap(),
                        Taken::Nothing if is_whole(text) => {
                            for piece in answer(text) {
                                peer.session.write(*id, &piece);
                            }
                            peer.session.finish(*id);
                            peer.session.release(*id);
                            return false;
                        }
                        Taken::Nothing => return true,
                        Taken::End | Taken::Failed => return false,
                    }
                }
            });
            if peer.flush().is_none() {
                return;
            }
        }
    })
}

fn is_whole(text: &str) -> bool {
    let Some(end) = crate::http1::end_of_head(text.as_bytes(), 0) else { return false };
    let mut request = Request::default();
    request.parse(&text.as_bytes()[..end]).unwrap();
    let mut body = crate::http1::Body::new(request.framing);
    body.take(&text.as_bytes()[end..]).unwrap();
    body.has_ended()
}

const CALL: &str = "POST /shop.Cart/Add HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5\r\n\0\0\0\0\0\r\n0\r\n\r\n";

/// A call is answered with a message and trailers, and a check with what a server says of a method that it does not have.
fn grpc(request: &str) -> Vec<Vec<u8>> {
    if request.starts_with("POST /AWS.ALB/healthcheck ") {
        return vec![b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 12\r\nContent-Length: 0\r\n\r\n".to_vec()];
    }
    assert!(
        request.contains("\r\nte: trailers\r\n") && request.contains("\r\nx-forwarded-proto: https\r\n"),
        "{request}"
    );
    vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        b"5\r\n\0\0\0\0\0\r\n".to_vec(),
        b"0\r\nGrpc-Status: 0\r\n\r\n".to_vec(),
    ]
}

#[test]
fn calls_of_grpc_pass_with_their_trailers_and_checks_know_their_codes() {
    let lab = served(secured(vec![target_of_http2(grpc)], ProtocolVersion::Grpc));
    let mut client = client(&lab);
    for _ in 0..20 {
        let answer = client.ask(CALL, "0\r\ngrpc-status: 0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 \r\n"), "{answer}");
        assert!(answer.contains("\r\n5\r\n\0\0\0\0\0\r\n0\r\n"), "{answer:?}");
    }
    let target = lab.server.plan().groups()["all"].members()[0].target.clone();
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.server.health("all", (target.ip, target.port).into()).name() != "healthy" {
        assert!(std::time::Instant::now() < deadline, "it does not become healthy");
        std::thread::yield_now();
    }
}

#[test]
fn what_there_is_no_translation_for_is_told_so() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let status = |version, request: &str| {
        let lab = served(secured(vec![target_of_http2(|_| Vec::new())], version));
        client(&lab).ask(request, "</html>\r\n")[..12].to_owned()
    };
    assert_eq!(status(ProtocolVersion::Grpc, get), "HTTP/1.1 464");
    assert_eq!(status(ProtocolVersion::Http1, CALL), "HTTP/1.1 464");
    let mut config = config(forward(), vec![target(echo)], Attributes::default());
    config.target_groups.get_mut("all").unwrap().protocol_version = ProtocolVersion::Http2;
    let lab = served(config);
    let answer = lab.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 464 "), "{answer}");
}

#[test]
fn targets_of_http2_are_asked_on_one_connection() {
    let lab = served(secured(
        vec![target_of_http2(|request| {
            let path = request.split(' ').nth(1).unwrap();
            let body = if path == "/large" { "y".repeat(1 << 20) } else { path.to_owned() };
            vec![format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()]
        })],
        ProtocolVersion::Http2,
    ));
    let mut client = client(&lab);
    let ids: Vec<(u32, String)> = (0..50)
        .map(|place| {
            let (id, path) = (client.session.open(false), format!("/path-{place}"));
            client.session.write(id, format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
            (id, path)
        })
        .collect();
    for (id, path) in ids {
        let answer = client.until(id, String::new(), |text| text.ends_with(&format!("\r\n\r\n{path}")));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        client.session.release(id);
    }
    let large = client.ask("GET /large HTTP/1.1\r\nHost: h\r\n\r\n", &"y".repeat(1 << 20));
    assert!(large.starts_with("HTTP/1.1 200 "));
}

/// A target that speaks another protocol, or none.
#[test]
fn targets_that_are_not_what_they_should_be_are_bad_gateways() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for wrong in [
        nobody,
        target(echo),
        target_of_http2(|_| vec![b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec()]),
    ] {
        let lab = served(secured(vec![wrong], ProtocolVersion::Http2));
        let id_of = |client: &mut Client| {
            let id = client.session.open(false);
            client.session.write(id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            id
        };
        let mut client = client(&lab);
        let id = id_of(&mut client);
        let answer = client.until(id, String::new(), |text| text.ends_with("</html>\r\n"));
        assert!(answer.starts_with("HTTP/1.1 502 ") || answer.ends_with("(cut off)"), "{answer}");
    }
}

#[test]
fn answers_to_clients_that_leave_or_cancel_keep_nobody_from_his() {
    let lab = served(secured(
        vec![target(|mut stream| {
            while let Some(request) = super::tests::head(&mut stream) {
                if request.starts_with("GET /never ") {
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the request is over");
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        })],
        ProtocolVersion::Http1,
    ));
    let mut client = client(&lab);
    for _ in 0..30 {
        let id = client.session.open(false);
        client.session.write(id, b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n");
        client.flush().unwrap();
        client.session.release(id);
        let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n\r\nok");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn a_flood_ends_its_connection_and_no_other() {
    let lab = served(secured(vec![target(echo)], ProtocolVersion::Http1));
    let mut other = client(&lab);
    let mut flood = client(&lab);
    for _ in 0..300 {
        let id = flood.session.open(false);
        flood.session.write(id, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
        flood.session.release(id);
    }
    while flood.pass().is_some() {}
    let answer = other.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn health_checks_of_tls_take_any_certificate() {
    let behind = served(secured(vec![target(echo)], ProtocolVersion::Http1));
    let mut config = config(forward(), vec![behind.address], Attributes::default());
    let group = config.target_groups.get_mut("all").unwrap();
    group.protocol = Protocol::Https;
    group.health_check = HealthCheck { protocol: Protocol::Https, ..HealthCheck::default() };
    let lab = served(config);
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.server.health("all", behind.address).name() != "healthy" {
        assert!(std::time::Instant::now() < deadline, "it does not become healthy");
        std::thread::yield_now();
    }
    let answer = lab.ask("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("GET /a HTTP/1.1"), "{answer}");
}

#[test]
fn what_has_happened_is_counted_by_its_metrics_names() {
    let mut config = secured(vec![target(echo)], ProtocolVersion::Http1);
    config.listeners[0].rules = vec![crate::config::Rule {
        priority: 1,
        conditions: vec![crate::config::Condition::PathPattern(vec!["/old".to_owned()])],
        action: serde_json::from_str(r#"{"redirect": {"path": "/new", "status": 301}}"#).unwrap(),
    }];
    let lab = served(config);
    let mut client = client(&lab);
    for _ in 0..3 {
        client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1");
    }
    client.ask("GET /old HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n\r\n");
    client.ask("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", "</html>\r\n");
    assert_eq!(lab.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").len(), 7, "an alert");
    let mut flood = self::client(&lab);
    for _ in 0..300 {
        let id = flood.session.open(false);
        flood.session.write(id, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
        flood.session.release(id);
    }
    while flood.pass().is_some() {}
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.server.totals().active_connections == 0 {
        assert!(std::time::Instant::now() < deadline, "nobody looks how many connections there are");
        std::thread::yield_now();
    }
    let totals = lab.server.totals();
    let all = |name: &str| totals.all[name];
    assert_eq!(
        (all("RequestCount"), all("HTTPCode_Target_2XX_Count"), all("TargetResponseCount")),
        (3, 3, 3)
    );
    assert_eq!(
        (all("HTTP_Redirect_Count"), all("HTTPCode_ELB_3XX_Count"), all("HTTPCode_ELB_4XX_Count")),
        (1, 1, 1)
    );
    assert_eq!((all("NewConnectionCount"), all("ClientTLSNegotiationErrorCount")), (3, 1));
    assert!(all("ProcessedBytes") > 300 && all("TargetResponseTimeUs") > 0);
    assert_eq!(totals.groups["all"]["RequestCount"], 3);
    assert_eq!(totals.floods["resets"], 1);
}
