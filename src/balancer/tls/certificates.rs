//! Certificates of a listener, and which of them a client gets.
//!
//! As AWS chooses
//! (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/https-listener-certificates.html>): of those that have the name that a client asks for, the first
//! whose key the client can use; a name that stands there as it is comes before one with a wildcard, which stands for one label. Whoever asks for none, or for
//! one that no certificate has, gets the listener's default: the first. Names are those of `subjectAltName`.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use crate::config::Certificate;

/// What a listener has.
#[derive(Debug)]
pub(super) struct Certificates {
    default: Arc<CertifiedKey>,
    /// By the name, in lower case.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    /// Reads them; none if there are none. Or says which cannot be used, and why.
    pub(super) fn load(certificates: &[Certificate]) -> Result<Option<Self>, (usize, String)> {
        let mut all: Option<Self> = None;
        for (place, certificate) in certificates.iter().enumerate() {
            let key = Arc::new(load(certificate).map_err(|problem| (place, problem))?);
            let all = all.get_or_insert_with(|| Self {
                default: Arc::clone(&key),
                exact: HashMap::new(),
                wildcard: HashMap::new(),
            });
            let cannot = |error: webpki::Error| (place, format!("the certificate cannot be read: {error}"));
            for name in EndEntityCert::try_from(&key.cert[0]).map_err(cannot)?.valid_dns_names() {
                let name = name.to_ascii_lowercase();
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut all.wildcard, parent.to_owned()),
                    None => (&mut all.exact, name),
                };
                names.entry(name).or_default().push(Arc::clone(&key));
            }
        }
        Ok(all)
    }

    /// For a client that asks for `name`. `can_use`: it can verify what this one signs.
    fn choose(&self, name: Option<&str>, can_use: impl Fn(&CertifiedKey) -> bool) -> Arc<CertifiedKey> {
        let name = name.map(str::to_ascii_lowercase);
        let found = name.as_deref().and_then(|name| {
            let exact = self.exact.get(name);
            let wildcard = name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
            let fitting: Vec<_> = exact.into_iter().chain(wildcard).flatten().collect();
            fitting.iter().copied().find(|key| can_use(key)).or_else(|| fitting.first().copied())
        });
        Arc::clone(found.unwrap_or(&self.default))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_use = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        Some(self.choose(hello.server_name(), can_use))
    }
}

fn load(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let text = pem(&certificate.chain)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("the chain is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("the chain has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&pem(&certificate.key)?);
    let key = key.map_err(|error| format!("there is no private key in PEM: {error}"))?;
    CertifiedKey::from_der(chain, key, &default_provider())
        .map_err(|error| format!("the certificate and its key cannot be used: {error}"))
}

/// What stands there, or in the file of this name.
fn pem(text: &str) -> Result<Vec<u8>, String> {
    if text.trim_start().starts_with("-----BEGIN ") {
        return Ok(text.as_bytes().to_vec());
    }
    fs::read(text).map_err(|error| format!("cannot read {text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    #[test]
    fn a_client_gets_the_certificate_of_its_name_or_the_default() {
        let certificates = [
            certificate(&["default.example"]),
            certificate(&["*.shop.example", "shop.example"]),
            certificate(&["www.shop.example"]),
            certificate(&["WWW.shop.example"]),
        ];
        let loaded = Certificates::load(&certificates).unwrap().unwrap();
        let der =
            |place: usize| CertificateDer::from_pem_slice(certificates[place].chain.as_bytes()).unwrap();
        for (name, place) in [
            (None, 0),
            (Some("other.example"), 0),
            (Some("shop.example"), 1),
            (Some("a.shop.example"), 1),
            (Some("a.b.shop.example"), 0),
            (Some("www.SHOP.example"), 2),
        ] {
            assert_eq!(loaded.choose(name, |_| true).cert[0], der(place), "{name:?}");
        }
        // One that it can use comes first, and if it can use none it is told so by one that has the name.
        let only = |place: usize| move |key: &CertifiedKey| key.cert[0] == der(place);
        assert_eq!(loaded.choose(Some("www.shop.example"), only(3)).cert[0], der(3));
        assert_eq!(loaded.choose(Some("www.shop.example"), |_| false).cert[0], der(2));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let good = certificate(&["a.example"]);
        let other = certificate(&["b.example"]);
        let problem = |chain: &str, key: &str| {
            let bad = Certificate { chain: chain.to_owned(), key: key.to_owned() };
            Certificates::load(&[good.clone(), bad]).map(drop).unwrap_err()
        };
        for (chain, key, words) in [
            ("/nowhere.pem", good.key.as_str(), "cannot read /nowhere.pem"),
            (good.key.as_str(), good.key.as_str(), "no certificate"),
            (good.chain.as_str(), good.chain.as_str(), "no private key"),
            (good.chain.as_str(), other.key.as_str(), "cannot be used"),
        ] {
            let (place, problem) = problem(chain, key);
            assert!(place == 1 && problem.contains(words), "{problem}");
        }
        assert!(Certificates::load(&[]).unwrap().is_none());
    }
}
