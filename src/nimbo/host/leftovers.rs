//! What a host still has when no instance is there any more, and nobody is to start another.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Context as _;
use network::{Namespace, uplink};

use super::{cgroup, process};

/// What is in RUN: folders, and what the names of files in each begin and end with that are nothing but told.
const FOLDERS: [(&str, &[(&str, &str)]); 5] = [
    ("instances", &[]),
    ("balancers", &[("elb-", ".log")]),
    ("netns", &[]),
    ("volumes", &[("vol-", ".log")]),
    ("consoles", &[("i-", ".log")]),
];

/// Ends processes of volumes and load balancers, gives the host's network back what uplinks have taken, and removes what there is of `run`. What somebody else has put
/// there stays, with the folder that it is in.
///
/// # Errors
/// When something cannot be removed, with what it is.
pub(crate) async fn remove(run: &Path) -> anyhow::Result<()> {
    process::end_all(&run.join("volumes")).await?;
    process::end_all(&run.join("balancers")).await?;
    let host = Namespace::current()?;
    uplink::remove_leftovers(&host).context("the host's network is not as it was")?;
    cgroup::remove_root();
    for (name, files) in FOLDERS {
        let folder = run.join(name);
        remove_folder(&folder, files).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    remove_empty(run).with_context(|| format!("cannot remove {}", run.display()))
}

fn remove_folder(folder: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = |(start, end): &(&str, &str)| {
            name.to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(end))
        };
        if files.iter().any(is_ours) {
            fs::remove_file(entry.path())?;
        }
    }
    remove_empty(folder)
}

/// A folder that has something in it stays.
fn remove_empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_has_put_there_stays() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("volumes");
        let (_, files) = FOLDERS[3];
        for is_clean in [false, true] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("vol-0123456789abcdef0.log"), "").unwrap();
            let other = folder.join("vol-notes.txt");
            fs::write(&other, "").unwrap();
            if is_clean {
                fs::remove_file(&other).unwrap();
            }
            remove_folder(&folder, files).unwrap();
            assert_eq!((folder.exists(), other.exists()), (!is_clean, !is_clean));
            assert!(!folder.join("vol-0123456789abcdef0.log").exists());
        }
        remove_folder(&folder, files).unwrap();
        remove_empty(run.path()).unwrap();
        assert!(!run.path().exists());
    }
}
