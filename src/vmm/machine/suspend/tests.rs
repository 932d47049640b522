use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::console::SerialInput;
use crate::jail::seccomp::{self, ThreadKind};
use crate::jail::testing::{Ended, in_child};
use crate::machine::tests::{LOOP, Payload, code, machine, machine_of, out, printed, wait_beyond};
use crate::memory::Backing;
use crate::process::FILTERED;
use crate::suspend::{FormatError, format};

const PATIENCE: Duration = Duration::from_secs(20);
/// Where guests count in memory.
const COUNT: u64 = 0x20_0000;
const MEMORY_BYTES: u64 = 32 << 20;

/// The two files.
struct Files {
    state: File,
    memory: File,
}

impl Files {
    fn new() -> Self {
        Files { state: tempfile::tempfile().unwrap(), memory: tempfile::tempfile().unwrap() }
    }

    /// Holds the machine and writes it to these.
    fn save(&self, machine: &mut Machine) {
        machine.hold().unwrap();
        machine.suspend(&self.state, &self.memory).unwrap();
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.state.metadata().unwrap().len()).unwrap()];
        self.state.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn count(&self) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, COUNT).unwrap();
        u32::from_le_bytes(bytes)
    }
}

/// A file of these bytes, to be read from its beginning.
fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn open(state: &[u8], memory: &File) -> Result<Suspended, SuspendError> {
    Suspended::open(&file(state), memory.try_clone().unwrap())
}

fn restored(suspended: Suspended) -> Result<(Machine, ConsoleOutput), MachineError> {
    restored_with(suspended, ThreadEntry::OPEN)
}

fn restored_with(suspended: Suspended, enter: ThreadEntry) -> Result<(Machine, ConsoleOutput), MachineError> {
    let (output, _console) = crate::console::Console::new(Default::default()).unwrap();
    let source = Box::new(Payload(out(0x3f8, b'N')));
    let (kvm, here) = (Kvm::new().unwrap(), HostCpuid::ask().unwrap());
    let machine = Machine::restored(kvm, suspended, &here, source, output.clone(), enter)?;
    Ok((machine, output))
}

/// The guest of these files, which goes on.
fn gone_on(files: &Files) -> (Machine, ConsoleOutput) {
    let (mut machine, output) = restored(open(&files.state(), &files.memory).unwrap()).unwrap();
    machine.go_on().unwrap();
    (machine, output)
}

fn count(machine: &Machine, at: u64) -> u32 {
    machine.memory.read_obj(GuestAddress(at)).unwrap()
}

fn wait_count_beyond(machine: &Machine, at: u64, count_before: u32) {
    let deadline = Instant::now() + PATIENCE;
    while count(machine, at) <= count_before {
        assert!(Instant::now() < deadline, "the guest does not count at {at:#x}");
        std::thread::yield_now();
    }
}

/// Counts at 2 MiB and in EBX, and prints '.' each time, and 'X' should the two ever differ.
fn counter() -> Vec<u8> {
    vec![
        0x31, 0xdb, // xor ebx, ebx
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        // again:
        0x43, // inc ebx
        0xff, 0x05, 0x00, 0x00, 0x20, 0x00, // inc dword [0x200000]
        0x3b, 0x1d, 0x00, 0x00, 0x20, 0x00, // cmp ebx, [0x200000]
        0xb0, b'.', // mov al, '.'
        0x74, 0x02, // je print
        0xb0, b'X', // mov al, 'X'
        // print:
        0xee, // out dx, al
        0xeb, 0xea, // jmp again
    ]
}

/// The files of a counter that has counted.
fn suspended_counter() -> Files {
    let (mut machine, _output) = machine(1, &counter());
    machine.start().unwrap();
    wait_count_beyond(&machine, COUNT, 100);
    let files = Files::new();
    files.save(&mut machine);
    files
}

#[test]
fn a_guest_counts_on_in_memory_and_registers() {
    let files = suspended_counter();
    for _ in 0..3 {
        // The same files any number of times: the guest writes to none of them.
        let before = files.count();
        let (machine, output) = gone_on(&files);
        wait_count_beyond(&machine, COUNT, before + 100);
        wait_beyond(&output, 32);
        assert!(printed(&output).iter().all(|&byte| byte == b'.'), "{:?}", printed(&output));
        drop(machine);
        assert_eq!(files.count(), before);
    }
}

#[test]
fn a_guest_goes_on_where_it_was_too_and_can_be_suspended_again() {
    let (mut machine, _output) = machine(1, &counter());
    machine.start().unwrap();
    wait_count_beyond(&machine, COUNT, 0);
    let mut files = Files::new();
    files.save(&mut machine);
    machine.resume().unwrap();
    wait_count_beyond(&machine, COUNT, files.count());
    for _ in 0..5 {
        let before = files.count();
        let (mut machine, output) = gone_on(&files);
        wait_count_beyond(&machine, COUNT, before);
        files = Files::new();
        files.save(&mut machine);
        assert!(files.count() > before);
        assert!(!printed(&output).contains(&b'X'));
    }
}

#[test]
fn a_guest_is_not_suspended_to_the_file_that_it_reads_its_memory_from() {
    let files = suspended_counter();
    let (mut machine, _output) = gone_on(&files);
    machine.hold().unwrap();
    let outcome = machine.suspend(&files.state, &files.memory);
    assert!(matches!(outcome, Err(MachineError::Suspend { source: SuspendError::OwnMemory })));
    machine.resume().unwrap();
    wait_count_beyond(&machine, COUNT, files.count());
}

#[test]
fn memory_is_kept_without_its_zeroes() {
    for backing in [Backing::Private, Backing::Shared] {
        let (mut machine, _output) = machine_of(1, &counter(), backing, ThreadEntry::OPEN);
        machine.start().unwrap();
        wait_count_beyond(&machine, COUNT, 0);
        let files = Files::new();
        files.save(&mut machine);
        let metadata = files.memory.metadata().unwrap();
        assert_eq!(metadata.len(), MEMORY_BYTES + 4096);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        let mut here = vec![0; usize::try_from(MEMORY_BYTES).unwrap()];
        machine.memory.read_slice(&mut here, GuestAddress(0)).unwrap();
        let mut kept = vec![0; here.len()];
        files.memory.read_exact_at(&mut kept, 0).unwrap();
        assert!(here == kept, "memory is kept as it is");
        let (machine, _output) = gone_on(&files);
        wait_count_beyond(&machine, COUNT, files.count());
    }
}

#[test]
fn what_is_typed_is_read_once_and_written_once() {
    // Prints what is typed, as soon as the line status says that there is something.
    let echo = [
        0x66, 0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
        0xec, 0xa8, 0x01, 0x74, 0xf7, // in al, dx; test al, 1; jz again
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, 0xee, // in al, dx; out dx, al
        0xeb, 0xef, // jmp again
    ];
    let (mut machine, mut output) = machine(1, &echo);
    machine.start().unwrap();
    let (mut typed, mut written) = ((0..=u8::MAX).cycle(), (0..=u8::MAX).cycle());
    for round in 0..25 {
        let serial = machine.serial();
        serial.push(&typed.by_ref().take(serial.room()).collect::<Vec<_>>());
        wait_beyond(&output, round % 8);
        let files = Files::new();
        files.save(&mut machine);
        let mut printed = vec![0; usize::try_from(output.end()).unwrap()];
        output.read(0, &mut printed);
        assert_eq!(printed, written.by_ref().take(printed.len()).collect::<Vec<_>>());
        (machine, output) = gone_on(&files);
    }
}

#[test]
fn a_restored_guest_is_what_was_recorded() {
    use crate::virtio::rng::Rng;
    let (mut machine, _output) = machine(2, &timer());
    machine.plug("rng", Rng::parts("rng")).unwrap();
    machine.start().unwrap();
    wait_count_beyond(&machine, COUNT, 2);
    machine.hold().unwrap();
    let files = Files::new();
    machine.serial().push(b"typed");
    machine.suspend(&files.state, &files.memory).unwrap();
    let suspended = open(&files.state(), &files.memory).unwrap();
    let before = suspended.record.clone();
    let (mut machine, _output) = restored(suspended).unwrap();
    machine.plug("rng", Rng::parts("rng")).unwrap();
    // As Machine::go_on, but that the guest does not.
    machine.take_slots(&before).unwrap();
    let making = machine.take_making().unwrap();
    (machine.run, machine.is_held) = (Some(Run::restored(&machine, &before, making).unwrap()), true);
    let after = machine.record().unwrap();
    assert_eq!(after.spec, before.spec);
    assert_eq!((after.platform, after.devices), (before.platform, before.devices));
    // Range registers on, what they do not cover is write-back: as at the start.
    assert_eq!(before.cpus[0].model_specific(0x2ff), Some(0x806));
    for (after, before) in after.cpus.into_iter().zip(before.cpus) {
        assert_eq!(after.timeless(), before.timeless());
    }
}

/// `mov dword [address], value`
fn store(address: u32, value: u32) -> Vec<u8> {
    [&[0xc7, 0x05], &address.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn both_cpus_go_on() {
    const OTHER_COUNT: u64 = 0x9000;
    let guest = [
        // At 0x8000, in real mode: inc dword [0x9000]; jmp back
        store(0x8000, 0x0006_ff66),
        store(0x8004, 0x00f9_eb90),
        // The local APIC on; to CPU 1 an INIT, then twice the page to start in.
        store(0xfee0_00f0, 0x1ff),
        store(0xfee0_0310, 1 << 24),
        store(0xfee0_0300, 0x4500),
        store(0xfee0_0300, 0x4608),
        store(0xfee0_0300, 0x4608),
        counter(),
    ];
    let (mut machine, _output) = machine(2, &guest.concat());
    machine.start().unwrap();
    wait_count_beyond(&machine, COUNT, 10);
    wait_count_beyond(&machine, OTHER_COUNT, 10);
    let files = Files::new();
    files.save(&mut machine);
    let other_before = count(&machine, OTHER_COUNT);
    drop(machine);
    let (machine, output) = gone_on(&files);
    wait_count_beyond(&machine, COUNT, files.count());
    wait_count_beyond(&machine, OTHER_COUNT, other_before);
    wait_beyond(&output, 8);
    assert!(!printed(&output).contains(&b'X'));
}

/// Counts the interrupts of the local APIC's timer at 2 MiB, and does nothing else. Loaded at 1 MiB.
fn timer() -> Vec<u8> {
    const TABLES: u32 = 0x21_0000;
    const HANDLER: u32 = 0x22_0000;
    let set = [
        // Descriptors of the segments that the guest begins with, 0x10 code and 0x18 data, both flat; then the tables' places.
        store(TABLES + 16, 0x0000_ffff),
        store(TABLES + 20, 0x00cf_9a00),
        store(TABLES + 24, 0x0000_ffff),
        store(TABLES + 28, 0x00cf_9200),
        store(TABLES + 0x100, 31 | TABLES << 16),
        store(TABLES + 0x104, TABLES >> 16),
        store(TABLES + 0x108, 0x7ff | (TABLES + 0x1000) << 16),
        store(TABLES + 0x10c, (TABLES + 0x1000) >> 16),
        // Interrupt 0x20: the gate of the handler.
        store(TABLES + 0x1100, 0x10 << 16 | HANDLER & 0xffff),
        store(TABLES + 0x1104, HANDLER & 0xffff_0000 | 0x8e00),
        // inc dword [0x200000]; mov dword [0xfee000b0], 0; mov esp, 0x230000; sti; hlt; jmp to the hlt
        // KVM does not emulate IRET in protected mode, and a processor without VT-x or SVM has all of a kernel emulated.
        store(HANDLER, 0x0000_05ff),
        store(HANDLER + 4, 0x05c7_0020),
        store(HANDLER + 8, 0xfee0_00b0),
        store(HANDLER + 12, 0),
        store(HANDLER + 16, 0x2300_00bc),
        store(HANDLER + 20, 0xebf4_fb00),
        store(HANDLER + 24, 0xfd),
        vec![0x0f, 0x01, 0x15, 0x00, 0x01, 0x21, 0x00], // lgdt [TABLES + 0x100]
        vec![0x0f, 0x01, 0x1d, 0x08, 0x01, 0x21, 0x00], // lidt [TABLES + 0x108]
        vec![0xbc, 0x00, 0x00, 0x23, 0x00],             // mov esp, 0x230000
        store(0xfee0_00f0, 0x1ff),
        // Divided by 1, periodic, every 5 ms of a bus of 1 GHz.
        store(0xfee0_03e0, 0xb),
        store(0xfee0_0320, 0x2_0020),
        store(0xfee0_0380, 5_000_000),
        vec![0xfb, 0xf4, 0xeb, 0xfd], // sti; hlt; jmp to the hlt
    ];
    set.concat()
}

#[test]
fn the_timer_of_a_local_apic_goes_on() {
    let (mut machine, _output) = machine(1, &timer());
    machine.start().unwrap();
    wait_count_beyond(&machine, COUNT, 3);
    let mut files = Files::new();
    files.save(&mut machine);
    drop(machine);
    for _ in 0..3 {
        let before = files.count();
        let (mut machine, _output) = gone_on(&files);
        wait_count_beyond(&machine, COUNT, before + 3);
        files = Files::new();
        files.save(&mut machine);
    }
}

#[test]
fn a_guest_that_went_on_is_reset_to_clean_memory() {
    // Prints the byte at 2 MiB, plus '0', and sets it.
    let guest = [
        vec![0xa0, 0, 0, 0x20, 0, 0x04, b'0', 0x66, 0xba, 0xf8, 0x03, 0xee],
        vec![0xc6, 0x05, 0, 0, 0x20, 0, b'x'],
        vec![0xff, 0x05, 0, 0, 0x21, 0], // inc dword [0x210000]
    ];
    let (mut machine, _output) = machine(1, &code(&guest));
    machine.start().unwrap();
    wait_count_beyond(&machine, 0x21_0000, 0);
    let files = Files::new();
    files.save(&mut machine);
    let suspended = open(&files.state(), &files.memory).unwrap();
    let (output, _console) = crate::console::Console::new(Default::default()).unwrap();
    let source = Box::new(Payload(code(&guest)));
    let (kvm, here) = (Kvm::new().unwrap(), HostCpuid::ask().unwrap());
    let entry = ThreadEntry::OPEN;
    let mut machine = Machine::restored(kvm, suspended, &here, source, output.clone(), entry).unwrap();
    machine.go_on().unwrap();
    assert_eq!(count(&machine, COUNT), u32::from(b'x'));
    machine.reset().unwrap();
    wait_beyond(&output, 0);
    assert_eq!(printed(&output), b"0");
}

#[test]
fn only_what_is_held_is_suspended_and_only_once_goes_on() {
    let (mut machine, _output) = machine(1, LOOP);
    let files = Files::new();
    let refused = |machine: &Machine| {
        let outcome = machine.suspend(&files.state, &files.memory);
        assert!(matches!(outcome, Err(MachineError::State { .. })), "{outcome:?}");
    };
    refused(&machine);
    machine.start().unwrap();
    refused(&machine);
    assert!(matches!(machine.go_on(), Err(MachineError::State { .. })));
    files.save(&mut machine);
    let (mut machine, _output) = gone_on(&files);
    assert!(matches!(machine.go_on(), Err(MachineError::State { .. })));
}

#[test]
fn a_guest_that_has_asked_for_its_end_is_not_suspended() {
    let (mut machine, _output) = machine(1, &code(&[out(0x600, 0x34)]));
    machine.start().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while machine.cpu_counts()[0].exits_port_write == 0 {
        assert!(Instant::now() < deadline, "the guest does not get on");
        std::thread::yield_now();
    }
    machine.hold().unwrap();
    let files = Files::new();
    let outcome = machine.suspend(&files.state, &files.memory);
    assert!(matches!(outcome, Err(MachineError::Cpu { .. })), "{outcome:?}");
}

#[test]
fn devices_are_those_that_the_guest_had_in_the_slots_that_it_knows() {
    use crate::virtio::rng::Rng;
    let (mut machine, _output) = machine(1, LOOP);
    for id in ["first", "second", "third"] {
        machine.plug(id, Rng::parts(id)).unwrap();
    }
    machine.unplug("first", true).unwrap();
    machine.start().unwrap();
    let files = Files::new();
    files.save(&mut machine);
    let with = |ids: &[&str]| {
        let (mut machine, _output) = restored(open(&files.state(), &files.memory).unwrap()).unwrap();
        for id in ids {
            machine.plug(id, Rng::parts(id)).unwrap();
        }
        machine.go_on().map(|()| machine.devices().iter().map(|device| device.slot).collect::<Vec<_>>())
    };
    assert_eq!(with(&["third", "second"]).unwrap(), [2, 3]);
    assert!(matches!(with(&["second"]), Err(MachineError::NoDevice { id }) if id == "third"));
    let more = with(&["second", "third", "fourth"]);
    assert!(
        matches!(&more, Err(MachineError::Suspend { source: SuspendError::NewDevice { id } }) if id == "fourth")
    );
}

#[test]
fn threads_that_are_filtered_suspend_a_guest_and_let_it_go_on() {
    let filter = || seccomp::enter(ThreadKind::Main).map_err(|error| error.to_string());
    let files = Files::new();
    let ended = in_child(|| {
        let (mut machine, _output) = machine_of(2, &counter(), Backing::Private, FILTERED);
        filter()?;
        machine.start().map_err(|error| error.to_string())?;
        wait_count_beyond(&machine, COUNT, 10);
        files.save(&mut machine);
        Ok(())
    });
    assert_eq!(ended, Ended::Well);
    let before = files.count();
    let ended = in_child(|| {
        let suspended = open(&files.state(), &files.memory).map_err(|error| error.to_string())?;
        let (mut machine, _output) = restored_with(suspended, FILTERED).map_err(|error| error.to_string())?;
        filter()?;
        machine.go_on().map_err(|error| error.to_string())?;
        wait_count_beyond(&machine, COUNT, before);
        Ok(())
    });
    assert_eq!(ended, Ended::Well);
}

/// A counter's files, made once.
static COUNTER: LazyLock<Files> = LazyLock::new(suspended_counter);

#[test]
fn files_of_another_suspension_are_refused() {
    let (files, others) = (&*COUNTER, suspended_counter());
    let outcome = open(&files.state(), &others.memory);
    assert!(matches!(outcome, Err(SuspendError::OtherMemory)), "{outcome:?}");
    others.memory.set_len(MEMORY_BYTES).unwrap();
    let outcome = open(&others.state(), &others.memory);
    assert!(matches!(outcome, Err(SuspendError::MemoryLength { .. })), "{outcome:?}");
}

#[test]
fn a_newer_format_and_another_processor_are_refused_with_the_reason() {
    let files = &*COUNTER;
    let mut newer = files.state();
    newer[8] = 2;
    let outcome = open(&newer, &files.memory);
    let version = FormatError::Version { version: 2 };
    assert!(matches!(outcome, Err(SuspendError::Format { source }) if source == version));

    let mut suspended = open(&files.state(), &files.memory).unwrap();
    suspended.record.spec.cpuid = suspended.record.spec.cpuid.changed_for_test();
    let refused = restored(suspended).err().unwrap();
    let reason = std::error::Error::source(&refused).and_then(std::error::Error::source).unwrap().to_string();
    assert!(reason.starts_with("CPUID leaf 0x1, 0 is"), "{reason}");
}

#[test]
fn a_state_that_ends_early_or_late_is_refused() {
    let files = &*COUNTER;
    let whole = files.state();
    let body = &whole[16..whole.len() - 4];
    for length in (0..body.len()).step_by(7) {
        assert!(open(&format::seal_body(&body[..length]), &files.memory).is_err(), "{length}");
        assert!(open(&whole[..length], &files.memory).is_err(), "{length}");
    }
    let longer = format::seal_body(&[body, &[0]].concat());
    let outcome = open(&longer, &files.memory);
    let rest = FormatError::Rest { bytes: 1 };
    assert!(matches!(outcome, Err(SuspendError::Format { source }) if source == rest));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_byte_is_always_refused(place in any::<prop::sample::Index>(), change in 1u8..) {
        let mut state = COUNTER.state();
        *place.get_mut(&mut state) ^= change;
        prop_assert!(open(&state, &COUNTER.memory).is_err());
    }

    /// Somebody who makes a state by hand can make any. It is refused, or the guest is another.
    #[test]
    fn a_forged_byte_harms_nobody(place in any::<prop::sample::Index>(), change in 1u8..) {
        let state = COUNTER.state();
        let mut body = state[16..state.len() - 4].to_vec();
        *place.get_mut(&mut body) ^= change;
        if let Ok(suspended) = open(&format::seal_body(&body), &COUNTER.memory)
            && let Ok((mut machine, _output)) = restored(suspended)
            && machine.go_on().is_ok()
        {
            machine.hold().unwrap();
            let _ = machine.take_events();
        }
    }
}
