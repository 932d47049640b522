//! The other side: what a client sends along so that a request is known to be from it.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderName, HeaderValue};
use ring::{digest, hmac};

use super::{Claim, Denied, canonical, claim, derive, hex};
use crate::request::Request;

/// With whose key, and for whom, requests are signed.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    pub access_key: &'a str,
    pub secret: &'a str,
    pub session_token: Option<&'a str>,
    pub region: &'a str,
    /// `ec2`, say.
    pub service: &'a str,
}

impl Signer<'_> {
    /// The headers that `request` needs besides its own, of which `host` alone is signed.
    ///
    /// # Errors
    /// [`Denied::Incomplete`] when there is no host, or something is not what a header can be.
    pub fn sign(
        &self,
        request: &Request<'_>,
        time: SystemTime,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Denied> {
        let time = claim::basic_time(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let mut added = vec![("x-amz-date", time.clone())];
        added.extend(self.session_token.map(|token| ("x-amz-security-token", token.to_owned())));
        let names: Vec<&str> = ["host"].into_iter().chain(added.iter().map(|(name, _)| *name)).collect();
        let date = time.get(..8).unwrap_or_default();
        let scope =
            format!("{}/{date}/{}/{}/{}", self.access_key, self.region, self.service, claim::TERMINATOR);
        let authorization = |signature: &str| {
            let signed = names.join(";");
            let value = format!(
                "{} Credential={scope}, SignedHeaders={signed}, Signature={signature}",
                claim::ALGORITHM
            );
            ("authorization", value)
        };
        // What is claimed with it is what a server reads, so both see the same.
        added.push(authorization(&"0".repeat(64)));
        let mut headers = request.headers.clone();
        for (name, value) in parse(&added)? {
            headers.insert(name, value);
        }
        let request = Request { headers: &headers, ..*request };
        let claim = Claim::of(&request)?;
        let body_hash = hex(digest::digest(&digest::SHA256, request.body).as_ref());
        let canonical = canonical::request(&request, &claim, &body_hash)?;
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("{}\n{time}\n{}\n{hash}", claim::ALGORITHM, claim.scope());
        let signature = hex(hmac::sign(&derive(self.secret, &claim), to_sign.as_bytes()).as_ref());
        added.pop();
        added.push(authorization(&signature));
        parse(&added)
    }
}

fn parse(headers: &[(&'static str, String)]) -> Result<Vec<(HeaderName, HeaderValue)>, Denied> {
    let header = |(name, value): &(&'static str, String)| {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Denied::Incomplete(format!("The header '{name}' cannot have its value.")))?;
        Ok((HeaderName::from_static(name), value))
    };
    headers.iter().map(header).collect()
}
