//! The tables that all modules share: the text of names, and what lists and maps hold.

use std::collections::HashMap;
use std::fmt::Write as _;

pub struct Tables {
    text: String,
    /// Where each name stands in the text.
    places: HashMap<String, usize>,
    /// As constant expressions.
    items: Vec<String>,
    /// By their name in the service's module.
    numbers: HashMap<(String, String), usize>,
}

impl Tables {
    pub fn new() -> Self {
        let mut tables =
            Self { text: String::new(), places: HashMap::new(), items: Vec::new(), numbers: HashMap::new() };
        let any = tables.member("", "", "member");
        tables.items.push(any);
        tables
    }

    /// A name, as a constant expression.
    pub fn name(&mut self, name: &str) -> String {
        let text = &mut self.text;
        let at = *self.places.entry(name.to_owned()).or_insert_with(|| {
            text.push_str(name);
            text.len() - name.len()
        });
        format!("g::Text {{ at: {at}, len: {} }}", name.len())
    }

    /// A member, as a constant expression.
    pub fn member(&mut self, name: &str, query: &str, tag: &str) -> String {
        let tags = if tag.is_empty() { String::new() } else { format!("<{tag}></{tag}>") };
        format!("g::Member::new({}, {}, {})", self.name(name), self.name(query), self.name(&tags))
    }

    /// The number of an item, which `describe` describes if it has none yet.
    pub fn item(&mut self, service: &str, shape: &str, describe: impl FnOnce(&mut Self) -> String) -> usize {
        let key = (service.to_owned(), shape.to_owned());
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let item = describe(self);
        self.items.push(item);
        let number = self.items.len() - 1;
        self.numbers.insert(key, number);
        number
    }

    pub fn write(&self) -> String {
        let mut source = String::from("use crate::generated as g;\n");
        let _ = writeln!(source, "pub static TEXT: &str = {:?};", self.text);
        let _ = writeln!(source, "pub static ITEMS: [g::Member; {}] = [", self.items.len());
        for item in &self.items {
            let _ = writeln!(source, "    {item},");
        }
        source.push_str("];\n");
        source
    }
}
