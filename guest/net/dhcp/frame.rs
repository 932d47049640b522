//! DHCP in UDP in IPv4, for a client that has no address yet and so no socket that could carry it.
//!
//! ```text
//! IPv4, 20 bytes:  0 version and header words   2 total length   8 TTL   9 protocol   10 checksum   12 from   16 to
//! UDP, 8 bytes:    0 from port   2 to port   4 length   6 checksum
//! ```

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// The packet from 0.0.0.0:68 to 255.255.255.255:67 that carries a message of at most 1,472 bytes.
pub fn wrap(message: &[u8]) -> Vec<u8> {
    let length = |headers: usize| u16::try_from(headers + message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0; IP_HEADER];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length(IP_HEADER + UDP_HEADER));
    packet[8] = 64;
    packet[9] = UDP;
    packet[16..20].fill(0xff);
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(CLIENT_PORT.to_be_bytes());
    packet.extend(SERVER_PORT.to_be_bytes());
    packet.extend(length(UDP_HEADER));
    // Zero is no checksum, which UDP over IPv4 allows.
    packet.extend([0; 2]);
    packet.extend(message);
    packet
}

/// The message in a packet to a DHCP client. The UDP checksum is not looked at: a virtual device may leave it to be
/// filled in by hardware that is not there.
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let words = packet.first().filter(|&&byte| byte >> 4 == 4).map(|byte| usize::from(byte & 15))?;
    let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
    let is_fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3fff != 0;
    if words < 5 || packet.get(9) != Some(&UDP) || is_fragment {
        return None;
    }
    let datagram = packet.get(words * 4..total)?;
    let to = u16::from_be_bytes(*datagram.get(2..)?.first_chunk()?);
    let length = usize::from(u16::from_be_bytes(*datagram.get(4..)?.first_chunk()?));
    if to != CLIENT_PORT {
        return None;
    }
    datagram.get(UDP_HEADER..length)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_header_sums_to_nothing() {
        assert_eq!(checksum(&wrap(b"hello")[..IP_HEADER]), 0);
    }

    #[test]
    fn only_packets_for_a_client_are_taken() {
        let mut packet = wrap(b"hello");
        assert_eq!(unwrap(&packet), None);
        packet[22..24].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        assert_eq!(unwrap(&packet), Some(b"hello".as_slice()));
        packet[6] = 0x20;
        assert_eq!(unwrap(&packet), None);
    }

    proptest! {
        #[test]
        fn no_packet_is_too_strange(mut packet in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = unwrap(&packet);
            if packet.len() > 9 {
                (packet[0], packet[6], packet[7], packet[9]) = (0x45, 0, 0, UDP);
                let _ = unwrap(&packet);
            }
        }
    }
}
