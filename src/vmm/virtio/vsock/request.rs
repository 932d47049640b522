//! What a guest sends, and the form of what it is sent.

use super::{GUEST_CID_MIN, HOST_CID};
use crate::virtio::Buffers;

pub(super) const HEADER_BYTES: usize = 44;

/// The only type of socket that we have (virtio 1.2, 5.10.6).
const STREAM: u16 = 1;

/// `SHUTDOWN`'s flags: the sender will not receive, or not send, any more.
pub(super) const NO_MORE_RECEIVING: u32 = 1;
pub(super) const NO_MORE_SENDING: u32 = 2;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Operation {
    fn of(number: u16) -> Option<Self> {
        Some(match number {
            1 => Operation::Request,
            2 => Operation::Response,
            3 => Operation::Reset,
            4 => Operation::Shutdown,
            5 => Operation::Data,
            6 => Operation::CreditUpdate,
            7 => Operation::CreditRequest,
            _ => return None,
        })
    }

    fn number(self) -> u16 {
        match self {
            Operation::Request => 1,
            Operation::Response => 2,
            Operation::Reset => 3,
            Operation::Shutdown => 4,
            Operation::Data => 5,
            Operation::CreditUpdate => 6,
            Operation::CreditRequest => 7,
        }
    }
}

/// The two ends of a connection; a guest has one address, and so has its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// What one side knows of the other's room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// The size of its buffer.
    pub(super) allocated: u32,
    /// How many bytes left that buffer so far, modulo 2^32.
    pub(super) forwarded: u32,
}

/// A packet of a stream between this guest and its host. A payload is beside it, in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) operation: Operation,
    pub(super) ports: Ports,
    pub(super) length: u32,
    pub(super) flags: u32,
    pub(super) credit: Credit,
}

/// A chain of the form of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    Packet(Packet),
    /// Of a kind of socket that we do not have: a reset of the same kind is the answer (virtio 1.2, 5.10.6.4.1).
    Unsupported {
        ports: Ports,
        kind: u16,
    },
    /// Not from this guest, or not to its host, or itself a reset of something unknown: nobody is to be answered.
    Stray,
}

/// Takes the header off `buffers`, which then begins with the payload.
///
/// # Errors
/// The reason why the chain is no packet.
pub(super) fn parse(buffers: &mut Buffers, guest_cid: u64) -> Result<Parsed, &'static str> {
    if buffers.writable_bytes() > 0 {
        return Err("a packet cannot be read by the device");
    }
    let header: [u8; HEADER_BYTES] = buffers.take_front().ok_or("it is too short for a packet's header")?;
    let length = word(&header, 24);
    if length > buffers.readable_bytes() {
        return Err("a packet is longer than its buffers");
    }
    if long(&header, 0) != guest_cid || long(&header, 8) != HOST_CID {
        return Ok(Parsed::Stray);
    }
    let ports = Ports { guest: word(&header, 16), host: word(&header, 20) };
    let (kind, operation) = (half(&header, 28), Operation::of(half(&header, 30)));
    let Some(operation) = operation.filter(|_| kind == STREAM) else {
        let is_reset = operation == Some(Operation::Reset);
        return Ok(if is_reset { Parsed::Stray } else { Parsed::Unsupported { ports, kind } });
    };
    let credit = Credit { allocated: word(&header, 36), forwarded: word(&header, 40) };
    Ok(Parsed::Packet(Packet { operation, ports, length, flags: word(&header, 32), credit }))
}

impl Packet {
    /// Its header, on its way to the guest `guest_cid`.
    pub(super) fn to_guest(self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        debug_assert!(guest_cid >= GUEST_CID_MIN);
        let mut header = [0; HEADER_BYTES];
        header[0..8].copy_from_slice(&HOST_CID.to_le_bytes());
        header[8..16].copy_from_slice(&guest_cid.to_le_bytes());
        header[16..20].copy_from_slice(&self.ports.host.to_le_bytes());
        header[20..24].copy_from_slice(&self.ports.guest.to_le_bytes());
        header[24..28].copy_from_slice(&self.length.to_le_bytes());
        header[28..30].copy_from_slice(&STREAM.to_le_bytes());
        header[30..32].copy_from_slice(&self.operation.number().to_le_bytes());
        header[32..36].copy_from_slice(&self.flags.to_le_bytes());
        header[36..40].copy_from_slice(&self.credit.allocated.to_le_bytes());
        header[40..44].copy_from_slice(&self.credit.forwarded.to_le_bytes());
        header
    }

    /// A reset, of a socket of `kind`.
    pub(super) fn reset(ports: Ports, kind: Option<u16>, guest_cid: u64) -> [u8; HEADER_BYTES] {
        let (operation, credit) = (Operation::Reset, Credit::default());
        let mut header = Packet { operation, ports, length: 0, flags: 0, credit }.to_guest(guest_cid);
        if let Some(kind) = kind {
            header[28..30].copy_from_slice(&kind.to_le_bytes());
        }
        header
    }
}

fn half(bytes: &[u8; HEADER_BYTES], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn word(bytes: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    u32::from(half(bytes, offset)) | u32::from(half(bytes, offset + 2)) << 16
}

fn long(bytes: &[u8; HEADER_BYTES], offset: usize) -> u64 {
    u64::from(word(bytes, offset)) | u64::from(word(bytes, offset + 4)) << 32
}
