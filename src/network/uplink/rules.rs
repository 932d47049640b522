//! The nftables rules of an uplink, and reading back what is there. Nothing here runs `nft`.
//!
//! ```text
//! host     table ip nimboN   the uplink's own: its addresses, masquerade, who may pass, who may reach the host
//!          table ip nimbo    all uplinks': the fence around the interfaces made to forward
//! VPC      table ip vpc      of a hidden one: masquerade, and nothing in that was not asked for
//! ```

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Exposure, HostAccess};

/// What the names of all uplinks, and of their tables, begin with. The table of all of them has this name.
pub(super) const PREFIX: &str = "nimbo";
/// The uplink's name at its end in the VPC.
pub(super) const INSIDE: &str = "uplink";
/// The set, in the table of all uplinks, of interfaces that forward because of them, and for them alone.
const FORWARDING: &str = "forwarding";
/// The set, in the table of an uplink, of addresses that packets come from and go to.
const ADDRESSES: &str = "addresses";
/// Every uplink, in a match.
const ANY: &str = "nimbo*";

/// What the host's ruleset says that matters to uplinks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Tables of single uplinks, alive or not.
    pub(super) uplinks: Vec<String>,
    /// Whether the table of all uplinks exists.
    pub(super) shared: bool,
    /// Chains that drop what they do not know, and know nothing of uplinks.
    pub(super) droppers: Vec<Dropper>,
}

/// A chain of somebody else that drops forwarded packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropper {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// Docker's table has a chain that is kept for rules such as ours.
    pub(super) is_docker: bool,
}

impl Dropper {
    /// What stands in the way, and what its owner can do about it.
    pub(super) fn advice(&self, lan: Option<&str>) -> String {
        let Self { family, table, chain, is_docker } = self;
        let mut remedy = if *is_docker {
            "iptables -I DOCKER-USER -i nimbo+ -j ACCEPT; \
             iptables -I DOCKER-USER -o nimbo+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
                .to_owned()
        } else {
            format!(
                "nft insert rule {family} {table} {chain} iifname 'nimbo*' accept; \
                 nft insert rule {family} {table} {chain} oifname 'nimbo*' ct state established,related accept"
            )
        };
        if let Some(lan) = lan {
            remedy += &match is_docker {
                true => format!("; iptables -I DOCKER-USER -i {lan} -o nimbo+ -j ACCEPT"),
                false => format!(
                    "; nft insert rule {family} {table} {chain} iifname '{lan}' oifname 'nimbo*' accept"
                ),
            };
        }
        format!(
            "the host's firewall drops forwarded packets (chain {family} {table} {chain}), so the instance \
             may not reach the outside; to let it: {remedy}"
        )
    }
}

pub(crate) fn is_uplink(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn read(ruleset: &[Value]) -> Found {
    let mut found = Found::default();
    for object in ruleset {
        if let Some(name) = object["table"]["name"].as_str() {
            if is_uplink(name) {
                found.uplinks.push(name.to_owned());
            }
            found.shared |= name == PREFIX;
        }
        found.droppers.extend(dropper(&object["chain"], ruleset));
    }
    found
}

fn dropper(chain: &Value, ruleset: &[Value]) -> Option<Dropper> {
    let family = chain["family"].as_str()?;
    let table = chain["table"].as_str()?;
    let drops = chain["hook"] == "forward" && chain["policy"] == "drop";
    if !drops || !matches!(family, "ip" | "inet") {
        return None;
    }
    let same_table = |object: &Value| object["family"] == family && object["table"] == table;
    let knows_uplinks = |object: &Value| same_table(&object["rule"]) && object.to_string().contains(PREFIX);
    if ruleset.iter().any(knows_uplinks) {
        return None;
    }
    Some(Dropper {
        family: family.to_owned(),
        table: table.to_owned(),
        chain: chain["name"].as_str()?.to_owned(),
        is_docker: ruleset.iter().any(|o| same_table(&o["chain"]) && o["chain"]["name"] == "DOCKER-USER"),
    })
}

/// Has the table of uplink `name` be so, whose packets come from and go to `addresses` and no others.
pub(super) fn uplink(
    name: &str,
    addresses: &[Ipv4Addr],
    access: HostAccess,
    exposure: &Exposure,
) -> Vec<Value> {
    let from_uplink = || meta("iifname", "==", name);
    let to_uplink = || meta("oifname", "==", name);
    let clamp = json!({ "mangle": {
        "key": { "tcp option": { "name": "maxseg", "field": "size" } },
        "value": { "rt": { "key": "mtu" } },
    }});
    let syn = json!({ "match": {
        "op": "in", "left": { "payload": { "protocol": "tcp", "field": "flags" } }, "right": "syn",
    }});
    let outward = vec![source("==", ADDRESSES), meta("oifname", "!=", ANY), json!({ "masquerade": null })];
    let mut commands = vec![
        table(name),
        add_set(name, ADDRESSES, "ipv4_addr"),
        base_chain(name, "postrouting", "nat", 100),
        base_chain(name, "forward", "filter", 0),
        base_chain(name, "input", "filter", 0),
        json!({ "flush": { "table": { "family": "ip", "name": name } } }),
        json!({ "flush": { "set": { "family": "ip", "table": name, "name": ADDRESSES } } }),
        add_elements(name, ADDRESSES, &json!(addresses)),
        rule(name, "postrouting", outward),
        rule(name, "forward", vec![from_uplink(), source("!=", ADDRESSES), drop()]),
        rule(name, "forward", vec![from_uplink(), syn.clone(), clamp.clone()]),
        rule(name, "forward", vec![to_uplink(), syn, clamp]),
        rule(name, "forward", vec![to_uplink(), answers(), accept()]),
    ];
    if let Exposure::Public { lan } = exposure {
        commands.push(rule(name, "forward", vec![to_uplink(), meta("iifname", "==", ANY), accept()]));
        if let Some(lan) = lan {
            let from_lan = || vec![to_uplink(), meta("iifname", "==", lan)];
            commands.push(rule(name, "forward", [from_lan(), vec![not_answered_there(), drop()]].concat()));
            commands.push(rule(name, "forward", [from_lan(), vec![accept()]].concat()));
        }
    }
    commands.push(rule(name, "forward", vec![to_uplink(), drop()]));
    if matches!(exposure, Exposure::Public { .. }) {
        commands.push(rule(name, "input", vec![from_uplink(), answers(), accept()]));
    }
    if access == HostAccess::Denied {
        commands.push(rule(name, "input", vec![from_uplink(), drop()]));
    }
    commands
}

/// Has what arrives at `interfaces` and is not for an uplink be dropped, as it was before they forwarded.
///
/// Rules that are there may be left as they are: the kernel waits until nobody looks at those that are replaced.
pub(super) fn fence(interfaces: &[String], has_rules: bool) -> Vec<Value> {
    let mut commands = Vec::new();
    if !has_rules {
        let fence =
            vec![meta("iifname", "==", &format!("@{FORWARDING}")), meta("oifname", "!=", ANY), drop()];
        commands.extend([
            table(PREFIX),
            add_set(PREFIX, FORWARDING, "ifname"),
            base_chain(PREFIX, "forward", "filter", 0),
            json!({ "flush": { "chain": { "family": "ip", "table": PREFIX, "name": "forward" } } }),
            rule(PREFIX, "forward", fence),
        ]);
    }
    commands.push(json!({ "flush": { "set": { "family": "ip", "table": PREFIX, "name": FORWARDING } } }));
    if !interfaces.is_empty() {
        commands.push(add_elements(PREFIX, FORWARDING, &json!(interfaces)));
    }
    commands
}

pub(super) fn delete(name: &str) -> Value {
    json!({ "delete": { "table": { "family": "ip", "name": name } } })
}

/// In the VPC of a hidden uplink: all its instances leave under the uplink's inner address.
pub(super) fn hidden() -> Vec<Value> {
    const TABLE: &str = "vpc";
    vec![
        table(TABLE),
        base_chain(TABLE, "postrouting", "nat", 100),
        base_chain(TABLE, "forward", "filter", 0),
        rule(TABLE, "postrouting", vec![meta("oifname", "==", INSIDE), json!({ "masquerade": null })]),
        rule(TABLE, "forward", vec![meta("iifname", "==", INSIDE), answers(), accept()]),
        rule(TABLE, "forward", vec![meta("iifname", "==", INSIDE), drop()]),
    ]
}

fn table(name: &str) -> Value {
    json!({ "add": { "table": { "family": "ip", "name": name } } })
}

fn add_set(table: &str, name: &str, kind: &str) -> Value {
    json!({ "add": { "set": { "family": "ip", "table": table, "name": name, "type": kind } } })
}

fn add_elements(table: &str, set: &str, elements: &Value) -> Value {
    json!({ "add": { "element": { "family": "ip", "table": table, "name": set, "elem": elements } } })
}

/// A chain of the hook that it is named after.
fn base_chain(table: &str, hook: &str, kind: &str, priority: i32) -> Value {
    json!({ "add": { "chain": {
        "family": "ip", "table": table, "name": hook,
        "type": kind, "hook": hook, "prio": priority, "policy": "accept",
    }}})
}

fn rule(table: &str, chain: &str, statements: Vec<Value>) -> Value {
    json!({ "add": { "rule": { "family": "ip", "table": table, "chain": chain, "expr": statements } } })
}

fn meta(key: &str, op: &str, right: &str) -> Value {
    json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": right } })
}

/// Whether it comes from one of a set.
fn source(op: &str, set: &str) -> Value {
    let left = json!({ "payload": { "protocol": "ip", "field": "saddr" } });
    json!({ "match": { "op": op, "left": left, "right": format!("@{set}") } })
}

/// Whether it comes from an address to which the host would not answer by the same interface: it is a guest's, say, and pretended.
fn not_answered_there() -> Value {
    let way_back = json!({ "fib": { "result": "oif", "flags": ["saddr", "iif"] } });
    json!({ "match": { "op": "==", "left": way_back, "right": "0" } })
}

fn answers() -> Value {
    json!({ "match": {
        "op": "in", "left": { "ct": { "key": "state" } }, "right": ["established", "related"],
    }})
}

fn accept() -> Value {
    json!({ "accept": null })
}

fn drop() -> Value {
    json!({ "drop": null })
}
