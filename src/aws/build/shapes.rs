//! Structures and enumerations, and how they are decoded and encoded.

use std::fmt::Write as _;

use crate::model::{Kind, Member, Model, Shape};
use crate::names::{
    field_name, item_name, query_item_name, query_name, static_name, type_name, variant_name,
};
use crate::tables::Tables;

/// An enumeration of more words is a `String`: those lists grow with every model.
const WORDS_MAX: usize = 64;

macro_rules! put {
    ($out:expr, $($text:tt)*) => { let _ = writeln!($out, $($text)*); };
}

pub fn write(model: &Model, is_testing: bool, tables: &mut Tables, out: &mut String) {
    for shape in model.shapes.values() {
        match shape.kind {
            Kind::Structure => write_structure(model, shape, is_testing, tables, out),
            Kind::String if is_enumeration(shape) => write_enumeration(shape, out),
            _ => {}
        }
    }
}

fn is_enumeration(shape: &Shape) -> bool {
    (1..=WORDS_MAX).contains(&shape.words.len())
}

fn write_enumeration(shape: &Shape, out: &mut String) {
    let variants: Vec<String> =
        shape.words.iter().map(|word| format!("{} = {word:?}", variant_name(word))).collect();
    put!(out, "g::words! {{ {} {{ {} }} }}", type_name(&shape.name), variants.join(", "));
}

fn write_structure(model: &Model, shape: &Shape, is_testing: bool, tables: &mut Tables, out: &mut String) {
    let name = type_name(&shape.name);
    put!(out, "#[derive(Debug, Clone, Default, PartialEq)]\npub struct {name} {{");
    for member in model.fields(shape) {
        put!(out, "    pub {}: {},", field_name(&member.name), field_type(model, shape, member));
    }
    put!(out, "}}");
    let members = static_name(&shape.name);
    let (count, is_decoded) = (model.fields(shape).count(), shape.is_in || shape.is_kept || is_testing);
    // Nobody looks for members of what has none and is never read.
    if count > 0 || is_decoded {
        put!(out, "static {members}: [g::Member; {count}] = [");
        for member in model.fields(shape) {
            put!(out, "    {},", described(model, shape, member, tables));
        }
        put!(out, "];");
    }
    if is_decoded {
        write_decoder(model, shape, out);
    }
    if shape.is_out || shape.is_kept || is_testing {
        write_encoder(model, shape, out);
    }
}

fn write_decoder(model: &Model, shape: &Shape, out: &mut String) {
    let (name, members) = (type_name(&shape.name), static_name(&shape.name));
    let unserved: Vec<&Member> = shape.members.iter().filter(|member| member.unserved).collect();
    let unserved: Vec<String> = unserved.into_iter().map(|member| query_name(model, member)).collect();
    let mut arms = String::new();
    // Those that are not served are refused before.
    for (at, member) in model.fields(shape).enumerate().filter(|(_, member)| !member.unserved) {
        put!(
            arms,
            "                {at} => s.{} = g::Decode::decode(node, member, wire)?,",
            field_name(&member.name)
        );
    }
    put!(out, "impl g::Decode for {name} {{");
    put!(
        out,
        "    fn decode(node: &g::Node<'_>, _: &'static g::Member, wire: g::Wire) -> Result<Self, g::Malformed> {{"
    );
    put!(out, "        #[allow(unused_mut)]\n        let mut s = Self::default();");
    put!(out, "        g::structure(node, wire, &{members}, &{unserved:?}, &mut |at, node, member| {{");
    put!(
        out,
        "            #[allow(clippy::match_single_binding)]\n            match at {{\n{arms}                _ => {{ let _ = (node, member); }}"
    );
    put!(out, "            }}\n            Ok(())\n        }})?;\n        Ok(s)\n    }}\n}}");
}

fn write_encoder(model: &Model, shape: &Shape, out: &mut String) {
    let (name, members) = (type_name(&shape.name), static_name(&shape.name));
    put!(out, "impl g::Members for {name} {{");
    put!(out, "    #[allow(unused_variables)]\n    fn put_members(&self, e: &mut dyn g::Encoder) {{");
    for (at, member) in model.fields(shape).enumerate() {
        put!(out, "        g::Encode::put(&self.{}, e, &{members}[{at}]);", field_name(&member.name));
    }
    put!(out, "    }}\n}}");
    put!(out, "impl g::Encode for {name} {{");
    put!(
        out,
        "    fn put(&self, e: &mut dyn g::Encoder, member: &g::Member) {{ g::put_structure(self, e, member); }}\n}}"
    );
}

/// What only comes in has what is required, and lists that may be empty; what goes out says of each member whether it is there.
fn field_type(model: &Model, shape: &Shape, member: &Member) -> String {
    let target = model.shape(&member.shape);
    let is_collection = matches!(target.kind, Kind::List | Kind::Map);
    let mut bare = value_type(model, target);
    if target.kind == Kind::Structure && model.is_recursive(&target.name) {
        bare = format!("Box<{bare}>");
    }
    if !shape.is_out && (member.required || is_collection) { bare } else { format!("Option<{bare}>") }
}

fn value_type(model: &Model, shape: &Shape) -> String {
    match shape.kind {
        Kind::Structure => type_name(&shape.name),
        Kind::List => format!("Vec<{}>", value_type(model, held(model, shape))),
        Kind::Map => format!("g::BTreeMap<String, {}>", value_type(model, held(model, shape))),
        Kind::String if is_enumeration(shape) => type_name(&shape.name),
        Kind::String => "String".to_owned(),
        Kind::Integer => "i32".to_owned(),
        Kind::Long => "i64".to_owned(),
        Kind::Float => "f32".to_owned(),
        Kind::Double => "f64".to_owned(),
        Kind::Boolean => "bool".to_owned(),
        Kind::Timestamp => "g::Timestamp".to_owned(),
        Kind::Blob => "Vec<u8>".to_owned(),
    }
}

/// What a list's or a map's values are.
fn held<'a>(model: &'a Model, shape: &Shape) -> &'a Shape {
    let reference = shape.member.as_ref().or(shape.value.as_ref());
    model.shape(&reference.unwrap_or_else(|| panic!("{} holds nothing", shape.name)).shape)
}

/// A member of a structure, as a constant expression.
fn described(model: &Model, shape: &Shape, member: &Member, tables: &mut Tables) -> String {
    let target = model.shape(&member.shape);
    let tag =
        if target.flattened { "" } else { member.location_name.as_deref().unwrap_or(member.name.as_str()) };
    let mut text = tables.member(&member.name, &query_name(model, member), tag);
    if member.required {
        text.push_str(".required()");
    }
    if let Some(location) = &member.location {
        let name = member.location_name.as_ref().unwrap_or(&member.name);
        let place = match location.as_str() {
            "uri" => "Label",
            "querystring" => "Query",
            "header" => "Header",
            other => panic!("{}.{}: there is no code for members in {other}", shape.name, member.name),
        };
        text.push_str(&format!(".placed(g::Place::{place}, {})", tables.name(name)));
    }
    text + &constraints(model, target, tables)
}

fn constraints(model: &Model, target: &Shape, tables: &mut Tables) -> String {
    let mut text = String::new();
    if target.min.is_some() || target.max.is_some() {
        let bound =
            |value: Option<f64>, none: &str| value.map_or(none.to_owned(), |value| format!("{value:?}"));
        let (min, max) = (bound(target.min, "f64::NEG_INFINITY"), bound(target.max, "f64::INFINITY"));
        text.push_str(&format!(".between({min}, {max})"));
    }
    if matches!(target.kind, Kind::List | Kind::Map) {
        let service = &model.metadata.service_id;
        let item = tables.item(service, &target.name, |tables| item(model, target, tables));
        text.push_str(&format!(".holding({item})"));
    }
    text
}

/// The elements of a list or the values of a map, which have no name of their own, as a constant expression.
fn item(model: &Model, shape: &Shape, tables: &mut Tables) -> String {
    let target = held(model, shape);
    let text = if shape.kind == Kind::List {
        tables.member("", &query_item_name(model, shape), &item_name(shape))
    } else {
        let named = |reference: &Option<crate::model::Reference>, usual: &str| {
            reference
                .as_ref()
                .and_then(|found| found.location_name.clone())
                .unwrap_or_else(|| usual.to_owned())
        };
        let value = named(&shape.value, "value");
        assert!(
            !shape.flattened && named(&shape.key, "key") == "key" && value == "value",
            "{}: there is no code for maps with names of their own",
            shape.name
        );
        tables.member("", "entry", &value)
    };
    text + &constraints(model, target, tables)
}
