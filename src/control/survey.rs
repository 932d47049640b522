//! Networks as records say they are, whether or not anything runs in them: for who asks what would pass, and why.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use types::{AccountId, VpcId};

use crate::ec2::fabric;
use crate::ec2::instance::machine;
use crate::ports::{InterfaceSpec, VpcSpec};
use crate::records::{AttachmentState, Instance, InterfaceOwner};
use crate::state::{Key, Space, State, View};

/// An interface, and who has it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub interface: InterfaceSpec,
    pub owner: InterfaceOwner,
    /// The one that it is attached to.
    pub instance: Option<Arc<Instance>>,
    /// How far it is on its way into that one, or out of it.
    pub attachment: Option<AttachmentState>,
}

/// The interfaces of an account, in all regions.
pub fn endpoints(state: &State, account: AccountId, now: Timestamp) -> impl Iterator<Item = Endpoint> {
    let spaces = state.spaces().filter(move |(space, _)| space.account == account);
    spaces.flat_map(move |(space, tables)| {
        let view = View::new(state, space, now);
        tables.network_interfaces.iter().filter_map(move |found| {
            let instance = found.attachment.as_ref().map(|attachment| attachment.instance);
            Some(Endpoint {
                interface: machine::interface(view, found).ok()?,
                owner: found.owner,
                instance: instance.and_then(|id| tables.instances.get(id)).cloned(),
                attachment: found.attachment_state(),
            })
        })
    })
}

/// Those VPCs of `wanted` that there are, and the peers of each, with whose they are. What is said of them is what a host would be told.
pub fn vpcs(
    state: &State,
    wanted: impl IntoIterator<Item = VpcId>,
    now: Timestamp,
) -> BTreeMap<VpcId, (Space, VpcSpec)> {
    let find = |id: VpcId| {
        let (space, _) = state.spaces().find(|(_, tables)| tables.vpcs.get(id).is_some())?;
        Some((id, (space, fabric(View::new(state, space, now), id)?)))
    };
    let mut found: BTreeMap<_, _> = wanted.into_iter().filter_map(find).collect();
    let peers: Vec<_> = found.values().flat_map(|(_, spec)| spec.peerings.values().copied()).collect();
    found.extend(peers.into_iter().filter_map(find));
    found
}

/// The VPC in which a public address leads to an interface, whosever it is.
pub fn holder(state: &State, public: Ipv4Addr) -> Option<VpcId> {
    let key = Key::PublicAddress(public);
    state.spaces().find_map(|(_, tables)| {
        let elastic = tables.addresses.keyed(&key).and_then(|address| address.association.as_ref());
        let elastic = elastic.and_then(|association| tables.network_interfaces.get(association.interface));
        Some(elastic.or_else(|| tables.network_interfaces.keyed(&key))?.vpc)
    })
}
