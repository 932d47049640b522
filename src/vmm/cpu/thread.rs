//! One thread per CPU: it runs the guest until an exit wants something of the platform.
//!
//! ```text
//!            ┌────────────── gate: Run ───────────────┐
//!            ▼                                        │
//! waiting ─▶ KVM_RUN ─exit─▶ platform ──▶ gate? ──────┤
//!                               │           └ Hold: finishes the exit's instruction, waits at the gate, counted as held
//!                               │             Tell: tells its state once, and goes on waiting
//!                               └ power-off, reset, fault: told to the main thread, then held
//! gate: End ─▶ the thread returns
//! ```
//!
//! A thread that is in the guest is called back by a signal. The signal may come just before `KVM_RUN` and be
//! lost, so whoever closes the gate sends it again until every thread stands there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;

use super::registers::{self, Entry};
use super::{CPUS_MAX, CpuRecord, CpuRecordError, HostCpuid};
use crate::kept_writes::KeptWrites;
use crate::kvm::{KvmError, Vm};
use crate::platform::{PCI_PORT, Platform, Request};

#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    #[error("a guest has 1 to {CPUS_MAX} CPUs, not {count}")]
    Count { count: u8 },
    #[error("/dev/kvm does not tell what CPUs it can offer")]
    Supported { source: kvm_ioctls::Error },
    #[error("CPUID has {KVM_MAX_CPUID_ENTRIES} leaves at most, not {count}")]
    Leaves { count: usize },
    #[error("CPU {index}")]
    Kvm { index: u8, source: KvmError },
    #[error("CPU {index}: {call}")]
    Call { index: u8, call: &'static str, source: kvm_ioctls::Error },
    #[error("CPU {index}")]
    Record { index: u8, source: CpuRecordError },
    #[error("CPU {index}: its thread cannot be started")]
    Thread { index: u8, source: std::io::Error },
    #[error("cannot map the ring of kept port writes")]
    Ring { source: std::io::Error },
    #[error("no handler for the signal that calls CPUs back")]
    Signal { source: std::io::Error },
}

/// What a CPU tells the main thread.
#[derive(Debug)]
pub enum CpuEvent {
    Request(Request),
    /// The guest cannot go on; the text says what KVM reported.
    Fault(String),
}

/// Exits and time of one CPU; its thread alone writes them.
#[derive(Debug, Default)]
pub struct CpuCounters {
    port_reads: AtomicU64,
    port_writes: AtomicU64,
    memory_reads: AtomicU64,
    memory_writes: AtomicU64,
    interrupted: AtomicU64,
    other: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuCounts {
    /// Processor time of the CPU's thread, in the guest and for it, in nanoseconds.
    pub time_ns: u64,
    pub exits_port_read: u64,
    pub exits_port_write: u64,
    pub exits_memory_read: u64,
    pub exits_memory_write: u64,
    /// Called back by the VMM.
    pub exits_interrupted: u64,
    pub exits_other: u64,
}

fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Hold,
    /// As [`Order::Hold`], and each CPU tells its state.
    Tell,
    End,
}

/// Where CPUs wait, and how many do.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// A copy of the order that is read without the lock after each exit.
    closed: std::sync::atomic::AtomicBool,
}

struct GateState {
    order: Order,
    held: usize,
    /// The model-specific registers that are to be told.
    msrs: Arc<[u32]>,
    /// What each CPU told.
    told: Vec<Option<Result<CpuRecord, CpuRecordError>>>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until the gate is open; false when the thread shall end. `stuck` waits even at an open gate, for a CPU
    /// that has nothing more to run. `tell` tells the state of CPU `index`.
    fn wait(
        &self,
        index: u8,
        stuck: bool,
        tell: impl Fn(&[u32]) -> Result<CpuRecord, CpuRecordError>,
    ) -> bool {
        let index = usize::from(index);
        let mut state = self.state();
        state.held += 1;
        self.changed.notify_all();
        loop {
            state = match state.order {
                Order::Tell if state.told.get(index).is_some_and(Option::is_none) => {
                    let msrs = state.msrs.clone();
                    // Each tells while the others do.
                    drop(state);
                    let told = tell(&msrs);
                    let mut state = self.state();
                    state.told[index] = Some(told);
                    self.changed.notify_all();
                    state
                }
                Order::Run if !stuck => break,
                Order::End => break,
                Order::Run | Order::Hold | Order::Tell => {
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        state.held -= 1;
        state.order == Order::Run
    }

    fn set(&self, order: Order) {
        self.state().order = order;
        self.closed.store(order != Order::Run, Ordering::Release);
        self.changed.notify_all();
    }
}

struct CpuThread {
    thread: JoinHandle<()>,
    counters: Arc<CpuCounters>,
}

/// The CPUs of a guest. Dropping them ends their threads.
pub struct CpuThreads {
    gate: Arc<Gate>,
    threads: Vec<CpuThread>,
}

/// How long to wait for a called CPU before it is called again.
const CALL_AGAIN: Duration = Duration::from_millis(1);
/// A CPU's frames are few; untouched pages cost nothing.
const STACK_BYTES: usize = 256 * 1024;

/// The signal that calls a CPU back.
fn call_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

impl CpuThreads {
    /// Makes `count` CPUs of `vm`, held, that can what the host can.
    ///
    /// `enter` runs first on each thread: it is where the thread's system call filter is put on.
    ///
    /// # Errors
    /// [`CpuError`] when the count is out of range or KVM or the host refuses.
    pub fn new(
        vm: &Arc<Vm>,
        host: &HostCpuid,
        count: u8,
        beginning: Beginning<'_>,
        platform: &Arc<Platform>,
        teller: &Teller,
        enter: fn(),
    ) -> Result<Self, CpuError> {
        if !(1..=CPUS_MAX).contains(&count) {
            return Err(CpuError::Count { count });
        }
        install_handler()?;
        let gate = Arc::new(Gate {
            state: Mutex::new(GateState {
                order: Order::Hold,
                held: 0,
                msrs: Arc::new([]),
                told: Vec::new(),
            }),
            changed: Condvar::new(),
            closed: true.into(),
        });
        let mut cpus = CpuThreads { gate, threads: Vec::new() };
        for index in 0..count {
            let fd = create(vm, index, host.adapted(index, count)?, beginning)?;
            if index == 0 && vm.keep_writes(PCI_PORT).map_err(|source| CpuError::Kvm { index, source })? {
                let kept = KeptWrites::of(&fd).map_err(|source| CpuError::Ring { source })?;
                platform.pci.keep_addresses(kept);
            }
            let counters = Arc::new(CpuCounters::default());
            let cpu = Cpu {
                index,
                fd,
                gate: cpus.gate.clone(),
                platform: platform.clone(),
                teller: teller.try_clone().map_err(|source| CpuError::Thread { index, source })?,
                counters: counters.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("cpu{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    enter();
                    cpu.run();
                })
                .map_err(|source| CpuError::Thread { index, source })?;
            cpus.threads.push(CpuThread { thread, counters });
        }
        Ok(cpus)
    }

    /// Lets the CPUs run.
    pub fn run(&self) {
        self.gate.set(Order::Run);
    }

    /// Stops the CPUs where they are; none is in the guest when this returns.
    pub fn hold(&self) {
        self.gate.set(Order::Hold);
        let mut state = self.gate.state();
        while state.held < self.threads.len() {
            self.call_back();
            let waited = self.gate.changed.wait_timeout(state, CALL_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The states of held CPUs, with the model-specific registers `msrs` as far as they have those.
    ///
    /// # Errors
    /// [`CpuError::Record`] when one cannot be told.
    pub fn records(&self, msrs: Arc<[u32]>) -> Result<Vec<CpuRecord>, CpuError> {
        let mut state = self.gate.state();
        state.msrs = msrs;
        state.told.resize_with(self.threads.len(), || None);
        state.order = Order::Tell;
        self.gate.changed.notify_all();
        while state.told.iter().any(Option::is_none) {
            state = self.gate.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.order = Order::Hold;
        let told = state.told.drain(..).flatten();
        (0..)
            .zip(told)
            .map(|(index, told)| told.map_err(|source| CpuError::Record { index, source }))
            .collect()
    }

    /// The counters of each CPU.
    pub fn counts(&self) -> Vec<CpuCounts> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.threads
            .iter()
            .map(|CpuThread { thread, counters }| CpuCounts {
                time_ns: thread_time_ns(thread),
                exits_port_read: read(&counters.port_reads),
                exits_port_write: read(&counters.port_writes),
                exits_memory_read: read(&counters.memory_reads),
                exits_memory_write: read(&counters.memory_writes),
                exits_interrupted: read(&counters.interrupted),
                exits_other: read(&counters.other),
            })
            .collect()
    }

    fn call_back(&self) {
        use std::os::unix::thread::JoinHandleExt;
        for cpu in self.threads.iter().filter(|cpu| !cpu.thread.is_finished()) {
            // SAFETY: the thread has not been joined, so its handle is valid; the signal has a handler.
            unsafe { libc::pthread_kill(cpu.thread.as_pthread_t(), call_signal()) };
        }
    }
}

impl Drop for CpuThreads {
    fn drop(&mut self) {
        self.gate.set(Order::End);
        while !self.threads.iter().all(|cpu| cpu.thread.is_finished()) {
            self.call_back();
            // Held CPUs leave at once; one in the guest is called until it has come.
            std::thread::park_timeout(CALL_AGAIN / 4);
        }
        for cpu in self.threads.drain(..) {
            let _ = cpu.thread.join();
        }
    }
}

/// The way from a CPU to the main thread.
pub struct Teller {
    pub events: Sender<CpuEvent>,
    pub wake: EventFd,
}

impl Teller {
    pub fn tell(&self, event: CpuEvent) {
        if self.events.send(event).is_ok() {
            // The counter can only be at its end when the main thread has been woken already.
            let _ = self.wake.write(1);
        }
    }

    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Teller { events: self.events.clone(), wake: self.wake.try_clone()? })
    }
}

/// How CPUs begin.
#[derive(Clone, Copy)]
pub enum Beginning<'a> {
    /// The first here; the others wait for it to start them.
    Entry(Entry),
    /// Each where it was.
    Records(&'a [CpuRecord]),
}

fn create(vm: &Vm, index: u8, cpuid: CpuId, beginning: Beginning<'_>) -> Result<VcpuFd, CpuError> {
    let call = |call| move |source| CpuError::Call { index, call, source };
    let fd = vm.create_vcpu(index).map_err(|source| CpuError::Kvm { index, source })?;
    fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
    match beginning {
        Beginning::Entry(entry) => {
            registers::set_model_specific(&fd).map_err(call("KVM_SET_MSRS"))?;
            if index == 0 {
                registers::set_entry(&fd, entry).map_err(call("KVM_SET_REGS"))?;
            }
        }
        Beginning::Records(records) => {
            let count = u8::try_from(records.len()).unwrap_or(u8::MAX);
            let record = records.get(usize::from(index)).ok_or(CpuError::Count { count })?;
            record.give(&fd).map_err(|source| CpuError::Record { index, source })?;
        }
    }
    Ok(fd)
}

/// The thread's side.
struct Cpu {
    index: u8,
    fd: VcpuFd,
    gate: Arc<Gate>,
    platform: Arc<Platform>,
    teller: Teller,
    counters: Arc<CpuCounters>,
}

/// What comes after an exit.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    /// It was called back, between two instructions.
    Called,
    /// There is nothing more for this CPU to run.
    Stuck,
}

impl Cpu {
    fn run(mut self) {
        let mut next = Next::Called;
        loop {
            if next == Next::Stuck || self.gate.is_closed() {
                if next == Next::Go {
                    next = self.settle();
                }
                let stuck = next == Next::Stuck;
                let tell = |msrs: &[u32]| {
                    if stuck { Err(CpuRecordError::Stuck) } else { CpuRecord::of(&self.fd, msrs) }
                };
                if !self.gate.wait(self.index, stuck, tell) {
                    return;
                }
            }
            next = self.step_or_tell();
        }
    }

    /// Finishes the instruction whose exit was served last, which KVM does when it is entered again: until then the CPU's state
    /// is that of neither before nor after it. It may have further exits.
    fn settle(&mut self) -> Next {
        self.fd.set_kvm_immediate_exit(1);
        let next = loop {
            let next = self.step_or_tell();
            if next != Next::Go {
                break next;
            }
        };
        self.fd.set_kvm_immediate_exit(0);
        next
    }

    fn step_or_tell(&mut self) -> Next {
        self.step().unwrap_or_else(|fault| {
            self.teller.tell(CpuEvent::Fault(fault));
            Next::Stuck
        })
    }

    /// Runs the guest up to its next exit, and serves that.
    fn step(&mut self) -> Result<Next, String> {
        let (platform, counters) = (&self.platform, &self.counters);
        let request = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                count(&counters.port_writes);
                platform.write_port(port, data)
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                count(&counters.port_reads);
                platform.read_port(port, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count(&counters.memory_writes);
                platform.write_memory(address, data);
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(&counters.memory_reads);
                platform.read_memory(address, data);
                None
            }
            // A triple fault: a PC's processor resets, and kernels use it for that as the last of several ways.
            Ok(VcpuExit::Shutdown) => Some(Request::Reset),
            Ok(VcpuExit::Intr) => {
                count(&counters.interrupted);
                return Ok(Next::Called);
            }
            Ok(other) => {
                count(&counters.other);
                return Err(format!("CPU {}: KVM reported {other:?}", self.index));
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                count(&counters.interrupted);
                return Ok(Next::Called);
            }
            Err(error) => return Err(format!("CPU {}: KVM_RUN: {error}", self.index)),
        };
        let Some(request) = request else { return Ok(Next::Go) };
        let ends = request != Request::Eject;
        self.teller.tell(CpuEvent::Request(request));
        Ok(if ends { Next::Stuck } else { Next::Go })
    }
}

extern "C" fn called(_signal: libc::c_int) {}

/// The handler does nothing: that a signal came ends `KVM_RUN`.
fn install_handler() -> Result<(), CpuError> {
    // SAFETY: an all-zero sigaction is a valid value; the handler touches nothing.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = called as *const () as usize;
        libc::sigaction(call_signal(), &raw const action, std::ptr::null_mut())
    };
    match outcome {
        0 => Ok(()),
        _ => Err(CpuError::Signal { source: std::io::Error::last_os_error() }),
    }
}

/// Processor time that a running thread has used; 0 once it has ended.
fn thread_time_ns(thread: &JoinHandle<()>) -> u64 {
    use std::os::unix::thread::JoinHandleExt;
    if thread.is_finished() {
        return 0;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the thread has not been joined, so its handle is valid; both pointers are to locals.
    let outcome = unsafe {
        match libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut time),
            error => error,
        }
    };
    match outcome {
        0 => {
            u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
        }
        _ => 0,
    }
}
