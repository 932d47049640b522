//! `meta-data` and `dynamic` as a tree of folders and values.
//!
//! A listing has one entry a line, a folder's ending in `/`, and no line end after the last. A key in
//! `public-keys` is listed as `0=NAME` and found at `0`.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::instance::{InstanceMetadata, NetworkInterface, Notices};
use crate::{identity, notices};

/// A folder's entries in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder(Tree),
    /// A folder that is listed under another name than its own.
    Named {
        listed: String,
        folder: Tree,
    },
    Value(String),
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    Folder(&'a Tree),
    Value(&'a str),
}

impl Tree {
    /// What is at `path`, its segments from the top. No segments is the tree itself.
    pub fn find<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<Found<'_>> {
        let mut found = Found::Folder(self);
        for segment in path {
            let Found::Folder(folder) = found else { return None };
            found = match folder.entries.get(segment)? {
                Entry::Folder(folder) | Entry::Named { folder, .. } => Found::Folder(folder),
                Entry::Value(value) => Found::Value(value),
            };
        }
        Some(found)
    }

    /// The folder's listing.
    pub fn listing(&self) -> String {
        let line = |(name, entry): (&String, &Entry)| match entry {
            Entry::Folder(_) => format!("{name}/"),
            Entry::Named { listed, .. } => listed.clone(),
            Entry::Value(_) => name.clone(),
        };
        self.entries.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn value(&mut self, name: &str, value: impl Display) {
        self.entries.insert(name.to_owned(), Entry::Value(value.to_string()));
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.value(name, value);
        }
    }

    fn lines(&mut self, name: &str, values: impl IntoIterator<Item = impl Display>) {
        let lines: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
        self.value(name, lines.join("\n"));
    }

    /// A folder is not shown when nothing is in it.
    fn folder(&mut self, name: impl Into<String>, folder: Tree) {
        if !folder.entries.is_empty() {
            self.entries.insert(name.into(), Entry::Folder(folder));
        }
    }

    /// What stands below `meta-data`.
    pub fn meta_data(instance: &InstanceMetadata) -> Self {
        let mut top = Tree::default();
        top.value("ami-id", instance.image_id);
        top.value("ami-launch-index", instance.launch_index);
        top.value("ami-manifest-path", "(unknown)");
        top.folder("block-device-mapping", block_devices(instance));
        top.folder("events", events(&instance.notices));
        top.value("instance-action", "none");
        top.value("instance-id", instance.instance_id);
        top.value("instance-life-cycle", "on-demand");
        top.value("instance-type", &instance.instance_type);
        top.folder("placement", placement(instance));
        top.value("profile", "default-hvm");
        top.folder("public-keys", public_keys(instance));
        top.value("reservation-id", instance.reservation_id);
        top.folder("services", services());
        top.folder("spot", spot(&instance.notices));
        top.value("system", "nitro");
        if instance.options.instance_tags {
            top.folder("tags", tags(instance));
        }
        if let Some(primary) = instance.interfaces.first() {
            add_primary(&mut top, primary);
        }
        top.folder("network", network(instance));
        top
    }

    /// What stands below `dynamic`.
    pub fn dynamic(instance: &InstanceMetadata) -> Self {
        let mut identity = Tree::default();
        identity.value("document", identity::document(instance));
        let mut top = Tree::default();
        top.folder("instance-identity", identity);
        top
    }
}

/// The primary interface's addresses and names stand at the top as well.
fn add_primary(top: &mut Tree, primary: &NetworkInterface) {
    let address = primary.addresses.first();
    top.value("hostname", &primary.host_name);
    top.value("local-hostname", &primary.host_name);
    top.optional("local-ipv4", address);
    top.value("mac", primary.mac);
    top.optional("public-hostname", primary.public_host_name.as_ref());
    top.optional("public-ipv4", address.and_then(|address| primary.public_addresses.get(address)));
    top.lines("security-groups", primary.security_groups.iter().map(|(_, name)| name));
}

fn network(instance: &InstanceMetadata) -> Tree {
    let mut macs = Tree::default();
    for card in &instance.interfaces {
        macs.folder(card.mac.to_string(), interface(card, &instance.account_id));
    }
    let (mut interfaces, mut network) = (Tree::default(), Tree::default());
    interfaces.folder("macs", macs);
    network.folder("interfaces", interfaces);
    network
}

fn interface(card: &NetworkInterface, owner: &str) -> Tree {
    let mut tree = Tree::default();
    tree.value("device-number", card.device_number);
    tree.value("interface-id", card.id);
    tree.folder("ipv4-associations", associations(card));
    tree.value("local-hostname", &card.host_name);
    tree.lines("local-ipv4s", &card.addresses);
    tree.value("mac", card.mac);
    tree.value("owner-id", owner);
    tree.optional("public-hostname", card.public_host_name.as_ref());
    if !card.public_addresses.is_empty() {
        tree.lines("public-ipv4s", card.public_addresses.values());
    }
    tree.lines("security-group-ids", card.security_groups.iter().map(|(id, _)| id));
    tree.lines("security-groups", card.security_groups.iter().map(|(_, name)| name));
    tree.value("subnet-id", card.subnet_id);
    tree.value("subnet-ipv4-cidr-block", card.subnet_range);
    tree.value("vpc-id", card.vpc_id);
    tree.optional("vpc-ipv4-cidr-block", card.vpc_ranges.first());
    tree.lines("vpc-ipv4-cidr-blocks", &card.vpc_ranges);
    tree
}

/// By public address, the private one that it stands for.
fn associations(card: &NetworkInterface) -> Tree {
    let mut tree = Tree::default();
    for (private, public) in &card.public_addresses {
        tree.value(&public.to_string(), private);
    }
    tree
}

fn block_devices(instance: &InstanceMetadata) -> Tree {
    let mut tree = Tree::default();
    for device in &instance.block_devices {
        tree.value(&device.role, &device.device);
    }
    tree
}

fn placement(instance: &InstanceMetadata) -> Tree {
    let mut tree = Tree::default();
    tree.value("availability-zone", &instance.placement.availability_zone);
    tree.value("availability-zone-id", &instance.placement.availability_zone_id);
    tree.value("region", &instance.placement.region);
    tree
}

fn public_keys(instance: &InstanceMetadata) -> Tree {
    let mut tree = Tree::default();
    for (number, key) in instance.public_keys.iter().enumerate() {
        let mut folder = Tree::default();
        folder.value("openssh-key", key.openssh.trim_end());
        let listed = format!("{number}={}", key.name);
        tree.entries.insert(number.to_string(), Entry::Named { listed, folder });
    }
    tree
}

/// What is not to come is not there.
fn events(notices: &Notices) -> Tree {
    let (mut maintenance, mut recommendations) = (Tree::default(), Tree::default());
    for (name, events) in [("history", &notices.history), ("scheduled", &notices.scheduled)] {
        maintenance.optional(name, (!events.is_empty()).then(|| notices::events(events)));
    }
    recommendations.optional("rebalance", notices.rebalance.map(notices::rebalance));
    let mut tree = Tree::default();
    tree.folder("maintenance", maintenance);
    tree.folder("recommendations", recommendations);
    tree
}

fn spot(notices: &Notices) -> Tree {
    let mut tree = Tree::default();
    if let Some(interruption) = &notices.interruption {
        tree.value("instance-action", notices::action(interruption));
        let ends = interruption.action == "terminate";
        tree.optional("termination-time", ends.then(|| identity::whole_seconds(interruption.time)));
    }
    tree
}

fn services() -> Tree {
    let mut tree = Tree::default();
    tree.value("domain", "amazonaws.com");
    tree.value("partition", "aws");
    tree
}

/// A key that could not stand in a path is not shown; the API refuses such keys when tags are shown
/// ("Work with instance tags in instance metadata").
fn tags(instance: &InstanceMetadata) -> Tree {
    let fits =
        |key: &str| !key.is_empty() && !key.contains(['/', ' ']) && !matches!(key, "." | ".." | "_index");
    let mut tags = Tree::default();
    for (key, value) in instance.tags.iter().filter(|(key, _)| fits(key)) {
        tags.value(key, value);
    }
    let mut tree = Tree::default();
    tree.folder("instance", tags);
    tree
}
