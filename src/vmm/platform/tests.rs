use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn platform(sink: &Sink) -> Platform {
    Platform {
        serial: SerialPort::new(Box::new(sink.clone())).unwrap(),
        rtc: Mutex::default(),
        power: PowerRegisters::new().unwrap(),
        hotplug: HotplugRegisters::default(),
        pci: PciBus::default(),
    }
}

#[test]
fn the_serial_port_writes_what_the_guest_writes() {
    let sink = Sink::default();
    let platform = platform(&sink);
    for byte in b"hello" {
        assert_eq!(platform.write_port(SERIAL_PORT, &[*byte]), None);
    }
    assert_eq!(*sink.0.lock().unwrap(), b"hello");
}

#[test]
fn input_reaches_the_guest_and_room_is_told_when_it_has_been_read() {
    let platform = platform(&Sink::default());
    assert_eq!(platform.serial.push(b"ab"), 2);
    let mut byte = [0];
    platform.read_port(SERIAL_PORT, &mut byte);
    assert_eq!(byte, *b"a");
    platform.read_port(SERIAL_PORT, &mut byte);
    assert_eq!(byte, *b"b");
    assert_eq!(platform.serial.room(), 64);
}

#[test]
fn three_ways_end_a_run_and_no_other_write_does() {
    let platform = platform(&Sink::default());
    assert_eq!(platform.write_port(SLEEP_CONTROL_PORT, &[0x34]), Some(Request::PowerOff));
    assert_eq!(platform.write_port(I8042_COMMAND, &[0xfe]), Some(Request::Reset));
    assert_eq!(platform.write_port(RESET_PORT, &[1]), Some(Request::Reset));
    for value in (0..=255).filter(|value| *value != 0x34) {
        assert_eq!(platform.write_port(SLEEP_CONTROL_PORT, &[value]), None);
    }
}

#[test]
fn an_eject_names_the_slots_and_the_maps_clear_when_read() {
    let platform = platform(&Sink::default());
    let (three, thirty_one) = (Slot::new(3).unwrap(), Slot::new(31).unwrap());
    platform.hotplug.announce(three);
    platform.hotplug.ask_removal(thirty_one);
    let mut map = [0; 4];
    platform.read_port(HOTPLUG_PORT, &mut map);
    assert_eq!(u32::from_le_bytes(map), 1 << 3);
    platform.read_port(HOTPLUG_PORT, &mut map);
    assert_eq!(u32::from_le_bytes(map), 0);
    platform.read_port(HOTPLUG_PORT + 4, &mut map);
    assert_eq!(u32::from_le_bytes(map), 1 << 31);
    let eject = platform.write_port(HOTPLUG_PORT + 8, &(1u32 << 3 | 1 << 31 | 1).to_le_bytes());
    assert_eq!(eject, Some(Request::Eject(vec![three, thirty_one])));
}

#[test]
fn any_access_of_any_width_to_any_port_is_answered() {
    let platform = platform(&Sink::default());
    for port in (0..=0xffff).step_by(1) {
        for length in [1, 2, 4] {
            let mut data = [0; 4];
            platform.read_port(port, &mut data[..length]);
            platform.write_port(port, &data[..length]);
        }
    }
}
