//! A query of the guest to the resolver, by whichever transport.

use std::net::Ipv4Addr;

use network::dns::{Verdict, Zone};

const RESPONSE: u8 = 0x80;

fn zone() -> Zone {
    let range = "10.0.0.0/16".parse().expect("a range");
    let mut zone = Zone::new("ec2.internal", &[range]).expect("a domain");
    zone.add("ip-10-0-0-4", Ipv4Addr::new(10, 0, 0, 4)).expect("a label");
    zone
}

/// Answers one query.
pub fn run(data: &[u8]) {
    if let Verdict::Answer(answer) = zone().answer(data) {
        assert_eq!(answer.get(..2), data.get(..2), "the answer to another question");
        assert!(answer[2] & RESPONSE != 0, "two servers could go on for ever");
        assert!(answer.len() <= 1232, "an answer that no datagram takes");
    }
}

/// An address, a name, a missing name with EDNS.
pub fn seeds() -> Vec<Vec<u8>> {
    let query = |name: &[&str], kind: u8, additional: &[u8]| {
        let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!additional.is_empty())];
        for label in name {
            packet.push(u8::try_from(label.len()).expect("labels are short"));
            packet.extend(label.bytes());
        }
        packet.extend([0, 0, kind, 0, 1]);
        packet.extend(additional);
        packet
    };
    vec![
        query(&["ip-10-0-0-4", "ec2", "internal"], 1, &[]),
        query(&["4", "0", "0", "10", "in-addr", "arpa"], 12, &[]),
        query(&["nobody", "ec2", "internal"], 28, &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]),
    ]
}
