//! Object stores for snapshots: a [`Folder`] of the host, or a [`Bucket`] that speaks S3.
//!
//! Both are a [`volume::snapshot::ObjectStore`]. What they promise of durability, and what errors mean, stands there.

#![deny(unsafe_code)]

mod bucket;
mod folder;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use volume::snapshot::{ObjectStore, Retrying};

pub use bucket::Bucket;
pub use folder::Folder;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the folder {path} for objects")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot use {location} as an object store; name a folder, or s3://BUCKET/PREFIX")]
    Location { location: String, source: object_store::Error },
    #[error("cannot start the threads of an object store's client")]
    Threads { source: io::Error },
}

/// Names of addresses, and whom TLS trusts: what a C library and a client of HTTPS read.
const BUCKET_FILES: [&str; 15] = [
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/ssl",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/share/pki",
];
/// Variables that name more of them.
const BUCKET_VARIABLES: [&str; 4] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// The files of the host that a [`Bucket`] reads, of which there need not be all.
pub fn files_of_bucket() -> Vec<PathBuf> {
    let named = BUCKET_VARIABLES.iter().filter_map(std::env::var_os).map(PathBuf::from);
    BUCKET_FILES.iter().map(PathBuf::from).chain(named.filter(|path| path.is_absolute())).collect()
}

/// Opens the store at a location: `s3://BUCKET` or `s3://BUCKET/PREFIX`, or else a folder, which is made if there is none. For S3 the
/// environment says the rest: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, and what else
/// the crate `object_store` knows. What fails for a while is tried again.
///
/// # Errors
/// [`OpenError`]; that nobody answers is told by the first call.
pub fn open(location: &str) -> Result<Box<dyn ObjectStore>, OpenError> {
    match location.strip_prefix("s3://") {
        Some(rest) => Ok(Box::new(Retrying::new(Bucket::open(location, rest, std::env::vars())?))),
        None => {
            let path = Path::new(location);
            let store =
                Folder::open(path).map_err(|source| OpenError::Folder { path: path.to_owned(), source })?;
            Ok(Box::new(Retrying::new(store)))
        }
    }
}
