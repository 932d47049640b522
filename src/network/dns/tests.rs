use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);

fn zone() -> Zone {
    let mut zone = Zone::new("ec2.internal", &["10.0.0.0/16".parse().unwrap()]).unwrap();
    zone.add("ip-10-0-0-4", ADDRESS).unwrap();
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answer(query: &Message) -> Option<Message> {
    match zone().answer(&query.to_vec().unwrap()) {
        Verdict::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Verdict::Forward => None,
        Verdict::Ignore => panic!("{query} was ignored"),
    }
}

#[test]
fn a_name_of_the_zone_has_its_address_in_any_case() {
    for name in ["ip-10-0-0-4.ec2.internal.", "IP-10-0-0-4.EC2.Internal."] {
        let answer = answer(&query(name, RecordType::A)).unwrap();
        assert_eq!(answer.answers[0].data, RData::A(ADDRESS.into()));
        // The spelling comes back as it was sent, for clients that check it.
        assert_eq!(answer.queries[0].name().to_ascii(), name);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.metadata.id, 7);
    }
}

#[test]
fn a_name_without_such_a_record_is_not_an_absent_name() {
    let answer = |name, kind| {
        let answer = answer(&query(name, kind)).unwrap();
        assert!(answer.answers.is_empty() && answer.authorities.len() == 1, "{answer}");
        answer.metadata.response_code
    };
    assert_eq!(answer("ip-10-0-0-4.ec2.internal.", RecordType::AAAA), ResponseCode::NoError);
    assert_eq!(answer("ec2.internal.", RecordType::A), ResponseCode::NoError);
    assert_eq!(answer("ip-10-0-0-5.ec2.internal.", RecordType::A), ResponseCode::NXDomain);
    assert_eq!(answer("a.ip-10-0-0-4.ec2.internal.", RecordType::A), ResponseCode::NXDomain);
    assert_eq!(answer("5.0.0.10.in-addr.arpa.", RecordType::PTR), ResponseCode::NXDomain);
}

#[test]
fn a_name_of_another_domain_leads_where_it_is_said_to() {
    let mut zone = zone();
    zone.add_other("ec2-198-18-0-5.compute-1.amazonaws.com", ADDRESS).unwrap();
    let names = super::Names::new(zone);
    let ask = |name, kind| match names.answer(&query(name, kind).to_vec().unwrap()) {
        Verdict::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap().answers),
        _ => None,
    };
    let found = ask("ec2-198-18-0-5.compute-1.amazonaws.com.", RecordType::A).unwrap();
    assert_eq!(found[0].data, RData::A(ADDRESS.into()));
    // Its other records are not said to be anywhere else; its neighbours are somebody else's.
    assert_eq!(ask("ec2-198-18-0-5.compute-1.amazonaws.com.", RecordType::AAAA), Some(Vec::new()));
    assert_eq!(ask("ec2-198-18-0-6.compute-1.amazonaws.com.", RecordType::A), None);
    names.replace(self::zone());
    assert_eq!(ask("ec2-198-18-0-5.compute-1.amazonaws.com.", RecordType::A), None);
}

#[test]
fn a_name_with_several_addresses_has_them_all_and_each_is_the_first_now_and_then() {
    let (name, addresses) =
        ("shop-1.us-east-1.elb.amazonaws.com", [5, 6, 7].map(|at| Ipv4Addr::new(198, 18, 0, at)));
    let mut zone = Zone::default();
    zone.add_several(name, &addresses).unwrap();
    let mut firsts = Vec::new();
    for number in 0..3 {
        let mut query = query(&format!("{name}."), RecordType::A);
        query.metadata.id = number;
        let Verdict::Answer(bytes) = zone.answer(&query.to_vec().unwrap()) else { panic!("{query}") };
        let answers = Message::from_vec(&bytes).unwrap().answers;
        let mut found: Vec<_> = answers.iter().map(|answer| answer.data.clone()).collect();
        firsts.push(found[0].clone());
        found.sort_by_key(ToString::to_string);
        assert_eq!(found, addresses.map(|address| RData::A(address.into())));
    }
    assert_eq!(firsts, addresses.map(|address| RData::A(address.into())));
}

#[test]
fn a_zone_without_a_domain_knows_its_names_and_no_others() {
    let mut zone = Zone::default();
    assert!(zone.add("ip-10-0-0-4", ADDRESS).is_err());
    zone.add_both("ec2-198-18-0-5.compute-1.amazonaws.com", ADDRESS).unwrap();
    let ask = |name, kind| match zone.answer(&query(name, kind).to_vec().unwrap()) {
        Verdict::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        _ => None,
    };
    let found = ask("ec2-198-18-0-5.compute-1.amazonaws.com.", RecordType::A).unwrap();
    assert_eq!(found.answers[0].data, RData::A(ADDRESS.into()));
    let back = ask("4.0.0.10.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(back.answers[0].data.to_string(), "ec2-198-18-0-5.compute-1.amazonaws.com.");
    let absent = ask("ec2-198-18-0-5.compute-1.amazonaws.com.", RecordType::AAAA).unwrap();
    assert_eq!((absent.answers.len(), absent.authorities.len()), (0, 1));
    assert_eq!(absent.metadata.response_code, ResponseCode::NoError);
    for other in ["ec2-198-18-0-6.compute-1.amazonaws.com.", "5.0.0.10.in-addr.arpa.", "."] {
        assert!(ask(other, RecordType::A).is_none(), "{other}");
    }
    let refused = zone::refused(&query("example.org.", RecordType::A).to_vec().unwrap()).unwrap();
    let refused = Message::from_vec(&refused).unwrap();
    assert_eq!((refused.metadata.id, refused.metadata.response_code), (7, ResponseCode::Refused));
    assert!(!refused.metadata.recursion_available && refused.queries.len() == 1);
}

#[test]
fn the_reverse_of_the_range_is_known() {
    let answer = answer(&query("4.0.0.10.in-addr.arpa.", RecordType::PTR)).unwrap();
    assert_eq!(answer.answers[0].data.to_string(), "ip-10-0-0-4.ec2.internal.");
}

#[test]
fn names_of_others_are_forwarded() {
    for name in
        ["example.org.", "xec2.internal.", "internal.", ".", "4.0.0.11.in-addr.arpa.", "10.in-addr.arpa."]
    {
        assert_eq!(answer(&query(name, RecordType::A)), None, "{name}");
    }
}

#[test]
fn edns_is_answered_with_edns() {
    let mut query = query("ip-10-0-0-4.ec2.internal.", RecordType::A);
    assert!(answer(&query).unwrap().edns.is_none());
    query.set_edns(Edns::new());
    assert!(answer(&query).unwrap().edns.is_some());
}

#[test]
fn what_is_not_a_query_gets_no_answer_and_what_is_no_good_one_an_error() {
    let mut response = query("example.org.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(zone().answer(&response.to_vec().unwrap()), Verdict::Ignore);
    assert_eq!(zone().answer(b"short"), Verdict::Ignore);

    let code = |bytes: &[u8]| match zone().answer(bytes) {
        Verdict::Answer(answer) => Message::from_vec(&answer).unwrap().metadata.response_code,
        other => panic!("{other:?}"),
    };
    let mut cut = query("example.org.", RecordType::A).to_vec().unwrap();
    cut.truncate(15);
    assert_eq!(code(&cut), ResponseCode::FormErr);
    let mut update = query("example.org.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update.to_vec().unwrap()), ResponseCode::NotImp);
    let mut two = query("example.org.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(code(&two.to_vec().unwrap()), ResponseCode::FormErr);
}

#[test]
fn resolvers_are_read_as_the_c_library_reads_them() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let text = "# comment\nnameserver 192.0.2.1\nsearch example\n nameserver\t2001:db8::1 \nnameserver none\n\
                nameserver 192.0.2.3\nnameserver 192.0.2.4\n";
    assert_eq!(forward::parse(text), [at("192.0.2.1:53"), at("[2001:db8::1]:53"), at("192.0.2.3:53")]);
    assert_eq!(forward::parse("options edns0\n"), [at("127.0.0.1:53")]);
}

#[test]
fn what_cannot_be_a_name_is_refused() {
    assert!(Zone::new("bad..name", &["10.0.0.0/16".parse().unwrap()]).is_err());
    assert!(zone().add(&"x".repeat(64), ADDRESS).is_err());
}

proptest! {
    #[test]
    fn any_packet_is_judged_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..300)) {
        zone().answer(&packet);
        zone::failure(&packet);
    }

    #[test]
    fn a_damaged_query_is_judged_without_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut packet = query("ip-10-0-0-4.ec2.internal.", RecordType::A).to_vec().unwrap();
        for (index, byte) in changes {
            let at = index.index(packet.len());
            packet[at] = byte;
        }
        if let Verdict::Answer(answer) = zone().answer(&packet) {
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }

    #[test]
    fn any_resolv_conf_names_someone(text in "(nameserver |[0-9.:a-f]{1,12}|\n|\\PC){0,40}") {
        let found = forward::parse(&text).len();
        prop_assert!((1..=3).contains(&found));
    }
}
