//! The bytes of a state file, written and read piece by piece; `docs/suspend-format.md` is their specification.
//!
//! Every record has one encoding: what is read and written again is the same bytes.

use kvm_bindings::{
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

/// The first bytes of a state file.
pub const MAGIC: [u8; 8] = *b"nimbosus";
/// What this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// The largest state file: 32 CPUs and 31 devices take a small part of it.
pub const BYTES_MAX: usize = 4 << 20;

/// Magic, version and length.
const HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

/// Why bytes are not the state of a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("it does not begin as the state of a suspended guest does")]
    Magic,
    #[error("its format has version {version}; this program knows those up to {VERSION}")]
    Version { version: u32 },
    #[error("it says that it has {told} bytes, and has {bytes}; at most {BYTES_MAX} can be")]
    Length { told: usize, bytes: usize },
    #[error("its checksum is {told:#010x}, that of its bytes {computed:#010x}: it was damaged")]
    Checksum { told: u32, computed: u32 },
    #[error("it ends within {what}")]
    Short { what: &'static str },
    #[error("{what} cannot be {value:#x}")]
    Value { what: &'static str, value: u64 },
    #[error("{what} is no text")]
    Text { what: &'static str },
    #[error("{bytes} bytes follow its end")]
    Rest { bytes: usize },
}

/// A piece of a state file.
pub trait Record: Sized {
    fn encode(&self, to: &mut Encoder);

    /// # Errors
    /// [`FormatError`] when the bytes are no such record.
    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError>;
}

/// A structure of KVM's interface, kept as its bytes.
///
/// # Safety
/// It has no padding, so that all its bytes are initialised, and any bytes are one.
pub unsafe trait Structure: Copy {
    /// What it is called when the file ends within it.
    const NAME: &'static str;
}

macro_rules! structures {
    ($($name:ident),+) => {
        $(
            // SAFETY: include/uapi/asm/kvm.h: integers alone, at their natural places, with explicit padding.
            unsafe impl Structure for $name {
                const NAME: &'static str = stringify!($name);
            }
        )+
    };
}

structures!(kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs);

/// The state file of `record`: header, record, checksum.
pub fn seal(record: &impl Record) -> Vec<u8> {
    let mut body = Encoder::default();
    record.encode(&mut body);
    seal_body(&body.bytes)
}

/// As [`seal`], of a record's bytes.
pub fn seal_body(body: &[u8]) -> Vec<u8> {
    let mut file = Encoder { bytes: Vec::with_capacity(HEADER_BYTES + body.len() + CHECKSUM_BYTES) };
    file.bytes.extend(MAGIC);
    file.u32(VERSION);
    file.count(body.len());
    file.bytes.extend(body);
    let checksum = crc32fast::hash(&file.bytes);
    file.u32(checksum);
    file.bytes
}

/// The record in a state file.
///
/// # Errors
/// [`FormatError`]
pub fn open<R: Record>(file: &[u8]) -> Result<R, FormatError> {
    let rest = file.strip_prefix(&MAGIC).ok_or(FormatError::Magic)?;
    let mut header = Decoder::new(rest);
    let version = header.u32("the header")?;
    if version != VERSION {
        return Err(FormatError::Version { version });
    }
    let length = usize::try_from(header.u32("the header")?).unwrap_or(usize::MAX);
    let told = length.saturating_add(HEADER_BYTES + CHECKSUM_BYTES);
    if told != file.len() || file.len() > BYTES_MAX {
        return Err(FormatError::Length { told, bytes: file.len() });
    }
    let computed = crc32fast::hash(&file[..file.len() - CHECKSUM_BYTES]);
    let mut body = Decoder::new(header.bytes(length, "the state")?);
    let told = header.u32("the checksum")?;
    if told != computed {
        return Err(FormatError::Checksum { told, computed });
    }
    let record = R::decode(&mut body)?;
    match body.rest.len() {
        0 => Ok(record),
        bytes => Err(FormatError::Rest { bytes }),
    }
}

/// Appends numbers in little-endian order.
#[derive(Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn u128(&mut self, value: u128) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.bytes.extend(value);
    }

    pub fn structure<S: Structure>(&mut self, value: &S) {
        // SAFETY: a structure's bytes are all initialised, and it lives through the call.
        self.bytes(unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<S>()) });
    }

    pub fn text(&mut self, value: &str) {
        self.count(value.len());
        self.bytes(value.as_bytes());
    }

    pub fn list<R: Record>(&mut self, records: &[R]) {
        self.count(records.len());
        records.iter().for_each(|record| record.encode(self));
    }

    /// What is counted is in memory and far smaller than 4 GiB; a larger number would be refused by whoever reads it.
    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// Takes numbers off the front of bytes that nobody trusts.
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes }
    }

    /// # Errors
    /// [`FormatError::Short`]; so it is for all that follow.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FormatError::Short { what })?;
        self.rest = rest;
        Ok(taken)
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FormatError::Short { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, FormatError> {
        self.array(what).map(u8::from_le_bytes)
    }

    /// # Errors
    /// [`FormatError::Value`] when it is neither 0 nor 1; see [`Decoder::bytes`].
    pub fn bool(&mut self, what: &'static str) -> Result<bool, FormatError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(FormatError::Value { what, value: value.into() }),
        }
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16, FormatError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn u128(&mut self, what: &'static str) -> Result<u128, FormatError> {
        self.array(what).map(u128::from_le_bytes)
    }

    /// # Errors
    /// See [`Decoder::bytes`].
    pub fn structure<S: Structure>(&mut self) -> Result<S, FormatError> {
        let bytes = self.bytes(size_of::<S>(), S::NAME)?;
        // SAFETY: there are as many bytes as it has, and any bytes are one.
        Ok(unsafe { bytes.as_ptr().cast::<S>().read_unaligned() })
    }

    /// # Errors
    /// [`FormatError::Value`] when it is longer than `bytes_max`, [`FormatError::Text`] when it is not UTF-8.
    pub fn text(&mut self, bytes_max: u32, what: &'static str) -> Result<String, FormatError> {
        let length = self.count(bytes_max, what)?;
        let text = std::str::from_utf8(self.bytes(length, what)?);
        text.map(str::to_owned).map_err(|_| FormatError::Text { what })
    }

    /// # Errors
    /// [`FormatError::Value`] when there are more than `count_max`, and what the records say.
    pub fn list<R: Record>(&mut self, count_max: u32, what: &'static str) -> Result<Vec<R>, FormatError> {
        let count = self.count(count_max, what)?;
        (0..count).map(|_| R::decode(self)).collect()
    }

    /// # Errors
    /// [`FormatError::Value`] when it is more than `max`.
    pub fn count(&mut self, max: u32, what: &'static str) -> Result<usize, FormatError> {
        let value = self.u32(what)?;
        let refused = FormatError::Value { what, value: value.into() };
        if value > max { Err(refused) } else { usize::try_from(value).map_err(|_| refused) }
    }
}
