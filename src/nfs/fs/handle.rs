//! Handles, as clients keep them.
//!
//! ```text
//! 0         1                 9          13
//! │ 1       │ signature       │ kind     │ the host's handle, up to 115 bytes │
//! ```
//!
//! The signature is a keyed hash of what follows it. Of 2⁶⁴ that could be, a client would have to try half to have a file that it was
//! not given.

use std::sync::Arc;

use crate::proto::HANDLE_BYTES_MAX;
use crate::sys::HostHandle;

const FORMAT: u8 = 1;
const SIGNED: usize = 9;
const BYTES: usize = 13;

/// Signs handles with a key that is kept as long as they are to be good.
pub(super) struct Signer {
    key: [u8; 32],
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer")
    }
}

impl Signer {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// None if the host's is too long.
    pub(super) fn sign(&self, host: &HostHandle) -> Option<Arc<[u8]>> {
        let mut wire = vec![0; SIGNED];
        wire.extend_from_slice(&host.kind().to_be_bytes());
        wire.extend_from_slice(host.bytes());
        let signature = self.signature(&wire[SIGNED..]);
        wire[0] = FORMAT;
        wire[1..SIGNED].copy_from_slice(&signature);
        (wire.len() <= HANDLE_BYTES_MAX).then(|| wire.into())
    }

    /// The host's handle in one of ours, which may have been made up.
    pub(super) fn parse(wire: &[u8]) -> Option<HostHandle> {
        let (head, bytes) = wire.split_at_checked(BYTES)?;
        if head[0] != FORMAT || wire.len() > HANDLE_BYTES_MAX {
            return None;
        }
        HostHandle::new(i32::from_be_bytes(head[SIGNED..].try_into().ok()?), bytes)
    }

    /// Whether one that was parsed is ours.
    pub(super) fn has_signed(&self, wire: &[u8]) -> bool {
        wire.len() >= BYTES && self.signature(&wire[SIGNED..]) == wire[1..SIGNED]
    }

    /// A number that follows from the key and what it is for.
    pub(super) fn number(&self, purpose: &str) -> u64 {
        u64::from_be_bytes(self.signature(purpose.as_bytes()))
    }

    fn signature(&self, bytes: &[u8]) -> [u8; 8] {
        let hash = blake3::keyed_hash(&self.key, bytes);
        std::array::from_fn(|place| hash.as_bytes()[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_as_it_was_given_and_not_otherwise() {
        let signer = Signer::new([7; 32]);
        let wire = signer.sign(&HostHandle::new(-3, &[1, 2, 3]).unwrap()).unwrap();
        let host = Signer::parse(&wire).unwrap();
        assert_eq!((host.kind(), host.bytes()), (-3, [1, 2, 3].as_slice()));
        assert!(signer.has_signed(&wire));
        assert!(!Signer::new([8; 32]).has_signed(&wire), "another key");
        for place in 1..wire.len() {
            let mut other = wire.to_vec();
            other[place] ^= 1;
            assert!(!signer.has_signed(&other), "byte {place} was changed");
        }
        assert!(!signer.has_signed(&wire[..wire.len() - 1]));
        assert!(Signer::parse(&wire[..BYTES - 1]).is_none());
        assert!(signer.sign(&HostHandle::new(0, &[0; 116]).unwrap()).is_none(), "it does not fit");
        assert_eq!(signer.sign(&HostHandle::new(0, &[0; 115]).unwrap()).unwrap().len(), HANDLE_BYTES_MAX);
    }
}
