//! A running microVM as two files, and back: suspend and resume.
//!
//! ```text
//!            Machine::hold            Machine::suspend                Machine::restored      Machine::go_on
//! Running ─────────────────▶ Held ─────────────────────▶ two files ────────────────────▶ Stopped ─────────▶ Running
//!                             ▲                              │                             devices are plugged in
//!                             └── goes on, or is dropped ────┘
//! ```
//!
//! The *memory file* has the guest's RAM, each byte at its own offset and without the pages that are zeroes, and behind it a page that
//! names the suspension. The *state file* has everything else: a [`GuestRecord`], checksummed. `docs/suspend-format.md` specifies both.
//! (Snapshots of volumes are another thing: `volume::snapshot`.)
//!
//! What a machine is without its processes' own business is made of four kinds of state, in the order in which it is taken: CPUs stand
//! between two instructions, and workers have nothing in flight; devices tell where they stand in their queues, and interrupts that are
//! under way arrive; then CPUs and interrupt controllers are read, which changes nothing any more; last, memory.
//!
//! Nothing in the files is trusted. The state is decoded with a bound on every length, and then checked by whoever takes it: a
//! transport takes no features that it does not offer, KVM no register that its processor lacks. A guest's memory needs no check: it is
//! the guest's. What must not happen is that the memory file changes while a machine made of it lives: its pages are read as they are touched.
//!
//! A file that was not written to its end is refused: the memory file is durable, with the suspension's name in it, before the state
//! file is written. So of a save that is cut short over an old pair of files nothing is left, and the old pair where the new one has files of its own.
//!
//! What this deliberately does not do: it opens no file by a path, since the process of a microVM cannot; it neither pauses the machine nor
//! lets it go; it does not set the guest's wall clock right; and devices that keep more than their queues' positions are refused
//! ([`QueueHandler::positions`](crate::virtio::QueueHandler::positions)), so that none is resumed wrong.

pub mod format;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod guest;
mod memory_file;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

pub use format::FormatError;
pub(crate) use guest::DeviceRecord;
pub use guest::GuestRecord;

use crate::cpu::OtherCpu;
use crate::memory::GuestRam;

#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    #[error("cannot {operation} the state file")]
    State { operation: &'static str, source: std::io::Error },
    #[error("the state file is refused")]
    Format { source: FormatError },
    #[error("cannot {operation} the memory file")]
    Memory { operation: &'static str, source: std::io::Error },
    #[error("the memory file is not that of the state file: it has {bytes} bytes, not {expected}")]
    MemoryLength { bytes: u64, expected: u64 },
    #[error("the memory file is not that of the state file, or was not written to its end")]
    OtherMemory,
    #[error("the guest still reads its memory from the memory file; suspend it to another")]
    OwnMemory,
    #[error("the guest was suspended on another kind of processor")]
    Processor { source: OtherCpu },
    #[error("{id} was plugged in as a {recorded} device, and is a {here} device now")]
    OtherDevice { id: String, recorded: crate::virtio::DeviceKind, here: crate::virtio::DeviceKind },
    #[error("{id} was not plugged in when the guest was suspended")]
    NewDevice { id: String },
}

/// A suspended guest: its state, which was decoded, and the file of its memory, which belongs to it.
#[derive(Debug)]
pub struct Suspended {
    pub(crate) record: GuestRecord,
    pub(crate) memory: File,
}

impl Suspended {
    /// Reads the state; of the memory it reads nothing but whose it is.
    ///
    /// # Errors
    /// [`SuspendError`] when the files cannot be read, are damaged, of another format, or do not belong together.
    pub fn open(state: &File, memory: File) -> Result<Self, SuspendError> {
        let read = |source| SuspendError::State { operation: "read", source };
        let mut bytes = Vec::new();
        let bytes_max = u64::try_from(format::BYTES_MAX).unwrap_or(u64::MAX);
        state.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
        let record: GuestRecord = format::open(&bytes).map_err(|source| SuspendError::Format { source })?;
        memory_file::check(&memory, record.memory_bytes(), record.name)?;
        Ok(Suspended { record, memory })
    }
}

/// The device and the inode of a memory file.
pub(crate) fn place_of(memory: &File) -> Result<(u64, u64), SuspendError> {
    let read = |source| SuspendError::Memory { operation: "read", source };
    let metadata = memory.metadata().map_err(read)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A name that no other suspension has.
pub(crate) fn fresh_name() -> Result<u128, SuspendError> {
    let mut name = [0; 16];
    // SAFETY: the kernel fills as many bytes as there are.
    let filled = unsafe { libc::getrandom(name.as_mut_ptr().cast(), name.len(), 0) };
    if usize::try_from(filled) != Ok(name.len()) {
        let source = std::io::Error::last_os_error();
        return Err(SuspendError::State { operation: "draw a name for", source });
    }
    Ok(u128::from_le_bytes(name))
}

/// Writes a guest that stands still to two files, whatever was in them; both are durable when this returns.
pub(crate) fn save(
    record: &GuestRecord,
    ram: &GuestRam,
    state: &File,
    memory: &File,
) -> Result<(), SuspendError> {
    let write = |source| SuspendError::State { operation: "write", source };
    state.set_len(0).map_err(write)?;
    memory_file::write(ram, record.name, memory)
        .map_err(|source| SuspendError::Memory { operation: "write", source })?;
    state.write_all_at(&format::seal(record), 0).map_err(write)?;
    state.sync_all().map_err(write)
}
