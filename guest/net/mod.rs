//! `nimbo-init net`: loopback, and DHCP on every interface that has a device behind it, as they come and go.
//!
//! One loop waits for the kernel's events, for answers, and for the earliest deadline of any client. It ends only
//! by an error, and is then started again; addresses stay with the interfaces meanwhile.

pub mod dhcp;
pub mod link;
pub mod resolv;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::console::say;
use crate::init::round_up;
use crate::sys::PacketSocket;
use crate::uevent::Uevents;
use dhcp::client::{Client, Effect, Event};
use dhcp::frame;
use dhcp::message::{Lease, Reply};
use link::{Link, Rtnetlink};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long the rest of the machine waits for the network before it goes on without.
const UP_WAIT: Duration = Duration::from_secs(30);

/// Runs for good.
///
/// # Errors
/// If the kernel gives us no sockets.
pub fn run() -> Result<()> {
    let mut seed = [0; 4];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .context("read /dev/urandom")?;
    let mut network = Network::open(u32::from_ne_bytes(seed), Path::new("/etc/resolv.conf"), has_device)?;
    network.bring_up_loopback();
    network.refresh()?;
    let deadline = Instant::now() + UP_WAIT;
    let mut told = false;
    loop {
        if !told {
            let state = if network.is_up() {
                Some("up")
            } else if network.interfaces.is_empty() {
                Some("none")
            } else if Instant::now() >= deadline {
                say!("no DHCP server has answered in {} s; still asking", UP_WAIT.as_secs());
                Some("late")
            } else {
                None
            };
            if let Some(state) = state {
                // Nobody listens any more if user-data was given up meanwhile.
                let _ = writeln!(std::io::stdout(), "{state}");
                told = true;
            }
        }
        network.turn((!told).then_some(deadline))?;
    }
}

/// Interfaces of hardware, and not those that somebody makes in software.
fn has_device(link: &Link) -> bool {
    Path::new("/sys/class/net").join(&link.name).join("device").exists()
}

/// All interfaces that we look after.
pub struct Network {
    events: Uevents,
    rtnetlink: Rtnetlink,
    interfaces: BTreeMap<u32, Interface>,
    resolv_conf: PathBuf,
    is_ours: fn(&Link) -> bool,
    seed: u32,
}

struct Interface {
    link: Link,
    client: Client,
    socket: Option<Socket>,
    lease: Option<Lease>,
}

/// What carries messages: a packet socket while there is no address, and UDP while there is.
enum Socket {
    Packet(PacketSocket),
    Udp(UdpSocket),
}

impl Network {
    /// Takes no interface yet: [`Network::refresh`] does.
    pub fn open(seed: u32, resolv_conf: &Path, is_ours: fn(&Link) -> bool) -> Result<Self> {
        Ok(Network {
            events: Uevents::open()?,
            rtnetlink: Rtnetlink::open()?,
            interfaces: BTreeMap::new(),
            resolv_conf: resolv_conf.to_owned(),
            is_ours,
            seed,
        })
    }

    /// Whether any interface has an address.
    pub fn is_up(&self) -> bool {
        self.interfaces.values().any(|interface| interface.lease.is_some())
    }

    fn bring_up_loopback(&mut self) {
        // Its index is 1 in every network namespace.
        if let Err(error) = self.rtnetlink.set_up(1) {
            say!("{error:#}");
        }
    }

    /// Takes the interfaces that are new, and forgets those that are gone.
    pub fn refresh(&mut self) -> Result<()> {
        let links = self.rtnetlink.links()?;
        let present: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let before = self.interfaces.len();
        self.interfaces.retain(|index, interface| {
            let stays = present.contains(index);
            if !stays {
                say!("{} is gone", interface.link.name);
            }
            stays
        });
        if self.interfaces.len() < before {
            self.write_resolv_conf();
        }
        for link in links {
            if self.interfaces.contains_key(&link.index) || !(self.is_ours)(&link) {
                continue;
            }
            if let Err(error) = self.rtnetlink.set_up(link.index) {
                say!("{}: {error:#}", link.name);
                continue;
            }
            let client = Client::new(link.mac, self.seed ^ link.index, Instant::now());
            self.interfaces.insert(link.index, Interface { link, client, socket: None, lease: None });
        }
        self.time_out();
        Ok(())
    }

    /// Waits for one thing to happen, at most until `limit`, and handles it.
    pub fn turn(&mut self, limit: Option<Instant>) -> Result<()> {
        let deadlines = self.interfaces.values().map(|interface| interface.client.deadline());
        let wait = deadlines.chain(limit).min().map(|at| at.saturating_duration_since(Instant::now()));
        let mut fds = vec![PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
        let sockets = self.interfaces.values().filter_map(|interface| interface.socket.as_ref());
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, wait.map_or(nix::poll::PollTimeout::NONE, round_up)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for packets"),
        }
        drop(fds);
        if self.events.drain().iter().any(|event| matches!(event.subsystem.as_str(), "net" | "")) {
            self.refresh()?;
        }
        let indices: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in indices {
            while let Some(reply) = self.interfaces.get(&index).and_then(Interface::receive) {
                self.step(index, Event::Received(reply));
            }
        }
        self.time_out();
        Ok(())
    }

    fn time_out(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> = self
            .interfaces
            .iter()
            .filter(|(_, interface)| interface.client.deadline() <= now)
            .map(|(&index, _)| index)
            .collect();
        for index in due {
            self.step(index, Event::Timeout);
        }
    }

    /// Lets a client decide, and does what it asks for. What fails is said; the client's next deadline tries again.
    fn step(&mut self, index: u32, event: Event) {
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        let effects = interface.client.step(event, Instant::now());
        let mut changed = false;
        for effect in effects {
            let name = interface.link.name.clone();
            let result = match effect {
                Effect::Broadcast(message) => interface.broadcast(&message),
                Effect::Send { server, message } => interface.send(server, &message),
                Effect::Configure(lease) => {
                    changed = true;
                    interface.configure(&mut self.rtnetlink, lease)
                }
                Effect::Forget => {
                    changed = true;
                    interface.forget(&mut self.rtnetlink)
                }
            };
            if let Err(error) = result {
                say!("{name}: {error:#}");
            }
        }
        if !interface.client.is_waiting() {
            interface.socket = None;
        }
        if changed {
            self.write_resolv_conf();
        }
    }

    fn write_resolv_conf(&self) {
        let leases = self.interfaces.values().filter_map(|interface| interface.lease.as_ref());
        let text = resolv::format(leases);
        if let Err(error) = resolv::replace(&self.resolv_conf, &text) {
            say!("write {}: {error}", self.resolv_conf.display());
        }
    }
}

impl Interface {
    /// Interfaces that come first are preferred.
    fn metric(&self) -> u32 {
        self.link.index.saturating_add(100)
    }

    fn broadcast(&mut self, message: &[u8]) -> Result<()> {
        if !matches!(self.socket, Some(Socket::Packet(_))) {
            let socket = PacketSocket::open(self.link.index).context("open a packet socket")?;
            self.socket = Some(Socket::Packet(socket));
        }
        if let Some(Socket::Packet(socket)) = &self.socket {
            socket.broadcast(&frame::wrap(message)).context("send a DHCP message")?;
        }
        Ok(())
    }

    fn send(&mut self, server: Option<Ipv4Addr>, message: &[u8]) -> Result<()> {
        if !matches!(self.socket, Some(Socket::Udp(_))) {
            self.socket = Some(Socket::Udp(self.open_udp().context("open the DHCP client's socket")?));
        }
        if let Some(Socket::Udp(socket)) = &self.socket {
            let to = SocketAddrV4::new(server.unwrap_or(Ipv4Addr::BROADCAST), SERVER_PORT);
            socket.send_to(message, to).with_context(|| format!("send a DHCP message to {to}"))?;
        }
        Ok(())
    }

    fn open_udp(&self) -> Result<UdpSocket> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        // Several interfaces each have a socket of this port.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &self.link.name.clone().into())?;
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        bind(fd.as_raw_fd(), &SockaddrIn::from(any))?;
        Ok(UdpSocket::from(fd))
    }

    /// The next reply of a server, skipping what is none.
    fn receive(&self) -> Option<Reply> {
        let socket = self.socket.as_ref()?;
        let mut buffer = [0; 2048];
        loop {
            let length = match recv(socket.as_fd().as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let message = match socket {
                Socket::Packet(_) => frame::unwrap(&buffer[..length]),
                Socket::Udp(_) => Some(&buffer[..length]),
            };
            match message.map(Reply::parse) {
                None => {}
                Some(Ok(reply)) => return Some(reply),
                Some(Err(error)) => say!("{}: {error}", self.link.name),
            }
        }
    }

    /// Makes the interface what the lease says. A renewal that changes nothing costs nothing.
    fn configure(&mut self, rtnetlink: &mut Rtnetlink, lease: Lease) -> Result<()> {
        let index = self.link.index;
        if self.lease.as_ref().is_some_and(|old| is_same_setup(old, &lease)) {
            self.lease = Some(lease);
            return Ok(());
        }
        self.forget(rtnetlink)?;
        if let Some(mtu) = lease.mtu
            && let Err(error) = rtnetlink.set_mtu(index, mtu)
        {
            // A server may promise more than the device can; the network works without.
            say!("{}: {error:#}", self.link.name);
        }
        rtnetlink.add_address(index, self.metric(), lease.address)?;
        for &route in &lease.routes {
            rtnetlink.add_route(index, self.metric(), route)?;
        }
        say!("{} has {} from {}", self.link.name, lease.address, lease.server);
        self.lease = Some(lease);
        Ok(())
    }

    fn forget(&mut self, rtnetlink: &mut Rtnetlink) -> Result<()> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        say!("{} gives up {}", self.link.name, lease.address);
        for &route in &lease.routes {
            if let Err(error) = rtnetlink.remove_route(self.link.index, self.metric(), route) {
                say!("{}: {error:#}", self.link.name);
            }
        }
        rtnetlink.remove_address(self.link.index, self.metric(), lease.address)
    }
}

fn is_same_setup(old: &Lease, new: &Lease) -> bool {
    old.address == new.address && old.routes == new.routes && old.mtu == new.mtu
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Packet(socket) => socket.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
        }
    }
}
