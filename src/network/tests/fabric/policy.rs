//! Groups, ACLs, and who may send as whom, as guests see them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use network::policy::{
    Acl, Direction, DropReason, Group, Packet, Peer, Port, Ports, RouteTable, Target, Traffic, Transport,
    device_name,
};
use network::{METADATA, Namespace};

use crate::frame::{Wire, bytes_of, header};
use crate::lab::{
    Guest, Lab, PATIENCE, PING, SILENCE, Talk, entry, everywhere, id, interface, ip, letting_in, mac, mac_of,
    net, rule, run, socket, tcp, udp, vpc,
};

/// Guests 1 and 2 in one subnet and 3 in another, each in the group of its number. Group 1 lets nothing in.
fn three(groups: [Group; 3]) -> (Lab, [Guest; 3]) {
    let mut made = vpc();
    made.groups = (1..).zip(groups).map(|(number, group)| (id(number), group)).collect();
    let mut lab = Lab::new(made);
    let guests = [
        lab.guest(1, &["10.0.1.4"], &[1]),
        lab.guest(2, &["10.0.1.5"], &[2]),
        lab.guest(3, &["10.0.2.4"], &[3]),
    ];
    (lab, guests)
}

fn closed() -> Group {
    letting_in(&[])
}

#[test]
fn neighbours_and_other_subnets_are_reached_by_what_a_rule_names() {
    let web = letting_in(&[(tcp(80, 81), everywhere()), (PING, Peer::Range(net("10.0.1.0/24")))]);
    let (_lab, [one, two, three]) = three([closed(), web.clone(), web]);
    let _listeners: Vec<_> =
        [&two, &three].into_iter().flat_map(|guest| [80, 81, 82].map(|port| guest.listen(port))).collect();
    for to in ["10.0.1.5", "10.0.2.4"] {
        assert!(one.reaches(to, 80) && one.reaches(to, 81), "{to}");
        assert!(one.misses(to, 82), "{to}");
        assert!(one.pings(to), "{to}");
    }
    // Not from there: the rule's range is the other subnet's. Nor does anything get in where no rule is.
    assert!(!three.pings("10.0.1.5") && three.reaches("10.0.1.5", 80));
    let _listener = one.listen(80);
    assert!(two.misses("10.0.1.4", 80) && !two.pings("10.0.1.4"));
    // A whole jumbo frame, and no more than that.
    assert!(one.pings("-M do -s 8973 10.0.1.5") && !one.pings("-M do -s 8974 10.0.1.5"));
}

#[test]
fn egress_is_a_gate_of_its_own() {
    let out = Group {
        rules: vec![
            rule(1, Direction::Egress, tcp(80, 80), Peer::Range(net("10.0.2.0/24"))),
            rule(2, Direction::Egress, udp(53), everywhere()),
        ],
    };
    let open = letting_in(&[(Traffic::All, everywhere())]);
    let (_lab, [one, two, three]) = three([out, open.clone(), open]);
    let _listeners: Vec<_> =
        [(&two, 80), (&three, 80), (&three, 81)].map(|(guest, port)| guest.listen(port)).into();
    assert!(one.reaches("10.0.2.4", 80));
    assert!(one.misses("10.0.2.4", 81) && one.misses("10.0.1.5", 80) && !one.pings("10.0.2.4"));
    let client = socket(&one.namespace, "10.0.1.4", 0, PATIENCE);
    let server = socket(&two.namespace, "10.0.1.5", 53, PATIENCE);
    client.send_to(b"question", "10.0.1.5:53").unwrap();
    let mut word = [0; 16];
    let (_, from) = server.recv_from(&mut word).unwrap();
    // What it answers passes by the flow, though no rule lets it in.
    server.send_to(b"answer", from).unwrap();
    assert_eq!(client.recv_from(&mut word).unwrap().0, 6);
}

#[test]
fn a_group_as_source_is_the_addresses_of_who_is_in_it() {
    let from_clients = letting_in(&[(tcp(80, 80), Peer::Group(id(1))), (PING, Peer::Group(id(1)))]);
    let (mut lab, [one, two, three]) = three([closed(), closed(), from_clients]);
    let _listener = three.listen(80);
    assert!(one.reaches("10.0.2.4", 80) && one.pings("10.0.2.4"));
    assert!(two.misses("10.0.2.4", 80) && !two.pings("10.0.2.4"));
    // Who joins may, at once, also by an address that comes later.
    lab.vpc.interfaces.insert(id(2), interface(2, &["10.0.1.5", "10.0.1.6"], &[2, 1]));
    lab.apply();
    run(&two.namespace, "ip addr add 10.0.1.6/24 dev eth0");
    assert!(two.reaches("10.0.2.4", 80) && two.pings("-I 10.0.1.6 10.0.2.4"));
    // And who leaves may not.
    lab.vpc.interfaces.insert(id(2), interface(2, &["10.0.1.5"], &[2]));
    lab.apply();
    assert!(two.misses("10.0.2.4", 80));
}

#[test]
fn a_rule_that_goes_takes_its_flows_along_and_no_others() {
    let ports = |rules: &[u16]| {
        letting_in(&rules.iter().map(|port| (tcp(*port, *port), everywhere())).collect::<Vec<_>>())
    };
    let (mut lab, [one, two, three]) = three([closed(), ports(&[80, 81]), ports(&[80, 81])]);
    let listeners = [two.listen(80), two.listen(81), three.listen(80)];
    let mut talks: Vec<_> = listeners
        .iter()
        .zip(["10.0.1.5", "10.0.1.5", "10.0.2.4"])
        .map(|(listener, to)| Talk::between(&one, listener, to))
        .collect();
    assert!(talks.iter_mut().all(|talk| talk.goes_on(PATIENCE)));
    // A rule more: nobody notices.
    lab.group(2, ports(&[80, 81, 82]));
    lab.apply();
    assert!(talks.iter_mut().all(|talk| talk.goes_on(PATIENCE)));
    // One less: the flow that it alone had let in stands still, in both directions.
    lab.group(2, ports(&[81, 82]));
    lab.apply();
    let Talk { client, server } = &mut talks[0];
    assert!(!crate::lab::hear(client, server, SILENCE) && !crate::lab::hear(server, client, SILENCE));
    assert!(talks[1..].iter_mut().all(|talk| talk.goes_on(PATIENCE)));
    // Another rule for the same flow lets it go on where it stood.
    lab.group(2, letting_in(&[(tcp(1, 1000), Peer::Group(id(1)))]));
    lab.apply();
    crate::lab::eventually("the flow goes on", || {
        let Talk { client, server } = &mut talks[0];
        crate::lab::hear(client, server, SILENCE)
    });
}

#[test]
fn acls_are_read_in_order_and_remember_nothing() {
    let open = letting_in(&[(Traffic::All, everywhere())]);
    let (mut lab, [one, two, three]) = three([open.clone(), open.clone(), open]);
    let _listeners = [two.listen(80), three.listen(80), three.listen(81)];
    let (inward, outward) = (Direction::Ingress, Direction::Egress);
    let mut entries = vec![
        entry(inward, 90, false, tcp(81, 81), "10.0.1.4/32"),
        entry(inward, 100, true, tcp(0, 100), "10.0.1.0/24"),
        entry(inward, 110, false, tcp(80, 80), "0.0.0.0/0"),
        entry(outward, 100, true, tcp(0, 1023), "0.0.0.0/0"),
    ];
    let apply = |lab: &mut Lab, entries: &[_]| {
        lab.vpc.acls.insert(id(2), Acl { entries: entries.to_vec() });
        lab.vpc.subnets.get_mut(&id(2)).unwrap().acl = id(2);
        lab.apply();
    };
    apply(&mut lab, &entries);
    // It gets in, and its answer not out.
    assert!(one.misses("10.0.2.4", 80));
    entries.push(entry(outward, 110, true, tcp(1024, 65_535), "10.0.0.0/16"));
    apply(&mut lab, &entries);
    assert!(one.reaches("10.0.2.4", 80));
    // The entry before is the one that counts, and it is of one address alone.
    assert!(one.misses("10.0.2.4", 81) && two.reaches("10.0.2.4", 81));
    assert!(!one.pings("10.0.2.4"));
    // Neighbours cross no edge.
    assert!(one.reaches("10.0.1.5", 80));
    // An open flow is stopped as any packet is.
    let listener = three.listen(82);
    let mut talk = Talk::between(&one, &listener, "10.0.2.4");
    assert!(talk.goes_on(PATIENCE));
    entries.insert(0, entry(inward, 10, false, tcp(82, 82), "0.0.0.0/0"));
    apply(&mut lab, &entries);
    assert!(!talk.goes_on(SILENCE));
}

#[test]
fn an_error_about_a_known_flow_is_not_a_packet_of_it() {
    let open = letting_in(&[(Traffic::All, everywhere())]);
    let (mut lab, [one, _two, three]) = three([open.clone(), open.clone(), open]);
    let apply = |lab: &mut Lab, outward: Traffic| {
        let entries = vec![
            entry(Direction::Ingress, 100, true, Traffic::All, "0.0.0.0/0"),
            entry(Direction::Egress, 100, true, outward, "0.0.0.0/0"),
        ];
        lab.vpc.acls.insert(id(2), Acl { entries });
        lab.vpc.subnets.get_mut(&id(2)).unwrap().acl = id(2);
        lab.apply();
    };
    let client = socket(&one.namespace, "10.0.1.4", 0, PATIENCE);
    client.connect("10.0.2.4:53").unwrap();
    let known_flow = || {
        let server = socket(&three.namespace, "10.0.2.4", 53, PATIENCE);
        for _ in 0..2 {
            client.send(b"word").unwrap();
            let (length, peer) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(&[0; 8][..length], peer).unwrap();
            assert_eq!(client.recv(&mut [0; 8]).unwrap(), length);
        }
    };
    let is_refused = |patience| {
        client.set_read_timeout(Some(patience)).unwrap();
        client.send(b"word").unwrap();
        let answer = client.recv(&mut [0; 8]);
        answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    apply(&mut lab, Traffic::Udp(Ports { first: 0, last: 65_535 }));
    known_flow();
    // Nobody listens any more, and the guest says so by ICMP, which its subnet does not let out.
    assert!(!is_refused(SILENCE));
    apply(&mut lab, Traffic::All);
    known_flow();
    assert!(is_refused(PATIENCE));
}

#[test]
fn flows_go_on_when_a_set_outgrows_its_room() {
    let (mut lab, [one, two, _three]) =
        three([closed(), letting_in(&[(tcp(80, 80), everywhere())]), closed()]);
    let listener = two.listen(80);
    let mut talk = Talk::between(&one, &listener, "10.0.1.5");
    for members in [3, 300, 3] {
        let addresses = (0..members).map(|number| Ipv4Addr::from(0xac10_0000 + number)).collect();
        lab.vpc.peer_members.insert(id(9), addresses);
        lab.group(3, letting_in(&[(tcp(81, 81), Peer::Group(id(9)))]));
        lab.apply();
        assert!(talk.goes_on(PATIENCE), "{members} members");
        assert!(one.misses("10.0.2.4", 81) && one.reaches("10.0.1.5", 80), "{members} members");
    }
}

#[test]
fn fragments_are_judged_as_what_they_are_of() {
    let (_lab, [one, two, _]) = three([closed(), letting_in(&[(udp(53), everywhere())]), closed()]);
    // The sender cuts its packets for a smaller network.
    run(&one.namespace, "ip link set eth0 mtu 1500");
    let client = socket(&one.namespace, "10.0.1.4", 0, PATIENCE);
    let allowed = socket(&two.namespace, "10.0.1.5", 53, PATIENCE);
    let denied = socket(&two.namespace, "10.0.1.5", 54, SILENCE);
    let (sent, mut received) = (vec![7; 4000], vec![0; 5000]);
    client.send_to(&sent, "10.0.1.5:54").unwrap();
    client.send_to(&sent, "10.0.1.5:53").unwrap();
    assert_eq!(allowed.recv(&mut received).unwrap(), sent.len());
    assert!(denied.recv(&mut received).is_err());
    let counters = run(&two.namespace, "nstat -asz IpReasmReqds");
    let fragments = counters.lines().find_map(|line| line.strip_prefix("IpReasmReqds")).map(str::trim);
    assert_eq!(fragments.and_then(|text| text.split_whitespace().next()), Some("3"), "{counters}");
}

#[test]
fn who_says_to_be_another_is_not_heard() {
    let open = letting_in(&[(Traffic::All, everywhere())]);
    let (lab, [one, two, _]) = three([open.clone(), open.clone(), open]);
    let server = socket(&two.namespace, "10.0.1.5", 53, SILENCE);
    let mut word = [0; 8];
    let mut hears = |from: &Guest, source: &str| {
        let client = socket(&from.namespace, source, 0, SILENCE);
        client.send_to(b"word", "10.0.1.5:53").unwrap();
        server.recv(&mut word).is_ok()
    };
    assert!(hears(&one, "10.0.1.4"));
    run(&one.namespace, "ip addr add 10.0.2.4/32 dev eth0");
    run(&one.namespace, "ip addr add 10.0.1.77/32 dev eth0");
    assert!(!hears(&one, "10.0.2.4") && !hears(&one, "10.0.1.77"));
    run(&one.namespace, "ip link set eth0 address 06:00:00:00:00:02");
    assert!(!hears(&one, "10.0.1.4"));
    run(&one.namespace, &format!("ip link set eth0 address {}", mac(1)));
    assert!(hears(&one, "10.0.1.4"));
    // Nor does it answer for another: the router knows its neighbours and asks nobody, and keeps nothing of what it is told.
    run(&one.namespace, "ip neigh flush all");
    assert!(hears(&one, "10.0.1.4"));
    let known = run(lab.fabric.namespace(), "ip -br neigh");
    assert!(!known.contains("10.0.1.77"), "{known}");
}

#[test]
fn what_is_dropped_is_counted_by_its_reason() {
    let open = letting_in(&[(Traffic::All, everywhere())]);
    let (mut lab, [one, _two, three]) = three([closed(), closed(), open]);
    let denying = entry(Direction::Ingress, 10, false, udp(54), "0.0.0.0/0");
    lab.vpc.acls.get_mut(&id(1)).unwrap().entries.insert(0, denying);
    let to_three = (net("192.0.2.0/24"), Target::Interface(id(3)));
    lab.vpc.route_tables.insert(id(1), RouteTable { routes: [to_three].into() });
    lab.apply();
    let sends = |from: &Guest, source: &str, to: &str| {
        let socket = socket(&from.namespace, source, 0, SILENCE);
        socket.send_to(b"word", to).unwrap();
    };
    run(&one.namespace, "ip addr add 10.0.1.77/32 dev eth0");
    let cases: [(DropReason, &dyn Fn()); 5] = [
        (DropReason::Spoofed, &|| sends(&one, "10.0.1.77", "10.0.2.4:53")),
        (DropReason::Group, &|| sends(&three, "10.0.2.4", "10.0.1.4:53")),
        (DropReason::Acl, &|| sends(&one, "10.0.1.4", "10.0.2.4:54")),
        (DropReason::Unanswered, &|| sends(&one, "10.0.1.4", "10.0.1.1:9")),
        (DropReason::DestinationCheck, &|| sends(&one, "10.0.1.4", "192.0.2.9:53")),
    ];
    for (reason, act) in cases {
        let before = lab.fabric.dropped().unwrap();
        act();
        crate::lab::eventually(reason.name(), || lab.fabric.dropped().unwrap()[&reason] > before[&reason]);
    }
}

/// A guest that sends as much as it can, in the names of others and in its own, to an address in its group.
#[test]
fn a_flood_of_one_guest_leaves_room_for_its_neighbours() {
    let open = letting_in(&[(Traffic::All, everywhere())]);
    let (mut lab, [_one, two, three]) = three([open.clone(), open.clone(), open]);
    lab.vpc.interfaces.insert(id(4), interface(4, &["10.0.1.6"], &[2]));
    let mut wire = Wire::new(lab.fabric.namespace(), &device_name(id(4)), mac(4));
    lab.apply();
    let router = mac_of(lab.fabric.namespace(), &device_name(id(4)));
    let listener = three.listen(80);
    let before = lab.fabric.dropped().unwrap()[&DropReason::Spoofed];
    let mut sent = 0u32;
    std::thread::scope(|scope| {
        let neighbours = scope.spawn(|| {
            let mut talk = Talk::between(&two, &listener, "10.0.2.4");
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(1) {
                assert!(talk.goes_on(PATIENCE));
                talk = Talk::between(&two, &listener, "10.0.2.4");
            }
        });
        while !neighbours.is_finished() {
            sent += 1;
            let source = if sent.is_multiple_of(2) { ip("10.0.1.6") } else { Ipv4Addr::from(sent) };
            let [low, high, ..] = sent.to_le_bytes();
            let transport = Transport::Udp { source: u16::from_le_bytes([low, high]), destination: 9 };
            let packet = Packet { source, destination: ip("10.0.2.4"), transport };
            wire.send(router, &bytes_of(&packet, 0, 0));
        }
        neighbours.join().unwrap();
    });
    assert!(sent > 5_000, "{sent} packets are no flood");
    let spoofed = lab.fabric.dropped().unwrap()[&DropReason::Spoofed] - before;
    assert!(spoofed >= u64::from(sent / 2), "{spoofed} of {sent} were counted");
}

#[test]
fn arp_is_answered_for_all_that_is_there_and_taken_from_nobody_else() {
    let mut made = vpc();
    made.interfaces.insert(id(1), interface(1, &["10.0.1.4"], &[]));
    made.interfaces.insert(id(2), interface(2, &["10.0.1.5"], &[]));
    let mut lab = Lab::new(made);
    let device = |number| device_name(id(number));
    let mut wires = [1, 2].map(|number| Wire::new(lab.fabric.namespace(), &device(number), mac(number)));
    lab.apply();
    let [wire, _] = &mut wires;
    const ARP: [u8; 2] = [8, 6];
    let mut asks = |sender_mac: u8, sender: &str, wanted: &str| {
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend(mac(sender_mac).octets());
        request.extend(ip(sender).octets());
        request.extend([0; 6]);
        request.extend(ip(wanted).octets());
        wire.received(ARP);
        wire.send_from(mac(1), ARP, &request);
        wire.received(ARP)
            .iter()
            .filter(|reply| reply[7] == 2 && reply[14..18] == ip(wanted).octets())
            .count()
    };
    for wanted in ["10.0.1.1", "10.0.1.5", "10.0.0.2", "169.254.169.254"] {
        assert_eq!(asks(1, "10.0.1.4", wanted), 1, "{wanted}");
    }
    // Its own address, and one that nobody has.
    assert_eq!(asks(1, "10.0.1.4", "10.0.1.4") + asks(1, "10.0.1.4", "10.0.1.9"), 0);
    for (sender_mac, sender) in [(1, "10.0.1.5"), (2, "10.0.1.4"), (1, "10.0.7.7")] {
        assert_eq!(asks(sender_mac, sender, "10.0.1.1"), 0, "{sender}");
    }
    let known = run(lab.fabric.namespace(), "ip neigh");
    assert!(
        !known.contains("10.0.7.7")
            && known.contains("10.0.1.5 dev tap000000000002 lladdr 06:00:00:00:00:02 PERMANENT"),
        "{known}"
    );
}

#[test]
fn the_vpc_itself_answers_whatever_groups_say() {
    let nothing = Group::default();
    let (lab, [one, two, _]) = three([nothing.clone(), nothing.clone(), nothing]);
    let listen = |namespace: &Namespace, port| {
        namespace.run(|| std::net::TcpListener::bind((METADATA, port))).unwrap().unwrap()
    };
    let _metadata = [listen(lab.fabric.namespace(), 80), listen(lab.fabric.namespace(), 81)];
    assert!(one.reaches("169.254.169.254", 80) && two.reaches("169.254.169.254", 80));
    assert!(one.misses("169.254.169.254", 81) && one.misses("10.0.1.1", 80));
}

#[test]
fn services_in_the_vpc_have_groups_as_all_have() {
    let web = letting_in(&[(tcp(80, 80), Peer::Group(id(1))), (udp(53), Peer::Group(id(1)))]);
    let (mut lab, [one, two, three]) = three([closed(), web, closed()]);
    let mut service = interface(9, &["10.0.2.9"], &[2]);
    service.port = Port::Local;
    lab.vpc.interfaces.insert(id(9), service);
    let mut other = interface(10, &["10.0.1.10"], &[1]);
    other.port = Port::Local;
    lab.vpc.interfaces.insert(id(10), other);
    lab.apply();
    let inside = Guest { namespace: lab.fabric.namespace().try_clone().unwrap() };
    let listener = inside.listen(80);
    // In: by its group's rules, and by its subnet's ACL.
    let mut talk = Talk::between(&one, &listener, "10.0.2.9");
    assert!(talk.goes_on(PATIENCE));
    assert!(three.misses("10.0.2.9", 80));
    // Out: from its address, to who lets its group in; and from one service to another.
    let servers = [
        (socket(&two.namespace, "10.0.1.5", 53, SILENCE), "10.0.1.5:53"),
        (socket(lab.fabric.namespace(), "10.0.2.9", 53, SILENCE), "10.0.2.9:53"),
    ];
    for (server, at) in &servers {
        let hears = |from: &str| {
            let client = socket(lab.fabric.namespace(), from, 0, SILENCE);
            client.send_to(b"word", at).ok();
            server.recv(&mut [0; 4]).is_ok()
        };
        assert!(hears("10.0.1.10") && !hears("10.0.2.9"), "{at}");
    }
    lab.group(2, closed());
    lab.apply();
    assert!(!talk.goes_on(SILENCE));
}

#[test]
fn two_vpcs_may_have_the_same_addresses() {
    let open = || {
        let all = letting_in(&[(Traffic::All, everywhere())]);
        let mut made = vpc();
        made.groups = [(id(1), all)].into();
        let mut lab = Lab::new(made);
        let guests = [lab.guest(1, &["10.0.1.4"], &[1]), lab.guest(2, &["10.0.1.5"], &[1])];
        (lab, guests)
    };
    let (_first, [one, one_server]) = open();
    let (_second, [other, other_server]) = open();
    let listeners = [one_server.listen(80), other_server.listen(80)];
    let mut talks =
        [Talk::between(&one, &listeners[0], "10.0.1.5"), Talk::between(&other, &listeners[1], "10.0.1.5")];
    assert!(talks.iter_mut().all(|talk| talk.goes_on(PATIENCE)));
    drop(listeners);
    assert!(one.connect("10.0.1.5", 80, PATIENCE).is_err());
}

#[test]
fn an_answer_that_nobody_asked_for_is_dropped() {
    let mut made = vpc();
    made.groups = [(id(1), letting_in(&[(Traffic::All, everywhere())]))].into();
    for number in [1, 2] {
        let address = format!("10.0.1.{}", 3 + number);
        made.interfaces.insert(id(number), interface(number, &[&address], &[1]));
    }
    let mut lab = Lab::new(made);
    let namespace = lab.fabric.namespace();
    let mut wires =
        [1, 2].map(|number| Wire::new(namespace, &network::policy::device_name(id(number)), mac(number)));
    let router = run(namespace, "ip -br link show tap000000000001");
    let router = router.split_whitespace().nth(2).unwrap().parse().unwrap();
    lab.apply();
    wires[1].packets();
    // An echo's reply, and then what begins something.
    for (kind, expected) in [(0u8, 0), (8, 1)] {
        let body = [kind, 0, !kind, 0xff, 0, 0, 0, 0];
        let packet = [header(ip("10.0.1.4"), ip("10.0.1.5"), 1, 1, body.len()), body.to_vec()].concat();
        wires[0].send(router, &packet);
        assert_eq!(wires[1].packets().len(), expected, "type {kind}");
    }
}
