//! The conformance suite on a folder, and on S3 as a server process speaks it: moto, which scripts/deps installs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use volume::snapshot::store::conformance::check;

use super::*;

#[test]
fn a_folder_is_a_store() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = folder.path().join("deep/er");
    check(&Objects::open(path.to_str().unwrap()).unwrap());
    assert!(Objects::folder(Path::new("/proc/nothing/here")).is_err());
}

struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/moto/bin/moto_server");
    if installed.exists() { installed } else { "moto_server".into() }
}

impl Server {
    fn start() -> Self {
        // Free a moment ago; who takes it meanwhile makes the test fail, not lie.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program());
        command
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().expect("moto_server is installed by scripts/deps");
        let server = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.request("PUT /bucket") != Some("200".to_owned()) {
            assert!(Instant::now() < deadline, "moto_server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Sends a request without a body; says the status.
    fn request(&self, what: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let head =
            format!("{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1).map(str::to_owned)
    }

    fn open(&self, location: &str) -> Objects {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT", &format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true"),
            ("HOME", "/"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Objects::open_with(location, variables).unwrap()
    }
}

#[test]
fn a_bucket_is_a_store_and_what_fails_says_how() {
    let server = Server::start();
    check(&server.open("s3://bucket"));
    let (one, other) = (server.open("s3://bucket/one/deep"), server.open("s3://bucket/other"));
    check(&one);
    one.put("a/b", b"x").unwrap();
    assert!(other.get("a/b").unwrap_err().is_not_found());
    assert_eq!(server.open("s3://bucket").get("one/deep/a/b").unwrap(), b"x");
    let error = server.open("s3://missing").put("a/b", b"x").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error:?}");
    drop(server);
    let error = one.get("a/b").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error:?}");
}
