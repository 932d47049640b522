//! TLS as listeners and targets have it: policies, certificates, and what sessions are made from. Connections are [`crate::transport`]'s.

mod certificates;
mod policy;

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ProducesTickets;
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};

use crate::config::{ConfigError, Listener, Problem, Protocol};
use certificates::Certificates;
pub use policy::{Coverage, DEFAULT, POLICIES, Policy};

/// What clients resume sessions with: one for all workers, which outlives configurations.
pub(crate) fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    ring::Ticketer::new()
}

/// What sessions with a listener's clients are made from; none if it is plain.
///
/// # Errors
/// A policy that cannot be served, or a certificate that cannot be used.
pub(crate) fn of_listener(
    listener: &Listener,
    place: usize,
    has_http2: bool,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Option<Arc<ServerConfig>>, ConfigError> {
    if listener.protocol == Protocol::Http {
        return Ok(None);
    }
    let refuse =
        |field: &str, problem| Err(ConfigError { place: format!("listeners[{place}].{field}"), problem });
    let name = listener.security_policy.as_deref().unwrap_or(DEFAULT);
    let Some(policy) = Policy::named(name) else {
        return refuse("security_policy", Problem::SecurityPolicy(name.to_owned()));
    };
    let certificates = match Certificates::load(&listener.certificates) {
        Ok(Some(certificates)) => certificates,
        Ok(None) => return refuse("certificates", Problem::Tls("HTTPS needs one".to_owned())),
        Err((at, problem)) => return refuse(&format!("certificates[{at}]"), Problem::Tls(problem)),
    };
    let provider = CryptoProvider { cipher_suites: policy.suites(), ..ring::default_provider() };
    let config = ServerConfig::builder_with_provider(Arc::new(provider));
    let config = match config.with_protocol_versions(&policy.versions()) {
        Ok(config) => config,
        Err(error) => return refuse("security_policy", Problem::Tls(error.to_string())),
    };
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(certificates));
    config.ignore_client_order = true;
    config.ticketer = Arc::clone(tickets);
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"]
        .into_iter()
        .filter(|protocol| has_http2 || *protocol != b"h2")
        .map(<[u8]>::to_vec)
        .collect();
    Ok(Some(Arc::new(config)))
}

/// What sessions with targets are made from. `speaks_http2`: it is asked for.
///
/// # Errors
/// What rustls says.
pub(crate) fn of_targets(speaks_http2: bool) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    if speaks_http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(Arc::new(config))
}

/// A load balancer takes whatever certificate a target has, also one that it made itself or that is over, so there is nothing in a signature, either
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-target-groups.html#target-group-routing-configuration>).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A suite as OpenSSL names it, as AWS's logs and fields do.
pub(crate) fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        // No listener has others.
        _ => "-",
    }
}
