//! Why packets are dropped, as the kernel counts them. What no route leads anywhere, and IPv6, do not come so far.

/// What becomes of a packet at the rule that drops it. Each has a counter in the ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// It came from an address that is not its sender's, in IP, Ethernet or ARP.
    Spoofed,
    /// It was for the VPC itself, which does not answer such packets.
    Unanswered,
    /// A route led it to an interface that has not its address and takes only what is for its own.
    DestinationCheck,
    /// By an entry of a network ACL, or because none lets it pass.
    Acl,
    /// No rule of a security group lets the packet pass that began the flow.
    Group,
    /// It is of no flow and begins none.
    NoFlow,
}

impl DropReason {
    pub const ALL: [Self; 6] =
        [Self::Spoofed, Self::Unanswered, Self::DestinationCheck, Self::Acl, Self::Group, Self::NoFlow];

    /// Its counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed",
            Self::Unanswered => "unanswered",
            Self::DestinationCheck => "destination-check",
            Self::Acl => "acl",
            Self::Group => "group",
            Self::NoFlow => "no-flow",
        }
    }

    /// What drops a packet, at the end of a rule.
    pub(super) fn rule(self) -> String {
        format!("counter name \"{}\" drop", self.name())
    }
}
