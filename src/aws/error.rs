//! The errors that services answer.

use std::borrow::Cow;

/// An answer that says why there is no other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// As AWS documents it: `InvalidInstanceID.NotFound`.
    pub code: Cow<'static, str>,
    pub message: String,
    /// Of HTTP.
    pub status: u16,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Client,
    Server,
}

impl Error {
    /// An error with the status that AWS has for its code; 400 where it documents none.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let status = usual_status(&code);
        Self { code, message: message.into(), status }
    }

    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The request is not to blame. What went wrong is for the log and not for the client.
    pub fn internal() -> Self {
        Self::new("InternalError", "An internal error has occurred")
    }

    pub fn fault(&self) -> Fault {
        if self.status < 500 { Fault::Client } else { Fault::Server }
    }
}

fn usual_status(code: &str) -> u16 {
    match code {
        "AuthFailure" => 401,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "OptInRequired"
        | "PendingVerification"
        | "Blocked"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "SignatureDoesNotMatch" => 403,
        "DryRunOperation" => 412,
        "RequestEntityTooLarge" => 413,
        "InternalError"
        | "InternalFailure"
        | "InsufficientInstanceCapacity"
        | "InsufficientAddressCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientVolumeCapacity" => 500,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        _ => 400,
    }
}
