//! What `CPUID` tells the guest: all that KVM supports, with the topology of this guest written in.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use super::CpuError;
use crate::suspend::format::{Decoder, Encoder, FormatError, Record};

/// Leaves that are changed.
mod leaf {
    pub(super) const FEATURES: u32 = 0x1;
    pub(super) const CACHES: u32 = 0x4;
    pub(super) const PERFORMANCE: u32 = 0xa;
    pub(super) const TOPOLOGY: u32 = 0xb;
    pub(super) const TOPOLOGY_V2: u32 = 0x1f;
    pub(super) const AMD_SIZES: u32 = 0x8000_0008;
    pub(super) const AMD_CACHES: u32 = 0x8000_001d;
    pub(super) const AMD_TOPOLOGY: u32 = 0x8000_001e;
    pub(super) const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;
}

const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_EDX_MULTITHREADING: u32 = 1 << 28;
/// Level types of the topology leaves.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// What the host's KVM can offer to any guest: of each leaf its function, its index, `KVM_CPUID_FLAG_…`, and EAX to EDX.
///
/// The host is asked by whoever starts a microVM, while its process begins: a processor that is itself a guest's takes some 0.4 ms to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostCpuid(Vec<[u32; 7]>);

/// A processor can something else than another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "CPUID leaf {function:#x}, {index} is {here:08x?} on this host, and was {recorded:08x?} where the guest ran"
)]
pub struct OtherCpu {
    function: u32,
    index: u32,
    recorded: [u32; 4],
    here: [u32; 4],
}

/// More than any processor has (`KVM_MAX_CPUID_ENTRIES`).
const LEAVES_MAX: u32 = 256;

impl Record for HostCpuid {
    fn encode(&self, to: &mut Encoder) {
        to.count(self.0.len());
        self.0.iter().flatten().for_each(|&word| to.u32(word));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let count = from.count(LEAVES_MAX, "the number of CPUID leaves")?;
        let mut leaves = vec![[0; 7]; count];
        for word in leaves.iter_mut().flatten() {
            *word = from.u32("a leaf of CPUID")?;
        }
        Ok(HostCpuid(leaves))
    }
}

impl HostCpuid {
    /// # Errors
    /// [`CpuError`] when there is no `/dev/kvm` or it refuses.
    pub fn ask() -> Result<Self, CpuError> {
        let asked = Kvm::new().and_then(|kvm| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES));
        let leaves = asked.map_err(|source| CpuError::Supported { source })?;
        let words = |leaf: &kvm_cpuid_entry2| {
            [leaf.function, leaf.index, leaf.flags, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
        };
        Ok(Self(leaves.as_slice().iter().map(words).collect()))
    }

    /// The first thing that a guest on a host with this would see otherwise than on `here`.
    ///
    /// # Errors
    /// [`OtherCpu`] when there is one.
    pub(crate) fn must_equal(&self, here: &HostCpuid) -> Result<(), OtherCpu> {
        for [function, index] in self.leaves().chain(here.leaves()) {
            let (recorded, here) = (self.seen(function, index), here.seen(function, index));
            if recorded != here {
                return Err(OtherCpu { function, index, recorded, here });
            }
        }
        Ok(())
    }

    /// As of a processor with another feature in leaf 1.
    #[cfg(test)]
    pub(crate) fn changed_for_test(&self) -> Self {
        let mut leaves = self.0.clone();
        leaves.iter_mut().filter(|leaf| leaf[0] == leaf::FEATURES).for_each(|leaf| leaf[6] ^= 1 << 31);
        HostCpuid(leaves)
    }

    fn leaves(&self) -> impl Iterator<Item = [u32; 2]> {
        self.0.iter().map(|&[function, index, ..]| [function, index])
    }

    /// EAX to EDX of a leaf, as the only CPU of a guest sees it; zeroes where there is none.
    fn seen(&self, function: u32, index: u32) -> [u32; 4] {
        let found = self.0.iter().find(|leaf| leaf[..2] == [function, index]);
        let [_, _, flags, eax, ebx, ecx, edx] = found.copied().unwrap_or_default();
        let mut leaf = kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() };
        adapt_leaf(&mut leaf, 0, 1);
        // Which of the host's CPUs was asked.
        let edx = if function == leaf::AMD_TOPOLOGY_V2 { 0 } else { leaf.edx };
        [leaf.eax, leaf.ebx, leaf.ecx, edx]
    }

    /// That of CPU `index` of `count`: one socket, one thread a core.
    pub(super) fn adapted(&self, index: u8, count: u8) -> Result<CpuId, CpuError> {
        let leaves = self.0.iter().map(|&[function, subleaf, flags, eax, ebx, ecx, edx]| {
            let mut leaf = kvm_cpuid_entry2 {
                function,
                index: subleaf,
                flags,
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            };
            adapt_leaf(&mut leaf, u32::from(index), u32::from(count));
            leaf
        });
        CpuId::from_entries(&leaves.collect::<Vec<_>>()).map_err(|_| CpuError::Leaves { count: self.0.len() })
    }
}

fn adapt_leaf(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    // Bits of an APIC id that number the CPUs of the socket.
    let id_bits = count.next_power_of_two().trailing_zeros();
    match entry.function {
        leaf::FEATURES => {
            entry.ecx |= FEATURES_ECX_TSC_DEADLINE | FEATURES_ECX_HYPERVISOR;
            entry.ebx = entry.ebx & 0x0000_ffff | index << 24 | count << 16;
            set(&mut entry.edx, FEATURES_EDX_MULTITHREADING, count > 1);
        }
        // Bits 31:26 are the socket's cores less one, 25:14 the sharers of the cache less one.
        leaf::CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharers = if level >= 3 { (1 << id_bits) - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | ((1 << id_bits) - 1) << 26 | sharers << 14;
        }
        // No performance counters: a kernel would spend exits on learning how many.
        leaf::PERFORMANCE => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => {
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, LEVEL_THREAD),
                1 => (id_bits, count, LEVEL_CORE | 1),
                level => (0, 0, level),
            };
            entry.edx = index;
        }
        // Bits 7:0 are the socket's CPUs less one, 15:12 the bits of the APIC id that number them.
        leaf::AMD_SIZES => entry.ecx = entry.ecx & !0xf0ff | id_bits << 12 | (count - 1),
        leaf::AMD_CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharers = if level >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharers << 14;
        }
        leaf::AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax: 0x121, ebx: 0xffff_1234, ..Default::default() }
    }

    #[test]
    fn each_cpu_finds_its_own_id_and_the_number_of_all() {
        for count in 1..=32 {
            for index in 0..count {
                let mut features = leaf(leaf::FEATURES, 0);
                adapt_leaf(&mut features, index, count);
                assert_eq!((features.ebx >> 24, features.ebx >> 16 & 0xff), (index, count));
                let mut core = leaf(leaf::TOPOLOGY, 1);
                adapt_leaf(&mut core, index, count);
                assert_eq!((core.edx, core.ebx), (index, count));
                assert!(1 << core.eax >= count, "{} bits number {count} CPUs", core.eax);
            }
        }
    }
}
