//! The conformance suite on S3 as a server process speaks it.

use volume::snapshot::StoreErrorKind;
use volume::snapshot::store::conformance::check;

use super::testing::S3Server;
use super::*;

fn open(server: &S3Server, bucket: &str) -> Bucket {
    let variables = server.variables().into_iter().chain([("HOME".to_owned(), "/".to_owned())]);
    Bucket::open("the bucket", bucket, variables).unwrap()
}

#[test]
fn a_bucket_is_a_store_and_what_fails_says_how() {
    let server = S3Server::start();
    check(&open(&server, "bucket"));
    let (one, other) = (open(&server, "bucket/one/deep"), open(&server, "bucket/other"));
    check(&one);
    one.put("a/b", b"x").unwrap();
    assert!(other.get("a/b").unwrap_err().is_not_found());
    assert_eq!(open(&server, "bucket").get("one/deep/a/b").unwrap(), b"x");
    let error = open(&server, "missing").put("a/b", b"x").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error:?}");
    drop(server);
    let error = one.get("a/b").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error:?}");
}
