//! Access keys, and whose they are.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws::sigv4::{Credential, Credentials};
use types::AccountId;

use crate::credentials_file::{self, Profile};

/// How long a key may still be taken that is not in the file any more.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The access key and the secret of a simulation: known to everybody, for there is nothing to be kept from anybody.
pub(crate) const SIMULATED: &str = "test";

/// The access keys of a simulation, beside those of its file if it has one.
pub(super) struct Simulated {
    account: AccountId,
    kept: Option<Kept>,
}

impl Simulated {
    pub(super) fn new(account: AccountId, kept: Option<Kept>) -> Self {
        Self { account, kept }
    }
}

impl Credentials for Simulated {
    fn find(&self, access_key: &str) -> Option<Credential> {
        let account = if access_key == SIMULATED { Some(self.account) } else { access_key.parse().ok() };
        match account {
            Some(account) => Some(credential(account, SIMULATED.to_owned())),
            None => self.kept.as_ref()?.find(access_key),
        }
    }
}

fn credential(account: AccountId, secret: String) -> Credential {
    let account: Arc<str> = account.to_string().into();
    Credential {
        secret,
        session_token: None,
        arn: format!("arn:aws:iam::{account}:root").into(),
        user_id: account.clone(),
        account,
    }
}

/// The access keys of a file, which is read again when it changes.
pub(super) struct Kept {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    keys: HashMap<String, Credential>,
    stamp: Option<Stamp>,
    checked: Instant,
}

/// By what a file is known to be another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Kept {
    /// The keys of the file in a state folder. The first one makes the file, with keys for `account`; that is told.
    ///
    /// # Errors
    /// When the file cannot be made, or does not say what it should.
    pub(super) fn open_or_make(folder: &Path, account: AccountId) -> anyhow::Result<Self> {
        let path = folder.join(credentials_file::NAME);
        if !path.exists() {
            credentials_file::add(&path, credentials_file::DEFAULT_PROFILE, account)?;
            eprintln!("nimbo: made access keys for the account {account}: {}", path.display());
        }
        Self::open(path)
    }

    /// The keys of a file, if there is one by now or later.
    ///
    /// # Errors
    /// When it does not say what it should.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let stamp = stamp(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut keys = HashMap::new();
        if stamp.is_some() {
            restrict(&path)
                .with_context(|| format!("cannot take rights on {} from others", path.display()))?;
            keys = by_key(credentials_file::read(&path)?);
        }
        Ok(Self { path, known: Mutex::new(Known { keys, stamp, checked: Instant::now() }) })
    }

    /// Reads the file if it is another one than before. What cannot be read changes nothing, but is told.
    fn refresh(&self, known: &mut Known) {
        known.checked = Instant::now();
        let now = stamp(&self.path);
        if now.as_ref().is_ok_and(|now| *now == known.stamp) {
            return;
        }
        let read = match now.as_ref() {
            Ok(None) => Ok(Vec::new()),
            _ => credentials_file::read(&self.path),
        };
        match read {
            Ok(profiles) => known.keys = by_key(profiles),
            Err(error) => tracing::warn!("the access keys stay as they were: {error:#}"),
        }
        known.stamp = now.unwrap_or(known.stamp);
    }
}

impl Credentials for Kept {
    fn find(&self, access_key: &str) -> Option<Credential> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.checked.elapsed() >= CHECK_PERIOD || !known.keys.contains_key(access_key) {
            self.refresh(&mut known);
        }
        known.keys.get(access_key).cloned()
    }
}

fn by_key(profiles: Vec<Profile>) -> HashMap<String, Credential> {
    let each = profiles.into_iter();
    each.map(|profile| (profile.access_key, credential(profile.account, profile.secret))).collect()
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match path.metadata() {
        Ok(file) => Ok(Some(Stamp {
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn restrict(path: &Path) -> io::Result<()> {
    let mode = path.metadata()?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(0o600)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_kept_from_others_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other): (AccountId, AccountId) =
            ("000000000000".parse().unwrap(), "222222222222".parse().unwrap());
        let kept = Kept::open_or_make(folder.path(), one).unwrap();
        let path = folder.path().join(credentials_file::NAME);
        let first = credentials_file::read(&path).unwrap().remove(0);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let again = Kept::open_or_make(folder.path(), one).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for keys in [&kept, &again] {
            assert_eq!(keys.find(&first.access_key).unwrap().secret, first.secret);
        }
        assert!(kept.find("test").is_none() && kept.find("000000000000").is_none());
        let second = credentials_file::add(&path, "other", other).unwrap();
        assert_eq!(&*kept.find(&second.access_key).unwrap().account, "222222222222");
        fs::write(&path, "nonsense").unwrap();
        assert!(kept.find("AKIA").is_none());
        assert!(kept.find(&second.access_key).is_some(), "what was known stays known");
    }
}
