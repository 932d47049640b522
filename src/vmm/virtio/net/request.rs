//! What a driver says on the control queue (virtio 1.2, 5.1.6.5): `class: u8, command: u8, data ‖ ack: u8`.

use super::feature;
use crate::virtio::Buffers;

const CLASS_PAIRS: u8 = 4;
const CLASS_OFFLOADS: u8 = 5;
/// The only command that we know in either class.
const SET: u8 = 0;

/// The device's answer to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    Ok,
    Refused,
}

impl Ack {
    pub(super) fn byte(self) -> u8 {
        match self {
            Ack::Ok => 0,
            Ack::Refused => 1,
        }
    }
}

/// What commands are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) pairs_max: u16,
    /// The features that the driver negotiated.
    pub(super) features: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Use the first so many pairs of queues.
    SetPairs(u16),
    /// What the driver takes from now on, as `GUEST_…` feature bits.
    SetOffloads(u64),
}

/// Reads a command, or says that it is refused.
///
/// # Errors
/// The reason why the chain has not the form of a command.
pub(super) fn parse(buffers: &mut Buffers, limits: &Limits) -> Result<Result<Command, Ack>, &'static str> {
    if buffers.writable_bytes() == 0 {
        return Err("a command has no byte for the answer");
    }
    let header: [u8; 2] = buffers.take_front().ok_or("it is too short for a command")?;
    Ok(command(header, buffers, limits).ok_or(Ack::Refused))
}

fn command([class, command]: [u8; 2], buffers: &mut Buffers, limits: &Limits) -> Option<Command> {
    let has = |bit| limits.features & bit != 0;
    match (class, command) {
        (CLASS_PAIRS, SET) if has(feature::MQ) => {
            let pairs = u16::from_le_bytes(buffers.take_front()?);
            (1..=limits.pairs_max).contains(&pairs).then_some(Command::SetPairs(pairs))
        }
        (CLASS_OFFLOADS, SET) if has(feature::CTRL_GUEST_OFFLOADS) => {
            let offloads = u64::from_le_bytes(buffers.take_front()?);
            let known = feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_ECN;
            (offloads & !(known & limits.features) == 0).then_some(Command::SetOffloads(offloads))
        }
        _ => None,
    }
}
