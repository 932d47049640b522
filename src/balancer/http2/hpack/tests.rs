use proptest::prelude::*;

use super::*;

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, BadBlock> {
    let mut fields = Fields::default();
    decoder.decode(block, &mut fields)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(fields.iter().map(|(name, value)| (text(name), text(value))).collect())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// RFC 7541, C.4: three requests on one connection.
#[test]
fn the_standards_requests_are_read() {
    let mut decoder = Decoder::default();
    let mut read = |hex| {
        let fields = decoded(&mut decoder, &bytes(hex)).unwrap();
        fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    let first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    assert_eq!(read("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"), first);
    let second = [
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
        "cache-control: no-cache",
    ];
    assert_eq!(read("8286 84be 5886 a8eb 1064 9cbf"), second);
    let third = [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ];
    assert_eq!(read("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"), third);
}

/// RFC 7541, C.5: a table of 256 bytes, out of which what is oldest falls.
#[test]
fn what_is_too_much_to_remember_is_forgotten() {
    let mut decoder = Decoder::default();
    assert_eq!(decoded(&mut decoder, &bytes("3fe101")), Ok(Vec::new()));
    let first = "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    assert_eq!(decoded(&mut decoder, &bytes(first)).unwrap()[0], (":status".to_owned(), "302".to_owned()));
    let second = decoded(&mut decoder, &bytes("4803 3330 37c1 c0bf")).unwrap();
    assert_eq!(second[0].1, "307");
    assert_eq!(second[3].1, "https://www.example.com");
    // The first status was forgotten for it.
    assert_eq!(decoded(&mut decoder, &bytes("c2")), Err(BadBlock));
}

#[test]
fn what_has_no_meaning_is_refused() {
    for hex in
        ["80", "be", "ff80808080808001", "7f", "40", "4001", "400161", "40016103", "3fe21f", "8220", "408161"]
    {
        assert_eq!(decoded(&mut Decoder::default(), &bytes(hex)), Err(BadBlock), "{hex}");
    }
}

#[test]
fn what_is_too_much_is_cut_and_the_table_goes_on() {
    let mut block = Vec::new();
    write(b"x", &vec![b'y'; FIELDS_BYTES_MAX], &mut block);
    block.extend(bytes("4001 6101 62"));
    let (mut decoder, mut fields) = (Decoder::default(), Fields::default());
    decoder.decode(&block, &mut fields).unwrap();
    assert!(fields.is_cut());
    // Some kilobytes that stand for many times as much.
    let mut bomb = Vec::new();
    bomb.extend(bytes("40 01 78"));
    write_text(&[b'z'; 4000], &mut bomb);
    bomb.extend([0xbe; 4000]);
    decoder.decode(&bomb, &mut fields).unwrap();
    assert!(fields.is_cut() && fields.text.len() <= FIELDS_BYTES_MAX);
    assert_eq!(decoded(&mut decoder, &bytes("be")).unwrap()[0].0, "x");
}

#[test]
fn common_fields_are_called_by_their_numbers() {
    for (place, (name, value)) in
        (1..).zip([(":authority", "x"), (":method", "GET"), (":method", "POST"), (":path", "/")])
    {
        let mut out = Vec::new();
        write(name.as_bytes(), value.as_bytes(), &mut out);
        assert_eq!(out, if place == 1 { vec![1, 1, b'x'] } else { vec![0x80 | place] }, "{name}");
    }
    assert_eq!(table::place(b"WWW-Authenticate", b"x"), Some((61, false)));
    assert_eq!(table::place(b":status", b"500"), Some((14, true)));
    assert_eq!(table::place(b":status", b"503"), Some((8, false)));
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in prop::collection::vec(("[a-z:-]{1,30}", "[ -~]{0,300}"), 0..20)) {
        let mut block = BEGIN.to_vec();
        fields.iter().for_each(|(name, value)| write(name.as_bytes(), value.as_bytes(), &mut block));
        prop_assert_eq!(decoded(&mut Decoder::default(), &block), Ok(fields));
    }

    #[test]
    fn nothing_that_comes_is_a_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8)) {
        let (mut decoder, mut fields) = (Decoder::default(), Fields::default());
        for block in blocks {
            let _ = decoder.decode(&block, &mut fields);
            prop_assert!(fields.iter().count() <= block.len());
        }
    }
}
