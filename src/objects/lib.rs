//! Object stores for snapshots: a folder of the host, or a bucket that speaks S3.
//!
//! [`Objects`] is [`volume::snapshot::ObjectStore`] over the crate `object_store`, whose clients are asynchronous: a runtime of two threads
//! lives in it, and every call waits for its end. So it is not for threads that run asynchronous code themselves.
//!
//! In a folder every object is a file that is synced, with its name, before `put` returns, and a removal is synced too: what a snapshot
//! that was deleted named must not go while its manifest comes back after a crash of the host.

#![deny(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore as AsyncStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::{Builder, Runtime};
use volume::snapshot::{ObjectStore, StoreError, StoreErrorKind};

#[cfg(test)]
mod tests;

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A store of objects.
pub struct Objects {
    runtime: Runtime,
    store: Arc<dyn AsyncStore>,
    /// Where it is, if it is a folder.
    folder: Option<PathBuf>,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the folder {path} for objects")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot use {location} as an object store; name a folder, or s3://BUCKET/PREFIX")]
    Location { location: String, source: object_store::Error },
    #[error("cannot start the threads of an object store's client")]
    Threads { source: io::Error },
}

impl Objects {
    /// Opens the store at a location: `s3://BUCKET` or `s3://BUCKET/PREFIX`, or else a folder, which is made if there is none. For S3 the
    /// environment says the rest: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, and what else
    /// the crate `object_store` knows.
    ///
    /// # Errors
    /// [`OpenError`]; that nobody answers is told by the first call.
    pub fn open(location: &str) -> Result<Self, OpenError> {
        Self::open_with(location, std::env::vars())
    }

    /// As [`open`](Self::open), with other variables than the environment's.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(
        location: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OpenError> {
        match location.strip_prefix("s3://") {
            Some(rest) => Self::s3(location, rest, variables),
            None => Self::folder(Path::new(location)),
        }
    }

    /// Opens the store in a folder, which is made if there is none.
    ///
    /// # Errors
    /// [`OpenError::Folder`], [`OpenError::Threads`].
    pub fn folder(path: &Path) -> Result<Self, OpenError> {
        let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let folder = made.map_err(|source| OpenError::Folder { path: path.to_owned(), source })?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|source| OpenError::Location { location: path.display().to_string(), source })?;
        Ok(Self { runtime: runtime()?, store: Arc::new(store.with_fsync(true)), folder: Some(folder) })
    }

    fn s3(
        location: &str,
        bucket_and_prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Location { location: location.to_owned(), source };
        // Whoever was first has chosen one, and any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (bucket, prefix) = bucket_and_prefix.split_once('/').unwrap_or((bucket_and_prefix, ""));
        let client = ClientOptions::new().with_timeout(TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
        // Who uses the store tries again, and knows for how long.
        let retry = RetryConfig { max_retries: 1, retry_timeout: TIMEOUT, ..RetryConfig::default() };
        let mut builder =
            AmazonS3Builder::new().with_client_options(client).with_retry(retry).with_bucket_name(bucket);
        for (name, value) in variables {
            let name = name.to_ascii_lowercase();
            if let Some(key) =
                name.starts_with("aws_").then(|| AmazonS3ConfigKey::from_str(&name).ok()).flatten()
            {
                builder = builder.with_config(key, value);
            }
        }
        let store = builder.build().map_err(unusable)?;
        let prefix = Key::parse(prefix).map_err(|error| unusable(error.into()))?;
        Ok(Self { runtime: runtime()?, store: Arc::new(PrefixStore::new(store, prefix)), folder: None })
    }

    fn sync_parent(&self, key: &str) -> io::Result<()> {
        let Some(parent) =
            self.folder.as_ref().and_then(|folder| folder.join(key).parent().map(Path::to_owned))
        else {
            return Ok(());
        };
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

fn runtime() -> Result<Runtime, OpenError> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("objects").enable_all();
    builder.build().map_err(|source| OpenError::Threads { source })
}

fn store_error(operation: &'static str, key: &str) -> impl FnOnce(object_store::Error) -> StoreError {
    move |error| {
        let kind = match &error {
            object_store::Error::NotFound { .. } => StoreErrorKind::NotFound,
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::InvalidPath { .. }
            | object_store::Error::UnknownConfigurationKey { .. } => StoreErrorKind::Refused,
            _ => StoreErrorKind::Unavailable,
        };
        StoreError::new(operation, key, kind, error)
    }
}

fn parse(operation: &'static str, key: &str) -> Result<Key, StoreError> {
    Key::parse(key).map_err(|error| store_error(operation, key)(error.into()))
}

impl ObjectStore for Objects {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = parse("put", key)?;
        let put = self.runtime.block_on(self.store.put(&path, bytes.to_vec().into()));
        match put.map_err(store_error("put", key)) {
            // There is no bucket, or somebody removes folders: not what "not found" is to say.
            Err(error) if error.is_not_found() => Err(StoreError { kind: StoreErrorKind::Refused, ..error }),
            result => result.map(drop),
        }
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let path = parse("get", key)?;
        let bytes = self.runtime.block_on(async { self.store.get(&path).await?.bytes().await });
        bytes.map(Vec::from).map_err(store_error("get", key))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        let path = parse("list", prefix.trim_end_matches('/'))?;
        self.runtime
            .block_on(async {
                let mut objects = self.store.list(Some(&path));
                while let Some(object) = objects.try_next().await? {
                    each(object.location.as_ref());
                }
                Ok(())
            })
            .map_err(store_error("list", prefix))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = parse("delete", key)?;
        match self.runtime.block_on(self.store.delete(&path)).map_err(store_error("delete", key)) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let synced = self.sync_parent(key);
        synced.map_err(|source| StoreError::new("delete", key, StoreErrorKind::Unavailable, source))
    }
}
