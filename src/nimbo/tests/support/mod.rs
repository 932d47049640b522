//! What tests of `nimbo volume` have in common: a folder to work in, and a server with its end.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A folder for one test.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program in this folder, ended if it takes far longer than it may. `--foreground` has signals passed on once:
    /// without, timeout(1) sends them to the program and then to its process group, which is the program again.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "--kill-after", "1", "60", program])
            .args(arguments)
            .current_dir(self.0.path());
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// What it printed; it must succeed.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn nimbo(&self, arguments: &[&str]) -> String {
        self.tool(env!("CARGO_BIN_EXE_nimbo"), &[&["volume"], arguments].concat())
    }

    /// What it said when it failed with this status.
    pub fn nimbo_fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(env!("CARGO_BIN_EXE_nimbo"), &[&["volume"], arguments].concat());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap()
    }

    /// An image whose data are far from each other, with a hole that nobody should fill.
    pub fn image(&self, name: &str) -> PathBuf {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(64 * MIB).unwrap();
        for (place, byte) in [(0, 1u8), (20 * MIB - 300, 2), (64 * MIB - 5000, 3)] {
            file.write_all_at(&[byte; 5000], place).unwrap();
        }
        self.path(name)
    }

    pub fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// `nimbo volume serve`, from its first client's view to its end.
pub struct Serving {
    pub child: Child,
    pub urls: Vec<String>,
}

impl Serving {
    pub fn start(folder: &Folder, volumes: &[&str], more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nimbo"));
        command.args(["volume", "serve"]).args(volumes).args(more).current_dir(folder.0.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let urls: Vec<String> = lines
            .take(volumes.len())
            .map(|line| line.unwrap().split_once(": ").unwrap().1.to_owned())
            .collect();
        let mut this = Self { child, urls };
        if this.urls.len() < volumes.len() {
            this.child.kill().unwrap();
            let mut stderr = String::new();
            this.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("it serves nothing: {stderr}");
        }
        this
    }

    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    pub fn signal(&self, signal: Signal) {
        self::signal(&self.child, signal);
    }

    /// Ends it, and gives back what it said on standard error.
    pub fn stop(mut self, signal: Signal) -> String {
        self.signal(signal);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

pub fn bytes_equal(one: &Path, other: &Path) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}

pub fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}
