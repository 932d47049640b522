//! Keys themselves: made, read, and told apart by fingerprints.
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/verify-keys.html> for the fingerprints, which differ by the type of a key
//! and by who made it; <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ImportKeyPair.html> for what can be imported.
//!
//! Private keys are made of the operating system's random bytes and nothing else: a test's seed is not for what locks people out.

use aws::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use md5::digest::Digest as _;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::pkcs8::{DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::rand_core::OsRng;
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, RsaPrivateKey, RsaPublicKey};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Mpint, PrivateKey, PublicKey};

use crate::records::KeyType;

/// Of those that are made here.
const RSA_BITS: usize = 2048;

/// Of those that are imported.
const RSA_BITS_IMPORTED: [usize; 3] = [1024, 2048, 4096];

/// A public key, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Public {
    pub key_type: KeyType,
    pub fingerprint: String,
    /// One line of `authorized_keys`, without a comment.
    pub line: String,
}

/// A new pair: the private key is text for a file.
pub(super) struct Made {
    pub public: Public,
    pub private: String,
}

/// Makes a pair. That of RSA takes a processor some tenths of a second.
///
/// # Errors
/// When the operating system has no random bytes.
pub(super) fn make(key_type: KeyType) -> Result<Made, Error> {
    let made = match key_type {
        KeyType::Rsa => make_rsa(),
        KeyType::Ed25519 => make_ed25519(),
    };
    made.ok_or_else(Error::internal)
}

/// None: what cannot be, or no random bytes.
fn make_rsa() -> Option<Made> {
    let key = RsaPrivateKey::new(&mut OsRng, RSA_BITS).ok()?;
    let private_der = key.to_pkcs8_der().ok()?;
    let fingerprint = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, private_der.as_bytes()).as_ref());
    let line = openssh(rsa_data(&key.to_public_key())?)?;
    let private = key.to_pkcs1_pem(LineEnding::LF).ok()?.to_string();
    Some(Made { public: Public { key_type: KeyType::Rsa, fingerprint, line }, private })
}

fn make_ed25519() -> Option<Made> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).ok()?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
    let public = Ed25519PublicKey(pair.public_key().as_ref().try_into().ok()?);
    let pair = Ed25519Keypair { public, private: Ed25519PrivateKey::from_bytes(&seed) };
    let private = PrivateKey::from(pair).to_openssh(LineEnding::LF).ok()?.to_string();
    let data = KeyData::Ed25519(public);
    let fingerprint = ed25519_fingerprint(&PublicKey::from(data.clone()))?;
    let public = Public { key_type: KeyType::Ed25519, fingerprint, line: openssh(data)? };
    Some(Made { public, private })
}

/// Reads a public key as OpenSSH has it, as RFC 4716 has it, or as base64 of DER.
///
/// # Errors
/// When it is none, or of a kind that nobody logs in with here.
pub(super) fn read(bytes: &[u8]) -> Result<Public, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad_format())?.trim();
    if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") {
        return of_ssh(&PublicKey::from_bytes(&rfc4716(text)?).map_err(|_| bad_format())?);
    }
    if let Some(der) = base64(text) {
        return of_rsa(&RsaPublicKey::from_public_key_der(&der).map_err(|_| bad_format())?);
    }
    of_ssh(&PublicKey::from_openssh(text).map_err(|_| bad_format())?)
}

fn bad_format() -> Error {
    Error::new("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let joined: String = text.lines().map(str::trim).collect();
    STANDARD.decode(joined).ok()
}

/// What stands between the markers, without the headers, which may go on after a backslash.
fn rfc4716(text: &str) -> Result<Vec<u8>, Error> {
    let mut body = String::new();
    let mut in_header = false;
    for line in text.lines().skip(1).map(str::trim) {
        if line.starts_with("---- END") {
            return base64(&body).ok_or_else(bad_format);
        }
        let is_header = in_header || line.contains(':');
        in_header = is_header && line.ends_with('\\');
        if !is_header {
            body.push_str(line);
        }
    }
    Err(bad_format())
}

fn of_ssh(key: &PublicKey) -> Result<Public, Error> {
    match key.key_data() {
        KeyData::Ed25519(_) => {
            let fingerprint = ed25519_fingerprint(key).ok_or_else(bad_format)?;
            let line = openssh(key.key_data().clone()).ok_or_else(bad_format)?;
            Ok(Public { key_type: KeyType::Ed25519, fingerprint, line })
        }
        KeyData::Rsa(key) => {
            let number = |part: &Mpint| part.as_positive_bytes().map(BigUint::from_bytes_be);
            let (n, e) = number(&key.n).zip(number(&key.e)).ok_or_else(bad_format)?;
            of_rsa(&RsaPublicKey::new(n, e).map_err(|_| bad_format())?)
        }
        _ => {
            let message = format!("Keys are of RSA or ED25519, and not of {}.", key.algorithm());
            Err(Error::new("InvalidKey.Format", message))
        }
    }
}

fn of_rsa(key: &RsaPublicKey) -> Result<Public, Error> {
    let bits = key.n().bits();
    if !RSA_BITS_IMPORTED.contains(&bits) {
        let message = format!("Key length {bits} is not supported: RSA keys have 1024, 2048 or 4096 bits.");
        return Err(Error::new("InvalidKey.Format", message));
    }
    let der = key.to_public_key_der().map_err(|_| bad_format())?;
    let fingerprint = hex(&Md5::digest(der.as_bytes()));
    let line = rsa_data(key).and_then(openssh).ok_or_else(bad_format)?;
    Ok(Public { key_type: KeyType::Rsa, fingerprint, line })
}

fn rsa_data(key: &RsaPublicKey) -> Option<KeyData> {
    let number = |number: &BigUint| Mpint::from_positive_bytes(&number.to_bytes_be()).ok();
    Some(KeyData::Rsa(ssh_key::public::RsaPublicKey { e: number(key.e())?, n: number(key.n())? }))
}

fn openssh(data: KeyData) -> Option<String> {
    PublicKey::from(data).to_openssh().ok()
}

fn ed25519_fingerprint(key: &PublicKey) -> Option<String> {
    Some(STANDARD.encode(digest(&SHA256, &key.to_bytes().ok()?)))
}

/// `1f:51:ae:…`
fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by `ssh-keygen -t ed25519`.
    const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKtEm4h+v+eR8t6xcd0OulCoCIyoyLRW7rhV4FrdOGQ8";

    #[test]
    fn a_line_is_read_with_a_comment_and_without() {
        let key = read(LINE.as_bytes()).unwrap();
        assert_eq!((key.key_type, key.line.as_str()), (KeyType::Ed25519, LINE));
        assert_eq!(read(format!("{LINE} me@here\n").as_bytes()).unwrap(), key);
    }

    #[test]
    fn headers_of_rfc_4716_are_left_out_with_the_lines_that_they_go_on_in() {
        let (start, end) = LINE[12..].split_at(40);
        let text = format!(
            "---- BEGIN SSH2 PUBLIC KEY ----\r\nComment: \"a key\\\r\nof mine\"\r\nx-y: z\r\n{start}\r\n{end}\r\n---- END SSH2 PUBLIC KEY ----\r\n"
        );
        assert_eq!(read(text.as_bytes()).unwrap().line, LINE);
    }

    #[test]
    fn what_is_made_is_read() {
        let made = make(KeyType::Ed25519).unwrap();
        assert_eq!(read(made.public.line.as_bytes()).unwrap(), made.public);
        let private = PrivateKey::from_openssh(&made.private).unwrap();
        assert_eq!(private.public_key().to_openssh().unwrap(), made.public.line);
        assert_ne!(make(KeyType::Ed25519).unwrap().private, made.private);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, body in "[A-Za-z0-9+/=:\\\\\n]{0,200}") {
            let _ = read(&bytes);
            let _ = read(body.as_bytes());
            let _ = read(format!("ssh-rsa {body}").as_bytes());
            let _ = read(format!("---- BEGIN SSH2 PUBLIC KEY ----\n{body}\n---- END SSH2 PUBLIC KEY ----").as_bytes());
        }

        #[test]
        fn any_blob_is_read_without_a_panic(blob: Vec<u8>) {
            for kind in ["ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256"] {
                let length = u32::try_from(kind.len()).unwrap().to_be_bytes();
                let blob = [length.as_slice(), kind.as_bytes(), &blob].concat();
                let _ = read(format!("{kind} {}", STANDARD.encode(blob)).as_bytes());
            }
        }
    }
}
