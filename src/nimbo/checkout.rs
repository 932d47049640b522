//! The source tree that this binary was built in, found again: its scripts build images and run the lab.

use std::env;
use std::path::{Path, PathBuf};

/// The script `name`, from the nearest folder above the running binary that has it.
pub(crate) fn script(name: &str) -> Option<PathBuf> {
    script_above(&env::current_exe().ok()?, name)
}

fn script_above(binary: &Path, name: &str) -> Option<PathBuf> {
    binary.ancestors().map(|folder| folder.join("scripts").join(name)).find(|script| script.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_script_above_the_binary_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let scripts = folder.path().join("scripts");
        std::fs::create_dir(&scripts).unwrap();
        std::fs::write(scripts.join("lab"), "").unwrap();
        let binary = folder.path().join("target/release/nimbo");
        assert_eq!(script_above(&binary, "lab"), Some(scripts.join("lab")));
        assert_eq!(script_above(&binary, "image"), None);
    }
}
