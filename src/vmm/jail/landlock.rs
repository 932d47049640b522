//! No file, no TCP, no abstract socket, no signal to others: Landlock, as far as the kernel has it.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError, Scope,
};

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
