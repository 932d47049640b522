//! Clients and sessions, as operations.

use std::sync::Arc;

use super::{Compound, Head, Outcome};
use crate::lock;
use crate::proto::{
    IO_BYTES_MAX, OPAQUE_BYTES_MAX, Operation, SessionId, Stateid, Status, create_session, exchange,
};
use crate::rpc::{AUTH_NONE, AUTH_SYS};
use crate::service::Connection;
use crate::session::{Begun, Claim, Limits, Session};
use crate::xdr::{Malformed, Reader, Writer};

/// What a READ or WRITE takes beside its bytes, with all that a client may put before and behind it.
const OVERHEAD_BYTES: usize = 16 << 10;
/// Kept of an answer, for who asks again: more than any operation answers that may not be done twice.
const CACHED_BYTES_MAX: usize = 8 << 10;
/// Less than any answer has.
const CHANNEL_BYTES_MIN: usize = 512;
const OPERATIONS_MAX: usize = 64;
const SLOTS_MAX: usize = 64;
/// What an RPC answer takes before the results of a compound.
const RPC_HEAD_BYTES: usize = 24;
const STATEIDS_MAX: usize = 1024;
const FLAVOR_GSS: u32 = 6;

/// The largest request that is read at all, in bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = IO_BYTES_MAX as usize + OVERHEAD_BYTES;

/// What a session's channel may carry (`channel_attrs4`).
fn read_channel(reader: &mut Reader<'_>) -> Result<Limits, Malformed> {
    let _padding = reader.u32()?;
    let mut number = || reader.length(usize::MAX);
    let limits = Limits {
        request_bytes: number()?,
        response_bytes: number()?,
        cached_bytes: number()?,
        operations: number()?,
        slots: number()?,
    };
    reader.list(1, Reader::u32)?;
    Ok(limits)
}

fn write_channel(out: &mut Writer, limits: &Limits) {
    out.u32(0);
    let sizes =
        [limits.request_bytes, limits.response_bytes, limits.cached_bytes, limits.operations, limits.slots];
    sizes.into_iter().for_each(|size| out.length(size));
    out.length(0);
}

/// How a client would be called back (`callback_sec_parms4`). It never is.
fn read_callback_security(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    match reader.u32()? {
        AUTH_NONE => {}
        AUTH_SYS => {
            reader.u32()?;
            reader.opaque(255)?;
            reader.u64()?;
            reader.list(16, Reader::u32)?;
        }
        FLAVOR_GSS => {
            reader.u32()?;
            reader.opaque(OPAQUE_BYTES_MAX)?;
            reader.opaque(OPAQUE_BYTES_MAX)?;
        }
        _ => return Err(Malformed),
    }
    Ok(())
}

/// A request that SEQUENCE has let in.
struct Entered {
    session: Arc<Session>,
    slot: u32,
    is_kept: bool,
    begun: Begun,
}

impl<'a> Compound<'a> {
    /// Does what follows SEQUENCE, once.
    pub(super) fn in_session(
        &mut self,
        connection: &'a mut Connection,
        head: &Head,
        tag: &[u8],
        count: u32,
        request_bytes: usize,
    ) {
        let Connection { session: known, pipe } = connection;
        let entered = match self.sequence(known, count, request_bytes) {
            Ok(entered) => entered,
            Err(status) => {
                self.out.u32(Operation::Sequence.number());
                self.out.u32(status.number());
                return head.write(self.out, tag, 1, status);
            }
        };
        let limits = &entered.session.limits;
        let origin = head.start.saturating_sub(RPC_HEAD_BYTES);
        self.end = origin + limits.response_bytes;
        if entered.is_kept && limits.cached_bytes < limits.response_bytes {
            self.end = origin + limits.cached_bytes;
            self.too_big = Status::RepTooBigToCache;
        }
        self.session = Some(Arc::clone(&entered.session));
        match entered.begun {
            Begun::Again(answer) => {
                self.out.truncate(head.start);
                self.out.fixed(&answer);
            }
            Begun::Uncached => self.all(head, tag, 1, count, Some(Status::RetryUncachedRep)),
            Begun::New => {
                self.pipe = Some(pipe).filter(|_| !entered.is_kept);
                self.all(head, tag, 1, count, None);
                let answer = if entered.is_kept { &self.out.as_bytes()[head.start..] } else { &[] };
                if let Ok(slot) = entered.session.slot(entered.slot) {
                    lock(slot).end(answer);
                }
            }
        }
    }

    /// SEQUENCE (section 18.46): whether the request is a new one. Its result is written if it is not refused.
    fn sequence(
        &mut self,
        known: &mut Option<Arc<Session>>,
        count: u32,
        request_bytes: usize,
    ) -> Result<Entered, Status> {
        self.arguments.u32()?;
        let id: SessionId = self.arguments.fixed()?;
        let (sequence, slot, highest) = (self.arguments.u32()?, self.arguments.u32()?, self.arguments.u32()?);
        let is_kept = self.arguments.bool()?;
        let clients = &self.service.clients;
        let session = match known {
            Some(session) if session.id == id && !session.is_over() => Arc::clone(session),
            _ => {
                let session = clients.session(&id)?;
                *known = Some(Arc::clone(&session));
                session
            }
        };
        clients.renew(&session.client);
        session.slot(highest).map_err(|_| Status::BadHighSlot)?;
        let place = session.slot(slot)?;
        if usize::try_from(count).is_ok_and(|count| count > session.limits.operations) {
            return Err(Status::TooManyOps);
        }
        if request_bytes > session.limits.request_bytes {
            return Err(Status::ReqTooBig);
        }
        let begun = lock(place).begin(sequence)?;
        self.out.u32(Operation::Sequence.number());
        self.out.u32(Status::Ok.number());
        self.out.fixed(&id);
        let slots = u32::try_from(session.limits.slots).unwrap_or(1) - 1;
        // Sequence, slot, the highest slot and the one that is aimed at, and nothing to be told beside.
        [sequence, slot, slots, slots, 0].into_iter().for_each(|word| self.out.u32(word));
        Ok(Entered { session, slot, is_kept, begun })
    }

    pub(super) fn exchange(&mut self) -> Outcome {
        let verifier = self.arguments.fixed()?;
        let owner = self.arguments.opaque(OPAQUE_BYTES_MAX)?;
        let flags = self.arguments.u32()?;
        match self.arguments.u32()? {
            0 => {}
            // It would need RPCSEC_GSS.
            1 => return Err(Status::Inval.into()),
            2 => return Err(Status::EncrAlgUnsupp.into()),
            _ => return Err(Status::BadXdr.into()),
        }
        self.arguments.list(1, |reader| {
            reader.opaque(OPAQUE_BYTES_MAX)?;
            reader.opaque(OPAQUE_BYTES_MAX)?;
            reader.fixed::<12>()
        })?;
        let known = exchange::SUPPORT_MOVED_REFERENCE
            | exchange::SUPPORT_MOVED_MIGRATED
            | exchange::BIND_PRINCIPAL
            | exchange::PNFS_MASK
            | exchange::UPDATE_CONFIRMED;
        if flags & !known != 0 {
            return Err(Status::Inval.into());
        }
        let is_update = flags & exchange::UPDATE_CONFIRMED != 0;
        let claim = Claim { owner, verifier, principal: self.who.uid(), is_update };
        let (client, is_confirmed) = self.service.clients.exchange(&claim)?;
        self.out.u64(client.id);
        self.out.u32(lock(&client.creation).sequence);
        let confirmed = if is_confirmed { exchange::CONFIRMED } else { 0 };
        self.out.u32(exchange::USE_NON_PNFS | confirmed);
        self.out.u32(0);
        // Who serves, and what its handles and clients are good for: this file system, and no other.
        let name = self.export().name();
        self.out.u64(0);
        self.out.opaque(&name);
        self.out.opaque(&name);
        self.out.length(0);
        Ok(())
    }

    pub(super) fn create_session(&mut self) -> Outcome {
        let id = self.arguments.u64()?;
        let (sequence, flags) = (self.arguments.u32()?, self.arguments.u32()?);
        let fore = read_channel(&mut self.arguments)?;
        let back = read_channel(&mut self.arguments)?;
        let _program = self.arguments.u32()?;
        self.arguments.list(16, read_callback_security)?;
        if flags & !(create_session::PERSIST | create_session::BACK_CHANNEL | create_session::RDMA) != 0 {
            return Err(Status::Inval.into());
        }
        let client = self.service.clients.client(id)?;
        let mut creation = lock(&client.creation);
        if sequence == creation.sequence.wrapping_sub(1) {
            let answer = creation.answer.as_ref().ok_or(Status::SeqMisordered)?;
            self.out.fixed(answer);
            return Ok(());
        }
        if sequence != creation.sequence {
            return Err(Status::SeqMisordered.into());
        }
        if fore.request_bytes < CHANNEL_BYTES_MIN || fore.response_bytes < CHANNEL_BYTES_MIN {
            return Err(Status::TooSmall.into());
        }
        if fore.operations == 0 || fore.slots == 0 {
            return Err(Status::Inval.into());
        }
        let limits = Limits {
            request_bytes: fore.request_bytes.min(REQUEST_BYTES_MAX),
            response_bytes: fore.response_bytes.min(REQUEST_BYTES_MAX),
            cached_bytes: fore.cached_bytes.min(CACHED_BYTES_MAX),
            operations: fore.operations.min(OPERATIONS_MAX),
            slots: fore.slots.min(SLOTS_MAX),
        };
        let session = self.service.clients.create_session(&client, self.who.uid(), limits)?;
        let start = self.out.len();
        self.out.fixed(&session.id);
        self.out.u32(sequence);
        self.out.u32(flags & create_session::BACK_CHANNEL);
        write_channel(self.out, &limits);
        write_channel(self.out, &back);
        creation.sequence = sequence.wrapping_add(1);
        creation.answer = Some(self.out.as_bytes()[start..].to_vec());
        Ok(())
    }

    /// A connection belongs to whatever session is used over it, so there is nothing to note.
    pub(super) fn bind_connection(&mut self) -> Outcome {
        let id: SessionId = self.arguments.fixed()?;
        let direction = self.arguments.u32()?;
        self.arguments.bool()?;
        if self.session.is_some() {
            return Err(Status::NotOnlyOp.into());
        }
        self.service.clients.session(&id)?;
        let direction = match direction {
            fore_or_back @ (1 | 2) => fore_or_back,
            3 | 7 => 3,
            _ => return Err(Status::BadXdr.into()),
        };
        self.out.fixed(&id);
        self.out.u32(direction);
        self.out.bool(false);
        Ok(())
    }

    /// How to call back: nobody is, since there is nothing that could be recalled.
    pub(super) fn backchannel(&mut self) -> Outcome {
        let _program = self.arguments.u32()?;
        self.arguments.list(16, read_callback_security)?;
        self.client()?;
        Ok(())
    }

    pub(super) fn destroy_session(&mut self) -> Outcome {
        let id: SessionId = self.arguments.fixed()?;
        if self.session.as_ref().is_some_and(|session| session.id == id) && !self.is_last {
            return Err(Status::NotOnlyOp.into());
        }
        Ok(self.service.clients.destroy_session(&id)?)
    }

    pub(super) fn destroy_client(&mut self) -> Outcome {
        let id = self.arguments.u64()?;
        Ok(self.service.clients.destroy_client(id)?)
    }

    pub(super) fn reclaim_complete(&mut self) -> Outcome {
        let is_one_file_system = self.arguments.bool()?;
        let client = self.client()?;
        if is_one_file_system {
            // It is about one that came from elsewhere, with its locks. None does.
            self.place()?;
            return Ok(());
        }
        Ok(self.service.clients.reclaim_complete(client)?)
    }

    pub(super) fn test_stateids(&mut self) -> Outcome {
        let stateids = self.arguments.list(STATEIDS_MAX, Stateid::read)?;
        let boot = self.service.clients.boot;
        let statuses: Vec<_> = {
            let mut held = lock(&self.client()?.held);
            stateids.iter().map(|stateid| held.check(stateid, boot).err().unwrap_or(Status::Ok)).collect()
        };
        self.out.length(statuses.len());
        statuses.into_iter().for_each(|status| self.out.u32(status.number()));
        Ok(())
    }

    pub(super) fn free_stateid(&mut self) -> Outcome {
        let stateid = Stateid::read(&mut self.arguments)?;
        let stateid = self.current_or(stateid)?;
        let clients = &self.service.clients;
        lock(&self.client()?.held).free(&stateid, &clients.locks, clients.boot)?;
        Ok(())
    }
}
