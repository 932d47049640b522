//! A VPC's fabric: a namespace that routes between the interfaces in it, and enforces what may pass.
//!
//! ```text
//! guest ══ tap1234… ─┐                                       ┌─ pcx…  ── a peer's namespace
//!          9001      │  prerouting ▸ routes ▸ forward ▸      │  1500
//! guest ══ tap5678… ─┤                                       ├─ igw…  ── the host
//!                    └─ lo: router, resolver, metadata,      ┘
//!                           services of nimbo's own
//! ```
//!
//! There is no bridge. Each address of an interface is a route to its device and a neighbour that nobody is asked for; the router answers
//! ARP for all others. So packets between neighbours pass the same rules as all others, and nobody hears what is not for him.
//!
//! [`Fabric::apply`] makes the namespace what a [`Vpc`] says, and [`Fabric::repair`] makes it so again. Neither stops a flow that may
//! pass: rules take effect in one transaction, routes are replaced one by one. Of the rules only what changed is sent to the kernel, as long as
//! its count of transactions says that nobody else has changed them; then all are.
//!
//! Invariants: nothing passes before the rules are in place, and devices that no interface has pass nothing. Who has the pin's path
//! to himself has the namespace to himself.
//!
//! It deliberately does not: make devices, which go with the process that serves them ([`Tap`](crate::Tap)) or lead elsewhere; number those of
//! gateways; answer in the VPC.

mod settle;
mod wiring;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use types::NetworkInterfaceId;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::policy::{DropReason, Gateway, Ruleset, Vpc};
use crate::{nft, sysctl};
use wiring::Wiring;

/// Bytes of the largest packet between interfaces of a VPC (EC2 User Guide, "Network MTU").
pub const MTU: u16 = 9001;

/// The kernel's name for what the rules are about, in errors.
const TABLES: &str = "vpc";

/// The namespace of a VPC. Dropping it leaves all in place.
#[derive(Debug)]
pub struct Fabric {
    namespace: Namespace,
    pin: PathBuf,
    applied: Option<Applied>,
}

/// What was made of the namespace last.
#[derive(Debug)]
struct Applied {
    ruleset: Ruleset,
    wiring: Wiring,
    /// No device was missing.
    is_complete: bool,
    /// The kernel's count of transactions after ours.
    transactions: u32,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Interfaces whose devices are not there. What is for them goes nowhere, until they are made and the VPC is applied or repaired again.
    pub missing: Vec<NetworkInterfaceId>,
    /// And gateways.
    pub missing_gateways: Vec<Gateway>,
    /// Addresses, routes, rules and other things that were not as they should be.
    pub changed: usize,
}

impl Report {
    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.missing_gateways.is_empty()
    }
}

impl Fabric {
    /// Takes up the namespace that is pinned at `pin`, or makes it.
    ///
    /// # Errors
    /// When the caller lacks the privilege.
    pub fn open(pin: &Path) -> Result<Self, Error> {
        let namespace = Namespace::open_pinned(pin)?;
        namespace.run(make_router)??;
        Ok(Self { namespace, pin: pin.to_owned(), applied: None })
    }

    /// Removes what [`Self::open`] made. The namespace itself goes with the last device in it that a process has open. What is not
    /// there is no error.
    ///
    /// # Errors
    /// When the caller may not unmount.
    pub fn remove(pin: &Path) -> Result<(), Error> {
        Namespace::unpin(pin)
    }

    /// Where the VPC's packets are routed, and where its devices belong.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Makes the namespace what `vpc` says. When it returns, no packet passes by what was said before.
    ///
    /// # Errors
    /// When `nft` is missing or refuses the rules, or the kernel does; then it can be asked again, and begins anew.
    pub fn apply(&mut self, vpc: &Vpc) -> Result<Report, Error> {
        let (ruleset, wiring) = (Ruleset::of(vpc), Wiring::of(vpc));
        // What is half done is not known.
        let before = self.applied.take();
        let (transactions, mut report) = self.enforce(&ruleset, before.as_ref())?;
        let is_settled = |before: &Applied| before.is_complete && before.wiring == wiring;
        if !before.as_ref().is_some_and(is_settled) {
            let found = self.settle(&wiring)?;
            report = Report { changed: report.changed + found.changed, ..found };
        }
        let is_complete = report.is_complete();
        self.applied = Some(Applied { ruleset, wiring, is_complete, transactions });
        Ok(report)
    }

    /// The device of an interface was made anew: whatever was made of another one of its name is missing when the VPC is applied next.
    pub fn renew(&mut self, interface: NetworkInterfaceId) {
        if let Some(applied) = &mut self.applied {
            applied.is_complete &= !applied.wiring.ports.contains_key(&interface);
        }
    }

    /// Makes the namespace again what was applied last, whatever somebody else has made of it. Nothing, if nothing was applied.
    ///
    /// # Errors
    /// As those of [`Self::apply`].
    pub fn repair(&mut self) -> Result<Report, Error> {
        let changed = usize::from(self.namespace.pin_again(&self.pin)?);
        let Some(before) = self.applied.take() else { return Ok(Report { changed, ..Report::default() }) };
        self.namespace.run(make_router)??;
        let (transactions, enforced) = self.enforce(&before.ruleset, Some(&before))?;
        let settled = self.settle(&before.wiring)?;
        self.applied = Some(Applied { transactions, is_complete: settled.is_complete(), ..before });
        Ok(Report { changed: changed + enforced.changed + settled.changed, ..settled })
    }

    /// How many packets were dropped, since the rules were last made as a whole.
    ///
    /// # Errors
    /// When `nft` is missing or the kernel refuses.
    pub fn dropped(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        let counters = nft::counters(&self.namespace)?;
        let counted = |reason: DropReason| (reason, counters.get(reason.name()).copied().unwrap_or(0));
        Ok(DropReason::ALL.into_iter().map(counted).collect())
    }

    /// Has the kernel's rules be `ruleset`, and says the count of transactions by which they are.
    fn enforce(&self, ruleset: &Ruleset, before: Option<&Applied>) -> Result<(u32, Report), Error> {
        let transactions = nft::generation(&self.namespace)?;
        let known = before.filter(|before| before.transactions == transactions);
        let text = match known {
            Some(before) => ruleset.change_from(&before.ruleset),
            None => ruleset.replacement(),
        };
        if text.is_empty() {
            return Ok((transactions, Report::default()));
        }
        nft::load(&self.namespace, TABLES, &text)?;
        // One more than before, unless somebody came between: then the count is not the kernel's, and all is replaced the next time.
        Ok((transactions.wrapping_add(1), Report { changed: 1, ..Report::default() }))
    }

    fn settle(&self, wiring: &Wiring) -> Result<Report, Error> {
        self.namespace.netlink(async |netlink| settle::settle(netlink, wiring).await)
    }
}

/// Settings of the namespace. Devices that come later begin with those under `default`.
fn make_router() -> Result<(), Error> {
    sysctl::set("ipv4/conf/all/accept_local", "1")?;
    sysctl::set("ipv4/conf/all/proxy_arp", "1")?;
    sysctl::forward_by_rules()?;
    // Nobody is in here but services of nimbo's own, which may do nothing else that root may.
    sysctl::set("ipv4/ip_unprivileged_port_start", "0")?;
    // A flow is known by its addresses and ports. Where in its window a packet lies is its ends' matter, who may have sent it
    // past an interface that changes packets.
    sysctl::set_if_present("netfilter/nf_conntrack_tcp_be_liberal", "1")
}
