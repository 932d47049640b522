//! Writes to the PCI address port, which KVM keeps until somebody asks for them.
//!
//! By the legacy ports a register of PCI's configuration space takes two accesses: its address is written to one port, then its
//! content passes another. Only the second has to leave the kernel, and Linux makes some seven hundred such pairs as it
//! starts. KVM puts the first of each into a ring (`KVM_CAP_COALESCED_PIO`), which is read before the second is served:
//!
//! ```text
//! page  0      4     8
//!       first  last  entries of 24 bytes: address 8, length 4, kind 4, data 8
//!       ours   KVM's; what is kept lies from first up to last
//! ```
//! A write that finds the ring full leaves the kernel like any other, so none is lost. All CPUs of a machine share the
//! ring: whoever takes from it holds the lock of what the writes are for.

use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::VcpuFd;

const PAGE_BYTES: usize = 4096;
/// As many as fit (Linux, `KVM_COALESCED_MMIO_MAX`).
const ENTRIES: u32 = 170;
const _: () = {
    let room = PAGE_BYTES - size_of::<kvm_coalesced_mmio_ring>();
    assert!(room / size_of::<kvm_coalesced_mmio>() == ENTRIES as usize);
};

/// The ring of one machine.
#[derive(Debug)]
pub struct KeptWrites {
    ring: NonNull<kvm_coalesced_mmio_ring>,
}

// SAFETY: the mapping belongs to no thread, and only `&mut self` reaches it.
unsafe impl Send for KeptWrites {}

impl KeptWrites {
    /// The ring of the machine that `cpu` belongs to. It stays when the CPU goes.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn of(cpu: &VcpuFd) -> io::Result<Self> {
        let offset = libc::off_t::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * 4096;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel chooses; KVM has this page for whom it told of the capability.
        let page = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE_BYTES, access, libc::MAP_SHARED, cpu.as_raw_fd(), offset)
        };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(KeptWrites { ring: page.cast() }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes the oldest write of four bytes; shorter ones mean nothing to this port and are dropped.
    pub fn take(&mut self) -> Option<u32> {
        let ring = self.ring.as_ptr();
        // SAFETY: the page is mapped and both are aligned counters in it; KVM writes `last` while this reads it.
        let (first, last) = unsafe {
            (AtomicU32::from_ptr(&raw mut (*ring).first), AtomicU32::from_ptr(&raw mut (*ring).last))
        };
        loop {
            let at = first.load(Ordering::Relaxed);
            if at >= ENTRIES || at == last.load(Ordering::Acquire) {
                return None;
            }
            // SAFETY: the entry is one of those that fit into the page. KVM wrote it before it moved `last` behind it,
            // and leaves it alone until `first` has moved.
            let entry = unsafe {
                (&raw const (*ring).coalesced_mmio).cast::<kvm_coalesced_mmio>().add(at as usize).read()
            };
            first.store((at + 1) % ENTRIES, Ordering::Release);
            let [a, b, c, d, ..] = entry.data;
            if entry.len == 4 {
                return Some(u32::from_le_bytes([a, b, c, d]));
            }
        }
    }
}

impl Drop for KeptWrites {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), PAGE_BYTES) };
    }
}
