//! Which of a listener's rules a request is for, and where one that redirects leads.
//!
//! ```text
//! request ─▶ host's end ───────▶ trie ─┐
//!         ├▶ path's beginning ─▶ trie ─┤
//!         └▶ path's end ───────▶ trie ─┴▶ rules that may fit, by priority ─▶ the first of which all conditions hold
//! ```
//!
//! [`Table`] is made once for a configuration and only read after that. The tries leave few rules to look at, and each of these is then
//! asked in full: a trie that leaves too many is slow, never wrong. The reference is a walk over the rules by priority, which a property
//! test compares with.
//!
//! Semantics are those of
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/rule-condition-types.html>: a condition holds if one of its
//! values does, a rule if all its conditions do; header fields of one name are tried one after another. Where that page is silent: bytes
//! are compared as they were sent, without percent-decoding; a part of the query without `=` is a key with an empty value.
//!
//! Nothing here knows target groups, and nothing here checks a configuration: [`crate::config::LoadBalancer::check`] does.

mod pattern;
mod redirect;
mod trie;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config;
pub use pattern::Pattern;
pub use redirect::{Origin, location};
use trie::{Key, Trie};

/// What rules look at in a request. Bytes are as the client sent them.
#[derive(Debug, Clone)]
pub struct RequestView<'a, H> {
    /// Of `Host` or `:authority`, in any case, with or without a port; empty if there is none.
    pub host: &'a [u8],
    /// From its first `/` up to `?`.
    pub path: &'a [u8],
    /// After the first `?`.
    pub query: Option<&'a [u8]>,
    pub method: &'a [u8],
    /// Names, in any case, and values of header fields. It is cloned for every look at them, so let it be cheap to clone.
    pub headers: H,
    /// The connection's other end.
    pub source: IpAddr,
}

/// A listener's rules, made fast to ask.
#[derive(Debug)]
pub struct Table {
    /// By priority.
    rules: Vec<Compiled>,
    host_ends: Trie,
    path_beginnings: Trie,
    path_ends: Trie,
}

#[derive(Debug)]
struct Compiled {
    /// Where it stands in [`config::Listener::rules`].
    index: usize,
    /// Those that are cheap to ask come first.
    conditions: Vec<Condition>,
}

/// In the order of what asking costs.
#[derive(Debug)]
enum Condition {
    Method(Vec<String>),
    Source(Vec<IpNet>),
    Host(Vec<Pattern>),
    Path(Vec<Pattern>),
    Header { name: String, values: Vec<Pattern> },
    Query(Vec<(Option<Pattern>, Pattern)>),
}

impl Table {
    /// The table for `rules`, which may come in any order.
    pub fn new(rules: &[config::Rule]) -> Self {
        let mut by_priority: Vec<usize> = (0..rules.len()).collect();
        by_priority.sort_by_key(|index| rules[*index].priority);
        let rules: Vec<Compiled> =
            by_priority.into_iter().map(|index| Compiled::new(index, &rules[index])).collect();
        let host_ends = trie(&rules, Condition::hosts, Pattern::reversed_tail);
        let path_beginnings = trie(&rules, Condition::paths, Pattern::head);
        let path_ends = trie(&rules, Condition::paths, Pattern::reversed_tail);
        Self { rules, host_ends, path_beginnings, path_ends }
    }

    /// Where in [`config::Listener::rules`] the rule stands that `request` is for; none: the default action is.
    pub fn pick<'a, H>(&self, request: &RequestView<'a, H>) -> Option<usize>
    where
        H: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let host = without_port(request.host);
        let path = request.path;
        let of_host = self.host_ends.find(host.len(), |at| host[host.len() - 1 - at].to_ascii_lowercase());
        let of_beginning = self.path_beginnings.find(path.len(), |at| path[at]);
        let of_end = self.path_ends.find(path.len(), |at| path[path.len() - 1 - at]);
        for (word, ((host_bits, beginning_bits), end_bits)) in
            of_host.iter().zip(of_beginning).zip(of_end).enumerate()
        {
            let mut left = host_bits & beginning_bits & end_bits;
            while left != 0 {
                let rule = &self.rules[word * 64 + left.trailing_zeros() as usize];
                if rule.conditions.iter().all(|condition| condition.holds(host, request)) {
                    return Some(rule.index);
                }
                left &= left - 1;
            }
        }
        None
    }
}

/// The trie over the `literal` parts of the patterns that `field` finds in a rule's conditions. A rule without any is in the root, which every
/// text passes; so is one with a pattern without such a part.
fn trie<'a>(
    rules: &'a [Compiled],
    field: impl Fn(&'a Condition) -> Option<&'a Vec<Pattern>>,
    literal: impl Fn(&Pattern) -> Vec<u8>,
) -> Trie {
    let mut keys = Vec::new();
    let mut always = trie::empty(rules.len());
    for (rule, compiled) in rules.iter().enumerate() {
        match compiled.conditions.iter().find_map(&field) {
            None => trie::insert(&mut always, rule),
            Some(patterns) => keys.extend(patterns.iter().map(|pattern| Key {
                bytes: literal(pattern),
                is_whole: pattern.wildcards() == 0,
                rule,
            })),
        }
    }
    Trie::new(keys, always)
}

impl Compiled {
    fn new(index: usize, rule: &config::Rule) -> Self {
        let mut conditions: Vec<Condition> = rule.conditions.iter().map(Condition::new).collect();
        conditions.sort_by_key(Condition::cost);
        Self { index, conditions }
    }
}

impl Condition {
    fn new(condition: &config::Condition) -> Self {
        let any_case = |values: &[String]| values.iter().map(|value| Pattern::any_case(value)).collect();
        match condition {
            config::Condition::HttpRequestMethod(methods) => Self::Method(methods.clone()),
            config::Condition::SourceIp(networks) => Self::Source(networks.clone()),
            config::Condition::HostHeader(hosts) => Self::Host(any_case(hosts)),
            config::Condition::PathPattern(paths) => {
                Self::Path(paths.iter().map(|path| Pattern::exact_case(path)).collect())
            }
            config::Condition::HttpHeader { name, values } => {
                Self::Header { name: name.clone(), values: any_case(values) }
            }
            config::Condition::QueryString(pairs) => {
                let pair = |pair: &config::QueryPattern| {
                    (pair.key.as_deref().map(Pattern::any_case), Pattern::any_case(&pair.value))
                };
                Self::Query(pairs.iter().map(pair).collect())
            }
        }
    }

    fn hosts(&self) -> Option<&Vec<Pattern>> {
        if let Self::Host(patterns) = self { Some(patterns) } else { None }
    }

    fn paths(&self) -> Option<&Vec<Pattern>> {
        if let Self::Path(patterns) = self { Some(patterns) } else { None }
    }

    fn cost(&self) -> u8 {
        match self {
            Self::Method(_) => 0,
            Self::Source(_) => 1,
            Self::Host(_) => 2,
            Self::Path(_) => 3,
            Self::Header { .. } => 4,
            Self::Query(_) => 5,
        }
    }

    fn holds<'a, H>(&self, host: &[u8], request: &RequestView<'a, H>) -> bool
    where
        H: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        match self {
            Self::Method(methods) => methods.iter().any(|method| method.as_bytes() == request.method),
            Self::Source(networks) => {
                let source = request.source.to_canonical();
                networks.iter().any(|network| network.contains(&source))
            }
            Self::Host(patterns) => patterns.iter().any(|pattern| pattern.matches(host)),
            Self::Path(patterns) => patterns.iter().any(|pattern| pattern.matches(request.path)),
            Self::Header { name, values } => request
                .headers
                .clone()
                .filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
                .any(|(_, value)| values.iter().any(|pattern| pattern.matches(value))),
            Self::Query(wanted) => request.query.is_some_and(|query| has_pair(query, wanted)),
        }
    }
}

fn has_pair(query: &[u8], wanted: &[(Option<Pattern>, Pattern)]) -> bool {
    query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).any(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (key, value) = (&pair[..equals], pair.get(equals + 1..).unwrap_or_default());
        wanted.iter().any(|(wanted_key, wanted_value)| {
            wanted_key.as_ref().is_none_or(|wanted_key| wanted_key.matches(key))
                && wanted_value.matches(value)
        })
    })
}

/// The host in a `Host` field, which may have a port after it (RFC 9110, 7.2). Colons are part of an address in brackets.
pub fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests;
