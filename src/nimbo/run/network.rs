//! The guest's network and what it is told about itself, for as long as the guest runs.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use metadata::{
    BlockDevice, InstanceMetadata, MetadataOptions, NetworkInterface, Notices, Placement, PublicKey, Service,
    TokenKey,
};
use network::{HostAccess, Publish, Standalone, StandaloneSpec, Worker};
use types::{
    ImageId, InstanceId, MacAddress, NetworkInterfaceId, RandomId as _, ReservationId, SubnetId, SystemClock,
    VpcId,
};

use super::args::Args;
use super::lab;
use crate::microvm;

/// The names that instances of the first region have.
const DOMAIN: &str = "ec2.internal";
const REGION: &str = "us-east-1";
const ZONE: &str = "us-east-1a";
const ZONE_ID: &str = "use1-az1";
/// What documentation calls an account.
const ACCOUNT: &str = "123456789012";
/// A guest here has the size it was given, and no type.
pub(super) const INSTANCE_TYPE: &str = "nimbo.local";

/// The network of the guest; dropping it removes all of it.
pub(super) struct Network {
    // What answers goes before what it answers on.
    _metadata: Worker,
    standalone: Standalone,
    pub(super) mac: MacAddress,
}

impl Network {
    /// Makes the network and answers in it: DHCP, DNS, metadata, published ports.
    ///
    /// # Errors
    /// When a file of the command line cannot be read, a port is taken, or a privilege is missing.
    pub(super) fn start(args: &Args, instance: InstanceId) -> anyhow::Result<Self> {
        let user_data = args.user_data.as_deref().map(|path| read(path, "user data")).transpose()?;
        let public_keys =
            args.ssh_key.iter().map(|path| read_public_key(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
        let mac = MacAddress::generate(&mut random)?;
        let spec = StandaloneSpec {
            mac,
            queue_pairs: microvm::queue_pairs(args.cpus),
            domain: DOMAIN.to_owned(),
            uplink: Some(HostAccess::Denied),
            publish: args.publish.iter().map(|publish| reachable(*publish, lab::is_here())).collect(),
            resolv_conf: "/etc/resolv.conf".into(),
        };
        let standalone = Standalone::start(spec).context("cannot make the guest's network")?;
        let interface = NetworkInterface {
            id: NetworkInterfaceId::generate(&mut random)?,
            mac,
            device_number: 0,
            addresses: vec![standalone.address()],
            public_addresses: Default::default(),
            host_name: args.hostname.clone().unwrap_or_else(|| standalone.host_name()),
            public_host_name: None,
            subnet_id: SubnetId::generate(&mut random)?,
            subnet_range: standalone.plan().subnet(),
            vpc_id: VpcId::generate(&mut random)?,
            vpc_ranges: vec![standalone.plan().vpc()],
            security_groups: Vec::new(),
        };
        let known = InstanceMetadata {
            instance_id: instance,
            image_id: ImageId::generate(&mut random)?,
            reservation_id: ReservationId::generate(&mut random)?,
            launch_index: 0,
            instance_type: INSTANCE_TYPE.to_owned(),
            account_id: ACCOUNT.to_owned(),
            pending_time: SystemTime::now(),
            placement: Placement {
                region: REGION.to_owned(),
                availability_zone: ZONE.to_owned(),
                availability_zone_id: ZONE_ID.to_owned(),
            },
            interfaces: vec![interface],
            block_devices: block_devices(args.image.is_some(), args.disk.len()),
            public_keys,
            user_data,
            tags: Default::default(),
            notices: Notices::default(),
            options: MetadataOptions::default(),
        };
        let service = Service::new(known, TokenKey::generate(&mut random)?, Arc::new(SystemClock));
        let metadata = serve(&standalone, service)?;
        Ok(Self { _metadata: metadata, standalone, mac })
    }

    /// The descriptors behind the guest's interface, once.
    pub(super) fn take_queues(&mut self) -> Vec<OwnedFd> {
        self.standalone.take_queues().unwrap_or_default()
    }

    pub(super) fn mtu(&self) -> u16 {
        self.standalone.mtu()
    }

    /// What a user wants to know before the guest's first line.
    pub(super) fn announcements(&self) -> Vec<String> {
        let obstacles = self.standalone.obstacles().iter().map(|obstacle| format!("warning: {obstacle}"));
        let published = self.standalone.published().iter().map(|publish| format!("publishes {publish}"));
        let address = format!("the guest is {} ({})", self.standalone.address(), self.standalone.host_name());
        obstacles.chain([address]).chain(published).collect()
    }
}

fn serve(standalone: &Standalone, service: Service) -> anyhow::Result<Worker> {
    let listener = standalone.metadata_listener().context("cannot serve metadata")?;
    let serve = async move || {
        if let Err(error) = metadata::serve(listener, Arc::new(service)).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the guest gets no metadata");
        }
    };
    standalone.vpc().spawn("metadata", serve).context("cannot serve metadata")
}

/// In the lab, what reaches a published port comes from the machine outside, by the lab's own interface.
fn reachable(publish: Publish, is_lab: bool) -> Publish {
    let mut reachable = publish;
    if is_lab && publish.listen.ip().is_loopback() {
        reachable.listen.set_ip(match publish.listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
    }
    reachable
}

/// Disks by the names that a Linux guest gives them, the image's first.
fn block_devices(has_image: bool, more: usize) -> Vec<BlockDevice> {
    let device = |role: String, device: String| BlockDevice { role, device };
    let mut names = ('a'..='z').map(|letter| format!("vd{letter}"));
    let mut devices = Vec::new();
    if let Some(name) = has_image.then(|| names.next()).flatten() {
        devices.push(device("root".to_owned(), format!("/dev/{name}")));
        devices.push(device("ami".to_owned(), name));
    }
    devices.extend(
        (1..)
            .zip(names)
            .take(more)
            .map(|(number, name)| device(format!("ebs{number}"), format!("/dev/{name}"))),
    );
    devices
}

fn read(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read the {what} {}", path.display()))
}

/// One line in the form of `authorized_keys`.
fn read_public_key(path: &Path) -> anyhow::Result<PublicKey> {
    let text = read(path, "SSH key")?;
    let name = path.file_stem().map_or_else(|| "key".to_owned(), |stem| stem.to_string_lossy().into_owned());
    public_key(name, &text).with_context(|| {
        format!(
            "{} holds no public SSH key: expected one line such as `ssh-ed25519 AAAA… you@here`, as in a .pub file",
            path.display()
        )
    })
}

fn public_key(name: String, text: &[u8]) -> Option<PublicKey> {
    let text = str::from_utf8(text).ok()?.trim();
    let kind = text.split_whitespace().next()?;
    let is_known = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| kind.starts_with(prefix));
    let is_one_line = !text.contains('\n') && text.split_whitespace().nth(1).is_some();
    (is_known && is_one_line).then(|| PublicKey { name, openssh: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_port_is_opened_wide_in_the_lab_only() {
        let publish: Publish = "8080:80".parse().unwrap();
        assert_eq!(reachable(publish, false), publish);
        assert_eq!(reachable(publish, true).listen.to_string(), "0.0.0.0:8080");
        let named: Publish = "10.0.2.15:8080:80".parse().unwrap();
        assert_eq!(reachable(named, true), named);
    }

    #[test]
    fn disks_are_named_in_the_guests_order() {
        let names = |devices: Vec<BlockDevice>| {
            devices.into_iter().map(|device| format!("{}={}", device.role, device.device)).collect::<Vec<_>>()
        };
        assert_eq!(names(block_devices(true, 1)), ["root=/dev/vda", "ami=vda", "ebs1=/dev/vdb"]);
        assert_eq!(names(block_devices(false, 1)), ["ebs1=/dev/vda"]);
        assert!(block_devices(false, 0).is_empty());
    }

    #[test]
    fn a_private_key_is_not_taken_for_a_public_one() {
        assert!(public_key("k".into(), b"ssh-ed25519 AAAAC3Nza me@here\n").is_some());
        assert!(public_key("k".into(), b"ecdsa-sha2-nistp256 AAAA\n").is_some());
        for bad in [
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
            "ssh-ed25519",
            "ssh-ed25519 AAAA a\nssh-ed25519 BBBB b",
            "",
        ] {
            assert!(public_key("k".into(), bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
