//! The machine's name, `/etc/hosts`, and the time zone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::cloud_config::CloudConfig;

/// What the machine is called: in short, and in full where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub hostname: String,
    pub fqdn: String,
}

impl Name {
    /// From user-data first, then metadata; nothing if neither says, or the present name is to be kept.
    pub fn choose(config: &CloudConfig, local_hostname: Option<&str>) -> Option<Name> {
        if config.preserve_hostname {
            return None;
        }
        let given = config.hostname.as_deref().or(config.fqdn.as_deref()).or(local_hostname)?;
        let short = given.split('.').next().unwrap_or(given);
        let fqdn = match (&config.fqdn, local_hostname) {
            (Some(fqdn), _) => fqdn.clone(),
            (None, _) if given.contains('.') => given.to_owned(),
            // The domain of the network with the name of the user.
            (None, Some(local)) => match local.split_once('.') {
                Some((_, domain)) => format!("{short}.{domain}"),
                None => short.to_owned(),
            },
            (None, None) => short.to_owned(),
        };
        let hostname = if config.prefer_fqdn { fqdn.clone() } else { short.to_owned() };
        Some(Name { hostname, fqdn })
    }

    /// Writes the files under the folder `root`.
    pub fn write(&self, root: &Path, manage_etc_hosts: bool) -> Result<()> {
        let etc = root.join("etc");
        fs::create_dir_all(&etc).context("make /etc")?;
        fs::write(etc.join("hostname"), format!("{}\n", self.hostname)).context("write /etc/hostname")?;
        let old = fs::read_to_string(etc.join("hosts")).unwrap_or_default();
        let new = self.hosts(&old, manage_etc_hosts);
        if new != old {
            fs::write(etc.join("hosts"), new).context("write /etc/hosts")?;
        }
        Ok(())
    }

    /// A file without localhost gets it; one that is to be managed gets our own name, at Debian's address for that.
    fn hosts(&self, old: &str, manage: bool) -> String {
        let address = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
        if !lines.iter().any(|line| address(line).as_deref() == Some("127.0.0.1")) {
            lines.insert(0, "127.0.0.1\tlocalhost".to_owned());
        }
        if manage {
            lines.retain(|line| address(line).as_deref() != Some("127.0.1.1"));
            let names = if self.fqdn == self.hostname {
                self.fqdn.clone()
            } else {
                format!("{} {}", self.fqdn, self.hostname)
            };
            lines.push(format!("127.0.1.1\t{names}"));
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

/// Sets `/etc/localtime`, where the image has zone files.
pub fn set_timezone(root: &Path, zone: &str) -> Result<()> {
    let file = Path::new("/usr/share/zoneinfo").join(zone.trim_start_matches('/'));
    if zone.contains("..") || !root.join(file.strip_prefix("/").unwrap_or(&file)).is_file() {
        bail!("timezone: there is no zone {zone} in /usr/share/zoneinfo");
    }
    let link = root.join("etc/localtime");
    // It may not be there; if it cannot be removed, symlink says why.
    let _ = fs::remove_file(&link);
    symlink(&file, &link).context("write /etc/localtime")?;
    fs::write(root.join("etc/timezone"), format!("{zone}\n")).context("write /etc/timezone")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(hostname: Option<&str>, fqdn: Option<&str>, local: Option<&str>) -> Option<(String, String)> {
        let config = CloudConfig {
            hostname: hostname.map(str::to_owned),
            fqdn: fqdn.map(str::to_owned),
            ..CloudConfig::default()
        };
        Name::choose(&config, local).map(|name| (name.hostname, name.fqdn))
    }

    #[test]
    fn user_data_names_the_machine_and_metadata_the_domain() {
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        let local = Some("ip-10-0-0-5.ec2.internal");
        assert_eq!(choose(None, None, local), pair("ip-10-0-0-5", "ip-10-0-0-5.ec2.internal"));
        assert_eq!(choose(Some("web"), None, local), pair("web", "web.ec2.internal"));
        assert_eq!(choose(Some("web"), Some("web.example.org"), local), pair("web", "web.example.org"));
        assert_eq!(choose(None, Some("web.example.org"), None), pair("web", "web.example.org"));
        assert_eq!(choose(None, None, None), None);
    }

    #[test]
    fn hosts_keeps_what_is_there() {
        let name = Name { hostname: "web".into(), fqdn: "web.test".into() };
        assert_eq!(name.hosts("", false), "127.0.0.1\tlocalhost\n");
        let old = "127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.2 db\n";
        assert_eq!(name.hosts(old, true), "127.0.0.1 localhost\n10.0.0.2 db\n127.0.1.1\tweb.test web\n");
        assert_eq!(name.hosts(old, false), old);
    }

    #[test]
    fn a_zone_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        let zones = root.path().join("usr/share/zoneinfo/Europe");
        fs::create_dir_all(&zones).unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(zones.join("Zurich"), b"").unwrap();
        set_timezone(root.path(), "Europe/Zurich").unwrap();
        assert_eq!(
            fs::read_link(root.path().join("etc/localtime")).unwrap(),
            Path::new("/usr/share/zoneinfo/Europe/Zurich")
        );
        assert!(set_timezone(root.path(), "Mars/Base").is_err());
    }
}
