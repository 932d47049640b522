//! Opening and closing files.

use std::fs::File;
use std::sync::Arc;

use super::{Compound, Outcome};
use crate::fs::{Changes, Name, Node, SetTime, regular};
use crate::lock;
use crate::proto::{Attribute, Bitmap, OPAQUE_BYTES_MAX, Stateid, Status, Verifier, share};
use crate::state::NewOpen;
use crate::xdr::Reader;

/// Of a file that is made by who does not say how.
const MODE: u32 = 0o600;
/// `OPEN4_RESULT_LOCKTYPE_POSIX`: parts of what is locked can be unlocked.
const POSIX_LOCKS: u32 = 4;
const SHARE_DENY_MAX: u32 = 3;

/// How a file is made that OPEN does not find (`createhow4`).
enum How {
    Unchecked(Changes),
    Guarded(Changes),
    /// Whoever says the same verifier again has made it himself.
    Exclusive(Verifier, Changes),
}

impl How {
    fn changes(&self) -> &Changes {
        match self {
            Self::Unchecked(changes) | Self::Guarded(changes) | Self::Exclusive(_, changes) => changes,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Result<Self, Status>, Status> {
        match reader.u32()? {
            0 => Ok(Changes::read(reader)?.map(Self::Unchecked)),
            1 => Ok(Changes::read(reader)?.map(Self::Guarded)),
            2 => Ok(Ok(Self::Exclusive(reader.fixed()?, Changes::default()))),
            3 => {
                let verifier = reader.fixed()?;
                let changes = Changes::read(reader)?;
                Ok(changes.and_then(|changes| match changes.bitmap().without(Bitmap::EXCLUSIVE).is_empty() {
                    true => Ok(Self::Exclusive(verifier, changes)),
                    false => Err(Status::AttrNotSupp),
                }))
            }
            _ => Err(Status::BadXdr),
        }
    }
}

/// Which file OPEN means (`open_claim4`).
enum Claim {
    Name(Result<Name, Status>),
    Previous,
    Handle,
    /// Those of delegations, of which there are none.
    Delegation,
}

/// The arguments of OPEN.
struct Wanted<'a> {
    access: u32,
    deny: u32,
    owner: &'a [u8],
    how: Option<Result<How, Status>>,
    claim: Claim,
}

impl<'a> Wanted<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Status> {
        let _seqid = reader.u32()?;
        let (access, deny) = (reader.u32()?, reader.u32()?);
        // The client is that of the session (section 18.16.3).
        let _client = reader.u64()?;
        let owner = reader.opaque(OPAQUE_BYTES_MAX)?;
        let how = if reader.bool()? { Some(How::read(reader)?) } else { None };
        let claim = match reader.u32()? {
            0 => Claim::Name(Name::new(reader.opaque(usize::MAX)?)),
            1 => {
                reader.u32()?;
                Claim::Previous
            }
            2 => {
                Stateid::read(reader)?;
                reader.opaque(usize::MAX)?;
                Claim::Delegation
            }
            3 => {
                reader.opaque(usize::MAX)?;
                Claim::Delegation
            }
            4 => Claim::Handle,
            5 => {
                Stateid::read(reader)?;
                Claim::Delegation
            }
            6 => Claim::Delegation,
            _ => return Err(Status::BadXdr),
        };
        Ok(Self { access, deny, owner, how, claim })
    }

    /// What it may be used for.
    fn access(&self) -> Result<u32, Status> {
        let access = self.access & share::BOTH;
        if access == 0 || self.access & !(share::BOTH | share::WANT_MASK) != 0 || self.deny > SHARE_DENY_MAX {
            return Err(Status::Inval);
        }
        if self.deny != 0 { Err(Status::NotSupp) } else { Ok(access) }
    }
}

/// A file that OPEN has found or made.
struct Opened {
    node: Arc<Node>,
    file: File,
    opened_for: u32,
    set: Bitmap,
    is_new: bool,
}

impl Compound<'_> {
    pub(super) fn open(&mut self) -> Outcome {
        let wanted = Wanted::read(&mut self.arguments)?;
        let here = self.node()?;
        let access = wanted.access()?;
        let client = Arc::clone(self.client()?);
        let mut before = None;
        let opened = match wanted.claim {
            Claim::Delegation => return Err(Status::NotSupp.into()),
            Claim::Previous | Claim::Handle if wanted.how.is_some() => return Err(Status::Inval.into()),
            Claim::Previous => {
                self.service.clients.may_reclaim(&client)?;
                let file = self.export().reopen_file(&self.who, &here, access)?;
                Opened { node: here, file, opened_for: access, set: Bitmap::EMPTY, is_new: false }
            }
            Claim::Handle | Claim::Name(_) if !client.has_reclaimed() => return Err(Status::Grace.into()),
            Claim::Handle => self.open_existing(here, access, wanted.owner)?,
            Claim::Name(name) => {
                here.directory()?;
                let name = name?;
                before = Some((self.export().change(&here)?, Arc::clone(&here)));
                match wanted.how {
                    None => {
                        let node = self.export().look_up(&self.who, &here, &name)?;
                        self.open_existing(node, access, wanted.owner)?
                    }
                    Some(how) => self.open_or_create(&here, &name, &how?, access, wanted.owner)?,
                }
            }
        };
        let fresh = (self.service.clients.next_state(), self.service.clients.boot);
        let Opened { node, file, opened_for, set, is_new } = opened;
        let new = NewOpen { file, opened_for, access, uid: self.who.uid() };
        let stateid = lock(&client.held).open(wanted.owner, &node, new, fresh)?;
        stateid.write(self.out);
        match before {
            Some((before, folder)) if is_new => self.changed(before, &folder)?,
            Some((before, _)) => self.change_info(before, before),
            None => self.change_info(0, 0),
        }
        self.out.u32(POSIX_LOCKS);
        set.write(self.out);
        // No delegation.
        self.out.u32(0);
        self.go_to(node);
        self.keep(stateid);
        Ok(())
    }

    fn open_existing(&self, node: Arc<Node>, access: u32, owner: &[u8]) -> Result<Opened, Status> {
        regular(&node)?;
        let before = lock(&self.client()?.held).access_of(owner, &node).unwrap_or(0);
        // Also what is open already is looked at again, as somebody else of that owner's may ask.
        let opened_for = access | before;
        let file = self.export().open_file(&self.who, &node, opened_for)?;
        Ok(Opened { node, file, opened_for, set: Bitmap::EMPTY, is_new: false })
    }

    fn open_or_create(
        &mut self,
        folder: &Arc<Node>,
        name: &Name,
        how: &How,
        access: u32,
        owner: &[u8],
    ) -> Result<Opened, Status> {
        let mode = how.changes().mode.unwrap_or(MODE);
        let mut opened = self.export().create_or(
            || {
                let (node, file) = self.export().create_file(&self.who, folder, name, access, mode)?;
                Ok(Opened { node, file, opened_for: access, set: Bitmap::EMPTY, is_new: true })
            },
            || self.open_instead(folder, name, how, access, owner),
        )?;
        if opened.is_new {
            (self.step_aside)();
            opened.set = self.set_up(&opened, how)?;
        }
        Ok(opened)
    }

    /// Opens what was to be made and is there.
    fn open_instead(
        &self,
        folder: &Arc<Node>,
        name: &Name,
        how: &How,
        access: u32,
        owner: &[u8],
    ) -> Result<Opened, Status> {
        let node = self.export().look_up(&self.who, folder, name)?;
        match how {
            How::Guarded(_) => Err(Status::Exist),
            How::Exclusive(verifier, _) => {
                let times = Bitmap::of(&[Attribute::TimeAccess, Attribute::TimeModify]);
                if self.export().facts(&node, times)?.times() != Some(as_times(*verifier)) {
                    return Err(Status::Exist);
                }
                let opened = self.open_existing(node, access, owner)?;
                Ok(Opened { set: by_exclusive(how), ..opened })
            }
            How::Unchecked(changes) => {
                let mut opened = self.open_existing(node, access, owner)?;
                // Of what is there, only the size changes, and only to nothing (section 18.16.3).
                if changes.size == Some(0) {
                    let file = Some(&opened.file).filter(|_| access & share::WRITE != 0);
                    let cut = Changes { size: Some(0), ..Changes::default() };
                    let (set, outcome) = self.export().set(&self.who, &opened.node, file, &cut);
                    outcome?;
                    opened.set = set;
                }
                Ok(opened)
            }
        }
    }

    /// Gives a new file what creating it did not.
    fn set_up(&self, opened: &Opened, how: &How) -> Result<Bitmap, Status> {
        let mut changes = how.changes().after_creation();
        if let How::Exclusive(verifier, _) = how {
            let (access_s, modify_s) = as_times(*verifier);
            changes.access = Some(SetTime::At { s: access_s, ns: 0 });
            changes.modify = Some(SetTime::At { s: modify_s, ns: 0 });
        }
        let (set, outcome) = self.export().set(
            &self.who,
            &opened.node,
            Some(&opened.file).filter(|_| opened.opened_for & share::WRITE != 0),
            &changes,
        );
        outcome?;
        let by_creation = how.changes().bitmap().and(Bitmap::of(&[Attribute::Mode, Attribute::Size]));
        Ok(set.union(by_creation))
    }

    pub(super) fn close(&mut self) -> Outcome {
        let _seqid = self.arguments.u32()?;
        let stateid = Stateid::read(&mut self.arguments)?;
        let node = self.node()?;
        let stateid = self.current_or(stateid)?;
        let clients = &self.service.clients;
        lock(&self.client()?.held).close(&stateid, &node, &clients.locks, clients.boot)?;
        // One that is never good again (section 18.2.4).
        Stateid { seqid: u32::MAX, other: [0; 12] }.write(self.out);
        Ok(())
    }

    pub(super) fn open_downgrade(&mut self) -> Outcome {
        let stateid = Stateid::read(&mut self.arguments)?;
        let _seqid = self.arguments.u32()?;
        let (access, deny) = (self.arguments.u32()?, self.arguments.u32()?);
        let node = self.node()?;
        if access & share::BOTH == 0 || access & !(share::BOTH | share::WANT_MASK) != 0 || deny != 0 {
            return Err(Status::Inval.into());
        }
        let stateid = self.current_or(stateid)?;
        let (access, boot) = (access & share::BOTH, self.service.clients.boot);
        let stateid = lock(&self.client()?.held).downgrade(&stateid, &node, access, boot)?;
        stateid.write(self.out);
        self.keep(stateid);
        Ok(())
    }
}

/// What an exclusive creation leaves set: the client must set the times again.
fn by_exclusive(how: &How) -> Bitmap {
    how.changes().bitmap().union(Bitmap::WRITE_ONLY)
}

/// A verifier as the seconds of two times, which last as long as the file. A bit of each is lost, so that every host can keep them.
fn as_times(verifier: Verifier) -> (i64, i64) {
    let [a, b, c, d, e, f, g, h] = verifier;
    let seconds = |word: [u8; 4]| i64::from(u32::from_be_bytes(word) & i32::MAX.cast_unsigned());
    (seconds([a, b, c, d]), seconds([e, f, g, h]))
}
