//! Against a small service on loopback.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

const WAIT: Duration = Duration::from_secs(10);

/// Answers each request from `answers`, which is given method, path and token; ends with the test's process.
fn serve(answers: fn(&str, &str, Option<&str>) -> (u16, &'static str)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines: Vec<String> = BufReader::new(&stream)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let mut words = lines[0].split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let token = lines.iter().find_map(|line| line.strip_prefix("X-aws-ec2-metadata-token: "));
            let (status, body) = answers(method, path, token);
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    address
}

fn values(path: &str) -> (u16, &'static str) {
    match path {
        "/meta-data/instance-id" => (200, "i-0123"),
        "/meta-data/local-hostname" => (200, "ip-10-0-0-5.ec2.internal"),
        "/meta-data/public-keys/" => (200, "0=lab\n1=other"),
        "/meta-data/public-keys/0/openssh-key" => (200, "ssh-ed25519 AAAA lab\n"),
        "/meta-data/public-keys/1/openssh-key" => (200, "ssh-ed25519 BBBB other\n"),
        "/user-data" => (200, "#!/bin/sh\n"),
        _ => (404, ""),
    }
}

fn wanted() -> Metadata {
    Metadata {
        instance_id: "i-0123".into(),
        local_hostname: Some("ip-10-0-0-5.ec2.internal".into()),
        public_keys: vec!["ssh-ed25519 AAAA lab".into(), "ssh-ed25519 BBBB other".into()],
        user_data: Some(b"#!/bin/sh\n".to_vec()),
    }
}

#[test]
fn version_2_needs_its_token_everywhere() {
    let address = serve(|method, path, token| match (method, path, token) {
        ("PUT", "/latest/api/token", None) => (200, "secret"),
        ("GET", path, Some("secret")) => path.strip_prefix("/2021-03-23").map_or((404, ""), values),
        _ => (401, ""),
    });
    assert_eq!(fetch(address, WAIT).unwrap(), wanted());
}

#[test]
fn an_old_service_has_neither_tokens_nor_new_versions() {
    let address = serve(|method, path, _| match method {
        "GET" => path.strip_prefix("/2009-04-04").map_or((404, ""), values),
        _ => (405, ""),
    });
    assert_eq!(fetch(address, WAIT).unwrap(), wanted());
}

#[test]
fn no_user_data_is_an_answer_and_a_failure_is_none() {
    let address = serve(|method, path, _| match (method, path) {
        ("PUT", _) => (200, "secret"),
        (_, "/2021-03-23/meta-data/instance-id") => (200, "i-0123"),
        _ => (404, ""),
    });
    let want = Metadata { instance_id: "i-0123".into(), ..Metadata::default() };
    assert_eq!(fetch(address, WAIT).unwrap(), want);

    let address = serve(|_, path, _| if path.ends_with("user-data") { (500, "") } else { (200, "i-0123") });
    let error = fetch(address, WAIT).unwrap_err().to_string();
    assert!(error.contains("/2021-03-23/user-data with status 500"), "{error}");
}

#[test]
fn an_id_that_would_leave_its_folder_is_refused() {
    let address = serve(|_, _, _| (200, "../../etc"));
    assert!(fetch(address, WAIT).unwrap_err().to_string().contains("../../etc"));
}

#[test]
fn a_service_that_starts_late_is_waited_for_and_none_is_an_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fetch(address, Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error:#}");
    let fetched = thread::spawn(move || fetch(address, WAIT));
    let listener = TcpListener::bind(address).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert_eq!(line, "PUT /latest/api/token HTTP/1.1\r\n");
    drop((stream, listener));
    drop(fetched);
}
