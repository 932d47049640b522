//! Boot Loader Specification entries: one small file for each kernel.
//!
//! ```text
//!   /loader/loader.conf        default NAME-PATTERN
//!   /loader/entries/NAME.conf  title …  version …  linux PATH  initrd PATH  options …
//! ```
//!
//! The newest comes first, as section "Sorting" says. Entries that only firmware can start (`efi`,
//! `uki`) or that are for another architecture are left out.
//!
//! Source: the UAPI group's Boot Loader Specification and Version Format Specification.

use std::cmp::Ordering;

use super::filesystem::Files;

const ENTRIES_MAX: usize = 256;
/// All entries together; one has less than a kilobyte.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// An entry, with paths as it wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BlsEntry {
    /// The name of the file without `.conf`.
    pub(super) id: String,
    pub(super) title: String,
    pub(super) kernel: String,
    pub(super) initrds: Vec<String>,
    pub(super) options: String,
    version: String,
    sort_key: Option<String>,
    machine_id: String,
}

/// All entries, the best first.
pub(super) fn entries(files: &dyn Files) -> Vec<BlsEntry> {
    let mut entries = Vec::new();
    let mut text_bytes = 0;
    for folder in ["/loader/entries", "/boot/loader/entries"] {
        for name in files.list(folder).into_iter().take(ENTRIES_MAX) {
            let Some(id) = name.strip_suffix(".conf") else { continue };
            let Some(text) = files.text(&format!("{folder}/{name}")) else { continue };
            text_bytes += text.len();
            if text_bytes > TEXT_BYTES_MAX {
                return Vec::new();
            }
            entries.extend(parse(id, &text));
        }
    }
    entries.sort_by(order);
    entries
}

/// All entries, the one that `loader.conf` names first.
pub(super) fn entries_default_first(files: &dyn Files) -> Vec<BlsEntry> {
    let mut entries = entries(files);
    let text =
        ["/loader/loader.conf", "/boot/loader/loader.conf"].into_iter().find_map(|path| files.text(path));
    let pattern = text
        .as_deref()
        .and_then(|text| pairs(text).filter(|(key, _)| *key == "default").map(|(_, value)| value).last());
    if let Some(pattern) = pattern {
        let pattern = pattern.strip_suffix(".conf").unwrap_or(pattern);
        if let Some(index) = entries.iter().position(|entry| matches(pattern, &entry.id)) {
            entries[..=index].rotate_right(1);
        }
    }
    entries
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once([' ', '\t']))
        .map(|(key, value)| (key, value.trim()))
}

fn parse(id: &str, text: &str) -> Option<BlsEntry> {
    let mut entry = BlsEntry { id: id.to_owned(), ..BlsEntry::default() };
    for (key, value) in pairs(text) {
        match key {
            "title" => value.clone_into(&mut entry.title),
            "linux" => value.clone_into(&mut entry.kernel),
            "version" => value.clone_into(&mut entry.version),
            "machine-id" => value.clone_into(&mut entry.machine_id),
            "sort-key" => entry.sort_key = Some(value.to_owned()),
            "initrd" => entry.initrds.push(value.to_owned()),
            "options" => {
                if !entry.options.is_empty() {
                    entry.options.push(' ');
                }
                entry.options.push_str(value);
            }
            "architecture" if !value.eq_ignore_ascii_case("x64") => return None,
            _ => {}
        }
    }
    if entry.title.is_empty() {
        id.clone_into(&mut entry.title);
    }
    (!entry.kernel.is_empty()).then_some(entry)
}

fn order(left: &BlsEntry, right: &BlsEntry) -> Ordering {
    let by_keys = match (&left.sort_key, &right.sort_key) {
        (Some(a), Some(b)) => a
            .cmp(b)
            .then_with(|| left.machine_id.cmp(&right.machine_id))
            .then_with(|| compare_versions(&right.version, &left.version)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    by_keys.then_with(|| compare_versions(&right.id, &left.id))
}

/// Compares versions as the specification says: numbers as numbers, letters as letters, `~` before
/// anything, even the end.
pub(super) fn compare_versions(left: &str, right: &str) -> Ordering {
    let is_relevant = |byte: &u8| byte.is_ascii_alphanumeric() || b"~^-.".contains(byte);
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        left = &left[left.iter().take_while(|byte| !is_relevant(byte)).count()..];
        right = &right[right.iter().take_while(|byte| !is_relevant(byte)).count()..];
        for separator in *b"~" {
            match (left.first() == Some(&separator), right.first() == Some(&separator)) {
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                _ => {}
            }
        }
        if left.is_empty() || right.is_empty() {
            return left.len().cmp(&right.len());
        }
        // Of these each makes a version less than one that goes on without it.
        for separator in *b"-^." {
            match (left.first() == Some(&separator), right.first() == Some(&separator)) {
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                _ => {}
            }
        }
        if !left[0].is_ascii_alphanumeric() {
            // The same separator in both.
            (left, right) = (&left[1..], &right[1..]);
            continue;
        }
        let is_number = left[0].is_ascii_digit() || right[0].is_ascii_digit();
        let belongs = |byte: &&u8| if is_number { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
        let (a, left_rest) = left.split_at(left.iter().take_while(belongs).count());
        let (b, right_rest) = right.split_at(right.iter().take_while(belongs).count());
        let compared = if is_number { compare_numbers(a, b) } else { a.cmp(b) };
        if compared.is_ne() {
            return compared;
        }
        (left, right) = (left_rest, right_rest);
    }
}

/// Compares digits of any number; none at all is less than any.
fn compare_numbers(left: &[u8], right: &[u8]) -> Ordering {
    let significant =
        |digits: &[u8]| digits.iter().skip_while(|digit| **digit == b'0').copied().collect::<Vec<_>>();
    let (a, b) = (significant(left), significant(right));
    left.is_empty().cmp(&right.is_empty()).reverse().then(a.len().cmp(&b.len())).then(a.cmp(&b))
}

/// Whether a name fits a pattern with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, position));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == name[position] => {
                at += 1;
                position += 1;
            }
            _ => {
                // Let the last star take one more.
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (at, position) = (after, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_specification_says() {
        let ascending = ["~", "", "1~rc1", "1", "1a", "1.1", "1.2", "1.10", "2", "10", "a"];
        // The specification's own list of pairs, in our words: less, greater.
        for pair in [
            ("122.1", "123~rc1-1"),
            ("123~rc1-1", "123"),
            ("123", "123-a"),
            ("123-a", "123-a.1"),
            ("123-a.1", "123-1"),
            ("123-1", "123-1.1"),
            ("123-1.1", "123^post1"),
            ("123^post1", "123.a-1"),
            ("123.a-1", "123.1-1"),
            ("123.1-1", "123a-1"),
            ("123a-1", "124-1"),
            ("6.1.0-9-amd64", "6.1.0-18-amd64"),
        ] {
            assert_eq!(compare_versions(pair.0, pair.1), Ordering::Less, "{pair:?}");
            assert_eq!(compare_versions(pair.1, pair.0), Ordering::Greater, "{pair:?}");
        }
        for version in ascending {
            assert_eq!(compare_versions(version, version), Ordering::Equal);
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("debian-*", "debian-6.1", true),
            ("*-6.1", "debian-6.1", true),
            ("x", "xy", false),
            ("*a*b", "aab", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
