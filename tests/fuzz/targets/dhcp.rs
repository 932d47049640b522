//! A packet of the guest to the DHCP server.

use std::net::Ipv4Addr;

use network::dhcp::{Lease, handle};
use types::MacAddress;

const MAC: [u8; 6] = [6, 0, 0, 0, 0, 4];
/// Operation, and the transaction's number, in a message (RFC 2131, figure 1).
const BOOT_REPLY: u8 = 2;
const XID: std::ops::Range<usize> = 4..8;

fn lease() -> Lease {
    let [address, router, resolver] = [4, 1, 2].map(|last| Ipv4Addr::new(10, 0, 0, last));
    let range = |text: &str| text.parse().expect("a range");
    Lease {
        resolvers: vec![resolver],
        domain: "ec2.internal".into(),
        ntp_servers: vec![resolver],
        netbios_name_servers: vec![resolver],
        netbios_node_type: Some(2),
        routes: vec![(range("10.1.0.0/16"), Ipv4Addr::UNSPECIFIED)],
        ..Lease::new(MacAddress::new(MAC), address, range("10.0.0.0/20"), router, "ip-10-0-0-4".into(), 1500)
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
