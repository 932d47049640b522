#![no_main]

//! On a tap in a network namespace of the fuzzer's own; frames come in by a packet socket. Needs root.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use fuzz::{Input, Machine};
use libfuzzer_sys::fuzz_target;
use nix::sched::{CloneFlags, unshare};
use types::MacAddress;
use vmm::virtio::net::{Net, NetSpec};

/// IEEE 802's first EtherType for local experiments.
const PROTOCOL: u16 = 0x88b5;

fn checked(result: libc::c_int) -> libc::c_int {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// A tap that is up, and a socket at its other side.
fn tap() -> (OwnedFd, OwnedFd) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").expect("there is tun");
    // SAFETY: zeroes are a value of these plain structures, which outlive the calls; the socket is new.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = 110;
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE) as libc::c_short;
        checked(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request));
        let socket =
            checked(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, libc::c_int::from(PROTOCOL.to_be())));
        let socket = OwnedFd::from_raw_fd(socket);
        request.ifr_ifru.ifru_mtu = 65521;
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request));
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request));
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request));
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = PROTOCOL.to_be();
        address.sll_ifindex = request.ifr_ifru.ifru_ifindex;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        checked(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length));
        (file.into(), socket)
    }
}

thread_local! {
    static MACHINE: RefCell<(OwnedFd, Machine)> = RefCell::new({
        let (tap, socket) = tap();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let (_, mut parts) =
            Net::new(NetSpec { name: "net".into(), mac, mtu: 1500, taps: vec![tap] }).expect("a good tap");
        (socket, Machine::new(parts.device, parts.workers.remove(0), &[0; 12]))
    });
}

fuzz_target!(|input: Input| {
    MACHINE.with_borrow_mut(|(socket, machine)| {
        machine.run(input.features, &input.steps, |bytes| {
            // The first byte says how long the frame is.
            let mut frame = bytes.to_vec();
            frame.resize(14 + 255 * usize::from(bytes.first().copied().unwrap_or(0)), 0);
            // SAFETY: the frame outlives the call. That the queue of the tap is full is no error here.
            unsafe {
                libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT);
            }
        });
    });
});
