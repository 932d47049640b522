//! Filters of describing operations.
//!
//! An item is admitted if it has, for each filter, one of the filter's values. `*` in a value stands for any characters, `?` for one, and a
//! backslash takes that from the character after it. `tag:KEY` and `tag-key` are filters of all that has tags.

use crate::error::Error;

/// More values than so many in one request are refused, as by EC2.
const VALUES_MAX: usize = 200;

/// What can be filtered.
pub trait Filtered {
    /// The filters that there are, without those of tags.
    const NAMES: &'static [&'static str];

    /// Gives `values` each value that the item has for the filter `name`, which is one of [`Self::NAMES`].
    fn values(&self, name: &str, values: &mut Values<'_>);

    /// Keys and values; `None` for what cannot have tags.
    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>>;
}

/// Filters of a request, read for items of one kind.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    filters: Vec<Filter>,
}

#[derive(Debug, Clone)]
struct Filter {
    field: Field,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
enum Field {
    Named(&'static str),
    TagKey,
    Tag { key: String },
}

/// Compares values that an item has with those that a filter wants.
#[derive(Debug)]
pub struct Values<'a> {
    patterns: &'a [Pattern],
    is_match: bool,
}

impl Values<'_> {
    pub fn text(&mut self, value: &str) {
        self.is_match = self.is_match || self.patterns.iter().any(|pattern| pattern.matches(value));
    }

    pub fn flag(&mut self, value: bool) {
        self.text(if value { "true" } else { "false" });
    }

    /// A number, a time, an address: what is text only when it is shown.
    pub fn shown(&mut self, value: impl std::fmt::Display) {
        if !self.is_match {
            self.text(&value.to_string());
        }
    }
}

impl Filters {
    /// The filters of a request for items `T`: their names and values.
    ///
    /// # Errors
    /// When there is no such filter, one has no value, or there are too many.
    pub fn new<'a, T: Filtered>(
        filters: impl IntoIterator<Item = (Option<&'a str>, &'a [String])>,
    ) -> Result<Self, Error> {
        let mut read = Self::default();
        let mut count = 0;
        for (name, values) in filters {
            let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
                Error::new("MissingParameter", "The request must contain the parameter Filter.Name")
            })?;
            if values.is_empty() {
                return Err(Error::new("InvalidParameterValue", "The filter 'null' is invalid"));
            }
            count += values.len();
            if count > VALUES_MAX {
                let message =
                    format!("The maximum number of filter values specified on a single call is {VALUES_MAX}");
                return Err(Error::new("FilterLimitExceeded", message));
            }
            let field = field::<T>(name).ok_or_else(|| {
                Error::new("InvalidParameterValue", format!("The filter '{name}' is invalid"))
            })?;
            read.filters
                .push(Filter { field, patterns: values.iter().map(|value| Pattern::new(value)).collect() });
        }
        Ok(read)
    }

    /// The filters of a request to EC2.
    ///
    /// # Errors
    /// As [`Filters::new`].
    pub fn of_ec2<T: Filtered>(filters: &[crate::ec2::Filter]) -> Result<Self, Error> {
        Self::new::<T>(filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice())))
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether all filters let `item` through.
    pub fn admit<T: Filtered>(&self, item: &T) -> bool {
        self.filters.iter().all(|filter| {
            let mut values = Values { patterns: &filter.patterns, is_match: false };
            match &filter.field {
                Field::Named(name) => item.values(name, &mut values),
                Field::TagKey => item.tags().into_iter().flatten().for_each(|(key, _)| values.text(key)),
                Field::Tag { key: wanted } => {
                    let tags = item.tags().into_iter().flatten();
                    tags.filter(|(key, _)| key == wanted).for_each(|(_, value)| values.text(value));
                }
            }
            values.is_match
        })
    }
}

fn field<T: Filtered>(name: &str) -> Option<Field> {
    if let Some(known) = T::NAMES.iter().find(|known| **known == name) {
        return Some(Field::Named(known));
    }
    // Whether items have tags shows on none of them in particular.
    match name {
        "tag-key" => Some(Field::TagKey),
        _ => name.strip_prefix("tag:").map(|key| Field::Tag { key: key.to_owned() }),
    }
}

/// A value of a filter.
#[derive(Debug, Clone)]
enum Pattern {
    Exact(String),
    Wild(Vec<Piece>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Character(char),
    AnyOne,
    Any,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let piece = match character {
                '*' => Piece::Any,
                '?' => Piece::AnyOne,
                '\\' => Piece::Character(characters.next().unwrap_or('\\')),
                other => Piece::Character(other),
            };
            // Two in a row say no more than one.
            if piece != Piece::Any || pieces.last() != Some(&Piece::Any) {
                pieces.push(piece);
            }
        }
        let exact: Option<String> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Character(character) => Some(*character),
                Piece::Any | Piece::AnyOne => None,
            })
            .collect();
        exact.map_or(Pattern::Wild(pieces), Pattern::Exact)
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(text) => text == value,
            Pattern::Wild(pieces) => matches(pieces, value),
        }
    }
}

/// Takes time of the product of both lengths at most: only the last `*` is ever tried again.
fn matches(pieces: &[Piece], value: &str) -> bool {
    let (mut at, mut rest) = (0, value.chars());
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let before = rest.clone();
        let is_step = match (pieces.get(at), rest.next()) {
            (None, None) => return true,
            (Some(Piece::Any), _) => {
                rest = before;
                retry = Some((at + 1, rest.clone()));
                at += 1;
                continue;
            }
            (Some(Piece::AnyOne), Some(_)) => true,
            (Some(Piece::Character(wanted)), Some(found)) => *wanted == found,
            _ => false,
        };
        if is_step {
            at += 1;
            continue;
        }
        let Some((after, from)) = &mut retry else { return false };
        if from.next().is_none() {
            return false;
        }
        (at, rest) = (*after, from.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Volume {
        size: u32,
        zone: &'static str,
        tags: Vec<(&'static str, &'static str)>,
    }

    impl Filtered for Volume {
        const NAMES: &'static [&'static str] = &["size", "availability-zone"];

        fn values(&self, name: &str, values: &mut Values<'_>) {
            match name {
                "size" => values.shown(self.size),
                _ => values.text(self.zone),
            }
        }

        fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
            Some(self.tags.iter().copied())
        }
    }

    fn filters(filters: &[(&str, &[&str])]) -> Result<Filters, Error> {
        let owned: Vec<(&str, Vec<String>)> = filters
            .iter()
            .map(|(name, values)| (*name, values.iter().map(|value| (*value).to_owned()).collect()))
            .collect();
        Filters::new::<Volume>(owned.iter().map(|(name, values)| (Some(*name), values.as_slice())))
    }

    #[test]
    fn filters_are_all_needed_and_values_are_not() {
        let volume = Volume { size: 8, zone: "us-east-1a", tags: vec![("Name", "web"), ("team", "")] };
        for (wanted, is_admitted) in [
            (vec![("size", ["8", "9"].as_slice())], true),
            (vec![("size", ["9"].as_slice())], false),
            (vec![("size", ["8"].as_slice()), ("availability-zone", &["*b"])], false),
            (vec![("size", ["8"].as_slice()), ("availability-zone", &["us-*a"])], true),
            (vec![("tag:Name", ["w?b"].as_slice()), ("tag-key", &["team"])], true),
            (vec![("tag:name", ["web"].as_slice())], false),
            (vec![("tag:team", [""].as_slice())], true),
            (vec![], true),
        ] {
            assert_eq!(filters(&wanted).unwrap().admit(&volume), is_admitted, "{wanted:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let error = filters(&[("colour", &["red"])]).unwrap_err();
        assert_eq!(error, Error::new("InvalidParameterValue", "The filter 'colour' is invalid"));
        let many = vec!["x"; VALUES_MAX + 1];
        assert_eq!(filters(&[("size", &many)]).unwrap_err().code, "FilterLimitExceeded");
        assert_eq!(filters(&[("size", &[])]).unwrap_err().code, "InvalidParameterValue");
    }

    #[test]
    fn a_backslash_takes_the_meaning_from_a_wildcard() {
        for (pattern, value, is_match) in [
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            (r"\\*", r"\x", true),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("*", "", true),
            ("?", "", false),
            ("?", "ü", true),
            ("", "", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(value), is_match, "{pattern} {value}");
        }
    }

    #[test]
    fn a_pattern_of_many_wildcards_ends() {
        let pattern = "*a".repeat(1000);
        assert!(!Pattern::new(&pattern).matches(&format!("{}b", "a".repeat(5000))));
    }

    /// By the definition: each `*` stands for nothing, or for a character and itself.
    fn matches_by_definition(pieces: &[Piece], value: &[char]) -> bool {
        match (pieces, value) {
            ([], []) => true,
            ([Piece::Any, rest @ ..], value) => {
                matches_by_definition(rest, value)
                    || value.split_first().is_some_and(|(_, after)| matches_by_definition(pieces, after))
            }
            ([Piece::AnyOne, rest @ ..], [_, after @ ..]) => matches_by_definition(rest, after),
            ([Piece::Character(wanted), rest @ ..], [found, after @ ..]) => {
                wanted == found && matches_by_definition(rest, after)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_by_their_definition(pattern in "[ab*?]{0,8}", value in "[ab]{0,10}") {
            let pieces: Vec<Piece> = pattern.chars().map(|c| match c {
                '*' => Piece::Any,
                '?' => Piece::AnyOne,
                c => Piece::Character(c),
            }).collect();
            let characters: Vec<char> = value.chars().collect();
            prop_assert_eq!(Pattern::new(&pattern).matches(&value), matches_by_definition(&pieces, &characters));
        }
    }
}
