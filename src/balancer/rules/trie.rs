//! From the beginning of a text to the rules that it may fit: a radix tree over literal beginnings of patterns.
//!
//! A look-up goes through the text once, and answers with one set that was made beforehand: every node's set has what its ancestors'
//! have, so nothing is put together while a request waits. The sets say which rules *may* fit; the rules themselves say which do.
//! Invariant: a rule that fits is never left out.

/// Rules by their places in the order of priorities, a bit each.
pub type Set = Box<[u64]>;

/// A beginning of texts, or a whole text, and the rule that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub bytes: Vec<u8>,
    /// A text must end where the bytes do.
    pub is_whole: bool,
    pub rule: usize,
}

#[derive(Debug)]
pub struct Trie {
    /// The root is the first.
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    /// What follows the parent's bytes; the first of it is in the parent's `firsts`.
    label: Box<[u8]>,
    /// First bytes of the children's labels, in order.
    firsts: Box<[u8]>,
    /// Where in `nodes` the children are, in the order of `firsts`.
    children: Box<[usize]>,
    /// For a text that goes on after this node's bytes.
    longer: Set,
    /// For a text that ends here.
    ending: Set,
}

impl Trie {
    /// `always` are the rules that no look-up may leave out.
    pub fn new(mut keys: Vec<Key>, always: Set) -> Self {
        keys.sort();
        let mut trie = Self { nodes: Vec::new() };
        trie.add(&keys, 0, 0, &always);
        trie
    }

    /// The rules that a text may fit which is `length` long and has `at(i)` as its byte `i`.
    pub fn find(&self, length: usize, at: impl Fn(usize) -> u8) -> &Set {
        let mut node = &self.nodes[0];
        let mut depth = 0;
        loop {
            if depth == length {
                return &node.ending;
            }
            let Ok(child) = node.firsts.binary_search(&at(depth)) else { return &node.longer };
            let child = &self.nodes[node.children[child]];
            let end = depth + child.label.len();
            if length < end || child.label.iter().enumerate().any(|(i, byte)| at(depth + i) != *byte) {
                return &node.longer;
            }
            (node, depth) = (child, end);
        }
    }

    /// Adds the node for `keys`, sorted, which are alike in their first `depth` bytes, of which the parent has `parent_depth`; says where.
    fn add(&mut self, keys: &[Key], parent_depth: usize, depth: usize, inherited: &Set) -> usize {
        let here = keys.iter().take_while(|key| key.bytes.len() == depth).count();
        let (here, deeper) = keys.split_at(here);
        let mut longer = inherited.clone();
        here.iter().filter(|key| !key.is_whole).for_each(|key| insert(&mut longer, key.rule));
        let mut ending = longer.clone();
        here.iter().for_each(|key| insert(&mut ending, key.rule));

        let index = self.nodes.len();
        let label = keys.first().map_or_else(Box::default, |key| key.bytes[parent_depth..depth].into());
        self.nodes.push(Node { label, firsts: Box::default(), children: Box::default(), longer, ending });
        let mut firsts = Vec::new();
        let mut children = Vec::new();
        for alike in deeper.chunk_by(|a, b| a.bytes[depth] == b.bytes[depth]) {
            let inherited = self.nodes[index].longer.clone();
            firsts.push(alike[0].bytes[depth]);
            children.push(self.add(alike, depth, common_length(alike), &inherited));
        }
        self.nodes[index].firsts = firsts.into();
        self.nodes[index].children = children.into();
        index
    }
}

/// How many first bytes all of `keys` have in common, which are sorted and not none.
fn common_length(keys: &[Key]) -> usize {
    let (first, last) = (&keys[0].bytes, &keys[keys.len() - 1].bytes);
    first.iter().zip(last).take_while(|(a, b)| a == b).count()
}

/// An empty set with room for `rules`.
pub fn empty(rules: usize) -> Set {
    vec![0; rules.div_ceil(64)].into()
}

/// Puts `rule` into `set`.
pub fn insert(set: &mut Set, rule: usize) {
    set[rule / 64] |= 1 << (rule % 64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_finds_its_beginnings_and_itself_and_nothing_else(
            keys in prop::collection::vec(("[abc]{0,5}", any::<bool>()), 0..80),
            text in "[abc]{0,7}",
        ) {
            let keys: Vec<Key> = (0..)
                .zip(keys)
                .map(|(rule, (bytes, is_whole))| Key { bytes: bytes.into_bytes(), is_whole, rule })
                .collect();
            let text = text.as_bytes();
            let mut expected = empty(80);
            for key in &keys {
                if if key.is_whole { text == key.bytes } else { text.starts_with(&key.bytes) } {
                    insert(&mut expected, key.rule);
                }
            }
            let trie = Trie::new(keys, empty(80));
            prop_assert_eq!(trie.find(text.len(), |at| text[at]), &expected);
        }
    }
}
