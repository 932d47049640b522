use dhcproto::v4::{Decodable, Decoder, Encodable, Encoder, Flags};
use proptest::prelude::*;

use super::server::handle;
use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);
const UNSET: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn lease() -> Lease {
    let (mac, subnet) = (MacAddress::new([6, 0, 0, 0, 0, 4]), "10.0.0.0/20".parse().unwrap());
    Lease {
        resolvers: vec![Ipv4Addr::new(10, 0, 0, 2)],
        domain: "ec2.internal".into(),
        ..Lease::new(mac, ADDRESS, subnet, ROUTER, "ip-10-0-0-4".into(), 1500)
    }
}

/// A message of the guest; `ciaddr`, the option for a wanted address and the one for a server, if set.
fn message(kind: MessageType, ciaddr: Ipv4Addr, wanted: Ipv4Addr, server: Ipv4Addr) -> Message {
    let mut message = Message::new_with_id(7, ciaddr, UNSET, UNSET, UNSET, &lease().mac.octets());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    if !wanted.is_unspecified() {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(wanted));
    }
    if !server.is_unspecified() {
        message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
    }
    message
}

fn kind(answer: Option<Message>) -> Option<MessageType> {
    answer.and_then(|answer| answer.opts().msg_type())
}

#[test]
fn each_state_of_a_client_has_its_answer() {
    use MessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
    for (case, request, answer) in [
        ("init", message(Discover, UNSET, UNSET, UNSET), Some(Offer)),
        ("init, with a wish", message(Discover, UNSET, ELSEWHERE, UNSET), Some(Offer)),
        ("selecting us", message(Request, UNSET, ADDRESS, ROUTER), Some(Ack)),
        ("selecting us for another address", message(Request, UNSET, ELSEWHERE, ROUTER), Some(Nak)),
        ("selecting another server", message(Request, UNSET, ADDRESS, ELSEWHERE), None),
        ("rebooting here", message(Request, UNSET, ADDRESS, UNSET), Some(Ack)),
        ("rebooting from elsewhere", message(Request, UNSET, ELSEWHERE, UNSET), Some(Nak)),
        ("renewing or rebinding", message(Request, ADDRESS, UNSET, UNSET), Some(Ack)),
        ("renewing what is not ours", message(Request, ELSEWHERE, UNSET, UNSET), Some(Nak)),
        ("asking for no address", message(Request, UNSET, UNSET, UNSET), None),
        ("configured by hand", message(Inform, ADDRESS, UNSET, UNSET), Some(Ack)),
        ("configured wrongly by hand", message(Inform, ELSEWHERE, UNSET, UNSET), None),
        ("declining", message(Decline, UNSET, ADDRESS, ROUTER), None),
        ("releasing", message(Release, ADDRESS, UNSET, ROUTER), None),
        ("talking nonsense", message(Offer, UNSET, UNSET, UNSET), None),
    ] {
        assert_eq!(kind(reply(&lease(), &request)), answer, "{case}");
    }
}

#[test]
fn a_grant_has_the_address_and_an_inform_has_not() {
    let ack = reply(&lease(), &message(MessageType::Request, UNSET, ADDRESS, ROUTER)).unwrap();
    assert_eq!((ack.yiaddr(), ack.xid(), ack.opcode()), (ADDRESS, 7, Opcode::BootReply));
    assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(3600)));
    assert!(!ack.opts().contains(OptionCode::ClasslessStaticRoute));

    let inform = reply(&lease(), &message(MessageType::Inform, ADDRESS, UNSET, UNSET)).unwrap();
    assert_eq!((inform.yiaddr(), inform.ciaddr()), (UNSET, ADDRESS));
    assert!(!inform.opts().contains(OptionCode::AddressLeaseTime));
    assert!(inform.opts().contains(OptionCode::Router));

    let nak = reply(&lease(), &message(MessageType::Request, UNSET, ELSEWHERE, UNSET)).unwrap();
    assert_eq!(nak.yiaddr(), UNSET);
    assert!(!nak.opts().contains(OptionCode::Router));
}

#[test]
fn further_routes_repeat_the_default_one() {
    let metadata: Ipv4Net = "169.254.169.254/32".parse().unwrap();
    let lease = Lease { routes: vec![(metadata, UNSET)], ..lease() };
    let offer = reply(&lease, &message(MessageType::Discover, UNSET, UNSET, UNSET)).unwrap();
    let routes = vec![(Ipv4Net::default(), ROUTER), (metadata, UNSET)];
    assert_eq!(
        offer.opts().get(OptionCode::ClasslessStaticRoute),
        Some(&DhcpOption::ClasslessStaticRoute(routes))
    );
}

#[test]
fn what_is_not_the_guests_own_is_not_answered() {
    let discover = || message(MessageType::Discover, UNSET, UNSET, UNSET);
    let mut relayed = discover();
    relayed.set_giaddr(ELSEWHERE);
    let mut reply_of_a_server = discover();
    reply_of_a_server.set_opcode(Opcode::BootReply);
    let mut of_another = discover();
    of_another.set_chaddr(&[6, 0, 0, 0, 0, 5]);
    let mut bootp = discover();
    bootp.opts_mut().clear();
    for request in [relayed, reply_of_a_server, of_another, bootp] {
        assert_eq!(reply(&lease(), &request), None, "{request}");
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

#[test]
fn an_answer_goes_where_the_client_can_hear_it() {
    let to = |request: &Message| handle(&lease(), &encode(request)).map(|(_, to)| to);
    let discover = message(MessageType::Discover, UNSET, UNSET, UNSET);
    assert_eq!(to(&discover), Some(ADDRESS));
    let mut deaf = discover;
    deaf.set_flags(Flags::default().set_broadcast());
    assert_eq!(to(&deaf), Some(Ipv4Addr::BROADCAST));
    assert_eq!(to(&message(MessageType::Request, ADDRESS, UNSET, UNSET)), Some(ADDRESS));
    assert_eq!(to(&message(MessageType::Request, ELSEWHERE, UNSET, UNSET)), Some(Ipv4Addr::BROADCAST));
}

#[test]
fn an_answer_is_as_long_as_old_clients_need() {
    let (bytes, _) =
        handle(&lease(), &encode(&message(MessageType::Request, UNSET, ELSEWHERE, UNSET))).unwrap();
    assert_eq!(bytes.len(), 300);
    assert!(Message::decode(&mut Decoder::new(&bytes)).unwrap().opts().has_msg_type(MessageType::Nak));
}

#[test]
fn an_option_that_nobody_looks_at_may_have_any_length() {
    let discover = encode(&message(MessageType::Discover, UNSET, UNSET, UNSET));
    let (start, end) = discover.split_at(240);
    for code in (1..=254).filter(|code| ![50, 53, 54, 61].contains(code)) {
        for length in 0..6 {
            let option = [&[code, length][..], &[0xff; 6][..usize::from(length)]].concat();
            let packet = [start, &option, end].concat();
            assert!(handle(&lease(), &packet).is_some(), "option {code} of {length} bytes");
        }
    }
}

proptest! {
    #[test]
    fn any_packet_is_handled_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        handle(&lease(), &packet);
    }

    /// The guest's own messages with a few bytes changed, and cut somewhere.
    #[test]
    fn a_damaged_packet_is_handled_without_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut packet = encode(&message(MessageType::Request, UNSET, ADDRESS, ROUTER));
        for (index, byte) in changes {
            let at = index.index(packet.len());
            packet[at] = byte;
        }
        packet.truncate(length.index(packet.len() + 1));
        handle(&lease(), &packet);
    }
}
