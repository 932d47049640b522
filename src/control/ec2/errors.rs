//! Why EC2 refuses: the one place where its error codes are.
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>.

use std::fmt::Display;
use std::str::FromStr;

use aws::Error;
use types::ResourceId;

/// How EC2 speaks of a kind of resource.
pub(super) struct Named {
    /// What its codes begin with: `InvalidVpcID`.
    pub code: &'static str,
    /// `vpc ID`, say.
    pub noun: &'static str,
}

/// A resource's id that a client can name.
pub(super) trait Identified: FromStr + Display + Copy {
    const NAMED: Named;
}

macro_rules! identified {
    ($($id:ident: $code:literal, $noun:literal;)*) => {$(
        impl Identified for types::$id {
            const NAMED: Named = Named { code: $code, noun: $noun };
        }
    )*
        /// As [`not_found`], of a resource of any kind.
        pub(super) fn no_resource(resource: ResourceId) -> Error {
            let text = resource.to_string();
            $(if let Ok(id) = text.parse::<types::$id>() {
                return not_found(id);
            })*
            Error::new("InvalidID", format!("The ID '{text}' is not valid"))
        }
    };
}

identified! {
    AddressAssociationId: "InvalidAssociationID", "association ID";
    AllocationId: "InvalidAllocationID", "allocation ID";
    AttachmentId: "InvalidAttachmentID", "attachment ID";
    DhcpOptionsId: "InvalidDhcpOptionID", "dhcpOption ID";
    ImageId: "InvalidAMIID", "image id";
    InstanceId: "InvalidInstanceID", "instance ID";
    InternetGatewayId: "InvalidInternetGatewayID", "internetGateway ID";
    KeyPairId: "InvalidKeyPair", "key pair ID";
    NatGatewayId: "NatGateway", "NAT gateway ID";
    NetworkAclAssociationId: "InvalidAssociationID", "association ID";
    NetworkAclId: "InvalidNetworkAclID", "networkAcl ID";
    NetworkInterfaceId: "InvalidNetworkInterfaceID", "networkInterface ID";
    PlacementGroupId: "InvalidPlacementGroupId", "placement group ID";
    RouteTableAssociationId: "InvalidAssociationID", "association ID";
    RouteTableId: "InvalidRouteTableID", "routeTable ID";
    SecurityGroupId: "InvalidGroup", "security group";
    SecurityGroupRuleId: "InvalidSecurityGroupRuleId", "security group rule ID";
    SnapshotId: "InvalidSnapshot", "snapshot";
    SubnetId: "InvalidSubnetID", "subnet ID";
    VolumeId: "InvalidVolume", "volume";
    VpcCidrAssociationId: "InvalidVpcCidrBlockAssociationID", "VPC CIDR block association ID";
    VpcId: "InvalidVpcID", "vpc ID";
    VpcPeeringConnectionId: "InvalidVpcPeeringConnectionID", "vpcPeeringConnection ID";
}

/// The id that a client wrote.
///
/// # Errors
/// `….Malformed`, which of some kinds begins otherwise than `….NotFound`.
pub(super) fn id<Id: Identified>(text: &str) -> Result<Id, Error> {
    text.parse().map_err(|_| {
        let Named { code, noun } = Id::NAMED;
        let code = match code {
            "InvalidGroup" => "InvalidGroupId.Malformed".to_owned(),
            "InvalidSnapshot" => "InvalidSnapshotID.Malformed".to_owned(),
            "InvalidVolume" => "InvalidVolumeID.Malformed".to_owned(),
            "NatGateway" => "NatGatewayMalformed".to_owned(),
            code => format!("{code}.Malformed"),
        };
        Error::new(code, format!("Invalid {noun}: \"{text}\""))
    })
}

/// Ids that a client wrote, all of them.
///
/// # Errors
/// As [`id`], for the first that is none.
pub(super) fn ids<Id: Identified>(texts: &[String]) -> Result<Vec<Id>, Error> {
    texts.iter().map(|text| id(text)).collect()
}

pub(super) fn not_found<Id: Identified>(id: Id) -> Error {
    let Named { code, noun } = Id::NAMED;
    match code {
        "NatGateway" => Error::new("NatGatewayNotFound", format!("The NAT gateway {id} was not found")),
        _ => Error::new(format!("{code}.NotFound"), format!("The {noun} '{id}' does not exist")),
    }
}

pub(super) fn dependency(what: impl Display) -> Error {
    Error::new("DependencyViolation", format!("{what} has dependencies and cannot be deleted."))
}

pub(super) fn invalid_value(value: impl Display, parameter: &str, why: impl Display) -> Error {
    Error::new(
        "InvalidParameterValue",
        format!("Value ({value}) for parameter {parameter} is invalid. {why}"),
    )
}

/// Two that can only have to do with each other within one VPC, each with its kind: `route table rtb-…`.
pub(super) fn other_network(one: impl Display, other: impl Display) -> Error {
    Error::new("InvalidParameterValue", format!("{one} and {other} belong to different networks"))
}

pub(super) fn missing(parameter: &str) -> Error {
    Error::new("MissingParameter", format!("The request must contain the parameter {parameter}"))
}

/// What is asked for does not go together.
pub(super) fn combination(why: impl Into<String>) -> Error {
    Error::new("InvalidParameterCombination", why)
}

/// What is asked for cannot be done to a resource as it is now.
pub(super) fn incorrect_state(why: impl Into<String>) -> Error {
    Error::new("IncorrectState", why)
}

/// What AWS does and nimbo does not.
pub(super) fn unsupported(why: impl Into<String>) -> Error {
    Error::new("UnsupportedOperation", why)
}
