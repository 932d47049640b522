//! The handshake: a client chooses an export.
//!
//! ```text
//!   greeting ─▶ client's flags ─▶ option ─▶ replies ─▶ option … ─▶ GO or EXPORT_NAME ─▶ Chosen
//!                                                               └▶ ABORT, end or error ─▶ nothing
//! ```
//!
//! It has to end within [`PATIENCE`], so that a client that connects and says nothing does not stay for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::protocol::{
    ALLOCATION, ALLOCATION_ID, Fields, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake_flag,
    info, option, option_reply, transmission_flag,
};
use super::{Export, TRANSFER_BYTES_MAX};
use crate::sys::{AlignedMemory, Waiting, receive, send};

/// How long a client may take to choose an export.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most data of an option that is looked at. A name has at most 4096 bytes.
const OPTION_DATA_MAX: usize = 16 << 10;
/// What follows the answer to `EXPORT_NAME`, unless the client can do without.
const ZEROES_AFTER_EXPORT: usize = 124;

/// What a client chose.
pub(super) struct Chosen {
    /// Its place in the list of exports.
    pub(super) export: usize,
    /// Reads are answered by structured replies.
    pub(super) structured: bool,
    /// The client may ask which parts hold anything.
    pub(super) allocation: bool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the connection failed during the handshake")]
    Connection(#[from] io::Error),
    #[error("the client speaks another protocol: {0:#x} where {1:#x} was expected")]
    Magic(u64, u64),
    #[error("the client wants what the handshake does not have: flags {0:#x}")]
    Flags(u32),
    #[error("the client asked for the export {0:?}, which there is not")]
    NoSuchExport(String),
}

/// Leads a client through the handshake; `None` when it has left.
///
/// # Errors
/// [`HandshakeError`]: the connection is of no further use.
pub(super) fn negotiate(
    socket: BorrowedFd<'_>,
    exports: &[Export],
) -> Result<Option<Chosen>, HandshakeError> {
    let stream = Stream::new(socket);
    let mut negotiation = Negotiation { stream, exports, structured: false, allocation: None };
    match negotiation.run() {
        Err(HandshakeError::Connection(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        outcome => outcome,
    }
}

struct Negotiation<'a> {
    stream: Stream<'a>,
    exports: &'a [Export],
    structured: bool,
    /// The export for which the client chose that context last.
    allocation: Option<usize>,
}

impl Negotiation<'_> {
    fn run(&mut self) -> Result<Option<Chosen>, HandshakeError> {
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        let mut greeting = Vec::with_capacity(18);
        greeting.extend(GREETING_MAGIC.to_be_bytes());
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend(flags.to_be_bytes());
        self.stream.write(&greeting)?;
        let client_flags = u32::from_be_bytes(self.stream.array()?);
        if client_flags & !u32::from(flags) != 0 {
            return Err(HandshakeError::Flags(client_flags));
        }
        let has_zeroes = client_flags & u32::from(handshake_flag::NO_ZEROES) == 0;
        loop {
            let magic = u64::from_be_bytes(self.stream.array()?);
            if magic != OPTION_MAGIC {
                return Err(HandshakeError::Magic(magic, OPTION_MAGIC));
            }
            let option = u32::from_be_bytes(self.stream.array()?);
            let len = u32::from_be_bytes(self.stream.array()?);
            let data = self.stream.data(len)?;
            match (option, data) {
                (option::ABORT, _) => {
                    // The client may have left already.
                    let _ = self.reply(option, option_reply::ACK, &[]);
                    return Ok(None);
                }
                (option::EXPORT_NAME, data) => {
                    return self.export_name(&data.unwrap_or_default(), has_zeroes).map(Some);
                }
                (_, None) => {
                    self.reply(option, option_reply::ERR_TOO_BIG, b"the option has too much data")?
                }
                (_, Some(data)) => {
                    if let Some(chosen) = self.answer(option, &data)? {
                        return Ok(Some(chosen));
                    }
                }
            }
        }
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<Option<Chosen>, HandshakeError> {
        match option {
            option::LIST | option::STRUCTURED_REPLY if !data.is_empty() => {
                self.reply(option, option_reply::ERR_INVALID, b"the option has no data")?;
            }
            option::LIST => self.list()?,
            option::STRUCTURED_REPLY => {
                self.structured = true;
                self.reply(option, option_reply::ACK, &[])?;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data)?,
            option::INFO | option::GO => match InfoRequest::parse(data) {
                None => {
                    self.reply(option, option_reply::ERR_INVALID, b"the option's lengths do not agree")?
                }
                Some(request) => match self.find(request.name) {
                    None => self.reply(option, option_reply::ERR_UNKNOWN, b"there is no such export")?,
                    Some(export) => {
                        self.tell_about(option, export, &request)?;
                        if option == option::GO {
                            return Ok(Some(self.chosen(export)));
                        }
                    }
                },
            },
            _ => self.reply(option, option_reply::ERR_UNSUPPORTED, b"the server does not have the option")?,
        }
        Ok(None)
    }

    fn list(&mut self) -> Result<(), HandshakeError> {
        for export in self.exports {
            let name = export.name.as_bytes();
            let mut data = Vec::with_capacity(4 + name.len());
            data.extend(u32::try_from(name.len()).expect("a name is short").to_be_bytes());
            data.extend(name);
            self.reply(option::LIST, option_reply::SERVER, &data)?;
        }
        self.reply(option::LIST, option_reply::ACK, &[])
    }

    fn tell_about(
        &mut self,
        option: u32,
        export: usize,
        request: &InfoRequest<'_>,
    ) -> Result<(), HandshakeError> {
        let export = &self.exports[export];
        let topology = export.disk.topology();
        let mut about = Vec::with_capacity(14);
        about.extend(info::EXPORT.to_be_bytes());
        about.extend(export.disk.size_bytes().to_be_bytes());
        about.extend(transmission_flags(export, self.structured).to_be_bytes());
        self.reply(option, option_reply::INFO, &about)?;
        // Told to those who do not ask, too: it is what their requests must be a multiple of.
        about.clear();
        about.extend(info::BLOCK_SIZE.to_be_bytes());
        about.extend(topology.logical_block_bytes.to_be_bytes());
        about.extend(topology.physical_block_bytes.to_be_bytes());
        about.extend(TRANSFER_BYTES_MAX.to_be_bytes());
        self.reply(option, option_reply::INFO, &about)?;
        if request.wants(info::NAME) {
            about.clear();
            about.extend(info::NAME.to_be_bytes());
            about.extend(export.name.as_bytes());
            self.reply(option, option_reply::INFO, &about)?;
        }
        self.reply(option, option_reply::ACK, &[])
    }

    /// The option that has no reply but success.
    fn export_name(&mut self, name: &[u8], has_zeroes: bool) -> Result<Chosen, HandshakeError> {
        let export = self
            .find(name)
            .ok_or_else(|| HandshakeError::NoSuchExport(String::from_utf8_lossy(name).into_owned()))?;
        let mut answer = Vec::with_capacity(10 + ZEROES_AFTER_EXPORT);
        answer.extend(self.exports[export].disk.size_bytes().to_be_bytes());
        answer.extend(transmission_flags(&self.exports[export], self.structured).to_be_bytes());
        answer.resize(answer.len() + if has_zeroes { ZEROES_AFTER_EXPORT } else { 0 }, 0);
        self.stream.write(&answer)?;
        Ok(self.chosen(export))
    }

    fn chosen(&self, export: usize) -> Chosen {
        Chosen { export, structured: self.structured, allocation: self.allocation == Some(export) }
    }

    /// Lists or chooses contexts of metadata. What was chosen before counts no more, whatever comes of it.
    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<(), HandshakeError> {
        let chooses = option == option::SET_META_CONTEXT;
        if chooses {
            self.allocation = None;
        }
        if !self.structured {
            let text = b"structured replies are to be negotiated first";
            return self.reply(option, option_reply::ERR_INVALID, text);
        }
        let Some(request) = ContextRequest::parse(data) else {
            return self.reply(option, option_reply::ERR_INVALID, b"the option's lengths do not agree");
        };
        let Some(export) = self.find(request.name) else {
            return self.reply(option, option_reply::ERR_UNKNOWN, b"there is no such export");
        };
        if request.has(ALLOCATION) || !chooses && (request.queries.is_empty() || request.has("base:")) {
            let id = if chooses { ALLOCATION_ID } else { 0 };
            let context = [&id.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
            self.reply(option, option_reply::META_CONTEXT, &context)?;
            if chooses {
                self.allocation = Some(export);
            }
        }
        self.reply(option, option_reply::ACK, &[])
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        if name.is_empty() && self.exports.len() == 1 {
            return Some(0);
        }
        self.exports.iter().position(|export| export.name.as_bytes() == name)
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> Result<(), HandshakeError> {
        let mut reply = Vec::with_capacity(20 + data.len());
        reply.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        reply.extend(option.to_be_bytes());
        reply.extend(kind.to_be_bytes());
        reply.extend(u32::try_from(data.len()).expect("a reply is short").to_be_bytes());
        reply.extend(data);
        Ok(self.stream.write(&reply)?)
    }
}

/// What a session with the export can do.
fn transmission_flags(export: &Export, structured: bool) -> u16 {
    use transmission_flag::{
        CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_DF, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES,
    };
    let access =
        if export.disk.is_read_only() { READ_ONLY } else { SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES };
    let structured = if structured { SEND_DF } else { 0 };
    HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN | access | structured
}

/// The data of `INFO` and `GO`.
struct InfoRequest<'a> {
    name: &'a [u8],
    /// Numbers of two bytes.
    wanted: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name_len = usize::try_from(fields.u32()?).ok()?;
        let name = fields.bytes(name_len)?;
        let count = usize::from(fields.u16()?);
        let wanted = fields.bytes(count * 2)?;
        fields.0.is_empty().then_some(Self { name, wanted })
    }

    fn wants(&self, info: u16) -> bool {
        self.wanted.as_chunks().0.iter().any(|number| u16::from_be_bytes(*number) == info)
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
struct ContextRequest<'a> {
    name: &'a [u8],
    queries: Vec<&'a [u8]>,
}

impl<'a> ContextRequest<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let string = |fields: &mut Fields<'a>| {
            let len = usize::try_from(fields.u32()?).ok()?;
            fields.bytes(len)
        };
        let name = string(&mut fields)?;
        let count = fields.u32()?;
        // Each takes bytes, so there are not more than fit.
        let queries = (0..count).map(|_| string(&mut fields)).collect::<Option<_>>()?;
        fields.0.is_empty().then_some(Self { name, queries })
    }

    fn has(&self, query: &str) -> bool {
        self.queries.contains(&query.as_bytes())
    }
}

/// The connection, read and written in whole pieces before a deadline.
struct Stream<'a> {
    socket: BorrowedFd<'a>,
    memory: AlignedMemory,
    deadline: Instant,
}

impl<'a> Stream<'a> {
    fn new(socket: BorrowedFd<'a>) -> Self {
        let memory = AlignedMemory::zeroed(OPTION_DATA_MAX);
        Self { socket, memory, deadline: Instant::now() + PATIENCE }
    }

    fn array<const LEN: usize>(&self) -> io::Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// `len` bytes; `None` when these were too many and have been passed over.
    fn data(&self, len: u32) -> io::Result<Option<Vec<u8>>> {
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        if left > OPTION_DATA_MAX {
            let mut passed_over = vec![0; OPTION_DATA_MAX];
            while left > 0 {
                let step = left.min(OPTION_DATA_MAX);
                self.read(&mut passed_over[..step])?;
                left -= step;
            }
            return Ok(None);
        }
        let mut data = vec![0; left];
        self.read(&mut data)?;
        Ok(Some(data))
    }

    /// Fills `bytes`, at most [`OPTION_DATA_MAX`].
    fn read(&self, bytes: &mut [u8]) -> io::Result<()> {
        let memory = self.memory.buffer();
        let mut done = 0;
        while done < bytes.len() {
            let part = memory.part(0, bytes.len() - done);
            match receive(self.socket, &[part], Waiting::Returns) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += part.part(0, count).copy_to(&mut bytes[done..]),
                Err(error) => self.wait(error, PollFlags::POLLIN)?,
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let memory = self.memory.buffer();
        let mut done = 0;
        while done < bytes.len() {
            let len = memory.copy_from(&bytes[done..]);
            match send(self.socket, &[memory.part(0, len)], Waiting::Returns) {
                Ok(count) => done += count,
                Err(error) => self.wait(error, PollFlags::POLLOUT)?,
            }
        }
        Ok(())
    }

    fn wait(&self, error: io::Error, wanted: PollFlags) -> io::Result<()> {
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), wanted)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
