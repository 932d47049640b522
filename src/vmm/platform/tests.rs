use std::sync::{Arc, Mutex};

use super::*;
use crate::console::{Console, ConsoleOutput, ConsoleSpec, SerialInput};
use crate::pci::Slot;

fn platform() -> (Platform, ConsoleOutput) {
    let (output, _console) = Console::new(ConsoleSpec::default()).unwrap();
    let platform = Platform {
        serial: Arc::new(SerialPort::new(output.clone()).unwrap()),
        rtc: Mutex::default(),
        power: PowerRegisters::new().unwrap(),
        hotplug: HotplugRegisters::default(),
        pci: PciBus::default(),
    };
    (platform, output)
}

#[test]
fn the_serial_port_writes_what_the_guest_writes() {
    let (platform, output) = platform();
    for byte in b"hello" {
        assert_eq!(platform.write_port(SERIAL_PORT, &[*byte]), None);
    }
    let mut text = [0; 5];
    output.read(0, &mut text);
    assert_eq!(&text, b"hello");
}

#[test]
fn input_reaches_the_guest_and_room_is_told_when_it_has_been_read() {
    let platform = platform().0;
    let told = platform.serial.room_event().unwrap();
    platform.serial.push(b"ab");
    let mut byte = [0];
    platform.read_port(SERIAL_PORT, &mut byte);
    assert_eq!(byte, *b"a");
    assert!(told.read().is_err(), "room is told before there is any");
    platform.read_port(SERIAL_PORT, &mut byte);
    assert_eq!(byte, *b"b");
    assert_eq!((platform.serial.room(), told.read().unwrap()), (64, 1));
}

#[test]
fn a_reset_makes_room_and_tells_it() {
    let platform = platform().0;
    let told = platform.serial.room_event().unwrap();
    platform.serial.push(&[b'x'; 64]);
    assert_eq!(platform.serial.room(), 0);
    platform.serial.reset().unwrap();
    assert_eq!((platform.serial.room(), told.read().unwrap()), (64, 1));
}

#[test]
fn a_string_instruction_reads_and_writes_every_byte() {
    let (platform, output) = platform();
    platform.serial.push(b"abc");
    let mut bytes = [0; 3];
    platform.read_port(SERIAL_PORT, &mut bytes);
    assert_eq!(&bytes, b"abc");
    platform.write_port(SERIAL_PORT, &bytes);
    bytes.fill(0);
    output.read(0, &mut bytes);
    assert_eq!((&bytes, output.end()), (b"abc", 3));
}

#[test]
fn three_ways_end_a_run_and_no_other_write_does() {
    let platform = platform().0;
    assert_eq!(platform.write_port(SLEEP_CONTROL_PORT, &[0x34]), Some(Request::PowerOff));
    assert_eq!(platform.write_port(I8042_COMMAND, &[0xfe]), Some(Request::Reset));
    assert_eq!(platform.write_port(RESET_PORT, &[1]), Some(Request::Reset));
    for value in (0..=255).filter(|value| *value != 0x34) {
        assert_eq!(platform.write_port(SLEEP_CONTROL_PORT, &[value]), None);
    }
}

#[test]
fn an_eject_names_the_slots_and_the_maps_clear_when_read() {
    let platform = platform().0;
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
    let eject = |map: u32| platform.write_port(HOTPLUG_PORT + 8, &map.to_le_bytes());
    assert_eq!(eject(1 << 3 | 1), Some(Request::Eject));
    // What has not been taken yet is not told again, however often it is written.
    assert_eq!(eject(1 << 31), None);
    assert_eq!(platform.hotplug.take_ejected(), [three, thirty_one]);
    assert_eq!(eject(0), None);
    assert_eq!(eject(1 << 3), Some(Request::Eject));
}

#[test]
fn any_access_of_any_width_to_any_port_is_answered() {
    let platform = platform().0;
    for port in (0..=0xffff).step_by(1) {
        for length in [1, 2, 4] {
            let mut data = [0; 4];
            platform.read_port(port, &mut data[..length]);
            platform.write_port(port, &data[..length]);
        }
    }
}
