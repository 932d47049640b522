//! The steps of a boot, in cloud-init's order. Each fails alone: it is said, counted, and the next one is done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Machine;
use crate::console::{self, say};
use crate::fstab;
use crate::imds::Metadata;
use crate::passwd::Accounts;
use crate::ssh;
use crate::userdata::cloud_config::{self, CloudConfig};
use crate::userdata::hosts::{self, Name};
use crate::userdata::instance::{Frequency, Instance};
use crate::userdata::users::User;
use crate::userdata::{Kind, Part, mounts, packages, script, take_apart, users};

/// One boot of one instance.
struct Boot<'a> {
    root: &'a Path,
    instance: &'a Instance,
    metadata: &'a Metadata,
    machine: &'a dyn Machine,
    config: CloudConfig,
    failures: usize,
}

/// Does all steps that are due, to the system in the folder `root`; gives back how many failed.
pub fn run(root: &Path, instance: &Instance, metadata: &Metadata, machine: &dyn Machine) -> usize {
    let user_data = metadata.user_data.as_deref().unwrap_or_default();
    let (parts, mut warnings) = take_apart(user_data);
    let of_config = parts.iter().filter(|part| part.kind == Kind::CloudConfig);
    let (merged, more) =
        cloud_config::merge(of_config.map(|part| String::from_utf8_lossy(&part.content).into_owned()));
    warnings.extend(more);
    let config = CloudConfig::read(&merged, &mut warnings);
    warnings.iter().for_each(|warning| say!("{warning}"));
    let mut boot = Boot { root, instance, metadata, machine, config, failures: 0 };
    boot.step("user_data", Frequency::Boot, |boot| boot.keep(user_data, &parts));
    boot.early();
    machine.serve();
    boot.late();
    boot.failures
}

/// What is done where there is no metadata, and never was.
pub fn run_without_instance(machine: &dyn Machine) -> usize {
    let results = [machine.grow_partition(), machine.grow_file_system()];
    let failures = results.iter().filter_map(|result| result.as_ref().err());
    let failures = failures.inspect(|error| say!("{error:#}")).count();
    machine.mount_all(fstab::Kind::Network);
    machine.serve();
    failures
}

impl Boot<'_> {
    /// Does a step if it is due.
    fn step(&mut self, name: &str, frequency: Frequency, work: impl FnOnce(&Self) -> Result<()>) {
        let result = match self.instance.is_due(name, frequency) {
            Ok(true) => work(self),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            say!("{error:#}");
            self.failures += 1;
        }
    }

    /// Until the machine can be logged into.
    fn early(&mut self) {
        use Frequency::{Boot, Instance};
        self.step("bootcmd", Boot, Self::bootcmd);
        self.step("config_write_files", Instance, |boot| boot.write_files(false));
        if self.config.grow_partition {
            self.step("growpart", Boot, |boot| boot.machine.grow_partition());
        }
        if self.config.resize_root {
            self.step("resizefs", Boot, |boot| boot.machine.grow_file_system());
        }
        self.step("config_mounts", Instance, Self::mounts);
        // pid 1 could not, without a network.
        self.machine.mount_all(fstab::Kind::Network);
        self.step("hostname", Boot, Self::name);
        self.step("config_users_groups", Instance, Self::users);
        self.step("config_ssh_host_keys", Instance, |boot| boot.machine.make_host_keys());
        self.step("config_ssh", Instance, Self::keys);
        self.step("config_set_passwords", Instance, Self::passwords);
    }

    /// What nobody has to wait for.
    fn late(&mut self) {
        use Frequency::{Boot, Instance, Once};
        self.step("config_timezone", Instance, |boot| match &boot.config.timezone {
            Some(zone) => hosts::set_timezone(boot.root, zone),
            None => Ok(()),
        });
        self.step("config_packages", Instance, |boot| packages::apply(boot.root, &boot.config));
        self.step("config_write_files_deferred", Instance, |boot| boot.write_files(true));
        self.step("config_runcmd", Instance, Self::keep_runcmd);
        self.step("scripts_per_once", Once, |boot| boot.run_folder(&boot.instance.scripts(Once)));
        self.step("scripts_per_boot", Boot, |boot| boot.run_folder(&boot.instance.scripts(Boot)));
        self.step("scripts_per_instance", Instance, |boot| boot.run_folder(&boot.instance.scripts(Instance)));
        self.step("scripts_user", Instance, |boot| boot.run_folder(&boot.instance.path("scripts")));
        self.step("final_message", Boot, Self::finish);
    }

    /// Writes user-data and its scripts to where they are run from, and runs the hooks.
    fn keep(&self, user_data: &[u8], parts: &[Part]) -> Result<()> {
        let file = self.instance.path("user-data.txt");
        write_for_root(&file, user_data, 0o600)?;
        let mut failed = Vec::new();
        for part in parts {
            let folder = match part.kind {
                Kind::CloudConfig => continue,
                Kind::Script => self.instance.path("scripts"),
                Kind::ScriptPerBoot => self.instance.scripts(Frequency::Boot),
                Kind::ScriptPerInstance => self.instance.scripts(Frequency::Instance),
                Kind::ScriptPerOnce => self.instance.scripts(Frequency::Once),
                Kind::Boothook => self.instance.path("boothooks"),
            };
            let path = folder.join(&part.name);
            write_for_root(&path, &program_text(part), 0o700)?;
            if part.kind == Kind::Boothook {
                failed.extend(script::run(&path, &[("INSTANCE_ID", &self.instance.id)]).err());
            }
        }
        all_or(failed)
    }

    fn bootcmd(&self) -> Result<()> {
        if self.config.bootcmd.is_empty() {
            return Ok(());
        }
        let path = self.instance.path("bootcmd");
        write_for_root(&path, script::shell_script(&self.config.bootcmd).as_bytes(), 0o700)?;
        script::run(&path, &[("INSTANCE_ID", &self.instance.id)])
    }

    fn write_files(&self, deferred: bool) -> Result<()> {
        let accounts = Accounts::load(self.root);
        let files = self.config.write_files.iter().filter(|file| file.defer == deferred);
        all_or(files.filter_map(|file| file.write(self.root, &accounts).err()).collect())
    }

    fn mounts(&self) -> Result<()> {
        // Also without any, for then those of the instance before have to go.
        mounts::write(self.root, &self.config.mounts)?;
        if !self.config.mounts.is_empty() {
            self.machine.mount_all(fstab::Kind::Local);
        }
        Ok(())
    }

    fn name(&self) -> Result<()> {
        let name = Name::choose(&self.config, self.metadata.local_hostname.as_deref());
        let Some(name) = name else { return Ok(()) };
        self.machine.set_hostname(&name.hostname)?;
        name.write(self.root, self.config.manage_etc_hosts)
    }

    fn users(&self) -> Result<()> {
        let mut accounts = Accounts::load(self.root);
        let mut failed = Vec::new();
        failed.extend(users::make_groups(&mut accounts, &self.config.groups).err());
        for user in self.config.default_user.iter().chain(&self.config.users) {
            let result = users::make(self.root, &mut accounts, user);
            failed.extend(result.err().map(|error| error.context(format!("user {}", user.name))));
        }
        failed.extend(accounts.save().err());
        all_or(failed)
    }

    /// The keys of the instance and of user-data are for root and for the default user.
    fn keys(&self) -> Result<()> {
        let keys = [self.metadata.public_keys.as_slice(), &self.config.ssh_authorized_keys].concat();
        let default: Option<&User> = self.config.default_user.as_ref();
        let root = (!self.config.disable_root || default.is_none()).then_some("root");
        let accounts = Accounts::load(self.root);
        for name in root.into_iter().chain(default.map(|user| user.name.as_str())) {
            let account =
                accounts.user(name).with_context(|| format!("there is no user {name} to give keys to"))?;
            ssh::authorize(self.root, &account, &keys)?;
        }
        Ok(())
    }

    fn passwords(&self) -> Result<()> {
        let mut failed = Vec::new();
        if let Some(allowed) = self.config.ssh_pwauth {
            failed.extend(ssh::allow_passwords(self.root, allowed).err());
        }
        let mut accounts = Accounts::load(self.root);
        for (name, password) in &self.config.passwords {
            failed.extend(users::set_password(&mut accounts, name, password, false).err());
            // What chpasswd has written is not to be lost with the next one.
            accounts = Accounts::load(self.root);
        }
        all_or(failed)
    }

    fn keep_runcmd(&self) -> Result<()> {
        if self.config.runcmd.is_empty() {
            return Ok(());
        }
        let text = script::shell_script(&self.config.runcmd);
        write_for_root(&self.instance.path("scripts/runcmd"), text.as_bytes(), 0o700)
    }

    /// Runs every executable of a folder, in the order of their names.
    fn run_folder(&self, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let is_program = |path: &Path| {
            fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let programs = paths.iter().filter(|path| is_program(path));
        all_or(programs.filter_map(|path| script::run(path, &[]).err()).collect())
    }

    fn finish(&self) -> Result<()> {
        let uptime = console::since_boot().as_secs_f32();
        if let Some(message) = &self.config.final_message {
            let message =
                message.replace("$UPTIME", &format!("{uptime:.2}")).replace("$DATASOURCE", "DataSourceEc2");
            say!("{}", message.replace("$VERSION", env!("CARGO_PKG_VERSION")).trim_end());
        }
        write_for_root(&self.instance.path("boot-finished"), format!("{uptime:.2}\n").as_bytes(), 0o644)
    }
}

/// One error for several, each with a line of its own; none for none.
fn all_or(failed: Vec<anyhow::Error>) -> Result<()> {
    match failed.as_slice() {
        [] => Ok(()),
        failed => {
            bail!(failed.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\nnimbo-init: "))
        }
    }
}

fn write_for_root(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let context = || format!("write {}", path.display());
    // Anew, so that it has the mode before it has the content, and so that a program that runs is left alone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        fs::File::options().write(true).create_new(true).mode(mode).open(path).with_context(context)?;
    file.write_all(content).with_context(context)
}

/// A script as it is executed: a hook without the line that makes it one, with an interpreter, and with Unix lines if
/// its first one is not.
fn program_text(part: &Part) -> Vec<u8> {
    let mut content = part.content.clone();
    let first_end = content.iter().position(|&byte| byte == b'\n').unwrap_or(content.len());
    if content[..first_end].ends_with(b"\r") {
        content = String::from_utf8_lossy(&content).replace("\r\n", "\n").into_bytes();
    }
    if part.kind == Kind::Boothook && content.starts_with(b"#cloud-boothook") {
        let end = content.iter().position(|&byte| byte == b'\n').map_or(content.len(), |end| end + 1);
        content = content[end..].trim_ascii_start().to_vec();
        if !content.starts_with(b"#!") {
            content.splice(..0, *b"#!/bin/sh\n");
        }
    }
    content
}

#[cfg(test)]
mod tests;
