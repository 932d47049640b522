//! The words that every part of nimbo shares: ids of resources, amounts of bytes, hardware
//! addresses, and where time comes from.
//!
//! Nothing here opens, reads or waits. What needs random bytes takes a [`std::io::Read`] to draw
//! them from: `/dev/urandom` in the product, a fixed slice in a test.
#![forbid(unsafe_code)]

mod byte_size;
mod clock;
mod id;
mod mac;

pub use byte_size::{ByteSize, ParseByteSizeError};
pub use clock::{Clock, Instant, ManualClock, SystemClock};
pub use id::{
    ImageId, InstanceId, NetworkInterfaceId, ParseIdError, ReservationId, SecurityGroupId, SnapshotId,
    SubnetId, VolumeId, VpcId,
};
pub use mac::{MacAddress, ParseMacAddressError};
