//! All of a guest's state but its memory.

use crate::cpu::{CPUS_MAX, CpuRecord, HostCpuid};
use crate::firmware::SystemIdentity;
use crate::kvm::VmRecord;
use crate::machine::MachineSpec;
use crate::memory::Backing;
use crate::pci::Slot;
use crate::platform::PlatformRecord;
use crate::virtio::DeviceKind;
use crate::virtio::pci::TransportRecord;

use super::format::{Decoder, Encoder, FormatError, Record};

const DEVICES_MAX: u32 = 31;
const TEXT_BYTES_MAX: u32 = 1024;

/// A guest that stands still.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestRecord {
    /// What the memory file that belongs to this is called.
    pub(crate) name: u128,
    pub(crate) spec: MachineSpec,
    pub(crate) cpus: Vec<CpuRecord>,
    pub(crate) vm: VmRecord,
    pub(crate) platform: PlatformRecord,
    pub(crate) devices: Vec<DeviceRecord>,
}

/// A device in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    pub id: String,
    pub kind: DeviceKind,
    pub slot: Slot,
    /// The guest has been asked to let go of it.
    pub leaving: bool,
    pub transport: TransportRecord,
}

impl GuestRecord {
    pub fn memory_bytes(&self) -> u64 {
        self.spec.memory_bytes
    }

    /// The devices that must be plugged in before the guest goes on: the id and kind of each.
    pub fn devices(&self) -> impl Iterator<Item = (&str, DeviceKind)> {
        self.devices.iter().map(|device| (device.id.as_str(), device.kind))
    }
}

impl Record for GuestRecord {
    fn encode(&self, to: &mut Encoder) {
        let MachineSpec { cpus: _, cpuid, memory_bytes, backing: _, identity, generation } = &self.spec;
        to.u128(self.name);
        to.u64(*memory_bytes);
        to.u128(*generation);
        to.u128(identity.uuid);
        to.text(&identity.product);
        to.text(&identity.asset);
        cpuid.encode(to);
        to.list(&self.cpus);
        self.vm.encode(to);
        self.platform.encode(to);
        to.list(&self.devices);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let name = from.u128("the suspension's name")?;
        let memory_bytes = from.u64("the memory's size")?;
        let generation = from.u128("the generation")?;
        let identity = SystemIdentity {
            uuid: from.u128("the system's UUID")?,
            product: from.text(TEXT_BYTES_MAX, "the product's name")?,
            asset: from.text(TEXT_BYTES_MAX, "the asset tag")?,
        };
        let cpuid = HostCpuid::decode(from)?;
        let records: Vec<CpuRecord> = from.list(CPUS_MAX.into(), "the number of CPUs")?;
        let cpus = u8::try_from(records.len()).unwrap_or(0);
        if cpus == 0 {
            return Err(FormatError::Value { what: "the number of CPUs", value: 0 });
        }
        let (vm, platform) = (VmRecord::decode(from)?, PlatformRecord::decode(from)?);
        let devices = devices(from)?;
        // The memory is a private copy of its file, whatever it was.
        let spec = MachineSpec { cpus, cpuid, memory_bytes, backing: Backing::Private, identity, generation };
        Ok(GuestRecord { name, spec, cpus: records, vm, platform, devices })
    }
}

/// Slots hold one device each, and ids belong to one.
fn devices(from: &mut Decoder<'_>) -> Result<Vec<DeviceRecord>, FormatError> {
    let devices: Vec<DeviceRecord> = from.list(DEVICES_MAX, "the number of devices")?;
    for (index, device) in devices.iter().enumerate() {
        let others = &devices[..index];
        if others.iter().any(|other| other.slot == device.slot || other.id == device.id) {
            let value = device.slot.number().into();
            return Err(FormatError::Value {
                what: "the slot of a second device with it, or its id,",
                value,
            });
        }
    }
    Ok(devices)
}

impl Record for DeviceRecord {
    fn encode(&self, to: &mut Encoder) {
        to.text(&self.id);
        to.u16(self.kind.id());
        to.u8(self.slot.number());
        to.bool(self.leaving);
        self.transport.encode(to);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let id = from.text(TEXT_BYTES_MAX, "a device's id")?;
        let number = from.u16("a device's kind")?;
        let kind = DeviceKind::of(number)
            .ok_or(FormatError::Value { what: "a device's kind", value: number.into() })?;
        let number = from.u8("a device's slot")?;
        let slot =
            Slot::new(number).ok_or(FormatError::Value { what: "a device's slot", value: number.into() })?;
        let leaving = from.bool("whether a device is leaving")?;
        Ok(DeviceRecord { id, kind, slot, leaving, transport: TransportRecord::decode(from)? })
    }
}
