//! Random bytes from the kernel.

use std::fs::File;
use std::io::{BufReader, Read as _};

use anyhow::Context as _;
use control::state::Entropy;

/// `/dev/urandom`, some ids at a time.
pub(super) struct Kernel(BufReader<File>);

impl Kernel {
    /// # Errors
    /// When the device cannot be opened.
    pub(super) fn open() -> anyhow::Result<Self> {
        Ok(Self(BufReader::new(File::open("/dev/urandom").context("cannot open /dev/urandom")?)))
    }
}

impl Entropy for Kernel {
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Err(error) = self.0.read_exact(bytes) {
            unreachable!("/dev/urandom never ends: {error}");
        }
    }
}
