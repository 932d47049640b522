//! Outputs and errors to whole answers, in each protocol's form.

use crate::cbor::Cbor;
use crate::encode::{Encoder, Kind, Members};
use crate::error::{Error, Fault};
use crate::json::Json;
use crate::member::ANY;
use crate::request::RequestId;
use crate::service::{Info, Protocol, Service};
use crate::xml::{Xml, push_text};

/// What HTTP brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// Headers that only some protocols have.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub request_id: RequestId,
}

const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
/// Most answers fit; a larger one grows to twice its size a few times.
const BODY_SIZE: usize = 1024;

/// The answer of an operation that succeeded.
pub fn success(info: &Info, protocol: Protocol, request_id: RequestId, output: &dyn Members) -> Answer {
    let mut body = Vec::with_capacity(BODY_SIZE);
    match protocol {
        Protocol::Ec2 => ec2_body(info, request_id, output, &mut body),
        Protocol::Query => query_body(info, request_id, output, &mut body),
        Protocol::Json => json_body(output, &mut body),
        // No content, where the status says so.
        Protocol::RestJson if !info.has_output => {}
        Protocol::RestJson => json_body(output, &mut body),
        Protocol::Cbor => {
            let mut cbor = Cbor::new(&mut body);
            cbor.begin(ANY, Kind::Structure);
            output.put_members(&mut cbor);
            cbor.end(ANY, Kind::Structure);
        }
    }
    let status = if protocol == Protocol::RestJson { info.status } else { 200 };
    Answer { status, body, ..empty(Some(info.service), protocol, request_id) }
}

fn empty(service: Option<&Service>, protocol: Protocol, request_id: RequestId) -> Answer {
    let is_json_1_1 = service.is_some_and(|service| service.json_version == "1.1");
    let content_type = match protocol {
        Protocol::Ec2 => "text/xml;charset=UTF-8",
        Protocol::Query => "text/xml",
        Protocol::Json if is_json_1_1 => "application/x-amz-json-1.1",
        Protocol::Json => "application/x-amz-json-1.0",
        Protocol::RestJson => "application/json",
        Protocol::Cbor => "application/cbor",
    };
    let mut headers = Vec::new();
    if protocol == Protocol::Cbor {
        headers.push(("smithy-protocol", "rpc-v2-cbor".to_owned()));
    }
    Answer { status: 200, content_type, headers, body: Vec::new(), request_id }
}

fn push(out: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
}

fn ec2_body(info: &Info, request_id: RequestId, output: &dyn Members, out: &mut Vec<u8>) {
    let namespace = info.service.xml_namespace;
    push(out, &[XML, "<", info.name, "Response xmlns=\"", namespace, "\"><requestId>", request_id.as_str()]);
    push(out, &["</requestId>"]);
    if info.has_output {
        output.put_members(&mut Xml::new(out));
    } else {
        push(out, &["<return>true</return>"]);
    }
    push(out, &["</", info.name, "Response>"]);
}

fn query_body(info: &Info, request_id: RequestId, output: &dyn Members, out: &mut Vec<u8>) {
    push(out, &["<", info.name, "Response xmlns=\"", info.service.xml_namespace, "\">"]);
    if info.has_output {
        push(out, &["<", info.name, "Result>"]);
        output.put_members(&mut Xml::new(out));
        push(out, &["</", info.name, "Result>"]);
    }
    push(out, &["<ResponseMetadata><RequestId>", request_id.as_str(), "</RequestId></ResponseMetadata></"]);
    push(out, &[info.name, "Response>"]);
}

fn json_body(output: &dyn Members, out: &mut Vec<u8>) {
    let mut json = Json::new(out);
    json.begin(ANY, Kind::Structure);
    output.put_members(&mut json);
    json.end(ANY, Kind::Structure);
}

/// The answer that tells `error`.
pub fn failure(
    service: Option<&Service>,
    protocol: Protocol,
    request_id: RequestId,
    error: &Error,
) -> Answer {
    let shape = service.and_then(|service| service.errors.iter().find(|shape| shape.code == error.code));
    let mut answer = empty(service, protocol, request_id);
    answer.status = shape.map_or(error.status, |shape| shape.status);
    let name = shape.map_or(&*error.code, |shape| shape.name);
    match protocol {
        Protocol::Ec2 => ec2_error(request_id, error, &mut answer.body),
        Protocol::Query => query_error(service, request_id, error, &mut answer.body),
        Protocol::Json => {
            put_error(&mut Json::new(&mut answer.body), ("__type", name), ("message", &error.message));
        }
        Protocol::RestJson => {
            put_error(&mut Json::new(&mut answer.body), ("ErrorCode", name), ("Message", &error.message));
            answer.headers.push(("x-amzn-errortype", name.to_owned()));
        }
        Protocol::Cbor => {
            put_error(&mut Cbor::new(&mut answer.body), ("__type", name), ("message", &error.message));
        }
    }
    let is_compatible = service.is_some_and(|service| service.is_query_compatible);
    if is_compatible && matches!(protocol, Protocol::Json | Protocol::Cbor) {
        answer.headers.push(("x-amzn-query-error", format!("{};{}", error.code, fault(error))));
    }
    answer
}

fn fault(error: &Error) -> &'static str {
    match error.fault() {
        Fault::Client => "Sender",
        Fault::Server => "Receiver",
    }
}

fn ec2_error(request_id: RequestId, error: &Error, out: &mut Vec<u8>) {
    push(out, &[XML, "<Response><Errors><Error><Code>"]);
    push_text(&error.code, out);
    push(out, &["</Code><Message>"]);
    push_text(&error.message, out);
    push(out, &["</Message></Error></Errors><RequestID>", request_id.as_str(), "</RequestID></Response>"]);
}

fn query_error(service: Option<&Service>, request_id: RequestId, error: &Error, out: &mut Vec<u8>) {
    let namespace = service.map_or("", |service| service.xml_namespace);
    push(out, &["<ErrorResponse xmlns=\"", namespace, "\"><Error><Type>", fault(error), "</Type><Code>"]);
    push_text(&error.code, out);
    push(out, &["</Code><Message>"]);
    push_text(&error.message, out);
    push(out, &["</Message></Error><RequestId>", request_id.as_str(), "</RequestId></ErrorResponse>"]);
}

/// An object of an error's name and message, each by its key.
fn put_error(encoder: &mut dyn Encoder, name: (&str, &str), message: (&str, &str)) {
    encoder.begin(ANY, Kind::Map);
    for (key, value) in [name, message] {
        encoder.begin_entry(key);
        encoder.text(ANY, value);
        encoder.end_entry();
    }
    encoder.end(ANY, Kind::Map);
}
