use proptest::prelude::*;

use super::*;

/// A function that shows where it was reached.
struct Probe;

impl PciFunction for Probe {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let bytes = u32::from(offset).to_le_bytes();
        data.copy_from_slice(&bytes[..data.len()]);
    }
    fn write_config(&self, _offset: u16, _data: &[u8]) {}
    fn memory_register(&self, address: u64) -> Option<u64> {
        address.checked_sub(0xc000_0000).filter(|offset| *offset < 0x1000)
    }
    fn port_register(&self, port: u16) -> Option<u64> {
        (0x1080..0x1100).contains(&port).then(|| u64::from(port) - 0x1000)
    }
    fn read_register(&self, register: u64, data: &mut [u8]) {
        data.fill(u8::try_from(register).unwrap_or(0xee));
    }
    fn write_register(&self, _register: u64, _data: &[u8]) {}
}

fn bus_with_slot_5() -> PciBus {
    let bus = PciBus::default();
    bus.plug(Slot::new(5).unwrap(), Arc::new(Probe));
    bus
}

#[test]
fn both_ways_into_configuration_space_reach_the_same_register() {
    let bus = bus_with_slot_5();
    let mut by_ecam = [0; 4];
    bus.read_ecam(5 << 15 | 0x40, &mut by_ecam);
    let mut by_port = [0; 4];
    bus.write_legacy(0, &(1u32 << 31 | 5 << 11 | 0x40).to_le_bytes());
    bus.read_legacy(4, &mut by_port);
    assert_eq!((u32::from_le_bytes(by_ecam), by_ecam), (0x40, by_port));
}

#[test]
fn an_empty_slot_reads_as_ones() {
    let bus = bus_with_slot_5();
    let mut vendor = [0; 2];
    bus.read_ecam(6 << 15, &mut vendor);
    assert_eq!(vendor, [0xff; 2]);
    assert!(bus.unplug(Slot::new(5).unwrap()).is_some());
    bus.read_ecam(5 << 15, &mut vendor);
    assert_eq!(vendor, [0xff; 2]);
}

#[test]
fn a_bar_that_is_probed_for_its_size_answers_with_its_mask() {
    let mut space = ConfigSpace::new(Identity::HOST_BRIDGE);
    space.set_memory_bar(0xc000_8000, 0x8000);
    assert_eq!(space.memory_bar(), Some(0xc000_8000));
    space.write(0x10, &[0xff; 4]);
    let mut size = [0; 4];
    space.read(0x10, &mut size);
    assert_eq!(u32::from_le_bytes(size), !0x7fff);
    space.write(0x04, &[0]);
    assert_eq!(space.memory_bar(), None);
}

#[test]
fn an_io_bar_says_so_and_is_decoded_where_there_are_ports() {
    let mut space = ConfigSpace::new(Identity::HOST_BRIDGE);
    space.set_port_bar(0x1080, 0x80);
    assert_eq!(space.port_bar(), Some(0x1080));
    let mut bar = [0; 4];
    for (written, read, decoded) in
        [(u32::MAX, 0xffff_ff81, None), (0x1f80, 0x1f81, Some(0x1f80)), (0x1_1000, 0x1_1001, None)]
    {
        space.write(0x14, &written.to_le_bytes());
        space.read(0x14, &mut bar);
        assert_eq!((u32::from_le_bytes(bar), space.port_bar()), (read, decoded), "{written:#x}");
    }
    space.write(0x14, &0x1080u32.to_le_bytes());
    space.write(0x04, &[2]);
    assert_eq!(space.port_bar(), None);
}

#[test]
fn memory_and_ports_lead_to_the_registers_of_the_function_that_decodes_them() {
    let bus = bus_with_slot_5();
    let mut data = [0; 1];
    bus.read_memory(0xc000_0010, &mut data);
    assert_eq!(data, [0x10]);
    bus.read_io(0x1084, &mut data);
    assert_eq!(data, [0x84]);
    bus.read_io(0x1100, &mut data);
    assert_eq!(data, [0xff]);
    // Where a device was that a driver still resets.
    bus.read_memory(0xcfff_0010, &mut data);
    assert_eq!(data, [0]);
}

#[test]
fn capabilities_form_a_list_that_ends() {
    let mut space = ConfigSpace::new(Identity::HOST_BRIDGE);
    for id in [9, 17] {
        space.add_capability(&Capability { id, body: vec![id; 6], writable: vec![0; 6] });
    }
    let byte = |offset| {
        let mut data = [0];
        space.read(offset, &mut data);
        data[0]
    };
    let first = u16::from(byte(0x34));
    let second = u16::from(byte(first + 1));
    assert_eq!((byte(first), byte(second), byte(second + 1)), (9, 17, 0));
}

proptest! {
    #[test]
    fn no_access_to_the_bus_panics(offset in any::<u64>(), port in 0u16..8, address in any::<u32>(), length in 0usize..9) {
        let bus = bus_with_slot_5();
        let mut data = vec![0; length];
        bus.read_ecam(offset & 0xf_ffff, &mut data);
        bus.write_ecam(offset & 0xf_ffff, &data);
        bus.read_memory(0xc000_0000 + (offset & 0x1fff), &mut data);
        bus.write_memory(0xc000_0000 + (offset & 0x1fff), &data);
        bus.write_legacy(0, &address.to_le_bytes());
        bus.read_legacy(port, &mut data);
        bus.write_legacy(port, &data);
    }
}
