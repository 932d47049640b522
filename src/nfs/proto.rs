//! What NFSv4.1 is made of (RFC 8881, and RFC 5662 for the numbers): operations, errors, attributes, and the small things that several of
//! them carry.

mod attribute;
mod operation;
mod status;

pub use attribute::{Attribute, Bitmap};
pub use operation::Operation;
pub use status::Status;

use crate::xdr::{Malformed, Reader, Writer};

/// An enumeration of the protocol: its variants, their numbers, and the way back.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$about])* $variant,)+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As it goes over the wire.
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// None if there is no such.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(crate) use numbered;

/// The longest name of a file, in bytes: the host's.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest text of a symbolic link, in bytes: EFS's.
pub const LINK_BYTES_MAX: usize = 4080;
/// The most that one READ or WRITE moves, in bytes: EFS's.
pub const IO_BYTES_MAX: u32 = 1 << 20;
/// The longest handle, in bytes (`NFS4_FHSIZE`).
pub const HANDLE_BYTES_MAX: usize = 128;
/// The longest name that a client or an owner has for itself, in bytes (`NFS4_OPAQUE_LIMIT`).
pub const OPAQUE_BYTES_MAX: usize = 1024;
/// Of what a compound is called, in bytes; nothing is done with it but to say it again.
pub const TAG_BYTES_MAX: usize = 1024;

/// A session, by the name that the server gave it.
pub type SessionId = [u8; 16];
/// Tells one life of a client, of a server, or one attempt to create a file, from others.
pub type Verifier = [u8; 8];

/// What a file is (`nfs_ftype4`), as far as a host has such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    Regular,
    Directory,
    BlockDevice,
    CharacterDevice,
    SymbolicLink,
    Socket,
    Fifo,
}

impl FileType {
    /// As it goes over the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::BlockDevice => 3,
            Self::CharacterDevice => 4,
            Self::SymbolicLink => 5,
            Self::Socket => 6,
            Self::Fifo => 7,
        }
    }
}

/// What a client calls an open file, or its locks in one: a number of the server's, and which version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stateid {
    pub seqid: u32,
    pub other: [u8; 12],
}

impl Stateid {
    /// No state: what READ, WRITE and SETATTR take from who has nothing open.
    pub const ANONYMOUS: Self = Self { seqid: 0, other: [0; 12] };
    /// No state either; locks would be ignored, if they were mandatory.
    pub const BYPASS: Self = Self { seqid: u32::MAX, other: [0xff; 12] };
    /// The one that the last operation of this compound gave.
    pub const CURRENT: Self = Self { seqid: 1, other: [0; 12] };

    /// # Errors
    /// [`Malformed`]
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { seqid: reader.u32()?, other: reader.fixed()? })
    }

    pub fn write(&self, out: &mut Writer) {
        out.u32(self.seqid);
        out.fixed(&self.other);
    }
}

/// What ACCESS asks for (section 18.1).
pub mod access {
    pub const READ: u32 = 0x01;
    pub const LOOKUP: u32 = 0x02;
    pub const MODIFY: u32 = 0x04;
    pub const EXTEND: u32 = 0x08;
    pub const DELETE: u32 = 0x10;
    pub const EXECUTE: u32 = 0x20;
    pub const ALL: u32 = 0x3f;
}

/// What OPEN asks for (section 18.16).
pub mod share {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const BOTH: u32 = 3;
    /// Whether a delegation is wanted, and when it may be told to be there: hints for a server that has them.
    pub const WANT_MASK: u32 = 0x3_ff00;
}

/// Flags of EXCHANGE_ID (section 18.35).
pub mod exchange {
    pub const SUPPORT_MOVED_REFERENCE: u32 = 0x1;
    pub const SUPPORT_MOVED_MIGRATED: u32 = 0x2;
    pub const BIND_PRINCIPAL: u32 = 0x100;
    pub const USE_NON_PNFS: u32 = 0x1_0000;
    pub const PNFS_MASK: u32 = 0x7_0000;
    pub const UPDATE_CONFIRMED: u32 = 0x4000_0000;
    pub const CONFIRMED: u32 = 0x8000_0000;
}

/// Flags of CREATE_SESSION (section 18.36).
pub mod create_session {
    pub const PERSIST: u32 = 1;
    pub const BACK_CHANNEL: u32 = 2;
    pub const RDMA: u32 = 4;
}

impl Bitmap {
    /// # Errors
    /// [`Malformed`] if there are more words than any minor version has.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut words = [0; Self::WORDS];
        let length = reader.length(16)?;
        for place in 0..length {
            let word = reader.u32()?;
            match words.get_mut(place) {
                Some(slot) => *slot = word,
                // Attributes of later versions: asked for, they are not there; set, they cannot be.
                None if word == 0 => {}
                None => words[Self::WORDS - 1] |= 1 << 31,
            }
        }
        Ok(Self::from_words(words))
    }

    pub fn write(&self, out: &mut Writer) {
        let words = self.words();
        let length = Self::WORDS - words.iter().rev().take_while(|word| **word == 0).count();
        out.length(length);
        words[..length].iter().for_each(|word| out.u32(*word));
    }
}
