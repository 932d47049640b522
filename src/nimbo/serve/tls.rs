//! TLS below HTTP: certificates, and handshakes.
//!
//! Certificates are somebody's, in files, or of an [authority] of the server's own. TLS is rustls with ring, versions 1.2 and 1.3. How long a
//! handshake may take, and how many there are at once, `aws::server` limits.

mod authority;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use aws::server::Transport;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// By this every connection of TLS begins.
const HANDSHAKE: u8 = 22;
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 38\r\n\r\n\
    This port speaks TLS: say https://...\n";

#[derive(Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Speak TLS, with the certificates in this file (PEM), the server's own first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The key of the first certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Speak TLS, with a certificate of an authority that is made in the state folder
    #[arg(long, conflicts_with = "tls_certificate")]
    tls_self_signed: bool,
    /// A name or an address that clients know this machine by, besides its own
    #[arg(long, value_name = "NAME", requires = "tls_self_signed")]
    tls_name: Vec<String>,
}

/// TLS as the server speaks it.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    /// The file of the authority that clients must be told to trust.
    pub(super) authority: Option<PathBuf>,
}

impl TlsArgs {
    /// None: it is not wanted.
    ///
    /// # Errors
    /// When there are no such files, or they do not fit together.
    pub(super) fn set_up(&self, folder: Option<&Path>, listen: SocketAddr) -> anyhow::Result<Option<Tls>> {
        if let (Some(chain), Some(key)) = (&self.tls_certificate, &self.tls_key) {
            let config = config(read_chain(chain)?, read_key(key)?)
                .with_context(|| format!("cannot serve with {} and {}", chain.display(), key.display()))?;
            return Ok(Some(Tls { acceptor: config, authority: None }));
        }
        if !self.tls_self_signed {
            return Ok(None);
        }
        let folder = folder
            .context("--tls-self-signed keeps its authority in the state folder: name one by --state")?;
        let folder = folder.join("tls");
        let made = authority::certificate(&folder, listen, &self.tls_name)
            .with_context(|| format!("cannot make a certificate in {}", folder.display()))?;
        Ok(Some(Tls { acceptor: config(vec![made.certificate], made.key)?, authority: Some(made.authority) }))
    }
}

fn config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the key is not that of the certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let cannot = || format!("cannot read certificates from {}", path.display());
    let chain = CertificateDer::pem_file_iter(path).with_context(cannot)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().with_context(cannot)?;
    ensure!(!chain.is_empty(), "{} has no certificate", path.display());
    Ok(chain)
}

fn read_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("cannot read a key from {}", path.display()))
}

impl Transport for Tls {
    type Stream = TlsStream<TcpStream>;

    async fn open(&self, mut stream: TcpStream) -> io::Result<Self::Stream> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
            // Somebody who speaks HTTP in the clear can read this.
            stream.write_all(PLAIN_ANSWER).await?;
            stream.shutdown().await?;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        self.acceptor.accept(stream).await
    }
}
