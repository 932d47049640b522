//! Which thread may call what.
//!
//! A thread inherits the filter of the one that made it, and the stricter answer counts. The main thread makes threads
//! while the machine runs: workers of plugged devices, and all vCPUs anew at each reset. So what any thread may do is
//! in the main thread's lists too.

use libc::{
    SYS_accept4, SYS_brk, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_clone3,
    SYS_close, SYS_dup, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_eventfd2,
    SYS_exit, SYS_exit_group, SYS_fallocate, SYS_fcntl, SYS_fdatasync, SYS_flock, SYS_fstat, SYS_fstatfs,
    SYS_fsync, SYS_ftruncate, SYS_futex, SYS_getpeername, SYS_getpid, SYS_getrandom, SYS_getrusage,
    SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_io_uring_enter, SYS_io_uring_register,
    SYS_io_uring_setup, SYS_ioctl, SYS_lseek, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap,
    SYS_nanosleep, SYS_newfstatat, SYS_poll, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_pwrite64,
    SYS_pwritev, SYS_read, SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_restart_syscall, SYS_rseq,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sched_getaffinity, SYS_sched_yield,
    SYS_seccomp, SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_setsockopt, SYS_shutdown, SYS_sigaltstack,
    SYS_socketpair, SYS_statx, SYS_sync_file_range, SYS_tgkill, SYS_timerfd_create, SYS_timerfd_gettime,
    SYS_timerfd_settime, SYS_write, SYS_writev,
};

use super::program::{Program, Rule, Test, allow, rule};
use super::requests::{
    BLOCK, DESCRIPTOR, KVM_CONNECT, KVM_CREATE, KVM_RUN, KVM_STATE, KVM_SUSPEND, TAP, joined,
};

/// Memory, locks, time, the thread's end, and what the C library does by itself. Nothing here reaches out of the process,
/// and no memory becomes executable.
const COMMON: &[Rule] = &[
    allow(SYS_read),
    allow(SYS_write),
    allow(SYS_writev),
    allow(SYS_close),
    allow(SYS_dup),
    allow(SYS_eventfd2),
    rule(
        SYS_fcntl,
        Test::OneOf {
            argument: 1,
            values: &[
                libc::F_GETFD.unsigned_abs(),
                libc::F_SETFD.unsigned_abs(),
                libc::F_GETFL.unsigned_abs(),
                libc::F_SETFL.unsigned_abs(),
                libc::F_DUPFD_CLOEXEC.unsigned_abs(),
                libc::F_OFD_GETLK.unsigned_abs(),
                libc::F_OFD_SETLK.unsigned_abs(),
                libc::F_GET_SEALS.unsigned_abs(),
            ],
        },
    ),
    allow(SYS_futex),
    allow(SYS_brk),
    rule(SYS_mmap, Test::NoneOf { argument: 2, bits: libc::PROT_EXEC.unsigned_abs() }),
    rule(SYS_mprotect, Test::NoneOf { argument: 2, bits: libc::PROT_EXEC.unsigned_abs() }),
    allow(SYS_munmap),
    allow(SYS_mremap),
    allow(SYS_madvise),
    allow(SYS_epoll_create1),
    allow(SYS_epoll_ctl),
    allow(SYS_epoll_wait),
    allow(SYS_epoll_pwait),
    allow(SYS_poll),
    allow(SYS_ppoll),
    allow(SYS_timerfd_create),
    allow(SYS_timerfd_settime),
    allow(SYS_timerfd_gettime),
    allow(SYS_clock_gettime),
    allow(SYS_clock_getres),
    allow(SYS_clock_nanosleep),
    allow(SYS_nanosleep),
    allow(SYS_gettimeofday),
    // Seeds of hash maps.
    allow(SYS_getrandom),
    allow(SYS_rt_sigaction),
    allow(SYS_rt_sigprocmask),
    allow(SYS_rt_sigreturn),
    allow(SYS_restart_syscall),
    allow(SYS_sigaltstack),
    allow(SYS_sched_yield),
    allow(SYS_sched_getaffinity),
    allow(SYS_getpid),
    allow(SYS_gettid),
    // Calls a vCPU back, and ends the process by abort(3). It reaches processes of the same user only.
    allow(SYS_tgkill),
    rule(
        SYS_prctl,
        Test::OneOf {
            argument: 0,
            values: &[
                libc::PR_SET_NAME.unsigned_abs(),
                libc::PR_GET_NAME.unsigned_abs(),
                libc::PR_SET_VMA.unsigned_abs(),
                libc::PR_SET_NO_NEW_PRIVS.unsigned_abs(),
            ],
        },
    ),
    allow(SYS_exit),
    allow(SYS_exit_group),
];

/// What makes a thread, as the C library does it. Its flags are one exact set: a thread, never a process, never in a
/// namespace of its own. Those of `clone3` lie in memory where no filter sees them, so it is not there.
const THREADS: &[Rule] = &[
    rule(
        SYS_clone,
        Test::OneOf {
            argument: 0,
            values: &[(libc::CLONE_VM
                | libc::CLONE_FS
                | libc::CLONE_FILES
                | libc::CLONE_SIGHAND
                | libc::CLONE_THREAD
                | libc::CLONE_SYSVSEM
                | libc::CLONE_SETTLS
                | libc::CLONE_PARENT_SETTID
                | libc::CLONE_CHILD_CLEARTID)
                .unsigned_abs()],
        },
    ),
    rule(SYS_clone3, Test::Absent),
    allow(SYS_set_robust_list),
    allow(SYS_rseq),
    // A new thread puts its own filter on.
    rule(SYS_seccomp, Test::OneOf { argument: 0, values: &[libc::SECCOMP_SET_MODE_FILTER] }),
];

/// include/uapi/linux/io_uring.h
const IORING_REGISTER_FILES: u32 = 2;
const IORING_REGISTER_EVENTFD: u32 = 4;
const IORING_REGISTER_RESTRICTIONS: u32 = 11;
const IORING_REGISTER_ENABLE_RINGS: u32 = 12;
const IORING_REGISTER_IOWQ_AFF: u32 = 17;
const IORING_REGISTER_IOWQ_MAX_WORKERS: u32 = 19;

/// Making the ring of a disk that is plugged in. What it can be used for is fixed before it is enabled.
const RING_MAKING: &[Rule] = &[
    allow(SYS_io_uring_setup),
    allow(SYS_io_uring_enter),
    rule(
        SYS_io_uring_register,
        Test::OneOf {
            argument: 1,
            values: &[
                IORING_REGISTER_FILES,
                IORING_REGISTER_EVENTFD,
                IORING_REGISTER_RESTRICTIONS,
                IORING_REGISTER_ENABLE_RINGS,
                IORING_REGISTER_IOWQ_AFF,
                IORING_REGISTER_IOWQ_MAX_WORKERS,
            ],
        },
    ),
];

/// Using a ring that was made before. Whoever is to use it enables it, and says where the kernel's workers run.
const RING_USE: &[Rule] = &[
    allow(SYS_io_uring_enter),
    rule(
        SYS_io_uring_register,
        Test::OneOf { argument: 1, values: &[IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_IOWQ_AFF] },
    ),
];

/// Disks: files and block devices that are open.
const FILES: &[Rule] = &[
    allow(SYS_pread64),
    allow(SYS_pwrite64),
    allow(SYS_preadv),
    allow(SYS_pwritev),
    allow(SYS_lseek),
    allow(SYS_fsync),
    allow(SYS_fdatasync),
    allow(SYS_sync_file_range),
    allow(SYS_fallocate),
    allow(SYS_ftruncate),
    allow(SYS_flock),
    allow(SYS_fstat),
    // What a file system is tells how its holes are punched.
    allow(SYS_fstatfs),
    // Both with AT_EMPTY_PATH are fstat(2).
    rule(SYS_statx, Test::OneOf { argument: 2, values: &STATX_FLAGS }),
    rule(SYS_newfstatat, Test::OneOf { argument: 3, values: &[libc::AT_EMPTY_PATH.unsigned_abs()] }),
];

/// How the standard library and the disks ask: about the descriptor, with or without what a server must look up.
const STATX_FLAGS: [u32; 3] = [
    libc::AT_EMPTY_PATH.unsigned_abs(),
    (libc::AT_EMPTY_PATH | libc::AT_STATX_SYNC_AS_STAT | libc::AT_NO_AUTOMOUNT).unsigned_abs(),
    (libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC).unsigned_abs(),
];

/// What a disk that another process serves says to that process.
const MESSAGES: &[Rule] = &[allow(SYS_recvmsg), allow(SYS_sendmsg), allow(SYS_shutdown)];

const FRAMES: &[Rule] = &[allow(SYS_readv)];

/// Streams that are open or come to a listening socket.
const STREAMS: &[Rule] = &[
    allow(SYS_accept4),
    allow(SYS_recvfrom),
    allow(SYS_recvmsg),
    allow(SYS_sendto),
    allow(SYS_sendmsg),
    allow(SYS_shutdown),
    allow(SYS_getsockname),
    allow(SYS_getpeername),
    allow(SYS_getsockopt),
    allow(SYS_setsockopt),
];

/// A pair of streams, of which one end is given to whoever serves what the guest wants to reach. No thread makes a socket
/// that could be connected.
const PAIRS: &[Rule] =
    &[rule(SYS_socketpair, Test::OneOf { argument: 0, values: &[libc::AF_UNIX.unsigned_abs()] })];

const ACCOUNTING: &[Rule] = &[allow(SYS_getrusage)];

const VCPU_REQUESTS: [u32; 29] = joined(&[&[KVM_RUN], &KVM_CONNECT, &KVM_STATE]);
const BLOCK_REQUESTS: [u32; 8] = joined(&[&BLOCK, &DESCRIPTOR]);
const NET_REQUESTS: [u32; 7] = joined(&[&TAP, &DESCRIPTOR]);
const MAIN_REQUESTS: [u32; 59] =
    joined(&[&[KVM_RUN], &KVM_CONNECT, &KVM_STATE, &KVM_CREATE, &KVM_SUSPEND, &TAP, &BLOCK, &DESCRIPTOR]);

const fn ioctl(values: &'static [u32]) -> Rule {
    rule(SYS_ioctl, Test::OneOf { argument: 1, values })
}

pub(super) static MAIN: Program = Program::new(&[
    COMMON,
    THREADS,
    RING_MAKING,
    FILES,
    FRAMES,
    STREAMS,
    PAIRS,
    ACCOUNTING,
    &[ioctl(&MAIN_REQUESTS)],
]);
pub(super) static MAKER: Program = Program::new(&[COMMON, &[ioctl(&KVM_CREATE)]]);
pub(super) static VCPU: Program = Program::new(&[COMMON, &[ioctl(&VCPU_REQUESTS)]]);
pub(super) static BLOCK_WORKER: Program =
    Program::new(&[COMMON, RING_USE, FILES, MESSAGES, &[ioctl(&BLOCK_REQUESTS)]]);
pub(super) static NET_WORKER: Program = Program::new(&[COMMON, FRAMES, &[ioctl(&NET_REQUESTS)]]);
pub(super) static RNG_WORKER: Program = Program::new(&[COMMON]);
pub(super) static BALLOON_WORKER: Program = Program::new(&[COMMON, &[allow(SYS_fallocate)]]);
pub(super) static VSOCK_WORKER: Program =
    Program::new(&[COMMON, FRAMES, STREAMS, PAIRS, &[ioctl(&DESCRIPTOR)]]);
