//! The folder that is served: its files by handle and by name, always as the caller.
//!
//! Handles are the host's own (`name_to_handle_at`), so they survive renames and restarts and need no table on a disk; opening one
//! needs `CAP_DAC_READ_SEARCH`, which root has. A table from handles to paths, as servers without that privilege keep, would have to be
//! durable and would be wrong after each change that somebody makes on the host. Since the host's handles name any file of its file
//! system, ours are signed with a key of the folder's: only those that were given out open anything.
//!
//! A path never has more than one part. What would lead out (links, `..` of the folder itself, other file systems mounted within) is refused.

mod attributes;
mod directory;
mod handle;
mod identity;
mod name;
mod nodes;
mod set;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

pub use identity::Identity;
pub(crate) use name::Name;
pub(crate) use nodes::Node;
pub(crate) use set::{Changes, SetTime};

use crate::proto::{FileType, Status, Verifier, share};
use crate::sys::{self, Durability, HostHandle};
use handle::Signer;
use nodes::Nodes;

/// How often a creation is tried while somebody else creates and removes the same name.
const RACES_MAX: usize = 8;

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the file system of {} has no handles that last, or too long ones", path.display())]
    Handles { path: PathBuf, source: io::Error },
    #[error(
        "files cannot be opened by their handles and as other users: this needs root, with CAP_DAC_READ_SEARCH and CAP_SETUID"
    )]
    Privileges { source: io::Error },
}

/// A folder that is served.
#[derive(Debug)]
pub struct Export {
    /// Its file system, as `open_by_handle_at` wants it.
    mount: OwnedFd,
    mount_id: i32,
    /// `/proc/self/fd`: through it, what was opened with `O_PATH` is opened for more, as the caller.
    descriptors: OwnedFd,
    signer: Signer,
    nodes: Nodes,
    root: Arc<Node>,
    /// Tells this file system from all others, also after a restart.
    id: u64,
    links_max: u32,
    /// What makes unstable writes of before known as lost.
    verifier: AtomicU64,
}

impl Export {
    /// The folder at `path`, whose handles are signed with `key`; handles that were given out under another key are bad ones. At most `nodes`
    /// files are kept open beside those that clients have open. Sets the process's umask to 0, since clients apply their own.
    ///
    /// # Errors
    /// [`ExportError`]
    pub fn open(path: &Path, key: [u8; 32], nodes: usize) -> Result<Self, ExportError> {
        nix::sys::stat::umask(Mode::empty());
        let open = |path: &Path, flags: OFlag| {
            openat(AT_FDCWD, path, flags | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| ExportError::Open { path: path.to_owned(), source: errno.into() })
        };
        let mount = open(path, OFlag::O_RDONLY)?;
        let descriptors = open(Path::new("/proc/self/fd"), OFlag::O_PATH)?;
        let handles = |source| ExportError::Handles { path: path.to_owned(), source };
        let (host, mount_id) = sys::name_to_handle(mount.as_fd(), c"").map_err(handles)?;
        let signer = Signer::new(key);
        let wire = signer.sign(&host).ok_or_else(|| handles(io::ErrorKind::InvalidData.into()))?;
        let privileges = |source| ExportError::Privileges { source };
        Identity::check().map_err(privileges)?;
        let root = sys::open_by_handle(mount.as_fd(), &host, libc::O_PATH).map_err(privileges)?;
        let root = Arc::new(Node::new(root, &host, wire).map_err(handles)?);
        let links_max = nix::unistd::fpathconf(&mount, nix::unistd::PathconfVar::LINK_MAX);
        let links_max = links_max.ok().flatten().and_then(|max| u32::try_from(max).ok()).unwrap_or(1);
        let mut boot = [0; 8];
        getrandom(&mut boot).map_err(handles)?;
        Ok(Self {
            id: signer.number("file system"),
            nodes: Nodes::new(nodes),
            verifier: AtomicU64::new(u64::from_be_bytes(boot)),
            mount,
            mount_id,
            descriptors,
            signer,
            root,
            links_max,
        })
    }

    pub(crate) fn root(&self) -> Arc<Node> {
        Arc::clone(&self.root)
    }

    /// A name for this file system that no other has, and that stays.
    pub(crate) fn name(&self) -> [u8; 8] {
        self.id.to_be_bytes()
    }

    /// The file that a client has this handle of.
    pub(crate) fn node(&self, wire: &[u8]) -> Result<Arc<Node>, Status> {
        let host = Signer::parse(wire).ok_or(Status::BadHandle)?;
        if let Some(node) = self.known(&host) {
            return if **node.handle() == *wire { Ok(node) } else { Err(Status::BadHandle) };
        }
        if !self.signer.has_signed(wire) {
            return Err(Status::BadHandle);
        }
        self.load(&host, Arc::from(wire))
    }

    /// The file called `name` in `folder`.
    pub(crate) fn look_up(&self, who: &Identity, folder: &Node, name: &Name) -> Result<Arc<Node>, Status> {
        who.take()?;
        let host = self.host_handle(folder, name)?;
        match self.known(&host) {
            Some(node) => Ok(node),
            None => self.load(&host, self.signer.sign(&host).ok_or(Status::ServerFault)?),
        }
    }

    /// The folder that `folder` is in; the folder that is served is in none.
    pub(crate) fn parent(&self, who: &Identity, folder: &Node) -> Result<Arc<Node>, Status> {
        if folder.key() == self.root.key() {
            return Err(Status::NoEnt);
        }
        who.take()?;
        let up = |at: &OwnedFd| -> Result<(OwnedFd, HostHandle), Status> {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let above = openat(at, "..", flags, Mode::empty())?;
            let (host, mount) = sys::name_to_handle(above.as_fd(), c"")?;
            if mount == self.mount_id { Ok((above, host)) } else { Err(Status::Stale) }
        };
        let (mut at, host) = up(folder.path())?;
        // Somebody on the host may have moved it out of what is served.
        Identity::be_root();
        let mut host_at = host;
        while *nodes::key(&host_at) != *self.root.key() {
            let (above, host_above) = up(&at)?;
            if nodes::key(&host_above) == nodes::key(&host_at) {
                return Err(Status::Stale);
            }
            (at, host_at) = (above, host_above);
        }
        match self.known(&host) {
            Some(node) => Ok(node),
            None => self.load(&host, self.signer.sign(&host).ok_or(Status::ServerFault)?),
        }
    }

    fn known(&self, host: &HostHandle) -> Option<Arc<Node>> {
        let key = nodes::key(host);
        if self.root.key() == &*key { Some(self.root()) } else { self.nodes.get(&key) }
    }

    fn host_handle(&self, folder: &Node, name: &Name) -> Result<HostHandle, Status> {
        let (host, mount) = sys::name_to_handle(folder.path().as_fd(), name.as_c_str())?;
        // Another file system is mounted there.
        if mount == self.mount_id { Ok(host) } else { Err(Status::Access) }
    }

    fn load(&self, host: &HostHandle, wire: Arc<[u8]>) -> Result<Arc<Node>, Status> {
        Identity::be_root();
        let path = sys::open_by_handle(self.mount.as_fd(), host, libc::O_PATH | libc::O_NOFOLLOW);
        let path = path.map_err(|error| match error.raw_os_error() {
            Some(libc::ESTALE | libc::ENOENT | libc::EINVAL) => Status::Stale,
            _ => error.into(),
        })?;
        Ok(self.nodes.insert(Node::new(path, host, wire)?))
    }

    /// Opens a regular file for `access` (`share::…`), as the caller.
    pub(crate) fn open_file(&self, who: &Identity, node: &Node, access: u32) -> Result<File, Status> {
        regular(node)?;
        who.take()?;
        match self.reopen(node, access) {
            // Who may execute a file must be able to read it here: nobody else does it for him.
            Err(Errno::EACCES) if access == share::READ && sys::may(node.path().as_fd(), libc::X_OK)? => {
                Identity::be_root();
                Ok(self.reopen(node, access)?)
            }
            other => Ok(other?),
        }
    }

    /// Opens a regular file for who had it open before the server was restarted. Its owner may have made it read-only since.
    pub(crate) fn reopen_file(&self, who: &Identity, node: &Node, access: u32) -> Result<File, Status> {
        match self.open_file(who, node, access) {
            Err(Status::Access)
                if sys::status(node.path().as_fd(), libc::STATX_UID)?.stx_uid == who.uid() =>
            {
                Identity::be_root();
                Ok(self.reopen(node, access)?)
            }
            other => other,
        }
    }

    fn reopen(&self, node: &Node, access: u32) -> Result<File, Errno> {
        self.through_descriptors(node, flags_of(access)).map(File::from)
    }

    fn through_descriptors(&self, node: &Node, flags: OFlag) -> Result<OwnedFd, Errno> {
        let number = node.path().as_raw_fd().to_string();
        openat(&self.descriptors, number.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Makes the regular file `name`, which must not exist, and opens it.
    pub(crate) fn create_file(
        &self,
        who: &Identity,
        folder: &Node,
        name: &Name,
        access: u32,
        mode: u32,
    ) -> Result<(Arc<Node>, File), Status> {
        who.take()?;
        let how = OpenHow::new()
            .flags(flags_of(access) | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(mode))
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        let file = openat2(folder.path(), name.as_c_str(), how)?;
        folder.touch();
        let (host, _) = sys::name_to_handle(file.as_fd(), c"")?;
        let node = match self.known(&host) {
            Some(node) => node,
            None => self.load(&host, self.signer.sign(&host).ok_or(Status::ServerFault)?)?,
        };
        Ok((node, File::from(file)))
    }

    /// What `create` gives, or `existing` if there is a file already.
    pub(crate) fn create_or<T>(
        &self,
        mut create: impl FnMut() -> Result<T, Status>,
        mut existing: impl FnMut() -> Result<T, Status>,
    ) -> Result<T, Status> {
        for _ in 0..RACES_MAX {
            match create() {
                Err(Status::Exist) => {}
                other => return other,
            }
            match existing() {
                Err(Status::NoEnt) => {}
                other => return other,
            }
        }
        Err(Status::Delay)
    }

    /// Makes what is no regular file.
    pub(crate) fn make(
        &self,
        who: &Identity,
        folder: &Node,
        name: &Name,
        what: &Make<'_>,
        mode: u32,
    ) -> Result<Arc<Node>, Status> {
        who.take()?;
        let mode = Mode::from_bits_truncate(mode);
        let node = |kind| mknodat(folder.path(), name.as_c_str(), kind, mode, 0);
        match what {
            Make::Directory => mkdirat(folder.path(), name.as_c_str(), mode)?,
            Make::SymbolicLink(text) => symlinkat(*text, folder.path(), name.as_c_str())?,
            Make::Fifo => node(SFlag::S_IFIFO)?,
            Make::Socket => node(SFlag::S_IFSOCK)?,
        }
        folder.touch();
        self.look_up(who, folder, name)
    }

    /// Removes `name`, and what it names with its last name.
    pub(crate) fn remove(&self, who: &Identity, folder: &Node, name: &Name) -> Result<(), Status> {
        who.take()?;
        let host = self.host_handle(folder, name)?;
        match unlinkat(folder.path(), name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(folder.path(), name.as_c_str(), UnlinkatFlags::RemoveDir)?,
            other => other?,
        }
        folder.touch();
        self.nodes.forget(&nodes::key(&host), 0);
        Ok(())
    }

    /// Gives what is called `old` another name, in place of what had it.
    pub(crate) fn rename(
        &self,
        who: &Identity,
        from: &Node,
        old: &Name,
        to: &Node,
        new: &Name,
    ) -> Result<(), Status> {
        who.take()?;
        let moved = self.host_handle(from, old)?;
        let replaced = self.host_handle(to, new).ok();
        renameat(from.path(), old.as_c_str(), to.path(), new.as_c_str()).map_err(|errno| match errno {
            // A folder in place of a file, or the other way round.
            Errno::EISDIR | Errno::ENOTDIR => Status::Exist,
            Errno::ENOTEMPTY => Status::NotEmpty,
            other => other.into(),
        })?;
        from.touch();
        to.touch();
        if let Some(node) = self.known(&moved) {
            node.touch();
        }
        if let Some(replaced) = replaced.filter(|host| nodes::key(host) != nodes::key(&moved)) {
            self.nodes.forget(&nodes::key(&replaced), 0);
        }
        Ok(())
    }

    /// Gives a file another name.
    pub(crate) fn link(&self, who: &Identity, node: &Node, folder: &Node, name: &Name) -> Result<(), Status> {
        who.take()?;
        let number = node.path().as_raw_fd().to_string();
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(&self.descriptors, number.as_str(), folder.path(), name.as_c_str(), follow)?;
        folder.touch();
        node.touch();
        Ok(())
    }

    /// What a symbolic link says.
    pub(crate) fn read_link(&self, who: &Identity, node: &Node) -> Result<Vec<u8>, Status> {
        who.take()?;
        Ok(std::os::unix::ffi::OsStringExt::into_vec(readlinkat(node.path(), "")?))
    }

    /// Whether the caller may `mode` (`R_OK`, `W_OK`, `X_OK`).
    pub(crate) fn may(&self, who: &Identity, node: &Node, mode: i32) -> Result<bool, Status> {
        who.take()?;
        Ok(sys::may(node.path().as_fd(), mode)?)
    }

    /// Tells writes that were unstable, and may have been lost, from those that are not.
    pub(crate) fn verifier(&self) -> Verifier {
        self.verifier.load(Ordering::Acquire).to_be_bytes()
    }

    /// Has a change of names or attributes on the disk: clients have nothing else to ask for that with, and take it for done. Of what cannot
    /// be opened (links, pipes, sockets), names are as durable as their folder; attributes follow with the host's next sync.
    pub(crate) fn settle(&self, node: &Node) -> Result<(), Status> {
        let flags = match node.kind() {
            FileType::Directory => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            FileType::Regular => OFlag::O_RDONLY,
            _ => return Ok(()),
        };
        Identity::be_root();
        File::from(self.through_descriptors(node, flags)?).sync_all().map_err(|error| self.lost(error))
    }

    /// Has all that was written to a regular file on the disk. Whoever asks for that may: it tells him nothing.
    pub(crate) fn sync(&self, node: &Node) -> Result<(), Status> {
        Identity::be_root();
        File::from(self.through_descriptors(node, OFlag::O_RDONLY)?)
            .sync_data()
            .map_err(|error| self.lost(error))
    }

    /// Writes to an open file. Stable writes that fail may have lost others, unstable ones.
    pub(crate) fn write(
        &self,
        file: &File,
        bytes: &[u8],
        offset: u64,
        durability: Durability,
    ) -> Result<usize, Status> {
        let offset = i64::try_from(offset).map_err(|_| Status::FBig)?;
        sys::write_at(file.as_fd(), bytes, offset, durability).map_err(|error| match durability {
            Durability::Cached => error.into(),
            Durability::Data | Durability::All => self.lost(error),
        })
    }

    /// The kernel tells once that it could not write, and drops what it had: clients must send it again.
    fn lost(&self, error: io::Error) -> Status {
        self.verifier.fetch_add(1, Ordering::AcqRel);
        error.into()
    }
}

/// What can be made beside regular files. EFS has no devices.
#[derive(Debug)]
pub(crate) enum Make<'a> {
    Directory,
    SymbolicLink(&'a std::ffi::CStr),
    Fifo,
    Socket,
}

/// # Errors
/// What reading, writing, locking and opening answer of what is no regular file.
pub(crate) fn regular(node: &Node) -> Result<(), Status> {
    match node.kind() {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Status::IsDir),
        FileType::SymbolicLink => Err(Status::SymLink),
        _ => Err(Status::WrongType),
    }
}

fn flags_of(access: u32) -> OFlag {
    match access {
        share::READ => OFlag::O_RDONLY,
        share::WRITE => OFlag::O_WRONLY,
        _ => OFlag::O_RDWR,
    }
}

/// Random bytes of the kernel's.
pub(crate) fn getrandom(bytes: &mut [u8]) -> io::Result<()> {
    io::Read::read_exact(&mut File::open("/dev/urandom")?, bytes)
}
