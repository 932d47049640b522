//! Attributes of files, by their numbers (RFC 8881, section 5), and sets of them.

use super::numbered;

numbered! {
    /// An attribute that is served.
    Attribute {
        SupportedAttrs = 0,
        Type = 1,
        FhExpireType = 2,
        Change = 3,
        Size = 4,
        LinkSupport = 5,
        SymlinkSupport = 6,
        NamedAttr = 7,
        FsId = 8,
        UniqueHandles = 9,
        LeaseTime = 10,
        RdattrError = 11,
        AclSupport = 13,
        CanSetTime = 15,
        CaseInsensitive = 16,
        CasePreserving = 17,
        ChownRestricted = 18,
        FileHandle = 19,
        FileId = 20,
        Homogeneous = 26,
        MaxFileSize = 27,
        MaxLink = 28,
        MaxName = 29,
        MaxRead = 30,
        MaxWrite = 31,
        Mode = 33,
        NoTrunc = 34,
        NumLinks = 35,
        Owner = 36,
        OwnerGroup = 37,
        RawDev = 41,
        SpaceAvail = 42,
        SpaceFree = 43,
        SpaceTotal = 44,
        SpaceUsed = 45,
        TimeAccess = 47,
        TimeAccessSet = 48,
        TimeDelta = 51,
        TimeMetadata = 52,
        TimeModify = 53,
        TimeModifySet = 54,
        MountedOnFileId = 55,
        SuppattrExclCreat = 75,
    }
}

/// A set of attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bitmap([u32; Bitmap::WORDS]);

impl Bitmap {
    /// As many words as version 4.1 has.
    pub const WORDS: usize = 3;
    pub const EMPTY: Self = Self([0; Self::WORDS]);
    /// All that is served.
    pub const SUPPORTED: Self = Self::of(Attribute::ALL);
    /// Those that can be set, and only some of them be asked for.
    pub const SETTABLE: Self = Self::of(&[
        Attribute::Size,
        Attribute::Mode,
        Attribute::Owner,
        Attribute::OwnerGroup,
        Attribute::TimeAccessSet,
        Attribute::TimeModifySet,
    ]);
    /// Those that can be set but not be asked for.
    pub const WRITE_ONLY: Self = Self::of(&[Attribute::TimeAccessSet, Attribute::TimeModifySet]);
    /// Those that can be set by an exclusive creation, which keeps its verifier in the times.
    pub const EXCLUSIVE: Self =
        Self::of(&[Attribute::Size, Attribute::Mode, Attribute::Owner, Attribute::OwnerGroup]);
    /// Those that belong to the file system and not to one file of it.
    pub const SPACE: Self = Self::of(&[Attribute::SpaceAvail, Attribute::SpaceFree, Attribute::SpaceTotal]);

    pub const fn of(attributes: &[Attribute]) -> Self {
        let mut words = [0; Self::WORDS];
        let mut place = 0;
        while place < attributes.len() {
            let number = attributes[place].number();
            words[(number / 32) as usize] |= 1 << (number % 32);
            place += 1;
        }
        Self(words)
    }

    pub const fn from_words(words: [u32; Self::WORDS]) -> Self {
        Self(words)
    }

    pub const fn words(&self) -> [u32; Self::WORDS] {
        self.0
    }

    pub const fn has(&self, attribute: Attribute) -> bool {
        let number = attribute.number();
        self.0[(number / 32) as usize] & (1 << (number % 32)) != 0
    }

    pub fn insert(&mut self, attribute: Attribute) {
        *self = self.union(Self::of(&[attribute]));
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place] & other.0[place]))
    }

    pub fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place] | other.0[place]))
    }

    pub fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place] & !other.0[place]))
    }

    pub fn intersects(self, other: Self) -> bool {
        !self.and(other).is_empty()
    }
}
