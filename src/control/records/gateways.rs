//! Ways in and out of a VPC.

use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use types::{
    AccountId, AddressAssociationId, AllocationId, InternetGatewayId, NatGatewayId, NetworkInterfaceId,
    Region, SubnetId, VpcId, VpcPeeringConnectionId,
};

use super::resource;
use crate::state::{Key, Space};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InternetGateway {
    pub id: InternetGatewayId,
    pub vpc: Option<VpcId>,
}

resource!(InternetGateway, InternetGatewayId, "internet_gateway", |this, link| {
    if let Some(vpc) = this.vpc {
        link(vpc.into());
    }
});

/// An Elastic address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Address {
    pub id: AllocationId,
    pub public_ip: Ipv4Addr,
    pub association: Option<AddressAssociation>,
}

/// That what is sent to the public address comes to a private one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddressAssociation {
    pub id: AddressAssociationId,
    pub interface: NetworkInterfaceId,
    pub private_ip: Ipv4Addr,
}

resource!(
    Address,
    AllocationId,
    "address",
    |this, link| {
        if let Some(association) = &this.association {
            link(association.id.into());
            link(association.interface.into());
        }
    },
    keys | this,
    key | { key(Key::PublicAddress(this.public_ip)) }
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NatGateway {
    pub id: NatGatewayId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    /// Its own, in the subnet. It is gone when the gateway is, or has failed.
    pub interface: NetworkInterfaceId,
    /// The Elastic address that it sends from. None: it is private, and sends from its interface's address.
    pub address: Option<AllocationId>,
    pub created: Timestamp,
    pub state: NatGatewayState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatGatewayState {
    Pending,
    Available,
    Failed { code: String, message: String, at: Timestamp },
    Deleting { since: Timestamp },
    Deleted { at: Timestamp },
}

impl NatGateway {
    /// Whether it has its interface and its address.
    pub const fn is_there(&self) -> bool {
        !matches!(self.state, NatGatewayState::Failed { .. } | NatGatewayState::Deleted { .. })
    }
}

resource!(
    NatGateway,
    NatGatewayId,
    "nat_gateway",
    |this, link| {
        if this.is_there() {
            link(this.vpc.into());
            link(this.subnet.into());
            link(this.interface.into());
            if let Some(address) = this.address {
                link(address.into());
            }
        }
    },
    settled | this | this.state == NatGatewayState::Available
);

/// A way between two VPCs. It stands in the spaces of both, the same in each: who changes one changes the other with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VpcPeeringConnection {
    pub id: VpcPeeringConnectionId,
    pub requester: PeerVpc,
    pub accepter: PeerVpc,
    pub created: Timestamp,
    pub state: PeeringState,
}

/// One side of a peering connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerVpc {
    pub account: AccountId,
    pub region: Region,
    pub vpc: VpcId,
    /// The names of this side's instances are answered with private addresses when the other asks.
    pub resolves_names: bool,
}

impl PeerVpc {
    pub const fn space(&self) -> Space {
        Space { account: self.account, region: self.region }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeeringState {
    /// Until [`VpcPeeringConnection::expires`].
    PendingAcceptance,
    Active,
    Rejected {
        at: Timestamp,
    },
    Expired {
        at: Timestamp,
    },
    Deleted {
        at: Timestamp,
        by: AccountId,
    },
    Failed {
        at: Timestamp,
        why: String,
    },
}

impl VpcPeeringConnection {
    /// When it cannot be accepted any more.
    pub fn expires(&self) -> Timestamp {
        self.created.saturating_add(SignedDuration::from_hours(7 * 24)).unwrap_or(Timestamp::MAX)
    }

    /// Its sides: that of a VPC, and the other. None: it is of none of them.
    pub fn seen_from(&self, vpc: VpcId) -> Option<(&PeerVpc, &PeerVpc)> {
        let (one, other) = (&self.requester, &self.accepter);
        let seen = (one.vpc == vpc).then_some((one, other));
        seen.or_else(|| (other.vpc == vpc).then_some((other, one)))
    }

    /// Its state at a time: nobody writes down that it has expired.
    pub fn state_at(&self, now: Timestamp) -> PeeringState {
        let expires = self.expires();
        if self.state == PeeringState::PendingAcceptance && now >= expires {
            PeeringState::Expired { at: expires }
        } else {
            self.state.clone()
        }
    }
}

resource!(
    VpcPeeringConnection,
    VpcPeeringConnectionId,
    "vpc_peering_connection",
    |this, link| {
        link(this.requester.vpc.into());
        link(this.accepter.vpc.into());
    },
    settled | this | this.state == PeeringState::Active
);
