//! What somebody removes behind our back comes back, and nothing is left at the end.

use network::policy::{Gateway, Target, Traffic, device_name};
use network::{Fabric, Namespace};

use crate::lab::{Guest, Lab, PATIENCE, Talk, attempt, everywhere, id, ip, letting_in, net, run, vpc};

/// Two guests that may talk, one of them with a route of its subnet's.
fn pair() -> (Lab, [Guest; 2]) {
    let mut made = vpc();
    made.groups = [(id(1), letting_in(&[(Traffic::All, everywhere())]))].into();
    made.route_tables.entry(id(1)).or_default().routes.insert(net("192.0.2.0/24"), Target::Blackhole);
    let mut lab = Lab::new(made);
    let guests = [lab.guest(1, &["10.0.1.4"], &[1]), lab.guest(2, &["10.0.2.4"], &[1])];
    (lab, guests)
}

/// All that the namespace has, in words; counters and times aside.
fn state(lab: &Lab) -> String {
    // Chains are listed in the order in which they were made.
    let listed = run(lab.fabric.namespace(), "nft list ruleset");
    let mut blocks: Vec<_> = listed.split("\n\n").map(|block| block.trim_end_matches(['\n', '}'])).collect();
    blocks.sort_unstable();
    let rules = blocks.join("\n");
    let commands = [
        "ip -4 route show table all",
        "ip rule",
        "ip -4 -br neigh show nud permanent",
        "ip -4 -o addr show lo",
    ];
    let shown = commands.map(|command| run(lab.fabric.namespace(), command));
    let mut lines: Vec<_> = shown.iter().flat_map(|text| text.lines().map(str::trim)).collect();
    lines.sort_unstable();
    format!("{rules}\n{}", lines.join("\n"))
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let (mut lab, _guests) = pair();
    let before = state(&lab);
    assert_eq!(lab.apply().changed, 0);
    assert_eq!(lab.fabric.repair().unwrap().changed, 0);
    assert_eq!(state(&lab), before);
}

#[test]
fn whatever_is_removed_or_added_is_as_it_was_after_a_repair() {
    let (mut lab, [one, two]) = pair();
    let listener = two.listen(80);
    let mut talk = Talk::between(&one, &listener, "10.0.2.4");
    let before = state(&lab);
    let device = device_name(id(2));
    for damage in [
        "nft flush ruleset".to_owned(),
        "nft flush chain inet vpc judge".to_owned(),
        "nft delete table arp vpc".to_owned(),
        "nft insert rule inet vpc forward accept".to_owned(),
        "ip route flush table main".to_owned(),
        format!("ip route del 10.0.2.4 dev {device}"),
        "ip route flush table 167772416".to_owned(),
        "ip route replace blackhole 10.0.2.4".to_owned(),
        "ip route add 10.0.0.0/8 dev lo table 167772416".to_owned(),
        "ip route add 10.0.1.4 dev lo metric 5".to_owned(),
        "ip rule del fwmark 0xa000100".to_owned(),
        "ip rule add from all lookup 167772416 priority 5".to_owned(),
        "ip rule del lookup main".to_owned(),
        format!("ip neigh del 10.0.2.4 dev {device}"),
        format!("ip neigh replace 10.0.2.4 lladdr 06:00:00:00:00:99 dev {device} nud permanent"),
        format!("ip neigh add 10.0.2.99 lladdr 06:00:00:00:00:99 dev {device} nud permanent"),
        "ip addr del 10.0.1.1/32 dev lo".to_owned(),
        "ip addr add 10.0.1.99/32 dev lo".to_owned(),
        format!("ip link set {device} down"),
        format!("ip link set {device} mtu 1500"),
        "ip link set lo down".to_owned(),
    ] {
        run(lab.fabric.namespace(), &damage);
        let report = lab.fabric.repair().unwrap();
        assert!(report.changed > 0, "nothing was wrong after: {damage}");
        assert!(state(&lab) == before, "after {damage}:\n{}\ninstead of\n{before}", state(&lab));
        assert!(talk.goes_on(PATIENCE), "after: {damage}");
        assert_eq!(lab.fabric.repair().unwrap().changed, 0, "after: {damage}");
    }
}

#[test]
fn a_device_that_goes_is_missed_and_works_when_it_is_back() {
    let (mut lab, [one, two]) = pair();
    assert!(one.pings("10.0.2.4"));
    run(lab.fabric.namespace(), &format!("ip link del {}", device_name(id(2))));
    assert_eq!(lab.fabric.repair().unwrap().missing, [id(2)]);
    assert!(!one.pings("10.0.2.4"));
    two.plug(&mut lab, 2, "eth0");
    two.number(&["10.0.2.4"], "eth0");
    assert_eq!(lab.fabric.repair().unwrap().missing, []);
    assert!(one.pings("10.0.2.4"));
}

#[test]
fn a_device_that_is_made_anew_works_when_the_vpc_is_applied() {
    let (mut lab, [one, two]) = pair();
    run(lab.fabric.namespace(), &format!("ip link del {}", device_name(id(2))));
    lab.fabric.renew(id(2));
    two.plug(&mut lab, 2, "eth0");
    two.number(&["10.0.2.4"], "eth0");
    assert!(one.pings("10.0.2.4"));
}

#[test]
fn a_gateway_whose_device_goes_is_a_blackhole() {
    let (mut lab, [one, _]) = pair();
    let (internet, peer) = (Gateway::Internet(id(1)), Gateway::Peering(id(1)));
    let world = Namespace::create().unwrap();
    crate::lab::join(&world, "eth0", lab.fabric.namespace(), &internet.device_name());
    run(&world, "ip route add local 93.0.0.0/8 dev lo");
    run(&world, "ip route add local 100.64.0.0/10 dev lo");
    run(&world, "ip link set eth0 up");
    run(&world, "ip addr add 169.254.128.0/32 dev eth0");
    run(&world, "ip route add 10.0.0.0/16 via 10.0.1.1 dev eth0 onlink");
    run(lab.fabric.namespace(), &format!("ip link set {} up", internet.device_name()));
    let table = lab.vpc.route_tables.get_mut(&id(1)).unwrap();
    table.routes.insert(net("0.0.0.0/0"), Target::Gateway(internet));
    table.routes.insert(net("100.64.0.0/10"), Target::Gateway(peer));
    lab.vpc.gateways = [(internet, ip("169.254.128.0")), (peer, ip("169.254.128.2"))].into();
    lab.apply();
    // Its own way is not there; the other would lead to the wrong place.
    assert!(one.pings("93.184.216.34") && !one.pings("100.64.0.1"));
}

#[test]
fn a_namespace_is_found_again_with_all_flows() {
    let (mut lab, [one, two]) = pair();
    let listener = two.listen(80);
    let mut talk = Talk::between(&one, &listener, "10.0.2.4");
    let before = state(&lab);
    // Another process takes it up: it knows nothing of what is there, and puts the same into its place.
    lab.fabric = Fabric::open(&lab.pin()).unwrap();
    let report = lab.apply();
    assert_eq!((report.changed, report.missing.len()), (1, 0));
    assert_eq!(state(&lab), before);
    assert!(talk.goes_on(PATIENCE));
    // The file that kept it is gone: it is kept by another.
    let pin = lab.pin();
    attempt(&Namespace::current().unwrap(), &format!("umount -l {}", pin.display()));
    assert!(Namespace::pinned(&pin).unwrap().is_none());
    assert_eq!(lab.fabric.repair().unwrap().changed, 1);
    assert!(Namespace::pinned(&pin).unwrap().is_some());
    std::fs::remove_file(&pin).unwrap_err();
    Fabric::remove(&pin).unwrap();
    assert_eq!(lab.fabric.repair().unwrap().changed, 1);
    assert!(talk.goes_on(PATIENCE));
}

#[test]
fn a_removed_fabric_leaves_nothing() {
    let (lab, guests) = pair();
    let pin = lab.pin();
    let held = lab.fabric.namespace().try_clone().unwrap();
    drop(lab);
    assert!(!pin.exists());
    Fabric::remove(&pin).unwrap();
    // The last hold on it: the other ends of its devices go with it.
    drop(held);
    for guest in &guests {
        crate::lab::eventually("the device is gone", || !run(&guest.namespace, "ip link").contains("eth0"));
    }
}
