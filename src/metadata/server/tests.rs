use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use types::SystemClock;

use super::serve;
use crate::{InstanceMetadata, Service, TokenKey, testing};

/// Serves an instance on the loopback address until the test's process ends.
fn start(user_data: Option<Vec<u8>>) -> SocketAddr {
    let instance = InstanceMetadata { user_data, ..testing::instance() };
    let key = TokenKey::generate(&mut [3; 32].as_slice()).unwrap();
    let service = Arc::new(Service::new(instance, key, Arc::new(SystemClock)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, service)).unwrap();
    });
    address
}

/// Sends `head`, and gives the head and the body of the answer.
fn exchange(address: SocketAddr, head: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "{head}\r\nHost: metadata\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end + 4..].to_vec())
}

#[test]
fn a_session_with_a_token() {
    let address = start(None);
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    let (head, token) = exchange(address, &format!("PUT /latest/api/token HTTP/1.1\r\n{ttl}: 60"));
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("x-aws-ec2-metadata-token-ttl-seconds: 60"), "{head}");
    assert!(head.contains("server: ec2ws"), "{head}");
    let token = String::from_utf8(token).unwrap();
    let get = "GET /latest/meta-data/instance-id HTTP/1.1\r\nX-aws-ec2-metadata-token:";
    let (head, body) = exchange(address, &format!("{get} {token}"));
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/plain"), "{head}");
    assert_eq!(body, b"i-0000000000000000f");
    assert!(exchange(address, &format!("{get} x{token}")).0.starts_with("http/1.1 401"));
}

#[test]
fn each_refusal_has_its_status() {
    let address = start(None);
    let put = "PUT /latest/api/token HTTP/1.1\r\n";
    for (request, status) in [
        ("PUT /latest/api/token HTTP/1.1".to_owned(), "400"),
        (format!("{put}X-aws-ec2-metadata-token-ttl-seconds: 0"), "400"),
        (format!("{put}X-aws-ec2-metadata-token-ttl-seconds: 9\r\nX-Forwarded-For: 10.0.0.1"), "403"),
        ("GET /latest/user-data HTTP/1.1".to_owned(), "404"),
        ("GET /latest/meta-data/%zz HTTP/1.1".to_owned(), "400"),
        ("POST /latest/meta-data/ HTTP/1.1".to_owned(), "405"),
        ("nonsense".to_owned(), "400"),
    ] {
        let (head, _) = exchange(address, &request);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{request}: {head}");
    }
}

#[test]
fn user_data_is_bytes_and_head_has_no_body() {
    let gzip = vec![0x1f, 0x8b, 0x08, 0, 0xff, 0xfe, 0];
    let address = start(Some(gzip.clone()));
    let (head, body) = exchange(address, "GET /latest/user-data HTTP/1.1");
    assert!(head.contains("content-type: application/octet-stream"), "{head}");
    assert_eq!(body, gzip);
    let (head, body) = exchange(address, "HEAD /latest/user-data HTTP/1.1");
    assert!(head.contains("content-length: 7"), "{head}");
    assert!(body.is_empty());
}

#[test]
fn one_connection_carries_many_requests() {
    let mut stream = TcpStream::connect(start(None)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /latest/meta-data/ami-id HTTP/1.1\r\nHost: metadata\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"ami-00000000000000010") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
    }
}

#[test]
fn megabytes_are_not_taken() {
    let address = start(None);
    for head in [
        "GET /latest/meta-data/ HTTP/1.1\r\nHost: metadata\r\nX-Much: ",
        "PUT /latest/api/token HTTP/1.1\r\nHost: metadata\r\nX-aws-ec2-metadata-token-ttl-seconds: 9\r\nContent-Length: 1073741824\r\n\r\n",
        "PUT /latest/api/token HTTP/1.1\r\nHost: metadata\r\nTransfer-Encoding: chunked\r\n\r\n40000000\r\n",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let pieces = 64 << 20 >> 16;
        let refused = (0..pieces).find_map(|_| stream.write_all(&[b'a'; 1 << 16]).err());
        let refused = refused.unwrap_or_else(|| panic!("64 MiB were taken after {head}"));
        assert!(
            matches!(refused.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{head}: {refused}"
        );
    }
    assert!(exchange(address, "GET /latest/meta-data/ami-id HTTP/1.1").0.starts_with("http/1.1 200"));
}
