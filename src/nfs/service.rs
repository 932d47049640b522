//! What is served, whichever connection asks for it; and what belongs to one connection.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::pipe2;
use types::Clock;

use crate::fs::{Export, ExportError, getrandom};
use crate::ops::{self, Tail};
use crate::proto::{IO_BYTES_MAX, Status};
use crate::rpc::{self, Procedure};
use crate::session::{Clients, Session};
use crate::xdr::{Malformed, Writer};

/// Files that are kept open because they may be asked for again.
const NODES_MAX: u64 = 32_768;

/// Why a folder is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("what must outlive a restart cannot be kept in {}", path.display())]
    State { path: PathBuf, source: io::Error },
}

/// A folder, and the clients that use it.
pub struct Service {
    pub(crate) export: Export,
    pub(crate) clients: Clients,
}

impl Service {
    /// Serves `folder`; what clients must find again after a restart is kept in `state`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub fn open(
        folder: &Path,
        state: &Path,
        clock: Arc<dyn Clock>,
        lease: Duration,
    ) -> Result<Self, ServiceError> {
        let failed = |source| ServiceError::State { path: state.to_owned(), source };
        fs::create_dir_all(state).map_err(failed)?;
        let key = key(&state.join("key")).map_err(failed)?;
        let mut boot = [0; 4];
        getrandom(&mut boot).map_err(failed)?;
        let export = Export::open(folder, key, usize::try_from(nodes_max()).unwrap_or(0))?;
        // Never zero, since that begins special stateids.
        let clients = Clients::open(state, clock, lease, u32::from_be_bytes(boot) | 1).map_err(failed)?;
        Ok(Self { export, clients })
    }

    pub(crate) fn lease_s(&self) -> u32 {
        u32::try_from(self.clients.lease.as_secs()).unwrap_or(u32::MAX)
    }

    /// What has to be done now and then: clients that are lost are forgotten, and the grace period ends.
    pub fn tick(&self) {
        self.clients.tick();
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Does what a record asks for that came over `connection`, and writes the answer, but for its tail. Before it waits for the disk,
    /// `step_aside` is called.
    ///
    /// # Errors
    /// [`Malformed`] if it is no call at all.
    pub(crate) fn answer(
        &self,
        connection: &mut Connection,
        record: &[u8],
        out: &mut Writer,
        step_aside: &mut dyn FnMut(),
    ) -> Result<Tail, Malformed> {
        let call = match rpc::parse(record)? {
            Ok(call) => call,
            Err((xid, refusal)) => {
                rpc::refuse(out, xid, refusal);
                return Ok(Tail::default());
            }
        };
        let start = out.len();
        rpc::accept(out, call.xid);
        if call.procedure == Procedure::Null {
            return Ok(Tail::default());
        }
        let from = ops::Caller { connection, who: call.identity, step_aside };
        ops::run(self, from, call.arguments, record.len(), out).or_else(|Malformed| {
            out.truncate(start);
            rpc::garbage(out, call.xid);
            Ok(Tail::default())
        })
    }

    /// Answers as [`Self::answer`] does, for who has no socket.
    ///
    /// # Errors
    /// As there.
    pub fn answer_bytes(&self, connection: &mut Connection, record: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Writer::new();
        let tail = self.answer(connection, record, &mut out, &mut || ())?;
        connection.pipe.give_to_writer(tail, &mut out);
        Ok(out.into_bytes())
    }
}

/// Half of what this process may have open, once it may have as much as it is allowed; the rest is for what clients open.
fn nodes_max() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 256 };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(soft, |(soft, _)| soft);
    (limit / 2).min(NODES_MAX)
}

/// The key in a file, which is made if there is none.
fn key(path: &Path) -> io::Result<[u8; 32]> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| io::Error::other(format!("{} is no key", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom(&mut key)?;
            let unfinished = path.with_extension("new");
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&key)?;
            file.sync_all()?;
            fs::rename(&unfinished, path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// What one connection has for itself.
#[derive(Debug, Default)]
pub struct Connection {
    /// The session that was used last over it.
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) pipe: Pipe,
}

/// Through which a file's bytes go from the page cache to a socket, without being copied; made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Ends {
    fn new() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        let wanted = libc::c_int::try_from(IO_BYTES_MAX).unwrap_or(libc::c_int::MAX);
        let capacity = fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted))
            .or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ))?;
        Ok(Self { read, write, capacity: usize::try_from(capacity).unwrap_or(0) })
    }
}

impl Pipe {
    /// Takes `count` bytes of a file, or fewer at its end, without waiting for anybody who reads the pipe. None if they have to be copied.
    pub(crate) fn take_from(
        &mut self,
        file: &File,
        offset: i64,
        count: usize,
    ) -> Result<Option<usize>, Status> {
        if self.ends.is_none() {
            self.ends = Ends::new().ok();
        }
        let Some(ends) = self.ends.as_ref().filter(|ends| ends.capacity >= count) else { return Ok(None) };
        let (mut taken, mut offset) = (0, offset);
        while taken < count {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(file, Some(&mut offset), &ends.write, None, count - taken, flags) {
                Ok(0) => break,
                Ok(more) => taken += more,
                Err(Errno::EINTR) => {}
                // It is full, if parts of pages take whole ones.
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINVAL) if taken == 0 => return Ok(None),
                Err(_) if taken > 0 => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(taken))
    }

    /// Sends what was taken.
    pub(crate) fn give_to(&mut self, socket: impl AsFd, tail: Tail) -> io::Result<()> {
        let mut left = tail.bytes;
        while left > 0 {
            let ends = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            match splice(&ends.read, None, &socket, None, left, SpliceFFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => left -= sent,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn give_to_writer(&mut self, tail: Tail, out: &mut Writer) {
        let Some(ends) = &self.ends else { return };
        let mut left = tail.bytes;
        while left > 0 {
            let read = out.fill(left, |bytes| nix::unistd::read(&ends.read, bytes));
            left -= read.unwrap_or(left);
        }
        out.pad(tail.bytes);
    }

    /// Gives back what it has of the kernel's memory; nobody wants what was taken.
    pub(crate) fn discard(&mut self) {
        self.ends = None;
    }
}
