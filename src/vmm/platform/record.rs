//! What the devices at fixed ports keep, of a machine that stands still.

use vm_superio::SerialState;

use super::{Platform, RTC_PORT};
use crate::suspend::format::{Decoder, Encoder, FormatError, Record};

/// More than the port's buffer holds; the port refuses what it cannot hold itself.
const INPUT_BYTES_MAX: u32 = 4096;

/// What is connected to nothing but the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformRecord {
    serial: SerialState,
    /// The register of the RTC that is selected.
    rtc_index: u8,
    /// The hot-plug registers: slots inserted, to be let go of, let go of.
    hotplug: [u32; 3],
    /// The address port of PCI's legacy access.
    pci_address: u32,
}

impl Platform {
    pub fn record(&self) -> PlatformRecord {
        let (mut rtc_index, mut pci_address) = ([0], [0; 4]);
        self.read_port(RTC_PORT, &mut rtc_index);
        self.pci.read_legacy(0, &mut pci_address);
        PlatformRecord {
            serial: self.serial.state(),
            rtc_index: u8::from_le_bytes(rtc_index),
            hotplug: self.hotplug.maps(),
            pci_address: u32::from_le_bytes(pci_address),
        }
    }

    /// Makes the devices of a machine that has not run what the recorded ones were.
    ///
    /// # Errors
    /// When the serial port cannot hold its input, or the host has no descriptor left.
    pub fn restore(&self, record: &PlatformRecord) -> std::io::Result<()> {
        self.serial.restore(&record.serial)?;
        self.write_port(RTC_PORT, &[record.rtc_index]);
        self.hotplug.restore(record.hotplug);
        self.pci.write_legacy(0, &record.pci_address.to_le_bytes());
        Ok(())
    }
}

impl Record for PlatformRecord {
    fn encode(&self, to: &mut Encoder) {
        let serial = &self.serial;
        to.bytes(&[
            serial.baud_divisor_low,
            serial.baud_divisor_high,
            serial.interrupt_enable,
            serial.interrupt_identification,
            serial.line_control,
            serial.line_status,
            serial.modem_control,
            serial.modem_status,
            serial.scratch,
        ]);
        to.count(serial.in_buffer.len());
        to.bytes(&serial.in_buffer);
        to.u8(self.rtc_index);
        self.hotplug.iter().for_each(|&map| to.u32(map));
        to.u32(self.pci_address);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let registers: [u8; 9] = from.array("the serial port")?;
        let [baud_divisor_low, baud_divisor_high, interrupt_enable, interrupt_identification, ..] = registers;
        let [.., line_control, line_status, modem_control, modem_status, scratch] = registers;
        let length = from.count(INPUT_BYTES_MAX, "the number of typed bytes")?;
        let serial = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: from.bytes(length, "the typed bytes")?.to_vec(),
        };
        let rtc_index = from.u8("the RTC")?;
        let mut hotplug = [0; 3];
        for map in &mut hotplug {
            *map = from.u32("the hot-plug registers")?;
        }
        Ok(PlatformRecord { serial, rtc_index, hotplug, pci_address: from.u32("the PCI address port")? })
    }
}
