//! Hardware addresses of Ethernet interfaces.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use crate::text::as_text;

/// A 48-bit Ethernet address; its text is six pairs of lower-case hexadecimal digits: `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// A text that is not a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a hardware address: expected six pairs of hexadecimal digits, such as 02:00:00:00:00:01"
)]
pub struct ParseMacAddressError(String);

impl MacAddress {
    pub const BROADCAST: Self = Self([0xff; 6]);

    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// A new unicast address from six bytes of `source`, in the space that no vendor owns.
    ///
    /// # Errors
    /// Those of reading `source`.
    pub fn generate(source: &mut impl Read) -> io::Result<Self> {
        let mut octets = [0; 6];
        source.read_exact(&mut octets)?;
        // IEEE 802: bit 0 of the first octet marks a group, bit 1 an address not given by a vendor.
        octets[0] = octets[0] & !0b01 | 0b10;
        Ok(Self(octets))
    }

    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether this names a group of interfaces, as the broadcast address does.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacAddressError;

    fn from_str(text: &str) -> Result<Self, ParseMacAddressError> {
        parse(text).map(Self).ok_or_else(|| ParseMacAddressError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut pairs = text.split(':');
    for octet in &mut octets {
        let pair = pairs.next()?;
        if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *octet = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(octets)
}

as_text! { MacAddress }

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "0g:00:00:00:00:01",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn a_generated_address_is_unicast_and_local(bytes: [u8; 6]) {
            let mac = MacAddress::generate(&mut bytes.as_slice()).unwrap();
            prop_assert!(!mac.is_multicast());
            prop_assert_eq!(mac.octets()[0] & 0b10, 0b10);
        }

        #[test]
        fn text_and_json_give_the_address_back(octets: [u8; 6]) {
            let mac = MacAddress::new(octets);
            prop_assert_eq!(mac.to_string().to_uppercase().parse::<MacAddress>().unwrap(), mac);
            let json = serde_json::to_string(&mac).unwrap();
            prop_assert_eq!(serde_json::from_str::<MacAddress>(&json).unwrap(), mac);
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<MacAddress>();
        }
    }
}
