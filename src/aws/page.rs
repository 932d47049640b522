//! Pages of describing operations.
//!
//! Items have an order by a key that does not change while they exist, and a token says after which key a page begins: pages neither repeat an
//! item nor leave one out that is there all the time, whatever comes and goes between them. A token holds that key and a checksum that binds it to the
//! operation and the account. Nobody gains by making one: it gives what the caller may see without it.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

use crate::error::Error;
use crate::service::{Paginated, Protocol};
use crate::table::Call;

/// Bytes of the checksum in a token.
const CHECK_BYTES: usize = 8;

/// Limits of operations of EC2 whose models tell none, as their documentation has them.
fn ec2_items(operation: &str) -> RangeInclusive<i32> {
    match operation {
        "DescribeLaunchTemplateVersions" => 1..=200,
        _ => 5..=1000,
    }
}

/// Which page was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    binding: [u8; 32],
    /// The key of the last item of the page before.
    after: Option<String>,
    /// `None`: as many as there are.
    limit: Option<usize>,
}

impl Page {
    /// What `call` asks for.
    ///
    /// # Errors
    /// When the limit is out of range, or the token is none that this operation gave the account.
    pub fn of<O: Paginated>(call: &Call<O::Input>) -> Result<Self, Error> {
        let is_ec2 = O::INFO.service.protocols.contains(&Protocol::Ec2);
        let (limit, items) = (O::limit(&call.input), ec2_items(O::INFO.name));
        // The decoder has checked what the model tells.
        let is_checked =
            O::INFO.input.iter().any(|member| member.name() == "MaxResults" && member.min.is_finite());
        if let Some(limit) = limit.filter(|limit| is_ec2 && !is_checked && !items.contains(limit)) {
            let expected = if limit < *items.start() {
                format!("greater than {}", items.start())
            } else {
                format!("less than or equal to {}", items.end())
            };
            let message = format!(
                "Value ( {limit} ) for parameter maxResults is invalid. Expecting a value {expected}."
            );
            return Err(Error::new("InvalidParameterValue", message));
        }
        let binding = binding(O::INFO.name, &call.caller.account);
        let token = O::token(&call.input).filter(|token| !token.is_empty());
        let after =
            token.map(|token| read_token(&binding, token).ok_or_else(|| bad_token(is_ec2))).transpose()?;
        Ok(Self { binding, after, limit: limit.map(|limit| usize::try_from(limit).unwrap_or(1).max(1)) })
    }

    /// The key after which the page begins: who can find that place needs not give the items before.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// With so many items if nobody says how many.
    #[must_use]
    pub fn limited_to(self, items: usize) -> Self {
        Self { limit: self.limit.or(Some(items)), ..self }
    }

    /// The items of this page out of `items`, which are in the order of their keys, and the token of the next page if there is one.
    pub fn take<T, K: AsRef<str>>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> K,
    ) -> (Vec<T>, Option<String>) {
        let after = self.after.as_deref();
        let mut rest = items.into_iter().filter(|item| after.is_none_or(|after| key(item).as_ref() > after));
        let Some(limit) = self.limit else { return (rest.collect(), None) };
        let taken: Vec<T> = rest.by_ref().take(limit).collect();
        let token = match (taken.last(), rest.next()) {
            (Some(last), Some(_)) => Some(token(&self.binding, key(last).as_ref())),
            _ => None,
        };
        (taken, token)
    }
}

fn bad_token(is_ec2: bool) -> Error {
    if is_ec2 {
        Error::new("InvalidParameterValue", "Unable to parse pagination token")
    } else {
        Error::new("InvalidNextToken", "The token is none that this operation has given.")
    }
}

fn binding(operation: &str, account: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, format!("{operation}/{account}").as_bytes());
    let mut binding = [0; 32];
    binding.copy_from_slice(hash.as_ref());
    binding
}

fn check(binding: &[u8; 32], key: &str) -> [u8; CHECK_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(binding);
    context.update(key.as_bytes());
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&context.finish().as_ref()[..CHECK_BYTES]);
    check
}

fn token(binding: &[u8; 32], key: &str) -> String {
    URL_SAFE_NO_PAD.encode([&check(binding, key), key.as_bytes()].concat())
}

fn read_token(binding: &[u8; 32], token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (found, key) = bytes.split_at_checked(CHECK_BYTES)?;
    let key = std::str::from_utf8(key).ok()?;
    (check(binding, key) == found).then(|| key.to_owned())
}
