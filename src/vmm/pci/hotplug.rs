//! The ACPI registers through which the guest learns of plugged and unplugged slots.
//!
//! ```text
//! offset 0  inserted   slots that got a device and that the guest has not asked about; reading clears
//! offset 4  removing   slots that the guest shall let go of; reading clears
//! offset 8  eject      written by the guest: it has let go of these slots
//! ```
//! Each is a map of slots, 32 bits. The methods that use them are in `firmware::acpi`.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Slot;

/// How many ports the registers take.
pub const PORTS: u16 = 12;

/// The registers' state.
#[derive(Debug, Default)]
pub struct HotplugRegisters {
    inserted: AtomicU32,
    removing: AtomicU32,
    /// Slots that the guest has let go of and that have not been taken.
    ejected: AtomicU32,
}

impl HotplugRegisters {
    /// To be told to the guest by the interrupt: `slot` has a device.
    pub fn announce(&self, slot: Slot) {
        self.inserted.fetch_or(slot.bit(), Ordering::AcqRel);
    }

    /// To be told to the guest by the interrupt: let go of `slot`.
    pub fn ask_removal(&self, slot: Slot) {
        self.removing.fetch_or(slot.bit(), Ordering::AcqRel);
    }

    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let map = match (offset, data.len()) {
            (0, 4) => self.inserted.swap(0, Ordering::AcqRel),
            (4, 4) => self.removing.swap(0, Ordering::AcqRel),
            _ => 0,
        };
        for (byte, value) in data.iter_mut().zip(map.to_le_bytes()) {
            *byte = value;
        }
    }

    /// True when the guest lets go of slots by this write and whoever takes them is to be told. That they are told again only
    /// after [`HotplugRegisters::take_ejected`] keeps a guest that never stops from filling anybody's queue.
    pub fn write(&self, offset: u16, data: &[u8]) -> bool {
        let map = match (offset, <[u8; 4]>::try_from(data)) {
            (8, Ok(bytes)) => u32::from_le_bytes(bytes),
            _ => 0,
        };
        self.ejected.fetch_or(map, Ordering::AcqRel) == 0 && map != 0
    }

    /// The three maps, in the order of their offsets.
    pub fn maps(&self) -> [u32; 3] {
        [&self.inserted, &self.removing, &self.ejected].map(|map| map.load(Ordering::Acquire))
    }

    pub fn restore(&self, [inserted, removing, ejected]: [u32; 3]) {
        self.inserted.store(inserted, Ordering::Release);
        self.removing.store(removing, Ordering::Release);
        self.ejected.store(ejected, Ordering::Release);
    }

    /// The slots that the guest has let go of since this was asked last.
    pub fn take_ejected(&self) -> Vec<Slot> {
        let map = self.ejected.swap(0, Ordering::AcqRel);
        (0..super::SLOT_COUNT).filter_map(Slot::new).filter(|slot| map & slot.bit() != 0).collect()
    }
}
