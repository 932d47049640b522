//! A store in a bucket that speaks S3, through the crate `object_store`.
//!
//! Its client is asynchronous: a runtime of two threads lives in a [`Bucket`], and every call waits for its end. So it is not for threads
//! that run asynchronous code themselves.

use std::str::FromStr;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, Error, ObjectStore as _, ObjectStoreExt, RetryConfig};
use tokio::runtime::{Builder, Runtime};
use volume::snapshot::{ObjectStore, StoreError, StoreErrorKind};

use crate::OpenError;

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The store.
pub struct Bucket {
    runtime: Runtime,
    store: PrefixStore<AmazonS3>,
}

impl Bucket {
    /// Opens `BUCKET` or `BUCKET/PREFIX`, which `location` is called in messages.
    pub(crate) fn open(
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
        Ok(Self { runtime: runtime()?, store: PrefixStore::new(store, prefix) })
    }
}

fn runtime() -> Result<Runtime, OpenError> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("objects").enable_all();
    builder.build().map_err(|source| OpenError::Threads { source })
}

fn store_error(operation: &'static str, key: &str) -> impl FnOnce(Error) -> StoreError {
    move |error| {
        let kind = match &error {
            Error::NotFound { .. } => StoreErrorKind::NotFound,
            Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. } => StoreErrorKind::Refused,
            _ => StoreErrorKind::Unavailable,
        };
        StoreError::new(operation, key, kind, error)
    }
}

fn parse(operation: &'static str, key: &str) -> Result<Key, StoreError> {
    Key::parse(key).map_err(|error| store_error(operation, key)(error.into()))
}

impl ObjectStore for Bucket {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = parse("put", key)?;
        let put = self.runtime.block_on(self.store.put(&path, bytes.to_vec().into()));
        match put.map_err(store_error("put", key)) {
            // There is no bucket: not what "not found" is to say.
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
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
