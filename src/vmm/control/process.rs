//! The memory of this process, from a file that is opened before the jail closes the file systems.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use types::ByteSize;

use super::api::ProcessMemory;

/// The kernel's sums over all mappings of this process.
#[derive(Debug)]
pub struct ProcessMemoryFile(File);

impl ProcessMemoryFile {
    /// # Errors
    /// What open(2) says.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/smaps_rollup").map(Self)
    }

    /// # Errors
    /// What pread(2) says.
    pub fn read(&self) -> io::Result<ProcessMemory> {
        let mut text = [0; 4096];
        let length = self.0.read_at(&mut text, 0)?;
        Ok(parse(&String::from_utf8_lossy(&text[..length])))
    }
}

/// Lines such as `Private_Dirty:       1234 kB`; see proc_pid_smaps(5).
fn parse(text: &str) -> ProcessMemory {
    let sum = |names: &[&str]| {
        let kib = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| names.contains(name))
            .filter_map(|(_, value)| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .sum::<u64>();
        ByteSize::from_bytes(kib.saturating_mul(1024))
    };
    ProcessMemory {
        resident_bytes: sum(&["Rss"]),
        private_bytes: sum(&["Private_Clean", "Private_Dirty", "Private_Hugetlb"]),
        swapped_bytes: sum(&["Swap"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::testing::{Ended, ensure, in_child};

    #[test]
    fn memory_that_was_touched_is_counted() {
        // In a process of its own: other tests give and take memory meanwhile.
        let ended = in_child(|| {
            let file = ProcessMemoryFile::open().unwrap();
            let before = file.read().unwrap();
            let touched = vec![1u8; 64 << 20];
            let after = file.read().unwrap();
            let grown = after.private_bytes.mib() - before.private_bytes.mib();
            let touched = touched.len() >> 20;
            ensure((63..80).contains(&grown), format_args!("{touched} MiB touched, {grown} MiB counted"))?;
            ensure(after.resident_bytes >= after.private_bytes, "more private than resident")
        });
        assert_eq!(ended, Ended::Well);
    }

    #[test]
    fn sums_are_in_bytes_and_unknown_lines_are_passed_over() {
        let text = "5600-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  10 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n\
                    Swap: 4 kB\nSwapPss: 8 kB\nodd\nPss: many kB\n";
        let expected = ProcessMemory {
            resident_bytes: ByteSize::from_bytes(10 << 10),
            private_bytes: ByteSize::from_bytes(3 << 10),
            swapped_bytes: ByteSize::from_bytes(4 << 10),
        };
        assert_eq!(parse(text), expected);
    }
}
