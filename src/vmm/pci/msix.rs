//! The MSI-X capability, its table and its pending bits (PCI local bus specification 3.0, 6.8.2).
//!
//! ```text
//! table entry, 16 bytes:  address low │ address high │ data │ control (bit 0: masked)
//! ```
//!
//! A vector is an eventfd. While it can be delivered it is connected to KVM, which injects without waking us. While it
//! is masked it is not, and a signal stays in the eventfd: that is its pending bit, and connecting it again delivers
//! it.

use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Capability;
use crate::kvm::{KvmError, MsiMessage, Vm};
use crate::poll::event_fd;
use crate::suspend::format::{Decoder, Encoder, FormatError, Record};

const TABLE_ENTRY_BYTES: u64 = 16;
const CAPABILITY_ID: u8 = 0x11;
/// Message control, in the capability's first two bytes after id and next pointer.
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const ENTRY_MASKED: u32 = 1;

struct Entry {
    message: MsiMessage,
    masked: bool,
    interrupt: u32,
    connected: bool,
}

/// A vector of a machine that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorRecord {
    message: MsiMessage,
    masked: bool,
    pending: bool,
}

impl Record for VectorRecord {
    fn encode(&self, to: &mut Encoder) {
        to.u64(self.message.address);
        to.u32(self.message.data);
        to.bool(self.masked);
        to.bool(self.pending);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        const WHAT: &str = "an interrupt vector";
        let message = MsiMessage { address: from.u64(WHAT)?, data: from.u32(WHAT)? };
        let masked = from.bool("whether a vector is masked")?;
        Ok(VectorRecord { message, masked, pending: from.bool("whether a vector is pending")? })
    }
}

/// The vectors of one function.
pub struct MsixTable {
    vm: Arc<Vm>,
    events: Arc<[EventFd]>,
    entries: Vec<Entry>,
    enabled: bool,
    all_masked: bool,
}

impl MsixTable {
    /// A table of `count` vectors, 1 to 2048, masked as after reset.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(vm: Arc<Vm>, count: u16) -> std::io::Result<Self> {
        let events: Vec<EventFd> =
            (0..count).map(|_| EventFd::new(EFD_NONBLOCK)).collect::<std::io::Result<_>>()?;
        let entries = (0..count)
            .map(|_| Entry {
                message: MsiMessage::default(),
                masked: true,
                interrupt: vm.take_interrupt(),
                connected: false,
            })
            .collect();
        Ok(MsixTable { vm, events: events.into(), entries, enabled: false, all_masked: false })
    }

    /// The vectors' eventfds, for the device.
    pub fn events(&self) -> Arc<[EventFd]> {
        self.events.clone()
    }

    /// The capability that announces the table and the pending bits at these offsets of BAR 0.
    pub fn capability(&self, table_offset: u32, pending_offset: u32) -> Capability {
        let last = u16::try_from(self.entries.len() - 1).unwrap_or(u16::MAX);
        let mut body = last.to_le_bytes().to_vec();
        body.extend(table_offset.to_le_bytes());
        body.extend(pending_offset.to_le_bytes());
        let mut writable = (CONTROL_ENABLE | CONTROL_MASK_ALL).to_le_bytes().to_vec();
        writable.resize(body.len(), 0);
        Capability { id: CAPABILITY_ID, body, writable }
    }

    /// The driver wrote message control.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses to connect a vector.
    pub fn set_control(&mut self, control: u16) -> Result<(), KvmError> {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.all_masked = control & CONTROL_MASK_ALL != 0;
        (0..self.entries.len()).try_for_each(|index| self.update(index))
    }

    /// Reads the table in pieces of 4 or 8 bytes; anything else reads as ones.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (at, piece) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
            let dword = self.table_dword(at).to_le_bytes();
            piece.copy_from_slice(&dword[..piece.len()]);
        }
    }

    /// Writes the table in pieces of 4 or 8 bytes; anything else is ignored.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses to connect a vector.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Result<(), KvmError> {
        for (at, piece) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            if let (Ok(bytes), true) = (<[u8; 4]>::try_from(piece), at.is_multiple_of(4)) {
                self.write_dword(at, u32::from_le_bytes(bytes))?;
            }
        }
        Ok(())
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = at.saturating_mul(8);
            *byte = (0..8u8)
                .filter(|bit| self.is_pending(first + u64::from(*bit)))
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// What was signalled is with the local APICs when this returns: KVM ends what is under way before it lets go of an event.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses.
    pub fn settle(&mut self) -> Result<(), KvmError> {
        for index in 0..self.entries.len() {
            if self.entries[index].connected {
                self.disconnect(index)?;
                self.update(index)?;
            }
        }
        Ok(())
    }

    /// The vectors, after [`MsixTable::settle`].
    pub fn record(&self) -> Vec<VectorRecord> {
        let indexed = (0..).zip(&self.entries);
        indexed
            .map(|(index, &Entry { message, masked, .. })| VectorRecord {
                message,
                masked,
                pending: self.is_pending(index),
            })
            .collect()
    }

    /// Makes the vectors of a fresh table what they were, message control being `control`. False when it has not as many.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses to connect a vector.
    pub fn restore(&mut self, vectors: &[VectorRecord], control: u16) -> Result<bool, KvmError> {
        if vectors.len() != self.entries.len() {
            return Ok(false);
        }
        for ((entry, event), vector) in self.entries.iter_mut().zip(&*self.events).zip(vectors) {
            (entry.message, entry.masked) = (vector.message, vector.masked);
            if vector.pending {
                // A fresh counter is not at its end.
                let _ = event.write(1);
            }
        }
        self.set_control(control)?;
        Ok(true)
    }

    fn is_pending(&self, index: u64) -> bool {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        match (self.entries.get(at), self.events.get(at)) {
            (Some(entry), Some(event)) if !entry.connected => is_signalled(event),
            _ => false,
        }
    }

    fn table_dword(&self, offset: u64) -> u32 {
        let Some(entry) = self.index(offset).map(|index| &self.entries[index]) else { return u32::MAX };
        match offset % TABLE_ENTRY_BYTES {
            0 => crate::kvm::low_half(entry.message.address),
            4 => crate::kvm::low_half(entry.message.address >> 32),
            8 => entry.message.data,
            12 => u32::from(entry.masked),
            _ => u32::MAX,
        }
    }

    fn write_dword(&mut self, offset: u64, value: u32) -> Result<(), KvmError> {
        let Some(index) = self.index(offset) else { return Ok(()) };
        let entry = &mut self.entries[index];
        let message = &mut entry.message;
        let before = *message;
        match offset % TABLE_ENTRY_BYTES {
            0 => message.address = message.address & !0xffff_ffff | u64::from(value),
            4 => message.address = message.address & 0xffff_ffff | u64::from(value) << 32,
            8 => message.data = value,
            _ => entry.masked = value & ENTRY_MASKED != 0,
        }
        // A message that changes under a delivered vector takes effect at once.
        if entry.connected && entry.message != before {
            self.disconnect(index)?;
        }
        self.update(index)
    }

    fn index(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset / TABLE_ENTRY_BYTES).ok().filter(|&index| index < self.entries.len())
    }

    /// Connects or disconnects a vector as its masks say.
    fn update(&mut self, index: usize) -> Result<(), KvmError> {
        let deliver = self.enabled && !self.all_masked && !self.entries[index].masked;
        match (deliver, self.entries[index].connected) {
            (true, false) => {
                let entry = &mut self.entries[index];
                self.vm.connect_msi(entry.interrupt, entry.message, &self.events[index])?;
                entry.connected = true;
                Ok(())
            }
            (false, true) => self.disconnect(index),
            _ => Ok(()),
        }
    }

    fn disconnect(&mut self, index: usize) -> Result<(), KvmError> {
        let entry = &mut self.entries[index];
        self.vm.disconnect_msi(entry.interrupt, &self.events[index])?;
        entry.connected = false;
        Ok(())
    }
}

impl Drop for MsixTable {
    fn drop(&mut self) {
        for index in 0..self.entries.len() {
            if self.entries[index].connected {
                // Nothing is left to be done about a refusal: KVM lets go of the event when it is closed.
                let _ = self.disconnect(index);
            }
            self.vm.give_back_interrupt(self.entries[index].interrupt);
        }
    }
}

fn is_signalled(event: &EventFd) -> bool {
    let mut fds = [PollFd::new(event_fd(event), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}
