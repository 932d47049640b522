//! The name of a file in a folder.

use std::ffi::{CStr, CString};

use crate::proto::{NAME_BYTES_MAX, Status};

/// One part of a path, which leads nowhere but into the folder: not empty, no `.` or `..`, without slashes and zeroes.
///
/// Names are bytes, as the host's are; clients that say UTF-8 get back what they said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(CString);

impl Name {
    /// # Errors
    /// What RFC 8881 has for each of them (section 14.4 and the operations).
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, Status> {
        match bytes {
            [] => Err(Status::Inval),
            b"." | b".." => Err(Status::BadName),
            _ if bytes.len() > NAME_BYTES_MAX => Err(Status::NameTooLong),
            _ if bytes.contains(&b'/') => Err(Status::BadChar),
            _ => CString::new(bytes).map(Self).map_err(|_| Status::BadChar),
        }
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}
