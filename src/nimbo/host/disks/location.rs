//! Where snapshots are: in a folder beside the volumes, or in the object store that was named when there were none.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::serve::state_folder::write_file;
use crate::volume::Location;

/// Names the object store, if that is not the folder [`DEFAULT`].
const FILE: &str = "object-store";
const DEFAULT: &str = "objects";

/// The object store of a state folder: the one that is wanted, or else the one that it has had. `uses` says what there is of it, if there is anything.
///
/// # Errors
/// When another one is in use, or the one that is wanted does not answer.
pub(super) fn choose(
    state: &Path,
    wanted: Option<&Location>,
    uses: Option<String>,
) -> anyhow::Result<Location> {
    let folder = state.join(DEFAULT);
    let default = folder.to_str().with_context(|| format!("{} is not text", folder.display()))?;
    let file = state.join(FILE);
    let known = match fs::read_to_string(&file) {
        Ok(text) => Location::from(text.trim()),
        Err(error) if error.kind() == ErrorKind::NotFound => Location::from(default),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let wanted = match wanted {
        Some(wanted) => wanted.absolute()?,
        None => return Ok(known),
    };
    if wanted == known.absolute()? {
        return Ok(known);
    }
    if let Some(uses) = uses {
        bail!("--objects {wanted}: {uses} in {known}; name that one, or delete them first");
    }
    let chosen = Location::from(&*wanted);
    // Here it is told that there is no such bucket, say, and not by the first snapshot.
    let listed = chosen.create().and_then(|store| Ok(store.snapshots().list()?));
    listed.with_context(|| format!("cannot keep snapshots in {chosen}"))?;
    if wanted == default {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    } else {
        write_file(&file, wanted.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_the_one_that_was_named_until_it_is_not_used_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let at = |name: &str| Location::from(state.join(name).to_str().unwrap());
        let choose = |wanted: Option<&Location>, uses: Option<&str>| {
            choose(state, wanted, uses.map(str::to_owned)).map(|location| location.to_string())
        };
        assert_eq!(choose(None, Some("1 snapshot is")).unwrap(), at("objects").to_string());
        assert!(choose(Some(&at("objects")), Some("1 snapshot is")).is_ok() && !state.join(FILE).exists());
        assert_eq!(choose(Some(&at("other")), None).unwrap(), at("other").to_string());
        // It need not be named again, and may be.
        assert_eq!(choose(None, None).unwrap(), at("other").to_string());
        assert_eq!(choose(Some(&at("other/")), Some("1 snapshot is")).unwrap(), at("other").to_string());
        let error = choose(Some(&at("third")), Some("1 snapshot is")).unwrap_err().to_string();
        assert!(error.contains("1 snapshot is in") && error.contains("/other; name that one"), "{error}");
        assert_eq!(choose(None, None).unwrap(), at("other").to_string());
        assert_eq!(choose(Some(&at("objects")), None).unwrap(), at("objects").to_string());
        assert!(!state.join(FILE).exists());
        // What cannot be used is not chosen.
        fs::write(state.join("file"), "").unwrap();
        choose(Some(&at("file")), None).unwrap_err();
        assert_eq!(choose(None, None).unwrap(), at("objects").to_string());
    }
}
