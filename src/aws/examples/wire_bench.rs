//! What the wire takes: `cargo run --release --package aws --features testing --example wire_bench`.
//!
//! `encode` is DescribeInstances with 280 instances from the typed output to the body; `answer` is a signed DescribeRegions from the request to the body,
//! without a socket; `http` is the same over loopback with 32 connections, whose clients run in this process too.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws::answer::success;
use aws::api::Api;
use aws::ec2::{self, Instance, Reservation, Tag};
use aws::request::{Request, RequestId};
use aws::server::{Limits, serve};
use aws::service::{Operation as _, Protocol};
use aws::sigv4::{Credential, Credentials, Verifier};
use aws::{Call, Error, Table};
use hyper::HeaderMap;
use ring::{digest, hmac};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use types::{Clock as _, SystemClock};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const BODY: &str = "Action=DescribeRegions&Version=2016-11-15&RegionName.1=us-east-1";
const CONNECTIONS: usize = 32;

struct Known;

impl Credentials for Known {
    fn find(&self, access_key: &str) -> Option<Credential> {
        (access_key == "AKIDEXAMPLE").then(|| Credential {
            secret: SECRET.to_owned(),
            session_token: None,
            account: "123456789012".into(),
            arn: "arn:aws:iam::123456789012:root".into(),
            user_id: "123456789012".into(),
        })
    }
}

fn instance(number: usize) -> Instance {
    let text = |text: &str| Some(text.to_owned());
    let tag = |key: &str| Tag { key: text(key), value: Some(format!("{key}-{number}")) };
    let group = ec2::GroupIdentifier { group_id: text("sg-0123456789abcdef0"), group_name: text("default") };
    let disk = ec2::EbsInstanceBlockDevice {
        attach_time: Some(jiff::Timestamp::UNIX_EPOCH),
        delete_on_termination: Some(true),
        status: Some(ec2::AttachmentStatus::Attached),
        volume_id: text("vol-0123456789abcdef0"),
        ..Default::default()
    };
    let interface = ec2::InstanceNetworkInterface {
        description: text(""),
        groups: Some(vec![group.clone()]),
        ipv6_addresses: Some(Vec::new()),
        mac_address: text("02:00:00:00:00:01"),
        network_interface_id: text("eni-0123456789abcdef0"),
        owner_id: text("123456789012"),
        private_dns_name: text("ip-10-0-0-5.ec2.internal"),
        private_ip_address: text("10.0.0.5"),
        private_ip_addresses: Some(vec![ec2::InstancePrivateIpAddress {
            primary: Some(true),
            private_dns_name: text("ip-10-0-0-5.ec2.internal"),
            private_ip_address: text("10.0.0.5"),
            ..Default::default()
        }]),
        source_dest_check: Some(true),
        status: Some(ec2::NetworkInterfaceStatus::InUse),
        subnet_id: text("subnet-0123456789abcdef0"),
        vpc_id: text("vpc-0123456789abcdef0"),
        ..Default::default()
    };
    Instance {
        ami_launch_index: Some(0),
        architecture: Some(ec2::ArchitectureValues::X8664),
        block_device_mappings: Some(vec![ec2::InstanceBlockDeviceMapping {
            device_name: text("/dev/xvda"),
            ebs: Some(disk),
        }]),
        client_token: text("b7e2f5c4-2a39-4a60-9d4c-0f6f7e0d4f10"),
        ebs_optimized: Some(false),
        ena_support: Some(true),
        hypervisor: Some(ec2::HypervisorType::Xen),
        image_id: text("ami-0123456789abcdef0"),
        instance_id: Some(format!("i-{number:017x}")),
        instance_type: text("t3.micro"),
        key_name: text("laptop"),
        launch_time: Some(jiff::Timestamp::UNIX_EPOCH),
        monitoring: Some(ec2::Monitoring {
            state: Some(ec2::MonitoringState::Disabled),
            ..Default::default()
        }),
        network_interfaces: Some(vec![interface]),
        placement: Some(ec2::Placement {
            availability_zone: text("us-east-1a"),
            group_name: text(""),
            tenancy: Some(ec2::Tenancy::Default),
            ..Default::default()
        }),
        private_dns_name: text("ip-10-0-0-5.ec2.internal"),
        private_ip_address: text("10.0.0.5"),
        public_dns_name: text("ec2-203-0-113-5.compute-1.amazonaws.com"),
        public_ip_address: text("203.0.113.5"),
        root_device_name: text("/dev/xvda"),
        root_device_type: Some(ec2::DeviceType::Ebs),
        security_groups: Some(vec![group]),
        source_dest_check: Some(true),
        state: Some(ec2::InstanceState { code: Some(16), name: Some(ec2::InstanceStateName::Running) }),
        subnet_id: text("subnet-0123456789abcdef0"),
        tags: Some(vec![tag("Name"), tag("team"), tag("stage")]),
        virtualization_type: Some(ec2::VirtualizationType::Hvm),
        vpc_id: text("vpc-0123456789abcdef0"),
        ..Default::default()
    }
}

fn bench_encode() {
    let reservation = |number| Reservation {
        owner_id: Some("123456789012".to_owned()),
        reservation_id: Some(format!("r-{number:017x}")),
        groups: Some(Vec::new()),
        instances: Some(vec![instance(number)]),
        ..Default::default()
    };
    let output = ec2::DescribeInstancesResult {
        reservations: Some((0..280).map(reservation).collect()),
        next_token: None,
    };
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..200 {
        let started = Instant::now();
        let answer = success(ec2::DescribeInstances::INFO, Protocol::Ec2, RequestId::generate(), &output);
        times.push(started.elapsed());
        bytes = answer.body.len();
    }
    times.sort();
    println!("encode: {bytes} bytes, median {:?}, best {:?}", times[times.len() / 2], times[0]);
}

fn regions(_: (), call: Call<ec2::DescribeRegionsRequest>) -> Result<ec2::DescribeRegionsResult, Error> {
    let region = |name: String| ec2::Region {
        endpoint: Some(format!("ec2.{name}.amazonaws.com")),
        region_name: Some(name),
        ..Default::default()
    };
    Ok(ec2::DescribeRegionsResult {
        regions: Some(call.input.region_names.into_iter().map(region).collect()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Headers of a signed request of [`BODY`].
fn signed() -> Result<Vec<(&'static str, String)>, Box<dyn StdError>> {
    let now = i64::try_from(SystemClock.wall().duration_since(UNIX_EPOCH)?.as_secs())?;
    let time = jiff::Timestamp::from_second(now)?.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = &time[..8];
    let sha = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    let canonical = format!("POST\n/\n\nhost:localhost\nx-amz-date:{time}\n\nhost;x-amz-date\n{}", sha(BODY));
    let scope = format!("{date}/us-east-1/ec2/aws4_request");
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [date, "us-east-1", "ec2", "aws4_request"] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha(&canonical));
    let signature = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), to_sign.as_bytes()).as_ref());
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
    );
    Ok(vec![
        ("host", "localhost".to_owned()),
        ("x-amz-date", time),
        ("content-type", "application/x-www-form-urlencoded".to_owned()),
        ("authorization", authorization),
    ])
}

async fn bench_answer(api: &Api<()>) -> Result<(), Box<dyn StdError>> {
    let mut headers = HeaderMap::new();
    for (name, value) in signed()? {
        headers.insert(name, value.parse()?);
    }
    let request = Request { method: "POST", path: "/", query: "", headers: &headers, body: BODY.as_bytes() };
    assert_eq!(api.answer(&request).await.status, 200);
    let (count, started) = (100_000, Instant::now());
    for _ in 0..count {
        api.answer(&request).await;
    }
    println!("answer: {:?} a request", started.elapsed() / count);
    Ok(())
}

async fn bench_http(api: Arc<Api<()>>) -> Result<(), Box<dyn StdError>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, api, Limits::default()));
    let mut request = "POST / HTTP/1.1\r\n".to_owned();
    for (name, value) in signed()? {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{BODY}", BODY.len()));
    let request: Arc<[u8]> = request.into_bytes().into();
    let started = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                let (mut count, mut answer) = (0_u32, vec![0; 4096]);
                while started.elapsed() < Duration::from_secs(3) {
                    stream.write_all(&request).await?;
                    let read = stream.read(&mut answer).await?;
                    assert!(
                        answer[..read].starts_with(b"HTTP/1.1 200"),
                        "{:?}",
                        String::from_utf8_lossy(&answer[..read])
                    );
                    count += 1;
                }
                Ok::<_, std::io::Error>(count)
            })
        })
        .collect();
    let mut count = 0;
    for client in clients {
        count += client.await??;
    }
    println!("http: {:.0} requests a second", f64::from(count) / started.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    bench_encode();
    let table = Table::new().serve_now::<ec2::DescribeRegions>(regions);
    let verifier = Verifier::new(Arc::new(Known), Arc::new(SystemClock));
    let api = Arc::new(Api { table, verifier, context: () });
    bench_answer(&api).await?;
    bench_http(api).await
}
