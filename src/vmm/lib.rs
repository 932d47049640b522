//! The hypervisor: one process runs one microVM on KVM.
//!
//! Rooms, from the guest's side inwards:
//!
//! | module | holds |
//! | --- | --- |
//! | [`machine`] | a microVM as a whole, and what happens to it |
//! | [`boot`] | from a kernel to a guest that is ready to run |
//! | `cpu` | the CPUs and the threads that run them |
//! | `firmware` | ACPI and SMBIOS tables |
//! | `platform` | the devices at fixed ports |
//! | [`jail`] | what the process gives up before the guest runs |
//! | [`control`] | the control socket: what clients can ask of the machine |
//! | [`console`] | the serial console: its log, its viewers, who types |
//! | `kvm` | a virtual machine of KVM: RAM slots, interrupt routes |
//! | [`suspend`] | a running machine as two files, and back |
//! | `pci` | the bus, configuration space, MSI-X, hot-plug registers |
//! | [`memory`] | the guest's physical address map and its RAM |
//! | [`virtio`] | the virtio devices, their queues and the threads that serve them |
//! | [`poll`] | waiting for many file descriptors |
//! | [`descriptors`] | handing descriptors to another process |
//! | [`process`] | the process of one microVM: its event loop, what the control socket asks |
//! | [`probe`] | what this machine's KVM can do |
//!
//! Nothing here knows tokio: a microVM is a handful of threads that wait in `KVM_RUN`, `epoll_wait`
//! and `io_uring_enter`.

#![allow(unsafe_code)]

pub mod boot;
pub mod console;
pub mod control;
mod cpu;
pub mod descriptors;
mod firmware;
pub mod jail;
mod kept_writes;
mod kvm;
pub mod machine;
pub mod memory;
mod pci;
mod platform;
pub mod poll;
pub mod probe;
pub mod process;
pub mod suspend;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtio;
