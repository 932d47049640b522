//! The control socket from outside: real sockets, a machine that is none.

mod docs;
mod fake;

use std::ffi::{c_int, c_void};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libc::siginfo_t;
use proptest::prelude::*;
use types::ByteSize;
use vmm_sys_util::signal::{Killable as _, SIGRTMIN, register_signal_handler};

use super::api::*;
use super::client::{Client, ClientError, Reply};
use super::{ServerLimits, TimeOuts};
use fake::{PATIENCE, Parts, Served, eventually, is_hung_up, read_to_end};

/// Status line of each answer in `text`.
fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text[at + 9..at + 12].parse().ok()).collect()
}

fn refused(result: Result<Reply, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, detail }) => (status, detail.code.into_owned()),
        other => panic!("not refused: {other:?}"),
    }
}

fn disk(id: &str) -> DiskSpec {
    DiskSpec {
        id: id.parse().unwrap(),
        serial: None,
        read_only: false,
        format: DiskFormat::Raw,
        reconnect_ms: 0,
    }
}

fn file(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

#[test]
fn a_client_works_a_machine_over_one_connection() {
    let served = Served::new();
    let mut client = served.client();
    let version: Version = client.get("/v1/").unwrap();
    assert_eq!((&*version.api, &*version.program), ("v1", env!("CARGO_PKG_VERSION")));
    let status: MachineStatus = client.get("/v1/machine").unwrap();
    assert_eq!((status.state, status.devices.len()), (MachineState::Running, 1));
    let no_body = serde_json::json!({});
    let status: MachineStatus = client.post("/v1/machine/pause", &no_body, &[]).unwrap();
    assert_eq!(status.state, MachineState::Paused);
    assert_eq!(
        refused(client.request("POST", "/v1/machine/power-button", b"", &[])),
        (409, "wrong_state".into())
    );
    let status: MachineStatus = client.post("/v1/machine/resume", &no_body, &[]).unwrap();
    assert_eq!(status.state, MachineState::Running);
    for asks in ["power-button", "reboot"] {
        let path = format!("/v1/machine/{asks}");
        assert_eq!(client.request("POST", &path, b"", &[]).unwrap().status, 202);
    }

    let target = BalloonTarget { target_bytes: ByteSize::from_mib(256).unwrap() };
    let balloon: BalloonStatus = client.put("/v1/balloon", &target).unwrap();
    assert_eq!(balloon.target_bytes, target.target_bytes);
    let counters: Counters = client.get("/v1/counters").unwrap();
    assert_eq!(counters.vcpus[0].exits["memory_write"], 1041);
    let off: MachineStatus = client.post("/v1/machine/power-off", &no_body, &[]).unwrap();
    assert_eq!(off.state, MachineState::Off);
}

#[test]
fn disks_and_interfaces_come_with_their_descriptors_and_go() {
    let served = Served::new();
    let mut client = served.client();
    let added: DeviceStatus = client.post("/v1/disks", &disk("data"), &[file("first disk").as_fd()]).unwrap();
    assert_eq!((added.kind.to_string(), added.state), ("block".to_owned(), DeviceState::Plugged));
    let (_, tap) = nix::unistd::pipe().unwrap();
    let spec = serde_json::json!({"id": "eth1", "mac": "02:00:00:00:00:01", "mtu": 9001});
    let _: DeviceStatus = client.post("/v1/interfaces", &spec, &[tap.as_fd(), tap.as_fd()]).unwrap();
    assert_eq!(*served.contents.lock().unwrap(), ["first disk", "02:00:00:00:00:01 2 taps"]);
    let devices: Devices = client.get("/v1/devices").unwrap();
    assert_eq!(devices.devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["root", "data", "eth1"]);

    assert_eq!(client.delete("/v1/disks/data").unwrap().status, 202);
    let asked: DeviceStatus = client.get("/v1/devices/data").unwrap();
    assert_eq!(asked.state, DeviceState::Unplugging);
    assert_eq!(client.delete("/v1/disks/data?force=true").unwrap().status, 204);
    assert_eq!(refused(client.delete("/v1/disks/data")), (404, "no_device".into()));
    assert_eq!(
        refused(client.delete("/v1/disks/eth1")),
        (404, "no_device".into()),
        "an interface is no disk"
    );
    assert_eq!(refused(client.delete("/v1/disks/root")), (409, "not_removable".into()));
}

#[test]
fn frames_are_captured_and_links_impaired() {
    let served = Served::new();
    let mut client = served.client();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let spec = CaptureSpec { snaplen: Some(2) };
    let status: CaptureStatus =
        client.post("/v1/interfaces/net0/captures", &spec, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    let mut packet = Vec::new();
    (&ours).read_to_end(&mut packet).unwrap();
    assert_eq!((status.id, &packet[16..]), (1, &b"pi"[..]));

    let impairment = serde_json::json!({"latency_us": 50_000, "loss_ppm": 10_000, "seed": u64::MAX});
    let both = serde_json::json!({"in": impairment, "out": {"rate_bps": 10_000_000}});
    let set: InterfaceStatus = client.put("/v1/interfaces/net0/impairments", &both).unwrap();
    let inbound = set.impairments.inbound.as_ref().unwrap();
    assert_eq!((inbound.latency_us, inbound.loss_ppm, inbound.seed), (50_000, 10_000, u64::MAX));
    let told: Interfaces = client.get("/v1/interfaces").unwrap();
    assert_eq!((told.interfaces[0].captures.len(), &told.interfaces[0]), (1, &set));
    let good: InterfaceStatus =
        client.put("/v1/interfaces/net0/impairments", &serde_json::json!({"in": {}})).unwrap();
    assert_eq!((good.impairments.inbound, good.impairments.outbound), (None, set.impairments.outbound));

    let mut put = |path: &str, body: &str| refused(client.request("PUT", path, body.as_bytes(), &[]));
    assert_eq!(put("/v1/interfaces/none/impairments", "{}"), (404, "no_device".into()));
    for wrong in [r#"{"in": {"jitter_us": 1}}"#, r#"{"out": {"latency": 1}}"#, r#"{"both": {}}"#] {
        assert_eq!(put("/v1/interfaces/net0/impairments", wrong), (400, "invalid".into()), "{wrong}");
    }
    assert_eq!(put("/v1/interfaces", "{}"), (405, "method".into()));
    let mut post = |path: &str| refused(client.request("POST", path, b"{}", &[]));
    assert_eq!(post("/v1/interfaces/net0/captures"), (400, "descriptors".into()));
    assert_eq!(post("/v1/interfaces/net0/impairments"), (405, "method".into()));
}

#[test]
fn another_server_of_a_disk_comes_with_its_descriptor() {
    let Parts { mut served, mut event_loop } = fake::parts(ServerLimits::default());
    event_loop.machine.devices[0].state = DeviceState::Disconnected;
    served.run(event_loop);
    let mut client = served.client();
    let mut put = |path: &str, body: &[u8], servers: &[_]| client.request("PUT", path, body, servers);
    let server = file("the server");
    let both = [server.as_fd(), server.as_fd()];
    assert_eq!(refused(put("/v1/disks/root", b"", &[])), (400, "descriptors".into()));
    assert_eq!(refused(put("/v1/disks/root", b"", &both)), (400, "descriptors".into()));
    assert_eq!(refused(put("/v1/disks/root", b"{\"id\": 1}", &both[..1])), (400, "invalid".into()));
    assert_eq!(refused(put("/v1/disks/none", b"", &both[..1])), (404, "no_device".into()));
    assert_eq!(refused(put("/v1/interfaces/root", b"", &[])), (405, "method".into()));
    let reply = put("/v1/disks/root", b"", &both[..1]).unwrap();
    let status: DeviceStatus = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, status.state), (200, DeviceState::Active));
    assert_eq!(*served.contents.lock().unwrap(), ["the server"]);
    assert_eq!(refused(put("/v1/disks/root", b"", &both[..1])), (409, "not_disconnected".into()));
}

#[test]
fn descriptors_that_nobody_claims_are_closed() {
    let served = Served::new();
    let mut client = served.client();
    let body = serde_json::to_vec(&disk("data")).unwrap();
    let unknown = br#"{"id":"x","mac":"02:00:00:00:00:01","speed":9}"#;
    let cases: [(&str, &str, &[u8], usize, &str); 6] = [
        ("GET", "/v1/machine", b"", 1, "descriptors"),
        ("POST", "/v1/disks", &body, 0, "descriptors"),
        ("POST", "/v1/disks", &body, 2, "descriptors"),
        ("POST", "/v1/disks", b"not JSON", 1, "invalid"),
        ("POST", "/v1/interfaces", unknown, 1, "invalid"),
        ("DELETE", "/v1/disks/root", b"", 1, "descriptors"),
    ];
    for (method, path, body, count, code) in cases {
        let (kept, sent) = nix::unistd::pipe().unwrap();
        let descriptors = vec![sent.as_fd(); count];
        assert_eq!(refused(client.request(method, path, body, &descriptors)), (400, code.into()), "{path}");
        drop(sent);
        assert!(is_hung_up(&kept), "{method} {path} with {count} descriptors leaked one");
    }
    // More than one request may have.
    let (kept, sent) = nix::unistd::pipe().unwrap();
    let many = vec![sent.as_fd(); 33];
    assert_eq!(refused(client.request("POST", "/v1/interfaces", b"{}", &many)), (400, "descriptors".into()));
    drop(sent);
    eventually("closing 33 descriptors", || is_hung_up(&kept));
    assert!(served.contents.lock().unwrap().is_empty());
}

#[test]
fn descriptors_go_to_the_request_they_came_with() {
    let served = Served::new();
    let mut stream = served.connect();
    stream.write_all(b"GET /v1/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/ HT").unwrap();
    stream.write_all(b"TP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let body = serde_json::to_string(&disk("data")).unwrap();
    let head = format!("POST /v1/disks HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let (first, rest) = head.split_at(20);
    let disk = file("the disk");
    crate::descriptors::send(&stream, first.as_bytes(), &[disk.as_fd()]).unwrap();
    stream.write_all(rest.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream.write_all(b"GET /v1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let answers = read_to_end(&mut stream);
    assert_eq!(statuses(&answers), [200, 200, 201, 200], "{answers}");
    assert_eq!(*served.contents.lock().unwrap(), ["the disk"]);
}

#[test]
fn requests_may_come_all_at_once_or_byte_by_byte() {
    let served = Served::new();
    let requests: &[u8] = b"GET /v1/machine HTTP/1.1\r\nHost: x\r\n\r\n\
        PUT /v1/balloon HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\n\r\n{\"target_bytes\": 1024}\n\
        \r\nHEAD /v1/ HTTP/1.1\r\nHost: x\r\n\r\n\
        DELETE /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let expected = [200, 200, 200, 404];
    let whole = served.say(requests);
    assert_eq!(statuses(&whole), expected, "{whole}");
    for at in 1..requests.len() {
        let mut stream = served.connect();
        stream.write_all(&requests[..at]).unwrap();
        // The server has taken the first part when its queue is empty.
        eventually("reading the first part", || unread(&stream) == 0);
        stream.write_all(&requests[at..]).unwrap();
        assert_eq!(read_to_end(&mut stream), whole, "cut at {at}");
    }
    let mut stream = served.connect();
    for byte in requests {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read_to_end(&mut stream), whole, "byte by byte");
}

/// How many bytes the other side has not read yet (SIOCOUTQ).
fn unread(stream: &std::os::unix::net::UnixStream) -> i32 {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel fills an int, which lives through the call.
    unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    bytes
}

#[test]
fn what_is_not_served_is_refused_with_the_right_status() {
    let served = Served::new();
    let head = "HTTP/1.1\r\nHost: x\r\n";
    let long = "x".repeat(17 * 1024);
    let body_long = format!("PUT /v1/balloon {head}Content-Length: 1048577\r\n\r\n");
    let cases: Vec<(String, &[u16])> = vec![
        (format!("GET /v1/machine {head}\r\n"), &[200]),
        ("GET /v1/machine HTTP/1.0\r\n\r\nGET /v1/ HTTP/1.0\r\n\r\n".to_owned(), &[200]),
        (format!("GET http://localhost/v1/machine {head}\r\n"), &[200]),
        ("GET /v1/machine HTTP/1.1\n\nhost".to_owned(), &[400]),
        ("GET /v1/machine HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        (format!("GET /v1/machine {head}Host: y\r\n\r\n"), &[400]),
        ("GET /v1/machine HTTP/2.0\r\nHost: x\r\n\r\n".to_owned(), &[505]),
        ("nonsense\r\n\r\n".to_owned(), &[400]),
        (format!("GET /v1/machine {head}bad field\r\n\r\n"), &[400]),
        (format!("GET /v1/machine {head}A: {long}\r\n\r\n"), &[431]),
        (format!("GET /{long} {head}\r\n"), &[431]),
        (format!("PUT /v1/balloon {head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), &[411]),
        (format!("PUT /v1/balloon {head}Transfer-Encoding: gzip\r\n\r\n"), &[501]),
        (format!("PUT /v1/balloon {head}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"), &[400]),
        (format!("PUT /v1/balloon {head}Content-Length: +2\r\n\r\n{{}}"), &[400]),
        (body_long, &[413]),
        (format!("GET /v1/ {head}Expect: miracles\r\n\r\n"), &[417]),
        (format!("GET /v1 {head}\r\n"), &[404]),
        (format!("GET / {head}\r\n"), &[404]),
        (format!("GET /v2/machine {head}\r\n"), &[404]),
        (format!("GET /v1/devices/none {head}\r\n"), &[404]),
        (format!("POST /v1/machine/explode {head}\r\n"), &[404]),
        (format!("POST /v1/machine {head}\r\n"), &[405]),
        (format!("GET /v1/machine/pause {head}\r\n"), &[405]),
        (format!("DELETE /v1/balloon {head}\r\n"), &[405]),
        (format!("GET /v1/machine?verbose=1 {head}\r\n"), &[400]),
        (format!("DELETE /v1/disks/root?force=perhaps {head}\r\n"), &[400]),
        (format!("GET /v1/events?after=1&after=2 {head}\r\n"), &[400]),
        (format!("PUT /v1/balloon {head}Content-Length: 2\r\n\r\n{{}}"), &[400]),
        (
            format!("PUT /v1/balloon {head}Content-Length: 30\r\n\r\n{{\"target_bytes\": 99999999999}} "),
            &[400],
        ),
        (format!("POST /v1/machine/pause {head}Content-Length: 9\r\n\r\n{{\"now\":1}}"), &[400]),
        (format!("GET /v1/console {head}\r\n"), &[426]),
        (format!("GET /v1/console {head}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"), &[426]),
    ];
    for (request, expected) in cases {
        let answer = served.say(request.as_bytes());
        assert_eq!(
            statuses(&answer),
            expected,
            "{} was answered with {answer}",
            &request[..request.len().min(90)]
        );
        if expected[0] >= 400 {
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            let error: ErrorBody = serde_json::from_str(body).unwrap();
            assert!(!error.error.message.is_empty() && !error.error.code.is_empty());
        }
    }
}

#[test]
fn a_body_that_waits_for_leave_gets_it_once() {
    let served = Served::new();
    let mut stream = served.connect();
    let head = "PUT /v1/balloon HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 21\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut leave = [0; 25];
    stream.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"target_bytes\"").unwrap();
    eventually("reading the first part", || unread(&stream) == 0);
    stream.write_all(b":4096}").unwrap();
    assert_eq!(statuses(&read_to_end(&mut stream)), [200]);
}

#[test]
fn a_refused_client_that_sends_on_still_reads_why() {
    let served = Served::new();
    let mut stream = served.connect();
    stream.write_all(b"PUT /v1/balloon HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n").unwrap();
    for _ in 0..200 {
        stream.write_all(&[b'x'; 4096]).expect("the server hangs up on a client that sends");
    }
    assert_eq!(statuses(&read_to_end(&mut stream)), [413]);
}

#[test]
fn events_are_numbered_and_can_be_waited_for() {
    let served = Served::new();
    let mut client = served.client();
    let none: Events = client.get("/v1/events").unwrap();
    assert_eq!(none, Events { events: vec![], next: 0, lost: 0 });
    let none: Events = client.get("/v1/events?wait_ms=30").unwrap();
    assert!(none.events.is_empty());

    let mut waiting = served.connect();
    waiting
        .write_all(b"GET /v1/events?wait_ms=60000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    eventually("reading the request", || unread(&waiting) == 0);
    client.request("POST", "/v1/machine/pause", b"", &[]).unwrap();
    let answer = read_to_end(&mut waiting);
    let events: Events = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((events.events[0].sequence, &events.events[0].kind), (1, &EventKind::Paused));

    served.events.publish(EventKind::DeviceNeedsReset { device: "root".parse().unwrap() });
    let next: Events = client.get(&format!("/v1/events?after={}&wait_ms=60000", events.next)).unwrap();
    assert_eq!(next.events.len(), 1);
    assert_eq!(next.next, 2);
}

#[test]
fn whoever_hangs_up_while_waiting_is_let_go() {
    let limits = ServerLimits { connections_max: 1, ..ServerLimits::default() };
    let served = Served::with(limits);
    let mut waiting = served.connect();
    waiting.write_all(b"GET /v1/events?wait_ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("reading the request", || unread(&waiting) == 0);
    drop(waiting);
    eventually("a free place", || served.client().get::<Version>("/v1/").is_ok());
}

#[test]
fn slow_and_idle_clients_are_let_go() {
    let short = Duration::from_millis(60);
    let time_outs = TimeOuts { idle: short, receiving: short, sending: short, draining: short };
    let served = Served::with(ServerLimits { time_outs, ..ServerLimits::default() });
    let mut idle = served.connect();
    assert_eq!(read_to_end(&mut idle), "");
    // Each byte on its own is in time, and all together are not.
    let mut slow = served.connect();
    let begun = Instant::now();
    while slow.write_all(b"G").is_ok() && begun.elapsed() < PATIENCE {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(statuses(&read_to_end(&mut slow)), [408]);

    // This one asks and asks and does not read.
    let mut deaf = served.connect();
    let begun = Instant::now();
    while deaf.write_all(b"GET /v1/counters HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a client that never reads is served for ever");
    }
}

#[test]
fn more_clients_than_are_served_are_told_so() {
    let served = Served::with(ServerLimits { connections_max: 2, ..ServerLimits::default() });
    let (mut first, mut second) = (served.client(), served.client());
    first.get::<Version>("/v1/").unwrap();
    second.get::<Version>("/v1/").unwrap();
    assert_eq!(statuses(&read_to_end(&mut served.connect())), [503]);
    drop(first);
    eventually("a free place", || served.client().get::<Version>("/v1/").is_ok());
    second.get::<Version>("/v1/").unwrap();
}

#[test]
fn the_console_is_watched_typed_to_and_read_back() {
    let served = Served::new();
    served.output.write(b"boot messages\n");
    let typist = served.client().attach_console(Some(0), true).unwrap();
    assert_eq!(refused_console(served.client().attach_console(None, true)), (409, "input_taken".into()));
    let watching = served.client().attach_console(None, false).unwrap();
    served.output.write(b"login: ");
    (&typist.stream).write_all(b"root\n").unwrap();
    eventually("typing", || *served.typed.0.lock().unwrap() == b"root\n");

    for (viewer, expected) in [(&typist, &b"boot messages\nlogin: "[..]), (&watching, b"login: ")] {
        viewer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut seen = viewer.received.clone();
        while seen.len() < expected.len() {
            let mut chunk = [0; 64];
            let length = (&viewer.stream).read(&mut chunk).unwrap();
            assert_ne!(length, 0);
            seen.extend_from_slice(&chunk[..length]);
        }
        assert_eq!(seen, expected);
    }
    drop(typist);
    eventually("freeing the input", || served.client().attach_console(None, true).is_ok());
}

fn refused_console(result: Result<super::client::ConsoleStream, ClientError>) -> (u16, String) {
    refused(result.map(|_| Reply { status: 101, fields: vec![], body: vec![] }))
}

#[test]
fn what_follows_an_upgrade_is_typed() {
    let served = Served::new();
    let mut stream = served.connect();
    let head = "GET /v1/console?input=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: nimbo-console\r\n\r\n";
    stream.write_all(format!("{head}early\n").as_bytes()).unwrap();
    eventually("typing", || *served.typed.0.lock().unwrap() == b"early\n");
}

#[test]
fn the_console_log_says_what_it_lacks() {
    let served = Served::new();
    let all: Vec<u8> = (0..=255u8).cycle().take(10_000).collect();
    served.output.write(&all);
    let mut client = served.client();
    let reply = client.request("GET", "/v1/console/log", b"", &[]).unwrap();
    assert_eq!(reply.body, all[10_000 - 4096..]);
    let fields = ["nimbo-console-offset", "nimbo-console-next", "nimbo-console-lost"];
    assert_eq!(fields.map(|name| reply.field(name).unwrap()), ["5904", "10000", "5904"]);
    let reply = client.request("GET", "/v1/console/log?offset=9999", b"", &[]).unwrap();
    assert_eq!(reply.body, all[9999..]);
    let reply = client.request("GET", "/v1/console/log?offset=10001", b"", &[]).unwrap();
    assert_eq!((reply.body.len(), reply.field("nimbo-console-next").unwrap()), (0, "10000"));
}

/// The server as the product runs it: in the jail, behind the main thread's filter.
#[test]
fn it_serves_inside_the_jail() {
    use crate::jail::testing::Child;
    use crate::jail::{Identity, Jail, JailSpec, Limits, seccomp};
    let fake::Parts { served, event_loop } = fake::parts(ServerLimits::default());
    let child = Child::start(|| {
        let identity = Some(Identity::of(64_322));
        let filters = seccomp::Mode::Kill;
        let limits = Limits { memory_bytes: u64::MAX, threads: 1000, descriptors: 200 };
        let spec = JailSpec { identity, network: None, limits, filters };
        let _ = Jail::enter(spec).map_err(|e| e.to_string())?;
        seccomp::enter(seccomp::ThreadKind::Main).map_err(|e| e.to_string())?;
        event_loop.run();
        Ok(())
    });
    let mut client = served.client();
    let _: MachineStatus = client.get("/v1/machine").unwrap();
    let _: Counters = client.get("/v1/counters").unwrap();
    let _: Events = client.get("/v1/events?wait_ms=20").unwrap();
    let _: DeviceStatus = client.post("/v1/disks", &disk("data"), &[file("in jail").as_fd()]).unwrap();
    let viewer = served.client().attach_console(Some(0), true).unwrap();
    (&viewer.stream).write_all(b"typed").unwrap();
    let mut refused_one = served.connect();
    refused_one.write_all(b"nonsense\r\n\r\n").unwrap();
    assert_eq!(statuses(&read_to_end(&mut refused_one)), [400]);
    let _: Version = client.get("/v1/").unwrap();
    drop(served);
    assert_eq!(child.end(), crate::jail::testing::Ended::Well);
}

/// Something like a request, with something wrong.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let sound = b"POST /v1/disks HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"id\":\"data\"}";
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        (0..sound.len(), any::<u8>()).prop_map(|(at, byte)| {
            let mut bytes = sound.to_vec();
            bytes[at] = byte;
            bytes
        }),
        (0..sound.len(), 0..sound.len()).prop_map(|(from, to)| {
            let (from, to) = (from.min(to), from.max(to));
            [&sound[..from], &sound[to..]].concat()
        }),
        "(GET|POST|DELETE) /v1/[a-z/]{0,12}(\\?[a-z=&0-9]{0,12})? HTTP/1\\.[01]\r\n(Host: x\r\n)?([A-Za-z-]{1,20}: [ -~]{0,20}\r\n){0,4}\r\n"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing that a client sends ends the server, or leaves the client without an answer or an end.
    #[test]
    fn any_bytes_are_answered_or_the_connection_ends(clients in prop::collection::vec(any_bytes(), 1..12)) {
        let served = Served::new();
        for bytes in clients {
            // What was powered off, plugged or upgraded is no matter: the answers are HTTP or the console's.
            let answer = served.say(&bytes);
            prop_assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 "), "{}", answer);
        }
        let _: Version = served.client().get("/v1/").unwrap();
    }
}

#[test]
fn ids_are_what_a_path_can_hold() {
    for text in ["", "a b", "a/b", "é", "%41", &"x".repeat(65)] {
        assert!(text.parse::<DeviceId>().is_err(), "{text:?}");
    }
    for text in ["vol-0123456789abcdef0", "eth0", "A.b_c-1", &"x".repeat(64)] {
        assert_eq!(text.parse::<DeviceId>().unwrap().as_str(), text);
    }
}

#[test]
fn signals_do_not_disturb_a_conversation() {
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handle(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }
    let signal = SIGRTMIN() + 7;
    register_signal_handler(signal, handle).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let asking = std::thread::spawn(move || Client::over(near).unwrap().get::<u32>("/v1/number"));
    (&far).read_exact(&mut [0]).unwrap();
    let began = Instant::now();
    while HANDLED.load(Ordering::SeqCst) < 50 && began.elapsed() < PATIENCE {
        asking.kill(signal).unwrap();
        std::thread::yield_now();
    }
    (&far).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n41").unwrap();
    assert_eq!(asking.join().unwrap().unwrap(), 41);
}
