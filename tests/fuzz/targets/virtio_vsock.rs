//! Clients of the host and holders of the guest's wishes come, say anything, and go.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use vmm::virtio::vsock::{Vsock, VsockSpec};

use crate::driver::Machine;

/// From the guest, 3, to the host, 2.
const PREFIX: [u8; 16] = [3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];

struct Host {
    address: SocketAddr,
    clients: Vec<UnixStream>,
    services: OwnedFd,
}

impl Host {
    /// The first byte says what happens, the others are said.
    fn act(&mut self, bytes: &[u8]) {
        let Some((&what, said)) = bytes.split_first() else { return };
        let which = usize::from(what >> 2);
        match what % 4 {
            0 if self.clients.len() < 40 => {
                let client = UnixStream::connect_addr(&self.address).expect("the listener is there");
                client.set_nonblocking(true).expect("a socket can be told not to block");
                // A full socket, or one that was closed, is what may happen.
                let _ = (&client).write(b"CONNECT 52\n");
                self.clients.push(client);
            }
            1 if which < self.clients.len() => {
                let _ = (&self.clients[which]).write(said);
            }
            2 if which < self.clients.len() => drop(self.clients.swap_remove(which)),
            _ => {
                // The descriptors that come with it are not taken, and so closed by the kernel.
                let _ = recv(self.services.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT);
                for mut client in &self.clients {
                    let _ = client.read(&mut [0; 256]);
                }
            }
        }
    }
}

thread_local! {
    static MACHINE: RefCell<(Host, Machine)> = RefCell::new({
        let name = format!("nimbo-fuzz-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a good name");
        let listener = UnixListener::bind_addr(&address).expect("the name is free");
        let (ours, services) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("there are descriptors");
        let spec =
            VsockSpec { name: "vsock".into(), guest_cid: 3, listener: Some(listener), services: Some(ours) };
        let mut parts = Vsock::parts(spec).expect("a good address");
        let machine = Machine::new(parts.device, parts.workers.remove(0), &PREFIX);
        (Host { address, clients: Vec::new(), services }, machine)
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|(host, machine)| {
        machine.run(data, |bytes| host.act(bytes));
        host.clients.clear();
        while recv(host.services.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT).is_ok() {}
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
