//! `mounts`: lists of up to six fields, which become lines of fstab.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::yaml::Node;
use crate::fstab::{self, Entry};

/// Marks the lines that are ours, as cloud-init marks them, so that they can be replaced.
const MARK: &str = "comment=cloudconfig";

/// The fields from the third on, where neither an entry nor `mount_default_fields` gives them.
const DEFAULTS: [&str; 4] = ["auto", "defaults,nofail,_netdev", "0", "2"];

/// The defaults with those that `mount_default_fields` (six fields, of which the first two do not count) replaces.
pub fn defaults(fields: &[String]) -> [String; 4] {
    let mut defaults = DEFAULTS.map(str::to_owned);
    for (default, field) in defaults.iter_mut().zip(fields.iter().skip(2)) {
        default.clone_from(field);
    }
    defaults
}

pub fn read(node: &Node, defaults: &[String; 4]) -> Result<Entry, String> {
    let Node::List(items) = node else {
        return Err(format!("{} where a list of fields should be", node.describe()));
    };
    let field = |index: usize| items.get(index).and_then(Node::text);
    let source = field(0).ok_or("the first field, what to mount, is missing")?;
    let target = field(1).ok_or("the second field, where to mount it, is missing")?;
    let or_default = |index: usize| field(index).unwrap_or(&defaults[index - 2]).to_owned();
    let options = format!("{},{MARK}", or_default(3));
    Ok(Entry {
        source: device_path(source),
        target: target.to_owned(),
        kind: or_default(2),
        options,
        dump: or_default(4),
        pass: or_default(5),
    })
}

/// `xvdf` stands for `/dev/xvdf`, but `server:/` and `tmpfs` for themselves.
fn device_path(source: &str) -> String {
    let is_disk = ["sd", "hd", "vd", "xvd", "nvme"].iter().any(|prefix| source.starts_with(prefix));
    if is_disk && !source.contains(['/', ':', '=']) { format!("/dev/{source}") } else { source.to_owned() }
}

/// Puts the lines into fstab in place of those put there before, under the folder `root`.
pub fn write(root: &Path, entries: &[Entry]) -> Result<()> {
    let path = root.join(fstab::PATH.trim_start_matches('/'));
    let old = fs::read_to_string(&path).unwrap_or_default();
    let new = merge(&old, entries);
    if new == old {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(&path, new).with_context(|| format!("write {}", path.display()))
}

fn merge(old: &str, entries: &[Entry]) -> String {
    let is_ours = |line: &&str| Entry::parse(line).is_some_and(|entry| entry.has_option(MARK));
    let kept = old.lines().filter(|line| !is_ours(line)).map(str::to_owned);
    kept.chain(entries.iter().map(Entry::format)).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(text: &str) -> Result<Entry, String> {
        read(&Node::parse(text).unwrap(), &defaults(&[]))
    }

    #[test]
    fn short_entries_have_defaults() {
        assert_eq!(
            read_one("[vdb, /data]").unwrap().format(),
            "/dev/vdb\t/data\tauto\tdefaults,nofail,_netdev,comment=cloudconfig\t0\t2"
        );
        let nfs = "['fs-1.efs.test:/', /mnt/efs, nfs4, 'nfsvers=4.1,hard,_netdev,nofail', '0', '0']";
        assert_eq!(
            read_one(nfs).unwrap().format(),
            "fs-1.efs.test:/\t/mnt/efs\tnfs4\tnfsvers=4.1,hard,_netdev,nofail,comment=cloudconfig\t0\t0"
        );
        assert!(read_one("[vdb]").unwrap_err().contains("second field"));
    }

    #[test]
    fn defaults_can_be_replaced() {
        let fields = ["", "", "ext4", "ro"].map(str::to_owned);
        assert_eq!(defaults(&fields), ["ext4", "ro", "0", "2"].map(str::to_owned));
    }

    #[test]
    fn lines_replace_those_of_before_and_leave_others() {
        let old = "# mine\n/dev/vda1 / ext4 defaults 0 1\nx /old auto defaults,comment=cloudconfig 0 2\n";
        let new = merge(old, &[read_one("[tmpfs, /t, tmpfs, size=1m, 0, 0]").unwrap()]);
        assert_eq!(
            new,
            "# mine\n/dev/vda1 / ext4 defaults 0 1\ntmpfs\t/t\ttmpfs\tsize=1m,comment=cloudconfig\t0\t0\n"
        );
        assert_eq!(merge(&new, &[]), "# mine\n/dev/vda1 / ext4 defaults 0 1\n");
    }
}
