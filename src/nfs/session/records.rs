//! Which clients may reclaim what they had, should the server be restarted: a file for each, `FOLDER/clients/HASH`, with the client's name
//! for itself.
//!
//! A client is written down before it is told that it may hold anything, and struck out before somebody else may have what it held.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The clients that are written down.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Those in `state`, and the names that are written down there.
    pub(crate) fn open(state: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let folder = state.join("clients");
        fs::create_dir_all(&folder)?;
        let mut owners = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let owner = fs::read(&path)?;
            if path.file_name().is_some_and(|name| name.as_encoded_bytes() == hash(&owner).as_bytes()) {
                owners.push(owner);
            } else {
                // It was being written when the server ended; nobody was told of it.
                fs::remove_file(&path)?;
            }
        }
        Ok((Self { folder }, owners))
    }

    /// Writes one down. It stays, also if the machine fails.
    pub(crate) fn add(&self, owner: &[u8]) -> io::Result<()> {
        let name = hash(owner);
        let unfinished = self.folder.join(format!("{name}.new"));
        let mut file = File::create(&unfinished)?;
        file.write_all(owner)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.folder.join(name))?;
        self.sync()
    }

    /// Strikes one out, if it is there. It does not come back, also if the machine fails.
    pub(crate) fn remove(&self, owner: &[u8]) -> io::Result<()> {
        match fs::remove_file(self.folder.join(hash(owner))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn hash(owner: &[u8]) -> String {
    blake3::hash(owner).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_found_and_what_was_begun_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (records, owners) = Records::open(folder.path()).unwrap();
        assert!(owners.is_empty());
        records.add(b"one").unwrap();
        records.add(b"two\0/").unwrap();
        records.remove(b"one").unwrap();
        records.remove(b"one").unwrap();
        fs::write(folder.path().join("clients").join(format!("{}.new", hash(b"three"))), b"th").unwrap();
        let (_, owners) = Records::open(folder.path()).unwrap();
        assert_eq!(owners, [b"two\0/".to_vec()]);
        assert_eq!(fs::read_dir(folder.path().join("clients")).unwrap().count(), 1);
    }
}
