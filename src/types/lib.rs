//! The words that every part of nimbo shares: ids of resources, accounts and regions, amounts of bytes,
//! hardware addresses, types of volumes, and where time comes from.
//!
//! Nothing here opens, reads or waits. What needs random bytes takes a [`std::io::Read`] to draw
//! them from: `/dev/urandom` in the product, a fixed slice in a test.
#![forbid(unsafe_code)]

mod account;
mod byte_size;
mod clock;
mod id;
mod mac;
mod region;
mod text;
mod uuid;
pub mod volume;

pub use account::{AccountId, ParseAccountIdError};
pub use byte_size::{ByteSize, ParseByteSizeError};
pub use clock::{Clock, Instant, ManualClock, SystemClock};
pub use id::{
    AddressAssociationId, AllocationId, AttachmentId, DhcpOptionsId, ImageId, InstanceId, InternetGatewayId,
    KeyPairId, LaunchTemplateId, ListenerId, ListenerRuleId, LoadBalancerId, NatGatewayId,
    NetworkAclAssociationId, NetworkAclId, NetworkInterfaceId, ParseIdError, ParseResourceIdError,
    PlacementGroupId, RandomId, ReservationId, ResourceId, RouteTableAssociationId, RouteTableId,
    SecurityGroupId, SecurityGroupRuleId, SnapshotId, SubnetId, TargetGroupId, VolumeId,
    VpcCidrAssociationId, VpcId, VpcPeeringConnectionId,
};
pub use mac::{MacAddress, ParseMacAddressError};
pub use region::{ParseRegionError, Region, Zone};
pub use uuid::{ParseUuidError, Uuid};
pub use volume::{VolumeKind, VolumeSpec};
