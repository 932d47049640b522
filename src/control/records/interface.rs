//! Interfaces in subnets, and in instances.
//!
//! ```text
//! in none ──▶ Attaching ──▶ Attached ──▶ Detaching ──▶ in none
//!                 └── cannot be, or not in time ──▲
//! ```

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{AttachmentId, InstanceId, MacAddress, NetworkInterfaceId, SecurityGroupId, SubnetId, VpcId};

use super::{AttachmentState, resource};
use crate::state::{Counted, Key};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkInterface {
    pub id: NetworkInterfaceId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub mac: MacAddress,
    /// The first is the primary one.
    pub addresses: Vec<PrivateAddress>,
    /// At most five.
    pub groups: Vec<SecurityGroupId>,
    pub description: String,
    /// Packets that are neither from nor to it are dropped.
    pub checks_source_and_destination: bool,
    pub attachment: Option<Attachment>,
    pub owner: InterfaceOwner,
    /// Its primary address has a public one while its instance runs, unless an Elastic one leads there.
    pub wants_public_address: bool,
}

/// Who made it, and for whom it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceOwner {
    /// The account's user: an instance, or nobody yet.
    User,
    NatGateway(types::NatGatewayId),
    LoadBalancer(types::LoadBalancerId),
}

/// A private address, and the public one that leads to it until the instance stops. An Elastic one is an
/// [`Address`](super::Address)'s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrivateAddress {
    pub ip: Ipv4Addr,
    pub public_ip: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub id: AttachmentId,
    pub instance: InstanceId,
    /// 0 is what the instance boots with.
    pub device_index: u8,
    /// When it was asked for.
    pub attached: Timestamp,
    pub delete_on_termination: bool,
    #[serde(default)]
    pub state: AttachmentState,
}

impl NetworkInterface {
    /// How far it is on its way into an instance, or out of it.
    pub fn attachment_state(&self) -> Option<AttachmentState> {
        self.attachment.as_ref().map(|attachment| attachment.state)
    }

    /// It is so far now, if it is in an instance at all.
    pub fn set_attachment_state(&mut self, state: AttachmentState) {
        if let Some(attachment) = &mut self.attachment {
            attachment.state = state;
        }
    }
}

resource!(
    NetworkInterface,
    NetworkInterfaceId,
    "network_interface",
    |this, link| {
        link(this.vpc.into());
        link(this.subnet.into());
        for group in &this.groups {
            link((*group).into());
        }
        if let Some(attachment) = &this.attachment {
            link(attachment.id.into());
            link(attachment.instance.into());
        }
        match this.owner {
            InterfaceOwner::User => {}
            InterfaceOwner::NatGateway(gateway) => link(gateway.into()),
            InterfaceOwner::LoadBalancer(balancer) => link(balancer.into()),
        }
    },
    keys | this,
    key | {
        for address in &this.addresses {
            key(Key::PrivateAddress(this.subnet, address.ip));
            if let Some(public) = address.public_ip {
                key(Key::PublicAddress(public));
            }
        }
    },
    counts | this,
    count | {
        count(Counted::Addresses(this.subnet), u64::try_from(this.addresses.len()).unwrap_or(u64::MAX));
    },
    settled | this | this.attachment_state().is_none_or(|state| state == AttachmentState::Attached)
);
