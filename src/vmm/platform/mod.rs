//! The devices at fixed ports, and the way from a guest's port or memory access to whatever answers it.
//!
//! ```text
//! 0x064          i8042: only the command that resets         0x600  sleep control, sleep status, reset
//! 0x070 - 0x071  RTC                                         0x608  hot-plug registers, 12 ports
//! 0x3f8 - 0x3ff  serial port, interrupt 4                    0xcf8  PCI configuration, 8 ports
//!                                                            0x1000 - 0x1fff  PCI devices
//! ```
//! What nobody answers reads as ones. That is not logged: a kernel probes a hundred absent ports as it boots.
//!
//! Interrupts 5 and 6 of the I/O APIC are ours by ACPI's Generic Event Device: power button, hot-plug.

mod power;
mod record;
mod rtc;
mod serial;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

pub use power::{PowerRegisters, SLEEP_TYPE_OFF};
pub use record::PlatformRecord;
pub use rtc::{CENTURY_REGISTER, Rtc};
pub use serial::SerialPort;

use crate::memory::{ECAM_BYTES, ECAM_START, PCI_WINDOW_END, PCI_WINDOW_START};
use crate::pci::hotplug::{self, HotplugRegisters};
use crate::pci::{PORT_WINDOW, PciBus};

/// Pins of the I/O APIC.
pub const SERIAL_INTERRUPT: u32 = 4;
pub const POWER_BUTTON_INTERRUPT: u32 = 5;
pub const HOTPLUG_INTERRUPT: u32 = 6;

/// Ports.
pub const SERIAL_PORT: u16 = 0x3f8;
const SERIAL_PORT_LAST: u16 = SERIAL_PORT + 7;
const I8042_DATA: u16 = 0x60;
const I8042_COMMAND: u16 = 0x64;
/// Pulses the processor's reset line.
const I8042_RESET: u8 = 0xfe;
pub const RTC_PORT: u16 = 0x70;
const RTC_PORT_LAST: u16 = RTC_PORT + 1;
/// Sleep control, sleep status and reset: one port each.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
pub const SLEEP_STATUS_PORT: u16 = 0x601;
pub const RESET_PORT: u16 = 0x602;
/// What is written to [`RESET_PORT`] to reset.
pub const RESET_VALUE: u8 = 1;
pub const HOTPLUG_PORT: u16 = 0x608;
const HOTPLUG_PORT_LAST: u16 = HOTPLUG_PORT + hotplug::PORTS - 1;
/// The address port of PCI's legacy access.
pub const PCI_PORT: u16 = 0xcf8;
const PCI_PORT_LAST: u16 = PCI_PORT + 7;
const PORT_WINDOW_START: u16 = PORT_WINDOW.start;
const PORT_WINDOW_END: u16 = PORT_WINDOW.end;

/// What a guest's write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    PowerOff,
    Reset,
    /// The guest has let go of slots, which the hot-plug registers name.
    Eject,
}

/// Everything at a fixed address, and the PCI bus.
pub struct Platform {
    pub serial: Arc<SerialPort>,
    pub rtc: Mutex<Rtc>,
    pub power: PowerRegisters,
    pub hotplug: HotplugRegisters,
    pub pci: PciBus,
}

impl Platform {
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        match port {
            SERIAL_PORT..=SERIAL_PORT_LAST => self.serial.read(port - SERIAL_PORT, data),
            RTC_PORT..=RTC_PORT_LAST => self.rtc().read(port - RTC_PORT, data),
            // No key and no mouse wait, and a command may be written.
            I8042_DATA | I8042_COMMAND | SLEEP_CONTROL_PORT | RESET_PORT => data.fill(0),
            SLEEP_STATUS_PORT => data.fill(self.power.sleep_status()),
            HOTPLUG_PORT..=HOTPLUG_PORT_LAST => self.hotplug.read(port - HOTPLUG_PORT, data),
            PCI_PORT..=PCI_PORT_LAST => self.pci.read_legacy(port - PCI_PORT, data),
            PORT_WINDOW_START..PORT_WINDOW_END => self.pci.read_io(port, data),
            _ => data.fill(0xff),
        }
    }

    pub fn write_port(&self, port: u16, data: &[u8]) -> Option<Request> {
        match (port, data) {
            (SERIAL_PORT..=SERIAL_PORT_LAST, _) => self.serial.write(port - SERIAL_PORT, data),
            (RTC_PORT..=RTC_PORT_LAST, _) => self.rtc().write(port - RTC_PORT, data),
            (I8042_COMMAND, [I8042_RESET, ..]) | (RESET_PORT, [RESET_VALUE, ..]) => {
                return Some(Request::Reset);
            }
            (SLEEP_CONTROL_PORT, [value, ..]) => return self.power.sleep(*value),
            (HOTPLUG_PORT..=HOTPLUG_PORT_LAST, _) => {
                return self.hotplug.write(port - HOTPLUG_PORT, data).then_some(Request::Eject);
            }
            (PCI_PORT..=PCI_PORT_LAST, _) => self.pci.write_legacy(port - PCI_PORT, data),
            (PORT_WINDOW_START..PORT_WINDOW_END, _) => self.pci.write_io(port, data),
            _ => {}
        }
        None
    }

    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        match address {
            PCI_WINDOW_START..PCI_WINDOW_END => self.pci.read_memory(address, data),
            ECAM_START..ECAM_END => self.pci.read_ecam(address - ECAM_START, data),
            _ => data.fill(0xff),
        }
    }

    pub fn write_memory(&self, address: u64, data: &[u8]) {
        match address {
            PCI_WINDOW_START..PCI_WINDOW_END => self.pci.write_memory(address, data),
            ECAM_START..ECAM_END => self.pci.write_ecam(address - ECAM_START, data),
            _ => {}
        }
    }

    fn rtc(&self) -> std::sync::MutexGuard<'_, Rtc> {
        self.rtc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ECAM_END: u64 = ECAM_START + ECAM_BYTES;
