//! The jail of a process that works on files of its own by their paths, such as one that serves a volume.
//!
//! ```text
//!  started ── one thread ──▶ Jail::enter_with_files ──▶ the named files and folders, at their own paths, and nothing else
//! ```
//!
//! | measure | takes away |
//! | --- | --- |
//! | a root directory of the named files alone (mount namespace) | every other file, every Unix socket elsewhere |
//! | empty network namespace | every network, unless it is needed |
//! | IPC and UTS namespaces | System V objects, the host's name |
//! | no capabilities, empty bounding set, no new privileges | what root may beside its own files |
//! | Landlock | the same files again, and TCP, for what runs past the rest; signals to others |
//! | no dumps | core files, being traced |
//!
//! The process stays the user that it is, whose files it works on. As for the [other jail](super), what the host refuses is told.

use std::path::PathBuf;

use super::{Jail, JailError, JailReport, Measure, host, landlock, namespaces, privileges, thread_count};
use nix::unistd::Uid;

/// What a process needs. Files and folders that are not there are left out.
#[derive(Debug, Clone, Default)]
pub struct FilesSpec {
    /// Folders in which it may do everything.
    pub writable: Vec<PathBuf>,
    /// Files and folders that it may read, and use as libraries.
    pub readable: Vec<PathBuf>,
    /// It talks to others by the network.
    pub has_network: bool,
}

impl Jail {
    /// Jails the calling process, so that it has what is open and the files that `spec` names.
    ///
    /// # Errors
    /// [`JailError`] where going on would be worse than ending.
    pub fn enter_with_files(spec: &FilesSpec) -> Result<JailReport, JailError> {
        let threads = thread_count().map_err(host("count the threads of this process"))?;
        if threads != 1 {
            return Err(JailError::Threads { threads });
        }
        let mut report = JailReport::default();
        if !Uid::effective().is_root()
            && let Err(why) = namespaces::enter_user_namespace()
        {
            // The three below need it, and say so with their own reasons.
            report.note(Measure::OwnUser, Err(format!("no user namespace: {why}")));
        }
        report.note(Measure::Ipc, namespaces::leave_ipc_and_host_name());
        if !spec.has_network {
            report.note(Measure::Network, namespaces::leave_network(None));
        }
        report.note(Measure::EmptyRoot, namespaces::root_of(&spec.writable, &spec.readable));
        report.note(Measure::BoundingSet, privileges::empty_bounding_set());
        privileges::drop_capabilities().map_err(host("drop capabilities"))?;
        privileges::forbid_new().map_err(host("forbid new privileges"))?;
        report.note(Measure::Landlock, landlock::deny_all_but(spec));
        report.note(Measure::Tracing, privileges::forbid_tracing());
        Ok(report)
    }
}
