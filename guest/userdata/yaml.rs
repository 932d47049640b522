//! YAML as cloud-init reads it: a tree whose plain scalars mean what they mean in version 1.1, so that `0644` is
//! octal and `yes` is true, and which still knows how each was written, so that `permissions: 0644` can be told from
//! `permissions: '0644'`.
//!
//! Depth and the number of nodes, which aliases multiply, are limited.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};

const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Text that was not quoted, and so may stand for something else than itself.
    Plain(String),
    Quoted(String),
    List(Vec<Node>),
    /// In the order of the file; keys are unique.
    Map(Vec<(String, Node)>),
}

#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    #[error("line {line}: {what}")]
    Syntax { line: usize, what: String },
    #[error("line {line}: more than {DEPTH_MAX} levels")]
    TooDeep { line: usize },
    #[error("line {line}: more than {NODES_MAX} values")]
    TooMany { line: usize },
    #[error("line {line}: a key is a list or a mapping")]
    Key { line: usize },
}

impl From<ScanError> for YamlError {
    fn from(error: ScanError) -> Self {
        YamlError::Syntax { line: error.marker().line(), what: error.info().to_owned() }
    }
}

impl Node {
    /// The first document of the text; an empty one is null.
    pub fn parse(text: &str) -> Result<Node, YamlError> {
        let mut builder = Builder {
            parser: Parser::new_from_str(text),
            anchors: BTreeMap::new(),
            left: NODES_MAX,
            line: 1,
        };
        loop {
            match builder.next()? {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(Node::Plain(String::new())),
                event => return builder.node(event, 0),
            }
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Node::Plain(text) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of any scalar.
    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Plain(text) | Node::Quoted(text) if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// What YAML 1.1 calls a boolean, quoted or not.
    pub fn boolean(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Some(true),
            "false" | "no" | "off" | "n" | "0" => Some(false),
            _ => None,
        }
    }

    /// A number that was not quoted: `0o17` and `017` are octal, `0x1f` is hexadecimal.
    pub fn integer(&self) -> Option<u64> {
        let Node::Plain(text) = self else { return None };
        let text = text.replace('_', "");
        let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)];
        for (prefix, radix) in prefixed {
            if let Some(digits) = text.strip_prefix(prefix) {
                return u64::from_str_radix(digits, radix).ok();
            }
        }
        let radix = if text.len() > 1 && text.starts_with('0') { 8 } else { 10 };
        u64::from_str_radix(&text, radix).ok()
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        let Node::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            node if node.is_null() => "nothing",
            Node::Plain(_) | Node::Quoted(_) => "a single value",
            Node::List(_) => "a list",
            Node::Map(_) => "a mapping",
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    left: usize,
    line: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Event<'a>, YamlError> {
        match self.parser.next_event() {
            None => Ok(Event::StreamEnd),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn spend(&mut self, count: usize) -> Result<(), YamlError> {
        self.left = self.left.checked_sub(count).ok_or(YamlError::TooMany { line: self.line })?;
        Ok(())
    }

    /// The node that begins with this event.
    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, YamlError> {
        if depth > DEPTH_MAX {
            return Err(YamlError::TooDeep { line: self.line });
        }
        self.spend(1)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain && tag.is_none();
                let text = text.into_owned();
                (if is_plain { Node::Plain(text) } else { Node::Quoted(text) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let what = "an alias of something that is not finished".to_owned();
                let node = node.ok_or(YamlError::Syntax { line: self.line, what })?;
                self.spend(count(&node))?;
                (node, 0)
            }
            other => {
                let what = format!("{other:?} where a value should be");
                return Err(YamlError::Syntax { line: self.line, what });
            }
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Node, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Node::List(items)),
                event => items.push(self.node(event, depth + 1)?),
            }
        }
    }

    /// Of equal keys the last counts, and a key of the mapping itself before one that `<<` brings.
    fn map(&mut self, depth: usize) -> Result<Node, YamlError> {
        let (mut entries, mut merged): (Vec<(String, Node)>, Vec<Node>) = (Vec::new(), Vec::new());
        loop {
            let key = match self.next()? {
                Event::MappingEnd => break,
                event => self.node(event, depth + 1)?,
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            match key {
                Node::Plain(key) if key == "<<" => match value {
                    Node::List(items) => merged.extend(items),
                    value => merged.push(value),
                },
                Node::Plain(key) | Node::Quoted(key) => {
                    match entries.iter_mut().find(|(name, _)| *name == key) {
                        Some(entry) => entry.1 = value,
                        None => entries.push((key, value)),
                    }
                }
                Node::List(_) | Node::Map(_) => return Err(YamlError::Key { line: self.line }),
            }
        }
        for node in merged {
            let Node::Map(more) = node else { continue };
            for (key, value) in more {
                if !entries.iter().any(|(name, _)| *name == key) {
                    entries.push((key, value));
                }
            }
        }
        Ok(Node::Map(entries))
    }
}

fn count(node: &Node) -> usize {
    match node {
        Node::Plain(_) | Node::Quoted(_) => 1,
        Node::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Node::Map(entries) => 1 + entries.iter().map(|(_, value)| count(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scalars_mean_what_version_1_1_says() {
        let node = Node::parse("a: 0644\nb: '0644'\nc: yes\nd: 0o17\ne: ~\nf: 12\ng: |\n  x\n  y\n").unwrap();
        assert_eq!(node.get("a").and_then(Node::integer), Some(0o644));
        assert_eq!(node.get("b").and_then(Node::integer), None);
        assert_eq!(node.get("b").and_then(Node::text), Some("0644"));
        assert_eq!(node.get("c").and_then(Node::boolean), Some(true));
        assert_eq!(node.get("d").and_then(Node::integer), Some(0o17));
        assert!(node.get("e").is_some_and(Node::is_null));
        assert_eq!(node.get("f").and_then(Node::integer), Some(12));
        assert_eq!(node.get("g").and_then(Node::text), Some("x\ny\n"));
    }

    #[test]
    fn anchors_merge_keys_and_the_last_of_equal_keys() {
        let node = Node::parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n  y: 4\n").unwrap();
        let used = node.get("use").unwrap();
        assert_eq!(
            (used.get("x").and_then(Node::integer), used.get("y").and_then(Node::integer)),
            (Some(1), Some(4))
        );
    }

    #[test]
    fn errors_have_their_line() {
        let error = Node::parse("#cloud-config\nruncmd:\n  - [a, b\nhostname: x\n").unwrap_err();
        assert!(error.to_string().starts_with("line "), "{error}");
    }

    #[test]
    fn aliases_cannot_multiply_without_end() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
        }
        assert!(matches!(Node::parse(&text), Err(YamlError::TooMany { .. })));
        assert!(matches!(Node::parse(&"- ".repeat(100)), Err(YamlError::TooDeep { .. })));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[ -~\n\t&*<:{}\\[\\]|>'\"#-]{0,120}") {
            let _ = Node::parse(&text);
        }

        #[test]
        fn not_even_unprintable_text(text in ".{0,80}") {
            let _ = Node::parse(&text);
        }
    }
}
