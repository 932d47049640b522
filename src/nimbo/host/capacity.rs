//! What this machine has for microVMs.

use std::{fs, thread};

use control::capacity::Capacity;
use types::ByteSize;

/// Its processors, as many as nimbo may use, and its memory. What cannot be found out is said to have no end.
pub(super) fn of_this_machine() -> Capacity {
    let endless = Capacity::default();
    let vcpus = thread::available_parallelism().ok().and_then(|count| u64::try_from(count.get()).ok());
    let memory = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    Capacity { vcpus: vcpus.unwrap_or(endless.vcpus), memory: memory.unwrap_or(endless.memory) }
}

/// `MemTotal` of `/proc/meminfo`: proc(5).
fn total(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1 << 10).map(ByteSize::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let meminfo = "MemTotal:       24576000 kB\nMemFree:         1 kB\n";
        assert_eq!(total(meminfo), Some(ByteSize::from_bytes(24_576_000 << 10)));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: many kB\n"), None);
    }

    #[test]
    fn this_machine_has_something() {
        let here = of_this_machine();
        assert!((1..1 << 20).contains(&here.vcpus), "{here:?}");
        assert!(here.memory > ByteSize::from_bytes(64 << 20) && here.memory.bytes() < 1 << 50, "{here:?}");
    }
}
