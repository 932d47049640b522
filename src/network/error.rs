use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

/// What can go wrong while a network is made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation}: not permitted; run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    NotPermitted { operation: String },

    #[error("cannot {operation}")]
    Failed { operation: String, source: io::Error },

    #[error("cannot run nft: it is not installed; install the package nftables")]
    NftMissing,

    #[error("nft refused the rules of table {table}: {reason}")]
    NftRefused { table: String, reason: String },

    #[error("nft printed what is not its JSON")]
    NftOutput(#[source] serde_json::Error),

    #[error(
        "cannot open /dev/net/tun: the kernel has no tun driver here; load it with `modprobe tun`, \
         or give this container the device"
    )]
    TunMissing,

    #[error("a tap has 1 to {max} queues, not {asked}")]
    QueueCount { asked: u16, max: u16 },

    #[error("the host already routes {tried}; free one of these ranges for the instance's network")]
    NoFreeRange { tried: String },

    #[error("all {slots} uplinks of this host are in use; end an instance first")]
    NoFreeUplink { slots: u16 },

    #[error(transparent)]
    Name(#[from] crate::dns::NameError),

    #[error("cannot listen on {address}: the address is in use; publish on another port")]
    PortInUse { address: SocketAddr },
}

impl Error {
    /// What failed and why; the two errors that mean missing privilege become [`Error::NotPermitted`].
    pub(crate) fn io(operation: impl Display, source: io::Error) -> Self {
        let operation = operation.to_string();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotPermitted { operation },
            _ => Error::Failed { operation, source },
        }
    }

    /// As [`Error::io`], for use in `map_err`.
    pub(crate) fn while_doing<E: Into<io::Error>>(operation: impl Display) -> impl FnOnce(E) -> Self {
        move |source| Error::io(operation, source.into())
    }
}
