//! Clients of the host come, say anything, and go; whoever is asked for services gives one, refuses, says anything, or keeps
//! the guest waiting.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm::descriptors;
use vmm::virtio::vsock::{Vsock, VsockSpec};

use crate::driver::Machine;

/// From the guest, 3, to the host, 2.
const PREFIX: [u8; 16] = [3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];

/// Connections that the host keeps at a time, of any kind.
const STREAMS_MAX: usize = 40;

struct Host {
    address: SocketAddr,
    /// Clients, services, and what waits for an answer.
    streams: Vec<UnixStream>,
    services: OwnedFd,
}

impl Host {
    /// The first byte says what happens, the others are said.
    fn act(&mut self, bytes: &[u8]) {
        let Some((&what, said)) = bytes.split_first() else { return };
        let which = usize::from(what >> 2);
        match what % 4 {
            0 if self.streams.len() < STREAMS_MAX => {
                let client = UnixStream::connect_addr(&self.address).expect("the listener is there");
                client.set_nonblocking(true).expect("a socket can be told not to block");
                // A full socket, or one that was closed, is what may happen.
                let _ = (&client).write(b"CONNECT 52\n");
                self.streams.push(client);
            }
            1 if which < self.streams.len() => {
                let _ = (&self.streams[which]).write(said);
            }
            2 if which < self.streams.len() => drop(self.streams.swap_remove(which)),
            _ => {
                self.answer(what >> 2, said);
                for mut stream in &self.streams {
                    let _ = stream.read(&mut [0; 256]);
                }
            }
        }
    }

    /// Takes a wish of the guest's, if there is one.
    fn answer(&mut self, how: u8, said: &[u8]) {
        let Ok(wish) = descriptors::receive(&self.services, &mut [0; 64]) else { return };
        let answer = UnixStream::from(wish.descriptors.into_iter().next().expect("a wish brings a stream"));
        let (ours, theirs) = UnixStream::pair().expect("there are descriptors");
        ours.set_nonblocking(true).expect("a socket can be told not to block");
        let kept = match how % 4 {
            // The guest may have given up meanwhile.
            0 | 1 => descriptors::send(&answer, b"OK\n", &[theirs.as_fd()]).is_ok().then_some(ours),
            2 => {
                let service = [theirs.as_fd()];
                let _ = descriptors::send(&answer, said, &service[..usize::from(how >> 2 & 1)]);
                None
            }
            _ => Some(answer),
        };
        self.streams.extend(kept.filter(|_| self.streams.len() < STREAMS_MAX));
    }

    /// Lets go of everything: what the guest still waits for is refused.
    fn leave(&mut self) {
        self.streams.clear();
        while descriptors::receive(&self.services, &mut [0; 64]).is_ok() {}
    }
}

thread_local! {
    static MACHINE: RefCell<(Host, Machine)> = RefCell::new({
        let name = format!("nimbo-fuzz-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a good name");
        let listener = UnixListener::bind_addr(&address).expect("the name is free");
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, services) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
                .expect("there are descriptors");
        let spec =
            VsockSpec { name: "vsock".into(), guest_cid: 3, listener: Some(listener), services: Some(ours) };
        let mut parts = Vsock::parts(spec).expect("a good address");
        let machine = Machine::new(parts.device, parts.workers.remove(0), &PREFIX);
        (Host { address, streams: Vec::new(), services }, machine)
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|(host, machine)| {
        machine.run(data, |bytes| host.act(bytes));
        host.leave();
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
