//! The network of an instance on this host, and what its guest is told about itself.
//!
//! Until there are VPCs each instance has a network of its own ([`network::Pinned`]), with its own private address. It is kept by a file in
//! RUN/netns, so that it is there as long as the instance runs, whoever answers in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use control::ports::{InterfaceSpec, MachineSpec, MetadataOptions};
use metadata::{
    BlockDevice, HttpTokens, InstanceMetadata, NetworkInterface, Placement, PublicKey, Service, TokenKey,
};
use network::{Pinned, PinnedSpec, Worker};
use types::{InstanceId, SystemClock};

use crate::microvm;

/// A network, and who answers in it.
pub(super) struct Network {
    // What answers goes before what it answers on.
    _metadata: Option<Worker>,
    pub(super) pinned: Pinned,
}

/// Where the networks of this host are kept.
#[derive(Debug, Clone)]
pub(super) struct Networks(PathBuf);

impl Networks {
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn open(run: &Path) -> anyhow::Result<Self> {
        let folder = run.join("netns");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Makes an instance's network and answers in it.
    ///
    /// # Errors
    /// When the host cannot have it; then nothing is left of it.
    pub(super) fn make(&self, spec: &MachineSpec) -> anyhow::Result<Network> {
        // Of a start that was not finished.
        self.remove(spec.id)?;
        let network = Pinned::make(&pinned(spec)?, &self.pin(spec.id)).context("cannot make its network")?;
        answer(network, spec).inspect_err(|_| {
            if let Err(error) = self.remove(spec.id) {
                tracing::warn!(id = %spec.id, "{error:#}");
            }
        })
    }

    /// Answers in the network of an instance that runs.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn take_up(&self, spec: &MachineSpec) -> anyhow::Result<Network> {
        answer(Pinned::take_up(&pinned(spec)?, &self.pin(spec.id))?, spec)
    }

    /// Removes what is left of an instance's network, in which nobody answers any more.
    ///
    /// # Errors
    /// When the kernel does not let go of it.
    pub(super) fn remove(&self, id: InstanceId) -> anyhow::Result<()> {
        Pinned::remove(&self.pin(id)).with_context(|| format!("cannot remove the network of {id}"))
    }

    fn pin(&self, id: InstanceId) -> PathBuf {
        self.0.join(id.to_string())
    }
}

/// The only interface that an instance can have here for now.
///
/// # Errors
/// When there are others.
pub(super) fn interface(spec: &MachineSpec) -> anyhow::Result<&InterfaceSpec> {
    match &*spec.interfaces {
        [interface] => Ok(interface),
        others => {
            bail!("this host gives an instance one network interface, and {} has {}", spec.id, others.len())
        }
    }
}

fn pinned(spec: &MachineSpec) -> anyhow::Result<PinnedSpec> {
    let interface = interface(spec)?;
    let (address, _) = interface.addresses.first().context("its interface has no address")?;
    let vpc = interface.vpc_ranges.first().context("its VPC has no range")?;
    let (_, domain) = interface.host_name.split_once('.').context("its name has no domain")?;
    Ok(PinnedSpec {
        address: *address,
        mac: interface.mac,
        queue_pairs: microvm::queue_pairs(spec.vcpus),
        subnet: interface.subnet_range,
        vpc: *vpc,
        domain: domain.to_owned(),
        resolv_conf: "/etc/resolv.conf".into(),
    })
}

fn answer(pinned: Pinned, spec: &MachineSpec) -> anyhow::Result<Network> {
    let metadata = spec.guest.metadata_options.is_enabled.then(|| serve(&pinned, spec)).transpose()?;
    Ok(Network { _metadata: metadata, pinned })
}

fn serve(pinned: &Pinned, spec: &MachineSpec) -> anyhow::Result<Worker> {
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let key = TokenKey::generate(&mut random).context("cannot draw a key")?;
    let service = Service::new(known(spec), key, Arc::new(SystemClock));
    let listener = pinned.metadata_listener().context("cannot serve metadata")?;
    let serve = async move || {
        if let Err(error) = metadata::serve(listener, Arc::new(service)).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the guest gets no metadata");
        }
    };
    pinned.vpc().spawn("metadata", serve).context("cannot serve metadata")
}

/// All that the guest can ask about itself.
fn known(spec: &MachineSpec) -> InstanceMetadata {
    let guest = &spec.guest;
    let public_key = |key: &control::ports::LoginKey| PublicKey {
        name: key.name.clone(),
        openssh: key.public_key.clone(),
    };
    InstanceMetadata {
        instance_id: spec.id,
        image_id: guest.image,
        reservation_id: guest.reservation,
        launch_index: guest.launch_index,
        instance_type: spec.instance_type.clone(),
        account_id: guest.account.to_string(),
        pending_time: guest.launched.into(),
        placement: Placement {
            region: guest.zone.region().to_string(),
            availability_zone: guest.zone.to_string(),
            availability_zone_id: guest.zone.id(),
        },
        interfaces: spec.interfaces.iter().map(known_interface).collect(),
        block_devices: block_devices(spec),
        public_keys: guest.key.iter().map(public_key).collect(),
        user_data: (!guest.user_data.is_empty()).then(|| guest.user_data.clone()),
        tags: guest.tags.clone(),
        options: options(guest.metadata_options),
    }
}

fn known_interface(interface: &InterfaceSpec) -> NetworkInterface {
    let public = interface.addresses.iter().filter_map(|(address, public)| Some((*address, (*public)?)));
    NetworkInterface {
        id: interface.id,
        mac: interface.mac,
        device_number: interface.device_index.into(),
        addresses: interface.addresses.iter().map(|(address, _)| *address).collect(),
        public_addresses: public.collect(),
        host_name: interface.host_name.clone(),
        public_host_name: interface.public_host_name.clone(),
        subnet_id: interface.subnet,
        subnet_range: interface.subnet_range,
        vpc_id: interface.vpc,
        vpc_ranges: interface.vpc_ranges.clone(),
        security_groups: interface.groups.clone(),
    }
}

/// As the instance's owner calls them.
fn block_devices(spec: &MachineSpec) -> Vec<BlockDevice> {
    let Some((root, others)) = spec.volumes.split_first() else { return Vec::new() };
    let device = |role: String, device: &str| BlockDevice { role, device: device.to_owned() };
    let short = root.device.strip_prefix("/dev/").unwrap_or(&root.device);
    let mut devices = vec![device("ami".to_owned(), short), device("root".to_owned(), &root.device)];
    let others = (1..).zip(others).map(|(number, volume)| device(format!("ebs{number}"), &volume.device));
    devices.extend(others);
    devices
}

fn options(options: MetadataOptions) -> metadata::MetadataOptions {
    metadata::MetadataOptions {
        http_tokens: if options.requires_token { HttpTokens::Required } else { HttpTokens::Optional },
        put_response_hop_limit: options.token_hop_limit,
        instance_tags: options.shows_tags,
    }
}
