//! Copies everything that is written to standard output and standard error, also by programs that stay behind, to
//! where standard error went before and to a log.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::unistd::{dup2_stderr, dup2_stdout};

use crate::console::say;

pub struct Output {
    copier: JoinHandle<()>,
}

impl Output {
    /// From now on. Without a log, for which there must be room on the disk, there still is the console.
    pub fn start(log: &Path) -> Result<Self> {
        let console: File =
            std::io::stderr().as_fd().try_clone_to_owned().context("keep the console")?.into();
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let file = open(log);
        let missing = file.as_ref().err().map(|error| format!("{}: {error}", log.display()));
        let copier = thread::spawn(move || copy(reader, &console, file.ok()));
        let writer = OwnedFd::from(writer);
        dup2_stdout(&writer).context("redirect output")?;
        dup2_stderr(&writer).context("redirect output")?;
        if let Some(missing) = missing {
            say!("no log: {missing}");
        }
        Ok(Output { copier })
    }

    /// Returns when the last program that writes here has ended, or closed its output.
    pub fn finish(self) {
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = dup2_stdout(&null);
            let _ = dup2_stderr(&null);
            let _ = self.copier.join();
        }
    }
}

fn open(log: &Path) -> std::io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(log)
}

fn copy(mut reader: PipeReader, mut console: &File, mut log: Option<File>) {
    let mut buffer = [0; 8192];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                // A full disk or a closed console must not stop the programs that write.
                let _ = console.write_all(&buffer[..length]);
                if let Some(log) = &mut log {
                    let _ = log.write_all(&buffer[..length]);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
