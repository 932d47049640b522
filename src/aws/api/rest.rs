//! REST: the operation is in method and path, and members of its input are there, in the query and in headers as well as in the body.

use std::borrow::Cow;

use super::{Wanted, serialization};
use crate::error::Error;
use crate::json;
use crate::member::{Member, Place};
use crate::node::Node;
use crate::percent::{self, Plus};
use crate::query::{self, Param};
use crate::request::Request;
use crate::service::{Info, Service};
use crate::table::not_served;

/// The operation of `operations` that the path is of, and its input.
pub fn wanted<'a>(
    operations: impl Iterator<Item = &'static Info>,
    service: &Service,
    request: &Request<'a>,
) -> Result<Wanted<'a>, Error> {
    let of_method = |info: &&Info| info.method == request.method;
    // A path that a label could be part of may also be another operation's own: the one with fewer labels is meant.
    let found = operations
        .filter(of_method)
        .filter_map(|info| labels(info.path, request.path).map(|labels| (info, labels)))
        .min_by_key(|(_, labels)| labels.len());
    let Some((info, labels)) = found else {
        let place = format!("{} {}", request.method, request.path);
        return Err(not_served(service, &place, crate::service::Protocol::RestJson).with_status(404));
    };
    let mut entries = match json::parse(request.body).map_err(serialization)? {
        Node::Map(entries) => entries,
        _ => return Err(Error::new("SerializationException", "The body is not an object.")),
    };
    // Each member comes from its own place.
    entries.retain(|(name, _)| place(info, name) == Place::Body);
    for (name, value) in labels {
        let value = decoded(value)?;
        let member =
            info.input.iter().find(|member| member.place == Place::Label && member.located() == name);
        entries.extend(member.map(|member| (Cow::Borrowed(member.name()), Node::Text(value))));
    }
    add_query(info, request, &mut entries)?;
    for member in info.input {
        if member.place != Place::Header {
            continue;
        }
        if let Some(value) = request.header(member.located()) {
            entries.push((Cow::Borrowed(member.name()), Node::Text(value.into())));
        }
    }
    Ok((info.name.to_owned(), Node::Map(entries)))
}

fn place(info: &Info, name: &str) -> Place {
    info.input.iter().find(|member| member.name() == name).map_or(Place::Body, |member| member.place)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Error> {
    percent::decode(text.as_bytes(), Plus::Plus)
        .ok_or_else(|| Error::new("SerializationException", "The path is not text in percent-encoding."))
}

/// The labels of `pattern` with what `path` has in their places, or `None` if it is not of that pattern. A greedy label, `{name+}`,
/// is not in any model that is served.
fn labels<'a>(pattern: &'static str, path: &'a str) -> Option<Vec<(&'static str, &'a str)>> {
    let pattern = pattern.split_once('?').map_or(pattern, |(path, _)| path);
    let mut labels = Vec::new();
    let mut segments = path.trim_end_matches('/').split('/');
    for expected in pattern.trim_end_matches('/').split('/') {
        let segment = segments.next()?;
        match expected.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) if !segment.is_empty() => labels.push((name, segment)),
            Some(_) => return None,
            None if expected == segment => {}
            None => return None,
        }
    }
    segments.next().is_none().then_some(labels)
}

/// Members of the query; one that is given several times is a list. Others are those of the signature.
fn add_query<'a>(
    info: &Info,
    request: &Request<'a>,
    entries: &mut Vec<(Cow<'a, str>, Node<'a>)>,
) -> Result<(), Error> {
    let mut params = Vec::new();
    query::parse(request.query.as_bytes(), &mut params).map_err(serialization)?;
    // As many as the input has members at most.
    let mut found: Vec<(&'static Member, Node<'a>)> = Vec::new();
    for Param { name, value } in params {
        let is_named = |member: &&Member| member.place == Place::Query && member.located() == name;
        let Some(member) = info.input.iter().find(is_named) else {
            if name.starts_with("X-Amz-") {
                continue;
            }
            return Err(Error::new(
                "ValidationException",
                format!("{name} is no parameter of {}", info.name),
            ));
        };
        let value = Node::Text(value);
        match found.iter_mut().find(|(other, _)| std::ptr::eq(*other, member)) {
            Some((_, Node::List(values))) => values.push(value),
            Some(_) => return Err(Error::new("ValidationException", format!("{name} is given twice"))),
            None if member.is_list() => found.push((member, Node::List(vec![value]))),
            None => found.push((member, value)),
        }
    }
    entries.extend(found.into_iter().map(|(member, value)| (Cow::Borrowed(member.name()), value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_a_pattern_segment_by_segment() {
        let pattern = "/2015-02-01/file-systems/{FileSystemId}/policy";
        let found = labels(pattern, "/2015-02-01/file-systems/fs-1%2F/policy");
        assert_eq!(found, Some(vec![("FileSystemId", "fs-1%2F")]));
        for path in ["/2015-02-01/file-systems//policy", "/2015-02-01/file-systems/fs-1", "/a/b/c/d/e", ""] {
            assert_eq!(labels(pattern, path), None, "{path}");
        }
        assert_eq!(labels("/tags/{Id}/", "/tags/x"), Some(vec![("Id", "x")]));
    }
}
