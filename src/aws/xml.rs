//! Values to XML, for EC2 and for services that read queries.
//!
//! Tags come with the members, ready to be copied. What XML 1.0 cannot hold (section 2.2: most control characters) is written as
//! U+FFFD: an answer that no client could read would hide all that is beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::encode::{Encoder, Kind};
use crate::member::Member;
use crate::time::push_iso;

#[derive(Debug)]
pub struct Xml<'a> {
    out: &'a mut Vec<u8>,
}

/// What a byte is in text: 0 stands for itself, else an index of [`ESCAPES`].
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        classes[byte] = 5;
        byte += 1;
    }
    classes[b'\t' as usize] = 0;
    classes[b'\n' as usize] = 0;
    classes[b'\r' as usize] = 4;
    classes[b'&' as usize] = 1;
    classes[b'<' as usize] = 2;
    classes[b'>' as usize] = 3;
    // U+FFFE and U+FFFF begin with it, as many others do.
    classes[0xef] = 6;
    classes
};
const ESCAPES: [&str; 6] = ["", "&amp;", "&lt;", "&gt;", "&#xD;", "\u{fffd}"];
const MAYBE_NO_CHARACTER: u8 = 6;

/// Appends `text` with escapes.
pub fn push_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut done = 0;
    let mut at = 0;
    while at < bytes.len() {
        let mut class = CLASSES[usize::from(bytes[at])];
        let mut length = 1;
        if class == MAYBE_NO_CHARACTER {
            let is_none = matches!(bytes.get(at + 1..at + 3), Some([0xbf, 0xbe | 0xbf]));
            (class, length) = if is_none { (5, 3) } else { (0, 1) };
        }
        if class != 0 {
            out.extend_from_slice(&bytes[done..at]);
            out.extend_from_slice(ESCAPES[usize::from(class)].as_bytes());
            done = at + length;
        }
        at += length;
    }
    out.extend_from_slice(&bytes[done..]);
}

/// Whether nothing of `text` needs a closer look. Without branches, because that is many bytes at once.
fn is_plain(text: &str) -> bool {
    let looks = |byte: u8| byte < 0x20 || byte == b'&' || byte == b'<' || byte == b'>' || byte == 0xef;
    !text.bytes().fold(false, |found, byte| found | looks(byte))
}

impl<'a> Xml<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    fn raw(&mut self, member: &Member, value: &[u8]) {
        let (open, close) = member.tags();
        self.out.reserve(open.len() + value.len() + close.len());
        self.out.extend_from_slice(open);
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(close);
    }
}

impl Encoder for Xml<'_> {
    fn text(&mut self, member: &Member, value: &str) {
        if is_plain(value) {
            return self.raw(member, value.as_bytes());
        }
        self.out.extend_from_slice(member.tags().0);
        push_text(value, self.out);
        self.out.extend_from_slice(member.tags().1);
    }

    fn word(&mut self, member: &Member, value: &'static str) {
        self.raw(member, value.as_bytes());
    }

    fn boolean(&mut self, member: &Member, value: bool) {
        self.raw(member, if value { b"true" } else { b"false" });
    }

    fn integer(&mut self, member: &Member, value: i64) {
        self.raw(member, itoa::Buffer::new().format(value).as_bytes());
    }

    fn float(&mut self, member: &Member, value: f64) {
        self.raw(member, format!("{value:?}").as_bytes());
    }

    fn timestamp(&mut self, member: &Member, value: Timestamp) {
        self.out.extend_from_slice(member.tags().0);
        push_iso(value, self.out);
        self.out.extend_from_slice(member.tags().1);
    }

    fn blob(&mut self, member: &Member, value: &[u8]) {
        self.raw(member, STANDARD.encode(value).as_bytes());
    }

    fn begin(&mut self, member: &Member, _: Kind) {
        self.out.extend_from_slice(member.tags().0);
    }

    fn end(&mut self, member: &Member, _: Kind) {
        self.out.extend_from_slice(member.tags().1);
    }

    fn begin_entry(&mut self, key: &str) {
        self.out.extend_from_slice(b"<entry><key>");
        push_text(key, self.out);
        self.out.extend_from_slice(b"</key>");
    }

    fn end_entry(&mut self) {
        self.out.extend_from_slice(b"</entry>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        push_text(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn markup_and_what_no_document_holds_are_escaped() {
        assert_eq!(escaped("a<b>&\"c'\r\n\t"), "a&lt;b&gt;&amp;\"c'&#xD;\n\t");
        assert_eq!(
            escaped("\0a\u{1b}\u{fffe}b\u{ffff}\u{fffd}"),
            "\u{fffd}a\u{fffd}\u{fffd}b\u{fffd}\u{fffd}"
        );
        assert_eq!(escaped("\u{f000}é\u{ffef}"), "\u{f000}é\u{ffef}");
    }

    proptest! {
        #[test]
        fn any_text_is_escaped_to_text_without_markup(text: String) {
            let out = escaped(&text);
            let has_markup = out.contains(['<', '>', '\r', '\0', '\u{fffe}', '\u{ffff}']);
            prop_assert!(!has_markup);
        }
    }
}
