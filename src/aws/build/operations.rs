//! The service and its operations.

use std::fmt::Write as _;

use crate::model::{Member, Model, Operation};
use crate::names::{field_name, static_name, type_name};

/// What a `write!` to a `String` gives back is always `Ok`.
macro_rules! put {
    ($out:expr, $($text:tt)*) => { let _ = writeln!($out, $($text)*); };
}

pub fn write(model: &Model, out: &mut String) {
    service(model, out);
    for operation in &model.operations {
        write_operation(model, operation, out);
    }
    put!(out, "/// Shows each operation to `visitor`.\n#[cfg(feature = \"testing\")]");
    put!(out, "pub fn visit(visitor: &mut impl g::Visitor) {{");
    for operation in &model.operations {
        put!(out, "    visitor.visit::<{}>();", operation.name);
    }
    put!(out, "}}");
}

fn service(model: &Model, out: &mut String) {
    let metadata = &model.metadata;
    let protocols: Vec<String> =
        metadata.protocols.iter().map(|name| format!("g::Protocol::{}", protocol(name))).collect();
    let operations: Vec<String> =
        model.operations.iter().map(|operation| format!("&{}", info_name(operation))).collect();
    let errors: Vec<String> = model
        .errors
        .iter()
        .map(|error| {
            let code = error.code.as_deref().unwrap_or(&error.name);
            let status = error.http_status_code.unwrap_or(400);
            format!("g::ErrorShape {{ name: {:?}, code: {code:?}, status: {status} }}", error.name)
        })
        .collect();
    put!(out, "pub static SERVICE: g::Service = g::Service {{");
    put!(out, "    id: {:?},", metadata.service_id);
    put!(out, "    signing_name: {:?},", metadata.signing_name.as_ref().unwrap_or(&metadata.endpoint_prefix));
    put!(out, "    version: {:?},", metadata.api_version);
    put!(out, "    xml_namespace: {:?},", namespace(model));
    put!(out, "    target_prefix: {:?},", metadata.target_prefix);
    put!(out, "    json_version: {:?},", metadata.json_version);
    put!(out, "    is_query_compatible: {},", metadata.is_query_compatible);
    put!(out, "    protocols: &[{}],", protocols.join(", "));
    put!(out, "    operations: &[{}],", operations.join(", "));
    put!(out, "    unserved: &{:?},", model.unserved);
    put!(out, "    errors: &[{}],", errors.join(", "));
    put!(out, "}};");
}

/// EC2 answers with a slash more than its model has.
fn namespace(model: &Model) -> String {
    let namespace = &model.metadata.xml_namespace;
    if model.is_ec2() { format!("{namespace}/") } else { namespace.clone() }
}

fn protocol(name: &str) -> &'static str {
    match name {
        "ec2" => "Ec2",
        "query" => "Query",
        "json" => "Json",
        "rest-json" => "RestJson",
        "smithy-rpc-v2-cbor" => "Cbor",
        _ => panic!("there is no code for the protocol {name}"),
    }
}

fn info_name(operation: &Operation) -> String {
    format!("{}_INFO", static_name(&operation.name))
}

fn write_operation(model: &Model, operation: &Operation, out: &mut String) {
    let name = &operation.name;
    let shape_or_empty = |shape: &Option<String>| shape.as_deref().map_or("g::Empty".to_owned(), type_name);
    let input_members =
        operation.input.as_deref().map_or("&[]".to_owned(), |shape| format!("&{}", static_name(shape)));
    let http = &operation.http;
    put!(out, "static {}: g::Info = g::Info {{", info_name(operation));
    put!(
        out,
        "    service: &SERVICE, name: {name:?}, method: {:?}, path: {:?},",
        http.method,
        http.request_uri
    );
    put!(
        out,
        "    status: {}, input: {input_members}, has_output: {},",
        http.response_code,
        operation.output.is_some()
    );
    put!(out, "}};");
    put!(out, "#[derive(Debug)]\npub enum {name} {{}}");
    put!(out, "impl g::Operation for {name} {{");
    put!(out, "    const INFO: &'static g::Info = &{};", info_name(operation));
    put!(out, "    type Input = {};", shape_or_empty(&operation.input));
    put!(out, "    type Output = {};", shape_or_empty(&operation.output));
    let input = operation.input.as_deref().map(|name| model.shape(name));
    let members: Vec<&Member> = input.into_iter().flat_map(|shape| model.fields(shape)).collect();
    if members.iter().any(|member| member.name == "DryRun") {
        put!(out, "    fn is_dry_run(input: &Self::Input) -> bool {{ input.dry_run == Some(true) }}");
    }
    put!(out, "}}");
    if let Some(token) =
        members.iter().find(|member| member.idempotency_token || member.name == "ClientToken")
    {
        put!(out, "impl g::Idempotent for {name} {{");
        let field = field_name(&token.name);
        let text = if token.required {
            format!("Some(&input.{field})")
        } else {
            format!("input.{field}.as_deref()")
        };
        put!(out, "    fn client_token(input: &Self::Input) -> Option<&str> {{ {text} }}\n}}");
    }
    write_pages(operation, out);
}

fn write_pages(operation: &Operation, out: &mut String) {
    let Some(pages) = &operation.pages else { return };
    put!(out, "impl g::Paginated for {} {{", operation.name);
    put!(
        out,
        "    fn token(input: &Self::Input) -> Option<&str> {{ input.{}.as_deref() }}",
        field_name(&pages.token)
    );
    let limit =
        pages.limit.as_ref().map_or("None".to_owned(), |limit| format!("input.{}", field_name(limit)));
    put!(out, "    #[allow(unused_variables)]");
    put!(out, "    fn limit(input: &Self::Input) -> Option<i32> {{ {limit} }}");
    put!(
        out,
        "    fn set_next(output: &mut Self::Output, token: Option<String>) {{ output.{} = token; }}\n}}",
        field_name(&pages.next)
    );
}
