//! A guest that does what it likes to the PCI bus and to the registers of the devices on it, while devices come and go.
//!
//! Whatever it did, a driver that keeps to the specification can take each device over afterwards and use it.

use std::cell::RefCell;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use vm_memory::{Bytes as _, GuestAddress};
use vmm::machine::DriverState;
use vmm::testing::{Board, Device, Driver, RINGS_BYTES};
use vmm::virtio::block::{Block, BlockSpec};
use vmm::virtio::rng::Rng;
use volume::testing::FakeDisk;

use crate::input::{Bytes, steps};

const RAM_BYTES: u64 = 16 << 20;
const ECAM: u64 = 0xe000_0000;
const WINDOW: u64 = 0xc000_0000;
/// The slots of the machine: a disk of two queues, and two sources of randomness of which one comes and goes.
const DISK: u8 = 1;
const RNG: u8 = 2;
const LATE: u8 = 3;

#[derive(Debug, Arbitrary)]
enum Step {
    /// By ECAM, or by ports where it can be.
    Config {
        slot: u8,
        register: u16,
        by_port: bool,
        access: Access,
    },
    /// At an offset in the BAR of a slot, where the BAR is now.
    Bar {
        slot: u8,
        offset: u16,
        access: Access,
    },
    /// In a page of the BAR where there are registers.
    Register {
        slot: u8,
        region: u8,
        offset: u8,
        access: Access,
    },
    Memory {
        address: u32,
        access: Access,
    },
    Port {
        port: u8,
        access: Access,
    },
    /// Where the ports of a slot are now.
    KickPort {
        slot: u8,
        offset: u8,
        access: Access,
    },
    MoveBar {
        slot: u8,
        to: u32,
    },
    MovePorts {
        slot: u8,
        to: u16,
    },
    Start {
        slot: u8,
        features: u64,
    },
    Kick {
        slot: u8,
        queue: u8,
    },
    /// In guest memory, where rings are.
    Rings {
        at: u16,
        bytes: Bytes,
    },
    Plug,
    Unplug,
    AskRemoval {
        slot: u8,
    },
}

#[derive(Debug, Arbitrary)]
enum Access {
    Read { width: u8 },
    Write { width: u8, value: u64 },
}

struct Machine {
    board: Board,
    disk: Device,
    rng: Device,
    late: Device,
}

impl Machine {
    fn new() -> Self {
        let backend = Arc::new(FakeDisk::new(vec![0; 1 << 16]));
        let spec = BlockSpec { name: "disk".into(), serial: "vol".into(), backend, queues: 2 };
        let (_, parts) = Block::new(spec).expect("there are descriptors");
        let board = Board::new(RAM_BYTES);
        let rng = |name| Device::new(Rng::parts(name));
        Machine { board, disk: Device::new(parts), rng: rng("rng"), late: rng("late") }
    }

    fn reset(&mut self) {
        self.board.reset();
        self.board.plug(DISK, &self.disk);
        self.board.plug(RNG, &self.rng);
    }

    fn take(&mut self, step: &Step) {
        let board = &mut self.board;
        match step {
            Step::Config { slot, register, by_port: false, access } => {
                access.memory(board, ECAM + (u64::from(slot % 5) << 15) + u64::from(register % 0x1000));
            }
            Step::Config { slot, register, by_port: true, access } => {
                let address = 1 << 31 | u32::from(slot % 5) << 11 | u32::from(register % 0x100);
                board.write_port(0xcf8, &(address & !3).to_le_bytes());
                access.port(board, 0xcfc + register % 4);
            }
            Step::Bar { slot, offset, access } => {
                access.memory(board, Driver::new(board, slot % 5).bar() + u64::from(offset % 0x8000));
            }
            Step::Register { slot, region, offset, access } => {
                let offset = (u64::from(region % 8) << 12) + u64::from(offset % 0x40);
                access.memory(board, Driver::new(board, slot % 5).bar() + offset);
            }
            Step::Memory { address, access } => {
                access.memory(board, WINDOW + u64::from(address % 0x2100_0000))
            }
            Step::Port { port, access } => {
                access.port(board, [0xcf8, 0x608][usize::from(port >> 7)] + u16::from(port % 12))
            }
            Step::KickPort { slot, offset, access } => {
                access.port(board, Driver::new(board, slot % 5).ports().wrapping_add((offset % 0x90).into()));
            }
            Step::MovePorts { slot, to } => Driver::new(board, slot % 5).move_ports(*to),
            Step::MoveBar { slot, to } => Driver::new(board, slot % 5).move_bar((*to).into()),
            Step::Start { slot, features } => {
                let slot = 1 + slot % 3;
                if board.slots().any(|there| there == slot) {
                    let driver = Driver::take_over(board, slot);
                    driver.start(features & driver.offered());
                }
            }
            Step::Kick { slot, queue } => Driver::new(board, slot % 5).kick(u16::from(queue % 4)),
            Step::Rings { at, bytes } => {
                let at = GuestAddress(u64::from(*at));
                board.memory().write_slice(&bytes.0, at).expect("the rings are in RAM");
            }
            Step::Plug if board.slots().all(|slot| slot != LATE) => board.plug(LATE, &self.late),
            Step::Plug => {}
            Step::Unplug => board.unplug(LATE),
            Step::AskRemoval { slot } => board.ask_removal(1 + slot % 31),
        }
    }

    /// Each device works for a driver that comes now.
    fn check(&self) {
        for slot in self.board.slots() {
            let driver = Driver::take_over(&self.board, slot);
            assert_eq!(self.board.driver_state(slot), DriverState::None);
            driver.start(0);
            if slot != DISK {
                driver.receive(0, 0, 4 * RINGS_BYTES, 64);
            }
            assert_eq!(self.board.driver_state(slot), DriverState::Active);
            driver.reset();
        }
    }
}

impl Access {
    fn memory(&self, board: &Board, address: u64) {
        match self {
            Access::Read { width } => board.read_memory(address, &mut [0; 8][..1 << (width % 4)]),
            Access::Write { width, value } => {
                board.write_memory(address, &value.to_le_bytes()[..1 << (width % 4)]);
            }
        }
    }

    fn port(&self, board: &Board, port: u16) {
        match self {
            Access::Read { width } => board.read_port(port, &mut [0; 4][..1 << (width % 3)]),
            Access::Write { width, value } => {
                board.write_port(port, &value.to_le_bytes()[..1 << (width % 3)]);
            }
        }
    }
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(Machine::new());
}

/// Runs one guest.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|machine| {
        machine.reset();
        for step in steps(&mut Unstructured::new(data)) {
            machine.take(&step);
        }
        machine.check();
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
