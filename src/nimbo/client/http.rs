//! One request over HTTP/1.1, with or without TLS.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For an answer to arrive.
const TIME: Duration = Duration::from_secs(30);
const BODY_BYTES_MAX: usize = 256 << 20;

/// Where a server is: `http://127.0.0.1:4566`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) is_tls: bool,
    /// A name, or an address; one of IPv6 without brackets.
    host: String,
    port: u16,
}

impl Endpoint {
    /// What the header `host` says.
    pub(super) fn authority(&self) -> String {
        let host = &self.host;
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address such as http://127.0.0.1:4566");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let port = if is_tls { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, digits)) if !host.contains(':') || host.ends_with(']') => {
                (host, digits.parse().map_err(|_| wrong())?)
            }
            _ => (authority, port),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '?', '#', '@', '[', ']', ' ']) {
            return Err(wrong());
        }
        Ok(Self { is_tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Nobody answers at an endpoint.
#[derive(Debug, thiserror::Error)]
#[error("nothing answers at {endpoint}")]
pub(super) struct Unreachable {
    endpoint: Endpoint,
    source: std::io::Error,
}

/// Sends a request, to a server whose certificate is of an authority in the file `ca`, or one that this machine trusts.
///
/// # Errors
/// [`Unreachable`], and when the answer is none.
pub(super) async fn exchange(
    endpoint: &Endpoint,
    ca: Option<&Path>,
    method: &str,
    path: &str,
    headers: HeaderMap,
    body: Vec<u8>,
) -> anyhow::Result<Reply> {
    let talk = async {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|source| Unreachable { endpoint: endpoint.clone(), source })?;
        let mut request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body)))?;
        *request.headers_mut() = headers;
        let authority = endpoint.authority().parse().context("the server's name is no header")?;
        request.headers_mut().insert(header::HOST, authority);
        if !endpoint.is_tls {
            return converse(stream, request).await;
        }
        let name =
            ServerName::try_from(endpoint.host.clone()).context("the server's name is none for TLS")?;
        let connector = TlsConnector::from(Arc::new(trust(ca)?));
        let stream = connector.connect(name, stream).await.with_context(|| {
            format!(
                "cannot trust {endpoint}: AWS_CA_BUNDLE must name the authority that signed its certificate"
            )
        })?;
        converse(stream, request).await
    };
    let replied = tokio::time::timeout(TIME, talk).await;
    replied.with_context(|| format!("{endpoint} did not answer in {} s", TIME.as_secs()))?
}

async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("cannot speak HTTP with the server")?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.context("the server did not answer")?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    driver.abort();
    match body {
        Ok(body) => Ok(Reply { status, body: body.to_bytes().to_vec() }),
        Err(error) => bail!("the server's answer is cut off: {error}"),
    }
}

fn trust(ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let cannot = || format!("cannot read certificates from {}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
                roots.add(certificate.with_context(cannot)?).with_context(cannot)?;
            }
        }
        None => {
            // Those that cannot be read are not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_and_shown_with_its_port() {
        for (text, shown) in [
            ("http://127.0.0.1:4566", "http://127.0.0.1:4566"),
            ("https://lab.example/", "https://lab.example:443"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("http://[::1]", "http://[::1]:80"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in ["", "localhost:4566", "ftp://a", "http://", "http://a:x", "http://a/b", "http://u@h"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
