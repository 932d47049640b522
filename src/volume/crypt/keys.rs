//! Data keys, the keys that wrap them, and where those are.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::xts::KEY_LEN;
use crate::sys;

/// The key of one volume's data, both halves of XTS. It is wiped from memory when it is dropped.
pub struct DataKey(Box<Zeroizing<[u8; KEY_LEN]>>);

impl DataKey {
    /// The length in bytes.
    pub const LEN: usize = KEY_LEN;

    /// A key that nobody had before.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`]
    pub fn random() -> Result<Self, KeyError> {
        let mut key = Box::new(Zeroizing::new([0; KEY_LEN]));
        random(&mut key[..])?;
        Ok(Self(key))
    }

    /// A key that was unwrapped; none if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; KEY_LEN]));
        (bytes.len() == KEY_LEN).then(|| {
            key.copy_from_slice(bytes);
            Self(key)
        })
    }

    /// What is to be wrapped.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

pub(super) fn random(bytes: &mut [u8]) -> Result<(), KeyError> {
    sys::random(bytes).map_err(|source| KeyError::NoRandom { source })
}

/// What a key is called that wraps others: 1 to 128 of `a-z A-Z 0-9 . _ : / -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    pub(crate) const LEN_MAX: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        if !(1..=Self::LEN_MAX).contains(&text.len()) || !text.bytes().all(is_good) {
            return Err(KeyError::BadName { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A data key as manifests have it: of use only to who has the key that wrapped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// The key that wrapped it.
    pub name: KeyName,
    /// What the key store made of it.
    pub bytes: Vec<u8>,
}

impl WrappedKey {
    /// The most that a key store may make of a data key, in bytes.
    pub const LEN_MAX: usize = 368;

    /// Wraps a data key by the key `name`, for those who know `context` as well.
    ///
    /// # Errors
    /// What the store says.
    pub fn new(keys: &dyn KeyStore, name: &KeyName, context: &[u8], key: &DataKey) -> Result<Self, KeyError> {
        let bytes = keys.wrap(name, context, key)?;
        assert!((1..=Self::LEN_MAX).contains(&bytes.len()), "a key store keeps to the length");
        Ok(Self { name: name.clone(), bytes })
    }

    /// The data key.
    ///
    /// # Errors
    /// What the store says.
    pub fn unwrap(&self, keys: &dyn KeyStore, context: &[u8]) -> Result<DataKey, KeyError> {
        keys.unwrap(&self.name, context, &self.bytes)
    }
}

/// Who has the keys that wrap data keys, and does not give them away: a file ([`KeyFile`](super::KeyFile)), or a service.
pub trait KeyStore: Send + Sync {
    /// Wraps a data key, so that it is noticed if it is changed, or unwrapped with another `context`: at most
    /// [`WrappedKey::LEN_MAX`] bytes, and not none.
    ///
    /// # Errors
    /// [`KeyError`], which names the key.
    fn wrap(&self, name: &KeyName, context: &[u8], key: &DataKey) -> Result<Vec<u8>, KeyError>;

    /// Unwraps what [`wrap`](Self::wrap) made with the same name and context.
    ///
    /// # Errors
    /// [`KeyError`], which names the key.
    fn unwrap(&self, name: &KeyName, context: &[u8], wrapped: &[u8]) -> Result<DataKey, KeyError>;
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{text:?} names no key: that is 1 to 128 letters, digits and any of . _ : / -")]
    BadName { text: String },
    #[error("there is no key {name} in {path}")]
    Unknown { name: KeyName, path: PathBuf },
    #[error("there is a key {name} in {path} already, and volumes may need it; choose another name")]
    Exists { name: KeyName, path: PathBuf },
    #[error(
        "the key {name} does not open the volume's data key: it is not the key that was called so when the volume was made, or what the \
         volume has of it is damaged or another volume's"
    )]
    Rejected { name: KeyName },
    #[error("somebody is adding a key to {path}, or was killed while doing so; if nobody is, remove {new}")]
    Busy { path: PathBuf, new: PathBuf },
    #[error("cannot {operation} the key file {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the key file {path} has mode {mode:04o}, and must have 0600, so that its owner alone can read it: chmod 600 {path}"
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "the key file {path} belongs to user {owner}, and this process runs as {user}; it must be its user's own"
    )]
    Owner { path: PathBuf, owner: u32, user: u32 },
    #[error("the key file {path} is damaged in line {line}: {what}")]
    Damaged { path: PathBuf, line: usize, what: &'static str },
    #[error("the kernel gives no random bytes for a key")]
    NoRandom { source: io::Error },
    #[error("there is no memory for a key")]
    NoMemory { source: io::Error },
}

/// A key store for tests, which hides nothing: it only notices when it is asked for something else.
#[cfg(test)]
pub(crate) struct OpenKeys;

#[cfg(test)]
impl KeyStore for OpenKeys {
    fn wrap(&self, name: &KeyName, context: &[u8], key: &DataKey) -> Result<Vec<u8>, KeyError> {
        Ok([key.bytes(), name.as_str().as_bytes(), context].concat())
    }

    fn unwrap(&self, name: &KeyName, context: &[u8], wrapped: &[u8]) -> Result<DataKey, KeyError> {
        let rest = wrapped.strip_suffix(context).and_then(|rest| rest.strip_suffix(name.as_str().as_bytes()));
        rest.and_then(DataKey::from_bytes).ok_or_else(|| KeyError::Rejected { name: name.clone() })
    }
}
