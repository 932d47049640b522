//! The crate dhcproto, which we share nothing with, speaks for the other side.

use super::*;
use dhcproto::v4::{self, DhcpOption, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn reply_with(options: &[DhcpOption]) -> Vec<u8> {
    let (any, ours) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 7));
    let mut message = v4::Message::new_with_id(42, any, ours, any, any, &MAC);
    message.set_opcode(v4::Opcode::BootReply);
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message.to_vec().unwrap()
}

fn ack_with(options: &[DhcpOption]) -> Result<Lease, DhcpError> {
    let server = Ipv4Addr::new(10, 0, 0, 1);
    let always = [DhcpOption::MessageType(v4::MessageType::Ack), DhcpOption::ServerIdentifier(server)];
    Reply::parse(&reply_with(&[&always, options].concat())).map(|reply| {
        assert_eq!((reply.kind, reply.xid, reply.mac), (Kind::Ack, 42, MAC));
        reply.lease
    })
}

#[test]
fn another_implementation_reads_what_we_write() {
    let (address, server) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 1));
    let bytes = Request::Select { address, server }.encode(42, MAC, Duration::from_secs(3));
    assert!(bytes.len() >= LENGTH_MIN);
    let message = v4::Message::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!((message.xid(), message.secs(), message.chaddr()), (42, 3, MAC.as_slice()));
    let option = |code| message.opts().get(code).unwrap().clone();
    assert_eq!(option(OptionCode::MessageType), DhcpOption::MessageType(v4::MessageType::Request));
    assert_eq!(option(OptionCode::RequestedIpAddress), DhcpOption::RequestedIpAddress(address));
    assert_eq!(option(OptionCode::ServerIdentifier), DhcpOption::ServerIdentifier(server));

    let bytes = Request::Extend { address }.encode(42, MAC, Duration::ZERO);
    let message = v4::Message::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(message.ciaddr(), address);
    assert_eq!(message.opts().get(OptionCode::ServerIdentifier), None);
}

#[test]
fn a_plain_lease_has_a_default_route_and_the_usual_times() {
    let lease = ack_with(&[
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 0, 0, 2)]),
        DhcpOption::DomainName("ec2.internal".into()),
        DhcpOption::InterfaceMtu(9001),
        DhcpOption::AddressLeaseTime(3600),
    ])
    .unwrap();
    let everywhere = Prefix { address: Ipv4Addr::UNSPECIFIED, length: 0 };
    let want = Lease {
        address: Prefix { address: Ipv4Addr::new(10, 0, 0, 7), length: 24 },
        server: Ipv4Addr::new(10, 0, 0, 1),
        time: Duration::from_secs(3600),
        renewal: Duration::from_secs(1800),
        rebinding: Duration::from_secs(3150),
        routes: vec![Route { to: everywhere, gateway: Some(Ipv4Addr::new(10, 0, 0, 1)) }],
        dns: vec![Ipv4Addr::new(10, 0, 0, 2)],
        domain: Some("ec2.internal".into()),
        mtu: Some(9001),
    };
    assert_eq!(lease, want);
}

#[test]
fn classless_routes_replace_the_routers() {
    // 169.254.169.254/32 on the link, then everything through 10.0.0.1
    let value = vec![32, 169, 254, 169, 254, 0, 0, 0, 0, 0, 10, 0, 0, 1];
    let lease = ack_with(&[
        DhcpOption::Router(vec![Ipv4Addr::new(10, 9, 9, 9)]),
        DhcpOption::Unknown(v4::UnknownOption::new(OptionCode::from(121), value)),
    ])
    .unwrap();
    let shown: Vec<String> = lease.routes.iter().map(|r| format!("{} {:?}", r.to, r.gateway)).collect();
    assert_eq!(shown, ["169.254.169.254/32 None", "0.0.0.0/0 Some(10.0.0.1)"]);
    assert_eq!(lease.address.length, 32, "without a mask we are alone on the link");
}

#[test]
fn a_domain_cannot_smuggle_lines_into_resolv_conf() {
    let lease = ack_with(&[DhcpOption::DomainName("a\nnameserver 6.6.6.6".into())]).unwrap();
    assert_eq!(lease.domain, None);
}

#[test]
fn what_is_wrong_is_named() {
    let holes = DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0));
    assert_eq!(ack_with(&[holes]), Err(DhcpError::Option { code: 1, length: 4 }));
    let no_server = reply_with(&[DhcpOption::MessageType(v4::MessageType::Offer)]);
    assert_eq!(Reply::parse(&no_server), Err(DhcpError::Missing { code: 54 }));
    assert_eq!(Reply::parse(&no_server[..200]), Err(DhcpError::Short { length: 200 }));
}

proptest! {
    #[test]
    fn no_options_are_too_strange(options in prop::collection::vec(any::<u8>(), 0..300), fields: [u8; 32]) {
        let mut bytes = reply_with(&[]);
        bytes.truncate(240);
        bytes[108..140].copy_from_slice(&fields);
        bytes.extend([53, 1, 5, 54, 4, 10, 0, 0, 1, 52, 1, 3]);
        bytes.extend(options);
        let _ = Reply::parse(&bytes);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Reply::parse(&bytes);
    }

    #[test]
    fn every_mask_has_one_length(length in 0u8..=32) {
        prop_assert_eq!(prefix_length(netmask(length).to_be_bytes()), Some(length));
    }
}
