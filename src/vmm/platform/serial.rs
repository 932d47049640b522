//! The first serial port: a 16550 whose output goes to a sink and whose input comes from whoever is attached.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The interrupt's eventfd, connected to KVM.
#[derive(Debug)]
struct InterruptEvent(EventFd);

impl Trigger for InterruptEvent {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the feeder that the guest has taken all input, so that there is room for more.
struct RoomEvent(EventFd);

impl SerialEvents for RoomEvent {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        let _ = self.0.write(1);
    }
}

type Uart = Serial<InterruptEvent, RoomEvent, Box<dyn Write + Send>>;

/// The port. Its lock is held for a register access only.
pub struct SerialPort {
    uart: Mutex<Uart>,
    interrupt: EventFd,
    room: EventFd,
}

impl SerialPort {
    /// A port that writes to `output`, which must not block.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(output: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        let room = EventFd::new(EFD_NONBLOCK)?;
        let uart =
            Serial::with_events(InterruptEvent(interrupt.try_clone()?), RoomEvent(room.try_clone()?), output);
        Ok(SerialPort { uart: Mutex::new(uart), interrupt, room })
    }

    /// To be connected to the I/O APIC.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Readable when the guest has taken all input; read it to clear.
    pub fn room_event(&self) -> RawFd {
        self.room.as_raw_fd()
    }

    /// Clears [`SerialPort::room_event`].
    pub fn take_room_event(&self) {
        let _ = self.room.read();
    }

    /// How many bytes of input there is room for.
    pub fn room(&self) -> usize {
        self.uart().fifo_capacity()
    }

    /// Hands input to the guest; returns how many bytes there was room for.
    pub fn push(&self, input: &[u8]) -> usize {
        self.uart().enqueue_raw_bytes(input).unwrap_or(0)
    }

    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        if let (Ok(offset), [first, ..]) = (u8::try_from(offset), data) {
            *first = self.uart().read(offset);
        }
    }

    /// Several bytes are what a string instruction (`rep outsb`) writes: one after the other.
    pub fn write(&self, offset: u16, data: &[u8]) {
        if let Ok(offset) = u8::try_from(offset) {
            let mut uart = self.uart();
            for &byte in data {
                // The sink takes every byte, and an interrupt that cannot be signalled is pending.
                let _ = uart.write(offset, byte);
            }
        }
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
