//! The jail from inside: what a process that has entered it can still do, and what it cannot.
//!
//! These run as root, as the product does; the ordinary user's jail is tried by a child that gave root up.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{getppid, setgroups, setresgid, setresuid};
use vm_memory::MmapRegion;

use super::testing::{Ended, ensure, in_child};
use super::*;

/// A user that nobody is.
const SOMEBODY: u32 = 64_321;

fn spec(identity: Option<Identity>) -> JailSpec {
    JailSpec { identity, network: None, limits: LIMITS, filters: seccomp::Mode::Kill }
}

const LIMITS: Limits = Limits { memory_bytes: u64::MAX, threads: 1000, descriptors: 64 };

/// What the test's process offers to everybody, so that a refusal is the jail's doing.
struct Outside {
    folder: tempfile::TempDir,
    tcp: TcpListener,
    _by_path: UnixListener,
    _by_name: UnixListener,
    name: SocketAddr,
}

impl Outside {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(folder.path().join("file"), "readable").unwrap();
        let by_path = UnixListener::bind(folder.path().join("socket")).unwrap();
        std::fs::set_permissions(folder.path().join("socket"), std::fs::Permissions::from_mode(0o777))
            .unwrap();
        let name = SocketAddr::from_abstract_name(folder.path().as_os_str().as_encoded_bytes()).unwrap();
        Outside {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _by_path: by_path,
            _by_name: UnixListener::bind_addr(&name).unwrap(),
            name,
            folder,
        }
    }

    /// Which of the ways out are open.
    fn ways_out(&self) -> Vec<&'static str> {
        let path = |name: &str| self.folder.path().join(name);
        let ways = [
            ("read a file", File::open(path("file")).is_ok()),
            ("make a file", File::create(path("new")).is_ok()),
            ("make a file in its root", File::create("/new").is_ok()),
            (
                "see a file in its root",
                std::fs::read_dir("/").is_ok_and(|mut entries| entries.next().is_some()),
            ),
            ("read its own /proc", File::open("/proc/self/status").is_ok()),
            ("connect by TCP", TcpStream::connect(self.tcp.local_addr().unwrap()).is_ok()),
            (
                "send by UDP",
                UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"x", "127.0.0.1:9")).is_ok(),
            ),
            ("connect by path", UnixStream::connect(path("socket")).is_ok()),
            ("connect by name", UnixStream::connect_addr(&self.name).is_ok()),
            ("signal its parent", kill(getppid(), None).is_ok()),
            ("become root", setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()),
            (
                "mount",
                nix::mount::mount(Some("x"), "/", Some("tmpfs"), nix::mount::MsFlags::empty(), Some(""))
                    .is_ok(),
            ),
            ("make a namespace", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok()),
        ];
        ways.into_iter().filter(|(_, open)| *open).map(|(way, _)| way).collect()
    }
}

/// Reads `/proc/self/status`, opened before, as `Name: value`.
fn status(file: &mut File, name: &str) -> String {
    use std::io::Seek;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn no_privileges(file: &mut File) -> Result<(), String> {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure(status(file, set) == "0000000000000000", format_args!("{set} is {}", status(file, set)))?;
    }
    ensure(status(file, "NoNewPrivs") == "1", "new privileges are not forbidden")
}

/// What a VMM goes on with: its open files, memory, threads.
fn work_goes_on(mut open: File) -> Result<(), String> {
    open.write_all(b"written inside").map_err(|e| format!("an open file cannot be written: {e}"))?;
    let sum = std::thread::spawn(|| vec![1u8; 8 << 20].iter().map(|&b| u64::from(b)).sum::<u64>());
    ensure(sum.join().unwrap() == 8 << 20, "a thread is wrong")
}

#[test]
fn a_process_in_the_jail_reaches_nothing_and_works() {
    let outside = Outside::new();
    assert!(outside.ways_out().len() >= 8, "what is tried does not work outside either");
    let written = outside.folder.path().join("open");
    let open = File::create(&written).unwrap();
    let ended = in_child(|| {
        let mut proc_status = File::open("/proc/self/status").unwrap();
        let memory = crate::control::ProcessMemoryFile::open().unwrap();
        let report = Jail::enter(spec(Some(Identity::of(SOMEBODY)))).map_err(|e| format!("{e:?}"))?;
        // Root is refused nothing.
        ensure(report.is_whole(), format_args!("{:?}", report.shortfalls))?;
        let ways = outside.ways_out();
        ensure(ways.is_empty(), format_args!("inside, a process can {ways:?}"))?;
        no_privileges(&mut proc_status)?;
        let ids = format!("{SOMEBODY} {SOMEBODY} {SOMEBODY} {SOMEBODY}");
        for (name, expected) in [("Uid", &*ids), ("Gid", &*ids), ("Groups", "")] {
            let found = status(&mut proc_status, name);
            ensure(found == expected, format_args!("{name} is {found:?}"))?;
        }
        let memory = memory.read().map_err(|e| format!("its own memory cannot be counted: {e}"))?;
        ensure(memory.resident_bytes.bytes() > 0, "it has no memory")?;
        work_goes_on(open)
    });
    assert_eq!(ended, Ended::Well);
    assert_eq!(std::fs::read_to_string(written).unwrap(), "written inside");
}

#[test]
fn a_process_with_files_of_its_own_has_these_and_no_others() {
    let outside = Outside::new();
    let own = tempfile::tempdir().unwrap();
    let (folder, read) = (own.path().join("writable"), own.path().join("readable"));
    for made in [&folder, &read] {
        std::fs::create_dir(made).unwrap();
        std::fs::write(made.join("file"), "readable").unwrap();
    }
    std::fs::create_dir(folder.join("inner")).unwrap();
    let file = own.path().join("alone");
    std::fs::write(&file, "readable").unwrap();
    std::fs::write(own.path().join("other"), "secret").unwrap();
    let files = FilesSpec {
        writable: vec![folder.clone()],
        readable: vec![read.clone(), file.clone(), own.path().join("missing")],
        has_network: false,
    };
    let ended = in_child(|| {
        let mut proc_status = File::open("/proc/self/status").unwrap();
        let report = Jail::enter_with_files(&files).map_err(|e| format!("{e:?}"))?;
        ensure(report.is_whole(), format_args!("{:?}", report.shortfalls))?;
        let mut ways = outside.ways_out();
        // It stays root, though with no more rights than anybody, and its root directory has its own files. Where Landlock does not forbid it, other
        // processes of the same user get signals.
        let known = ["become root", "see a file in its root", "read its own /proc", "signal its parent"];
        ways.retain(|way| !known.contains(way));
        ensure(ways.is_empty(), format_args!("inside, a process can {ways:?}"))?;
        no_privileges(&mut proc_status)?;
        for path in ["/proc/1", "/proc/sys", "/etc", "/dev", "/root"] {
            ensure(!std::path::Path::new(path).exists(), format_args!("there is {path}"))?;
        }
        ensure(File::open(own.path().join("other")).is_err(), "another file can be read")?;
        for path in [&read.join("file"), &file] {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            ensure(text == "readable", text)?;
            ensure(File::options().write(true).open(path).is_err(), "what is to be read can be written")?;
        }
        ensure(File::create(read.join("new")).is_err(), "a file can be made where files are to be read")?;
        let work = || {
            std::fs::write(folder.join("new"), "new")?;
            std::fs::rename(folder.join("new"), folder.join("inner/moved"))?;
            let _listener = UnixListener::bind(folder.join("socket"))?;
            UnixStream::connect(folder.join("socket"))?;
            std::fs::remove_file(folder.join("socket"))?;
            File::open(&folder)?.sync_all()
        };
        work().map_err(|error| format!("it cannot work on its own: {error}"))
    });
    assert_eq!(ended, Ended::Well);
    assert_eq!(std::fs::read_to_string(folder.join("inner/moved")).unwrap(), "new");
}

#[test]
fn an_ordinary_user_is_jailed_as_far_as_the_host_permits_and_told_the_rest() {
    let outside = Outside::new();
    let open = tempfile::tempfile().unwrap();
    let ended = in_child(|| {
        let mut proc_status = File::open("/proc/self/status").unwrap();
        let (user, group) = (Uid::from_raw(SOMEBODY), nix::unistd::Gid::from_raw(SOMEBODY));
        setgroups(&[]).unwrap();
        setresgid(group, group, group).unwrap();
        setresuid(user, user, user).unwrap();
        // Its own files in /proc are root's since it changed users, until it says that it may be traced.
        nix::sys::prctl::set_dumpable(true).unwrap();
        let report = Jail::enter(spec(Some(Identity::of(SOMEBODY + 1)))).map_err(|e| format!("{e:?}"))?;
        ensure(
            report.shortfalls.iter().any(|s| s.measure == Measure::OwnUser),
            "another user, and not told",
        )?;
        let is_lacking = |measure| report.shortfalls.iter().any(|s| s.measure == measure);
        if !is_lacking(Measure::EmptyRoot) && !is_lacking(Measure::Network) {
            let ways = outside.ways_out();
            // A user signals its own user's processes, and the parent here is root.
            ensure(ways.is_empty(), format_args!("inside, a process can {ways:?}"))?;
            no_privileges(&mut proc_status)?;
        }
        work_goes_on(open)
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn one_empty_network_serves_many_jails() {
    let outside = Outside::new();
    let ended = in_child(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let namespace = File::open("/proc/self/ns/net").unwrap();
        let identity = |fd: &File| {
            use std::os::unix::fs::MetadataExt;
            fd.metadata().unwrap().ino()
        };
        let shared = identity(&namespace);
        let inside = in_child(|| {
            let spec = JailSpec { network: Some(namespace.into()), ..spec(Some(Identity::of(SOMEBODY))) };
            let tasks = File::open("/proc/self/task").unwrap();
            let report = Jail::enter(spec).map_err(|e| format!("{e:?}"))?;
            ensure(!report.shortfalls.iter().any(|s| s.measure == Measure::Network), "no network namespace")?;
            drop(tasks);
            let ways = outside.ways_out();
            ensure(ways.is_empty(), format_args!("inside, a process can {ways:?}"))
        });
        ensure(inside == Ended::Well, format_args!("{inside:?}"))?;
        ensure(identity(&File::open("/proc/self/ns/net").unwrap()) == shared, "the parent moved")
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn more_than_its_share_is_refused() {
    let ended = in_child(|| {
        // A copy of the test's process has the memory of all tests that run beside this one.
        let data = status(&mut File::open("/proc/self/status").unwrap(), "VmData");
        let data_kib: u64 = data.trim_end_matches(" kB").parse().unwrap();
        let memory_bytes = (data_kib << 10) + (64 << 20);
        // Threads are counted by user, and other tests have the other one.
        let spec = JailSpec {
            limits: Limits { memory_bytes, threads: 3, ..LIMITS },
            ..spec(Some(Identity::of(SOMEBODY + 2)))
        };
        let report = Jail::enter(spec).map_err(|e| format!("{e:?}"))?;
        ensure(report.is_whole(), format_args!("{:?}", report.shortfalls))?;
        // Mappings, since the copy's heap may have such room already.
        let map = MmapRegion::<()>::new;
        let memory = map(32 << 20);
        ensure(memory.is_ok(), "it cannot have memory that is within its limit")?;
        ensure(map(64 << 20).is_err(), "it can have memory without end")?;
        let (keep, kept) = std::sync::mpsc::channel::<()>();
        let kept = std::sync::Arc::new(std::sync::Mutex::new(kept));
        let threads = std::iter::repeat_with(|| {
            let kept = kept.clone();
            std::thread::Builder::new().spawn(move || kept.lock().map(|kept| kept.recv()).is_ok())
        });
        let threads: Vec<_> = threads.take(5).map_while(Result::ok).collect();
        ensure(threads.len() == 2, format_args!("beside its first, it can have {} threads", threads.len()))?;
        let files: Vec<_> = (0..100).map_while(|_| nix::unistd::dup(std::io::stdin()).ok()).collect();
        ensure(files.len() < 64, format_args!("it can open {} files", files.len()))?;
        drop(keep);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map(drop))
            .map_err(|_| "a thread died".to_owned())
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn a_process_of_two_threads_is_not_jailed() {
    let ended = in_child(|| {
        let (keep, kept) = std::sync::mpsc::channel::<()>();
        let second = std::thread::spawn(move || kept.recv());
        let refused = Jail::enter(spec(None));
        drop(keep);
        let _ = second.join();
        match refused {
            Err(JailError::Threads { threads: 2 }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn only_descriptors_that_are_named_are_kept() {
    let (kept, closed) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let (kept, closed) = (kept.as_raw_fd(), closed.as_raw_fd());
    let (read, write) = nix::unistd::pipe().unwrap();
    let report = write.as_raw_fd();
    let ended = in_child(|| {
        // SAFETY: nothing that is closed is used afterwards.
        unsafe { close_inherited(&[kept, report]) }.unwrap();
        let is_open = |fd| {
            // SAFETY: asks about a number.
            unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
        };
        let answer = [is_open(0), is_open(2), is_open(kept), is_open(closed)].map(u8::from);
        nix::unistd::write(&write, &answer).unwrap();
        // The way to tell the parent is closed too.
        Ok(())
    });
    assert_eq!(ended, Ended::Well);
    let mut answer = [9; 4];
    File::from(read).read_exact(&mut answer).unwrap();
    assert_eq!(answer, [1, 1, 1, 0]);
}

#[test]
fn a_forbidden_call_ends_the_jailed_process() {
    let ended = in_child(|| {
        let _ = Jail::enter(spec(Some(Identity::of(SOMEBODY)))).map_err(|e| format!("{e:?}"))?;
        seccomp::enter(seccomp::ThreadKind::Main).map_err(|e| e.to_string())?;
        let open = File::open("/etc/passwd");
        Err(format!("the process went on: {open:?}"))
    });
    assert_eq!(ended, Ended::By(Signal::SIGSYS));
}
