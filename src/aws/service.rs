//! What the models say of services and operations, and what of an operation's input is read in the same way for all of them.

use crate::decode::{Decode, Wire};
use crate::encode::{Encode, Members};
use crate::member::Member;

/// How a service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Queries as EC2 has them, answered in XML.
    Ec2,
    /// Queries, answered in XML.
    Query,
    /// JSON, with the operation in the header `X-Amz-Target`.
    Json,
    /// JSON, with the operation in method and path.
    RestJson,
    /// `smithy-rpc-v2-cbor`: CBOR, with the operation in the path.
    Cbor,
}

impl Protocol {
    pub fn wire(self) -> Wire {
        match self {
            Protocol::Ec2 => Wire::Ec2,
            Protocol::Query => Wire::Query,
            Protocol::Json | Protocol::RestJson => Wire::Json,
            Protocol::Cbor => Wire::Cbor,
        }
    }

    pub fn is_query(self) -> bool {
        matches!(self, Protocol::Ec2 | Protocol::Query)
    }
}

#[derive(Debug)]
pub struct Service {
    /// `EC2`.
    pub id: &'static str,
    /// By which signatures name it: `ec2`.
    pub signing_name: &'static str,
    /// `2016-11-15`.
    pub version: &'static str,
    pub xml_namespace: &'static str,
    /// What stands before the operation in `X-Amz-Target`.
    pub target_prefix: &'static str,
    pub json_version: &'static str,
    /// Whether its errors have the codes that its queries had, in a header.
    pub is_query_compatible: bool,
    /// The first one is what the others are told in when a request does not say which it speaks.
    pub protocols: &'static [Protocol],
    /// Those that there are types for.
    pub operations: &'static [&'static Info],
    /// The names of all others that the service has.
    pub unserved: &'static [&'static str],
    pub errors: &'static [ErrorShape],
}

/// An error that the service's model describes.
#[derive(Debug)]
pub struct ErrorShape {
    /// By which JSON and CBOR call it.
    pub name: &'static str,
    /// By which queries call it.
    pub code: &'static str,
    pub status: u16,
}

/// An operation.
#[derive(Debug)]
pub struct Info {
    pub service: &'static Service,
    pub name: &'static str,
    /// As a REST protocol has it: `GET`, `/2015-02-01/file-systems/{FileSystemId}`, 200.
    pub method: &'static str,
    pub path: &'static str,
    pub status: u16,
    pub input: &'static [Member],
    pub has_output: bool,
}

/// An operation as a type.
pub trait Operation: 'static {
    const INFO: &'static Info;
    type Input: Decode + Send;
    type Output: Members + Send;

    /// Whether the caller only wants to know if it would succeed.
    fn is_dry_run(_: &Self::Input) -> bool {
        false
    }
}

/// An operation whose answer comes in pages.
pub trait Paginated: Operation {
    /// How many items a page shall have at most.
    fn limit(input: &Self::Input) -> Option<i32>;
    /// Which page is asked for.
    fn token(input: &Self::Input) -> Option<&str>;
    /// Says which page comes after this one.
    fn set_next(output: &mut Self::Output, token: Option<String>);
}

/// An operation that does once what is asked for several times with one token.
pub trait Idempotent: Operation {
    fn client_token(input: &Self::Input) -> Option<&str>;
}

/// Is shown each operation of a service.
pub trait Visitor {
    fn visit<O: Operation<Input: Encode, Output: Decode + Encode>>(&mut self);
}

/// The input or output of an operation that has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Empty;

impl Members for Empty {
    fn put_members(&self, _: &mut dyn crate::encode::Encoder) {}
}

impl Encode for Empty {
    fn put(&self, encoder: &mut dyn crate::encode::Encoder, member: &Member) {
        crate::encode::put_structure(self, encoder, member);
    }
}

impl Decode for Empty {
    fn decode(
        node: &crate::node::Node<'_>,
        _: &'static Member,
        wire: Wire,
    ) -> Result<Self, crate::malformed::Malformed> {
        crate::decode::structure(node, wire, &[], &[], &mut |_, _, _| Ok(()))?;
        Ok(Self)
    }
}
