//! On a tap in a network namespace of the fuzzer's own; frames come in by a packet socket. Needs root.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, send};
use types::MacAddress;
use vmm::virtio::net::{Net, NetSpec};

use crate::driver::Machine;
use crate::sys::tap;

thread_local! {
    static MACHINE: RefCell<(OwnedFd, Machine)> = RefCell::new({
        let (tap, socket) = tap();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let (_, mut parts) =
            Net::new(NetSpec { name: "net".into(), mac, mtu: 1500, taps: vec![tap] }).expect("a good tap");
        (socket, Machine::new(parts.device, parts.workers.remove(0), &[0; 12]))
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|(socket, machine)| {
        machine.run(data, |bytes| {
            // The first byte says how long the frame is.
            let mut frame = bytes.to_vec();
            frame.resize(14 + 255 * usize::from(bytes.first().copied().unwrap_or(0)), 0);
            // That the queue of the tap is full is no error here.
            let _ = send(socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT);
        });
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
