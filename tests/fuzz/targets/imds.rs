//! A request of the guest to the metadata service: its path, its token and its time to live. HTTP around them is hyper's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use metadata::{
    Answer, BlockDevice, HttpTokens, InstanceMetadata, MetadataOptions, Method, PublicKey, Request, Service,
    TokenKey, testing,
};
use types::ManualClock;

fn instance(http_tokens: HttpTokens) -> InstanceMetadata {
    InstanceMetadata {
        interfaces: vec![testing::interface()],
        block_devices: vec![BlockDevice { role: "ami".into(), device: "vda".into() }],
        public_keys: vec![PublicKey { name: "key".into(), openssh: "ssh-ed25519 AAAA me\n".into() }],
        user_data: Some(b"#!/bin/sh\n".to_vec()),
        tags: BTreeMap::from([("Name".into(), "fuzz".into())]),
        options: MetadataOptions { http_tokens, instance_tags: true, ..MetadataOptions::default() },
        ..testing::instance()
    }
}

fn service(http_tokens: HttpTokens) -> Service {
    let key = TokenKey::generate(&mut [7; 32].as_slice()).expect("32 bytes");
    Service::new(instance(http_tokens), key, Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH)))
}

/// Answers the request whose path, token and time to live stand in three lines behind a byte that says the rest.
pub fn run(data: &[u8]) {
    let Some((&what, rest)) = data.split_first() else { return };
    let mut lines = rest.splitn(3, |byte| *byte == b'\n');
    let Ok(path) = str::from_utf8(lines.next().unwrap_or_default()) else { return };
    let (token, ttl) = (lines.next(), lines.next());
    let is_required = what & 4 != 0;
    let service = service(if is_required { HttpTokens::Required } else { HttpTokens::Optional });
    let method = [Method::Get, Method::Put, Method::Other, Method::Get][usize::from(what & 3)];
    let request = Request { method, path, token, ttl, is_forwarded: what & 8 != 0 };
    match service.answer(request) {
        Answer::Token { token, .. } => {
            assert!(method == Method::Put && !request.is_forwarded);
            let with_token =
                Request { method: Method::Get, path: "/", token: Some(token.as_bytes()), ..request };
            assert!(matches!(service.answer(with_token), Answer::Text { .. }), "a token that does not hold");
        }
        Answer::Text { token_ttl, .. } | Answer::UserData { token_ttl, .. } => {
            assert!(token_ttl.is_some() || !is_required, "answered without a token");
        }
        _ => {}
    }
}

/// What clients ask.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "\u{1}/latest/api/token\n\n21600",
        "\u{3}/2021-03-23/meta-data/",
        "\0/latest/user-data",
        "\u{4}/%6catest/dynamic",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
