//! The code for texts (RFC 7541, 5.2 and appendix B).
//!
//! It is canonical: codes of one length follow each other in the order of the bytes that they stand for, and shorter ones come first. So the lengths say it all.
//! Texts are not written in it: that costs time, and saves a quarter of what is little.

use std::sync::LazyLock;

/// How many bits each byte's code has. The end's, which nobody may send, has 30, and is the last.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LENGTH_MAX: usize = 30;

/// What is not the code of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadCode;

struct Table {
    /// Of codes with up to eight bits, by the next eight bits: the byte and its length; 0 if the code is longer.
    short: [(u8, u8); 256],
    /// Of each length: the first code, and where its byte is in `bytes`.
    first: [(u32, usize); LENGTH_MAX + 1],
    /// By their codes.
    bytes: Vec<u8>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table =
        Table { short: [(0, 0); 256], first: [(0, 0); LENGTH_MAX + 1], bytes: Vec::with_capacity(256) };
    let mut code = 0_u32;
    for length in 1..=LENGTH_MAX {
        code <<= 1;
        table.first[length] = (code, table.bytes.len());
        for (byte, _) in (0..=u8::MAX).zip(LENGTHS).filter(|(_, its)| usize::from(*its) == length) {
            if let Some(free) = 8_usize.checked_sub(length) {
                let from = (code as usize) << free;
                table.short[from..from + (1 << free)].fill((byte, LENGTHS[usize::from(byte)]));
            }
            table.bytes.push(byte);
            code += 1;
        }
    }
    table
});

/// Writes what `text` stands for.
///
/// # Errors
/// When a code is none, or the text does not end as it must.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadCode> {
    let table = &*TABLE;
    // The next bits, at the high end, and how many there are.
    let (mut bits, mut count) = (0_u64, 0_usize);
    let mut rest = text.iter();
    loop {
        while count <= 56 {
            let Some(byte) = rest.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Ok(());
        }
        let (byte, length) = match table.short[usize::from(bits.to_be_bytes()[0])] {
            (_, 0) => match longer(table, bits, count) {
                Some(found) => found,
                // What is left over are the first bits of the end's code, fewer than eight, all ones.
                None if count < 8 && bits >> (64 - count) == (1 << count) - 1 => return Ok(()),
                None => return Err(BadCode),
            },
            (byte, length) if usize::from(length) <= count => (byte, usize::from(length)),
            _ if count < 8 && bits >> (64 - count) == (1 << count) - 1 => return Ok(()),
            _ => return Err(BadCode),
        };
        out.push(byte);
        bits <<= length;
        count -= length;
    }
}

fn longer(table: &Table, bits: u64, count: usize) -> Option<(u8, usize)> {
    (9..=LENGTH_MAX.min(count)).find_map(|length| {
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let (first, place) = table.first[length];
        let after = table.first.get(length + 1).map_or(table.bytes.len(), |(_, place)| *place);
        let place = place + usize::try_from(code.checked_sub(first)?).ok()?;
        (place < after).then(|| (table.bytes[place], length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &[u8]) -> Result<String, BadCode> {
        let mut out = Vec::new();
        decode(text, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn texts_of_the_standards_examples_are_read() {
        // RFC 7541, C.4.1, C.4.2, C.4.3 and C.6.1.
        for (code, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ] {
            assert_eq!(decoded(code).as_deref(), Ok(text));
        }
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
            0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(decoded(&date).as_deref(), Ok("Mon, 21 Oct 2013 20:13:21 GMT"));
    }

    #[test]
    fn every_byte_has_a_code_and_none_is_another_ones() {
        let mut codes = vec![String::new(); 256];
        let mut code = 0_u32;
        for length in 1..=LENGTH_MAX {
            code <<= 1;
            for (byte, _) in LENGTHS.iter().enumerate().filter(|(_, its)| usize::from(**its) == length) {
                codes[byte] = format!("{code:0length$b}");
                code += 1;
            }
        }
        assert_eq!(code, (1 << LENGTH_MAX) - 1, "the end's code is all ones, and the last");
        let bits = codes.concat() + "1111111";
        let packed: Vec<u8> = bits
            .as_bytes()
            .chunks_exact(8)
            .map(|bits| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap())
            .collect();
        let mut out = Vec::new();
        decode(&packed, &mut out).unwrap();
        assert_eq!(out, (0..=u8::MAX).collect::<Vec<_>>());
    }

    #[test]
    fn what_ends_wrongly_is_no_text() {
        // Padding of eight bits, of zeroes, and the end's own code.
        for code in
            [&[0xff][..], &[0x07, 0xff], &[0x00, 0x00], &[0xff, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xfc]]
        {
            assert_eq!(decoded(code), Err(BadCode), "{code:x?}");
        }
    }
}
