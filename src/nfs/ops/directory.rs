//! Folders: what is in them, and how that changes.

use std::ffi::CString;

use super::{Compound, Outcome};
use crate::fs::{Changes, Make};
use crate::proto::{Attribute, Bitmap, FileType, LINK_BYTES_MAX, NAME_BYTES_MAX, Status};
use crate::xdr::Writer;

/// Of a folder that is made by who does not say how.
const MODE: u32 = 0o700;
/// The cookie verifier, the end of the list, and whether there are more.
const LISTING_BYTES: usize = 16;
/// What an entry takes beside its attributes: that it follows, its cookie, and its name.
const fn entry_bytes(name: usize) -> usize {
    4 + 8 + 4 + name.next_multiple_of(4)
}
/// Attributes that a listing has by itself.
const IN_LISTING: Bitmap = Bitmap::of(&[Attribute::Type, Attribute::FileId, Attribute::RdattrError]);

impl Compound<'_> {
    pub(super) fn create(&mut self) -> Outcome {
        let kind = self.arguments.u32()?;
        let text = match kind {
            _ if kind == FileType::SymbolicLink.number() => Some(self.arguments.opaque(usize::MAX)?),
            _ if kind == FileType::BlockDevice.number() || kind == FileType::CharacterDevice.number() => {
                self.arguments.u64()?;
                None
            }
            _ => None,
        };
        let name = self.name()?;
        let changes = Changes::read(&mut self.arguments)?;
        let folder = self.directory()?;
        let what = what_to_make(kind, text)?;
        let (name, changes) = (name?, changes?);
        let before = self.export().change(&folder)?;
        let node =
            self.export().make(&self.who, &folder, &name, &what.as_make(), changes.mode.unwrap_or(MODE))?;
        // A link has no mode of its own; and no host makes a folder with these bits.
        let mode = changes.mode.filter(|_| kind != FileType::SymbolicLink.number());
        let left = mode.filter(|mode| mode & (libc::S_ISUID | libc::S_ISGID) != 0);
        let rest = Changes { mode: left, size: None, ..changes };
        (self.step_aside)();
        let (mut set, outcome) = self.export().set(&self.who, &node, None, &rest);
        outcome?;
        if mode.is_some() {
            set.insert(Attribute::Mode);
        }
        self.changed(before, &folder)?;
        set.write(self.out);
        self.go_to(node);
        Ok(())
    }

    pub(super) fn link(&mut self) -> Outcome {
        let name = self.name()?;
        let folder = self.directory()?;
        let node = std::sync::Arc::clone(&self.saved.as_ref().ok_or(Status::NoFileHandle)?.node);
        if node.kind() == FileType::Directory {
            return Err(Status::IsDir.into());
        }
        let before = self.export().change(&folder)?;
        self.export().link(&self.who, &node, &folder, &name?)?;
        Ok(self.changed(before, &folder)?)
    }

    pub(super) fn read_link(&mut self) -> Outcome {
        let node = self.node()?;
        match node.kind() {
            FileType::SymbolicLink => {}
            FileType::Directory => return Err(Status::IsDir.into()),
            _ => return Err(Status::WrongType.into()),
        }
        let text = self.export().read_link(&self.who, &node)?;
        self.out.opaque(&text);
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Outcome {
        let name = self.name()?;
        let folder = self.directory()?;
        let before = self.export().change(&folder)?;
        self.export().remove(&self.who, &folder, &name?)?;
        Ok(self.changed(before, &folder)?)
    }

    pub(super) fn rename(&mut self) -> Outcome {
        let (old, new) = (self.name()?, self.name()?);
        let to = self.directory()?;
        let from = std::sync::Arc::clone(&self.saved.as_ref().ok_or(Status::NoFileHandle)?.node);
        from.directory()?;
        let before = (self.export().change(&from)?, self.export().change(&to)?);
        self.export().rename(&self.who, &from, &old?, &to, &new?)?;
        self.changed(before.0, &from)?;
        Ok(self.changed(before.1, &to)?)
    }

    pub(super) fn read_directory(&mut self) -> Outcome {
        let cookie = self.arguments.u64()?;
        let verifier: [u8; 8] = self.arguments.fixed()?;
        let _names_bytes = self.arguments.u32()?;
        let bytes_max = self.arguments.length(usize::MAX)?;
        let wanted = Bitmap::read(&mut self.arguments)?;
        let folder = self.directory()?;
        if wanted.intersects(Bitmap::WRITE_ONLY) {
            return Err(Status::Inval.into());
        }
        // Cookies are good as long as the folder is: there is nothing to verify.
        if cookie > 0 && verifier != [0; 8] {
            return Err(Status::NotSame.into());
        }
        let end = self.out.len() + bytes_max.min(self.room());
        let mut listing = self.export().list(&self.who, &folder, cookie)?;
        self.out.fixed(&[0; 8]);
        let mut entry = Writer::new();
        let (mut is_end, mut count) = (false, 0_usize);
        // What is asked for after the last entry that fits is not worth the host's time.
        while self.out.len() + LISTING_BYTES / 2 + entry_bytes(1) <= end {
            let Some(found) = listing.next()? else {
                is_end = true;
                break;
            };
            entry.truncate(0);
            entry.bool(true);
            entry.u64(found.cookie);
            entry.opaque(found.name);
            let kind = found.kind.filter(|_| wanted.without(IN_LISTING).is_empty());
            match kind {
                Some(kind) => in_listing(&mut entry, wanted, kind, found.file_id),
                None => self.of_entry(&mut entry, &folder, found.name, wanted)?,
            }
            if entry.is_empty() {
                continue;
            }
            if self.out.len() + entry.len() + LISTING_BYTES / 2 > end {
                break;
            }
            self.out.fixed(entry.as_bytes());
            count += 1;
        }
        if count == 0 && !is_end {
            return Err(Status::TooSmall.into());
        }
        self.out.bool(false);
        self.out.bool(is_end);
        Ok(())
    }

    /// Writes the attributes of an entry. One that is gone meanwhile is none; one whose attributes cannot be had says so, if it may.
    fn of_entry(
        &self,
        out: &mut Writer,
        folder: &crate::fs::Node,
        name: &[u8],
        wanted: Bitmap,
    ) -> Result<(), Status> {
        debug_assert!(name.len() <= NAME_BYTES_MAX);
        let name = crate::fs::Name::new(name)?;
        let found = self.export().look_up(&self.who, folder, &name);
        match found.and_then(|node| self.export().facts(&node, wanted)) {
            Ok(facts) => facts.write(self.export(), self.service.lease_s(), out),
            Err(Status::NoEnt | Status::Stale) => out.truncate(0),
            Err(status) if wanted.has(Attribute::RdattrError) => {
                Bitmap::of(&[Attribute::RdattrError]).write(out);
                out.u32(4);
                out.u32(status.number());
            }
            Err(status) => return Err(status),
        }
        Ok(())
    }
}

/// Writes what a listing tells of an entry.
fn in_listing(out: &mut Writer, wanted: Bitmap, kind: FileType, file_id: u64) {
    wanted.write(out);
    let mut values = Writer::new();
    if wanted.has(Attribute::Type) {
        values.u32(kind.number());
    }
    if wanted.has(Attribute::RdattrError) {
        values.u32(Status::Ok.number());
    }
    if wanted.has(Attribute::FileId) {
        values.u64(file_id);
    }
    out.opaque(values.as_bytes());
}

/// What is to be made, with the text of a link in a form that the host takes.
enum What {
    Directory,
    SymbolicLink(CString),
    Fifo,
    Socket,
}

impl What {
    fn as_make(&self) -> Make<'_> {
        match self {
            Self::Directory => Make::Directory,
            Self::SymbolicLink(text) => Make::SymbolicLink(text),
            Self::Fifo => Make::Fifo,
            Self::Socket => Make::Socket,
        }
    }
}

fn what_to_make(kind: u32, text: Option<&[u8]>) -> Result<What, Status> {
    match (kind, text) {
        (2, _) => Ok(What::Directory),
        (5, Some([])) => Err(Status::Inval),
        (5, Some(text)) if text.len() > LINK_BYTES_MAX => Err(Status::NameTooLong),
        (5, Some(text)) => CString::new(text).map(What::SymbolicLink).map_err(|_| Status::Inval),
        (6, _) => Ok(What::Socket),
        (7, _) => Ok(What::Fifo),
        _ => Err(Status::BadType),
    }
}
