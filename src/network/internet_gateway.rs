//! An internet gateway: a namespace between a VPC and the host, which translates private addresses into public ones and back.
//!
//! ```text
//! VPC                           gateway                                 host
//! 10.0.0.0/16  igw… ═══ vpc   10.0.0.5 ⇄ 198.18.0.7   uplink ═══ nimboN   198.18.0.7 via nimboN
//! ```
//!
//! It is one to one: an address without a public one neither gets out nor is reached. What of a flow passes is what the translation
//! that is in force would pass: when an address moves to another instance, the flows that it had before end. Two instances of the
//! VPC reach each other at their public addresses too, here at the gateway.
//!
//! Who is outside is seen in the VPC at his own address, also the host, which has the one by which it reaches the outside. But whose address
//! the VPC would not send answers to, because it is of one of the VPC's own ranges, of one that its routes lead elsewhere, or link-local, as a host
//! without a way out has, is seen as [`STAND_IN`].
//!
//! It deliberately does not: decide what passes beyond that, which the VPC's groups and ACLs do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::netlink::tables::Way;
use crate::pair::{self, End, NEXT_HOP};
use crate::policy::LINK_LOCAL;
use crate::uplink::{Exposure, HostAccess, Uplink};
use crate::{nft, sysctl};

/// The address of those who cannot have their own, out of the range for benchmarks (RFC 2544), like the public ones if nobody says otherwise.
pub const STAND_IN: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 254);

/// The gateway's own name for its device to the VPC.
const INWARD: &str = "vpc";
/// And for that to the host.
const OUTWARD: &str = "uplink";
const TABLE: &str = "gateway";

/// What addresses are translated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    /// All that the VPC has.
    pub ranges: Vec<Ipv4Net>,
    /// What its routes lead elsewhere than to the gateway.
    pub elsewhere: Vec<Ipv4Net>,
    /// Each private address that has a public one. No two have the same.
    pub public: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

/// A gateway in place. Dropping it leaves it there.
#[derive(Debug)]
pub struct InternetGateway {
    namespace: Namespace,
    host: Namespace,
    /// From where its public addresses are reached beside the host.
    lan: Option<String>,
    uplink: Uplink,
    applied: Option<Applied>,
}

/// What was made of it last.
#[derive(Debug)]
struct Applied {
    translation: Translation,
    /// The kernel's counts of changes to rules after ours, here and in the host: with others, somebody else may have changed ours.
    transactions: [u32; 2],
    /// What the host's were then, once that was looked at: there others change their own all the time.
    rules: Option<Vec<String>>,
}

impl InternetGateway {
    /// Takes up the gateway that is pinned at `pin`, or makes it, and has it lead from `device` of a VPC's namespace to `host`, and from the host's
    /// interface `lan`, if one is named.
    ///
    /// # Errors
    /// When `nft` is missing, the caller lacks the privilege, or the kernel lacks translation.
    pub fn open(
        pin: &Path,
        host: &Namespace,
        vpc: &Namespace,
        device: &str,
        lan: Option<&str>,
    ) -> Result<Self, Error> {
        let namespace = Namespace::open_pinned(pin)?;
        namespace.run(sysctl::forward_by_rules)??;
        let uplink = match uplink_of(host, &namespace, lan)? {
            Some(uplink) => uplink,
            None => make_uplink(host, &namespace, lan)?,
        };
        let inward = End { namespace: &namespace, device: INWARD };
        pair::join(inward, End { namespace: vpc, device }, uplink.mtu())?;
        let lan = lan.map(str::to_owned);
        Ok(Self { namespace, host: host.try_clone()?, lan, uplink, applied: None })
    }

    /// Translates these addresses from now on, and no others.
    ///
    /// # Errors
    /// What the kernel or `nft` says; then it can be asked again, and begins anew.
    pub fn apply(&mut self, translation: &Translation) -> Result<(), Error> {
        if self.applied.as_ref().is_some_and(|applied| applied.translation == *translation) {
            return Ok(());
        }
        self.applied = None;
        let public = translation.public.values().copied().collect();
        nft::load(&self.namespace, TABLE, &ruleset(translation))?;
        self.uplink.admit(&public)?;
        self.lead(translation, &public)?;
        let transactions = self.transactions()?;
        self.applied = Some(Applied { translation: translation.clone(), transactions, rules: None });
        Ok(())
    }

    /// Has it be again what it was, whatever somebody else has made of it. It leads from `device` of a VPC's namespace.
    ///
    /// # Errors
    /// As those of [`Self::apply`].
    pub fn repair(&mut self, pin: &Path, vpc: &Namespace, device: &str) -> Result<(), Error> {
        self.namespace.pin_again(pin)?;
        self.namespace.run(sysctl::forward_by_rules)??;
        let lan = self.lan.as_deref();
        let is_linked = uplink_of(&self.host, &self.namespace, lan)?.is_some();
        if is_linked {
            self.uplink.follow_routes()?;
        } else {
            self.uplink = make_uplink(&self.host, &self.namespace, lan)?;
        }
        let inward = End { namespace: &self.namespace, device: INWARD };
        pair::join(inward, End { namespace: vpc, device }, self.uplink.mtu())?;
        let Some(mut applied) = self.applied.take() else { return Ok(()) };
        let found = self.transactions()?;
        if !is_linked || applied.transactions[0] != found[0] {
            return self.apply(&applied.translation);
        }
        if applied.rules.is_none() || applied.transactions != found {
            // Nobody waits for this here, as somebody does when addresses change.
            let rules = Some(self.uplink.rules()?);
            let is_ours = applied.transactions == self.transactions()?;
            if !is_ours && applied.rules != rules {
                return self.apply(&applied.translation);
            }
            (applied.transactions, applied.rules) = (found, rules);
        }
        self.lead(&applied.translation, &applied.translation.public.values().copied().collect())?;
        self.applied = Some(applied);
        Ok(())
    }

    /// Has routes lead to the VPC here, and from the host to here.
    fn lead(&self, translation: &Translation, public: &BTreeSet<Ipv4Addr>) -> Result<(), Error> {
        self.namespace.netlink(async |netlink| {
            let link = netlink.index(INWARD).await?;
            let way = Way::Via { link, gateway: NEXT_HOP, source: None };
            netlink.set_routes(&translation.ranges.iter().copied().collect(), way).await
        })?;
        self.uplink.lead(public)
    }

    /// The kernel's counts, here and in the host.
    fn transactions(&self) -> Result<[u32; 2], Error> {
        Ok([nft::generation(&self.namespace)?, nft::generation(&self.host)?])
    }

    /// Removes the gateway that is pinned at `pin`, and what there is of it in the host. What is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(pin: &Path, host: &Namespace) -> Result<(), Error> {
        if let Some(namespace) = Namespace::pinned(pin)? {
            uplink_of(host, &namespace, None)?.map_or(Ok(()), Uplink::remove)?;
        }
        Namespace::unpin(pin)
    }
}

fn uplink_of(host: &Namespace, namespace: &Namespace, lan: Option<&str>) -> Result<Option<Uplink>, Error> {
    let exposure = Exposure::Public { lan: lan.map(str::to_owned) };
    Uplink::of(host, namespace, HostAccess::Denied, exposure)
}

fn make_uplink(host: &Namespace, namespace: &Namespace, lan: Option<&str>) -> Result<Uplink, Error> {
    let exposure = Exposure::Public { lan: lan.map(str::to_owned) };
    let uplink = Uplink::create(host, namespace, HostAccess::Denied, exposure)?;
    for obstacle in uplink.obstacles() {
        tracing::warn!("{obstacle}");
    }
    Ok(uplink.kept())
}

/// The table as `nft` reads it, in the place of whatever there is.
///
/// `pairs` is what each flow must still be one of: a private address, and the public one that conntrack has translated it to or from. The first packet
/// outward is not translated yet: `unchanged`.
fn ruleset(translation: &Translation) -> String {
    let elements = |elements: Vec<String>| match elements.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", elements.join(", ")),
    };
    let each =
        |text: fn((&Ipv4Addr, &Ipv4Addr)) -> String| elements(translation.public.iter().map(text).collect());
    let strangers = translation.ranges.iter().chain(&translation.elsewhere).chain([&LINK_LOCAL]);
    let strangers = strangers.map(Ipv4Net::to_string).collect();
    let sets = [
        ("set unchanged", "ipv4_addr . ipv4_addr", "", each(|(private, _)| format!("{private} . {private}"))),
        ("set pairs", "ipv4_addr . ipv4_addr", "", each(|(private, public)| format!("{private} . {public}"))),
        (
            "map outward",
            "ipv4_addr : ipv4_addr",
            "",
            each(|(private, public)| format!("{private} : {public}")),
        ),
        (
            "map inward",
            "ipv4_addr : ipv4_addr",
            "",
            each(|(private, public)| format!("{public} : {private}")),
        ),
        ("set strangers", "ipv4_addr", "flags interval; auto-merge;", elements(strangers)),
    ];
    let mut text = format!("table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    for (name, kind, flags, elements) in sets {
        // To write into a string cannot fail.
        let _ = writeln!(text, "\t{name} {{\n\t\ttype {kind}; {flags}\n\t\t{elements}\n\t}}");
    }
    let _ = write!(
        text,
        "\tchain prerouting {{
\t\ttype nat hook prerouting priority dstnat;
\t\tdnat to ip daddr map @inward
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat;
\t\tiifname {INWARD} snat to ip saddr map @outward
\t\toifname {INWARD} ip saddr @strangers snat to {STAND_IN}
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy drop;
\t\tct state invalid drop
\t\tiifname {OUTWARD} ip daddr . ct original ip daddr @pairs accept
\t\tiifname {OUTWARD} ip daddr . ct reply ip daddr @pairs accept
\t\tiifname {INWARD} ip saddr . ct original ip daddr @pairs accept
\t\tiifname {INWARD} ip saddr . ct reply ip daddr @pairs accept
\t\tiifname {INWARD} ip saddr . ct reply ip daddr @unchanged accept
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy drop;
\t}}
}}
"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_translated_where_nothing_is_public() {
        let text =
            ruleset(&Translation { ranges: vec!["10.0.0.0/16".parse().unwrap()], ..Translation::default() });
        assert!(!text.contains("elements = {  }"), "{text}");
        assert!(text.contains("elements = { 10.0.0.0/16, 169.254.0.0/16 }"), "{text}");
    }
}
