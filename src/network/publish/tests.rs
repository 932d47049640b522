use proptest::prelude::*;

use super::*;

#[test]
fn a_port_without_an_address_is_the_loopbacks() {
    for (text, shown) in [
        ("8080:80", "127.0.0.1:8080:80/tcp"),
        ("8080:80/tcp", "127.0.0.1:8080:80/tcp"),
        ("0.0.0.0:5353:53/udp", "0.0.0.0:5353:53/udp"),
        ("[::1]:8080:80", "[::1]:8080:80/tcp"),
        ("0:22", "127.0.0.1:0:22/tcp"),
    ] {
        assert_eq!(text.parse::<Publish>().unwrap().to_string(), shown);
    }
}

#[test]
fn what_is_no_port_is_refused_with_what_is_wrong() {
    for (text, reason) in [
        ("80", "only one port"),
        ("", "only one port"),
        ("80:", "guest's port is not"),
        (":80", "host's port is not"),
        ("65536:80", "host's port is not"),
        ("+80:80", "host's port is not"),
        ("80:0", "guest's port is 0"),
        ("80:80/sctp", "neither tcp nor udp"),
        ("localhost:80:80", "address is not one"),
        ("::1:80:80", "stands in brackets"),
        ("[::1:80:80", "bracket is not closed"),
    ] {
        let error = text.parse::<Publish>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

proptest! {
    #[test]
    fn text_gives_the_port_back(address: IpAddr, host: u16, guest in 1u16.., udp: bool) {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let publish = Publish { listen: SocketAddr::new(address, host), guest_port: guest, protocol };
        prop_assert_eq!(publish.to_string().parse::<Publish>().unwrap(), publish);
    }

    #[test]
    fn any_text_is_parsed_without_a_panic(text in "[0-9:/\\[\\]a-z.]{0,30}|\\PC{0,20}") {
        let _ = text.parse::<Publish>();
    }
}
