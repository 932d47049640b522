//! Rulesets as text for `nft`: whole, or as what leads from one to another. Either is one transaction, which takes effect at once and
//! for every packet.
//!
//! A rule that changes is a few elements and the generation, some hundred bytes, whatever else the VPC has.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ruleset::{Chain, Ruleset, Set, Table};

impl Ruleset {
    /// The tables as `nft` reads them.
    pub fn text(&self) -> String {
        let mut text = Text::default();
        for (name, table) in &self.tables {
            text.table(name, table);
        }
        text.0
    }

    /// Puts this ruleset in the place of whatever there is.
    pub(crate) fn replacement(&self) -> String {
        let mut text = Text::default();
        for (name, table) in &self.tables {
            text.replacement(name, table);
        }
        text.0
    }

    /// Makes this ruleset of `old`, which is what there is. Empty if they are the same.
    pub(crate) fn change_from(&self, old: &Self) -> String {
        let mut text = Text::default();
        for (name, table) in &self.tables {
            let nothing = Table::default();
            let old = old.tables.get(name).unwrap_or(&nothing);
            if table.reshapes(old) {
                text.replacement(name, table);
            } else {
                text.change(name, old, table);
            }
        }
        text.0
    }
}

impl Table {
    /// Whether a set that `old` has as well is kept in another way: the kernel does not change that of one that is in use.
    fn reshapes(&self, old: &Self) -> bool {
        let is_other = |(name, set): (&String, &Set)| {
            old.sets.get(name).is_some_and(|old| (old.kind, old.storage()) != (set.kind, set.storage()))
        };
        self.sets.iter().any(is_other)
    }
}

impl Set {
    /// How the kernel keeps it. Room grows in large steps, so that it is seldom made anew.
    fn storage(&self) -> String {
        if self.has_intervals {
            return "flags interval".to_owned();
        }
        let room = self.elements.len().max(ROOM_MIN).next_power_of_two();
        format!("size {room}")
    }
}

/// The least size of a set.
const ROOM_MIN: usize = 64;

/// Lines for `nft`.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // To write into a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn replacement(&mut self, name: &str, table: &Table) {
        // Only what is there can be deleted, and what is there may be added.
        self.line(format_args!("table {name}"));
        self.line(format_args!("delete table {name}"));
        self.table(name, table);
    }

    fn table(&mut self, name: &str, table: &Table) {
        self.line(format_args!("table {name} {{"));
        for reason in table.counters {
            self.line(format_args!("\tcounter {} {{", reason.name()));
            self.line(format_args!("\t}}"));
        }
        for (name, set) in &table.sets {
            self.set(name, set);
        }
        for (name, chain) in &table.chains {
            self.chain(name, chain);
        }
        self.line(format_args!("}}"));
    }

    fn set(&mut self, name: &str, set: &Set) {
        self.line(format_args!("\t{} {name} {{", keyword(set)));
        self.line(format_args!("\t\ttype {}", set.kind));
        self.line(format_args!("\t\t{}", set.storage()));
        if !set.elements.is_empty() {
            let elements = listed(set.elements.iter(), ",\n\t\t\t");
            self.line(format_args!("\t\telements = {{\n\t\t\t{elements}\n\t\t}}"));
        }
        self.line(format_args!("\t}}"));
    }

    fn chain(&mut self, name: &str, chain: &Chain) {
        self.line(format_args!("\tchain {name} {{"));
        for line in chain.hook.into_iter().chain(chain.rules.iter().map(String::as_str)) {
            self.line(format_args!("\t\t{line}"));
        }
        self.line(format_args!("\t}}"));
    }

    /// First what others may name, then what names it, and at last what nothing names any more.
    fn change(&mut self, table: &str, old: &Table, new: &Table) {
        for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            match chain.hook {
                Some(hook) => self.line(format_args!("add chain {table} {name} {{ {hook} }}")),
                None => self.line(format_args!("add chain {table} {name}")),
            }
        }
        let nothing = BTreeMap::new();
        let held = |name: &String| old.sets.get(name).map_or(&nothing, |set| &set.elements);
        let is_changed = |(name, set): &(&String, &Set)| old.sets.get(*name) != Some(*set);
        let changed: Vec<_> = new.sets.iter().filter(is_changed).collect();
        for (name, set) in &changed {
            if !old.sets.contains_key(*name) {
                let (kind, storage) = (set.kind, set.storage());
                self.line(format_args!("add {} {table} {name} {{ type {kind}; {storage}; }}", keyword(set)));
            }
            self.elements("delete", table, name, missing(held(name), &set.elements));
        }
        for (name, chain) in &new.chains {
            let had = old.chains.get(name);
            if had != Some(chain) {
                if had.is_some() {
                    self.line(format_args!("flush chain {table} {name}"));
                }
                for rule in &chain.rules {
                    self.line(format_args!("add rule {table} {name} {rule}"));
                }
            }
        }
        for (name, set) in &changed {
            self.elements("add", table, name, missing(&set.elements, held(name)));
        }
        let dropped = || old.chains.keys().filter(|name| !new.chains.contains_key(*name));
        for name in dropped() {
            self.line(format_args!("flush chain {table} {name}"));
        }
        for (name, set) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
            self.line(format_args!("delete {} {table} {name}", keyword(set)));
        }
        for name in dropped() {
            self.line(format_args!("delete chain {table} {name}"));
        }
    }

    fn elements(&mut self, verb: &str, table: &str, set: &str, elements: Vec<(&String, &Option<String>)>) {
        if !elements.is_empty() {
            self.line(format_args!("{verb} element {table} {set} {{ {} }}", listed(elements, ", ")));
        }
    }
}

/// What of `elements` is not in `others`, or has another value there.
fn missing<'a>(
    elements: &'a BTreeMap<String, Option<String>>,
    others: &BTreeMap<String, Option<String>>,
) -> Vec<(&'a String, &'a Option<String>)> {
    elements.iter().filter(|(key, value)| others.get(*key) != Some(value)).collect()
}

fn listed<'a>(
    elements: impl IntoIterator<Item = (&'a String, &'a Option<String>)>,
    separator: &str,
) -> String {
    let text = |(key, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{key} : {value}"),
        None => key.clone(),
    };
    elements.into_iter().map(text).collect::<Vec<_>>().join(separator)
}

fn keyword(set: &Set) -> &'static str {
    if set.kind.contains(':') { "map" } else { "set" }
}
