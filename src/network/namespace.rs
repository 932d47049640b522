//! Network namespaces without a name, and running code in them.
//!
//! A socket belongs for life to the namespace of the thread that made it, whoever uses it later. So
//! entering a namespace is only ever needed for a moment, on a thread of its own ([`Namespace::run`]),
//! or for a thread's whole life ([`Namespace::spawn`]); the caller's threads never change theirs.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::netlink::Netlink;

/// `include/uapi/linux/magic.h`
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// The namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, alive at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new namespace in which nothing but the loopback interface exists, which is up.
    ///
    /// # Errors
    /// When the caller may not make namespaces, or the kernel has none.
    pub fn create() -> Result<Self, Error> {
        let namespace = Self::bare()?;
        namespace.netlink(async |netlink| netlink.set_up(netlink.index("lo").await?).await)?;
        Ok(namespace)
    }

    /// A new namespace in which nothing is up: nothing gets in or out, nor from one place in it to another.
    ///
    /// # Errors
    /// When the caller may not make namespaces, or the kernel has none.
    pub fn bare() -> Result<Self, Error> {
        on_thread("namespace", Self::enter_bare).map_err(Error::while_doing("create a network namespace"))?
    }

    /// As [`bare`](Self::bare); the calling thread is taken into it, for good.
    ///
    /// # Errors
    /// As of [`bare`](Self::bare).
    pub fn enter_bare() -> Result<Self, Error> {
        let created =
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| File::open(OWN));
        Ok(Self { file: created.map_err(Error::while_doing("create a network namespace"))? })
    }

    /// The namespace that a file [pins](Self::pin), if it does.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn pinned(path: &Path) -> Result<Option<Self>, Error> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format_args!("open {}", path.display()), error)),
        };
        let kind = fstatfs(&file).map_err(Error::while_doing(format_args!("look at {}", path.display())))?;
        Ok((kind.filesystem_type() == NSFS_MAGIC).then_some(Self { file }))
    }

    /// Keeps the namespace alive by a file, also when no process has it any more.
    ///
    /// # Errors
    /// When there is such a file, or the caller may not mount.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        let operation = format!("keep a network namespace at {}", path.display());
        File::create_new(path).map_err(Error::while_doing(&operation))?;
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::while_doing(&operation))
    }

    /// The namespace that a file pins; a new one, if none does yet.
    ///
    /// # Errors
    /// As those of [`Self::create`] and [`Self::pin`].
    pub(crate) fn open_pinned(path: &Path) -> Result<Self, Error> {
        if let Some(namespace) = Self::pinned(path)? {
            return Ok(namespace);
        }
        let namespace = Self::create()?;
        namespace.pin_again(path)?;
        Ok(namespace)
    }

    /// Has the file pin it, whatever has become of that. Says whether it did not.
    ///
    /// # Errors
    /// As those of [`Self::pin`].
    pub(crate) fn pin_again(&self, path: &Path) -> Result<bool, Error> {
        let is_pinned = Self::pinned(path)?.map(|found| found.is_same(self)).transpose()?;
        if is_pinned == Some(true) {
            return Ok(false);
        }
        Self::unpin(path)?;
        self.pin(path)?;
        Ok(true)
    }

    /// Ends what [`Self::pin`] began. A file that is not there is no error.
    ///
    /// # Errors
    /// When the caller may not unmount.
    pub fn unpin(path: &Path) -> Result<(), Error> {
        let operation = format!("let go of the network namespace at {}", path.display());
        match umount2(path, MntFlags::MNT_DETACH) {
            // It is there and pins nothing, or is not there.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(Error::io(&operation, errno.into())),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&operation, error)),
            _ => Ok(()),
        }
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        let file = File::open(OWN).map_err(Error::while_doing(format_args!("open {OWN}")))?;
        Ok(Self { file })
    }

    /// Another hold on the same namespace.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let file = self.file.try_clone().map_err(Error::while_doing("hold a network namespace"))?;
        Ok(Self { file })
    }

    /// Whether both are one.
    ///
    /// # Errors
    /// What the kernel says.
    fn is_same(&self, other: &Self) -> Result<bool, Error> {
        let place = |namespace: &Self| namespace.file.metadata().map(|found| (found.dev(), found.ino()));
        let both = place(self).and_then(|one| Ok(one == place(other)?));
        both.map_err(Error::while_doing("compare network namespaces"))
    }

    /// Runs `task` to its end on a new thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then `task` has not run.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread("namespace", || self.enter().map(|()| task()))
            .and_then(|outcome| outcome)
            .map_err(Error::while_doing("enter a network namespace"))
    }

    /// Starts a thread that stays inside the namespace and drives the future that `serve` returns, with
    /// an executor of its own, until it is ready or the [`Worker`] is dropped.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then `serve` has not run.
    pub fn spawn<F, S>(&self, name: &str, serve: F) -> Result<Worker, Error>
    where
        F: FnOnce() -> S + Send + 'static,
        S: Future<Output = ()>,
    {
        let operation = format!("start the thread {name} in a network namespace");
        let namespace = self.try_clone()?;
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::sync_channel(1);
        let body = move || {
            let runtime = executor().and_then(|runtime| namespace.enter().map(|()| runtime));
            // The receiver waits until this is sent, so it cannot be gone.
            let runtime = match runtime {
                Ok(runtime) => started.send(Ok(())).map(|()| runtime).ok(),
                Err(error) => started.send(Err(error)).map_or(None, |()| None),
            };
            let Some(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve() => {}
                }
            });
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(Error::while_doing(&operation))?;
        let outcome = start.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")));
        outcome.map_err(Error::while_doing(&operation))?;
        Ok(Worker { stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `task` with a netlink connection of this namespace.
    pub(crate) fn netlink<T, F>(&self, task: F) -> Result<T, Error>
    where
        T: Send,
        F: AsyncFnOnce(&Netlink) -> Result<T, Error> + Send,
    {
        let opened = "open a netlink connection";
        let serve = || {
            let runtime = executor().map_err(Error::while_doing(opened))?;
            self.enter().map_err(Error::while_doing("enter a network namespace"))?;
            runtime.block_on(async {
                let netlink = Netlink::open().map_err(Error::while_doing(opened))?;
                task(&netlink).await
            })
        };
        on_thread("namespace", serve).map_err(Error::while_doing(opened))?
    }

    /// The descriptor's number, for a netlink message that names this namespace.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Takes the calling thread into the namespace, for good.
    fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.file.into()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A thread that serves inside a namespace. Dropping it ends the thread, and waits until it has.
#[derive(Debug)]
pub struct Worker {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Whether the thread has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended {
            tracing::error!("a network thread panicked");
        }
    }
}

/// An executor for one thread, made before that enters a namespace: the first of a process makes sockets that last as long as the
/// process, and so would the namespace that they are in.
fn executor() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs `task` on a thread of its own and waits for it; a panic goes on in the caller.
fn on_thread<T: Send>(name: &str, task: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, task)?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}
