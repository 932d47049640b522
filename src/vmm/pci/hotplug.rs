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

    /// The slots that the guest lets go of by this write.
    pub fn write(&self, offset: u16, data: &[u8]) -> impl Iterator<Item = Slot> + use<> {
        let map = match (offset, <[u8; 4]>::try_from(data)) {
            (8, Ok(bytes)) => u32::from_le_bytes(bytes),
            _ => 0,
        };
        (0..super::SLOT_COUNT).filter_map(Slot::new).filter(move |slot| map & slot.bit() != 0)
    }
}
