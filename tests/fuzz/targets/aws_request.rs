//! Whole requests, as far as their signatures: the first line of an input is method and target, then come headers up to an empty line, then
//! the body. None of them is signed, so all of them must be refused, and be answered.

use std::future::Future as _;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use aws::api::Api;
use aws::request::Request;
use aws::sigv4::{Credential, Credentials, Verifier};
use aws::{Call, Error, Table, ec2, sts, testing};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use types::ManualClock;

struct Known;

impl Credentials for Known {
    fn find(&self, access_key: &str) -> Option<Credential> {
        access_key.starts_with("AKID").then(|| Credential {
            // Nobody's, so no input is signed with it.
            secret: "a secret that no fuzzer finds out".to_owned(),
            session_token: access_key.ends_with('T').then(|| "token".to_owned()),
            account: "123456789012".into(),
            arn: "arn:aws:iam::123456789012:root".into(),
            user_id: "123456789012".into(),
        })
    }
}

fn never<I, O>(_: (), _: Call<I>) -> Result<O, Error> {
    panic!("a request that is not signed is carried out");
}

static API: LazyLock<Api<()>> = LazyLock::new(|| {
    let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160));
    Api {
        table: Table::new()
            .serve_now::<ec2::DescribeVpcs>(never)
            .serve_now::<sts::GetCallerIdentity>(never)
            .serve_now::<testing::efs::DescribeFileSystems>(never)
            .serve_now::<testing::cloudwatch::ListMetrics>(never),
        verifier: Verifier::new(Arc::new(Known), Arc::new(clock)),
        context: (),
    }
});

pub fn run(data: &[u8]) {
    let mut rest = data;
    let mut line = || {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        line
    };
    let Ok(first) = std::str::from_utf8(line()) else { return };
    let (method, target) = first.split_once(' ').unwrap_or((first, "/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    loop {
        let line = line();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let request = Request { method, path, query, headers: &headers, body: rest };
    let answer = pin!(API.answer(&request)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(answer) = answer else { panic!("a refusal waits for something") };
    assert!((400..500).contains(&answer.status), "{}", answer.status);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let signed = |service: &str, headers: &str| {
        format!(
            "authorization:AWS4-HMAC-SHA256 Credential=AKID/20150830/us-east-1/{service}/aws4_request, \
             SignedHeaders=host;x-amz-date{headers}, Signature={}\nhost:x\nx-amz-date:20150830T123600Z\n",
            "0".repeat(64)
        )
    };
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDT%2F20150830%2Fus-east-1%2Fsts%2Faws4_request\
         &X-Amz-Date=20150830T123600Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=token&X-Amz-Signature={}",
        "0".repeat(64)
    );
    [
        format!("POST /\n{}\nAction=DescribeVpcs&Version=2016-11-15", signed("ec2", "")),
        format!("GET /2015-02-01/file-systems?MaxItems=1\n{}\n", signed("elasticfilesystem", "")),
        format!("POST /\n{}x-amz-target:GraniteServiceVersion20100801.ListMetrics\n\n{{}}", signed("monitoring", ";x-amz-target")),
        format!("POST /service/GraniteServiceVersion20100801/operation/ListMetrics\nsmithy-protocol:rpc-v2-cbor\n{}\n", signed("monitoring", "")),
        format!("GET /?Action=GetCallerIdentity&Version=2011-06-15&{query}\nhost:x\n\n"),
        "GET /\nhost:x\n\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}
