//! `groups`, `users`, `user` and `chpasswd`: who is on the machine.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::cloud_config::Reader;
use super::yaml::Node;
use crate::passwd::{Accounts, NewAccount};
use crate::{services, ssh};

const SHELL_DEFAULT: &str = "/bin/sh";

/// A password, as it is given.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// For `/etc/shadow`.
    Hash(String),
    Clear(String),
}

// Debug output ends in logs.
impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// What begins like a hash of crypt(5) is one.
    pub fn guess(text: String) -> Self {
        let is_hash =
            ["$1$", "$2a$", "$2y$", "$5$", "$6$", "$y$"].iter().any(|prefix| text.starts_with(prefix));
        if is_hash { Password::Hash(text) } else { Password::Clear(text) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub gecos: String,
    pub home: Option<String>,
    pub primary_group: Option<String>,
    pub groups: Vec<String>,
    pub shell: String,
    pub sudo: Vec<String>,
    pub is_locked: bool,
    pub password: Option<Password>,
    pub ssh_authorized_keys: Vec<String>,
    pub is_system: bool,
    pub has_home: bool,
    pub uid: Option<u32>,
}

impl User {
    fn named(name: &str) -> Self {
        User {
            name: name.to_owned(),
            gecos: String::new(),
            home: None,
            primary_group: None,
            groups: Vec::new(),
            shell: SHELL_DEFAULT.to_owned(),
            sudo: Vec::new(),
            is_locked: true,
            password: None,
            ssh_authorized_keys: Vec::new(),
            is_system: false,
            has_home: true,
            uid: None,
        }
    }
}

/// `users` is a list of names and mappings; `default` in it is whom `user` describes, or root.
pub fn read_users(value: &Node, reader: &mut Reader) -> Vec<User> {
    let Node::List(items) = value else {
        reader.warn(format!("users is {} where a list should be", value.describe()));
        return Vec::new();
    };
    let named = items.iter().filter(|item| item.text() != Some("default"));
    named.filter_map(|item| read_user(item, reader)).collect()
}

pub fn read_user(value: &Node, reader: &mut Reader) -> Option<User> {
    if let Some(name) = value.text() {
        return Some(User::named(name));
    }
    let (Node::Map(entries), Some(name)) = (value, value.get("name").and_then(Node::text)) else {
        reader.warn(format!("a user is {} without a name", value.describe()));
        return None;
    };
    let mut user = User::named(name);
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
        take(&mut user, key, value, reader);
    }
    Some(user)
}

fn take(user: &mut User, key: &str, value: &Node, reader: &mut Reader) {
    let full = format!("{key} of user {}", user.name);
    match key {
        "name" => {}
        "gecos" => user.gecos = reader.text(&full, value).unwrap_or_default(),
        "homedir" => user.home = reader.text(&full, value),
        "primary_group" => user.primary_group = reader.text(&full, value),
        "groups" => {
            let lists = reader.texts(&full, value).unwrap_or_default();
            let names = lists.iter().flat_map(|list| list.split(',')).map(str::trim);
            user.groups = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        }
        "shell" => user.shell = reader.text(&full, value).unwrap_or_else(|| SHELL_DEFAULT.to_owned()),
        "sudo" if value.boolean() == Some(false) => {}
        "sudo" => user.sudo = reader.texts(&full, value).unwrap_or_default(),
        "lock_passwd" => reader.flag(&full, value, &mut user.is_locked),
        "passwd" | "hashed_passwd" => user.password = reader.text(&full, value).map(Password::Hash),
        "plain_text_passwd" => user.password = reader.text(&full, value).map(Password::Clear),
        "ssh_authorized_keys" => user.ssh_authorized_keys = reader.texts(&full, value).unwrap_or_default(),
        "system" => reader.flag(&full, value, &mut user.is_system),
        "no_create_home" => {
            let mut without = false;
            reader.flag(&full, value, &mut without);
            user.has_home &= !without;
        }
        "uid" => {
            user.uid = value.text().and_then(|text| text.parse().ok());
            if user.uid.is_none() {
                reader.warn(format!("{full} should be a number"));
            }
        }
        // A group of the user's own is made unless another is named.
        "no_user_group" => {}
        _ => reader.warn(format!("{full} is not known here and not done")),
    }
}

/// `groups` is a list of names and of mappings from names to members.
pub fn read_groups(value: &Node, reader: &mut Reader) -> Vec<(String, Vec<String>)> {
    let mut groups = Vec::new();
    let one = [value.clone()];
    let items: &[Node] = if let Node::List(items) = value { items } else { &one };
    for item in items {
        match item {
            Node::Map(entries) => {
                for (name, members) in entries {
                    let members = if members.is_null() { None } else { reader.texts(name, members) };
                    groups.push((name.clone(), members.unwrap_or_default()));
                }
            }
            item => match item.text() {
                Some(names) => {
                    groups.extend(names.split(',').map(|name| (name.trim().to_owned(), Vec::new())))
                }
                None => reader.warn(format!("a group is {}", item.describe())),
            },
        }
    }
    groups
}

/// `chpasswd` has `list`, lines of `NAME:PASSWORD`, or `users`, mappings with `name`, `password` and `type`.
pub fn read_chpasswd(value: &Node, reader: &mut Reader) -> Vec<(String, Password)> {
    let Node::Map(entries) = value else {
        reader.warn(format!("chpasswd is {} where a mapping should be", value.describe()));
        return Vec::new();
    };
    let mut passwords = Vec::new();
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "list" => {
                for text in reader.texts("list of chpasswd", value).unwrap_or_default() {
                    for line in text.lines().filter(|line| !line.trim().is_empty()) {
                        match line.trim().split_once(':') {
                            Some((name, word)) if !is_random(word) => {
                                passwords.push((name.to_owned(), Password::guess(word.to_owned())));
                            }
                            _ => reader.warn(
                                "list of chpasswd: a line is not NAME:PASSWORD, or asks for a random one"
                                    .to_owned(),
                            ),
                        }
                    }
                }
            }
            "users" => passwords.extend(reader.items("users of chpasswd", value, read_password)),
            // Passwords do not expire here.
            "expire" if value.boolean() == Some(false) => {}
            _ => reader.warn(format!("{key} of chpasswd is not known here and not done")),
        }
    }
    passwords
}

fn read_password(node: &Node) -> Result<(String, Password), String> {
    let field = |key: &str| node.get(key).and_then(Node::text);
    let name = field("name").ok_or("the name is missing")?.to_owned();
    let kind = field("type").unwrap_or("hash");
    match (kind, field("password")) {
        ("hash", Some(hash)) => Ok((name, Password::Hash(hash.to_owned()))),
        ("text", Some(text)) => Ok((name, Password::Clear(text.to_owned()))),
        (_, None) => Err(format!("the password of {name} is missing")),
        (kind, _) => {
            Err(format!("the type {kind} of {name}'s password is not done here; it may be hash or text"))
        }
    }
}

fn is_random(word: &str) -> bool {
    matches!(word, "R" | "RANDOM")
}

/// Makes the groups under the folder `root`.
pub fn make_groups(accounts: &mut Accounts, groups: &[(String, Vec<String>)]) -> Result<()> {
    for (name, members) in groups {
        accounts.add_group(name, None)?;
        for member in members {
            accounts.add_member(name, member)?;
        }
    }
    Ok(())
}

/// Makes the user, with its home and keys, under the folder `root`; one who exists is only given groups and keys.
pub fn make(root: &Path, accounts: &mut Accounts, user: &User) -> Result<()> {
    let home = user.home.clone().unwrap_or_else(|| format!("/home/{}", user.name));
    let account = match accounts.user(&user.name) {
        Some(account) => account,
        None => accounts.add_user(&NewAccount {
            name: &user.name,
            uid: user.uid,
            primary_group: user.primary_group.as_deref(),
            gecos: &user.gecos,
            home: &home,
            shell: &user.shell,
            is_system: user.is_system,
        })?,
    };
    for group in &user.groups {
        accounts.add_member(group, &user.name)?;
    }
    accounts.save()?;
    let folder = root.join(account.home.trim_start_matches('/'));
    if user.has_home && !user.is_system && !folder.exists() {
        let context = || format!("make {}", folder.display());
        fs::create_dir_all(&folder).with_context(context)?;
        chown(&folder, Some(account.uid), Some(account.gid)).with_context(context)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).with_context(context)?;
    }
    ssh::authorize(root, &account, &user.ssh_authorized_keys)?;
    if let Some(password) = &user.password {
        set_password(accounts, &user.name, password, user.is_locked)?;
    }
    allow_sudo(root, user)
}

/// A locked account keeps its hash behind a `!`.
pub fn set_password(accounts: &mut Accounts, name: &str, password: &Password, is_locked: bool) -> Result<()> {
    let lock = if is_locked { "!" } else { "" };
    match password {
        Password::Hash(hash) => {
            accounts.set_password(name, &format!("{lock}{hash}"))?;
            accounts.save()
        }
        // Nobody could use it, and so nobody needs its hash.
        Password::Clear(_) if is_locked => Ok(()),
        Password::Clear(text) if text.contains('\n') => {
            bail!("the password of {name} has more than one line")
        }
        Password::Clear(text) => set_clear(accounts, name, text),
    }
}

/// Leaves the hashing to a program: chpasswd, or busybox's mkpasswd where that is all there is.
fn set_clear(accounts: &mut Accounts, name: &str, text: &str) -> Result<()> {
    accounts.save()?;
    match ask("chpasswd", &[], &format!("{name}:{text}\n")) {
        Err(error) if is_not_found(&error) => {}
        result => return result.map(drop),
    }
    let hash = match ask("mkpasswd", &["-m", "sha512", "-P", "0"], &format!("{text}\n")) {
        Err(error) if is_not_found(&error) => {
            bail!("the password of {name}: this image has neither chpasswd nor mkpasswd; give a hash instead")
        }
        result => result?,
    };
    accounts.set_password(name, hash.trim())?;
    accounts.save()
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// What a program answers to this input.
fn ask(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = services::program(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("write to {program}"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read from {program}"))
}

fn allow_sudo(root: &Path, user: &User) -> Result<()> {
    if user.sudo.is_empty() {
        return Ok(());
    }
    let folder = root.join("etc/sudoers.d");
    if !folder.is_dir() {
        bail!("sudo of user {}: this image has no /etc/sudoers.d", user.name);
    }
    let path = folder.join("90-cloud-init-users");
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    for rule in &user.sudo {
        let line = format!("{} {rule}\n", user.name);
        if rule.contains('\n') || text.contains(&line) {
            continue;
        }
        text += &line;
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).context("protect the rules of sudo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userdata::cloud_config::{self, CloudConfig};

    fn read(text: &str) -> (CloudConfig, Vec<String>) {
        let (node, mut warnings) = cloud_config::merge([text.to_owned()]);
        let config = CloudConfig::read(&node, &mut warnings);
        (config, warnings)
    }

    #[test]
    fn users_are_names_or_mappings() {
        let (config, warnings) = read(
            "users:\n- default\n- ada\n- name: bob\n  groups: wheel, disk\n  sudo: false\n  colour: red\n- {x: 1}\n",
        );
        assert_eq!(config.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["ada", "bob"]);
        assert_eq!(config.users[1].groups, ["wheel", "disk"]);
        assert_eq!(
            warnings,
            [
                "#cloud-config: colour of user bob is not known here and not done",
                "#cloud-config: a user is a mapping without a name"
            ]
        );
    }

    #[test]
    fn passwords_are_hashes_or_text() {
        let (config, warnings) = read(
            "chpasswd:\n  expire: false\n  list: |\n    root:$6$a$b\n    ada:secret\n    eve:RANDOM\n  users:\n  - {name: bob, password: x, type: text}\n",
        );
        let want = [
            ("root".to_owned(), Password::Hash("$6$a$b".into())),
            ("ada".to_owned(), Password::Clear("secret".into())),
            ("bob".to_owned(), Password::Clear("x".into())),
        ];
        assert!(config.passwords == want, "{:?}", config.passwords);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn a_user_gets_home_groups_keys_and_rules() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/sudoers.d")).unwrap();
        let (config, warnings) = read(
            "groups: [lab, {ops: [root]}]\nusers:\n- name: ada\n  groups: [lab]\n  ssh_authorized_keys: [ssh-ed25519 A]\n  \
             sudo: ['ALL=(ALL) NOPASSWD:ALL']\n  passwd: $6$a$b\n  lock_passwd: false\n",
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        let mut accounts = Accounts::load(root.path());
        make_groups(&mut accounts, &config.groups).unwrap();
        make(root.path(), &mut accounts, &config.users[0]).unwrap();
        make(root.path(), &mut accounts, &config.users[0]).unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert!(read("etc/group").contains("lab:x:1000:ada\nops:x:1001:root\n"));
        assert!(read("etc/shadow").contains("ada:$6$a$b:"));
        assert_eq!(read("home/ada/.ssh/authorized_keys"), "ssh-ed25519 A\n");
        assert_eq!(read("etc/sudoers.d/90-cloud-init-users"), "ada ALL=(ALL) NOPASSWD:ALL\n");
    }
}
