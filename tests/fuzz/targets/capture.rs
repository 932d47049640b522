//! A frame of the guest's in a packet of a capture, as its reader tells, filters and keeps it.

use network::capture::{Direction, Filter, Packet, Writer};
use vmm::virtio::net::Record;

/// Reads one packet, with a filter before it whose length the first byte tells.
pub fn run(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (text, packet) = rest.split_at(usize::from(*length).min(rest.len()));
    let filter = str::from_utf8(text).ok().and_then(|text| text.parse::<Filter>().ok()).unwrap_or_default();
    let Some((record, frame)) = Record::decode(packet) else { return };
    let parsed = Packet::parse(frame, record.length);
    assert!(parsed.to_string().len() < 256, "a line of no end");
    let is_wanted = [Direction::In, Direction::Out].map(|direction| filter.wants(&parsed, direction));
    if is_wanted != [false; 2] {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "fuzz", &[]).expect("memory takes all");
        writer.packet(0, record.time_ns, Direction::In, record.length, frame).expect("memory takes all");
        assert!(file.len().is_multiple_of(4));
    }
}

/// TCP, UDP, ICMP, ARP and IPv6, each with a filter.
pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |filter: &str, ethertype: [u8; 2], payload: &[u8]| {
        let frame = [&[2; 12][..], &ethertype, payload].concat();
        let length = u32::try_from(frame.len()).expect("frames are short").to_le_bytes();
        let filter_bytes = u8::try_from(filter.len()).expect("filters are short");
        [&[filter_bytes][..], filter.as_bytes(), &[9; 8], &length, &[1, 0, 0, 0], &frame].concat()
    };
    let ipv4 = |protocol: u8| {
        let head = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 4, 10, 0, 0, 5];
        [&head[..], &[0, 80, 200, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x12, 0, 0, 0, 0, 0, 0]].concat()
    };
    vec![
        seed("tcp port 80 and not src net 10.1.0.0/16", [8, 0], &ipv4(6)),
        seed("udp or (dst host 10.0.0.5)", [8, 0], &ipv4(17)),
        seed("icmp", [8, 0], &ipv4(1)),
        seed(
            "arp and in",
            [8, 6],
            &[0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 4, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
        ),
        seed("ip6", [0x86, 0xdd], &[0x60; 60]),
    ]
}
