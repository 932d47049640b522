//! On a tap in a network namespace of the fuzzer's own; frames come in by a packet socket, and are captured by a reader that is too slow. Half of
//! the inputs have a link that is impaired. Needs root.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use types::MacAddress;
use vmm::virtio::net::{Impairment, Impairments, Net, NetSpec};

use crate::driver::Machine;
use crate::sys::tap;

struct Bench {
    net: Arc<Net>,
    machine: Machine,
    socket: OwnedFd,
    _reader: OwnedFd,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new({
        let (tap, socket) = tap();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let (net, mut parts) =
            Net::new(NetSpec { name: "net".into(), mac, mtu: 1500, taps: vec![tap] }).expect("a good tap");
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty());
        let (reader, writer) = pair.expect("a pair of sockets");
        net.capture(writer, 100).expect("a capture");
        let machine = Machine::new(parts.device, parts.workers.remove(0), &[0; 12]);
        Bench { net, machine, socket, _reader: reader }
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    BENCH.with_borrow_mut(|Bench { net, machine, socket, .. }| {
        let impairment = Impairment { loss_ppm: 300_000, duplicate_ppm: 300_000, ..Impairment::default() };
        let impairment = Some(if data.len().is_multiple_of(2) { impairment } else { Impairment::default() });
        net.impair(Impairments { inbound: impairment.clone(), outbound: impairment });
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
