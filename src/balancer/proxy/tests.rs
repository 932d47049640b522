//! With real sockets: clients that write bytes, and targets that answer what they are told to.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::config::{
    Action, Attributes, DesyncMode, FixedResponse, Forward, HealthCheck, Listener, LoadBalancer, Protocol,
    ProtocolVersion, Target, TargetGroup, WeightedTargetGroup,
};
use crate::server::Server;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A load balancer that does the same with all requests.
pub(super) fn config(action: Action, targets: Vec<SocketAddr>, attributes: Attributes) -> LoadBalancer {
    let target = |address: SocketAddr| Target {
        id: address.to_string(),
        ip: address.ip(),
        port: address.port(),
        zone: None,
    };
    let group = TargetGroup {
        protocol: Protocol::Http,
        protocol_version: ProtocolVersion::Http1,
        algorithm: crate::config::Algorithm::RoundRobin,
        targets: targets.into_iter().map(target).collect(),
        stickiness: None,
        slow_start_s: 0,
        deregistration_delay_s: 300,
        health_check: HealthCheck::default(),
    };
    let listener = Listener {
        // A port that was free a moment ago.
        address: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        protocol: Protocol::Http,
        security_policy: None,
        certificates: Vec::new(),
        default_action: action,
        rules: Vec::new(),
    };
    LoadBalancer {
        listeners: vec![listener],
        target_groups: [("all".to_owned(), group)].into(),
        attributes,
        access_log: None,
        source: None,
    }
}

pub(super) fn forward() -> Action {
    let all = WeightedTargetGroup { name: "all".to_owned(), weight: 1 };
    Action::Forward(Forward { target_groups: vec![all], stickiness_s: None })
}

pub(super) struct Lab {
    pub(super) address: SocketAddr,
    pub(super) server: Server,
}

impl Lab {
    pub(super) fn new(action: Action, targets: Vec<SocketAddr>, attributes: Attributes) -> Self {
        let config = config(action, targets, attributes);
        let address = config.listeners[0].address;
        let server = Server::start(config, 1, None, [7; 32]).unwrap();
        Self { address, server }
    }

    /// Before a target that answers each connection by `serve`.
    fn before(serve: impl Fn(TcpStream) + Send + Clone + 'static) -> Self {
        Self::new(forward(), vec![target(serve)], Attributes::default())
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// All that comes until the end.
    pub(super) fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let is_over = || {
            let mut groups = self.server.plan().groups().values();
            groups.all(|group| group.members().iter().all(|member| member.outstanding() == 0))
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !thread::panicking() && !is_over() {
            assert!(std::time::Instant::now() < deadline, "something that was forwarded has not ended");
            thread::yield_now();
        }
        assert!(thread::panicking() || !self.server.has_failed());
    }
}

pub(super) fn target(serve: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads up to the end of a head; none at the connection's end.
pub(super) fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

pub(super) fn body(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    body
}

/// Answers each request with its own first line.
pub(super) fn echo(mut stream: TcpStream) {
    while let Some(request) = head(&mut stream) {
        let line = request.lines().next().unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let lab = Lab::before(echo);
    let mut stream = lab.connect();
    for round in 0..200 {
        // Alone, and three at once.
        let paths: Vec<_> = (0..1 + round % 3).map(|place| format!("/{round}/{place}")).collect();
        let requests: String =
            paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
        stream.write_all(requests.as_bytes()).unwrap();
        for path in paths {
            let line = format!("GET {path} HTTP/1.1");
            let answer = head(&mut stream).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert_eq!(body(&mut stream, line.len()), line.as_bytes());
        }
    }
}

#[test]
fn a_connection_to_a_target_is_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let lab = Lab::before(move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(stream);
    });
    for _ in 0..50 {
        assert!(
            lab.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ends_with("GET / HTTP/1.1")
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn large_bodies_pass_in_both_directions_in_any_framing() {
    let lab = Lab::before(|mut stream| {
        while let Some(request) = head(&mut stream) {
            if let Some(length) = request.lines().find_map(|line| line.strip_prefix("Content-Length: ")) {
                let body = body(&mut stream, length.parse().unwrap());
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
                for piece in body.chunks(77_777) {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
                    stream.write_all(piece).unwrap();
                    stream.write_all(b"\r\n").unwrap();
                }
                stream.write_all(b"0\r\n\r\n").unwrap();
            } else {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
                stream.write_all(&vec![b'x'; 3 << 20]).unwrap();
                return;
            }
        }
    });
    let sent: Vec<u8> = (0..5_u32 << 20).map(|place| (place % 251).to_le_bytes()[0]).collect();
    let mut stream = lab.connect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = thread::spawn(move || {
        writer
            .write_all(
                format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", copy.len()).as_bytes(),
            )
            .unwrap();
        writer.write_all(&copy).unwrap();
    });
    assert!(head(&mut stream).unwrap().contains("Transfer-Encoding: chunked\r\n"));
    let mut got = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(body(&mut stream, 1));
        }
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        got.extend(body(&mut stream, length));
        assert_eq!(body(&mut stream, 2), b"\r\n");
        if length == 0 {
            break;
        }
    }
    writing.join().unwrap();
    assert!(got == sent, "the body is not the same");
    let answer = lab.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nConnection: close"), "{head}");
    assert_eq!(body.len(), 3 << 20);
}

#[test]
fn what_one_target_refuses_another_gets() {
    let nobody = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let somebody = target(|mut stream| {
        let head = head(&mut stream).unwrap();
        let mut body = [0; 4];
        if head.starts_with("POST") {
            stream.read_exact(&mut body).unwrap();
            assert_eq!(&body, b"word");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    });
    let lab = Lab::new(forward(), vec![nobody(), somebody, nobody()], Attributes::default());
    for _ in 0..6 {
        assert!(
            lab.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200")
        );
        // Also what may be done only once, for nothing of it was sent, and whatever of it is still to come.
        let mut stream = lab.connect();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwo")
            .unwrap();
        stream.write_all(b"rd").unwrap();
        assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 200"));
    }
    // Not for ever.
    let lab = Lab::new(forward(), vec![nobody(), nobody(), nobody(), nobody()], Attributes::default());
    assert!(lab.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 502"));
}

#[test]
fn what_goes_wrong_has_its_published_status() {
    let status = |lab: &Lab, request: &str| lab.ask(request).lines().next().unwrap_or("").to_owned();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let get = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let lab = Lab::new(forward(), vec![nobody], Attributes::default());
    assert_eq!(status(&lab, get), "HTTP/1.1 502 Bad Gateway");
    let lab = Lab::new(forward(), Vec::new(), Attributes::default());
    assert_eq!(status(&lab, get), "HTTP/1.1 503 Service Temporarily Unavailable");
    assert_eq!(status(&lab, "GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    assert_eq!(status(&lab, "GET / HTTP/3.1\r\nHost: h\r\n\r\n"), "HTTP/1.1 505 HTTP Version Not Supported");
    assert_eq!(status(&lab, "TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    let endless = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(70 << 10));
    assert_eq!(status(&lab, &endless), "HTTP/1.1 400 Bad Request");
    for answer in
        ["", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "nonsense\r\n\r\n", "HTTP/1.1 101 x\r\n\r\n"]
    {
        let lab = Lab::before(move |mut stream| {
            head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        assert_eq!(status(&lab, get), "HTTP/1.1 502 Bad Gateway", "{answer:?}");
    }
    let strict = Attributes { desync_mitigation_mode: DesyncMode::Strictest, ..Attributes::default() };
    let lab = Lab::new(forward(), Vec::new(), strict);
    let odd =
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&lab, odd), "HTTP/1.1 400 Bad Request");
    let short = Attributes { idle_timeout_s: 1, ..Attributes::default() };
    let silent = target(|mut stream| while stream.read(&mut [0; 64]).is_ok_and(|length| length > 0) {});
    let lab = Lab::new(forward(), vec![silent], short);
    assert_eq!(status(&lab, get), "HTTP/1.1 504 Gateway Time-out");
    assert_eq!(
        status(&lab, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"),
        "HTTP/1.1 408 Request Timeout"
    );
}

#[test]
fn a_target_that_closes_a_connection_that_waits_fails_no_request() {
    let lab = Lab::before(|mut stream| {
        // One answer each, without a word that it was the last.
        if head(&mut stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let mut stream = lab.connect();
    for _ in 0..300 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(body(&mut stream, 2), b"ok");
    }
}

#[test]
fn hints_come_before_answers_and_bodies_that_wait_are_asked_for() {
    let lab = Lab::before(|mut stream| {
        while let Some(request) = head(&mut stream) {
            stream
                .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                .unwrap();
            assert!(request.contains("Expect: 100-continue\r\n"));
            assert_eq!(body(&mut stream, 3), b"abc");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let mut stream = lab.connect();
    for _ in 0..20 {
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            .unwrap();
        assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 103"));
        assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 100"));
        stream.write_all(b"abc").unwrap();
        assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn what_becomes_another_protocol_passes_both_ways_until_either_ends_it() {
    let lab = Lab::before(|mut stream| {
        let request = head(&mut stream).unwrap();
        assert!(
            request.contains("Upgrade: websocket\r\n") && request.contains("Connection: upgrade\r\n"),
            "{request}"
        );
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst",
            )
            .unwrap();
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..length]).unwrap();
        }
    });
    let mut stream = lab.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(body(&mut stream, 5), b"first");
    for round in 0..100_u8 {
        let sent = vec![round; 1 + usize::from(round) * 700];
        stream.write_all(&sent).unwrap();
        assert_eq!(body(&mut stream, sent.len()), sent);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let (told, heard) = std::sync::mpsc::channel();
    let lab = Lab::before(move |mut stream| {
        head(&mut stream);
        told.send(()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the request is over");
        told.send(()).unwrap();
    });
    let mut stream = lab.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    heard.recv_timeout(PATIENCE).unwrap();
    drop(stream);
    heard.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn rules_decide_and_actions_answer() {
    let fixed = |status, body: &str| {
        Action::FixedResponse(FixedResponse {
            status,
            content_type: Some("text/plain".into()),
            body: body.into(),
        })
    };
    let mut config = config(fixed(404, "nothing here"), vec![target(echo)], Attributes::default());
    let rule = |priority, path: &str, action| crate::config::Rule {
        priority,
        conditions: vec![crate::config::Condition::PathPattern(vec![path.to_owned()])],
        action,
    };
    let redirect: crate::config::Redirect =
        serde_json::from_str(r#"{"host": "other.example", "status": 301}"#).unwrap();
    config.listeners[0].rules =
        vec![rule(2, "/old/*", Action::Redirect(redirect)), rule(1, "/app/*", forward())];
    let address = config.listeners[0].address;
    let lab = Lab { address, server: Server::start(config, 2, None, [7; 32]).unwrap() };
    let get = |path: &str| lab.ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
    assert!(get("/app/a?b").ends_with("\r\n\r\nGET /app/a?b HTTP/1.1"));
    let (port, moved) = (address.port(), get("/old/a?b"));
    assert!(moved.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{moved}");
    assert!(moved.contains(&format!("\r\nLocation: http://other.example:{port}/old/a?b\r\n")), "{moved}");
    let nothing = get("/");
    assert!(
        nothing.starts_with("HTTP/1.1 404 Not Found\r\n") && nothing.ends_with("\r\n\r\nnothing here"),
        "{nothing}"
    );
}

#[test]
fn a_client_stays_with_its_target_by_its_cookie() {
    let named = |name: &'static str| {
        target(move |mut stream| {
            while head(&mut stream).is_some() {
                stream
                    .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}").as_bytes())
                    .unwrap();
            }
        })
    };
    let mut config = config(forward(), vec![named("a"), named("b"), named("c")], Attributes::default());
    let group = config.target_groups.get_mut("all").unwrap();
    group.stickiness = Some(crate::config::Stickiness::LbCookie { duration_s: 60 });
    let address = config.listeners[0].address;
    let lab = Lab { address, server: Server::start(config, 1, None, [7; 32]).unwrap() };
    let ask =
        |cookie: &str| lab.ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{cookie}\r\n"));
    let first = ask("");
    let cookie = first.lines().find_map(|line| line.strip_prefix("Set-Cookie: AWSALB=")).unwrap();
    let value = cookie.split(';').next().unwrap();
    for _ in 0..10 {
        let again = ask(&format!("Cookie: x=y; AWSALB={value}\r\n"));
        assert_eq!(again.chars().last(), first.chars().last());
    }
    let others: std::collections::BTreeSet<_> =
        (0..6).map(|_| ask("Cookie: AWSALB=forged\r\n").chars().last()).collect();
    assert_eq!(others.len(), 3);
}

#[test]
fn a_target_that_fails_its_checks_gets_nothing_until_it_passes_them() {
    let is_well = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = Arc::clone(&is_well);
    let weak = target(move |mut stream| {
        while let Some(request) = head(&mut stream) {
            let is_check = request.starts_with("GET /health ");
            let status = if is_check && !switch.load(Ordering::SeqCst) { "500 no" } else { "200 yes" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nweak");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut config = config(forward(), vec![weak, target(echo)], Attributes::default());
    let group = config.target_groups.get_mut("all").unwrap();
    group.health_check = HealthCheck {
        path: "/health".to_owned(),
        interval_s: 5,
        timeout_s: 2,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        ..HealthCheck::default()
    };
    let address = config.listeners[0].address;
    let lab = Lab { address, server: Server::start(config, 1, None, [7; 32]).unwrap() };
    let until = |name: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while lab.server.health("all", weak).name() != name {
            assert!(std::time::Instant::now() < deadline, "it does not become {name}");
            thread::yield_now();
        }
    };
    let get = || lab.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    until("healthy");
    assert!((0..10).any(|_| get().ends_with("weak")));
    is_well.store(false, Ordering::SeqCst);
    until("unhealthy");
    assert!((0..20).all(|_| get().ends_with("GET / HTTP/1.1")));
    assert_eq!(lab.server.health("all", weak).reason().unwrap().code, "Target.ResponseCodeMismatch");
    is_well.store(true, Ordering::SeqCst);
    until("healthy");
    assert!((0..10).any(|_| get().ends_with("weak")));
}

#[test]
fn clients_that_do_not_take_their_answers_keep_nobody_from_his() {
    // More than there are buffers.
    const CLIENTS: usize = 700;
    let lab = Lab::before(|mut stream| {
        const PIECE: &[u8] = &[b'x'; 64 << 10];
        while let Some(request) = head(&mut stream) {
            let (pieces, piece) =
                if request.starts_with("GET /large ") { (256, PIECE) } else { (1, &b"xx"[..]) };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pieces * piece.len());
            let mut parts = std::iter::once(answer.as_bytes()).chain(std::iter::repeat_n(piece, pieces));
            if parts.any(|part| stream.write_all(part).is_err()) {
                return;
            }
        }
    });
    let slow: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = lab.connect();
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            // Its answer has begun.
            assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 200"));
            stream
        })
        .collect();
    for _ in 0..50 {
        let answer = lab.ask("GET /small HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nxx"), "{answer}");
    }
    drop(slow);
}

#[test]
fn targets_are_connected_to_from_the_address_that_is_named() {
    let (tell, told) = std::sync::mpsc::channel();
    let target = target(move |stream| {
        tell.send(stream.peer_addr().unwrap().ip()).unwrap();
        echo(stream);
    });
    let source = std::net::IpAddr::from([127, 0, 0, 77]);
    let config =
        LoadBalancer { source: Some(source), ..config(forward(), vec![target], Attributes::default()) };
    let address = config.listeners[0].address;
    let lab = Lab { address, server: Server::start(config, 1, None, [7; 32]).unwrap() };
    lab.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    // A request, and a check.
    for _ in 0..2 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), source);
    }
}
