//! Attributes asked for, compared, and set; and what one may.

use super::{Compound, Failed, Outcome};
use crate::fs::{Changes, regular};
use crate::proto::{Attribute, Bitmap, FileType, Stateid, Status, access, share};
use crate::xdr::{Reader, Writer};

const ATTRIBUTES_BYTES_MAX: usize = 4096;

impl Compound<'_> {
    pub(super) fn access(&mut self) -> Outcome {
        let wanted = self.arguments.u32()?;
        let node = self.node()?;
        if wanted & !access::ALL != 0 {
            return Err(Status::Inval.into());
        }
        let (read, write, execute) = match node.kind() {
            FileType::Directory => {
                (access::READ, access::MODIFY | access::EXTEND | access::DELETE, access::LOOKUP)
            }
            _ => (access::READ, access::MODIFY | access::EXTEND, access::EXECUTE),
        };
        let (mut told, mut granted) = (0, 0);
        for (bits, mode) in [(read, libc::R_OK), (write, libc::W_OK), (execute, libc::X_OK)] {
            let bits = bits & wanted;
            told |= bits;
            if bits != 0 && self.export().may(&self.who, &node, mode)? {
                granted |= bits;
            }
        }
        self.out.u32(told);
        self.out.u32(granted);
        Ok(())
    }

    pub(super) fn get_attributes(&mut self) -> Outcome {
        let wanted = Bitmap::read(&mut self.arguments)?;
        let place = self.place()?;
        if wanted.intersects(Bitmap::WRITE_ONLY) {
            return Err(Status::Inval.into());
        }
        let facts = self.export().facts(&place.node, wanted)?;
        facts.write(&self.service.export, self.service.lease_s(), self.out);
        Ok(())
    }

    /// VERIFY and NVERIFY: fails unless attributes are as given, or unless they are not.
    pub(super) fn verify(&mut self, are_wanted: bool) -> Outcome {
        let given = Bitmap::read(&mut self.arguments)?;
        let values = self.arguments.opaque(ATTRIBUTES_BYTES_MAX)?;
        let node = self.node()?;
        if !given.without(Bitmap::SUPPORTED).is_empty() {
            return Err(Status::AttrNotSupp.into());
        }
        if given.intersects(Bitmap::WRITE_ONLY) || given.has(Attribute::RdattrError) {
            return Err(Status::Inval.into());
        }
        let mut ours = Writer::new();
        self.export().facts(&node, given)?.write(self.export(), self.service.lease_s(), &mut ours);
        let mut ours = Reader::new(ours.as_bytes());
        Bitmap::read(&mut ours)?;
        let are_same = ours.opaque(ATTRIBUTES_BYTES_MAX)? == values;
        match (are_same, are_wanted) {
            (true, false) => Err(Status::Same.into()),
            (false, true) => Err(Status::NotSame.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn set_attributes(&mut self) -> Outcome {
        let stateid = Stateid::read(&mut self.arguments)?;
        let changes = Changes::read(&mut self.arguments)?;
        let node = self.node()?;
        let changes = changes?;
        let file = match changes.size {
            None => None,
            Some(_) => {
                match node.kind() {
                    FileType::Directory => Err(Status::IsDir),
                    FileType::SymbolicLink => Err(Status::Inval),
                    _ => regular(&node),
                }?;
                let stateid = self.current_or(stateid)?;
                Some(self.file_for(stateid, share::WRITE)?)
            }
        };
        (self.step_aside)();
        let (set, outcome) = self.export().set(&self.who, &node, file.as_deref(), &changes);
        outcome.map_err(|status| Failed::Set(status, set))?;
        set.write(self.out);
        Ok(())
    }
}
