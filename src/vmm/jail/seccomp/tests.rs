//! Filters from inside: for each kind of thread, what it needs works and what it must not do ends the process.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::jail::testing::{Ended, in_child};

const KINDS: [ThreadKind; 8] = [
    ThreadKind::Main,
    ThreadKind::Maker,
    ThreadKind::Vcpu,
    ThreadKind::Worker(DeviceKind::Block),
    ThreadKind::Worker(DeviceKind::Net),
    ThreadKind::Worker(DeviceKind::Rng),
    ThreadKind::Worker(DeviceKind::Balloon),
    ThreadKind::Worker(DeviceKind::Vsock),
];

/// Does `work` in a child whose thread is filtered as `kind`.
fn filtered(kind: ThreadKind, work: impl FnOnce()) -> Ended {
    in_child(|| {
        enter(kind).map_err(|e| e.to_string())?;
        work();
        Ok(())
    })
}

fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> libc::c_long {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests pass numbers, and pointers to what lives through the call.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

/// What every thread does.
fn common_work() {
    let mut map: HashMap<u64, Vec<u8>> = HashMap::new();
    for size in 0..200 {
        map.insert(size, vec![1; usize::try_from(size).unwrap() * 4096]);
    }
    map.retain(|size, _| size % 3 == 0);
    let mut grown = vec![0u8; 1 << 20];
    grown.extend(std::iter::repeat_n(1, 8 << 20));
    drop((map, grown));

    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let poller = crate::poll::Poller::new().unwrap();
    let twin = event.try_clone().unwrap();
    poller.watch(crate::console::watch::borrow(&event), 1, crate::poll::Interest::Read).unwrap();
    twin.write(1).unwrap();
    let mut ready = Vec::new();
    poller.wait(&mut ready, Some(1000)).unwrap();
    assert_eq!(ready.len(), 1);
    event.read().unwrap();

    let mut timer = vmm_sys_util::timerfd::TimerFd::new().unwrap();
    timer.reset(Duration::from_micros(10), None).unwrap();
    timer.wait().unwrap();
    let gate = (Mutex::new(()), Condvar::new());
    let _ = gate.1.wait_timeout(gate.0.lock().unwrap(), Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(1));
    let _ = (Instant::now(), std::time::SystemTime::now());
    std::thread::yield_now();
    eprint!("");
}

#[test]
fn every_thread_can_do_what_all_do() {
    for kind in KINDS {
        assert_eq!(filtered(kind, common_work), Ended::Well, "{kind:?}");
    }
}

#[test]
fn a_failing_thread_says_so_and_aborts() {
    for kind in KINDS {
        assert_eq!(filtered(kind, || std::process::abort()), Ended::By(Signal::SIGABRT), "{kind:?}");
        let caught =
            || assert!(std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(()))).is_err());
        assert_eq!(filtered(kind, caught), Ended::Well, "{kind:?}");
    }
}

/// Calls that no thread may make.
fn forbidden_to_all() -> Vec<(&'static str, libc::c_long, [libc::c_long; 6])> {
    let path = c"/etc/passwd".as_ptr().addr().try_into().unwrap();
    let exec = libc::c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let private = libc::c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    vec![
        ("open", libc::SYS_open, [path, 0, 0, 0, 0, 0]),
        ("openat", libc::SYS_openat, [-100, path, 0, 0, 0, 0]),
        ("openat2", libc::SYS_openat2, [-100, path, 0, 0, 0, 0]),
        ("stat by path", libc::SYS_statx, [-100, path, 0, 0, 0, 0]),
        ("unlink", libc::SYS_unlink, [0; 6]),
        ("execve", libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
        ("fork", libc::SYS_fork, [0; 6]),
        ("clone of a process", libc::SYS_clone, [17, 0, 0, 0, 0, 0]),
        ("clone into a namespace", libc::SYS_clone, [0x1000_0011, 0, 0, 0, 0, 0]),
        ("a Unix socket", libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        ("an Internet socket", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        ("a netlink socket", libc::SYS_socket, [16, 3, 0, 0, 0, 0]),
        ("connect", libc::SYS_connect, [0; 6]),
        ("ptrace", libc::SYS_ptrace, [0; 6]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [0; 6]),
        ("kill", libc::SYS_kill, [0x7fff_ffff, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("setuid", libc::SYS_setuid, [0; 6]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("keyctl", libc::SYS_keyctl, [0; 6]),
        ("executable memory", libc::SYS_mmap, [0, 4096, exec, private, -1, 0]),
        ("memory made executable", libc::SYS_mprotect, [0, 0, exec, 0, 0, 0]),
        ("a terminal's ioctl", libc::SYS_ioctl, [0, 0x5412, path, 0, 0, 0]),
        ("making a tap", libc::SYS_ioctl, [0, 0x4004_54ca, 0, 0, 0, 0]),
        ("being traced again", libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        ("a signal on a descriptor", libc::SYS_fcntl, [0, 8, 1, 0, 0, 0]),
        ("an x32 call", 0x4000_0000 | libc::SYS_getpid, [0; 6]),
        ("a call that does not exist", 9999, [0; 6]),
    ]
}

#[test]
fn what_no_thread_may_do_ends_the_process() {
    for kind in KINDS {
        for (name, number, arguments) in forbidden_to_all() {
            let ended = filtered(kind, || {
                let _ = call(number, arguments);
            });
            assert_eq!(ended, Ended::By(Signal::SIGSYS), "{name} by {kind:?}");
        }
    }
}

#[test]
fn what_one_kind_may_do_the_others_may_not() {
    use DeviceKind::{Balloon, Block, Net, Vsock};
    use ThreadKind::{Main, Maker, Vcpu, Worker};
    let table: &[(&str, libc::c_long, [libc::c_long; 6], &[ThreadKind])] = &[
        ("KVM_RUN", libc::SYS_ioctl, [-1, 0xae80, 0, 0, 0, 0], &[Main, Vcpu]),
        ("KVM_IOEVENTFD", libc::SYS_ioctl, [-1, 0x4040_ae79, 0, 0, 0, 0], &[Main, Vcpu]),
        ("KVM_CREATE_VM", libc::SYS_ioctl, [-1, 0xae01, 0, 0, 0, 0], &[Main, Maker]),
        ("KVM_GET_XSAVE", libc::SYS_ioctl, [-1, 0x9000_aea4, 0, 0, 0, 0], &[Main, Vcpu]),
        ("KVM_GET_IRQCHIP", libc::SYS_ioctl, [-1, 0xc208_ae62, 0, 0, 0, 0], &[Main]),
        ("KVM_SET_IRQCHIP", libc::SYS_ioctl, [-1, 0x8208_ae63, 0, 0, 0, 0], &[Main]),
        ("KVM_GET_MSR_INDEX_LIST", libc::SYS_ioctl, [-1, 0xc004_ae02, 0, 0, 0, 0], &[Main]),
        ("TUNSETOFFLOAD", libc::SYS_ioctl, [-1, 0x4004_54d0, 0, 0, 0, 0], &[Main, Worker(Net)]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 6], &[Main]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0, 0], &[Main, Worker(Block)]),
        ("a ring's files", libc::SYS_io_uring_register, [-1, 2, 0, 0, 0, 0], &[Main]),
        ("a ring enabled", libc::SYS_io_uring_register, [-1, 12, 0, 0, 0, 0], &[Main, Worker(Block)]),
        ("a ring's workers", libc::SYS_io_uring_register, [-1, 17, 0, 0, 0, 0], &[Main, Worker(Block)]),
        ("pwritev", libc::SYS_pwritev, [-1, 0, 0, 0, 0, 0], &[Main, Worker(Block)]),
        ("fallocate", libc::SYS_fallocate, [-1, 0, 0, 0, 0, 0], &[Main, Worker(Block), Worker(Balloon)]),
        ("readv", libc::SYS_readv, [-1, 0, 0, 0, 0, 0], &[Main, Worker(Net), Worker(Vsock)]),
        ("accept4", libc::SYS_accept4, [-1, 0, 0, 0, 0, 0], &[Main, Worker(Vsock)]),
        ("recvmsg", libc::SYS_recvmsg, [-1, 0, 0, 0, 0, 0], &[Main, Worker(Block), Worker(Vsock)]),
        ("a pair of streams", libc::SYS_socketpair, [1, 1, 0, 0, 0, 0], &[Main, Worker(Vsock)]),
        ("clone3", libc::SYS_clone3, [0; 6], &[Main]),
    ];
    for &(name, number, arguments, allowed) in table {
        for kind in KINDS {
            let ended = filtered(kind, || {
                let _ = call(number, arguments);
            });
            let expected = if allowed.contains(&kind) { Ended::Well } else { Ended::By(Signal::SIGSYS) };
            assert_eq!(ended, expected, "{name} by {kind:?}");
        }
    }
}

#[test]
fn the_main_thread_makes_workers_that_put_their_own_filters_on() {
    let ended = filtered(ThreadKind::Main, || {
        for kind in KINDS.into_iter().filter(|kind| *kind != ThreadKind::Main) {
            let worker = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
                enter_or_abort(kind);
                common_work();
            });
            worker.unwrap().join().unwrap();
        }
    });
    assert_eq!(ended, Ended::Well);

    let ended = filtered(ThreadKind::Main, || {
        let worker = std::thread::spawn(|| {
            enter_or_abort(ThreadKind::Worker(DeviceKind::Rng));
            call(libc::SYS_recvmsg, [-1, 0, 0, 0, 0, 0])
        });
        let _ = worker.join();
    });
    assert_eq!(ended, Ended::By(Signal::SIGSYS), "a worker keeps to its own filter");
}

#[test]
fn a_block_worker_reads_and_writes_through_io_uring() {
    let file = tempfile::tempfile().unwrap();
    let mut ring: io_uring::IoUring = io_uring::IoUring::builder().setup_r_disabled().build(8).unwrap();
    ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
    let ended = filtered(ThreadKind::Worker(DeviceKind::Block), || {
        ring.submitter().register_enable_rings().unwrap();
        let bytes = *b"through the ring";
        let length = u32::try_from(bytes.len()).unwrap();
        let write = io_uring::opcode::Write::new(io_uring::types::Fixed(0), bytes.as_ptr(), length).build();
        // SAFETY: `bytes` lives until the completion is taken.
        unsafe { ring.submission().push(&write) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        assert_eq!(ring.completion().next().unwrap().result(), i32::try_from(bytes.len()).unwrap());
        file.sync_data().unwrap();
        assert_eq!(file.metadata().unwrap().len(), u64::from(length));
        let mut read = [0; 16];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
        assert_eq!(read, bytes);
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn a_vsock_worker_serves_streams() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"in").unwrap();
    let ended = filtered(ThreadKind::Worker(DeviceKind::Vsock), || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(ours.write_all(b"to nobody").is_err());
        stream.write_all(b"out").unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    assert_eq!(ended, Ended::Well);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "out");
}

#[test]
fn a_net_worker_shows_frames_to_a_capture_and_holds_them_for_a_while() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let (gone, nobody) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    drop(gone);
    let mut timer = vmm_sys_util::timerfd::TimerFd::new().unwrap();
    let mut memory = vec![7; 1 << 20];
    let (start, length) = (memory.as_mut_ptr(), memory.len());
    let ended = filtered(ThreadKind::Worker(DeviceKind::Net), || {
        // SAFETY: the memory outlives the buffer, and nobody refers to it meanwhile.
        let frame = unsafe { volume::IoBuffer::new(start, length) };
        let write = |to: &std::os::fd::OwnedFd, bytes| {
            crate::virtio::net::write_pieces(std::os::fd::AsFd::as_fd(to), &[frame.part(0, bytes); 2])
        };
        while write(&theirs, 30_000).is_ok() {}
        assert_eq!(write(&nobody, 60).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        let _ = std::time::SystemTime::now();
        timer.reset(Duration::from_nanos(1), None).unwrap();
        timer.clear().unwrap();
    });
    assert_eq!(ended, Ended::Well);
    let mut packet = vec![0; 1 << 17];
    assert_eq!(nix::unistd::read(&ours, &mut packet).unwrap(), 60_000);
}

#[test]
fn a_balloon_worker_gives_memory_back() {
    let ended = filtered(ThreadKind::Worker(DeviceKind::Balloon), || {
        let length = 1 << 20;
        let (rw, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping that nobody else uses.
        unsafe {
            let memory = libc::mmap(std::ptr::null_mut(), length, rw, private, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            memory.cast::<u8>().write(1);
            assert_eq!(libc::madvise(memory, length, libc::MADV_DONTNEED), 0);
            assert_eq!(memory.cast::<u8>().read(), 0);
        }
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn a_vcpu_thread_runs_a_guest_and_connects_its_devices() {
    let kvm = kvm_ioctls::Kvm::new().expect("a /dev/kvm");
    let ended = filtered(ThreadKind::Main, || {
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let worker = std::thread::spawn(move || {
            enter_or_abort(ThreadKind::Vcpu);
            let (kick, interrupt) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
            let address = kvm_ioctls::IoEventAddress::Mmio(0xc000_0000);
            vm.register_ioevent(&kick, &address, kvm_ioctls::NoDatamatch).unwrap();
            vm.unregister_ioevent(&kick, &address, kvm_ioctls::NoDatamatch).unwrap();
            vm.register_irqfd(&interrupt, 5).unwrap();
            vcpu.set_kvm_immediate_exit(1);
            assert_eq!(vcpu.run().map(drop).unwrap_err().errno(), libc::EINTR);
            vcpu.get_regs().unwrap();
        });
        worker.join().unwrap();
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn the_log_mode_lets_a_forbidden_call_pass() {
    let ended = in_child(|| {
        set_mode(Mode::Log);
        enter(ThreadKind::Worker(DeviceKind::Rng)).map_err(|e| e.to_string())?;
        std::fs::File::open("/etc/passwd").map(drop).map_err(|e| e.to_string())
    });
    assert_eq!(ended, Ended::Well);
}

/// Every program is put on at the start of a machine, which is counted in milliseconds.
#[test]
fn filters_are_short() {
    for (name, program) in [
        ("main", &rules::MAIN),
        ("maker", &rules::MAKER),
        ("vcpu", &rules::VCPU),
        ("block", &rules::BLOCK_WORKER),
        ("net", &rules::NET_WORKER),
        ("rng", &rules::RNG_WORKER),
        ("balloon", &rules::BALLOON_WORKER),
        ("vsock", &rules::VSOCK_WORKER),
    ] {
        let length = program.instructions().len();
        println!("{name}: {length} instructions");
        assert!(length < 400, "the filter of {name} has {length} instructions");
    }
}
