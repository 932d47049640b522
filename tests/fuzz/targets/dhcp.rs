//! A packet of the guest to the DHCP server.

use std::net::Ipv4Addr;
use std::time::Duration;

use network::dhcp::{Lease, handle};
use types::MacAddress;

const MAC: [u8; 6] = [6, 0, 0, 0, 0, 4];
/// Operation, and the transaction's number, in a message (RFC 2131, figure 1).
const BOOT_REPLY: u8 = 2;
const XID: std::ops::Range<usize> = 4..8;

fn lease() -> Lease {
    Lease {
        mac: MacAddress::new(MAC),
        address: Ipv4Addr::new(10, 0, 0, 4),
        subnet: "10.0.0.0/20".parse().expect("a range"),
        router: Ipv4Addr::new(10, 0, 0, 1),
        resolvers: vec![Ipv4Addr::new(10, 0, 0, 2)],
        host_name: "ip-10-0-0-4".into(),
        domain: "ec2.internal".into(),
        mtu: 1500,
        duration: Duration::from_secs(3600),
        routes: vec![("10.1.0.0/16".parse().expect("a range"), Ipv4Addr::UNSPECIFIED)],
    }
}

/// Answers one packet.
pub fn run(data: &[u8]) {
    if let Some((answer, _)) = handle(&lease(), data) {
        assert_eq!(answer.first(), Some(&BOOT_REPLY));
        assert_eq!(answer.get(XID), data.get(XID), "the answer to another question");
    }
}

/// A DISCOVER, a REQUEST, an INFORM.
pub fn seeds() -> Vec<Vec<u8>> {
    let message = |kind: u8, options: &[u8]| {
        let mut packet = vec![0; 236];
        packet[..3].copy_from_slice(&[1, 1, 6]);
        packet[XID].copy_from_slice(&[0, 0, 0, 7]);
        packet[28..34].copy_from_slice(&MAC);
        packet.extend([99, 130, 83, 99, 53, 1, kind]);
        packet.extend(options);
        packet.push(255);
        packet
    };
    vec![
        message(1, &[55, 5, 1, 3, 6, 15, 121, 61, 7, 1, 6, 0, 0, 0, 0, 4]),
        message(3, &[50, 4, 10, 0, 0, 4, 54, 4, 10, 0, 0, 1, 12, 2, b'v', b'm']),
        message(8, &[]),
    ]
}
