//! Locking parts of files.

use std::sync::Arc;

use super::{Compound, Failed, Outcome};
use crate::fs::regular;
use crate::lock;
use crate::proto::{OPAQUE_BYTES_MAX, Stateid, Status, share};
use crate::state::{LockOwner, Range, RangeLock};
use crate::xdr::{Reader, Writer};

/// Who asks for a lock (`locker4`).
enum Locker<'a> {
    New { open: Stateid, owner: &'a [u8] },
    Known(Stateid),
}

impl<'a> Locker<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Status> {
        if !reader.bool()? {
            let stateid = Stateid::read(reader)?;
            reader.u32()?;
            return Ok(Self::Known(stateid));
        }
        reader.u32()?;
        let open = Stateid::read(reader)?;
        reader.u32()?;
        // The client is that of the session.
        reader.u64()?;
        Ok(Self::New { open, owner: reader.opaque(OPAQUE_BYTES_MAX)? })
    }
}

/// Whether a kind of lock (`nfs_lock_type4`) is for writing. Nobody waits here, so who would wait asks again.
fn is_write(kind: u32) -> Result<bool, Status> {
    match kind {
        1 | 3 => Ok(false),
        2 | 4 => Ok(true),
        _ => Err(Status::BadXdr),
    }
}

/// `LOCK4denied`
pub(super) fn write_denied(out: &mut Writer, denied: &RangeLock) {
    out.u64(denied.range.first);
    out.u64(denied.range.length());
    out.u32(if denied.is_write { 2 } else { 1 });
    out.u64(denied.owner.client);
    out.opaque(&denied.owner.name);
}

impl Compound<'_> {
    pub(super) fn lock(&mut self) -> Outcome {
        let is_write = is_write(self.arguments.u32()?)?;
        let reclaims = self.arguments.bool()?;
        let (offset, length) = (self.arguments.u64()?, self.arguments.u64()?);
        let locker = Locker::read(&mut self.arguments)?;
        let node = self.node()?;
        regular(&node)?;
        let range = Range::new(offset, length).ok_or(Status::Inval)?;
        let client = Arc::clone(self.client()?);
        let clients = &self.service.clients;
        match reclaims {
            true => clients.may_reclaim(&client)?,
            false if clients.in_grace() || !client.has_reclaimed() => return Err(Status::Grace.into()),
            false => {}
        }
        let stateid = self.current_or(match locker {
            Locker::New { open, .. } => open,
            Locker::Known(stateid) => stateid,
        })?;
        let stateid = loop {
            let mut held = lock(&client.held);
            let (owner, access) = match &locker {
                Locker::New { owner, .. } => {
                    let open = held.open_of(&stateid, clients.boot)?;
                    if !Arc::ptr_eq(&open.node, &node) {
                        return Err(Status::BadStateid.into());
                    }
                    (LockOwner { client: client.id, name: Arc::from(*owner) }, open.access)
                }
                Locker::Known(_) => held.locking(&stateid, &node, clients.boot)?,
            };
            if access & if is_write { share::WRITE } else { share::READ } == 0 {
                return Err(Status::OpenMode.into());
            }
            let wanted = RangeLock { range, is_write, owner: owner.clone() };
            match (clients.locks.lock(node.handle(), wanted)?, &locker) {
                (Ok(()), Locker::New { .. }) => {
                    break held.begin_locking(&stateid, &owner, (clients.next_state(), clients.boot))?;
                }
                (Ok(()), Locker::Known(_)) => break held.advance(&stateid, clients.boot)?,
                (Err(conflict), _) => {
                    // Who ends a client takes locks that come before this one.
                    drop(held);
                    self.make_way(&owner, conflict)?;
                }
            }
        };
        stateid.write(self.out);
        self.keep(stateid);
        Ok(())
    }

    /// # Errors
    /// The lock that is in the way of `owner`, unless it was of a client that does not answer any more.
    fn make_way(&self, owner: &LockOwner, conflict: RangeLock) -> Outcome {
        if conflict.owner.client != owner.client && self.service.clients.end_if_lost(conflict.owner.client)? {
            return Ok(());
        }
        Err(Failed::Denied(Box::new(conflict)))
    }

    pub(super) fn lock_test(&mut self) -> Outcome {
        let is_write = is_write(self.arguments.u32()?)?;
        let (offset, length) = (self.arguments.u64()?, self.arguments.u64()?);
        self.arguments.u64()?;
        let name = self.arguments.opaque(OPAQUE_BYTES_MAX)?;
        let node = self.node()?;
        regular(&node)?;
        let range = Range::new(offset, length).ok_or(Status::Inval)?;
        let clients = &self.service.clients;
        if clients.in_grace() {
            return Err(Status::Grace.into());
        }
        let owner = LockOwner { client: self.client()?.id, name: name.into() };
        let wanted = RangeLock { range, is_write, owner };
        while let Some(conflict) = clients.locks.conflict(node.handle(), &wanted) {
            self.make_way(&wanted.owner, conflict)?;
        }
        Ok(())
    }

    pub(super) fn unlock(&mut self) -> Outcome {
        is_write(self.arguments.u32()?)?;
        let _seqid = self.arguments.u32()?;
        let stateid = Stateid::read(&mut self.arguments)?;
        let (offset, length) = (self.arguments.u64()?, self.arguments.u64()?);
        let node = self.node()?;
        let range = Range::new(offset, length).ok_or(Status::Inval)?;
        let stateid = self.current_or(stateid)?;
        let clients = &self.service.clients;
        let mut held = lock(&self.client()?.held);
        let (owner, _) = held.locking(&stateid, &node, clients.boot)?;
        clients.locks.unlock(node.handle(), &owner, range)?;
        let stateid = held.advance(&stateid, clients.boot)?;
        drop(held);
        stateid.write(self.out);
        self.keep(stateid);
        Ok(())
    }
}
