//! One PCI Express bus without bridges: 31 slots of one function each, behind ECAM and the legacy ports 0xcf8/0xcfc.
//!
//! Every function has a 32-bit memory BAR, an I/O BAR and MSI-X; there are no INTx lines. A BAR may be moved by the
//! guest at any time. Slots are plugged and unplugged while the guest runs; the ACPI side that tells the
//! guest is [`hotplug`].

mod config;
pub mod hotplug;
mod msix;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use config::{Capability, ConfigSpace, Identity};
pub use msix::{MsixTable, VectorRecord};

use crate::kept_writes::KeptWrites;

/// Slots of the bus; slot 0 is the host bridge.
pub const SLOT_COUNT: u8 = 32;

/// Where I/O BARs can be: what is below are the platform's ports.
pub const PORT_WINDOW: Range<u16> = 0x1000..0x2000;

/// A slot of bus 0 that can hold a device: 1 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Slot(u8);

impl Slot {
    /// Slot `number`, unless it is the host bridge's or does not exist.
    pub fn new(number: u8) -> Option<Self> {
        (1..SLOT_COUNT).contains(&number).then_some(Slot(number))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    /// The slot's bit in a map of slots.
    pub fn bit(self) -> u32 {
        1 << self.0
    }
}

/// A function in a slot, as the bus sees it. Called from any vCPU's thread.
pub trait PciFunction: Send + Sync {
    /// Reads 1, 2 or 4 bytes of configuration space, aligned to their size.
    fn read_config(&self, offset: u16, data: &mut [u8]);
    fn write_config(&self, offset: u16, data: &[u8]);
    /// Which of the function's registers is at `address`, while the function decodes that.
    fn memory_register(&self, address: u64) -> Option<u64>;
    /// Which of the function's registers is at `port`, while the function decodes that.
    fn port_register(&self, port: u16) -> Option<u64>;
    fn read_register(&self, register: u64, data: &mut [u8]);
    fn write_register(&self, register: u64, data: &[u8]);
}

/// The bus.
pub struct PciBus {
    functions: RwLock<[Option<Arc<dyn PciFunction>>; SLOT_COUNT as usize]>,
    address_port: Mutex<AddressPort>,
}

/// The legacy address port, 0xcf8.
#[derive(Default)]
struct AddressPort {
    /// What was written last, but for what is kept.
    written: u32,
    /// Later writes.
    kept: Option<KeptWrites>,
}

impl AddressPort {
    fn address(&mut self) -> u32 {
        while let Some(address) = self.kept.as_mut().and_then(KeptWrites::take) {
            self.written = address;
        }
        self.written
    }

    fn write(&mut self, address: u32) {
        // What is kept came before.
        self.address();
        self.written = address;
    }
}

/// The host bridge: only its identity can be seen.
struct HostBridge(ConfigSpace);

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }
    fn write_config(&self, _offset: u16, _data: &[u8]) {}
    fn memory_register(&self, _address: u64) -> Option<u64> {
        None
    }
    fn port_register(&self, _port: u16) -> Option<u64> {
        None
    }
    fn read_register(&self, _register: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write_register(&self, _register: u64, _data: &[u8]) {}
}

impl Default for PciBus {
    fn default() -> Self {
        let mut functions: [Option<Arc<dyn PciFunction>>; SLOT_COUNT as usize] = Default::default();
        functions[0] = Some(Arc::new(HostBridge(ConfigSpace::new(Identity::HOST_BRIDGE))));
        PciBus { functions: RwLock::new(functions), address_port: Mutex::default() }
    }
}

/// The enable bit of the address port.
const ADDRESS_ENABLE: u32 = 1 << 31;

impl PciBus {
    /// Puts `function` into `slot`.
    pub fn plug(&self, slot: Slot, function: Arc<dyn PciFunction>) {
        self.functions.write().unwrap_or_else(PoisonError::into_inner)[usize::from(slot.number())] =
            Some(function);
    }

    /// Takes the function out of `slot`.
    pub fn unplug(&self, slot: Slot) -> Option<Arc<dyn PciFunction>> {
        self.functions.write().unwrap_or_else(PoisonError::into_inner)[usize::from(slot.number())].take()
    }

    /// Writes to the address port come from `kept`, besides those to [`PciBus::write_legacy`].
    pub fn keep_addresses(&self, kept: KeptWrites) {
        self.address_port().kept = Some(kept);
    }

    /// An access to ECAM, at `offset` from its start. What is not there reads as ones.
    pub fn read_ecam(&self, offset: u64, data: &mut [u8]) {
        match self.ecam_target(offset, data.len()) {
            Some((function, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    pub fn write_ecam(&self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = self.ecam_target(offset, data.len()) {
            function.write_config(register, data);
        }
    }

    /// An access to a memory address of the PCI window. What is not there reads as zeroes, not as the ones of a bus: the driver of a
    /// virtio device that was pulled resets it all the same, and Linux waits until its status reads zero (virtio 1.2, 4.1.4.3.1).
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.target(|function| function.memory_register(address)) {
            Some((function, register)) => function.read_register(register, data),
            None => data.fill(0),
        }
    }

    pub fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((function, register)) = self.target(|function| function.memory_register(address)) {
            function.write_register(register, data);
        }
    }

    /// An access to a port of [`PORT_WINDOW`].
    pub fn read_io(&self, port: u16, data: &mut [u8]) {
        match self.target(|function| function.port_register(port)) {
            Some((function, register)) => function.read_register(register, data),
            None => data.fill(0xff),
        }
    }

    pub fn write_io(&self, port: u16, data: &[u8]) {
        if let Some((function, register)) = self.target(|function| function.port_register(port)) {
            function.write_register(register, data);
        }
    }

    /// An access to the ports 0xcf8 to 0xcff, at `offset` from the first.
    pub fn read_legacy(&self, offset: u16, data: &mut [u8]) {
        let address = self.address_port().address();
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&address.to_le_bytes()),
            (4..=7, length) => match self.legacy_target(address, offset - 4, length) {
                Some((function, register)) => function.read_config(register, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    pub fn write_legacy(&self, offset: u16, data: &[u8]) {
        match (offset, <[u8; 4]>::try_from(data)) {
            (0, Ok(bytes)) => self.address_port().write(u32::from_le_bytes(bytes)),
            (4..=7, _) => {
                let address = self.address_port().address();
                if let Some((function, register)) = self.legacy_target(address, offset - 4, data.len()) {
                    function.write_config(register, data);
                }
            }
            _ => {}
        }
    }

    fn address_port(&self) -> MutexGuard<'_, AddressPort> {
        self.address_port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, slot: u64) -> Option<Arc<dyn PciFunction>> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.get(usize::try_from(slot).ok()?)?.clone()
    }

    /// ECAM (PCI Express base specification 7.2.2): bus 27:20, device 19:15, function 14:12, register 11:0.
    fn ecam_target(&self, offset: u64, length: usize) -> Option<(Arc<dyn PciFunction>, u16)> {
        let register = u16::try_from(offset & 0xfff).ok()?;
        let first_function = (offset >> 12).is_multiple_of(8);
        let target = (first_function && is_aligned(register, length)).then_some(offset >> 15)?;
        Some((self.function(target)?, register))
    }

    /// The address port: enable 31, bus 23:16, device 15:11, function 10:8, register 7:2.
    fn legacy_target(&self, address: u32, byte: u16, length: usize) -> Option<(Arc<dyn PciFunction>, u16)> {
        let register = u16::try_from(address & 0xfc).ok()? + byte;
        let on_bus_0 = (address >> 8) & 0xff07 == 0;
        let reachable = address & ADDRESS_ENABLE != 0
            && address >> 24 == 0x80
            && on_bus_0
            && is_aligned(register, length);
        let slot = reachable.then_some(u64::from((address >> 11) & 0x1f))?;
        Some((self.function(slot)?, register))
    }

    /// The function that decodes what `register` looks for, and its register there.
    fn target(
        &self,
        register: impl Fn(&dyn PciFunction) -> Option<u64>,
    ) -> Option<(Arc<dyn PciFunction>, u64)> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.iter().flatten().find_map(|function| Some((function.clone(), register(&**function)?)))
    }
}

/// Configuration space is read in naturally aligned pieces of 1, 2 or 4 bytes.
fn is_aligned(register: u16, length: usize) -> bool {
    matches!(length, 1 | 2 | 4) && usize::from(register).is_multiple_of(length)
}
