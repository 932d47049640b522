//! Ids of resources, as AWS writes them: a prefix that names the kind, and 17 hexadecimal digits. What AWS knows by an ARN alone has
//! an id of as many digits as that ends in, with a prefix of ours.
//!
//! An id is 64 or 68 random bits, so two machines never have to agree on the next one. Each kind is a type
//! of its own: a volume's id is not accepted where an instance's is asked for. The older ids of eight
//! digits are not read: nothing here ever issued one.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use crate::text::as_text;

/// Hexadecimal digits after the prefix, where nothing else is said.
const DIGITS: usize = 17;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of {kind}: expected `{prefix}` and {digits} lower-case hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    kind: &'static str,
    prefix: &'static str,
    digits: usize,
}

/// A text that is no resource's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of a resource")]
pub struct ParseResourceIdError {
    text: String,
}

fn parse_digits(digits: &str, count: usize) -> Option<u128> {
    let well_formed = digits.len() == count && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !well_formed {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}

/// An id that is made of random bytes.
pub trait RandomId: Sized {
    fn from_random(bytes: [u8; 16]) -> Self;

    /// A new id from 16 bytes of `source`, which should be `/dev/urandom` outside tests.
    ///
    /// # Errors
    /// Those of reading `source`.
    fn generate(source: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; 16];
        source.read_exact(&mut bytes)?;
        Ok(Self::from_random(bytes))
    }
}

macro_rules! digits {
    () => {
        DIGITS
    };
    ($digits:literal) => {
        $digits
    };
}

macro_rules! ids {
    ($($(#[$doc:meta])* $variant:ident: $name:ident = $prefix:literal, $kind:literal $(, $digits:literal)?;)*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What the text of every such id begins with.
            pub const PREFIX: &str = $prefix;

            /// How many hexadecimal digits come after it.
            pub const DIGITS: usize = digits!($($digits)?);

            fn read(text: &str) -> Option<Self> {
                parse_digits(text.strip_prefix($prefix)?, Self::DIGITS).map(Self)
            }
        }

        impl RandomId for $name {
            fn from_random(bytes: [u8; 16]) -> Self {
                Self(u128::from_le_bytes(bytes) & ((1 << (4 * Self::DIGITS)) - 1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:0digits$x}"), self.0, digits = Self::DIGITS)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Self::read(text).ok_or_else(|| ParseIdError {
                    text: text.to_owned(),
                    kind: $kind,
                    prefix: $prefix,
                    digits: Self::DIGITS,
                })
            }
        }

        as_text! { $name }
    )*

        /// The id of any resource.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ResourceId {
            $($variant($name),)*
        }

        impl fmt::Display for ResourceId {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(id) => fmt::Display::fmt(id, f),)*
                }
            }
        }

        impl FromStr for ResourceId {
            type Err = ParseResourceIdError;

            /// No two kinds have texts in common, though one's prefix may begin another's.
            fn from_str(text: &str) -> Result<Self, ParseResourceIdError> {
                $(if let Some(id) = $name::read(text) {
                    return Ok(Self::$variant(id));
                })*
                Err(ParseResourceIdError { text: text.to_owned() })
            }
        }

        $(impl From<$name> for ResourceId {
            fn from(id: $name) -> Self {
                Self::$variant(id)
            }
        }

        impl TryFrom<ResourceId> for $name {
            type Error = ResourceId;

            /// The id itself if it is of another kind.
            fn try_from(id: ResourceId) -> Result<Self, ResourceId> {
                match id {
                    ResourceId::$variant(id) => Ok(id),
                    other => Err(other),
                }
            }
        })*
    };
}

ids! {
    /// An Elastic address.
    Allocation: AllocationId = "eipalloc-", "an Elastic IP address";
    /// That an Elastic address leads to an interface.
    AddressAssociation: AddressAssociationId = "eipassoc-", "an association of an Elastic IP address";
    /// That an interface is in an instance.
    Attachment: AttachmentId = "eni-attach-", "an attachment of a network interface";
    /// What DHCP tells the instances of a VPC.
    DhcpOptions: DhcpOptionsId = "dopt-", "a set of DHCP options";
    /// An image that instances are launched from.
    Image: ImageId = "ami-", "an image";
    /// A virtual machine.
    Instance: InstanceId = "i-", "an instance";
    /// A VPC's way to the Internet.
    InternetGateway: InternetGatewayId = "igw-", "an internet gateway";
    /// A public key that instances let in.
    KeyPair: KeyPairId = "key-", "a key pair";
    /// What shares requests out among targets.
    LoadBalancer: LoadBalancerId = "elb-", "a load balancer", 16;
    /// A port of a load balancer, and what becomes of requests there.
    Listener: ListenerId = "elb-listener-", "a listener of a load balancer", 16;
    /// What becomes of some of a listener's requests.
    ListenerRule: ListenerRuleId = "elb-rule-", "a rule of a listener", 16;
    /// Those to whom requests go.
    TargetGroup: TargetGroupId = "elb-targets-", "a target group", 16;
    /// What instances are launched with.
    LaunchTemplate: LaunchTemplateId = "lt-", "a launch template";
    /// A way to the Internet and not from it.
    NatGateway: NatGatewayId = "nat-", "a NAT gateway";
    /// A stateless list of what may enter and leave subnets.
    NetworkAcl: NetworkAclId = "acl-", "a network ACL";
    /// That a network ACL is a subnet's.
    NetworkAclAssociation: NetworkAclAssociationId = "aclassoc-", "an association of a network ACL";
    /// An interface that an instance has in a subnet.
    NetworkInterface: NetworkInterfaceId = "eni-", "a network interface";
    /// Instances that are to be near each other, or far.
    PlacementGroup: PlacementGroupId = "pg-", "a placement group";
    /// The launch that an instance was part of.
    Reservation: ReservationId = "r-", "a reservation";
    /// Where packets go.
    RouteTable: RouteTableId = "rtb-", "a route table";
    /// That a route table is a subnet's, or a VPC's main one.
    RouteTableAssociation: RouteTableAssociationId = "rtbassoc-", "an association of a route table";
    /// A set of rules for what may reach an interface and leave it.
    SecurityGroup: SecurityGroupId = "sg-", "a security group";
    /// One of a security group's rules.
    SecurityGroupRule: SecurityGroupRuleId = "sgr-", "a rule of a security group";
    /// A sealed state of a volume.
    Snapshot: SnapshotId = "snap-", "a snapshot";
    /// A range of a VPC's addresses in one availability zone.
    Subnet: SubnetId = "subnet-", "a subnet";
    /// A block device.
    Volume: VolumeId = "vol-", "a volume";
    /// A private network.
    Vpc: VpcId = "vpc-", "a VPC";
    /// That a range of addresses is a VPC's.
    VpcCidrAssociation: VpcCidrAssociationId = "vpc-cidr-assoc-", "an association of a range of addresses";
    /// A way between two VPCs.
    VpcPeeringConnection: VpcPeeringConnectionId = "pcx-", "a VPC peering connection";
}

as_text! { ResourceId }

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
        fn an_id_of_any_kind_is_told_by_its_prefix(bytes: [u8; 16]) {
            let interface = NetworkInterfaceId::generate(&mut bytes.as_slice()).unwrap();
            let attachment = AttachmentId::generate(&mut bytes.as_slice()).unwrap();
            prop_assert_eq!(interface.to_string().parse(), Ok(ResourceId::NetworkInterface(interface)));
            prop_assert_eq!(attachment.to_string().parse(), Ok(ResourceId::Attachment(attachment)));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<ResourceId>();
        }
    }
}
