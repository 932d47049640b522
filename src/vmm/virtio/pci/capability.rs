//! What a function says of itself in its configuration space: its identity, and the capabilities that lead into the BARs (virtio 1.2,
//! 4.1.4).

use super::{COMMON, DEVICE, ISR, KICK_PORTS, KICK_STRIDE, KICKS_BAR, REGION_BYTES, REGISTERS_BAR};
use crate::kvm::low_half;
use crate::pci::{Capability, Identity};
use crate::virtio::DeviceKind;

/// Configuration structure types (virtio 1.2, 4.1.4).
pub(super) mod structure {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(in super::super) const PCI: u8 = 5;
}
const VENDOR_CAPABILITY: u8 = 0x09;
/// Offsets in a `virtio_pci_cfg_cap`.
pub(super) const WINDOW_BAR: u16 = 4;
pub(super) const WINDOW_OFFSET: u16 = 8;
pub(super) const WINDOW_LENGTH: u16 = 12;
pub(super) const WINDOW_DATA: u16 = 16;

/// Ids of virtio 1.2, 4.1.2; revision 1 says modern.
pub(super) fn identity(kind: DeviceKind) -> Identity {
    let class = match kind {
        DeviceKind::Net => 0x02_00_00,
        DeviceKind::Block => 0x01_80_00,
        DeviceKind::Rng | DeviceKind::Balloon | DeviceKind::Vsock => 0xff_00_00,
    };
    let device = 0x1040 + kind.id();
    Identity { vendor: 0x1af4, device, revision: 1, class, subsystem_vendor: 0x1af4, subsystem: device }
}

/// Where the common configuration, the notifications, the ISR and the device's configuration are.
pub(super) fn structure_capabilities() -> [Capability; 4] {
    [
        structure_capability(structure::COMMON, REGISTERS_BAR, low_half(COMMON), REGION_BYTES, None),
        structure_capability(structure::NOTIFY, KICKS_BAR, 0, KICK_PORTS.into(), Some(KICK_STRIDE.into())),
        structure_capability(structure::ISR, REGISTERS_BAR, low_half(ISR), REGION_BYTES, None),
        structure_capability(structure::DEVICE, REGISTERS_BAR, low_half(DEVICE), REGION_BYTES, None),
    ]
}

/// `virtio_pci_cap`: length, type, BAR, id, two bytes of padding, offset, length; for notifications the multiplier.
fn structure_capability(kind: u8, bar: u8, offset: u32, bytes: u32, extra: Option<u32>) -> Capability {
    let length = if extra.is_some() { 20 } else { 16 };
    let mut body = vec![length, kind, bar, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(bytes.to_le_bytes());
    body.extend(extra.into_iter().flat_map(u32::to_le_bytes));
    let writable = vec![0; body.len()];
    Capability { id: VENDOR_CAPABILITY, body, writable }
}

/// `virtio_pci_cfg_cap`: through it a driver that cannot map the BAR reaches it.
pub(super) fn window_capability() -> Capability {
    let mut capability = structure_capability(structure::PCI, 0, 0, 0, Some(0));
    // Bar, offset, length and data; the body begins two bytes after the capability.
    capability.writable[usize::from(WINDOW_BAR) - 2] = 0xff;
    capability.writable[usize::from(WINDOW_OFFSET) - 2..].fill(0xff);
    capability
}
