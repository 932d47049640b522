use super::*;
use base64::Engine;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn kinds(bytes: &[u8]) -> Vec<(Kind, String)> {
    let (parts, warnings) = take_apart(bytes);
    assert_eq!(warnings, Vec::<String>::new());
    parts.into_iter().map(|part| (part.kind, part.name)).collect()
}

#[test]
fn the_first_line_tells_what_a_single_file_is() {
    assert_eq!(kinds(b"#!/bin/sh\n"), [(Kind::Script, "part-001".into())]);
    assert_eq!(kinds(b"#cloud-config\na: 1\n"), [(Kind::CloudConfig, "part-001".into())]);
    assert_eq!(kinds(b"#cloud-boothook\n#!/bin/sh\n"), [(Kind::Boothook, "part-001".into())]);
    assert_eq!(kinds(b" \n"), []);
}

#[test]
fn gzip_is_opened_around_the_message_and_in_its_parts() {
    let inner = mime::BASE64.encode(gzip(b"#cloud-config\nhostname: a\n"));
    let message = format!(
        "Content-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: text/x-shellscript-per-boot\n\
         Content-Disposition: attachment; filename=\"../.hidden x\"\n\n#!/bin/sh\n--B\n\
         Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n{inner}\n--B--\n"
    );
    let want = [(Kind::ScriptPerBoot, "_.hidden_x".to_owned()), (Kind::CloudConfig, "part-002".to_owned())];
    assert_eq!(kinds(&gzip(message.as_bytes())), want);
}

#[test]
fn what_is_not_done_is_said() {
    for (text, said) in [
        ("#include\nhttp://x\n", "includes are not done"),
        ("#cloud-config-archive\n", "archives are not done"),
        ("#part-handler\n", "part handlers"),
        ("## template: jinja\n#cloud-config\n", "templates are not done"),
        ("hello\n", "neither a script"),
    ] {
        let (parts, warnings) = take_apart(text.as_bytes());
        assert!(parts.is_empty());
        assert!(warnings[0].contains(said), "{text}: {warnings:?}");
    }
    let (_, warnings) = take_apart(&gzip(b"#!/bin/sh\n")[..15]);
    assert!(warnings[0].contains("damaged"), "{warnings:?}");
}

#[test]
fn a_bomb_is_refused() {
    let bomb = gzip(&vec![0; usize::try_from(LENGTH_MAX).unwrap() + 2]);
    assert!(decompress(&bomb).unwrap_err().to_string().contains("more than"));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), zip: bool) {
        let _ = take_apart(&if zip { gzip(&bytes) } else { bytes });
    }

    #[test]
    fn names_stay_in_their_folder(name in ".{0,30}") {
        let name = safe_name(&name, 1);
        prop_assert!(!name.is_empty() && !name.contains('/') && !name.starts_with('.'));
    }
}
