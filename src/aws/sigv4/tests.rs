//! Requests that another signer signed (`vectors.py`), as they are and changed.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};
use proptest::prelude::*;
use serde::Deserialize;
use types::ManualClock;

use super::*;

/// When they were signed: 2015-08-30, 12:36 UTC.
const SIGNED_S: u64 = 1_440_938_160;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[derive(Debug, Clone, Deserialize)]
struct Vector {
    name: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    /// A character for each byte.
    body: String,
    token: Option<String>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn vector(name: &str) -> Vector {
    vectors().into_iter().find(|vector| vector.name == name).unwrap()
}

struct Known {
    secret: &'static str,
    token: Option<String>,
}

impl Credentials for Known {
    fn find(&self, access_key: &str) -> Option<Credential> {
        (access_key == "AKIDEXAMPLE").then(|| Credential {
            secret: self.secret.to_owned(),
            session_token: self.token.clone(),
            account: "123456789012".into(),
            arn: "arn:aws:iam::123456789012:root".into(),
            user_id: "123456789012".into(),
        })
    }
}

impl Vector {
    fn header(&mut self, name: &str) -> &mut String {
        &mut self.headers.iter_mut().find(|header| header.0 == name).unwrap().1
    }

    fn verify_at(&self, seconds: u64) -> Result<Caller, Denied> {
        let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let known = Known { secret: SECRET, token: self.token.clone() };
        self.verify_by(&Verifier::new(Arc::new(known), Arc::new(clock)))
    }

    fn verify(&self) -> Result<Caller, Denied> {
        self.verify_at(SIGNED_S)
    }

    fn verify_by(&self, verifier: &Verifier) -> Result<Caller, Denied> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let body: Vec<u8> = self.body.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let uri: Uri = self.target.parse().unwrap();
        let request = Request {
            method: &self.method,
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            headers: &headers,
            body: &body,
        };
        verifier.verify(&request, &Claim::of(&request)?)
    }
}

#[test]
fn what_another_signer_signed_is_verified() {
    for vector in vectors() {
        let caller = vector.verify().unwrap_or_else(|denied| panic!("{}: {denied}", vector.name));
        assert_eq!(&*caller.account, "123456789012", "{}", vector.name);
        assert_eq!(caller.region, "us-east-1");
    }
}

#[test]
fn what_is_signed_here_is_verified() {
    for token in [None, Some("a token")] {
        let signer = Signer {
            access_key: "AKIDEXAMPLE",
            secret: SECRET,
            session_token: token,
            region: "us-east-1",
            service: "ec2",
        };
        let host = HeaderMap::from_iter([("host".parse().unwrap(), "localhost:4566".parse().unwrap())]);
        let body = b"Action=DescribeRegions";
        let mut request = Request { method: "POST", path: "/", query: "a=b%20c", headers: &host, body };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(SIGNED_S);
        let mut headers = host.clone();
        headers.extend(signer.sign(&request, time).unwrap());
        request.headers = &headers;
        let clock = ManualClock::starting_at(time);
        let known = Known { secret: SECRET, token: token.map(str::to_owned) };
        let verifier = Verifier::new(Arc::new(known), Arc::new(clock));
        let caller = verifier.verify(&request, &Claim::of(&request).unwrap()).unwrap();
        assert_eq!((caller.access_key.as_str(), caller.region.as_str()), ("AKIDEXAMPLE", "us-east-1"));
        request.body = b"Action=TerminateInstances";
        assert_eq!(verifier.verify(&request, &Claim::of(&request).unwrap()), Err(Denied::Mismatch));
    }
}

#[test]
fn any_change_is_a_mismatch() {
    for vector in vectors() {
        let mut changed = vector.clone();
        changed.method = "PUT".to_owned();
        assert_eq!(changed.verify(), Err(Denied::Mismatch), "the method of {}", vector.name);
        let mut changed = vector.clone();
        changed.body.push('x');
        assert_eq!(changed.verify(), Err(Denied::Mismatch), "the body of {}", vector.name);
        let mut changed = vector.clone();
        changed.header("Host").push('x');
        assert_eq!(changed.verify(), Err(Denied::Mismatch), "the host of {}", vector.name);
        let mut changed = vector.clone();
        changed.target.push_str(if vector.target.contains('?') { "&a=1" } else { "?a=1" });
        assert_eq!(changed.verify(), Err(Denied::Mismatch), "the query of {}", vector.name);
        let mut changed = vector.clone();
        changed.target.insert(1, 'x');
        assert_eq!(changed.verify(), Err(Denied::Mismatch), "the path of {}", vector.name);
    }
}

#[test]
fn a_signature_is_of_its_time() {
    let signed = vector("form");
    for seconds in [SIGNED_S - SKEW_MAX_S, SIGNED_S + SKEW_MAX_S] {
        assert!(signed.verify_at(seconds).is_ok());
    }
    for seconds in [0, SIGNED_S - SKEW_MAX_S - 1, SIGNED_S + SKEW_MAX_S + 1] {
        assert!(matches!(signed.verify_at(seconds), Err(Denied::Expired { .. })), "{seconds}");
    }
    let presigned = vector("presigned");
    assert!(presigned.verify_at(SIGNED_S + 3600).is_ok());
    let expired = presigned.verify_at(SIGNED_S + 3601);
    let (signed, now) = ("20150830T123600Z".to_owned(), "20150830T133601Z".to_owned());
    assert_eq!(expired, Err(Denied::Expired { signed, now }));
}

#[test]
fn keys_and_tokens_must_be_known() {
    let mut unknown = vector("form");
    let authorization = unknown.header("Authorization");
    *authorization = authorization.replace("AKIDEXAMPLE", "AKIDOTHER");
    assert_eq!(unknown.verify(), Err(Denied::UnknownKey));
    let mut without = vector("session token");
    without.token = None;
    assert_eq!(without.verify(), Err(Denied::WrongToken));
    let mut with = vector("form");
    with.token = Some("token".to_owned());
    assert_eq!(with.verify(), Err(Denied::WrongToken));
    let mut other = vector("session token");
    other.token = Some("token".to_owned());
    assert_eq!(other.verify(), Err(Denied::WrongToken));
}

#[test]
fn the_hash_in_a_header_is_that_of_the_body() {
    let mut vector = vector("form");
    vector.headers.push(("x-amz-content-sha256".to_owned(), "UNSIGNED-PAYLOAD".to_owned()));
    assert_eq!(vector.verify(), Err(Denied::Body));
    let hash = hex(digest::digest(&digest::SHA256, vector.body.as_bytes()).as_ref());
    *vector.header("x-amz-content-sha256") = hash;
    assert!(vector.verify().is_ok());
}

#[test]
fn a_target_must_be_signed() {
    let mut vector = vector("form");
    vector.headers.push(("x-amz-target".to_owned(), "GraniteServiceVersion20100801.ListMetrics".to_owned()));
    assert!(matches!(vector.verify(), Err(Denied::Incomplete(_))));
}

#[test]
fn a_replaced_secret_is_used_at_once() {
    let clock = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(SIGNED_S)));
    let mut verifier = Verifier::new(Arc::new(Known { secret: SECRET, token: None }), clock);
    assert!(vector("form").verify_by(&verifier).is_ok());
    verifier.credentials = Arc::new(Known { secret: "another", token: None });
    assert_eq!(vector("form").verify_by(&verifier), Err(Denied::Mismatch));
}

#[test]
fn what_is_not_signed_or_not_wholly_is_told() {
    let mut unsigned = vector("form");
    unsigned.headers.retain(|header| header.0 != "Authorization");
    assert_eq!(unsigned.verify(), Err(Denied::Missing));
    let whole = vector("form").header("Authorization").clone();
    for (from, to, told) in [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "must begin with AWS4-HMAC-SHA256"),
        ("Credential=", "Credentials=", "no part of Authorization"),
        ("Signature=", "Signature=,Signature=", "two parts 'Signature'"),
        ("Signature=db", "Signature=d", "64 hexadecimal digits"),
        ("Signature=db", "Signature=zz", "64 hexadecimal digits"),
        ("content-type;host;", "content-type;", "'host' must be"),
        ("content-type;host;", "host;content-type;", "must be sorted"),
        ("content-type;host;", "host;host;", "must be sorted"),
        ("content-type;host;", "content-type;host;z;", "must be sorted"),
        ("content-type;host;", "content-length;host;", "is not in the request"),
        ("/aws4_request", "/aws4", "KEY/DATE/REGION/SERVICE/aws4_request"),
        ("/us-east-1/", "//", "KEY/DATE/REGION/SERVICE/aws4_request"),
        ("/20150830/", "/20150831/", "must be that of X-Amz-Date"),
        (", SignedHeaders=", ", SignedHeader=", "no part"),
    ] {
        let mut vector = vector("form");
        *vector.header("Authorization") = whole.replace(from, to);
        match vector.verify() {
            Err(Denied::Incomplete(what)) => assert!(what.contains(told), "{to}: {what}"),
            other => panic!("{to}: {other:?}"),
        }
    }
    for time in ["20150830T123600", "2015-08-30T12:36:00Z", "20151330T123600Z", "20150830T246000Z", ""] {
        let mut vector = vector("form");
        *vector.header("X-Amz-Date") = time.to_owned();
        assert!(matches!(vector.verify(), Err(Denied::Incomplete(_))), "{time}");
    }
}

#[test]
fn a_presigned_query_is_whole_and_lasts_a_week_at_most() {
    for (from, to) in [
        ("X-Amz-Expires=3600", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=0"),
        ("X-Amz-Expires=3600", "X-Amz-Expire=3600"),
        ("X-Amz-Date=", "X-Amz-Date=1&X-Amz-Date="),
        ("AWS4-HMAC-SHA256", "AWS4"),
        ("X-Amz-Signature=", "X-Amz-Signatures="),
    ] {
        let mut vector = vector("presigned");
        vector.target = vector.target.replace(from, to);
        assert!(matches!(vector.verify(), Err(Denied::Incomplete(_))), "{to}: {:?}", vector.verify());
    }
}

#[test]
fn each_service_has_its_words_for_it() {
    let told = |denied: &Denied, protocol| {
        let error = denied.error(protocol);
        (error.code.into_owned(), error.status)
    };
    assert_eq!(told(&Denied::Mismatch, Protocol::Ec2), ("AuthFailure".into(), 401));
    assert_eq!(told(&Denied::Mismatch, Protocol::Query), ("SignatureDoesNotMatch".into(), 403));
    assert_eq!(told(&Denied::UnknownKey, Protocol::Query), ("InvalidClientTokenId".into(), 403));
    assert_eq!(told(&Denied::UnknownKey, Protocol::RestJson), ("UnrecognizedClientException".into(), 403));
    assert_eq!(told(&Denied::Missing, Protocol::Ec2), ("MissingAuthenticationToken".into(), 403));
    let expired = Denied::Expired { signed: String::new(), now: String::new() };
    assert_eq!(told(&expired, Protocol::Ec2), ("RequestExpired".into(), 400));
    assert_eq!(told(&expired, Protocol::Query), ("SignatureDoesNotMatch".into(), 403));
}

proptest! {
    #[test]
    fn any_headers_and_query_are_read_without_a_panic(
        authorization in "(AWS4-HMAC-SHA256 )?[ -~]{0,80}",
        time in "[0-9]{8}T[0-9]{6}Z",
        query in "[!-~]{0,80}",
    ) {
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            headers.insert("authorization", authorization.parse().unwrap());
        }
        headers.insert("x-amz-date", time.parse().unwrap());
        headers.insert("host", "localhost".parse().unwrap());
        let request = Request { method: "GET", path: "/", query: &query, headers: &headers, body: b"" };
        let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH);
        let verifier = Verifier::new(Arc::new(Known { secret: SECRET, token: None }), Arc::new(clock));
        prop_assert!(Claim::of(&request).and_then(|claim| verifier.verify(&request, &claim)).is_err());
    }
}
