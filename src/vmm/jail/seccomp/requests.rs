//! Numbers of ioctl requests, put together as `<asm-generic/ioctl.h>` does.

use kvm_bindings as kvm;

use super::program::word;

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC`
const fn request(direction: u32, kind: u8, number: u8, size: usize) -> u32 {
    assert!(size < 1 << 14);
    let [low, high, ..] = size.to_le_bytes();
    direction << 30 | u32::from_le_bytes([number, kind, low, high])
}

/// A request of KVM without a structure.
const fn kvm_io(number: u8) -> u32 {
    request(NONE, 0xae, number, 0)
}

/// A request of KVM that reads a `T`.
const fn kvm_in<T>(number: u8) -> u32 {
    request(WRITE, 0xae, number, size_of::<T>())
}

/// A request of KVM that fills a `T`.
const fn kvm_out<T>(number: u8) -> u32 {
    request(READ, 0xae, number, size_of::<T>())
}

/// A request of KVM that reads and fills a `T`.
const fn kvm_in_out<T>(number: u8) -> u32 {
    request(WRITE | READ, 0xae, number, size_of::<T>())
}

pub(super) const KVM_RUN: u32 = kvm_io(0x80);

/// What a vCPU's thread asks of KVM besides running: connections of queues and interrupts as the guest moves BARs and
/// programs MSI-X.
pub(super) const KVM_CONNECT: [u32; 5] = [
    kvm_in::<kvm::kvm_ioeventfd>(0x79),
    kvm_in::<kvm::kvm_irqfd>(0x76),
    kvm_in::<kvm::kvm_irq_routing>(0x6a),
    kvm_in::<kvm::kvm_msi>(0xa5),
    kvm_in::<kvm::kvm_irq_level>(0x61),
];

/// State of a vCPU, read and written.
pub(super) const KVM_STATE: [u32; 23] = [
    kvm_out::<kvm::kvm_regs>(0x81),
    kvm_in::<kvm::kvm_regs>(0x82),
    kvm_out::<kvm::kvm_sregs>(0x83),
    kvm_in::<kvm::kvm_sregs>(0x84),
    kvm_in_out::<kvm::kvm_msrs>(0x88),
    kvm_in::<kvm::kvm_msrs>(0x89),
    kvm_out::<kvm::kvm_xsave>(0xa4),
    kvm_in::<kvm::kvm_xsave>(0xa5),
    kvm_out::<kvm::kvm_lapic_state>(0x8e),
    kvm_in::<kvm::kvm_lapic_state>(0x8f),
    kvm_in::<kvm::kvm_cpuid2>(0x90),
    kvm_out::<kvm::kvm_mp_state>(0x98),
    kvm_in::<kvm::kvm_mp_state>(0x99),
    kvm_out::<kvm::kvm_vcpu_events>(0x9f),
    kvm_in::<kvm::kvm_vcpu_events>(0xa0),
    kvm_out::<kvm::kvm_debugregs>(0xa1),
    kvm_in::<kvm::kvm_debugregs>(0xa2),
    kvm_out::<kvm::kvm_xcrs>(0xa6),
    kvm_in::<kvm::kvm_xcrs>(0xa7),
    kvm_io(0xa2), // KVM_SET_TSC_KHZ
    kvm_io(0xa3), // KVM_GET_TSC_KHZ
    kvm_io(0xad), // KVM_KVMCLOCK_CTRL
    kvm_io(0x9a), // KVM_NMI
];

/// Making a virtual machine anew, as each reset does.
pub(super) const KVM_CREATE: [u32; 14] = [
    kvm_io(0x00), // KVM_GET_API_VERSION
    kvm_io(0x01), // KVM_CREATE_VM
    kvm_io(0x03), // KVM_CHECK_EXTENSION
    kvm_io(0x04), // KVM_GET_VCPU_MMAP_SIZE
    kvm_io(0x41), // KVM_CREATE_VCPU
    kvm_in::<kvm::kvm_userspace_memory_region>(0x46),
    kvm_io(0x47),        // KVM_SET_TSS_ADDR
    kvm_in::<u64>(0x48), // KVM_SET_IDENTITY_MAP_ADDR
    kvm_io(0x60),        // KVM_CREATE_IRQCHIP
    kvm_in::<kvm::kvm_coalesced_mmio_zone>(0x67),
    kvm_in::<kvm::kvm_pit_config>(0x77),
    kvm_in::<kvm::kvm_enable_cap>(0xa3),
    kvm_in::<kvm::kvm_clock_data>(0x7b),
    kvm_out::<kvm::kvm_clock_data>(0x7c),
];

/// The state of what CPUs share, read and written: of a machine that is suspended, or goes on.
pub(super) const KVM_SUSPEND: [u32; 3] = [
    kvm_in_out::<kvm::kvm_irqchip>(0x62),
    kvm_out::<kvm::kvm_irqchip>(0x63), // KVM_SET_IRQCHIP reads it, whatever its number says
    kvm_in_out::<kvm::kvm_msr_list>(0x02),
];

/// A tap's queue: what it is, its header, its offloads, whether it is attached.
pub(super) const TAP: [u32; 5] = [
    request(READ, b'T', 210, 4),  // TUNGETIFF
    request(WRITE, b'T', 208, 4), // TUNSETOFFLOAD
    request(WRITE, b'T', 216, 4), // TUNSETVNETHDRSZ
    request(WRITE, b'T', 217, 4), // TUNSETQUEUE
    request(READ, b'T', 207, 4),  // TUNGETFEATURES
];

/// A block device's size, sector sizes, and what discards on it.
pub(super) const BLOCK: [u32; 6] = [
    request(READ, 0x12, 114, 8), // BLKGETSIZE64
    request(NONE, 0x12, 104, 0), // BLKSSZGET
    request(NONE, 0x12, 123, 0), // BLKPBSZGET
    request(NONE, 0x12, 119, 0), // BLKDISCARD
    request(NONE, 0x12, 127, 0), // BLKZEROOUT
    request(NONE, 0x12, 124, 0), // BLKDISCARDZEROES
];

/// Of any descriptor or socket.
pub(super) const DESCRIPTOR: [u32; 2] = [word(libc::FIONBIO), word(libc::FIONREAD)];

/// The lists put behind one another: the rest is never a request.
pub(super) const fn joined<const N: usize>(lists: &[&[u32]]) -> [u32; N] {
    let mut all = [0; N];
    let (mut list, mut filled) = (0, 0);
    while list < lists.len() {
        let mut member = 0;
        while member < lists[list].len() {
            all[filled] = lists[list][member];
            filled += 1;
            member += 1;
        }
        list += 1;
    }
    assert!(filled == N, "a list of requests has another length than was said");
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_kernels_numbers() {
        assert_eq!(u64::from(TAP[0]), libc::TUNGETIFF);
        assert_eq!(u64::from(TAP[1]), libc::TUNSETOFFLOAD);
        assert_eq!(u64::from(TAP[2]), libc::TUNSETVNETHDRSZ);
        assert_eq!(u64::from(TAP[3]), libc::TUNSETQUEUE);
        assert_eq!(u64::from(TAP[4]), libc::TUNGETFEATURES);
        // As `strace -X verbose` shows them.
        assert_eq!(KVM_RUN, 0xae80);
        assert_eq!(KVM_CONNECT, [0x4040_ae79, 0x4020_ae76, 0x4008_ae6a, 0x4020_aea5, 0x4008_ae61]);
        assert_eq!(KVM_CREATE[5], 0x4020_ae46);
        assert_eq!(BLOCK[0], 0x8008_1272);
    }
}
