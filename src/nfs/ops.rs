//! A compound: its operations, one after the other, until one fails (RFC 8881, section 16.2).
//!
//! Each operation decodes its arguments where they lie, does what they say, and writes its result behind those before it. What fails leaves
//! of its result only what RFC 8881 says of failures.

mod attributes;
mod directory;
mod handles;
mod io;
mod locks;
mod open;
mod sessions;

pub(crate) use sessions::REQUEST_BYTES_MAX;

use std::sync::Arc;

use crate::fs::{Export, Identity, Node};
use crate::proto::{Bitmap, Operation, Stateid, Status, TAG_BYTES_MAX};
use crate::service::{Connection, Pipe, Service};
use crate::session::{Client, Session};
use crate::state::RangeLock;
use crate::xdr::{Malformed, Reader, Writer};

/// What there is room for in an answer to who has no session, in bytes.
const RESPONSE_BYTES_WITHOUT_SESSION: usize = 4096;
/// The most that the result of an operation that changes something takes, in bytes.
const RESULT_BYTES_MAX: usize = 192;

/// Why an operation fails, with what is told beside its status.
#[derive(Debug)]
enum Failed {
    Status(Status),
    /// A lock that is in the way.
    Denied(Box<RangeLock>),
    /// The attributes that were set before one could not be.
    Set(Status, Bitmap),
}

impl<T: Into<Status>> From<T> for Failed {
    fn from(reason: T) -> Self {
        Self::Status(reason.into())
    }
}

type Outcome = Result<(), Failed>;

/// A current file, and the state that an operation before gave.
#[derive(Debug, Clone)]
struct Place {
    node: Arc<Node>,
    stateid: Option<Stateid>,
}

/// What follows the bytes of an answer: so many of a file, which lie in the connection's pipe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) bytes: usize,
}

/// Who asks, and over which connection.
pub(crate) struct Caller<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) who: Identity,
    pub(crate) step_aside: &'a mut dyn FnMut(),
}

/// A compound that is being done.
pub(crate) struct Compound<'a> {
    service: &'a Service,
    who: Identity,
    arguments: Reader<'a>,
    out: &'a mut Writer,
    current: Option<Place>,
    saved: Option<Place>,
    session: Option<Arc<Session>>,
    /// How far the answer may go.
    end: usize,
    /// What is answered if it would go further.
    too_big: Status,
    is_last: bool,
    /// None if the answer is kept for who asks again, and has to be bytes.
    pipe: Option<&'a mut Pipe>,
    tail: Tail,
    /// What follows may take as long as the disk does.
    step_aside: &'a mut dyn FnMut(),
}

/// Does a compound that came from `caller`, in a record of `request_bytes`, and writes its result.
///
/// # Errors
/// [`Malformed`] if not even its beginning can be decoded.
pub(crate) fn run<'a>(
    service: &'a Service,
    caller: Caller<'a>,
    mut arguments: Reader<'a>,
    request_bytes: usize,
    out: &'a mut Writer,
) -> Result<Tail, Malformed> {
    let tag = arguments.opaque(TAG_BYTES_MAX)?;
    let minor_version = arguments.u32()?;
    let count = arguments.u32()?;
    let head = Head { start: out.len() };
    out.u32(0);
    out.opaque(tag);
    out.u32(0);
    if minor_version != 1 {
        head.write(out, tag, 0, Status::MinorVersMismatch);
        return Ok(Tail::default());
    }
    let Caller { connection, who, step_aside } = caller;
    let mut compound = Compound {
        service,
        who,
        arguments,
        end: out.len() + RESPONSE_BYTES_WITHOUT_SESSION,
        out,
        current: None,
        saved: None,
        session: None,
        too_big: Status::RepTooBig,
        is_last: false,
        pipe: None,
        tail: Tail::default(),
        step_aside,
    };
    match compound.first(count) {
        Some(Operation::Sequence) => compound.in_session(connection, &head, tag, count, request_bytes),
        first => {
            let refusal = match first {
                None => None,
                Some(first) if !can_begin(first) => Some(Status::OpNotInSession),
                Some(_) if count > 1 => Some(Status::NotOnlyOp),
                Some(_) => None,
            };
            compound.all(&head, tag, 0, count, refusal);
        }
    }
    Ok(compound.tail)
}

/// Those that need no session before them.
fn can_begin(operation: Operation) -> bool {
    use Operation as Op;
    matches!(
        operation,
        Op::ExchangeId | Op::CreateSession | Op::DestroySession | Op::BindConnToSession | Op::DestroyClientId
    )
}

/// Those that change something, and must not be done if their result cannot be told.
fn changes_something(operation: Operation) -> bool {
    use Operation as Op;
    matches!(
        operation,
        Op::Close
            | Op::Create
            | Op::Link
            | Op::Lock
            | Op::LockU
            | Op::Open
            | Op::OpenDowngrade
            | Op::Remove
            | Op::Rename
            | Op::SetAttr
            | Op::Write
            | Op::CreateSession
            | Op::DestroyClientId
            | Op::DestroySession
            | Op::ExchangeId
            | Op::FreeStateid
            | Op::ReclaimComplete
    )
}

/// Where in the answer the status and the number of results stand.
struct Head {
    start: usize,
}

impl Head {
    fn write(&self, out: &mut Writer, tag: &[u8], results: u32, status: Status) {
        out.patch(self.start, status.number());
        out.patch(self.start + 8 + tag.len().next_multiple_of(4), results);
    }
}

impl Compound<'_> {
    /// The operation that comes first, if one does.
    fn first(&self, count: u32) -> Option<Operation> {
        if count == 0 {
            return None;
        }
        let number = Reader::new(self.arguments.clone().bytes(4).ok()?).u32().ok()?;
        Some(Operation::from_number(number).unwrap_or(Operation::Illegal))
    }

    /// Does operations from number `done` on; the first of them is refused, if there is a reason.
    fn all(&mut self, head: &Head, tag: &[u8], done: u32, count: u32, mut refusal: Option<Status>) {
        let (mut results, mut status) = (done, Status::Ok);
        while results < count && status == Status::Ok {
            self.is_last = results + 1 == count;
            status = self.next(refusal.take());
            results += 1;
        }
        head.write(self.out, tag, results, status);
    }

    /// Does one operation, and writes its result.
    fn next(&mut self, refusal: Option<Status>) -> Status {
        let number = self.arguments.u32();
        let operation = number.ok().and_then(Operation::from_number).unwrap_or(Operation::Illegal);
        self.out.u32(operation.number());
        let start = self.out.len();
        self.out.u32(Status::Ok.number());
        let outcome = match (number, refusal) {
            (Err(Malformed), _) => Err(Status::BadXdr.into()),
            (Ok(_), Some(refusal)) => Err(refusal.into()),
            (Ok(_), None) if self.room() < RESULT_BYTES_MAX && changes_something(operation) => {
                Err(self.too_big.into())
            }
            (Ok(_), None) => self.dispatch(operation),
        };
        let outcome = match outcome {
            Ok(()) if self.out.len() + self.tail.bytes > self.end => Err(self.too_big.into()),
            other => other,
        };
        match outcome {
            Ok(()) => Status::Ok,
            Err(failed) => self.fail(operation, start, &failed),
        }
    }

    fn fail(&mut self, operation: Operation, start: usize, failed: &Failed) -> Status {
        self.out.truncate(start);
        if std::mem::take(&mut self.tail).bytes > 0
            && let Some(pipe) = &mut self.pipe
        {
            pipe.discard();
        }
        let status = match failed {
            Failed::Status(status) | Failed::Set(status, _) => *status,
            Failed::Denied(_) => Status::Denied,
        };
        self.out.u32(status.number());
        match failed {
            Failed::Denied(lock) => locks::write_denied(self.out, lock),
            Failed::Set(_, set) => set.write(self.out),
            Failed::Status(_) if operation == Operation::SetAttr => Bitmap::EMPTY.write(self.out),
            Failed::Status(_) => {}
        }
        tracing::debug!("{operation:?} answers {status:?}");
        status
    }

    fn dispatch(&mut self, operation: Operation) -> Outcome {
        use Operation as Op;
        match operation {
            Op::Access => self.access(),
            Op::Close => self.close(),
            Op::Commit => self.commit(),
            Op::Create => self.create(),
            Op::GetAttr => self.get_attributes(),
            Op::GetFh => self.get_handle(),
            Op::Link => self.link(),
            Op::Lock => self.lock(),
            Op::LockT => self.lock_test(),
            Op::LockU => self.unlock(),
            Op::Lookup => self.look_up(),
            Op::LookupP => self.look_up_parent(),
            Op::NVerify => self.verify(false),
            Op::Open => self.open(),
            Op::OpenDowngrade => self.open_downgrade(),
            Op::PutFh => self.put_handle(),
            Op::PutPubFh | Op::PutRootFh => self.put_root(),
            Op::Read => self.read(),
            Op::ReadDir => self.read_directory(),
            Op::ReadLink => self.read_link(),
            Op::Remove => self.remove(),
            Op::Rename => self.rename(),
            Op::RestoreFh => self.restore(),
            Op::SaveFh => self.save(),
            Op::SecInfo => self.security(),
            Op::SecInfoNoName => self.security_without_name(),
            Op::SetAttr => self.set_attributes(),
            Op::Verify => self.verify(true),
            Op::Write => self.write(),
            Op::BackchannelCtl => self.backchannel(),
            Op::BindConnToSession => self.bind_connection(),
            Op::CreateSession => self.create_session(),
            Op::DestroyClientId => self.destroy_client(),
            Op::DestroySession => self.destroy_session(),
            Op::ExchangeId => self.exchange(),
            Op::FreeStateid => self.free_stateid(),
            Op::ReclaimComplete => self.reclaim_complete(),
            Op::TestStateid => self.test_stateids(),
            Op::Sequence => Err(Status::SequencePos.into()),
            Op::Illegal => Err(Status::OpIllegal.into()),
            // What EFS does not serve, and what only 4.0 had.
            Op::DelegPurge
            | Op::DelegReturn
            | Op::GetDeviceInfo
            | Op::GetDeviceList
            | Op::GetDirDelegation
            | Op::LayoutCommit
            | Op::LayoutGet
            | Op::LayoutReturn
            | Op::OpenAttr
            | Op::OpenConfirm
            | Op::ReleaseLockOwner
            | Op::Renew
            | Op::SetClientId
            | Op::SetClientIdConfirm
            | Op::SetSsv
            | Op::WantDelegation => Err(Status::NotSupp.into()),
        }
    }

    fn export(&self) -> &Export {
        &self.service.export
    }

    /// How many bytes more the answer may have.
    fn room(&self) -> usize {
        self.end.saturating_sub(self.out.len())
    }

    fn client(&self) -> Result<&Arc<Client>, Status> {
        self.session.as_ref().map(|session| &session.client).ok_or(Status::OpNotInSession)
    }

    fn place(&self) -> Result<&Place, Status> {
        self.current.as_ref().ok_or(Status::NoFileHandle)
    }

    /// The current file.
    fn node(&self) -> Result<Arc<Node>, Status> {
        self.place().map(|place| Arc::clone(&place.node))
    }

    /// The current folder.
    fn directory(&self) -> Result<Arc<Node>, Status> {
        let node = self.node()?;
        node.directory()?;
        Ok(node)
    }

    fn go_to(&mut self, node: Arc<Node>) {
        self.current = Some(Place { node, stateid: None });
    }

    /// The state that the operations that follow may call the current one.
    fn keep(&mut self, stateid: Stateid) {
        if let Some(place) = &mut self.current {
            place.stateid = Some(stateid);
        }
    }

    /// The stateid that one stands for.
    fn current_or(&self, stateid: Stateid) -> Result<Stateid, Status> {
        match stateid {
            Stateid::CURRENT => self.place()?.stateid.ok_or(Status::BadStateid),
            other => Ok(other),
        }
    }

    /// Makes what was done to a folder last, and writes how it changed (`change_info4`). The host does not tell whether it was changed by others in between.
    fn changed(&mut self, before: u64, folder: &Arc<Node>) -> Result<(), Status> {
        (self.step_aside)();
        self.export().settle(folder)?;
        let after = self.export().change(folder)?;
        self.change_info(before, after);
        Ok(())
    }

    fn change_info(&mut self, before: u64, after: u64) {
        self.out.bool(false);
        self.out.u64(before);
        self.out.u64(after);
    }
}
