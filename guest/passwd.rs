//! `/etc/passwd`, `/etc/group` and `/etc/shadow` (passwd(5), group(5), shadow(5)): the static C library cannot read
//! them, and tiny images have no useradd that is the same everywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The first id for people.
const ID_FIRST: u32 = 1000;
const ID_LAST: u32 = 59_999;
/// And for machines' own users.
const SYSTEM_ID_FIRST: u32 = 100;

const PASSWD_DEFAULT: &str = "root:x:0:0:root:/root:/bin/sh\n";
const GROUP_DEFAULT: &str = "root:x:0:\n";
const SHADOW_DEFAULT: &str = "root:*::0:99999:7:::\n";

/// The three files, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    etc: PathBuf,
    passwd: Table,
    group: Table,
    shadow: Table,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// What a new user is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount<'a> {
    pub name: &'a str,
    pub uid: Option<u32>,
    /// A group of the same name is made if there is none.
    pub primary_group: Option<&'a str>,
    pub gecos: &'a str,
    pub home: &'a str,
    pub shell: &'a str,
    pub is_system: bool,
}

/// Lines of fields with colons between them, found by their first field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table(Vec<Vec<String>>);

impl Table {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty());
        Table(lines.map(|line| line.split(':').map(str::to_owned).collect()).collect())
    }

    fn format(&self) -> String {
        self.0.iter().map(|fields| fields.join(":") + "\n").collect()
    }

    fn get(&self, name: &str) -> Option<&Vec<String>> {
        self.0.iter().find(|fields| fields.first().is_some_and(|first| first == name))
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
        self.0.iter_mut().find(|fields| fields.first().is_some_and(|first| first == name))
    }

    fn number(&self, name: &str, field: usize) -> Option<u32> {
        self.get(name)?.get(field)?.parse().ok()
    }

    fn has_id(&self, id: u32) -> bool {
        self.0.iter().any(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(id))
    }
}

impl Accounts {
    /// Those under the folder `root`; what is missing has root alone.
    pub fn load(root: &Path) -> Self {
        let etc = root.join("etc");
        let table = |name: &str, default: &str| {
            Table::parse(&fs::read_to_string(etc.join(name)).unwrap_or_else(|_| default.to_owned()))
        };
        Accounts {
            passwd: table("passwd", PASSWD_DEFAULT),
            group: table("group", GROUP_DEFAULT),
            shadow: table("shadow", SHADOW_DEFAULT),
            etc,
        }
    }

    /// Writes the files that have changed, each in one step.
    pub fn save(&self) -> Result<()> {
        fs::create_dir_all(&self.etc).context("make /etc")?;
        for (name, table, mode) in
            [("passwd", &self.passwd, 0o644), ("group", &self.group, 0o644), ("shadow", &self.shadow, 0o600)]
        {
            let path = self.etc.join(name);
            let text = table.format();
            if fs::read_to_string(&path).is_ok_and(|old| old == text) {
                continue;
            }
            let context = || format!("write {}", path.display());
            let new = self.etc.join(format!("{name}+"));
            fs::write(&new, "").with_context(context)?;
            let old = fs::metadata(&path).ok();
            let mode = old.as_ref().map_or(mode, |old| old.permissions().mode());
            fs::set_permissions(&new, fs::Permissions::from_mode(mode)).with_context(context)?;
            if let Some(old) = old {
                use std::os::unix::fs::MetadataExt;
                std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid())).with_context(context)?;
            }
            fs::write(&new, text).with_context(context)?;
            fs::rename(&new, &path).with_context(context)?;
        }
        Ok(())
    }

    pub fn user(&self, name: &str) -> Option<Account> {
        let home = self.passwd.get(name)?.get(5)?.clone();
        Some(Account { uid: self.passwd.number(name, 2)?, gid: self.passwd.number(name, 3)?, home })
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        self.group.number(name, 2)
    }

    /// The ids of `USER`, `USER:GROUP` or `UID:GID`; without a group it is the user's own.
    pub fn owner(&self, text: &str) -> Result<(u32, u32)> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let account = self.user(user);
        let uid = account.as_ref().map(|account| account.uid).or_else(|| user.parse().ok());
        let uid = uid.with_context(|| format!("there is no user {user}"))?;
        let gid = match group {
            "" => account.map_or(uid, |account| account.gid),
            group => self
                .group_id(group)
                .or_else(|| group.parse().ok())
                .with_context(|| format!("there is no group {group}"))?,
        };
        Ok((uid, gid))
    }

    /// Adds a group, if there is none of this name, and gives back its id.
    pub fn add_group(&mut self, name: &str, wanted: Option<u32>) -> Result<u32> {
        if let Some(id) = self.group_id(name) {
            return Ok(id);
        }
        check_name(name)?;
        let id = match wanted.filter(|&id| !self.group.has_id(id)) {
            Some(id) => id,
            None => self.free_id(ID_FIRST)?,
        };
        self.group.0.push([name, "x", &id.to_string(), ""].map(str::to_owned).to_vec());
        Ok(id)
    }

    /// Makes a user a member of a group, which is added if there is none.
    pub fn add_member(&mut self, group: &str, user: &str) -> Result<()> {
        self.add_group(group, None)?;
        let Some(members) = self.group.get_mut(group).and_then(|fields| fields.get_mut(3)) else {
            bail!("the line of group {group} has too few fields");
        };
        if !members.split(',').any(|member| member == user) {
            if !members.is_empty() {
                members.push(',');
            }
            members.push_str(user);
        }
        Ok(())
    }

    /// Adds a user with a locked password.
    pub fn add_user(&mut self, new: &NewAccount) -> Result<Account> {
        check_name(new.name)?;
        for field in [new.gecos, new.home, new.shell] {
            if field.contains([':', '\n']) {
                bail!("{field:?} cannot stand in /etc/passwd");
            }
        }
        let uid = match new.uid {
            Some(uid) if self.passwd.has_id(uid) => bail!("the user id {uid} is taken"),
            Some(uid) => uid,
            None => self.free_id(if new.is_system { SYSTEM_ID_FIRST } else { ID_FIRST })?,
        };
        let gid = self.add_group(new.primary_group.unwrap_or(new.name), Some(uid))?;
        let line = [new.name, "x", &uid.to_string(), &gid.to_string(), new.gecos, new.home, new.shell];
        self.passwd.0.push(line.map(str::to_owned).to_vec());
        let shadow = [new.name, "!", "", "0", "99999", "7", "", "", ""];
        self.shadow.0.push(shadow.map(str::to_owned).to_vec());
        Ok(Account { uid, gid, home: new.home.to_owned() })
    }

    /// Sets what stands for the password in `/etc/shadow`.
    pub fn set_password(&mut self, name: &str, hash: &str) -> Result<()> {
        if hash.contains([':', '\n']) {
            bail!("the password hash of {name} has characters that it cannot have");
        }
        match self.shadow.get_mut(name).and_then(|fields| fields.get_mut(1)) {
            Some(field) => hash.clone_into(field),
            None => bail!("there is no user {name} in /etc/shadow"),
        }
        Ok(())
    }

    /// An id that neither a user nor a group has.
    fn free_id(&self, first: u32) -> Result<u32> {
        let is_free = |id: &u32| !self.passwd.has_id(*id) && !self.group.has_id(*id);
        (first..=ID_LAST).find(is_free).context("there is no free id")
    }
}

/// As useradd(8) wants them, and a little more.
fn check_name(name: &str) -> Result<()> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if name.is_empty() || name.len() > 32 || name.starts_with(['-', '.']) || !name.chars().all(is_fine) {
        bail!("{name:?} cannot be a name of a user or group");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewAccount<'_> {
        NewAccount {
            name,
            uid: None,
            primary_group: None,
            gecos: "",
            home: "/home/x",
            shell: "/bin/sh",
            is_system: false,
        }
    }

    #[test]
    fn users_are_added_to_all_three_files() {
        let root = tempfile::tempdir().unwrap();
        let mut accounts = Accounts::load(root.path());
        let ada = accounts.add_user(&new("ada")).unwrap();
        accounts.add_member("wheel", "ada").unwrap();
        accounts.add_member("wheel", "ada").unwrap();
        accounts.add_member("wheel", "root").unwrap();
        accounts.set_password("ada", "$6$salt$hash").unwrap();
        accounts.save().unwrap();
        let read = |name: &str| fs::read_to_string(root.path().join("etc").join(name)).unwrap();
        assert_eq!(ada, Account { uid: 1000, gid: 1000, home: "/home/x".into() });
        assert_eq!(read("passwd"), format!("{PASSWD_DEFAULT}ada:x:1000:1000::/home/x:/bin/sh\n"));
        assert_eq!(read("group"), format!("{GROUP_DEFAULT}ada:x:1000:\nwheel:x:1001:ada,root\n"));
        assert!(read("shadow").contains("\nada:$6$salt$hash::0:"));
        let mode = fs::metadata(root.path().join("etc/shadow")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Accounts::load(root.path()), accounts);
    }

    #[test]
    fn owners_are_names_or_numbers() {
        let root = tempfile::tempdir().unwrap();
        let mut accounts = Accounts::load(root.path());
        accounts.add_user(&new("ada")).unwrap();
        assert_eq!(accounts.owner("ada").unwrap(), (1000, 1000));
        assert_eq!(accounts.owner("root:ada").unwrap(), (0, 1000));
        assert_eq!(accounts.owner("7:8").unwrap(), (7, 8));
        assert!(accounts.owner("root:nosuch").is_err());
    }

    #[test]
    fn nothing_smuggles_a_line_in() {
        let root = tempfile::tempdir().unwrap();
        let mut accounts = Accounts::load(root.path());
        assert!(accounts.add_user(&new("eve:x:0:0::/:/bin/sh\nx")).is_err());
        assert!(accounts.add_user(&NewAccount { gecos: "a\nb", ..new("eve") }).is_err());
        assert!(accounts.set_password("root", "x\ny").is_err());
        assert_eq!(accounts, Accounts::load(root.path()));
    }
}
