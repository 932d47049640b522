//! Who may send as whom, where packets go, and what the router itself takes and sends.

use std::rc::Rc;

use super::{Builder, Device, mark, no_flow, quoted};
use crate::policy::DropReason;

impl Builder<'_> {
    /// Who may send as whom.
    pub(super) fn arrivals(&mut self) {
        let devices = Rc::clone(&self.devices);
        let own = || {
            devices.iter().flat_map(|(name, interface, number)| {
                let bound =
                    move |address| (format!("\"{name}\" . {} . {address}", interface.mac), mark(*number));
                interface.addresses.iter().map(bound)
            })
        };
        let macs = || devices.iter().map(|(name, interface, _)| format!("\"{name}\" . {}", interface.mac));
        let hops: Vec<_> = devices.iter().filter(|(_, interface, _)| interface.is_hop()).collect();
        let gateways: Vec<_> =
            self.vpc.gateways.keys().map(|gateway| quoted(&gateway.device_name())).collect();

        let mut rules =
            vec!["meta mark set iifname . ether saddr . ip saddr map @bound accept", "iifname \"lo\" accept"];
        let mut arp_rules = vec![
            "iifname . arp saddr ether . arp saddr ip @bound accept",
            // Whether somebody else has the address that it will take (RFC 5227).
            "iifname . arp saddr ether @macs arp saddr ip 0.0.0.0 accept",
        ];
        if !hops.is_empty() {
            let of = |(name, interface, number): &&Device<'_>| {
                (format!("\"{name}\" . {}", interface.mac), mark(*number))
            };
            self.inet.map("bound-hops", "ifname . ether_addr : mark", hops.iter().map(of));
            rules.push("meta mark set iifname . ether saddr map @bound-hops accept");
            // It asks in the name of what it sends. Said to be its own, that is not kept as a neighbour's address.
            let first = |(name, interface, _): &&Device<'_>| {
                Some((quoted(name), interface.addresses.first().copied()?))
            };
            self.arp.map("hops", "ifname : ipv4_addr", hops.iter().filter_map(first));
            arp_rules.push("iifname . arp saddr ether @macs arp saddr ip set iifname map @hops accept");
        }
        if !gateways.is_empty() {
            self.inet.set("gateways", "ifname", &gateways);
            self.arp.set("gateways", "ifname", &gateways);
            self.inet.intervals("ranges", "ipv4_addr", &self.vpc.ranges);
            rules.push("iifname @gateways ip saddr != @ranges accept");
            arp_rules.push("iifname @gateways accept");
        }
        // DHCP, by who has no address yet.
        rules.push(
            "iifname . ether saddr @macs ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
        );
        let spoofed = DropReason::Spoofed.rule();
        rules.push(&spoofed);
        arp_rules.push(&spoofed);
        self.inet.map("bound", "ifname . ether_addr . ipv4_addr : mark", own());
        self.inet.set("macs", "ifname . ether_addr", macs());
        self.inet.chain("arrive", Some("type filter hook prerouting priority raw; policy drop;"), rules);
        self.arp.set("bound", "ifname . ether_addr . ipv4_addr", own().map(|(key, _)| key));
        self.arp.set("macs", "ifname . ether_addr", macs());
        self.arp.chain("arrive", Some("type filter hook input priority filter; policy drop;"), arp_rules);
    }

    /// Where packets go, and what the router itself takes and sends.
    pub(super) fn departures(&mut self) {
        let services = self.services();
        let has_gateways = !self.vpc.gateways.is_empty();
        let has_hops = self.devices.iter().any(|(_, interface, _)| interface.is_hop());
        let receivers = Rc::clone(&self.devices);
        let receivers = receivers.iter().flat_map(|(name, interface, _)| {
            interface.addresses.iter().map(move |address| format!("\"{name}\" . {address}"))
        });
        let receivers: Vec<_> = receivers.collect();
        self.inet.set("receivers", "ifname . ipv4_addr", receivers);

        let mut leave = vec!["oifname . ip daddr @receivers goto admitted"];
        if has_hops {
            leave.push("oifname @hops goto admitted-hop");
        }
        if has_gateways {
            leave.push("oifname @gateways goto outward");
        }
        let not_its_own = DropReason::DestinationCheck.rule();
        leave.push(&not_its_own);
        self.inet.chain("leave", None, leave);
        self.inet.chain(
            "forward",
            Some("type filter hook forward priority filter; policy drop;"),
            ["goto leave"],
        );
        self.router(has_gateways, !services.is_empty());
        if services.is_empty() {
            return;
        }
        self.inet.set("services", "ipv4_addr", services.iter().map(|(address, _)| address));
        let marks = services.iter().map(|(address, number)| (address, mark(*number)));
        self.inet.map("service-subnets", "ipv4_addr : mark", marks);
        self.inet.chain(
            "begin",
            Some("type route hook output priority mangle; policy accept;"),
            ["meta mark set ip saddr map @service-subnets"],
        );
        let output = [
            "ip saddr != @services accept",
            "oifname \"lo\" ip daddr @own accept",
            "oifname \"lo\" ip daddr @services goto admitted",
            "goto leave",
        ];
        self.inet.chain("output", Some("type filter hook output priority filter; policy drop;"), output);
    }

    /// What is for addresses of the namespace itself.
    fn router(&mut self, has_gateways: bool, has_services: bool) {
        let answered = self.vpc.answered();
        let answered = answered.iter().map(|(at, protocol, port)| format!("{at} . {protocol} . {port}"));

        let (no_flow, unanswered) = (no_flow(), DropReason::Unanswered.rule());
        let outside = format!("iifname @gateways {unanswered}");
        let mut input = vec!["iifname \"lo\" accept", &no_flow];
        if has_services {
            input.push("ip daddr @services goto admitted");
        }
        if has_gateways {
            input.push(&outside);
        }
        input.push("ip daddr . meta l4proto . th dport @answered accept");
        // To what the router itself has begun.
        input.push("ip daddr @own ct direction reply accept");
        input.push("ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept");
        input.push(&unanswered);
        self.inet.set("own", "ipv4_addr", self.vpc.own_addresses());
        self.inet.set("answered", "ipv4_addr . inet_proto . inet_service", answered);
        self.inet.chain("input", Some("type filter hook input priority filter; policy drop;"), input);
    }
}
