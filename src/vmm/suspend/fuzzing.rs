//! The decoder of states, for fuzzing: whatever the bytes are, they end with an error or with what was encoded.

use super::format::{self, Decoder, Encoder, Record};
use super::{DeviceRecord, GuestRecord};
use crate::cpu::HostCpuid;
use crate::firmware::SystemIdentity;
use crate::machine::MachineSpec;
use crate::memory::Backing;
use crate::pci::Slot;
use crate::virtio::DeviceKind;

/// More than any record has whose lists are empty.
static ZEROES: [u8; 16384] = [0; 16384];

/// Decodes a state, and a state file.
///
/// # Panics
/// When what was decoded is not encoded as the same bytes.
pub fn state(bytes: &[u8]) {
    let _ = format::open::<GuestRecord>(bytes);
    let file = format::seal_body(bytes);
    if let Ok(record) = format::open::<GuestRecord>(&file) {
        assert!(format::seal(&record) == file, "a state has one encoding");
    }
}

/// A state that can be decoded, of one CPU and one device.
///
/// # Panics
/// Never: zeroes are records.
pub fn state_seed() -> Vec<u8> {
    fn zeroes<R: Record>() -> R {
        R::decode(&mut Decoder::new(&ZEROES)).expect("zeroes are numbers, and empty lists")
    }
    let record = GuestRecord {
        name: 1,
        spec: MachineSpec {
            cpus: 1,
            cpuid: zeroes::<HostCpuid>(),
            memory_bytes: 32 << 20,
            backing: Backing::Private,
            identity: SystemIdentity { uuid: 2, product: "t3.nano".into(), asset: "i-1".into() },
            generation: 3,
        },
        cpus: vec![zeroes()],
        vm: zeroes(),
        platform: zeroes(),
        devices: [("disk", DeviceKind::Block, 1), ("rng", DeviceKind::Rng, 2)]
            .into_iter()
            .filter_map(|(id, kind, slot)| {
                let (id, slot) = (id.to_owned(), Slot::new(slot)?);
                Some(DeviceRecord { id, kind, slot, leaving: false, transport: zeroes() })
            })
            .collect(),
    };
    let mut body = Encoder::default();
    record.encode(&mut body);
    body.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_a_state() {
        let seed = state_seed();
        assert!(format::open::<GuestRecord>(&format::seal_body(&seed)).is_ok());
        state(&seed);
    }
}
