//! The virtual CPUs: how they look, how they start, and the threads that run them.

mod cpuid;
mod record;
mod registers;
mod thread;

pub use cpuid::{HostCpuid, OtherCpu};
pub use record::{CpuRecord, CpuRecordError};
pub use registers::Entry;
pub use thread::{Beginning, CpuCounts, CpuError, CpuEvent, CpuThreads, Teller};

/// The most CPUs of a guest.
pub const CPUS_MAX: u8 = 32;
