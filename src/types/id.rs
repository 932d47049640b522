//! Ids of resources, as AWS writes them: a prefix that names the kind, and 17 hexadecimal digits.
//!
//! An id is 68 random bits, so two machines never have to agree on the next one. Each kind is a type
//! of its own: a volume's id is not accepted where an instance's is asked for. The older ids of eight
//! digits are not read: nothing here ever issued one.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Hexadecimal digits after the prefix.
const DIGITS: usize = 17;
/// The bits that [`DIGITS`] digits can hold.
const MASK: u128 = (1 << (4 * DIGITS)) - 1;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of {kind}: expected `{prefix}` and {DIGITS} lower-case hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

fn parse_digits(digits: &str) -> Option<u128> {
    let well_formed =
        digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !well_formed {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}

fn draw(source: &mut impl Read) -> io::Result<u128> {
    let mut bytes = [0; 16];
    source.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes) & MASK)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What the text of every such id begins with.
            pub const PREFIX: &str = $prefix;

            /// A new id from 16 bytes of `source`, which should be `/dev/urandom` outside tests.
            ///
            /// # Errors
            /// Those of reading `source`.
            pub fn generate(source: &mut impl Read) -> io::Result<Self> {
                draw(source).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:017x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix).and_then(parse_digits).map(Self).ok_or_else(|| ParseIdError {
                    text: text.to_owned(),
                    kind: $kind,
                    prefix: $prefix,
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An image that instances are launched from.
    ImageId = "ami-", "an image";
    /// A virtual machine.
    InstanceId = "i-", "an instance";
    /// An interface that an instance has in a subnet.
    NetworkInterfaceId = "eni-", "a network interface";
    /// The launch that an instance was part of.
    ReservationId = "r-", "a reservation";
    /// A set of rules for what may reach an interface and leave it.
    SecurityGroupId = "sg-", "a security group";
    /// A sealed state of a volume.
    SnapshotId = "snap-", "a snapshot";
    /// A range of a VPC's addresses in one availability zone.
    SubnetId = "subnet-", "a subnet";
    /// A block device.
    VolumeId = "vol-", "a volume";
    /// A private network.
    VpcId = "vpc-", "a VPC";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_has_its_prefix_and_17_digits() {
        let id = InstanceId::generate(&mut [0xff; 16].as_slice()).unwrap();
        assert_eq!(id.to_string(), "i-fffffffffffffffff");
        let id = VolumeId::generate(&mut [0; 16].as_slice()).unwrap();
        assert_eq!(id.to_string(), "vol-00000000000000000");
    }

    #[test]
    fn a_source_that_runs_dry_gives_no_id() {
        assert!(InstanceId::generate(&mut [1, 2, 3].as_slice()).is_err());
    }

    #[test]
    fn what_is_not_an_id_is_refused_with_what_was_expected() {
        for text in [
            "",
            "i-",
            "i-0123456789abcdef",
            "i-0123456789abcdef00",
            "i-0123456789ABCDEF0",
            "i-+123456789abcdef0",
        ] {
            assert!(text.parse::<InstanceId>().is_err(), "{text:?} was accepted");
        }
        let error = "vol-0123456789abcdef0".parse::<InstanceId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"vol-0123456789abcdef0\" is not the id of an instance: \
             expected `i-` and 17 lower-case hexadecimal digits"
        );
    }

    proptest! {
        #[test]
        fn text_and_json_give_the_id_back(bytes: [u8; 16]) {
            let id = SubnetId::generate(&mut bytes.as_slice()).unwrap();
            prop_assert_eq!(id.to_string().parse::<SubnetId>().unwrap(), id);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<SubnetId>(&json).unwrap(), id);
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<NetworkInterfaceId>();
        }
    }
}
