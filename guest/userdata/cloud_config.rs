//! `#cloud-config`: from YAML to typed values.
//!
//! A value of the wrong shape costs its own item and a warning, and the rest counts: half of a configuration is
//! better than an instance that nobody can reach. Every key that is not known is named.

use super::mounts;
use super::script::Command;
use super::users::{self, Password, User};
use super::write_files::{self, WriteFile};
use super::yaml::{Node, YamlError};
use crate::fstab;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudConfig {
    pub bootcmd: Vec<Command>,
    pub runcmd: Vec<Command>,
    pub write_files: Vec<WriteFile>,
    pub mounts: Vec<fstab::Entry>,
    pub hostname: Option<String>,
    pub fqdn: Option<String>,
    pub preserve_hostname: bool,
    pub prefer_fqdn: bool,
    pub manage_etc_hosts: bool,
    pub groups: Vec<(String, Vec<String>)>,
    pub users: Vec<User>,
    /// The user whom SSH keys are for, besides root.
    pub default_user: Option<User>,
    pub ssh_authorized_keys: Vec<String>,
    /// Keys are not for root.
    pub disable_root: bool,
    pub ssh_pwauth: Option<bool>,
    /// Of these users.
    pub passwords: Vec<(String, Password)>,
    pub timezone: Option<String>,
    pub grow_partition: bool,
    pub resize_root: bool,
    pub package_update: bool,
    pub package_upgrade: bool,
    pub packages: Vec<String>,
    pub final_message: Option<String>,
}

/// Joins several configurations: a later one's key replaces an earlier one's, which is cloud-init's default.
pub fn merge(texts: impl IntoIterator<Item = String>) -> (Node, Vec<String>) {
    let mut all: Vec<(String, Node)> = Vec::new();
    let mut warnings = Vec::new();
    for text in texts {
        match Node::parse(&text) {
            Ok(Node::Map(entries)) => {
                for (key, value) in entries {
                    all.retain(|(known, _)| *known != key);
                    all.push((key, value));
                }
            }
            Ok(node) if node.is_null() => {}
            Ok(node) => {
                warnings.push(format!("#cloud-config is {} where a mapping should be", node.describe()))
            }
            Err(error) => warnings.push(explain(&error)),
        }
    }
    (Node::Map(all), warnings)
}

fn explain(error: &YamlError) -> String {
    format!("#cloud-config is not YAML, and none of it is done: {error}")
}

impl CloudConfig {
    /// Reads what [`merge`] gives.
    pub fn read(node: &Node, warnings: &mut Vec<String>) -> Self {
        let mut reader = Reader { warnings };
        let empty = Vec::new();
        let entries = if let Node::Map(entries) = node { entries } else { &empty };
        let mut config = CloudConfig::default();
        let fields = node.get("mount_default_fields");
        for (key, value) in entries {
            if value.is_null() {
                continue;
            }
            config.take(key, value, fields, &mut reader);
        }
        config
    }

    fn take(&mut self, key: &str, value: &Node, mount_fields: Option<&Node>, reader: &mut Reader) {
        match key {
            "bootcmd" => self.bootcmd = reader.items(key, value, Command::read),
            "runcmd" => self.runcmd = reader.items(key, value, Command::read),
            "write_files" => self.write_files = reader.records(key, value, write_files::read),
            "mounts" => {
                let fields = mount_fields.and_then(|fields| reader.texts("mount_default_fields", fields));
                let defaults = mounts::defaults(fields.as_deref().unwrap_or_default());
                self.mounts = reader.items(key, value, |item| mounts::read(item, &defaults));
            }
            "mount_default_fields" => {}
            "hostname" => self.hostname = reader.text(key, value),
            "fqdn" => self.fqdn = reader.text(key, value),
            "preserve_hostname" => reader.flag(key, value, &mut self.preserve_hostname),
            "prefer_fqdn_over_hostname" => reader.flag(key, value, &mut self.prefer_fqdn),
            "manage_etc_hosts" => match value.text() {
                Some("localhost" | "template") => self.manage_etc_hosts = true,
                _ => reader.flag(key, value, &mut self.manage_etc_hosts),
            },
            "groups" => self.groups = users::read_groups(value, reader),
            "users" => self.users = users::read_users(value, reader),
            "user" => self.default_user = users::read_user(value, reader),
            "ssh_authorized_keys" => self.ssh_authorized_keys = reader.texts(key, value).unwrap_or_default(),
            "disable_root" => reader.flag(key, value, &mut self.disable_root),
            "ssh_pwauth" => {
                let mut allowed = false;
                reader.flag(key, value, &mut allowed);
                self.ssh_pwauth = Some(allowed);
            }
            "password" => {
                let name = self.default_user.as_ref().map_or("root", |user| &user.name).to_owned();
                self.passwords.extend(reader.text(key, value).map(|text| (name, Password::guess(text))));
            }
            "chpasswd" => self.passwords.extend(users::read_chpasswd(value, reader)),
            "timezone" => self.timezone = reader.text(key, value),
            "growpart" => {
                let mode = value.get("mode").and_then(Node::text);
                self.grow_partition = !matches!(mode, Some("off" | "false" | "False"));
            }
            "resize_rootfs" => match value.text() {
                Some("noblock") => self.resize_root = true,
                _ => reader.flag(key, value, &mut self.resize_root),
            },
            "package_update" | "apt_update" => reader.flag(key, value, &mut self.package_update),
            "package_upgrade" | "apt_upgrade" => reader.flag(key, value, &mut self.package_upgrade),
            "packages" => self.packages = reader.texts(key, value).unwrap_or_default(),
            "final_message" => self.final_message = reader.text(key, value),
            // Host keys are made anew for each instance in any case.
            "ssh_deletekeys" if value.boolean() == Some(true) => {}
            _ => reader.warn(format!("{key} is not known here and not done")),
        }
    }
}

impl Default for CloudConfig {
    fn default() -> Self {
        CloudConfig {
            bootcmd: Vec::new(),
            runcmd: Vec::new(),
            write_files: Vec::new(),
            mounts: Vec::new(),
            hostname: None,
            fqdn: None,
            preserve_hostname: false,
            prefer_fqdn: false,
            manage_etc_hosts: false,
            groups: Vec::new(),
            users: Vec::new(),
            default_user: None,
            ssh_authorized_keys: Vec::new(),
            disable_root: false,
            ssh_pwauth: None,
            passwords: Vec::new(),
            timezone: None,
            grow_partition: true,
            resize_root: true,
            package_update: false,
            package_upgrade: false,
            packages: Vec::new(),
            final_message: None,
        }
    }
}

/// Reads values of a shape, and collects what is said about others.
pub struct Reader<'a> {
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    pub fn warn(&mut self, text: String) {
        self.warnings.push(format!("#cloud-config: {text}"));
    }

    pub fn text(&mut self, key: &str, value: &Node) -> Option<String> {
        let text = value.text();
        if text.is_none() {
            self.warn(format!("{key} is {} where text should be", value.describe()));
        }
        text.map(str::to_owned)
    }

    pub fn flag(&mut self, key: &str, value: &Node, flag: &mut bool) {
        match value.boolean() {
            Some(given) => *flag = given,
            None => self.warn(format!("{key} should be true or false")),
        }
    }

    /// A list of texts, or one.
    pub fn texts(&mut self, key: &str, value: &Node) -> Option<Vec<String>> {
        let Node::List(items) = value else { return self.text(key, value).map(|text| vec![text]) };
        let texts = items.iter().enumerate().filter(|(_, item)| !item.is_null());
        Some(texts.filter_map(|(index, item)| self.text(&format!("{key}[{index}]"), item)).collect())
    }

    /// The items of a list that can be read.
    pub fn items<T>(&mut self, key: &str, value: &Node, read: impl Fn(&Node) -> Result<T, String>) -> Vec<T> {
        let items = self.list(key, value);
        let mut read_items = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match read(item) {
                Ok(item) => read_items.push(item),
                Err(why) => self.warn(format!("{key}[{index}]: {why}")),
            }
        }
        read_items
    }

    /// The items of a list of mappings, whose unknown keys are named by `read`.
    pub fn records<T>(
        &mut self,
        key: &str,
        value: &Node,
        read: impl Fn(&Node, &mut Vec<String>) -> Result<T, String>,
    ) -> Vec<T> {
        let items = self.list(key, value);
        let mut records = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let mut said = Vec::new();
            match read(item, &mut said) {
                Ok(record) => records.push(record),
                Err(why) => said.push(why),
            }
            said.into_iter().for_each(|what| self.warn(format!("{key}[{index}]: {what}")));
        }
        records
    }

    fn list<'n>(&mut self, key: &str, value: &'n Node) -> &'n [Node] {
        match value {
            Node::List(items) => items,
            _ => {
                self.warn(format!("{key} is {} where a list should be", value.describe()));
                &[]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (CloudConfig, Vec<String>) {
        let (node, mut warnings) = merge([text.to_owned()]);
        let config = CloudConfig::read(&node, &mut warnings);
        (config, warnings)
    }

    #[test]
    fn commands_are_texts_or_lists() {
        let (config, warnings) =
            read("#cloud-config\nruncmd:\n- echo a b\n- [echo, 'a b', 1]\n- {x: 1}\n- ~\n");
        let want = [
            Command::Shell("echo a b".into()),
            Command::Arguments(vec!["echo".into(), "a b".into(), "1".into()]),
        ];
        assert_eq!(config.runcmd, want);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("runcmd[2]: a mapping"), "{warnings:?}");
    }

    #[test]
    fn unknown_keys_are_named_and_the_rest_is_done() {
        let (config, warnings) = read("hostname: web\nntp: {enabled: true}\nmerge_how: list(append)\n");
        assert_eq!(config.hostname.as_deref(), Some("web"));
        assert_eq!(
            warnings,
            [
                "#cloud-config: ntp is not known here and not done",
                "#cloud-config: merge_how is not known here and not done"
            ]
        );
    }

    #[test]
    fn later_parts_replace_keys_of_earlier_ones() {
        let (node, warnings) =
            merge(["runcmd: [a]\nhostname: x\n".into(), "runcmd: [b]\n".into(), "- x\n".into()]);
        assert_eq!(warnings, ["#cloud-config is a list where a mapping should be"]);
        let config = CloudConfig::read(&node, &mut Vec::new());
        assert_eq!(config.runcmd, [Command::Shell("b".into())]);
        assert_eq!(config.hostname.as_deref(), Some("x"));
    }

    #[test]
    fn growing_can_be_turned_off() {
        let (config, warnings) = read("growpart:\n  mode: off\nresize_rootfs: false\n");
        assert!(!config.grow_partition && !config.resize_root && warnings.is_empty());
        let (config, _) = read("growpart: {mode: auto}\n");
        assert!(config.grow_partition && config.resize_root);
    }

    proptest! {
        #[test]
        fn no_value_is_too_strange(
            key in prop::sample::select(vec![
                "bootcmd", "runcmd", "write_files", "mounts", "mount_default_fields", "hostname", "groups", "users",
                "user", "ssh_authorized_keys", "chpasswd", "password", "packages", "growpart", "manage_etc_hosts",
            ]),
            value in "[a-z0-9 ,:{}\\[\\]'\n-]{0,60}",
        ) {
            let _ = read(&format!("{key}: {value}\n"));
        }
    }
}
