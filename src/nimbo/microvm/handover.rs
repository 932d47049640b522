//! How a process is told what it is to be, and given what it needs: a line of JSON over a Unix socket, all descriptors with its
//! first byte. The specification names them by their places.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm::descriptors;

/// Of a descriptor, among those that are handed over.
pub(crate) type Place = usize;

/// No specification is longer: some hundred bytes for each of some thirty disks.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Descriptors to be handed over.
#[derive(Debug, Default)]
pub(crate) struct Handed(Vec<OwnedFd>);

impl Handed {
    pub(crate) fn hand(&mut self, descriptor: impl Into<OwnedFd>) -> Place {
        self.0.push(descriptor.into());
        self.0.len() - 1
    }
}

/// Descriptors that were handed over.
#[derive(Debug, Default)]
pub(crate) struct Given(Vec<Option<OwnedFd>>);

impl Given {
    /// # Errors
    /// When there is none, or it was taken before.
    pub(crate) fn take(&mut self, place: Place) -> anyhow::Result<OwnedFd> {
        let found = self.0.get_mut(place).and_then(Option::take);
        found.with_context(|| format!("descriptor {place} of the specification was not handed over"))
    }

    /// # Errors
    /// Those of [`Self::take`].
    pub(crate) fn take_file(&mut self, place: Place) -> anyhow::Result<File> {
        self.take(place).map(File::from)
    }
}

/// Tells who is at the other end of `socket` what it is to be.
///
/// # Errors
/// When it has ended, or is to have more descriptors than one message carries.
pub(crate) fn tell(mut socket: &UnixStream, spec: &impl Serialize, handed: &Handed) -> io::Result<()> {
    let mut line = serde_json::to_vec(spec)?;
    line.push(b'\n');
    let handed: Vec<BorrowedFd<'_>> = handed.0.iter().map(|descriptor| descriptor.as_fd()).collect();
    let sent = descriptors::send(socket, &line, &handed)?;
    socket.write_all(&line[sent..])
}

/// Waits to be told. Nothing is read beyond the line.
///
/// # Errors
/// When the other end is closed instead, or says what is no specification.
pub(crate) fn hear<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> anyhow::Result<(T, Given)> {
    let (mut line, mut given) = (Vec::new(), Vec::new());
    let mut piece = [0; 4096];
    while line.last() != Some(&b'\n') {
        let received = descriptors::receive(socket, &mut piece)?;
        if received.length == 0 || line.len() > LINE_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        anyhow::ensure!(!received.truncated, "this process may open too few files");
        line.extend_from_slice(&piece[..received.length]);
        given.extend(received.descriptors.into_iter().map(Some));
    }
    Ok((serde_json::from_slice(&line)?, Given(given)))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_handed_over_is_taken_once_by_its_place() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut handed = Handed::default();
        let ends: Vec<UnixStream> = (0..3)
            .map(|place| {
                let (ours, its) = UnixStream::pair().unwrap();
                assert_eq!(handed.hand(its), place);
                ours
            })
            .collect();
        // Longer than what one receive takes.
        let spec = "a".repeat(100_000);
        let teller = std::thread::spawn(move || tell(&near, &spec, &handed).map(|()| spec));
        let (heard, mut given) = hear::<String>(far.as_fd()).unwrap();
        assert_eq!(heard, teller.join().unwrap().unwrap());
        (&ends[1]).write_all(b"!").unwrap();
        let mut byte = [0];
        given.take_file(1).unwrap().read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"!");
        assert!(given.take(1).is_err() && given.take(3).is_err());
        given.take(0).unwrap();
    }

    #[test]
    fn a_socket_that_is_closed_tells_nothing() {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(b"\"half").unwrap();
        drop(near);
        assert!(hear::<String>(far.as_fd()).is_err());
    }
}
