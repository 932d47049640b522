//! What is kept: a type for each kind of resource, as the store has it in JSON.
//!
//! A record says what its owner wants, and what has become of it: nothing that follows from other records, and nothing of how a
//! client is told. Each consists of what is true in every state of the resource; what is true in one is in that state's variant.

mod access;
mod balancer;
mod credits;
mod gateways;
mod health;
mod instance;
mod interface;
mod notice;
mod placement;
mod policy;
mod scaling;
mod snapshot;
mod storage;
mod tag;
mod template;
mod token;
mod vpc;
mod zone;

use std::fmt::Display;
use std::sync::Arc;

pub use access::{KeyPair, KeyType};
pub use balancer::{
    BalancerNode, Listener, ListenerRule, LoadBalancer, LoadBalancerState, RegisteredTarget, Scheme,
    TargetGroup, TargetHealth, TargetId, TargetKey, TargetState, TargetType, target_groups,
};
pub use credits::{CpuCredits, CreditDefault};
pub use gateways::{
    Address, AddressAssociation, InternetGateway, NatGateway, NatGatewayState, PeerVpc, PeeringState,
    VpcPeeringConnection,
};
pub use health::Health;
pub use instance::{Cause, Instance, InstanceState, MetadataOptions, Outage, Rest, ShutdownBehavior};
pub use interface::{Attachment, InterfaceOwner, NetworkInterface, PrivateAddress};
pub use notice::{EventCode, EventState, InstanceEvent, InstanceNotices, Interruption, InterruptionAction};
pub use placement::{PlacementGroup, PlacementStrategy};
pub use policy::{
    Direction, NetworkAcl, NetworkAclAssociation, NetworkAclEntry, Peer, PortRange, SecurityGroup,
    SecurityGroupRule, Traffic,
};
pub use scaling::{
    ActivityId, ActivityKind, ActivityStatus, CapacityChange, DeletionProtection, GroupTag, HookResult,
    HookWait, LaunchFailure, LifecycleAction, LifecycleHook, MemberId, MemberState, Place, Process,
    Recurrence, ScalingActivity, ScalingGroup, ScalingMember, ScheduledAction, TemplateChoice,
    TemplateVersion, TerminationPolicy, Transition, Unhealthy,
};
pub use snapshot::{
    BootMode, DeletedSnapshot, Image, ImageMapping, ImageOrigin, ImageState, Sharing, Snapshot,
    SnapshotSource, SnapshotState,
};
pub use storage::{
    AttachmentState, ModificationState, StorageSettings, StorageSettingsId, Volume, VolumeAttachment,
    VolumeModification, VolumeState,
};
pub use tag::TagSet;
pub use template::{LaunchTemplate, LaunchTemplateVersion, VersionId};
pub use token::{ClientToken, Fingerprint, TokenId};
pub use vpc::{
    DhcpOptions, NameServer, Route, RouteTable, RouteTableAssociation, RouteTarget, Subnet, Vpc, VpcRange,
};

pub use zone::FailedZone;

use crate::state::{Record, Table};
use crate::store::durable::Schema;

/// What records mean, for a store that keeps them. A change that does not read what was written before is a version, with its migration.
pub const SCHEMA: Schema = Schema { version: 1, migrations: &[] };

/// A record that tables have a place for.
pub trait Stored: Record {
    fn table(tables: &Tables) -> &Table<Self>;

    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;

    /// Notes what stood where a record is put, or taken from.
    fn former(id: Self::Id, row: Option<Arc<Self>>) -> Former;
}

macro_rules! records {
    ($($table:ident: $record:ident,)*) => {
        /// The records of one account in one region.
        #[derive(Default)]
        pub struct Tables {
            $(pub $table: Table<$record>,)*
        }

        /// What stood in a record's place, or that nothing did.
        pub enum Former {
            $($record(<$record as Record>::Id, Option<Arc<$record>>),)*
        }

        $(impl Stored for $record {
            fn table(tables: &Tables) -> &Table<Self> {
                &tables.$table
            }

            fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
                &mut tables.$table
            }

            fn former(id: Self::Id, row: Option<Arc<Self>>) -> Former {
                Former::$record(id, row)
            }
        })*

        impl Tables {
            /// Whether there is a record of this resource.
            pub fn hold(&self, resource: ::types::ResourceId) -> bool {
                $(self.$table.holds(resource))||*
            }

            /// Takes in a record as the store has it; says whether there is such a kind, and such an id.
            ///
            /// # Errors
            /// When the value is not a record of that kind.
            pub(crate) fn load(&mut self, kind: &str, id: &str, value: &[u8]) -> serde_json::Result<bool> {
                match kind {
                    $($record::KIND => load(&mut self.$table, id, value),)*
                    _ => Ok(false),
                }
            }
        }

        impl Former {
            /// The kind and the id of the record.
            pub(crate) fn place(&self) -> (&'static str, &dyn Display) {
                match self {
                    $(Self::$record(id, _) => ($record::KIND, id),)*
                }
            }

            /// What stands there now, as the store is to have it.
            pub(crate) fn present(&self, tables: &Tables) -> Option<Vec<u8>> {
                match self {
                    $(Self::$record(id, _) => tables.$table.get(*id).map(|row| json(row.as_ref())),)*
                }
            }

            /// Puts back what stood there.
            pub(crate) fn restore(self, tables: &mut Tables) {
                match self {
                    $(Self::$record(id, row) => drop(tables.$table.set(id, row)),)*
                }
            }
        }
    };
}

records! {
    addresses: Address,
    client_tokens: ClientToken,
    cpu_credits: CpuCredits,
    credit_defaults: CreditDefault,
    deleted_snapshots: DeletedSnapshot,
    dhcp_options: DhcpOptions,
    failed_zones: FailedZone,
    images: Image,
    instance_notices: InstanceNotices,
    instances: Instance,
    internet_gateways: InternetGateway,
    key_pairs: KeyPair,
    launch_template_versions: LaunchTemplateVersion,
    launch_templates: LaunchTemplate,
    listener_rules: ListenerRule,
    listeners: Listener,
    load_balancers: LoadBalancer,
    nat_gateways: NatGateway,
    network_acls: NetworkAcl,
    network_interfaces: NetworkInterface,
    peering_connections: VpcPeeringConnection,
    placement_groups: PlacementGroup,
    registered_targets: RegisteredTarget,
    route_tables: RouteTable,
    scaling_activities: ScalingActivity,
    scaling_groups: ScalingGroup,
    scaling_members: ScalingMember,
    security_groups: SecurityGroup,
    snapshots: Snapshot,
    storage_settings: StorageSettings,
    subnets: Subnet,
    tags: TagSet,
    target_groups: TargetGroup,
    volumes: Volume,
    vpcs: Vpc,
}

fn load<R: Record>(table: &mut Table<R>, id: &str, value: &[u8]) -> serde_json::Result<bool> {
    let record: R = serde_json::from_slice(value)?;
    let is_its = id.parse().is_ok_and(|id: R::Id| id == record.id());
    if is_its {
        table.set(record.id(), Some(Arc::new(record)));
    }
    Ok(is_its)
}

fn json<R: Record>(record: &R) -> Vec<u8> {
    match serde_json::to_vec(record) {
        Ok(json) => json,
        // No record has maps by other keys than texts, and memory is not refused.
        Err(error) => unreachable!("{} {} cannot be written as JSON: {error}", R::KIND, record.id()),
    }
}

/// A record's id and its place among resources.
macro_rules! resource {
    (
        $record:ident, $id:ty, $kind:literal, |$this:ident, $link:ident| $links:block
        $(, keys |$keyed:ident, $key:ident| $keys:block)?
        $(, counts |$counted:ident, $count:ident| $counts:block)?
        $(, settled |$settled:ident| $is_settled:expr)?
    ) => {
        impl $crate::state::Record for $record {
            type Id = $id;

            const KIND: &'static str = $kind;

            fn id(&self) -> $id {
                self.id
            }

            fn resource(id: $id) -> Option<::types::ResourceId> {
                Some(id.into())
            }

            fn links(&self, $link: &mut dyn FnMut(::types::ResourceId)) {
                let $this = self;
                $links
            }
            $(
            fn keys(&self, $key: &mut dyn FnMut($crate::state::Key)) {
                let $keyed = self;
                $keys
            })?
            $(
            fn counts(&self, $count: &mut dyn FnMut($crate::state::Counted, u64)) {
                let $counted = self;
                $counts
            })?
            $(
            fn is_settled(&self) -> bool {
                let $settled = self;
                $is_settled
            })?
        }
    };
}
use resource;
