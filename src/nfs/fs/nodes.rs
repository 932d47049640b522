//! Files that are kept open because they were asked for lately, so that a handle costs no system call.
//!
//! They are opened with `O_PATH`: nothing can be done with one that needs a permission. A shard forgets by the clock: what was asked for
//! since the hand passed stays for another round, and so does what somebody uses.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::lock;
use crate::proto::{FileType, Status};
use crate::sys::{self, HostHandle};

const SHARDS: usize = 16;

/// A file of the folder.
#[derive(Debug)]
pub(crate) struct Node {
    key: Box<[u8]>,
    handle: Arc<[u8]>,
    path: OwnedFd,
    kind: FileType,
    file_id: u64,
    /// How often it was changed here since it was opened.
    changes: AtomicU64,
    is_used: AtomicBool,
}

/// What a file is found by.
pub(super) fn key(host: &HostHandle) -> Box<[u8]> {
    [&host.kind().to_ne_bytes(), host.bytes()].concat().into()
}

impl Node {
    /// # Errors
    /// `Stale` if it has no name any more.
    pub(super) fn new(path: OwnedFd, host: &HostHandle, handle: Arc<[u8]>) -> Result<Self, std::io::Error> {
        let wanted = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_NLINK;
        let status = sys::status(path.as_fd(), wanted)?;
        if status.stx_nlink == 0 {
            return Err(nix::errno::Errno::ESTALE.into());
        }
        let kind = match u32::from(status.stx_mode) & libc::S_IFMT {
            libc::S_IFREG => FileType::Regular,
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFLNK => FileType::SymbolicLink,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFCHR => FileType::CharacterDevice,
            libc::S_IFIFO => FileType::Fifo,
            _ => FileType::Socket,
        };
        Ok(Self {
            key: key(host),
            handle,
            path,
            kind,
            file_id: status.stx_ino,
            changes: AtomicU64::new(0),
            is_used: AtomicBool::new(true),
        })
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// What clients call it.
    pub(crate) fn handle(&self) -> &Arc<[u8]> {
        &self.handle
    }

    pub(crate) fn path(&self) -> &OwnedFd {
        &self.path
    }

    pub(crate) fn kind(&self) -> FileType {
        self.kind
    }

    pub(crate) fn file_id(&self) -> u64 {
        self.file_id
    }

    /// It was changed by us: a moment within which the host's clock need not have moved.
    pub(crate) fn touch(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// # Errors
    /// `NotDir` if it is none.
    pub(crate) fn directory(&self) -> Result<(), Status> {
        if self.kind == FileType::Directory { Ok(()) } else { Err(Status::NotDir) }
    }
}

#[derive(Debug)]
pub(super) struct Nodes {
    shards: [Mutex<Shard>; SHARDS],
    /// Of one shard.
    nodes_max: usize,
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<Box<[u8]>, usize>,
    nodes: Vec<Option<Arc<Node>>>,
    free: Vec<usize>,
    hand: usize,
}

impl Nodes {
    /// As many, and more only if more are used at a time.
    pub(super) fn new(nodes_max: usize) -> Self {
        Self { shards: Default::default(), nodes_max: nodes_max.div_ceil(SHARDS) }
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % 16).unwrap_or(0);
        &self.shards[place]
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Node>> {
        let shard = lock(self.shard(key));
        let node = shard.nodes[*shard.places.get(key)?].as_ref()?;
        node.is_used.store(true, Ordering::Relaxed);
        Some(Arc::clone(node))
    }

    /// The node, or the one that somebody else has put there meanwhile.
    pub(super) fn insert(&self, node: Node) -> Arc<Node> {
        let mut shard = lock(self.shard(&node.key));
        if let Some(node) = shard.places.get(&node.key).and_then(|place| shard.nodes[*place].clone()) {
            return node;
        }
        if shard.places.len() >= self.nodes_max {
            shard.evict();
        }
        let node = Arc::new(node);
        let place = shard.free.pop().unwrap_or(shard.nodes.len());
        if place == shard.nodes.len() {
            shard.nodes.push(None);
        }
        shard.nodes[place] = Some(Arc::clone(&node));
        shard.places.insert(node.key.clone(), place);
        node
    }

    /// One of its names is gone. Unless somebody uses it beside `users`, it is let go of, and the host has its blocks back.
    pub(super) fn forget(&self, key: &[u8], users: usize) {
        let mut shard = lock(self.shard(key));
        let Some(place) = shard.places.get(key).copied() else { return };
        let Some(node) = &shard.nodes[place] else { return };
        node.touch();
        if Arc::strong_count(node) <= 1 + users {
            shard.remove(place);
        }
    }
}

impl Shard {
    fn remove(&mut self, place: usize) {
        if let Some(node) = self.nodes[place].take() {
            self.places.remove(&node.key);
            self.free.push(place);
        }
    }

    /// Lets one go that was not asked for since the hand passed last; none if all are used.
    fn evict(&mut self) {
        for _ in 0..2 * self.nodes.len() {
            self.hand = (self.hand + 1) % self.nodes.len();
            let Some(node) = &self.nodes[self.hand] else { continue };
            if Arc::strong_count(node) == 1 && !node.is_used.swap(false, Ordering::Relaxed) {
                self.remove(self.hand);
                return;
            }
        }
    }
}
