//! SSH: who may log in, and the keys by which the machine is known.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::passwd::Account;
use crate::services;

const DROPBEARKEY: &str = "/usr/bin/dropbearkey";
/// Where dropbear looks for its keys.
const HOST_KEYS: &str = "etc/dropbear";
/// Others, such as RSA, which takes long, are made by dropbear itself when a client wants them.
const HOST_KEY_TYPES: [&str; 2] = ["ed25519", "ecdsa"];
/// While this file exists, dropbear takes passwords.
pub const PASSWORDS_ALLOWED: &str = "/etc/nimbo/ssh-passwords";

/// Adds the keys that are not there yet, under the folder `root`.
pub fn authorize(root: &Path, account: &Account, keys: &[String]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let folder = root.join(account.home.trim_start_matches('/')).join(".ssh");
    let path = folder.join("authorized_keys");
    let context = || format!("write {}", path.display());
    fs::create_dir_all(&folder).with_context(context)?;
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, merge(&old, keys)).with_context(context)?;
    for (path, mode) in [(&folder, 0o700), (&path, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(context)?;
        chown(path, Some(account.uid), Some(account.gid)).with_context(context)?;
    }
    Ok(())
}

fn merge(old: &str, keys: &[String]) -> String {
    let mut lines: Vec<&str> = old.lines().collect();
    for key in keys.iter().map(|key| key.trim()).filter(|key| !key.is_empty()) {
        if !lines.contains(&key) && !key.contains('\n') {
            lines.push(key);
        }
    }
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// Makes new host keys in place of those that came with the image or are another instance's.
pub fn make_host_keys() -> Result<()> {
    if !Path::new(DROPBEARKEY).exists() {
        return Ok(());
    }
    let folder = Path::new("/").join(HOST_KEYS);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?.flatten() {
        if entry.file_name().to_string_lossy().ends_with("_host_key") {
            fs::remove_file(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    for kind in HOST_KEY_TYPES {
        let path = folder.join(format!("dropbear_{kind}_host_key"));
        let mut command = services::program(DROPBEARKEY);
        command.args(["-t", kind, "-f"]).arg(&path).stdin(Stdio::null());
        let status = command.status().with_context(|| format!("start {DROPBEARKEY}"))?;
        if !status.success() {
            bail!("{DROPBEARKEY} -t {kind} ended with {status}");
        }
    }
    Ok(())
}

/// Lets dropbear take passwords, or not, under the folder `root`.
pub fn allow_passwords(root: &Path, allowed: bool) -> Result<()> {
    let path = root.join(PASSWORDS_ALLOWED.trim_start_matches('/'));
    if allowed {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        return fs::write(&path, "").with_context(|| format!("write {}", path.display()));
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_added_once_and_are_their_owners() {
        let root = tempfile::tempdir().unwrap();
        let account = Account { uid: 1234, gid: 1235, home: "/home/ada".into() };
        let keys = ["ssh-ed25519 A a".to_owned(), " ssh-ed25519 B b \n".to_owned()];
        authorize(root.path(), &account, &keys).unwrap();
        authorize(root.path(), &account, &keys).unwrap();
        let path = root.path().join("home/ada/.ssh/authorized_keys");
        assert_eq!(fs::read_to_string(&path).unwrap(), "ssh-ed25519 A a\nssh-ed25519 B b\n");
        let found = fs::metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (1234, 1235, 0o600));
    }

    #[test]
    fn passwords_are_allowed_by_a_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc/nimbo/ssh-passwords");
        allow_passwords(root.path(), true).unwrap();
        assert!(path.exists());
        allow_passwords(root.path(), false).unwrap();
        allow_passwords(root.path(), false).unwrap();
        assert!(!path.exists());
    }
}
