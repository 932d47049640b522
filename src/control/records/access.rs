//! Who may log in.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::KeyPairId;

use super::resource;

/// A public key that instances can be launched with. The private one is given to who asked for the pair, and not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyPair {
    pub id: KeyPairId,
    pub name: String,
    pub key_type: KeyType,
    /// As AWS makes it: it differs by type, and by who made the key.
    pub fingerprint: String,
    /// One line of `authorized_keys`.
    pub public_key: String,
    pub created: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    Rsa,
    Ed25519,
}

resource!(KeyPair, KeyPairId, "key_pair", |_this, _link| {});
