use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::boot::testing::pvh_elf;
use crate::console::{Console, ConsoleSpec};
use crate::memory::Backing;
use crate::poll::event_fd;
use crate::virtio::rng::Rng;

pub(super) struct Payload(pub Vec<u8>);

impl BootSource for Payload {
    fn image(&self) -> Result<BootImage, Box<dyn std::error::Error + Send + Sync>> {
        Ok(BootImage { kernel: Box::new(pvh_elf(&self.0)), initrds: Vec::new(), command_line: String::new() })
    }
}

pub(super) fn machine(cpus: u8, code: &[u8]) -> (Machine, ConsoleOutput) {
    machine_of(cpus, code, Backing::Private, ThreadEntry::OPEN)
}

pub(super) fn machine_of(
    cpus: u8,
    code: &[u8],
    backing: Backing,
    enter: ThreadEntry,
) -> (Machine, ConsoleOutput) {
    let (output, _console) = Console::new(ConsoleSpec::default()).unwrap();
    let identity = SystemIdentity { uuid: 0xec2 << 116, product: "t3.nano".into(), asset: "i-1".into() };
    let spec = MachineSpec {
        cpus,
        cpuid: HostCpuid::ask().unwrap(),
        memory_bytes: 32 << 20,
        backing,
        identity,
        generation: 1,
    };
    let kvm = Kvm::new().expect("these tests need /dev/kvm");
    let source = Box::new(Payload(code.to_vec()));
    let machine = Machine::new(kvm, spec, source, output.clone(), enter);
    (machine.unwrap(), output)
}

/// Waits for the machine to tell something.
fn next_events(machine: &mut Machine) -> Vec<MachineEvent> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let fd = event_fd(machine.event_fd());
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(1000u16)).unwrap();
        let events = machine.take_events().unwrap();
        if !events.is_empty() {
            return events;
        }
    }
    panic!("the guest did nothing for 20 seconds");
}

/// Waits until the guest has written more than `bytes`.
pub(super) fn wait_beyond(output: &ConsoleOutput, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while output.end() <= bytes {
        assert!(Instant::now() < deadline, "the guest wrote nothing for 20 seconds");
        std::thread::yield_now();
    }
}

pub(super) fn printed(output: &ConsoleOutput) -> Vec<u8> {
    let mut text = vec![0; 64];
    let length = output.end().min(64);
    output.read(0, &mut text);
    text.truncate(usize::try_from(length).unwrap());
    text
}

/// `mov dx, port; mov al, value; out dx, al`
pub(super) fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// `jmp .`
pub(super) const LOOP: &[u8] = &[0xeb, 0xfe];

pub(super) fn code(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), LOOP.to_vec()].concat()
}

#[test]
fn a_payload_writes_to_the_serial_port_and_switches_itself_off() {
    let (mut machine, output) = machine(1, &code(&[out(0x3f8, b'A'), out(0x600, 0x34)]));
    machine.start().unwrap();
    assert_eq!(next_events(&mut machine), [MachineEvent::PoweredOff]);
    assert_eq!(printed(&output), b"A");
    assert_eq!(machine.state(), MachineState::Stopped);
}

#[test]
fn a_reset_starts_it_again_with_clean_memory() {
    // Prints the byte at 2 MiB, sets it to 'x', resets; the memory must be zero again.
    let mut parts = vec![vec![0xa0, 0, 0, 0x20, 0], vec![0x04, b'0'], vec![0x66, 0xba, 0xf8, 0x03, 0xee]];
    parts.push(vec![0xc6, 0x05, 0, 0, 0x20, 0, b'x']);
    parts.push(out(0x64, 0xfe));
    let (mut machine, output) = machine(1, &code(&parts));
    machine.start().unwrap();
    for expected in [b"0".as_slice(), b"00", b"000"] {
        assert!(next_events(&mut machine).contains(&MachineEvent::Reset));
        assert!(printed(&output).starts_with(expected));
    }
}

#[test]
fn a_held_guest_stands_still_and_goes_on() {
    // Writes 'B' for ever.
    let (mut machine, output) = machine(2, &[out(0x3f8, b'B'), vec![0xeb, 0xf7]].concat());
    machine.start().unwrap();
    wait_beyond(&output, 0);
    machine.hold().unwrap();
    assert_eq!(machine.state(), MachineState::Held);
    let held = output.end();
    // Nothing can be waited for: that nothing comes is the point.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(output.end(), held);
    machine.resume().unwrap();
    wait_beyond(&output, held);
    assert!(machine.cpu_counts()[0].exits_port_write > 0);
}

#[test]
fn a_guest_that_ejects_for_ever_is_heard_once_until_it_is_answered() {
    // Lets go of all slots, again and again.
    let eject = [
        0x66, 0xba, 0x10, 0x06, // mov dx, 0x610
        0xb8, 0xfe, 0xff, 0xff, 0xff, // mov eax, ~1
        0xef, // out dx, eax
        0xeb, 0xfd, // jmp to the out
    ];
    let (mut machine, _) = machine(1, &eject);
    machine.start().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let writes = |machine: &Machine| machine.cpu_counts()[0].exits_port_write;
    while writes(&machine) < 1000 {
        assert!(Instant::now() < deadline, "the guest does not get on");
        std::thread::yield_now();
    }
    machine.hold().unwrap();
    assert_eq!(machine.events.try_iter().count(), 1, "a guest fills the queue of its machine");
    machine.run.as_ref().unwrap().take_ejected();
    machine.resume().unwrap();
    // No device is there that could go, so nothing is told; and the guest can be stopped in between.
    for _ in 0..1000 {
        assert_eq!(machine.take_events().unwrap(), []);
    }
    machine.hold().unwrap();
}

#[test]
fn a_device_that_the_guest_did_not_let_go_of_is_gone_after_a_reset() {
    let (mut machine, _) = machine(1, LOOP);
    machine.plug("stays", Rng::parts("stays")).unwrap();
    machine.plug("leaves", Rng::parts("leaves")).unwrap();
    machine.start().unwrap();
    assert_eq!(machine.unplug("leaves", false).unwrap(), None);
    let told = machine.reset().unwrap();
    assert_eq!(told, [MachineEvent::Unplugged { id: "leaves".into() }, MachineEvent::Reset]);
    assert_eq!(machine.devices().iter().map(|device| &device.id).collect::<Vec<_>>(), ["stays"]);
}

#[test]
fn a_triple_fault_is_a_reset() {
    // An undefined instruction without an interrupt table.
    let (mut machine, _) = machine(1, &[0x0f, 0x0b]);
    machine.start().unwrap();
    assert!(next_events(&mut machine).contains(&MachineEvent::Reset));
}

#[test]
fn a_jump_to_the_reset_vector_is_a_reset() {
    // Leaves protected mode and jumps to f000:fff0, as kernels do.
    let to_real_mode = [
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x24, 0xfe, // and al, ~1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0x66, 0xea, 0xf0, 0xff, 0x00, 0xf0, // jmp f000:fff0
    ];
    let (mut machine, _) = machine(1, &to_real_mode);
    machine.start().unwrap();
    assert!(next_events(&mut machine).contains(&MachineEvent::Reset));
}

#[test]
fn an_address_of_configuration_space_is_written_without_an_exit_and_counts() {
    // 400 times the address of an empty slot, more than KVM keeps; then the host bridge's, whose vendor is 0x1b36.
    let parts = [
        vec![0xb9, 0x90, 0x01, 0x00, 0x00], // mov ecx, 400
        vec![0x66, 0xba, 0xf8, 0x0c],       // mov dx, 0xcf8
        vec![0xb8, 0x00, 0x08, 0x00, 0x80], // mov eax, 1 << 31 | 1 << 11
        vec![0xef, 0x49, 0x75, 0xfc],       // out dx, eax; dec ecx; jnz to the out
        vec![0xb8, 0x00, 0x00, 0x00, 0x80], // mov eax, 1 << 31
        vec![0xef],                         // out dx, eax
        vec![0x66, 0xba, 0xfc, 0x0c, 0xec], // mov dx, 0xcfc; in al, dx
        vec![0x66, 0xba, 0xf8, 0x03, 0xee], // mov dx, 0x3f8; out dx, al
        vec![0x66, 0xba, 0xf8, 0x0c, 0xed], // mov dx, 0xcf8; in eax, dx
        vec![0xc1, 0xe8, 0x18],             // shr eax, 24
        vec![0x66, 0xba, 0xf8, 0x03, 0xee], // mov dx, 0x3f8; out dx, al
    ];
    let (mut machine, output) = machine(1, &code(&parts));
    machine.start().unwrap();
    wait_beyond(&output, 1);
    assert_eq!(printed(&output), [0x36, 0x80]);
    if machine.kvm.check_extension(kvm_ioctls::Cap::CoalescedPio) {
        let writes = machine.cpu_counts()[0].exits_port_write;
        assert!(writes <= 5, "{writes} writes left the guest");
    }
}
