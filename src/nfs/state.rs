//! What clients hold: files that are open, and parts of them that are locked (RFC 8881, section 9).

mod ranges;

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

pub(crate) use ranges::{LockOwner, Range, RangeLock, Ranges};

use crate::fs::Node;
use crate::lock;
use crate::proto::{Stateid, Status};

/// As many files as a client of EFS may have open, and the files whose parts it may have locked.
const OPENS_MAX: usize = 32_768;
/// As many locks as a file of EFS may have.
const LOCKS_PER_FILE_MAX: usize = 512;

/// A file that an owner of a client's has open.
#[derive(Debug)]
pub(crate) struct Open {
    seqid: u32,
    pub(crate) node: Arc<Node>,
    pub(crate) file: Arc<File>,
    /// What it may be used for: no more than `file` was opened for.
    pub(crate) access: u32,
    /// Who opened it: what others may is looked at each time.
    pub(crate) uid: u32,
    owner: Box<[u8]>,
    /// Those who lock parts of it.
    lockings: Vec<u64>,
}

/// A file that was opened, before it is known as open.
#[derive(Debug)]
pub(crate) struct NewOpen {
    pub(crate) file: File,
    /// What the file was opened for, and what of it is asked for now.
    pub(crate) opened_for: u32,
    pub(crate) access: u32,
    pub(crate) uid: u32,
}

/// What an owner of locks has to do with a file that is open.
#[derive(Debug)]
pub(crate) struct Locking {
    seqid: u32,
    open: u64,
    pub(crate) owner: LockOwner,
}

#[derive(Debug)]
enum State {
    Open(Open),
    Locking(Locking),
}

impl State {
    fn seqid(&mut self) -> &mut u32 {
        match self {
            Self::Open(open) => &mut open.seqid,
            Self::Locking(locking) => &mut locking.seqid,
        }
    }
}

/// The owner and the file, of which there is at most one open.
type OpenKey = (Box<[u8]>, Arc<[u8]>);

/// What one client holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    states: HashMap<u64, State>,
    opens: HashMap<OpenKey, u64>,
}

/// The number of a state in what a client calls it.
fn number_in(stateid: &Stateid, boot: u32) -> Result<u64, Status> {
    match stateid.other.split_first_chunk::<4>() {
        Some((head, tail)) if *head == boot.to_be_bytes() => {
            tail.try_into().map(u64::from_be_bytes).map_err(|_| Status::BadStateid)
        }
        _ => Err(Status::BadStateid),
    }
}

fn stateid(number: u64, boot: u32, seqid: u32) -> Stateid {
    let mut other = [0; 12];
    other[..4].copy_from_slice(&boot.to_be_bytes());
    other[4..].copy_from_slice(&number.to_be_bytes());
    Stateid { seqid, other }
}

/// The version after `seqid`; zero stands for "the last one".
fn next(seqid: u32) -> u32 {
    seqid.checked_add(1).unwrap_or(1)
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The state that a client means.
    ///
    /// # Errors
    /// `BadStateid`, `OldStateid`
    fn find(&mut self, wanted: &Stateid, boot: u32) -> Result<(u64, &mut State), Status> {
        let number = number_in(wanted, boot)?;
        let state = self.states.get_mut(&number).ok_or(Status::BadStateid)?;
        let current = *state.seqid();
        match wanted.seqid {
            0 => Ok((number, state)),
            seqid if seqid == current => Ok((number, state)),
            // Versions that were, as far as that can be told of numbers that start again.
            seqid if current.wrapping_sub(seqid) < u32::MAX / 2 => Err(Status::OldStateid),
            _ => Err(Status::BadStateid),
        }
    }

    /// Whether a stateid is good.
    pub(crate) fn check(&mut self, wanted: &Stateid, boot: u32) -> Result<(), Status> {
        self.find(wanted, boot).map(|_| ())
    }

    /// The open file that a stateid stands for, also if it stands for locks in it.
    pub(crate) fn open_of(&mut self, wanted: &Stateid, boot: u32) -> Result<&Open, Status> {
        let (number, state) = self.find(wanted, boot)?;
        let number = match state {
            State::Open(_) => number,
            State::Locking(locking) => locking.open,
        };
        match self.states.get(&number) {
            Some(State::Open(open)) => Ok(open),
            _ => Err(Status::BadStateid),
        }
    }

    /// What `owner` has `node` open for already.
    pub(crate) fn access_of(&self, owner: &[u8], node: &Node) -> Option<u32> {
        let number = self.opens.get(&(owner.into(), Arc::clone(node.handle())))?;
        match self.states.get(number) {
            Some(State::Open(open)) => Some(open.access),
            _ => None,
        }
    }

    /// Notes that `owner` has `node` open, for `access` beside what it had before. `number` is for a state that is new.
    ///
    /// # Errors
    /// `Delay` if `new` was opened for less than its owner has come to have meanwhile; `DQuot` if a client has too many.
    pub(crate) fn open(
        &mut self,
        owner: &[u8],
        node: &Arc<Node>,
        new: NewOpen,
        (number, boot): (u64, u32),
    ) -> Result<Stateid, Status> {
        let key = (Box::from(owner), Arc::clone(node.handle()));
        if let Some(number) = self.opens.get(&key)
            && let Some(State::Open(open)) = self.states.get_mut(number)
        {
            let access = open.access | new.access;
            if access & !new.opened_for != 0 {
                return Err(Status::Delay);
            }
            open.seqid = next(open.seqid);
            (open.access, open.uid, open.file) = (access, new.uid, Arc::new(new.file));
            return Ok(stateid(*number, boot, open.seqid));
        }
        if self.opens.len() >= OPENS_MAX {
            return Err(Status::DQuot);
        }
        let open = Open {
            seqid: 1,
            node: Arc::clone(node),
            file: Arc::new(new.file),
            access: new.access,
            uid: new.uid,
            owner: owner.into(),
            lockings: Vec::new(),
        };
        self.states.insert(number, State::Open(open));
        self.opens.insert(key, number);
        Ok(stateid(number, boot, 1))
    }

    /// OPEN_DOWNGRADE: `access` is what stays.
    pub(crate) fn downgrade(
        &mut self,
        wanted: &Stateid,
        node: &Arc<Node>,
        access: u32,
        boot: u32,
    ) -> Result<Stateid, Status> {
        let (number, State::Open(open)) = self.find(wanted, boot)? else { return Err(Status::BadStateid) };
        if !Arc::ptr_eq(&open.node, node) {
            return Err(Status::BadStateid);
        }
        if access & !open.access != 0 {
            return Err(Status::Inval);
        }
        open.access = access;
        open.seqid = next(open.seqid);
        Ok(stateid(number, boot, open.seqid))
    }

    /// CLOSE: the file is not open any more, and nothing in it is locked by who had it open.
    pub(crate) fn close(
        &mut self,
        wanted: &Stateid,
        node: &Arc<Node>,
        locks: &Locks,
        boot: u32,
    ) -> Result<(), Status> {
        let (number, State::Open(open)) = self.find(wanted, boot)? else { return Err(Status::BadStateid) };
        if !Arc::ptr_eq(&open.node, node) {
            return Err(Status::BadStateid);
        }
        let key = (std::mem::take(&mut open.owner), Arc::clone(node.handle()));
        let lockings = std::mem::take(&mut open.lockings);
        self.opens.remove(&key);
        self.states.remove(&number);
        for number in lockings {
            if let Some(State::Locking(locking)) = self.states.remove(&number) {
                locks.release(node.handle(), &locking.owner);
            }
        }
        Ok(())
    }

    /// The locks that a stateid stands for, as LOCK and LOCKU have them: who locks, and what the file is open for.
    pub(crate) fn locking(
        &mut self,
        wanted: &Stateid,
        node: &Arc<Node>,
        boot: u32,
    ) -> Result<(LockOwner, u32), Status> {
        let (_, State::Locking(locking)) = self.find(wanted, boot)? else { return Err(Status::BadStateid) };
        let owner = locking.owner.clone();
        let open = self.open_of(wanted, boot)?;
        if Arc::ptr_eq(&open.node, node) { Ok((owner, open.access)) } else { Err(Status::BadStateid) }
    }

    /// An owner begins to lock parts of the file that `open` stands for, or goes on to.
    pub(crate) fn begin_locking(
        &mut self,
        open: &Stateid,
        owner: &LockOwner,
        (number, boot): (u64, u32),
    ) -> Result<Stateid, Status> {
        let (place, State::Open(open)) = self.find(open, boot)? else { return Err(Status::BadStateid) };
        for known in open.lockings.clone() {
            if let Some(State::Locking(locking)) = self.states.get_mut(&known)
                && locking.owner == *owner
            {
                locking.seqid = next(locking.seqid);
                return Ok(stateid(known, boot, locking.seqid));
            }
        }
        if let Some(State::Open(open)) = self.states.get_mut(&place) {
            open.lockings.push(number);
        }
        let locking = Locking { seqid: 1, open: place, owner: owner.clone() };
        self.states.insert(number, State::Locking(locking));
        Ok(stateid(number, boot, 1))
    }

    /// The next version of a stateid whose state was changed.
    pub(crate) fn advance(&mut self, wanted: &Stateid, boot: u32) -> Result<Stateid, Status> {
        let (number, state) = self.find(wanted, boot)?;
        let seqid = state.seqid();
        *seqid = next(*seqid);
        Ok(stateid(number, boot, *seqid))
    }

    /// FREE_STATEID (section 18.38): the client is done with an owner's locks, of which there are none.
    pub(crate) fn free(&mut self, wanted: &Stateid, locks: &Locks, boot: u32) -> Result<(), Status> {
        let (number, State::Locking(locking)) = self.find(wanted, boot)? else {
            return Err(Status::LocksHeld);
        };
        let (open, owner) = (locking.open, locking.owner.clone());
        if let Some(State::Open(open)) = self.states.get_mut(&open) {
            if locks.has(open.node.handle(), &owner) {
                return Err(Status::LocksHeld);
            }
            open.lockings.retain(|locking| *locking != number);
        }
        self.states.remove(&number);
        Ok(())
    }
}

/// Which parts of which files are locked, by all clients.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<HashMap<Arc<[u8]>, Ranges>>);

impl Locks {
    /// Locks a part of `file`, or tells which lock of somebody else's is in the way.
    ///
    /// # Errors
    /// `DQuot` if the file has too many.
    pub(crate) fn lock(&self, file: &Arc<[u8]>, wanted: RangeLock) -> Result<Result<(), RangeLock>, Status> {
        let mut files = lock(&self.0);
        let ranges = files.entry(Arc::clone(file)).or_default();
        if let Some(conflict) = ranges.conflict(&wanted) {
            return Ok(Err(conflict.clone()));
        }
        if ranges.len() >= LOCKS_PER_FILE_MAX {
            return Err(Status::DQuot);
        }
        ranges.lock(wanted);
        Ok(Ok(()))
    }

    /// A lock of somebody else's that is in the way of `wanted`.
    pub(crate) fn conflict(&self, file: &Arc<[u8]>, wanted: &RangeLock) -> Option<RangeLock> {
        lock(&self.0).get(file)?.conflict(wanted).cloned()
    }

    /// # Errors
    /// `DQuot` if one would become two, and the file has too many.
    pub(crate) fn unlock(&self, file: &Arc<[u8]>, owner: &LockOwner, range: Range) -> Result<(), Status> {
        self.change(file, |ranges| {
            if ranges.len() >= LOCKS_PER_FILE_MAX && ranges.splits(owner, range) {
                return Err(Status::DQuot);
            }
            ranges.unlock(owner, range);
            Ok(())
        })
    }

    fn release(&self, file: &Arc<[u8]>, owner: &LockOwner) {
        let _: Result<(), Status> = self.change(file, |ranges| {
            ranges.release(|gone| gone == owner);
            Ok(())
        });
    }

    fn change(
        &self,
        file: &Arc<[u8]>,
        change: impl FnOnce(&mut Ranges) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut files = lock(&self.0);
        let Some(ranges) = files.get_mut(file) else { return Ok(()) };
        let outcome = change(ranges);
        if ranges.len() == 0 {
            files.remove(file);
        }
        outcome
    }

    /// A client is gone.
    pub(crate) fn release_all(&self, client: u64) {
        lock(&self.0).retain(|_, ranges| {
            ranges.release(|owner| owner.client == client);
            ranges.len() > 0
        });
    }

    fn has(&self, file: &Arc<[u8]>, owner: &LockOwner) -> bool {
        lock(&self.0).get(file).is_some_and(|ranges| ranges.has(owner))
    }
}
