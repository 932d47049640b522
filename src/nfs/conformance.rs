//! Operation by operation, over the wire: a server of a temporary folder, and a client that says what a test makes it say.
//!
//! They need root, as the server does.

mod attributes;
mod directories;
mod errors;
mod files;
mod identities;
mod locks;
mod names;
mod recovery;
mod sessions;
mod wire;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{Answer, Compound, Open, Owner, Session};
use crate::fs::Identity;
use crate::proto::{Bitmap, Stateid, Status};
use crate::server::{Server, ServerSpec};

const LEASE: Duration = Duration::from_secs(90);

/// A folder that is served.
struct Fixture {
    server: Option<Server>,
    spec: ServerSpec,
    _folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with_lease(LEASE)
    }

    fn with_lease(lease: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = ServerSpec {
            folder: folder.path().join("files"),
            state: folder.path().join("state"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            lease,
        };
        std::fs::create_dir(&spec.folder).unwrap();
        // Servers leave this process no umask.
        std::fs::set_permissions(&spec.folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut fixture = Self { server: None, spec, _folder: folder };
        fixture.start();
        fixture
    }

    fn start(&mut self) {
        self.server = Some(Server::start(&self.spec).unwrap());
    }

    /// Ends the server, and begins another one of the same folder.
    fn restart(&mut self) {
        self.server = None;
        self.start();
    }

    fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    /// Where a file lies on the host.
    fn path(&self, name: &str) -> PathBuf {
        self.spec.folder.join(name)
    }

    /// A client that is root.
    fn session(&self) -> Session {
        self.session_of(b"client", root())
    }

    fn session_of(&self, name: &[u8], who: Identity) -> Session {
        Session::open(self.address(), Owner { name, verifier: [1; 8] }, who, 4).unwrap()
    }
}

fn root() -> Identity {
    Identity::new(0, 0, &[])
}

fn user(uid: u32) -> Identity {
    Identity::new(uid, uid, &[])
}

/// A compound that begins at the folder that is served.
fn at_root() -> Compound {
    Compound::new().put_root()
}

fn at(handle: &[u8]) -> Compound {
    Compound::new().put_handle(handle)
}

impl Session {
    /// Has done what must work.
    fn done(&mut self, compound: Compound) -> Answer {
        self.call(compound).unwrap().ok().unwrap()
    }

    /// What the last operation of a compound is answered that is done.
    fn status(&mut self, compound: Compound) -> Status {
        self.call(compound).unwrap().status
    }

    /// The handle of a file in the folder.
    fn handle(&mut self, name: &str) -> Vec<u8> {
        self.done(at_root().look_up(name.as_bytes()).get_handle()).handle().unwrap()
    }

    /// Makes a file, or opens it: its handle, and what is open.
    fn open_to_write(&mut self, name: &str) -> (Vec<u8>, Stateid) {
        let answer = self.done(at_root().open(&Open::to_write(name.as_bytes())).get_handle());
        (answer.handle().unwrap(), answer.opened().unwrap().stateid)
    }
}

fn only(attribute: crate::proto::Attribute) -> Bitmap {
    Bitmap::of(&[attribute])
}
