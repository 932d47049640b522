//! Copies everything that the steps and their programs write, also those that stay behind, to the console and a log.
//!
//! That is why this is a process of its own: a pipe that nobody reads any more would end a daemon that a script has
//! started.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::path::Path;

use crate::console::say;

/// Returns when the last program that writes to the other end has ended, or closed it.
pub fn copy(mut reader: PipeReader, log: &Path) {
    // There may be no room on the disk, or no writable disk; there still is the console.
    let mut file = match open(log) {
        Ok(file) => Some(file),
        Err(error) => {
            say!("no log: {}: {error}", log.display());
            None
        }
    };
    let mut console = std::io::stderr();
    let mut buffer = [0; 8192];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                // A full disk or a closed console must not stop the programs that write.
                let _ = console.write_all(&buffer[..length]);
                if let Some(file) = &mut file {
                    let _ = file.write_all(&buffer[..length]);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn open(log: &Path) -> std::io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_grows_until_the_last_writer_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log/output.log");
        for text in ["one\n", "two\n"] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            copy(reader, &log);
        }
        assert_eq!(fs::read_to_string(log).unwrap(), "one\ntwo\n");
    }
}
