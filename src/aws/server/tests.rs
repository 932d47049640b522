//! The server over loopback, with signed requests and what a client may do wrong.

use std::net::SocketAddr;
use std::time::Duration;

use types::ManualClock;

use super::*;
use crate::sigv4::{Credential, Credentials, Verifier};
use crate::table::{Call, Table};
use crate::{ec2, sts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Nobody;

impl Credentials for Nobody {
    fn find(&self, _: &str) -> Option<Credential> {
        None
    }
}

fn identity(
    _: (),
    call: Call<sts::GetCallerIdentityRequest>,
) -> Result<sts::GetCallerIdentityResponse, Error> {
    Ok(sts::GetCallerIdentityResponse {
        account: Some(call.caller.account.to_string()),
        ..Default::default()
    })
}

fn regions(_: (), _: Call<ec2::DescribeRegionsRequest>) -> Result<ec2::DescribeRegionsResult, Error> {
    Ok(ec2::DescribeRegionsResult::default())
}

async fn started(limits: Limits) -> SocketAddr {
    let table =
        Table::new().serve_now::<sts::GetCallerIdentity>(identity).serve_now::<ec2::DescribeRegions>(regions);
    let clock = ManualClock::starting_at(std::time::SystemTime::UNIX_EPOCH);
    let verifier = Verifier::new(Arc::new(Nobody), Arc::new(clock));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(Api { table, verifier, context: () }), limits));
    address
}

fn limits() -> Limits {
    Limits { body_bytes: 1000, body_time: Duration::from_millis(200), ..Limits::default() }
}

/// All that comes until the connection ends, or an answer that is whole.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    let read = async {
        while !text.ends_with("Response>") {
            let count = stream.read(&mut bytes).await.unwrap();
            if count == 0 {
                break;
            }
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer comes");
    text
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&mut stream).await
}

#[tokio::test]
async fn a_connection_is_kept_between_requests() {
    let address = started(limits()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        let query = "Action=GetCallerIdentity&Version=2011-06-15";
        let request = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{query}", query.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 403"), "{text}");
        assert!(text.contains("x-amzn-requestid: "), "{text}");
        assert!(text.contains("<Code>MissingAuthenticationToken</Code>"), "{text}");
        assert!(text.contains("https://sts.amazonaws.com/doc/2011-06-15/"), "told as STS tells it: {text}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_comes() {
    let address = started(limits()).await;
    let told = ask(address, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 413"), "{told}");
    let chunk = format!("3e8\r\n{}\r\n1\r\n", "x".repeat(1000));
    let chunked = format!("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}x\r\n");
    let told = ask(address, &chunked).await;
    assert!(told.starts_with("HTTP/1.1 413"), "{told}");
    assert!(
        told.contains("<Code>RequestEntityTooLarge</Code>") && told.contains("connection: close"),
        "{told}"
    );
}

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_in_vain_only_so_long() {
    let address = started(limits()).await;
    let told = ask(address, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await;
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off() {
    let address = started(Limits { head_time: Duration::from_millis(200), ..limits() }).await;
    let told = ask(address, "POST / HTTP/1.1\r\nhost: x\r\n").await;
    assert!(!told.contains("200 OK"), "{told}");
    let address = started(limits()).await;
    let told =
        ask(address, &format!("GET /?{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(HEAD_BYTES_MAX))).await;
    assert!(told.starts_with("HTTP/1.1 4"), "{told}");
}

#[tokio::test]
async fn a_service_that_there_is_not_is_told_as_one_that_there_is() {
    let address = started(limits()).await;
    let scope = "AKIDEXAMPLE/19700101/us-east-1/s3/aws4_request";
    let signature = "0".repeat(64);
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={signature}");
    let request = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-amz-date: 19700101T000000Z\r\nauthorization: {authorization}\r\n\r\n"
    );
    let told = ask(address, &request).await;
    assert!(told.contains("nimbo does not serve the service s3"), "{told}");
    let told = ask(address, &request.replace("/s3/", "/ec2/")).await;
    assert!(told.contains("<Code>AuthFailure</Code>") && told.starts_with("HTTP/1.1 401"), "{told}");
}

/// Waits for a byte before anything else.
struct Knock;

impl Transport for Knock {
    type Stream = TcpStream;

    async fn open(&self, mut stream: TcpStream) -> io::Result<TcpStream> {
        stream.read_u8().await?;
        Ok(stream)
    }
}

#[tokio::test]
async fn who_does_not_open_a_connection_holds_it_only_so_long() {
    let table = Table::new().serve_now::<sts::GetCallerIdentity>(identity);
    let clock = ManualClock::starting_at(std::time::SystemTime::UNIX_EPOCH);
    let api = Api { table, verifier: Verifier::new(Arc::new(Nobody), Arc::new(clock)), context: () };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { connections: 2, open_time: Duration::from_millis(100), ..limits() };
    tokio::spawn(serve_through(Arc::new(Knock), listener, Arc::new(api), limits));
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let told = ask(address, "!POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert!(told.contains("MissingAuthenticationToken"), "{told}");
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it was closed");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_given_up_on() {
    let (near, _far) = tokio::io::duplex(16);
    let mut stream = Unstalled::new(near, Duration::from_secs(60));
    let error = stream.write_all(&[0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
