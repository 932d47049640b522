//! Percent-encoding (RFC 3986, section 2.1).

use std::borrow::Cow;

/// Whether `+` is a space, as it is in forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    Space,
    Plus,
}

/// The text that `encoded` stands for; `None` if a `%` is not followed by two hexadecimal digits, or it is not UTF-8.
pub fn decode(encoded: &[u8], plus: Plus) -> Option<Cow<'_, str>> {
    let is_special = |byte: &u8| *byte == b'%' || (*byte == b'+' && plus == Plus::Space);
    if !encoded.iter().any(is_special) {
        return std::str::from_utf8(encoded).ok().map(Cow::Borrowed);
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'%' => {
                let [high, low, after @ ..] = after else { return None };
                rest = after;
                hex_digit(*high)? << 4 | hex_digit(*low)?
            }
            b'+' if plus == Plus::Space => b' ',
            other => *other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Appends `text` with all but unreserved characters (letters, digits, `-._~`) and those of `kept` encoded.
pub fn encode(text: &[u8], kept: &[u8], out: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(byte.into());
        } else {
            out.push('%');
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

pub fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_encoding_is_refused() {
        for text in ["%", "%4", "a%zz", "%ff", "%+1"] {
            assert_eq!(decode(text.as_bytes(), Plus::Space), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text: String) {
            let mut encoded = String::new();
            encode(text.as_bytes(), b"", &mut encoded);
            prop_assert!(encoded.is_ascii());
            let decoded = decode(encoded.as_bytes(), Plus::Space);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }
    }
}
