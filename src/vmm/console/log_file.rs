//! A copy of the console's output in a file, which never grows beyond its limit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ConsoleOutput;
use super::ring::count;

/// A file that the console's output is appended to.
#[derive(Debug)]
pub struct LogFileSpec {
    /// Opened for writing; what it holds is overwritten.
    pub file: File,
    /// How long it may get. At the limit it begins anew with the newest half.
    pub bytes_max: u64,
}

#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    bytes_max: u64,
    /// The console's offset of the next byte to write.
    position: u64,
    length: u64,
}

/// A limit below this is raised to it: it holds a few of the pieces in which the log is written.
const BYTES_MAX_MIN: u64 = 64 * 1024;

impl LogFile {
    pub(super) fn new(spec: LogFileSpec) -> Self {
        let bytes_max = spec.bytes_max.max(BYTES_MAX_MIN);
        LogFile { file: spec.file, bytes_max, position: 0, length: 0 }
    }

    /// Writes what the ring has and the file lacks.
    ///
    /// # Errors
    /// What the file system says: the log ends there.
    pub(super) fn catch_up(&mut self, output: &ConsoleOutput) -> io::Result<()> {
        let end = output.end();
        let mut chunk = [0; 16 * 1024];
        while self.position < end {
            let span = output.read(self.position, &mut chunk);
            let notice = if span.lost > 0 { super::loss_notice(span.lost) } else { String::new() };
            if self.length + count(notice.len() + span.length) > self.bytes_max {
                self.begin_anew(output)?;
                continue;
            }
            self.append(notice.as_bytes())?;
            self.append(&chunk[..span.length])?;
            self.position = span.end();
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += count(bytes.len());
        Ok(())
    }

    /// Goes back by half a file, as far as the ring reaches. At most half of the limit is written again before
    /// something new is, so this always gets on.
    fn begin_anew(&mut self, output: &ConsoleOutput) -> io::Result<()> {
        self.file.set_len(0)?;
        let back = self.length.min(self.bytes_max / 2);
        self.position = self.position.saturating_sub(back).max(output.start());
        self.length = 0;
        Ok(())
    }
}
