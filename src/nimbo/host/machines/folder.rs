//! What is kept of a microVM beside its process: by this it is found again, and its end is told.
//!
//! ```text
//!   RUN/instances/i-…/
//!     spec.json       what it is: written before anything else is done, removed after all else
//!     volumes.json    the volumes that it was given since, written before it is
//!     interfaces.json and the interfaces
//!     process.json    which process it is: written before that is told what to be
//!     started         the guest has begun to run
//!     killed          it was to be killed
//!     end.json        how it ended: by its own account, or by that of who saw it end
//!     control         the control socket
//!     messages        what the process says on standard error
//!   RUN/consoles/i-….log    what the guest wrote to its console; it stays
//! ```
//!
//! Each file is there as a whole or not. None is flushed: a crash of the host takes the microVM with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use control::ports::{End, InterfaceSpec, MachineSpec};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::{InstanceId, VolumeId};

use crate::microvm::Exit;
use crate::vmm_process::Report;

/// How much of the console is told.
const CONSOLE_BYTES_MAX: u64 = 64 * 1024;
/// What is told of the messages of a process that ended without a word.
const MESSAGE_BYTES_MAX: u64 = 2048;

/// A process that can be told from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessName {
    pid: i32,
    /// In the kernel's ticks since the host was started.
    start_time: u64,
    boot: String,
}

impl ProcessName {
    /// The name of the process that has this number now.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { pid: pid.as_raw(), start_time, boot })
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.pid)
    }
}

/// The 22nd field of `/proc/PID/stat` (proc(5)). The second one, the name in parentheses, may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Of one microVM.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    console: PathBuf,
}

impl Folder {
    pub(super) fn of(run: &Path, id: InstanceId) -> Self {
        let console = run.join("consoles").join(format!("{id}.log"));
        Self { path: run.join("instances").join(id.to_string()), console }
    }

    /// Makes the folders of all.
    ///
    /// # Errors
    /// When one cannot be made.
    pub(super) fn prepare(run: &Path) -> anyhow::Result<()> {
        for folder in [run.join("instances"), run.join("consoles")] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        Ok(())
    }

    /// Whose folders there are.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(super) fn all(run: &Path) -> anyhow::Result<Vec<InstanceId>> {
        let folder = run.join("instances");
        let list = || -> io::Result<Vec<InstanceId>> {
            let names = folder.read_dir()?.map(|entry| Ok(entry?.file_name()));
            let names = names.collect::<io::Result<Vec<_>>>()?;
            Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
        };
        list().with_context(|| format!("cannot list {}", folder.display()))
    }

    pub(super) fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// Begins anew, for a microVM that is to be started.
    ///
    /// # Errors
    /// When something cannot be written.
    pub(super) fn begin(&self, spec: &MachineSpec) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        self.write("spec.json", spec)
    }

    pub(super) fn spec(&self) -> anyhow::Result<Option<MachineSpec>> {
        self.read("spec.json")
    }

    pub(super) fn name_process(&self, process: &ProcessName) -> io::Result<()> {
        self.write("process.json", process)
    }

    pub(super) fn process(&self) -> anyhow::Result<Option<ProcessName>> {
        self.read("process.json")
    }

    /// Volumes that it was given after its start.
    pub(super) fn volumes(&self) -> anyhow::Result<BTreeSet<VolumeId>> {
        Ok(self.read("volumes.json")?.unwrap_or_default())
    }

    pub(super) fn add_volume(&self, id: VolumeId) -> anyhow::Result<()> {
        let mut volumes = self.volumes()?;
        if volumes.insert(id) {
            self.write("volumes.json", &volumes)?;
        }
        Ok(())
    }

    /// Interfaces that it was given after its start, those too that it has no more.
    pub(super) fn interfaces(&self) -> anyhow::Result<Vec<InterfaceSpec>> {
        Ok(self.read("interfaces.json")?.unwrap_or_default())
    }

    pub(super) fn add_interface(&self, interface: &InterfaceSpec) -> anyhow::Result<()> {
        let mut interfaces = self.interfaces()?;
        interfaces.retain(|other| other.id != interface.id);
        interfaces.push(interface.clone());
        Ok(self.write("interfaces.json", &interfaces)?)
    }

    pub(super) fn note_start(&self) -> io::Result<()> {
        self.write("started", &())
    }

    pub(super) fn has_started(&self) -> bool {
        self.path.join("started").exists()
    }

    pub(super) fn note_kill(&self) -> io::Result<()> {
        self.write("killed", &())
    }

    /// The file that the process tells its end.
    pub(super) fn report(&self) -> io::Result<File> {
        File::create(self.path.join("end.json"))
    }

    /// The file that the process writes the console to.
    pub(super) fn console_log(&self) -> io::Result<File> {
        File::create(&self.console)
    }

    pub(super) fn messages(&self) -> io::Result<File> {
        File::create(self.path.join("messages"))
    }

    /// How the microVM ended. `exit` is how its process did, if that is known.
    pub(super) fn end(&self, exit: Option<&Exit>) -> End {
        match self.read::<Report>("end.json") {
            Ok(Some(Report::PoweredOff)) => return End::PoweredOff,
            Ok(Some(Report::Failed(why))) => {
                return End::Failed(why.trim().trim_start_matches("error: ").to_owned());
            }
            // It was killed before it could tell.
            Ok(None) | Err(_) => {}
        }
        if self.path.join("killed").exists() {
            return End::Killed;
        }
        let why = self.unexpected(exit);
        // The next process cannot ask the kernel any more.
        if let Err(error) = self.write("end.json", &Report::Failed(why.clone())) {
            tracing::warn!(%error, folder = %self.path.display(), "how a microVM ended cannot be written down");
        }
        End::Failed(why)
    }

    fn unexpected(&self, exit: Option<&Exit>) -> String {
        let how = match exit {
            Some(Exit::Died(how)) => format!("the microVM's process died: {how}"),
            _ => "the microVM's process ended without saying why".to_owned(),
        };
        let said = self.last_messages();
        if said.is_empty() { how } else { format!("{how}; its last words: {said}") }
    }

    /// What the process said last.
    pub(super) fn last_messages(&self) -> String {
        let said = tail(&self.path.join("messages"), MESSAGE_BYTES_MAX).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// The last of what the guest wrote.
    pub(super) fn console(&self) -> io::Result<Vec<u8>> {
        match tail(&self.console, CONSOLE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Removes all but the console.
    pub(super) fn remove(&self) -> io::Result<()> {
        let names = match self.path.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        for entry in names {
            let entry = entry?;
            if entry.file_name() != "spec.json" {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_dir_all(&self.path)
    }

    pub(super) fn remove_console(&self) -> io::Result<()> {
        match fs::remove_file(&self.console) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        let (new, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(new, path)
    }

    /// A file that is empty says as little as one that is not there.
    fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let value = serde_json::from_slice(&bytes);
        value.map(Some).with_context(|| format!("{} does not hold what it should", path.display()))
    }
}

/// The end of a file.
fn tail(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use types::RandomId as _;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let run = tempfile::tempdir().unwrap();
        Folder::prepare(run.path()).unwrap();
        let folder = Folder::of(run.path(), InstanceId::from_random([3; 16]));
        fs::create_dir(&folder.path).unwrap();
        (run, folder)
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        assert_eq!(start_time("7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99"), Some(4711));
        let own = ProcessName::of(nix::unistd::getpid()).unwrap();
        assert_eq!(ProcessName::of(own.pid()).unwrap(), own);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = ProcessName::of(Pid::from_raw(i32::try_from(child.id()).unwrap())).unwrap();
        assert!(other.start_time >= own.start_time);
        child.kill().unwrap();
        child.wait().unwrap();
        ProcessName::of(other.pid()).unwrap_err();
    }

    #[test]
    fn an_end_is_told_by_who_knows_it_best_and_stays_so() {
        let (_run, folder) = folder();
        // It died: who waited for it knows how, and the next one still does.
        let how = "killed by signal 11 (SIGSEGV)".to_owned();
        fs::write(folder.path.join("messages"), "something odd\n").unwrap();
        let end = folder.end(Some(&Exit::Died(how)));
        let End::Failed(why) = &end else { panic!("{end:?}") };
        assert!(why.contains("SIGSEGV") && why.contains("something odd"), "{why}");
        assert_eq!(folder.end(None), end);
        // It was killed: then the kernel's account is no news.
        folder.report().unwrap();
        folder.note_kill().unwrap();
        assert_eq!(folder.end(Some(&Exit::Died("killed by signal 9 (SIGKILL)".to_owned()))), End::Killed);
        // It powered off before the kill came.
        fs::write(folder.path.join("end.json"), serde_json::to_vec(&Report::PoweredOff).unwrap()).unwrap();
        assert_eq!(folder.end(None), End::PoweredOff);
        let failed = Report::Failed("error: a triple fault\n".to_owned());
        fs::write(folder.path.join("end.json"), serde_json::to_vec(&failed).unwrap()).unwrap();
        assert_eq!(folder.end(None), End::Failed("a triple fault".to_owned()));
    }

    #[test]
    fn the_console_stays_when_all_else_is_removed() {
        let (run, folder) = folder();
        fs::write(&folder.console, [b"x".repeat(100), b"y".repeat(64 * 1024)].concat()).unwrap();
        folder.note_start().unwrap();
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert_eq!(Folder::all(run.path()).unwrap(), []);
        assert_eq!(folder.console().unwrap(), b"y".repeat(64 * 1024));
        folder.remove_console().unwrap();
        folder.remove_console().unwrap();
        assert_eq!(folder.console().unwrap(), b"");
    }
}
