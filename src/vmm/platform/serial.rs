//! The first serial port: a 16550 whose output goes to a sink and whose input comes from whoever is attached.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, SerialState, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::console::{ConsoleOutput, SerialInput};

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

/// The console, as the port's sink: it takes every byte at once.
struct Sink(ConsoleOutput);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Uart = Serial<InterruptEvent, RoomEvent, Sink>;

/// The port. Its lock is held for a register access only. It outlives resets, which only empty its registers.
pub struct SerialPort {
    uart: Mutex<Uart>,
    interrupt: EventFd,
    room: EventFd,
    output: ConsoleOutput,
}

impl SerialPort {
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(output: ConsoleOutput) -> io::Result<Self> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        let room = EventFd::new(EFD_NONBLOCK)?;
        let uart = Mutex::new(uart(&SerialState::default(), &interrupt, &room, &output)?);
        Ok(SerialPort { uart, interrupt, room, output })
    }

    /// Puts the registers back to what they are at power-on; input that waits is lost.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn reset(&self) -> io::Result<()> {
        self.restore(&SerialState::default())
    }

    /// The registers, and the input that waits.
    pub fn state(&self) -> SerialState {
        self.uart().state()
    }

    /// Makes registers and input what they were.
    ///
    /// # Errors
    /// When there is more input than the port holds, or the host has no descriptor left.
    pub fn restore(&self, state: &SerialState) -> io::Result<()> {
        *self.uart() = uart(state, &self.interrupt, &self.room, &self.output)?;
        // Whoever waits for room has it. The counter can only be at its end when it is signalled.
        let _ = self.room.write(1);
        Ok(())
    }

    /// To be connected to the I/O APIC.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Signalled when the guest has taken all input.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn room_event(&self) -> io::Result<EventFd> {
        self.room.try_clone()
    }

    /// Several bytes are what a string instruction (`rep insb`) reads: one after the other.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        if let Ok(offset) = u8::try_from(offset) {
            let mut uart = self.uart();
            data.fill_with(|| uart.read(offset));
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

impl SerialInput for SerialPort {
    fn room(&self) -> usize {
        self.uart().fifo_capacity()
    }

    fn push(&self, bytes: &[u8]) {
        // The caller asked for the room first, and an interrupt that cannot be signalled is pending.
        let _ = self.uart().enqueue_raw_bytes(bytes);
    }
}

fn uart(
    state: &SerialState,
    interrupt: &EventFd,
    room: &EventFd,
    output: &ConsoleOutput,
) -> io::Result<Uart> {
    let (interrupt, room) = (InterruptEvent(interrupt.try_clone()?), RoomEvent(room.try_clone()?));
    Serial::from_state(state, interrupt, room, Sink(output.clone())).map_err(|error| match error {
        vm_superio::serial::Error::Trigger(source) | vm_superio::serial::Error::IOError(source) => source,
        vm_superio::serial::Error::FullFifo => io::Error::other("more input than the serial port holds"),
    })
}
