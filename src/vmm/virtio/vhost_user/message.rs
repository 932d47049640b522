//! The messages, as bytes and descriptors on a Unix stream.
//!
//! ```text
//!   request: u32   flags: u32 (version in bits 0 and 1, reply, confirm)   length: u32 │ body: little endian, as the machine
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::descriptors;
use crate::virtio::in_flight::RegionSpec;

const HEADER_BYTES: usize = 12;
const VERSION: u32 = 1;
const VERSION_BITS: u32 = 3;
const REPLY: u32 = 1 << 2;
const CONFIRM: u32 = 1 << 3;
/// The longest body that we know is that of a memory table; a configuration has up to 256 bytes.
const BODY_BYTES_MAX: usize = 4096;
/// As many pieces as the protocol's memory table holds.
pub(super) const REGIONS_MAX: usize = 8;
/// A kick, a call or an error of a ring has no descriptor: it is polled for, or nobody wants it.
const NO_DESCRIPTOR: u64 = 1 << 8;

/// A backend tells its frontend that the configuration space is another.
pub(super) const CONFIG_CHANGED: u32 = 2;

/// A piece of the guest's memory: `bytes` of a file from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) guest: u64,
    pub(super) bytes: u64,
    /// Where the frontend has it: rings are told by addresses of its own.
    pub(super) frontend: u64,
    pub(super) offset: u64,
}

/// What a frontend says. Numbers of rings are indexes of queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    /// With a descriptor for each region.
    SetMemory(Vec<Region>),
    SetRingSize {
        ring: u32,
        size: u32,
    },
    /// By the frontend's addresses.
    SetRingAddresses {
        ring: u32,
        descriptors: u64,
        used: u64,
        available: u64,
    },
    SetRingBase {
        ring: u32,
        base: u32,
    },
    /// Stops the ring; its base is the reply.
    GetRingBase {
        ring: u32,
    },
    /// The next three with an eventfd, or none.
    SetRingKick {
        ring: u8,
        is_given: bool,
    },
    SetRingCall {
        ring: u8,
        is_given: bool,
    },
    SetRingError {
        ring: u8,
        is_given: bool,
    },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueCount,
    EnableRing {
        ring: u32,
        enabled: bool,
    },
    /// With a socket on which the backend says things.
    SetBackendChannel,
    GetConfig {
        offset: u32,
        bytes: u32,
    },
    /// For a new region of what is in flight; the reply says where it lies in the file that comes with it.
    GetInFlight(RegionSpec),
    /// With the file.
    SetInFlight(RegionSpec),
}

/// Somebody does not speak the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("request {number} is not one of those that are negotiated")]
    Unknown { number: u32 },
    #[error("version {version} of the protocol; 1 is known")]
    Version { version: u32 },
    #[error("a body of {bytes} bytes; {BODY_BYTES_MAX} is the most")]
    TooLong { bytes: u32 },
    #[error("the body of request {number} has {bytes} bytes, which is another length than it has")]
    Length { number: u32, bytes: usize },
    #[error("a memory table of {count} regions; it has 1 to {REGIONS_MAX}")]
    Regions { count: u32 },
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, malformed)
    }
}

impl Request {
    /// Its number and its body.
    pub(super) fn encode(&self) -> (u32, Vec<u8>) {
        let mut body = Vec::new();
        let mut words = |words: &[u64]| words.iter().for_each(|word| body.extend(word.to_le_bytes()));
        let halves = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let descriptor =
            |ring: u8, is_given: bool| u64::from(ring) | if is_given { 0 } else { NO_DESCRIPTOR };
        let number = match *self {
            Request::GetFeatures => 1,
            Request::SetFeatures(features) => {
                words(&[features]);
                2
            }
            Request::SetOwner => 3,
            Request::SetMemory(ref regions) => {
                words(&[regions.len() as u64]);
                regions.iter().for_each(|region| {
                    words(&[region.guest, region.bytes, region.frontend, region.offset]);
                });
                5
            }
            Request::SetRingSize { ring, size } => {
                words(&[halves(ring, size)]);
                8
            }
            Request::SetRingAddresses { ring, descriptors, used, available } => {
                words(&[u64::from(ring), descriptors, used, available, 0]);
                9
            }
            Request::SetRingBase { ring, base } => {
                words(&[halves(ring, base)]);
                10
            }
            Request::GetRingBase { ring } => {
                words(&[u64::from(ring)]);
                11
            }
            Request::SetRingKick { ring, is_given } => {
                words(&[descriptor(ring, is_given)]);
                12
            }
            Request::SetRingCall { ring, is_given } => {
                words(&[descriptor(ring, is_given)]);
                13
            }
            Request::SetRingError { ring, is_given } => {
                words(&[descriptor(ring, is_given)]);
                14
            }
            Request::GetProtocolFeatures => 15,
            Request::SetProtocolFeatures(features) => {
                words(&[features]);
                16
            }
            Request::GetQueueCount => 17,
            Request::EnableRing { ring, enabled } => {
                words(&[halves(ring, u32::from(enabled))]);
                18
            }
            Request::SetBackendChannel => 21,
            Request::GetConfig { offset, bytes } => {
                words(&[halves(offset, bytes)]);
                // Flags, and room for what is to come.
                body.extend(0u32.to_le_bytes());
                body.extend(std::iter::repeat_n(0, usize::try_from(bytes).unwrap_or(0)));
                24
            }
            Request::GetInFlight(spec) => {
                body.extend(encode_in_flight(&spec));
                31
            }
            Request::SetInFlight(spec) => {
                body.extend(encode_in_flight(&spec));
                32
            }
        };
        (number, body)
    }

    pub(super) fn decode(number: u32, body: &[u8]) -> Result<Self, Malformed> {
        let length = || Malformed::Length { number, bytes: body.len() };
        let words: Vec<u64> = body
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes")))
            .collect();
        let exactly = |count: usize| if body.len() == 8 * count { Ok(&words[..]) } else { Err(length()) };
        let halves = |word: u64| {
            let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        };
        let state = || exactly(1).map(|words| halves(words[0]));
        let descriptor =
            || exactly(1).map(|words| (words[0].to_le_bytes()[0], words[0] & NO_DESCRIPTOR == 0));
        Ok(match number {
            1 => Request::GetFeatures,
            2 => Request::SetFeatures(exactly(1)?[0]),
            3 => Request::SetOwner,
            5 => {
                let (count, _) = halves(*words.first().ok_or_else(length)?);
                let count = usize::try_from(count).ok().filter(|count| (1..=REGIONS_MAX).contains(count));
                let count = count.ok_or(Malformed::Regions { count: halves(words[0]).0 })?;
                // Some send the whole table, whatever is in it.
                let table = words.get(1..=4 * count).ok_or_else(length)?;
                let region = |words: &[u64]| Region {
                    guest: words[0],
                    bytes: words[1],
                    frontend: words[2],
                    offset: words[3],
                };
                Request::SetMemory(table.chunks_exact(4).map(region).collect())
            }
            8 => state().map(|(ring, size)| Request::SetRingSize { ring, size })?,
            9 => {
                let words = exactly(5)?;
                let [descriptors, used, available] = [words[1], words[2], words[3]];
                Request::SetRingAddresses { ring: halves(words[0]).0, descriptors, used, available }
            }
            10 => state().map(|(ring, base)| Request::SetRingBase { ring, base })?,
            11 => state().map(|(ring, _)| Request::GetRingBase { ring })?,
            12 => descriptor().map(|(ring, is_given)| Request::SetRingKick { ring, is_given })?,
            13 => descriptor().map(|(ring, is_given)| Request::SetRingCall { ring, is_given })?,
            14 => descriptor().map(|(ring, is_given)| Request::SetRingError { ring, is_given })?,
            15 => Request::GetProtocolFeatures,
            16 => Request::SetProtocolFeatures(exactly(1)?[0]),
            17 => Request::GetQueueCount,
            18 => state().map(|(ring, enabled)| Request::EnableRing { ring, enabled: enabled != 0 })?,
            21 => Request::SetBackendChannel,
            24 => {
                let (offset, bytes) = halves(*words.first().ok_or_else(length)?);
                if u64::from(bytes) + 12 != body.len() as u64 {
                    return Err(length());
                }
                Request::GetConfig { offset, bytes }
            }
            31 => Request::GetInFlight(decode_in_flight(body).ok_or_else(length)?),
            32 => Request::SetInFlight(decode_in_flight(body).ok_or_else(length)?),
            number => return Err(Malformed::Unknown { number }),
        })
    }
}

/// As long as C makes the structure.
pub(super) fn encode_in_flight(spec: &RegionSpec) -> Vec<u8> {
    let RegionSpec { bytes, offset, queues, queue_size } = *spec;
    let sizes = u64::from(queues) | u64::from(queue_size) << 16;
    [bytes, offset, sizes].map(u64::to_le_bytes).concat()
}

/// Some leave out what C adds at the end.
pub(super) fn decode_in_flight(body: &[u8]) -> Option<RegionSpec> {
    if !matches!(body.len(), 20 | 24) {
        return None;
    }
    let long = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let word = |at: usize| body.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
    Some(RegionSpec { bytes: long(0)?, offset: long(8)?, queues: word(16)?, queue_size: word(18)? })
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) number: u32,
    /// The other side waits for an answer that says whether it was carried out.
    pub(super) wants_confirmation: bool,
    pub(super) is_reply: bool,
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What the flags of a message are to say.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Plain,
    Confirmed,
    Reply,
}

pub(super) fn send(
    socket: impl AsFd,
    number: u32,
    form: Form,
    body: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let flags = VERSION
        | match form {
            Form::Plain => 0,
            Form::Confirmed => CONFIRM,
            Form::Reply => REPLY,
        };
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    [number, flags, length].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.extend(body);
    let mut sent = again(|| descriptors::send(&socket, &bytes, descriptors))?;
    while sent < bytes.len() {
        sent += again(|| descriptors::send(&socket, &bytes[sent..], &[]))?;
    }
    Ok(())
}

/// The next message; none when the other side closed.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut header = [0; HEADER_BYTES];
    let mut descriptors = Vec::new();
    if !fill(&socket, &mut header, &mut descriptors, true)? {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (number, flags, bytes) = (word(0), word(4), word(8));
    if flags & VERSION_BITS != VERSION {
        return Err(Malformed::Version { version: flags & VERSION_BITS }.into());
    }
    let length = usize::try_from(bytes).ok().filter(|length| *length <= BODY_BYTES_MAX);
    let mut body = vec![0; length.ok_or(Malformed::TooLong { bytes })?];
    fill(&socket, &mut body, &mut descriptors, false)?;
    let (wants_confirmation, is_reply) = (flags & CONFIRM != 0, flags & REPLY != 0);
    Ok(Some(Message { number, wants_confirmation, is_reply, body, descriptors }))
}

/// Receives as much as `bytes` holds; false if there is nothing more, which is an error except where something may begin.
fn fill(
    socket: impl AsFd,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    may_end: bool,
) -> io::Result<bool> {
    let mut filled = 0;
    while filled < bytes.len() {
        let received = again(|| descriptors::receive(&socket, &mut bytes[filled..]))?;
        descriptors.extend(received.descriptors);
        match received.length {
            0 if filled == 0 && may_end => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => filled += length,
        }
    }
    Ok(true)
}

fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Decodes what a frontend could send, and encodes it again.
///
/// # Panics
/// If that is not the same.
#[cfg(any(test, feature = "testing"))]
pub fn fuzz_request(number: u32, body: &[u8]) {
    if let Ok(request) = Request::decode(number, body) {
        let (again, body) = request.encode();
        assert_eq!((again, Request::decode(again, &body).ok()), (number, Some(request)));
    }
}
