//! The file of access keys, as AWS's clients have theirs: a section for each account.
//!
//! ```text
//! [default]
//! aws_access_key_id = AKIA…
//! aws_secret_access_key = …
//! aws_account_id = 000000000000
//! ```
//!
//! `AWS_SHARED_CREDENTIALS_FILE` may name it. People may edit it: an account may have several sections, and what others keep in such files is
//! passed over.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use types::AccountId;

use crate::serve::state_folder::write_file;

/// Its name in the state folder.
pub(crate) const NAME: &str = "credentials";
/// The section that clients use if they are not told which.
pub(crate) const DEFAULT_PROFILE: &str = "default";

const HEAD: &str = "\
# The access keys of nimbo's accounts, for AWS's clients: AWS_SHARED_CREDENTIALS_FILE may name this file, and AWS_PROFILE a section.
# nimbo serve reads it again when it changes.
";

/// A section.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) access_key: String,
    pub(crate) secret: String,
    pub(crate) account: AccountId,
}

impl Profile {
    /// With keys that nobody can guess.
    fn generate(name: &str, account: AccountId) -> anyhow::Result<Self> {
        const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut bytes = [0; 46];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .context("cannot read /dev/urandom")?;
        let (id, secret) = bytes.split_at(16);
        let id = id.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
        Ok(Self {
            name: name.to_owned(),
            access_key: "AKIA".chars().chain(id).collect(),
            secret: STANDARD.encode(secret),
            account,
        })
    }
}

/// Reads the sections of the file `path`.
///
/// # Errors
/// When it cannot be read, or a section does not say what it should.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Profile>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the access keys in {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a file of access keys", path.display()))
}

/// Adds a section with new keys, and makes the file if there is none.
///
/// # Errors
/// When there is such a section already, or the file cannot be read or written.
pub(crate) fn add(path: &Path, name: &str, account: AccountId) -> anyhow::Result<Profile> {
    // So that of two that add at the same time, the second one reads what the first one wrote.
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder_file = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    folder_file.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
    let mut text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => HEAD.to_owned(),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let known = parse(&text).with_context(|| format!("{} is not a file of access keys", path.display()))?;
    ensure!(known.iter().all(|known| known.name != name), "{} has a section [{name}]", path.display());
    let made = Profile::generate(name, account)?;
    // A String takes all that is written to it.
    let _ = write!(
        text,
        "\n[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_account_id = {account}\n",
        made.access_key, made.secret
    );
    write_file(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(made)
}

/// What is known of a section while it is read.
struct Section {
    name: String,
    line: usize,
    access_key: Option<String>,
    secret: Option<String>,
    account: Option<AccountId>,
}

impl Section {
    fn finish(self) -> anyhow::Result<Profile> {
        let Self { name, line, access_key, secret, account } = self;
        let lacks = |key: &str| format!("line {line}: the section [{name}] has no {key}");
        Ok(Profile {
            access_key: access_key.with_context(|| lacks("aws_access_key_id"))?,
            secret: secret.with_context(|| lacks("aws_secret_access_key"))?,
            account: account.with_context(|| lacks("aws_account_id"))?,
            name,
        })
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Profile>> {
    let mut sections: Vec<Section> = Vec::new();
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim().to_owned();
            sections.push(Section { name, line, access_key: None, secret: None, account: None });
            continue;
        }
        let Some((key, value)) = content.split_once('=') else {
            bail!("line {line} is neither [SECTION] nor KEY = VALUE");
        };
        let Some(section) = sections.last_mut() else {
            bail!("line {line} comes before the first [SECTION]");
        };
        let value = value.trim();
        match key.trim() {
            "aws_access_key_id" => section.access_key = Some(value.to_owned()),
            "aws_secret_access_key" => section.secret = Some(value.to_owned()),
            "aws_account_id" => {
                section.account = Some(value.parse().with_context(|| format!("line {line}"))?);
            }
            _ => {}
        }
    }
    sections.into_iter().map(Section::finish).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_added_and_each_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let first = add(&path, "default", account("000000000000")).unwrap();
        let second = add(&path, "other", account("111111111111")).unwrap();
        assert_eq!((first.access_key.len(), first.secret.len()), (20, 40));
        assert!(first.access_key != second.access_key && first.secret != second.secret);
        let read = read(&path).unwrap();
        assert!(read == [first, second]);
        let again = add(&path, "other", account("111111111111"));
        assert!(again.is_err_and(|error| error.to_string().contains("has a section [other]")));
    }

    #[test]
    fn what_people_write_is_read_or_told_by_its_line() {
        let text = "; mine\n[ a ]\naws_access_key_id=K\n aws_secret_access_key = s=\n\nregion = x\naws_account_id = 000000000001\n";
        let [profile] = &parse(text).unwrap()[..] else { panic!("there is one section") };
        assert_eq!((&*profile.name, &*profile.access_key, &*profile.secret), ("a", "K", "s="));
        assert_eq!(parse("").unwrap().len(), 0);
        for (text, told) in [
            ("[a]\nnonsense", "line 2 is neither"),
            ("a = b", "line 1 comes before"),
            (
                "[a]\naws_access_key_id = K\naws_secret_access_key = s",
                "the section [a] has no aws_account_id",
            ),
            ("[a]\naws_account_id = 42", "line 2"),
        ] {
            let error = parse(text).err().unwrap().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
