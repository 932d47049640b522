//! Who sent a request: AWS Signature Version 4, in the `Authorization` header or in the query of a presigned URL.
//!
//! Source: "AWS Signature Version 4 for API requests", in the IAM User Guide. What it leaves open is strict here: a name of a header is
//! signed as it came, `host` must be signed, and the body's hash is always that of the body: `UNSIGNED-PAYLOAD` and bodies signed in
//! chunks are S3's alone. A request's time comes from `X-Amz-Date`; the header `Date` is not read for it.
//!
//! Signatures are compared in constant time. The keys that they are made with are derived from a secret for a day, a region and a service,
//! by four hashes; they are kept for the next request.

mod canonical;
mod claim;
mod sign;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use ring::{digest, hmac};
use types::Clock;

use crate::error::Error;
use crate::request::Request;
use crate::service::Protocol;

pub use claim::Claim;
pub use sign::Signer;

/// How far the clocks of client and server may be apart.
const SKEW_MAX_S: u64 = 5 * 60;
/// As many derived keys are kept; a client chooses regions and services.
const KEYS_MAX: usize = 1024;

const TARGET: &str = "x-amz-target";

/// What an access key stands for.
#[derive(Clone)]
pub struct Credential {
    pub secret: String,
    /// Of temporary credentials; a request must come with the same.
    pub session_token: Option<String>,
    /// Twelve digits.
    pub account: Arc<str>,
    pub arn: Arc<str>,
    pub user_id: Arc<str>,
}

/// Without what is secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("account", &self.account)
            .field("arn", &self.arn)
            .finish_non_exhaustive()
    }
}

/// Knows access keys.
pub trait Credentials: Send + Sync {
    fn find(&self, access_key: &str) -> Option<Credential>;
}

/// Who sent a request, and to which region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub access_key: String,
    pub account: Arc<str>,
    pub arn: Arc<str>,
    pub user_id: Arc<str>,
    /// Of the credential scope. Whether there is such a region is not for this module to know.
    pub region: String,
}

/// Why a request is not known to be of whom it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the request is not signed")]
    Missing,
    #[error("the signature is not complete: {0}")]
    Incomplete(String),
    #[error("there is no such access key")]
    UnknownKey,
    #[error("the session token is not that of the access key")]
    WrongToken,
    #[error("the signature is not that of the request")]
    Mismatch,
    #[error("the hash of the body is not that of the header x-amz-content-sha256")]
    Body,
    #[error("the request was signed at {signed}, and now it is {now}")]
    Expired { signed: String, now: String },
}

impl Denied {
    /// As the service answers it.
    pub fn error(&self, protocol: Protocol) -> Error {
        let is_ec2 = protocol == Protocol::Ec2;
        let (ec2, query, json) = match self {
            Denied::Missing => (
                "MissingAuthenticationToken",
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
            ),
            Denied::Incomplete(_) => {
                ("IncompleteSignature", "IncompleteSignature", "IncompleteSignatureException")
            }
            Denied::UnknownKey | Denied::WrongToken => {
                ("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException")
            }
            Denied::Mismatch | Denied::Body => {
                ("AuthFailure", "SignatureDoesNotMatch", "InvalidSignatureException")
            }
            Denied::Expired { .. } => {
                ("RequestExpired", "SignatureDoesNotMatch", "InvalidSignatureException")
            }
        };
        let message = match self {
            Denied::Missing => "Request is missing Authentication Token".to_owned(),
            Denied::Incomplete(what) => what.clone(),
            Denied::Expired { signed, now } if is_ec2 => {
                format!("Request has expired. Timestamp date is {signed}. Current date is {now}.")
            }
            Denied::Expired { signed, now } => format!(
                "Signature expired: {signed} is not within the time that it is valid for ({now} - {} min.)",
                SKEW_MAX_S / 60
            ),
            _ if is_ec2 => "AWS was not able to validate the provided access credentials".to_owned(),
            Denied::UnknownKey | Denied::WrongToken => {
                "The security token included in the request is invalid.".to_owned()
            }
            Denied::Mismatch | Denied::Body => "The request signature we calculated does not match the signature you \
                provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
                .to_owned(),
        };
        match protocol {
            Protocol::Ec2 => Error::new(ec2, message),
            Protocol::Query => Error::new(query, message),
            Protocol::RestJson => Error::new(json, message).with_status(403),
            Protocol::Json | Protocol::Cbor => Error::new(json, message),
        }
    }
}

/// Verifies signatures.
pub struct Verifier {
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
    /// By scope, which names the access key too.
    keys: Mutex<HashMap<String, Derived>>,
}

/// A signing key, and what it was derived from: secrets can be replaced.
struct Derived {
    secret: String,
    key: hmac::Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    pub fn new(credentials: Arc<dyn Credentials>, clock: Arc<dyn Clock>) -> Self {
        Self { credentials, clock, keys: Mutex::default() }
    }

    /// Who sent `request`, which claims to be signed as `claim` says.
    ///
    /// # Errors
    /// [`Denied`], for the first reason that there is.
    pub fn verify(&self, request: &Request<'_>, claim: &Claim<'_>) -> Result<Caller, Denied> {
        self.check_time(claim)?;
        let credential = self.credentials.find(claim.access_key()).ok_or(Denied::UnknownKey)?;
        check_token(credential.session_token.as_deref(), claim.token.as_deref())?;
        // It says what the request is.
        if request.headers.contains_key(TARGET) && !claim.signs(TARGET) {
            return Err(Denied::Incomplete(format!("'{TARGET}' must be one of SignedHeaders.")));
        }
        let body_hash = hex(digest::digest(&digest::SHA256, request.body).as_ref());
        if request
            .headers
            .get("x-amz-content-sha256")
            .is_some_and(|told| told.as_bytes() != body_hash.as_bytes())
        {
            return Err(Denied::Body);
        }
        let canonical = canonical::request(request, claim, &body_hash)?;
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("{}\n{}\n{}\n{hash}", claim::ALGORITHM, claim.time, claim.scope());
        let key = self.key(claim, &credential.secret);
        hmac::verify(&key, to_sign.as_bytes(), &claim.signature).map_err(|_| Denied::Mismatch)?;
        Ok(Caller {
            access_key: claim.access_key().to_owned(),
            account: credential.account,
            arn: credential.arn,
            user_id: credential.user_id,
            region: claim.region().to_owned(),
        })
    }

    fn check_time(&self, claim: &Claim<'_>) -> Result<(), Denied> {
        let now = self.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signed = claim.seconds;
        let last = signed.saturating_add(claim.expires_s.unwrap_or(SKEW_MAX_S));
        if signed.saturating_sub(SKEW_MAX_S) <= now && now <= last {
            return Ok(());
        }
        Err(Denied::Expired { signed: claim.time.clone().into_owned(), now: claim::basic_time(now) })
    }

    fn key(&self, claim: &Claim<'_>, secret: &str) -> hmac::Key {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(derived) = keys.get(&*claim.credential).filter(|derived| derived.secret == secret) {
            return derived.key.clone();
        }
        let key = derive(secret, claim);
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.insert(
            claim.credential.clone().into_owned(),
            Derived { secret: secret.to_owned(), key: key.clone() },
        );
        key
    }
}

fn check_token(expected: Option<&str>, given: Option<&str>) -> Result<(), Denied> {
    let is_same = match (expected, given) {
        (None, None) => true,
        // Hashes may be compared in any time: who does not know the token does not know where they differ.
        (Some(expected), Some(given)) => {
            let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
            hash(expected).as_ref() == hash(given).as_ref()
        }
        _ => false,
    };
    if is_same { Ok(()) } else { Err(Denied::WrongToken) }
}

fn derive(secret: &str, claim: &Claim<'_>) -> hmac::Key {
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    for part in [claim.date(), claim.region(), claim.service(), claim::TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    key
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}
