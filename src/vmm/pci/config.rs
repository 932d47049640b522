//! Configuration space of a function: the type 0 header, a memory BAR, an I/O BAR and a list of capabilities.

/// What a function is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Class, subclass and programming interface, the class in the top byte of three.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

impl Identity {
    /// A host bridge of the vendor that leases ids to open machines (0x1b36), device 8 being the PCIe host bridge.
    pub const HOST_BRIDGE: Identity = Identity {
        vendor: 0x1b36,
        device: 0x0008,
        revision: 0,
        class: 0x06_00_00,
        subsystem_vendor: 0,
        subsystem: 0,
    };
}

/// Registers of the header (PCI local bus specification 3.0, 6.1).
mod register {
    pub(super) const VENDOR: usize = 0x00;
    pub(super) const DEVICE: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION: usize = 0x08;
    pub(super) const CLASS: usize = 0x09;
    pub(super) const LATENCY: usize = 0x0c;
    pub(super) const BAR0: usize = 0x10;
    pub(super) const BAR1: usize = 0x14;
    pub(super) const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub(super) const SUBSYSTEM: usize = 0x2e;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    /// The first byte after the header.
    pub(super) const FREE: usize = 0x40;
}

const STATUS_HAS_CAPABILITIES: u16 = 1 << 4;
const COMMAND_PORTS: u8 = 1 << 0;
const COMMAND_MEMORY: u8 = 1 << 1;
/// What a driver may set in the command register: ports, memory, bus master, INTx disable.
const COMMAND_WRITABLE: u16 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 10;
/// The bit that tells a BAR of ports from one of memory.
const BAR_OF_PORTS: u32 = 1;
/// The legacy space that both access mechanisms reach; the extended space has nothing in it.
const SPACE_BYTES: usize = 256;

/// A capability to be put into the list: its id, the bytes that follow id and next pointer, and which bits of
/// them the driver may write.
#[derive(Debug, Clone)]
pub struct Capability {
    pub id: u8,
    pub body: Vec<u8>,
    pub writable: Vec<u8>,
}

/// The registers and which of their bits a driver may write.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SPACE_BYTES],
    writable: [u8; SPACE_BYTES],
    /// Where the next capability goes, and the pointer that will lead to it.
    next: usize,
    link: usize,
}

impl ConfigSpace {
    pub fn new(identity: Identity) -> Self {
        let mut space = ConfigSpace {
            bytes: [0; SPACE_BYTES],
            writable: [0; SPACE_BYTES],
            next: register::FREE,
            link: register::CAPABILITIES,
        };
        let [programming, subclass, class, _] = identity.class.to_le_bytes();
        space.set(register::VENDOR, &identity.vendor.to_le_bytes());
        space.set(register::DEVICE, &identity.device.to_le_bytes());
        space.set(register::REVISION, &[identity.revision]);
        space.set(register::CLASS, &[programming, subclass, class]);
        space.set(register::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.set(register::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.allow(register::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(register::LATENCY, &[0xff, 0xff]);
        space.allow(register::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Makes BAR 0 a 32-bit memory BAR of `bytes`, a power of two, at `address`, decoded from the start.
    pub fn set_memory_bar(&mut self, address: u32, bytes: u32) {
        self.set(register::BAR0, &address.to_le_bytes());
        self.allow(register::BAR0, &(!(bytes - 1)).to_le_bytes());
        self.bytes[register::COMMAND] |= COMMAND_MEMORY;
    }

    /// Where BAR 0 is decoded, if it is.
    pub fn memory_bar(&self) -> Option<u32> {
        let enabled = self.bytes[register::COMMAND] & COMMAND_MEMORY != 0;
        enabled.then(|| self.dword(register::BAR0) & !0xf)
    }

    /// Makes BAR 1 an I/O BAR of `count` ports, a power of two of at least 4, from `first` on, decoded from the start.
    pub fn set_port_bar(&mut self, first: u16, count: u16) {
        self.set(register::BAR1, &(u32::from(first) | BAR_OF_PORTS).to_le_bytes());
        self.allow(register::BAR1, &(!(u32::from(count) - 1)).to_le_bytes());
        self.bytes[register::COMMAND] |= COMMAND_PORTS;
    }

    /// The first port of BAR 1, if it is decoded and is one: there are 2^16.
    pub fn port_bar(&self) -> Option<u16> {
        let enabled = self.bytes[register::COMMAND] & COMMAND_PORTS != 0;
        u16::try_from(self.dword(register::BAR1) & !0x3).ok().filter(|_| enabled)
    }

    /// Adds a capability; returns where its id stands.
    pub fn add_capability(&mut self, capability: &Capability) -> u16 {
        let start = self.next;
        let end = start + 2 + capability.body.len();
        assert!(end <= SPACE_BYTES, "the capabilities of a device are few and known when it is built");
        self.set(start, &[capability.id, 0]);
        self.set(start + 2, &capability.body);
        self.allow(start + 2, &capability.writable);
        let [offset, ..] = start.to_le_bytes();
        self.bytes[self.link] = offset;
        self.bytes[register::STATUS] |= STATUS_HAS_CAPABILITIES.to_le_bytes()[0];
        (self.link, self.next) = (start + 1, end.next_multiple_of(4));
        u16::from(offset)
    }

    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let start = usize::from(offset);
        match self.bytes.get(start..start + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            // The extended space: an empty list of extended capabilities.
            None => data.fill(0),
        }
    }

    /// A driver's write: only the writable bits change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (index, &value) in (usize::from(offset)..SPACE_BYTES).zip(data) {
            let mask = self.writable[index];
            self.bytes[index] = self.bytes[index] & !mask | value & mask;
        }
    }

    fn dword(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn set(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }
}
