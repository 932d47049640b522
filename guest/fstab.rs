//! `/etc/fstab`: its lines (fstab(5)), and mounting them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::console::say;
use crate::mount::{Options, mount_at, parse_mountinfo, unescape};
use crate::nfs;
use crate::root::Source;

pub const PATH: &str = "/etc/fstab";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub source: String,
    pub target: String,
    pub kind: String,
    pub options: String,
    pub dump: String,
    pub pass: String,
}

/// Which lines can be mounted before the network is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
    Network,
}

impl Entry {
    /// Nothing for a comment, an empty line, or one that is too short.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim_start();
        if line.starts_with('#') {
            return None;
        }
        let mut fields = line.split_whitespace().map(unescape);
        let (source, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let mut or = |default: &str| fields.next().unwrap_or_else(|| default.to_owned());
        Some(Entry { source, target, kind, options: or("defaults"), dump: or("0"), pass: or("0") })
    }

    /// The line, with blanks escaped.
    pub fn format(&self) -> String {
        let fields = [&self.source, &self.target, &self.kind, &self.options, &self.dump, &self.pass];
        fields.map(|field| escape(field)).join("\t")
    }

    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|word| word == option)
    }

    pub fn needs(&self) -> Kind {
        let is_network = matches!(self.kind.as_str(), "nfs" | "nfs4" | "cifs") || self.has_option("_netdev");
        if is_network { Kind::Network } else { Kind::Local }
    }

    /// Mounts it.
    pub fn mount(&self) -> Result<()> {
        match self.kind.as_str() {
            "nfs" | "nfs4" => nfs::mount(&self.source, Path::new(&self.target), &self.options),
            "efs" => bail!(
                "type efs needs a helper program that is not here; use nfs4 with the file system's DNS name"
            ),
            "swap" => bail!("swap space is not used"),
            kind => {
                let options = Options::parse(&self.options);
                mount_at(&self.device()?, Path::new(&self.target), kind, &options)
            }
        }
    }

    /// The source as the kernel wants it.
    fn device(&self) -> Result<String> {
        let is_device = self.source.starts_with("/dev/") || self.source.contains('=');
        if !is_device {
            return Ok(self.source.clone());
        }
        let found = Source::parse(&self.source).find();
        let found = found.with_context(|| format!("there is no device {}", self.source))?;
        Ok(found.to_string_lossy().into_owned())
    }
}

fn escape(field: &str) -> String {
    let mut text = String::new();
    for c in field.chars() {
        match c {
            ' ' => text.push_str("\\040"),
            '\t' => text.push_str("\\011"),
            '\n' => text.push_str("\\012"),
            '\\' => text.push_str("\\134"),
            c => text.push(c),
        }
    }
    text
}

/// Mounts the lines of this kind that are not mounted yet. What fails is said, unless it may fail (`nofail`).
pub fn mount_all(kind: Kind) {
    let Ok(text) = fs::read_to_string(PATH) else { return };
    let mounted = parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    for entry in text.lines().filter_map(Entry::parse) {
        let is_mounted = mounted.iter().any(|(target, _)| *target == entry.target);
        let is_wanted = entry.target.starts_with('/') && entry.needs() == kind && !entry.has_option("noauto");
        if is_mounted || !is_wanted {
            continue;
        }
        if let Err(error) = entry.mount() {
            let severity = if entry.has_option("nofail") { "" } else { " (add nofail if it may be missing)" };
            say!("{PATH}: {error:#}{severity}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_lines_have_defaults() {
        let entry = Entry::parse("10.0.0.4:/ /mnt/a\\040b nfs4").unwrap();
        assert_eq!((entry.target.as_str(), entry.options.as_str()), ("/mnt/a b", "defaults"));
        assert_eq!(entry.needs(), Kind::Network);
        assert_eq!(Entry::parse("# comment here now"), None);
        assert_eq!(Entry::parse("/dev/vdb /data ext4 noatime,_netdev 0 2").unwrap().needs(), Kind::Network);
        assert_eq!(Entry::parse("/dev/vdb /data ext4 noatime 0 2").unwrap().needs(), Kind::Local);
    }

    proptest! {
        #[test]
        fn a_line_that_we_write_is_read_again(fields in prop::collection::vec("[!-~]([ -~\t]{0,10}[!-~])?", 6)) {
            prop_assume!(!fields[0].starts_with('#'));
            let [source, target, kind, options, dump, pass] = fields.try_into().unwrap();
            let entry = Entry { source, target, kind, options, dump, pass };
            prop_assert_eq!(Entry::parse(&entry.format()), Some(entry));
        }
    }
}
