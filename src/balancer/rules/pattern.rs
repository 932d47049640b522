//! Patterns of conditions: `*` stands for any bytes, also none, `?` for one. `\*`, `\?` and `\\` are those characters themselves; before
//! any other, a backslash is a backslash.
//!
//! A pattern matches the whole of a text, never a part of it, and bytes as they were sent: nothing is percent-decoded. Matching takes
//! at worst time in proportion to pattern times text, and no memory.

/// A pattern, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Box<[Part]>,
    is_case_blind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// In lower case if case does not matter.
    Byte(u8),
    One,
    Any,
}

impl Pattern {
    /// Case matters.
    pub fn exact_case(text: &str) -> Self {
        Self { parts: parts(text).collect(), is_case_blind: false }
    }

    /// Case does not matter, of ASCII letters.
    pub fn any_case(text: &str) -> Self {
        let lower = |part| match part {
            Part::Byte(byte) => Part::Byte(byte.to_ascii_lowercase()),
            wildcard => wildcard,
        };
        Self { parts: parts(text).map(lower).collect(), is_case_blind: true }
    }

    /// How many wildcards it has.
    pub fn wildcards(&self) -> usize {
        self.parts.iter().filter(|part| !matches!(part, Part::Byte(_))).count()
    }

    /// If all of `text` is what this stands for.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        // Where to go on if what follows the last `*` does not fit: the `*` then takes one byte more.
        let mut retry: Option<(usize, usize)> = None;
        while let Some(&byte) = text.get(at) {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    retry = Some((part, at));
                }
                Some(&wanted) if self.takes(wanted, byte) => {
                    part += 1;
                    at += 1;
                }
                _ => {
                    let Some((after, taken)) = retry else { return false };
                    retry = Some((after, taken + 1));
                    (part, at) = (after, taken + 1);
                }
            }
        }
        self.parts.get(part..).is_some_and(|rest| rest.iter().all(|part| *part == Part::Any))
    }

    fn takes(&self, part: Part, byte: u8) -> bool {
        match part {
            Part::Byte(wanted) if self.is_case_blind => wanted == byte.to_ascii_lowercase(),
            Part::Byte(wanted) => wanted == byte,
            Part::One => true,
            Part::Any => false,
        }
    }

    /// The bytes with which every text that matches begins.
    pub(super) fn head(&self) -> Vec<u8> {
        literal(self.parts.iter())
    }

    /// The bytes with which every text that matches ends, the last first.
    pub(super) fn reversed_tail(&self) -> Vec<u8> {
        literal(self.parts.iter().rev())
    }
}

/// Bytes up to the first wildcard.
fn literal<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<u8> {
    parts
        .map_while(|part| match part {
            Part::Byte(byte) => Some(*byte),
            Part::One | Part::Any => None,
        })
        .collect()
}

fn parts(text: &str) -> impl Iterator<Item = Part> {
    let mut bytes = text.bytes().peekable();
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'*' => Part::Any,
            b'?' => Part::One,
            b'\\' => Part::Byte(bytes.next_if(|next| b"*?\\".contains(next)).unwrap_or(b'\\')),
            byte => Part::Byte(byte),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wildcards_match_as_published() {
        for (pattern, text, is_match) in [
            ("*.example.com", "test.example.com", true),
            ("*.example.com", "example.com", false),
            ("/img/*", "/img/picture.jpg", true),
            ("/img/*", "/img/", true),
            ("/img/*", "/img", false),
            ("/img/*/pics", "/img/a/b/pics", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/ac", false),
            ("/a?c", "/abbc", false),
            ("*Chrome*", "Mozilla Chrome/80", true),
            ("*", "", true),
            ("?", "", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                Pattern::exact_case(pattern).matches(text.as_bytes()),
                is_match,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn a_backslash_takes_the_meaning_of_a_wildcard_away_and_of_nothing_else() {
        for (pattern, text, is_match) in [
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            (r"a\?", "a?", true),
            (r"a\?", "ab", false),
            (r"a\\*", r"a\xyz", true),
            (r"a\b", r"a\b", true),
            (r"a\", r"a\", true),
        ] {
            assert_eq!(
                Pattern::exact_case(pattern).matches(text.as_bytes()),
                is_match,
                "{pattern} on {text}"
            );
        }
        assert_eq!(Pattern::exact_case(r"\*a\?*?").wildcards(), 2);
    }

    #[test]
    fn case_matters_only_where_it_is_said_to() {
        assert!(Pattern::any_case("WWW.Example.*").matches(b"www.eXAMPLE.com"));
        assert!(!Pattern::exact_case("/Img/*").matches(b"/img/x"));
    }

    /// The definition, without regard to time.
    fn matches_by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|at| matches_by_definition(rest, &text[at..])),
            [b'?', rest @ ..] => !text.is_empty() && matches_by_definition(rest, &text[1..]),
            [byte, rest @ ..] => text.first() == Some(byte) && matches_by_definition(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let by_definition = matches_by_definition(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(Pattern::exact_case(&pattern).matches(text.as_bytes()), by_definition);
        }

        #[test]
        fn head_and_tail_are_true_of_all_that_matches(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let pattern = Pattern::exact_case(&pattern);
            if pattern.matches(text.as_bytes()) {
                let mut tail = pattern.reversed_tail();
                tail.reverse();
                prop_assert!(text.as_bytes().starts_with(&pattern.head()));
                prop_assert!(text.as_bytes().ends_with(&tail));
            }
        }
    }
}
