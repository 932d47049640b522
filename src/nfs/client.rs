//! A client of NFSv4.1, as plain as can be: what tests and measurements ask of a server, request by request.
//!
//! It keeps nothing, repeats nothing, and believes what it is told; it says what it is made to say, also what is wrong.

mod answer;
mod compound;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub use answer::{Answer, Attributes, Change, Entry, Opened, Written};
pub use compound::{Claim, Compound, How, LockKind, Open, Time, Values};

use crate::fs::Identity;
use crate::proto::{Operation, SessionId, Status, Verifier, exchange};
use crate::rpc;
use crate::xdr::{Malformed, Reader, Writer};

const TIMEOUT: Duration = Duration::from_secs(60);
const LAST_FRAGMENT: u32 = 1 << 31;
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// What a session is asked for, in bytes: a READ or WRITE of a mebibyte with what is around it.
const CHANNEL_BYTES: u32 = (1 << 20) + 4096;
const CACHED_BYTES: u32 = 4096;
const OPERATIONS: u32 = 16;
const CALLBACK_PROGRAM: u32 = 0x4000_0000;

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the connection")]
    Connection(#[from] io::Error),
    #[error("the answer is not what XDR says")]
    Malformed(#[from] Malformed),
    #[error("{operation:?} was answered {status:?}")]
    Refused { operation: Operation, status: Status },
    #[error("RPC refused the call")]
    Rpc,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    xid: u32,
}

impl Connection {
    /// # Errors
    /// [`ClientError::Connection`]
    pub fn open(address: SocketAddr) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, xid: 0 })
    }

    /// Calls the procedure that does nothing.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn null(&mut self) -> Result<(), ClientError> {
        self.send(None, None)?;
        self.receive().map(|_| ())
    }

    /// Has a compound done, as `who`, or as nobody who says who he is.
    ///
    /// # Errors
    /// [`ClientError`]; not if an operation fails, which the answer tells.
    pub fn call(&mut self, who: Option<&Identity>, compound: &Compound) -> Result<Answer, ClientError> {
        self.send(who, Some(compound))?;
        self.receive()
    }

    /// Sends a compound, whose answer is to be received later.
    ///
    /// # Errors
    /// [`ClientError::Connection`]
    pub fn send(&mut self, who: Option<&Identity>, compound: Option<&Compound>) -> Result<(), ClientError> {
        self.xid = self.xid.wrapping_add(1);
        let mut record = Writer::new();
        record.u32(0);
        write_call(&mut record, self.xid, who, compound);
        let length = u32::try_from(record.len() - 4).map_err(|_| Malformed)?;
        record.patch(0, LAST_FRAGMENT | length);
        Ok(self.stream.write_all(record.as_bytes())?)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// [`ClientError::Connection`]
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next answer.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn receive(&mut self) -> Result<Answer, ClientError> {
        Answer::read(self.receive_record()?)
    }

    /// The next answer, as it came.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn receive_record(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark)?;
        let length = u32::from_be_bytes(mark) & !LAST_FRAGMENT;
        let length =
            usize::try_from(length).ok().filter(|length| *length <= ANSWER_BYTES_MAX).ok_or(Malformed)?;
        let mut record = vec![0; length];
        self.stream.read_exact(&mut record)?;
        Ok(record)
    }
}

/// A client with a session, and the one slot that it uses at a time.
#[derive(Debug)]
pub struct Session {
    pub connection: Connection,
    pub who: Identity,
    pub client: u64,
    pub id: SessionId,
    /// Of each slot, the last request's number.
    sequences: Vec<u32>,
}

/// Who a client says that it is.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub name: &'a [u8],
    pub verifier: Verifier,
}

impl Session {
    /// Says who it is, makes a session of `slots`, and has nothing to take back.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn open(
        address: SocketAddr,
        owner: Owner<'_>,
        who: Identity,
        slots: u32,
    ) -> Result<Self, ClientError> {
        let mut session = Self::open_to_reclaim(address, owner, who, slots)?;
        session.call(Compound::new().reclaim_complete(false))?.ok()?;
        Ok(session)
    }

    /// The same for who had files open before the server was restarted.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn open_to_reclaim(
        address: SocketAddr,
        owner: Owner<'_>,
        who: Identity,
        slots: u32,
    ) -> Result<Self, ClientError> {
        let mut connection = Connection::open(address)?;
        let exchange = Compound::new().exchange_id(owner.verifier, owner.name, exchange::USE_NON_PNFS);
        let answer = connection.call(Some(&who), &exchange)?.ok()?;
        let mut result = answer.result(0);
        let (client, sequence) = (result.u64()?, result.u32()?);
        let create = Compound::new().create_session(client, sequence, &Self::channel(slots));
        let answer = connection.call(Some(&who), &create)?.ok()?;
        let id = answer.result(0).fixed()?;
        let slots = usize::try_from(slots).map_err(|_| Malformed)?;
        Ok(Self { connection, who, client, id, sequences: vec![0; slots] })
    }

    /// What a session's channel of so many slots is asked to carry.
    pub fn channel(slots: u32) -> [u32; 6] {
        [0, CHANNEL_BYTES, CHANNEL_BYTES, CACHED_BYTES, OPERATIONS, slots]
    }

    /// Has a compound done, by the first slot; its answer need not be kept.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn call(&mut self, compound: Compound) -> Result<Answer, ClientError> {
        self.call_by(0, false, compound)
    }

    /// Has a compound done, by a slot; whether its answer is to be kept.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn call_by(&mut self, slot: u32, is_kept: bool, compound: Compound) -> Result<Answer, ClientError> {
        let compound = self.next(slot, is_kept, compound);
        self.connection.call(Some(&self.who), &compound)
    }

    /// A compound as the next request of a slot.
    pub fn next(&mut self, slot: u32, is_kept: bool, compound: Compound) -> Compound {
        let place = usize::try_from(slot).unwrap_or(0);
        let sequence = self.sequences.get_mut(place).map_or(0, |sequence| {
            *sequence = sequence.wrapping_add(1);
            *sequence
        });
        compound.after_sequence(self.id, sequence, slot, is_kept)
    }
}

/// Writes a call, as a record has it: of a compound, or of the procedure that does nothing.
pub fn write_call(out: &mut Writer, xid: u32, who: Option<&Identity>, compound: Option<&Compound>) {
    rpc::call(out, xid, compound.is_some(), who);
    if let Some(compound) = compound {
        compound.write(out);
    }
}

/// Callback parameters of a session that is made: AUTH_NONE.
fn write_callback(out: &mut Writer) {
    out.u32(CALLBACK_PROGRAM);
    out.length(1);
    out.u32(rpc::AUTH_NONE);
}

/// What follows from the head of an answer: its results.
fn after_head<'a>(record: &'a [u8]) -> Result<Reader<'a>, ClientError> {
    let mut reader = Reader::new(record);
    let head: [u8; 12] = reader.fixed()?;
    // Of an answer that was accepted.
    if head[4..] != [0, 0, 0, 1, 0, 0, 0, 0] {
        return Err(ClientError::Rpc);
    }
    reader.u32()?;
    reader.opaque(400)?;
    if reader.u32()? == 0 { Ok(reader) } else { Err(ClientError::Rpc) }
}
