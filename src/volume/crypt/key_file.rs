//! A file of named keys, for machines that have no key service.
//!
//! ```text
//!   # comment
//!   NAME 64 hexadecimal digits
//! ```
//!
//! It is used only if its mode is 0600 and it belongs to the user that the process runs as. It is read anew each time a data key is
//! wrapped or unwrapped, and what was read is wiped: nothing of it stays in memory. Keys are added and never replaced.
//!
//! A data key is wrapped by AES-256-GCM (NIST SP 800-38D): a nonce of 12 random bytes, the ciphertext, the tag of 16. A key wraps one data
//! key for each volume, far from the 2^32 after which random nonces may meet.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::keys::{DataKey, KeyError, KeyName, KeyStore, random};

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const MODE: u32 = 0o600;
/// More than a key file of any use has.
const FILE_LEN_MAX: u64 = 1 << 20;
/// What the data key is for, beside which volume it is of: a wrap for something else is none of a volume.
const PURPOSE: &[u8] = b"nimbo volume, AES-256-XTS\0";

type WrappingKey = Zeroizing<[u8; KEY_LEN]>;

/// A key store in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// The one at `path`, which is looked at when a key is needed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Adds a new key, and makes the file if there is none.
    ///
    /// # Errors
    /// [`KeyError`]: the name is taken, the file is not one to be trusted, or cannot be written; then it is as it was.
    pub fn add(&self, name: &KeyName) -> Result<(), KeyError> {
        let mut new = self.0.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        // Before anything is read: who adds a key meanwhile would replace it by a file without this one.
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new);
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Busy { path: self.0.clone(), new: new.clone() },
            _ => file_error("create", &new, source),
        })?;
        let added = self.with_key(name).and_then(|text| self.replace(file, &new, text.as_bytes()));
        if added.is_err() {
            // The first error is the one to tell; if it has the right name by now, there is nothing to remove.
            let _ = fs::remove_file(&new);
        }
        added
    }

    /// What the file is to hold with a new key.
    fn with_key(&self, name: &KeyName) -> Result<Zeroizing<String>, KeyError> {
        let mut text = match self.read() {
            Ok(text) => text,
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Zeroizing::default()
            }
            Err(error) => return Err(error),
        };
        if self.find(&text, name)?.is_some() {
            return Err(KeyError::Exists { name: name.clone(), path: self.0.clone() });
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let mut key = WrappingKey::default();
        random(&mut key[..])?;
        // As long as it becomes, so that it is not moved, and wiped where it ends up alone.
        let mut longer =
            Zeroizing::new(String::with_capacity(text.len() + name.as_str().len() + 2 * KEY_LEN + 2));
        longer.push_str(&text);
        longer.push_str(name.as_str());
        longer.push(' ');
        key.iter().for_each(|byte| push_hex(&mut longer, *byte));
        longer.push('\n');
        Ok(longer)
    }

    /// Puts a new file in place of the one that is there, in one step.
    fn replace(&self, mut file: File, new: &Path, bytes: &[u8]) -> Result<(), KeyError> {
        let mut put = || {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(new, &self.0)?;
            let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        put().map_err(|source| file_error("write", &self.0, source))
    }

    /// What the file holds, if it is one to be trusted.
    fn read(&self) -> Result<Zeroizing<String>, KeyError> {
        let path = &self.0;
        let file = File::open(path).map_err(|source| file_error("open", path, source))?;
        let metadata = file.metadata().map_err(|source| file_error("look at", path, source))?;
        if !metadata.is_file() || metadata.len() > FILE_LEN_MAX {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no file of at most 1 MiB");
            return Err(file_error("read", path, source));
        }
        let (owner, user) = (metadata.uid(), geteuid().as_raw());
        if owner != user {
            return Err(KeyError::Owner { path: path.clone(), owner, user });
        }
        let mode = metadata.mode() & 0o7777;
        if mode != MODE {
            return Err(KeyError::Mode { path: path.clone(), mode });
        }
        let len = usize::try_from(metadata.len()).expect("at most 1 MiB");
        let mut text = Zeroizing::new(String::with_capacity(len + 1));
        let read = file.take(metadata.len()).read_to_string(&mut text);
        read.map_err(|source| file_error("read", path, source))?;
        Ok(text)
    }

    /// The key of a name, if there is one; every line is looked at.
    fn find(&self, text: &str, name: &KeyName) -> Result<Option<WrappingKey>, KeyError> {
        let mut found = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let damaged = |what| KeyError::Damaged { path: self.0.clone(), line: index + 1, what };
            let parts = line.split_once(char::is_whitespace);
            let (other, digits) =
                parts.ok_or_else(|| damaged("it is no name and key with a space between them"))?;
            let other: KeyName =
                other.parse().map_err(|_| damaged("it does not begin with the name of a key"))?;
            let key =
                from_hex(digits.trim_start()).ok_or_else(|| damaged("a key has 64 hexadecimal digits"))?;
            if other != *name {
                continue;
            }
            if found.replace(key).is_some() {
                return Err(damaged("the name has another key further up"));
            }
        }
        Ok(found)
    }

    fn cipher(&self, name: &KeyName) -> Result<Aes256Gcm, KeyError> {
        let key = self.find(&self.read()?, name)?;
        let key = key.ok_or_else(|| KeyError::Unknown { name: name.clone(), path: self.0.clone() })?;
        Ok(Aes256Gcm::new_from_slice(&key[..]).expect("a key has its length"))
    }
}

impl KeyStore for KeyFile {
    fn wrap(&self, name: &KeyName, context: &[u8], key: &DataKey) -> Result<Vec<u8>, KeyError> {
        let mut wrapped = vec![0; NONCE_LEN];
        random(&mut wrapped)?;
        let nonce = Nonce::try_from(&wrapped[..]).expect("a nonce has its length");
        let aad = [PURPOSE, context].concat();
        let sealed = self.cipher(name)?.encrypt(&nonce, Payload { msg: &key.bytes()[..], aad: &aad });
        wrapped.extend(sealed.expect("a data key is far shorter than what GCM can take"));
        Ok(wrapped)
    }

    fn unwrap(&self, name: &KeyName, context: &[u8], wrapped: &[u8]) -> Result<DataKey, KeyError> {
        let cipher = self.cipher(name)?;
        let open = || {
            let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_from(nonce).ok()?;
            let aad = [PURPOSE, context].concat();
            let plain = Zeroizing::new(cipher.decrypt(&nonce, Payload { msg: sealed, aad: &aad }).ok()?);
            DataKey::from_bytes(&plain)
        };
        open().ok_or_else(|| KeyError::Rejected { name: name.clone() })
    }
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> KeyError {
    KeyError::File { operation, path: path.to_owned(), source }
}

fn push_hex(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).expect("four bits");
    text.push(digit(byte >> 4));
    text.push(digit(byte & 15));
}

fn from_hex(digits: &str) -> Option<WrappingKey> {
    let mut key = WrappingKey::default();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    fn with_keys(names: &[&str]) -> (tempfile::TempDir, KeyFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().join("keys"));
        names.iter().for_each(|text| file.add(&name(text)).unwrap());
        (folder, file)
    }

    #[test]
    fn a_data_key_is_unwrapped_by_its_key_in_its_context_alone() {
        let (_folder, file) = with_keys(&["one", "two"]);
        let key = DataKey::random().unwrap();
        let wrapped = file.wrap(&name("one"), b"volume", &key).unwrap();
        assert_eq!(wrapped.len(), NONCE_LEN + DataKey::LEN + 16);
        assert_eq!(file.unwrap(&name("one"), b"volume", &wrapped).unwrap().bytes(), key.bytes());
        let rejected = |name: &KeyName, context: &[u8], wrapped: &[u8]| {
            let error = file.unwrap(name, context, wrapped).map(drop).unwrap_err();
            assert!(matches!(&error, KeyError::Rejected { name: named } if named == name), "{error}");
        };
        rejected(&name("two"), b"volume", &wrapped);
        rejected(&name("one"), b"another", &wrapped);
        for at in 0..wrapped.len() {
            let mut damaged = wrapped.clone();
            damaged[at] ^= 1;
            rejected(&name("one"), b"volume", &damaged);
            rejected(&name("one"), b"volume", &wrapped[..at]);
        }
        assert_ne!(file.wrap(&name("one"), b"volume", &key).unwrap(), wrapped, "a nonce is used once");
    }

    #[test]
    fn a_key_file_that_others_can_read_is_not_used() {
        let (_folder, file) = with_keys(&["one"]);
        for mode in [0o644, 0o640, 0o604, 0o400, 0o4600] {
            fs::set_permissions(&file.0, Permissions::from_mode(mode)).unwrap();
            let error = file.add(&name("two")).unwrap_err();
            assert!(matches!(error, KeyError::Mode { mode: found, .. } if found == mode), "{error}");
            let error = file.wrap(&name("one"), b"", &DataKey::random().unwrap()).unwrap_err();
            assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn keys_are_added_and_never_replaced() {
        let (folder, file) = with_keys(&["one"]);
        let before = fs::read_to_string(&file.0).unwrap();
        file.add(&name("two")).unwrap();
        assert!(fs::read_to_string(&file.0).unwrap().starts_with(&before));
        assert!(matches!(file.add(&name("one")), Err(KeyError::Exists { .. })));
        assert_eq!(fs::metadata(&file.0).unwrap().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        // Somebody else is at it.
        let new = folder.path().join("keys.new");
        fs::write(&new, "").unwrap();
        let before = fs::read_to_string(&file.0).unwrap();
        assert!(matches!(file.add(&name("three")), Err(KeyError::Busy { .. })));
        assert!(new.exists() && fs::read_to_string(&file.0).unwrap() == before);
        let error = file.wrap(&name("three"), b"", &DataKey::random().unwrap()).unwrap_err();
        assert!(matches!(error, KeyError::Unknown { .. }), "{error}");
    }

    #[test]
    fn a_damaged_line_is_named() {
        let (_folder, file) = with_keys(&["one"]);
        let good = fs::read_to_string(&file.0).unwrap();
        let digits = "0".repeat(64);
        for bad in
            ["two", "two 00", &format!("tw,o {digits}"), &format!("two {digits}0"), &format!("one {digits}")]
        {
            fs::write(&file.0, format!("# keys\n{good}{bad}\n")).unwrap();
            let error = file.wrap(&name("one"), b"", &DataKey::random().unwrap()).unwrap_err();
            assert!(matches!(error, KeyError::Damaged { line: 3, .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "a b", "ü", &"a".repeat(129)] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad}");
        }
        name("arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab");
    }
}
