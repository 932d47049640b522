//! Metadata as a guest asks for it, and what behind a guest does not get.

use std::sync::Arc;

use metadata::{InstanceMetadata, MetadataOptions, Service, TokenKey, serve};
use network::{Namespace, Standalone, Worker};
use types::SystemClock;

use crate::lab::{World, attempt, ip, join, run};

fn start(network: &Standalone, hop_limit: u8) -> Worker {
    let options = MetadataOptions { put_response_hop_limit: hop_limit, ..MetadataOptions::default() };
    let instance = InstanceMetadata { options, ..metadata::testing::instance() };
    let key = TokenKey::generate(&mut [3; 32].as_slice()).unwrap();
    let service = Arc::new(Service::new(instance, key, Arc::new(SystemClock)));
    let listener = network.metadata_listener().unwrap();
    network.vpc().spawn("metadata", || async { serve(listener, service).await.unwrap() }).unwrap()
}

const TOKEN: [&str; 8] = [
    "-sSf",
    "-m",
    "2",
    "-X",
    "PUT",
    "-H",
    "X-aws-ec2-metadata-token-ttl-seconds: 60",
    "http://169.254.169.254/latest/api/token",
];
const ID: [&str; 4] = ["-sSf", "-m", "2", "http://169.254.169.254/latest/meta-data/instance-id"];

#[test]
fn a_token_goes_as_far_as_the_hop_limit_allows() {
    for (hop_limit, reaches_containers) in [(1, false), (2, true)] {
        let world = World::new();
        let (network, guest) = world.start(world.spec());
        let _metadata = start(&network, hop_limit);
        // A container behind the guest, as a container engine would make it.
        let container = Namespace::create().unwrap();
        join(&guest.namespace, "docker0", "172.17.0.1/16", &container, "eth0", "172.17.0.2/16");
        ip(&container, "route add default via 172.17.0.1");
        let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        guest.namespace.run(forward).unwrap().unwrap();
        let rules = "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }; \
                     add rule ip nat out oifname eth0 masquerade";
        run(&guest.namespace, "nft", &[rules]);

        assert_eq!(run(&guest.namespace, "curl", &TOKEN).len(), 56);
        // Version 1 is not limited, so the way is there.
        assert_eq!(run(&container, "curl", &ID), "i-0000000000000000f");
        assert_eq!(
            attempt(&container, "curl", &TOKEN).status.success(),
            reaches_containers,
            "limit {hop_limit}"
        );
    }
}
