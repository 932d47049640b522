//! The names that things of the models have in Rust and on the wire.

use crate::model::{Member, Model, Reference, Shape};

/// Names of types that every module has already.
const TAKEN: [&str; 9] = ["Box", "Err", "None", "Ok", "Option", "Result", "Some", "String", "Vec"];
const KEYWORDS: [&str; 17] = [
    "as", "const", "enum", "final", "fn", "for", "if", "in", "loop", "match", "mod", "move", "ref", "return",
    "type", "use", "where",
];
/// Words whose own capitals are not the beginning of another.
const WORDS: [(&str, &str); 7] = [
    ("ARNs", "Arns"),
    ("GBps", "Gbps"),
    ("GiB", "Gib"),
    ("IOPS", "Iops"),
    ("MBps", "Mbps"),
    ("MiB", "Mib"),
    ("VCpu", "Vcpu"),
];

pub fn type_name(shape: &str) -> String {
    let name = upper_first(shape);
    if TAKEN.contains(&name.as_str()) { format!("{name}Shape") } else { name }
}

/// The static that describes a structure's members or a list's elements.
pub fn static_name(shape: &str) -> String {
    snake(&type_name(shape)).to_uppercase()
}

pub fn field_name(member: &str) -> String {
    let name = snake(member);
    if KEYWORDS.contains(&name.as_str()) { format!("r#{name}") } else { name }
}

pub fn variant_name(word: &str) -> String {
    let name: String = word.split(|c: char| !c.is_ascii_alphanumeric()).map(upper_first).collect();
    match name.chars().next() {
        None => "Empty".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("N{name}"),
        Some(_) if name == "Self" => "ItSelf".to_owned(),
        Some(_) => name,
    }
}

fn upper_first(name: &str) -> String {
    let mut rest = name.chars();
    rest.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(rest).collect()
}

fn snake(name: &str) -> String {
    let name = WORDS.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, &c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| chars.get(at));
        let after = chars.get(at + 1);
        let begins_word = c.is_ascii_uppercase()
            && before.is_some_and(|before| {
                !before.is_ascii_uppercase() || after.is_some_and(|after| after.is_ascii_lowercase())
            });
        if begins_word {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A member's name in a query. The rules of EC2 and of the other services that read queries are not the same.
pub fn query_name(model: &Model, member: &Member) -> String {
    if model.is_ec2() {
        return member.query_name.clone().unwrap_or_else(|| {
            member.location_name.as_deref().map(upper_first).unwrap_or_else(|| member.name.clone())
        });
    }
    // Of a member that is not served the model need not have the shape.
    let shape = model.shapes.get(&member.shape).filter(|shape| shape.flattened);
    let flat = shape.and_then(|shape| shape.member.as_ref()?.location_name.clone());
    flat.or_else(|| member.location_name.clone()).unwrap_or_else(|| member.name.clone())
}

/// What stands between a list's name and an element's number in a query: nothing if it is flattened.
pub fn query_item_name(model: &Model, list: &Shape) -> String {
    if model.is_ec2() || list.flattened { String::new() } else { item_name(list) }
}

/// The element that each element of a list is in XML.
pub fn item_name(list: &Shape) -> String {
    let item = list.member.as_ref().and_then(|item: &Reference| item.location_name.clone());
    item.unwrap_or_else(|| "member".to_owned())
}
