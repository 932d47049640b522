//! Which file operations are about: handles, names, and how one may ask for them.

use super::{Compound, Outcome};
use crate::fs::Name;
use crate::proto::{FileType, HANDLE_BYTES_MAX, Status};
use crate::rpc::{AUTH_NONE, AUTH_SYS};

impl Compound<'_> {
    pub(super) fn put_handle(&mut self) -> Outcome {
        let handle = self.arguments.opaque(HANDLE_BYTES_MAX)?;
        let node = match &self.current {
            // A compound often says twice which file it is about.
            Some(place) if **place.node.handle() == *handle => std::sync::Arc::clone(&place.node),
            _ => self.export().node(handle)?,
        };
        self.go_to(node);
        Ok(())
    }

    /// There is no other public file than the root.
    pub(super) fn put_root(&mut self) -> Outcome {
        self.go_to(self.export().root());
        Ok(())
    }

    pub(super) fn get_handle(&mut self) -> Outcome {
        let node = self.node()?;
        self.out.opaque(node.handle());
        Ok(())
    }

    pub(super) fn save(&mut self) -> Outcome {
        self.saved = Some(self.place()?.clone());
        Ok(())
    }

    pub(super) fn restore(&mut self) -> Outcome {
        self.current = Some(self.saved.clone().ok_or(Status::NoFileHandle)?);
        Ok(())
    }

    /// A name that leads to one file in a folder, or says why it does not.
    pub(super) fn name(&mut self) -> Result<Result<Name, Status>, Status> {
        Ok(Name::new(self.arguments.opaque(usize::MAX)?))
    }

    pub(super) fn look_up(&mut self) -> Outcome {
        let name = self.name()?;
        let folder = self.node()?;
        if folder.kind() == FileType::SymbolicLink {
            return Err(Status::SymLink.into());
        }
        folder.directory()?;
        let node = self.export().look_up(&self.who, &folder, &name?)?;
        self.go_to(node);
        Ok(())
    }

    pub(super) fn look_up_parent(&mut self) -> Outcome {
        let folder = self.directory()?;
        let node = self.export().parent(&self.who, &folder)?;
        self.go_to(node);
        Ok(())
    }

    /// SECINFO: what is asked of who wants a file, which must be there.
    pub(super) fn security(&mut self) -> Outcome {
        let name = self.name()?;
        let folder = self.directory()?;
        self.export().look_up(&self.who, &folder, &name?)?;
        self.flavors();
        Ok(())
    }

    pub(super) fn security_without_name(&mut self) -> Outcome {
        match self.arguments.u32()? {
            0 => drop(self.node()?),
            1 => {
                let folder = self.directory()?;
                self.export().parent(&self.who, &folder)?;
            }
            _ => return Err(Status::BadXdr.into()),
        }
        self.flavors();
        Ok(())
    }

    /// The same of everybody. There is no current file then (section 2.6.3.1.1.8).
    fn flavors(&mut self) {
        let flavors = [AUTH_SYS, AUTH_NONE];
        self.out.length(flavors.len());
        flavors.into_iter().for_each(|flavor| self.out.u32(flavor));
        self.current = None;
    }
}
