//! No file, no TCP, no abstract socket, no signal to others: Landlock, as far as the kernel has it.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use super::FilesSpec;

/// The newest that this code was written for. Older kernels enforce what they know of it.
const NEWEST: ABI = ABI::V6;

/// Denies all that this kernel's Landlock can deny. It has no exceptions: what the process needs is open.
///
/// # Errors
/// When the kernel has Landlock and refuses it.
pub(super) fn deny_all() -> Result<(), RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(())
}

/// Denies all that this kernel's Landlock can deny but the files of `spec`, and the network if it needs none.
///
/// # Errors
/// When the kernel has Landlock and refuses it.
pub(super) fn deny_all_but(spec: &FilesSpec) -> Result<(), RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?;
    let ruleset =
        if spec.has_network { ruleset } else { ruleset.handle_access(AccessNet::from_all(NEWEST))? };
    let mut ruleset = ruleset.scope(Scope::from_all(NEWEST))?.create()?;
    let rules = [(&spec.writable, AccessFs::from_all(NEWEST)), (&spec.readable, AccessFs::from_read(NEWEST))];
    for (paths, access) in rules {
        for path in paths {
            // What is not there cannot be used either.
            if let Ok(file) = PathFd::new(path) {
                ruleset = ruleset.add_rule(PathBeneath::new(file, of_kind(path, access)))?;
            }
        }
    }
    ruleset.restrict_self()?;
    Ok(())
}

/// Of a file that is no folder only some can be allowed.
fn of_kind(path: &Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) }
}
