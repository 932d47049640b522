//! As whom a thread touches files.

use std::cell::Cell;
use std::io;

use crate::proto::Status;
use crate::sys;

const GROUPS_MAX: usize = 16;
/// Who says nothing of himself.
const NOBODY: u32 = 65534;

/// A user with his groups, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
    groups: Groups,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Groups {
    count: usize,
    gids: [u32; GROUPS_MAX],
}

/// What this thread has been made, as far as that is known.
#[derive(Debug, Clone, Copy)]
struct Taken {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Groups>,
}

thread_local! {
    static TAKEN: Cell<Taken> = const { Cell::new(Taken { uid: None, gid: None, groups: None }) };
}

impl Identity {
    /// With the first 16 of `groups`, as many as AUTH_SYS can tell.
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let mut gids = [0; GROUPS_MAX];
        let count = groups.len().min(GROUPS_MAX);
        gids[..count].copy_from_slice(&groups[..count]);
        Self { uid, gid, groups: Groups { count, gids } }
    }

    pub fn nobody() -> Self {
        Self::new(NOBODY, NOBODY, &[])
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn gid(&self) -> u32 {
        self.gid
    }

    pub fn groups(&self) -> &[u32] {
        &self.groups.gids[..self.groups.count]
    }

    /// From here on this thread is this user to files, until it takes another identity. Takes no system call if it is.
    pub(crate) fn take(&self) -> Result<(), Status> {
        let mut taken = TAKEN.get();
        // Whatever fails leaves nothing known, so that nobody is taken for who he is not.
        TAKEN.set(Taken { uid: None, gid: None, groups: None });
        if taken.groups != Some(self.groups) {
            sys::set_groups(self.groups())?;
            taken.groups = Some(self.groups);
        }
        if taken.gid != Some(self.gid) && !sys::set_fsgid(self.gid)
            || taken.uid != Some(self.uid) && !sys::set_fsuid(self.uid)
        {
            return Err(Status::ServerFault);
        }
        TAKEN.set(Taken { uid: Some(self.uid), gid: Some(self.gid), ..taken });
        Ok(())
    }

    /// From here on this thread may touch any file, with the groups that it has. If that is refused, it may less and not more.
    pub(crate) fn be_root() {
        let taken = TAKEN.get();
        if taken.uid != Some(0) {
            sys::set_fsuid(0);
            TAKEN.set(Taken { uid: None, ..taken });
        }
    }

    /// Whether this process may take identities at all. Leaves the thread as root.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn check() -> io::Result<()> {
        for who in [Self::nobody(), Self::new(0, 0, &[])] {
            who.take().map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        }
        Ok(())
    }
}
