//! A driver of a modern virtio device behind PCI (virtio 1.2, 3.1.1 and 4.1), by accesses to a [`Board`] alone. It goes by the
//! specification; a test that wants to break it writes registers itself.

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::Board;
use crate::memory::{ECAM_START, PCI_WINDOW_START};
use crate::pci::PORT_WINDOW;
use crate::virtio::feature;

/// How long a device may take before it is said to hang.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the driver puts the BAR of slot N: N times its size beyond this.
const BARS_START: u64 = PCI_WINDOW_START + 0x1000_0000;
const BAR_BYTES: u64 = 0x8000;
/// A queue's rings take this much of guest memory: descriptors, at 0x4000 what is available, at 0x5000 what is used.
pub const RINGS_BYTES: u64 = 0x8000;

/// Registers of configuration space.
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const BAR1: u16 = 0x14;
/// Ports, memory and bus master.
const COMMAND_ALL: u32 = 7;

/// The driver of the device in one slot.
pub struct Driver<'a> {
    board: &'a Board,
    slot: u8,
}

impl<'a> Driver<'a> {
    pub fn new(board: &'a Board, slot: u8) -> Self {
        Driver { board, slot }
    }

    /// Finds the device, whatever was done to the bus before: no other function decodes anything, and its BARs are moved to places of
    /// their own. Then resets it.
    ///
    /// # Panics
    /// When the device is not reset at once.
    pub fn take_over(board: &'a Board, slot: u8) -> Self {
        for other in board.slots().filter(|other| *other != slot) {
            Driver::new(board, other).write_config(COMMAND, &[0, 0]);
        }
        let driver = Driver::new(board, slot);
        driver.move_bar(BARS_START + u64::from(slot) * BAR_BYTES);
        driver.move_ports(PORT_WINDOW.start + u16::from(slot) * 0x80);
        driver.reset();
        driver
    }

    /// Where the BAR is.
    pub fn bar(&self) -> u64 {
        u64::from(self.read_config(BAR0) & !0xf)
    }

    /// The first port of the other BAR.
    pub fn ports(&self) -> u16 {
        u16::try_from(self.read_config(BAR1) & 0xfffc).expect("16 bits")
    }

    /// Moves the ports, nothing decoded meanwhile.
    pub fn move_ports(&self, first: u16) {
        self.write_config(COMMAND, &[0, 0]);
        self.write_config(BAR1, &u32::from(first).to_le_bytes());
        self.write_config(COMMAND, &COMMAND_ALL.to_le_bytes()[..2]);
    }

    /// Moves the BAR, not decoded meanwhile.
    pub fn move_bar(&self, address: u64) {
        self.write_config(COMMAND, &[0, 0]);
        self.write_config(BAR0, &crate::kvm::low_half(address).to_le_bytes());
        self.write_config(COMMAND, &COMMAND_ALL.to_le_bytes()[..2]);
    }

    fn config_address(&self, register: u16) -> u64 {
        ECAM_START + (u64::from(self.slot) << 15) + u64::from(register)
    }

    pub fn read_config(&self, register: u16) -> u32 {
        let mut data = [0; 4];
        self.board.read_memory(self.config_address(register), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write_config(&self, register: u16, data: &[u8]) {
        self.board.write_memory(self.config_address(register), data);
    }

    /// Reads `N` bytes at an offset of the BAR.
    pub fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.board.read_memory(self.bar() + offset, &mut data);
        data
    }

    pub fn write(&self, offset: u64, data: &[u8]) {
        self.board.write_memory(self.bar() + offset, data);
    }

    pub fn status(&self) -> u8 {
        u8::from_le_bytes(self.read(0x14))
    }

    pub fn set_status(&self, status: u8) {
        self.write(0x14, &[status]);
    }

    /// # Panics
    /// When the device is not reset at once.
    pub fn reset(&self) {
        self.set_status(0);
        assert_eq!(self.status(), 0, "a reset is over when its write is");
    }

    pub fn offered(&self) -> u64 {
        self.feature_half(0) | self.feature_half(1) << 32
    }

    fn feature_half(&self, half: u32) -> u64 {
        self.write(0x00, &half.to_le_bytes());
        u64::from(u32::from_le_bytes(self.read(0x04)))
    }

    pub fn set_features(&self, features: u64) {
        for (half, value) in [(0u32, features), (1, features >> 32)] {
            self.write(0x08, &half.to_le_bytes());
            self.write(0x0c, &crate::kvm::low_half(value).to_le_bytes());
        }
    }

    /// Up to `FEATURES_OK`, which the device takes.
    ///
    /// # Panics
    /// When it does not.
    pub fn negotiate(&self, features: u64) {
        self.set_status(1);
        self.set_status(3);
        self.set_features(features | feature::VERSION_1);
        self.set_status(11);
        assert_eq!(self.status(), 11, "what was offered is taken");
    }

    pub fn queues(&self) -> u16 {
        u16::from_le_bytes(self.read(0x12))
    }

    pub fn select(&self, queue: u16) {
        self.write(0x16, &queue.to_le_bytes());
    }

    /// The size of the selected queue.
    pub fn size(&self) -> u16 {
        u16::from_le_bytes(self.read(0x18))
    }

    /// Says where a queue's rings are.
    pub fn place(&self, queue: u16, rings: u64) {
        self.select(queue);
        for (register, address) in [(0x20, rings), (0x28, rings + 0x4000), (0x30, rings + 0x5000)] {
            self.write(register, &crate::kvm::low_half(address).to_le_bytes());
            self.write(register + 4, &crate::kvm::low_half(address >> 32).to_le_bytes());
        }
    }

    /// Enables the selected queue.
    pub fn enable(&self) {
        self.write(0x1c, &[1, 0]);
    }

    /// All of it: every queue is enabled, queue N's rings at N times [`RINGS_BYTES`], cleared.
    ///
    /// # Panics
    /// When the device does not take it.
    pub fn start(&self, features: u64) {
        self.negotiate(features);
        for queue in 0..self.queues() {
            let rings = u64::from(queue) * RINGS_BYTES;
            let zeroes = vec![0; usize::try_from(RINGS_BYTES).expect("64 bits")];
            self.board.memory().write_slice(&zeroes, GuestAddress(rings)).expect("rings are in RAM");
            self.place(queue, rings);
            self.enable();
        }
        self.set_status(15);
        assert_eq!(self.status(), 15, "a device that was set up right runs");
    }

    pub fn kick(&self, queue: u16) {
        self.board.write_port(self.ports().wrapping_add(queue.wrapping_mul(4)), &queue.to_le_bytes());
    }

    /// Gives the device the `number`th chain of a fresh queue: one buffer at `address`, which it is to fill. Waits for it.
    ///
    /// # Panics
    /// When the device does not fill it in time.
    pub fn receive(&self, queue: u16, number: u16, address: u64, length: u32) {
        let (memory, rings) = (self.board.memory(), u64::from(queue) * RINGS_BYTES);
        let write = |at: u64, bytes: &[u8]| {
            memory.write_slice(bytes, GuestAddress(rings + at)).expect("rings are in RAM");
        };
        write(0, &address.to_le_bytes());
        write(8, &length.to_le_bytes());
        write(12, &2u16.to_le_bytes());
        self.select(queue);
        write(0x4004 + 2 * u64::from(number % self.size()), &0u16.to_le_bytes());
        write(0x4002, &(number + 1).to_le_bytes());
        self.kick(queue);
        let deadline = Instant::now() + PATIENCE;
        let used = || memory.read_obj::<u16>(GuestAddress(rings + 0x5002)).expect("rings are in RAM");
        while used() != number + 1 {
            assert!(Instant::now() < deadline, "the device gave no chain back: status {:#x}", self.status());
            std::thread::yield_now();
        }
    }
}
