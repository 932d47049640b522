//! Interfaces that come and go while a microVM runs.

use network::Namespace;
use network::policy::device_name;
use types::NetworkInterfaceId;
use vmm::control::client::Client;

use super::*;

/// Where another process finds the interface that it is to give to the microVM.
pub(super) const SECOND: &str = "second.json";

/// For what must not happen. It takes some 50 ms if it does.
const SILENCE: Duration = Duration::from_millis(400);

pub(super) fn with(spec: &MachineSpec, second: &InterfaceSpec) -> MachineSpec {
    let mut both = spec.clone();
    both.put_interface(second.clone());
    both
}

/// One more, in the subnet of the first.
fn second(spec: &MachineSpec) -> InterfaceSpec {
    let first = &spec.interfaces[0];
    let [a, b, number, _] = first.addresses[0].0.octets();
    InterfaceSpec {
        id: id(100 + number),
        mac: MacAddress::generate(&mut [100 + number; 6].as_slice()).unwrap(),
        device_index: 1,
        addresses: vec![(Ipv4Addr::new(a, b, number, 6), None)],
        host_name: format!("ip-{a}-{b}-{number}-6.ec2.internal"),
        ..first.clone()
    }
}

fn ids(interfaces: &[&InterfaceSpec]) -> Option<std::collections::BTreeSet<NetworkInterfaceId>> {
    Some(interfaces.iter().map(|interface| interface.id).collect())
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Lab {
    /// Whether there is a device of the interface.
    fn has_device(&self, interface: &InterfaceSpec) -> bool {
        let pin = self.path("run/netns").join(interface.vpc.to_string());
        let namespace = Namespace::pinned(&pin).unwrap().unwrap();
        let devices = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        devices.unwrap().contains(&device_name(interface.id))
    }

    fn client(&self) -> Client {
        Client::over(crate::socket::connect(&self.own().control()).unwrap()).unwrap()
    }

    /// Whether the microVM's process says that it has the interface.
    fn is_plugged(&self, interface: &InterfaceSpec) -> bool {
        let found = self.client().get::<vmm::control::api::Devices>("/v1/devices").unwrap();
        found.devices.iter().any(|device| device.id.as_str() == interface.id.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_is_given_when_its_network_is_in_force_and_taken_away() {
    let lab = Lab::new(9, &WAITS).await;
    let (machines, id) = (lab.open().await, lab.id());
    let (first, second) = (&lab.spec.interfaces[0], second(&lab.spec));
    machines.plug_interface(id, &second).await.unwrap_err();
    machines.start(lab.spec.clone()).await.unwrap();
    assert_eq!(machines.interfaces(id), ids(&[first]));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    machines.on_change(Arc::new(move |id| tell.send(id).unwrap_or_default()));
    let mut plug = {
        let (machines, second) = (Arc::clone(&machines), second.clone());
        tokio::spawn(async move { machines.plug_interface(id, &second).await })
    };
    // The guest does not see it before what passes it is known.
    tokio::time::timeout(SILENCE, &mut plug).await.unwrap_err();
    assert!(lab.has_device(&second) && !lab.is_plugged(&second));
    assert_eq!(machines.interfaces(id), ids(&[first]));
    machines.networks().apply(vpc(&with(&lab.spec, &second))).await.unwrap();
    plug.await.unwrap().unwrap();
    assert!(lab.is_plugged(&second) && machines.interfaces(id) == ids(&[first, &second]));
    assert_eq!(told.recv().await, Some(id));
    // Again: nothing.
    machines.plug_interface(id, &second).await.unwrap();
    // This guest answers to nothing.
    machines.unplug_interface(id, second.id, false).await.unwrap();
    assert_eq!(machines.interfaces(id), ids(&[first, &second]));
    machines.unplug_interface(id, first.id, true).await.unwrap_err();
    for _ in 0..2 {
        machines.unplug_interface(id, second.id, true).await.unwrap();
        assert_eq!(machines.interfaces(id), ids(&[first]));
    }
    assert!(!lab.is_plugged(&second) && lab.is_plugged(first));
    until("its device stays", || !lab.has_device(&second)).await;
    // And once more: the device is another one.
    machines.plug_interface(id, &second).await.unwrap();
    machines.kill(id).await.unwrap();
    assert_eq!(machines.interfaces(id), None);
    machines.unplug_interface(id, second.id, false).await.unwrap();
    machines.forget(id).await.unwrap();
    // One that it is started with goes as well.
    machines.start(with(&lab.spec, &second)).await.unwrap();
    assert_eq!(machines.interfaces(id), ids(&[first, &second]));
    machines.unplug_interface(id, second.id, true).await.unwrap();
    assert_eq!(machines.interfaces(id), ids(&[first]));
    machines.kill(id).await.unwrap();
    machines.forget(id).await.unwrap();
    lab.has_nothing_left(&machines).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_microvm_has_is_what_its_process_says() {
    let lab = Lab::new(10, &WAITS).await;
    let (first, second) = (&lab.spec.interfaces[0], second(&lab.spec));
    fs::write(lab.path(SECOND), serde_json::to_vec(&second).unwrap()).unwrap();
    lab.start_elsewhere(false).kill();
    let third = InterfaceSpec { id: id(200), device_index: 2, ..second.clone() };
    // As if it had been killed before the microVM was given this one.
    lab.own().add_interface(&third).unwrap();
    let (machines, id) = (lab.open().await, lab.id());
    until("nobody knows what it has", || machines.interfaces(id).is_some()).await;
    assert_eq!(machines.interfaces(id), ids(&[first, &second]));
    machines.networks().apply(vpc(&with(&lab.spec, &second))).await.unwrap();
    // As if the guest had let go of it by itself.
    lab.client().delete(&format!("/v1/interfaces/{}?force=true", second.id)).unwrap();
    until("nobody notices", || machines.interfaces(id) == ids(&[first])).await;
    machines.plug_interface(id, &second).await.unwrap();
    machines.kill(id).await.unwrap();
    machines.forget(id).await.unwrap();
    lab.has_nothing_left(&machines).await;
}
