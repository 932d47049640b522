//! What is remembered of an instance, in the places where cloud-init has it.
//!
//! ```text
//! /var/lib/cloud/instance ─▶ instances/ID/   user-data.txt  scripts/  boothooks/  sem/STEP  boot-finished
//! /var/lib/cloud/data/        instance-id  previous-instance-id
//! /var/lib/cloud/scripts/     per-boot/  per-instance/  per-once/
//! /var/lib/cloud/sem/STEP     for what is done once on this disk, whatever the instance
//! ```
//!
//! A step is marked as done before it is done: one that makes the machine restart must not do so for ever.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub struct Instance {
    cloud: PathBuf,
    pub id: String,
}

/// How often a step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frequency {
    Boot,
    Instance,
    Once,
}

impl Instance {
    /// Makes this the present instance, under the folder `root`.
    pub fn enter(root: &Path, id: &str) -> Result<Self> {
        let cloud = root.join("var/lib/cloud");
        let instance = Instance { cloud, id: id.to_owned() };
        instance.prepare().with_context(|| format!("prepare {}", instance.folder().display()))?;
        Ok(instance)
    }

    /// The instance that this disk was last, with its user-data.
    pub fn last(root: &Path) -> Option<(Self, Option<Vec<u8>>)> {
        let cloud = root.join("var/lib/cloud");
        let id = fs::read_to_string(cloud.join("data/instance-id")).ok()?.trim().to_owned();
        let instance = Instance { cloud, id };
        let user_data = fs::read(instance.path("user-data.txt")).ok().filter(|data| !data.is_empty());
        instance.folder().is_dir().then_some((instance, user_data))
    }

    fn prepare(&self) -> io::Result<()> {
        for folder in ["scripts", "boothooks", "sem"] {
            fs::create_dir_all(self.path(folder))?;
        }
        for folder in ["data", "sem", "scripts/per-boot", "scripts/per-instance", "scripts/per-once"] {
            fs::create_dir_all(self.cloud.join(folder))?;
        }
        let link = self.cloud.join("instance");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(Path::new("instances").join(&self.id), link)?;
        let file = self.cloud.join("data/instance-id");
        let previous = fs::read_to_string(&file).unwrap_or_default();
        if previous.trim() != self.id {
            fs::write(self.cloud.join("data/previous-instance-id"), previous)?;
            fs::write(file, format!("{}\n", self.id))?;
        }
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.cloud.join("instances").join(&self.id)
    }

    /// A place in the folder of the instance.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The scripts that are run this often, whoever put them there.
    pub fn scripts(&self, frequency: Frequency) -> PathBuf {
        self.cloud.join("scripts").join(match frequency {
            Frequency::Boot => "per-boot",
            Frequency::Instance => "per-instance",
            Frequency::Once => "per-once",
        })
    }

    /// Whether the step is due now; if so it is marked as done.
    ///
    /// # Errors
    /// If the mark cannot be written, for the step would then be repeated.
    pub fn is_due(&self, step: &str, frequency: Frequency) -> Result<bool> {
        let mark = match frequency {
            Frequency::Boot => return Ok(true),
            Frequency::Instance => self.path("sem").join(step),
            Frequency::Once => self.cloud.join("sem").join(step),
        };
        match fs::File::create_new(&mark) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("mark the step {step} in {}", mark.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_due_again_for_another_instance() {
        let root = tempfile::tempdir().unwrap();
        let due =
            |id: &str, frequency| Instance::enter(root.path(), id).unwrap().is_due("x", frequency).unwrap();
        assert!(due("i-1", Frequency::Instance) && !due("i-1", Frequency::Instance));
        assert!(due("i-2", Frequency::Instance) && !due("i-1", Frequency::Instance));
        assert!(due("i-1", Frequency::Once) && !due("i-2", Frequency::Once));
        assert!(due("i-1", Frequency::Boot) && due("i-1", Frequency::Boot));
        let link = root.path().join("var/lib/cloud/instance");
        assert_eq!(fs::read_link(link).unwrap(), Path::new("instances/i-1"));
    }

    #[test]
    fn the_last_instance_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        assert!(Instance::last(root.path()).is_none());
        let instance = Instance::enter(root.path(), "i-1").unwrap();
        fs::write(instance.path("user-data.txt"), "x").unwrap();
        let (last, user_data) = Instance::last(root.path()).unwrap();
        assert_eq!((last.id.as_str(), user_data.as_deref()), ("i-1", Some(b"x".as_slice())));
    }
}
