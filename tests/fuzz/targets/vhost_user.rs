//! Frontends of vhost-user, which say anything to who serves their disk, and hang up.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm::descriptors;
use vmm::memory::{Backing, Memory, allocate};
use vmm::virtio::block::BlockSpec;
use vmm::virtio::vhost_user::{Backend, fuzz_request};
use volume::testing::FakeDisk;

const DISK_BYTES: usize = 64 << 10;
const MEMORY_BYTES: u64 = 16 << 20;

/// The guest's, in which a ring of 8 has a write and a read at its places of [`seeds`].
static MEMORY: LazyLock<Memory> = LazyLock::new(|| {
    let memory = allocate(MEMORY_BYTES, Backing::Shared).expect("there is memory");
    let descriptor = |index: u64, address: u64, length: u32, flags: u16, next: u16| {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend([flags, next].map(u16::to_le_bytes).concat());
        memory.write_slice(&bytes, GuestAddress(0x1000 + 16 * index)).expect("it is memory");
    };
    for (chain, kind) in [(0, 1u8), (1, 0)] {
        let (first, at) = (3 * chain, 0x8000 + 0x1000 * chain);
        memory.write_obj(kind, GuestAddress(at)).expect("it is memory");
        let next = |index: u64| u16::try_from(first + index).expect("few descriptors");
        descriptor(first, at, 16, 1, next(1));
        descriptor(first + 1, at + 512, 512, if kind == 1 { 1 } else { 3 }, next(2));
        descriptor(first + 2, at + 16, 1, 2, 0);
    }
    let available = [0u16, 2, 0, 3].map(u16::to_le_bytes).concat();
    memory.write_slice(&available, GuestAddress(0x2000)).expect("it is memory");
    memory
});

/// Where in the memory the region of what is in flight lies, with what may stand there.
const REGION: u64 = 0x40_0000;
const REGION_BYTES: usize = 4096;
/// No message, but what a former backend left in the region.
const LEFT: u8 = 255;

/// Serves one frontend. A message is its number, the length of its body, and its body; it has the descriptor that it should have.
pub fn run(data: &[u8]) {
    if let Some((&number, body)) = data.split_first() {
        fuzz_request(u32::from(number), body);
    }
    let file = MEMORY.iter().find_map(|region| region.file_offset()).expect("the memory is shared");
    let event = nix::sys::eventfd::EventFd::new().expect("there are descriptors");
    // The ring is as it was, whatever the last frontend had done to it.
    MEMORY.write_obj(0u32, GuestAddress(0x3000)).expect("it is memory");
    MEMORY.write_slice(&[0; REGION_BYTES], GuestAddress(REGION)).expect("it is memory");
    let (ours, theirs) = UnixStream::pair().expect("there are descriptors");
    let backend = Arc::new(FakeDisk::new(vec![0; DISK_BYTES]));
    let spec = BlockSpec { name: "disk".into(), serial: "fuzz".into(), backend, queues: 2 };
    let backend = Backend::new(theirs, spec, || {}).expect("there are threads");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = data;
            while let [number, length, body @ ..] = rest {
                let (body, after) = body.split_at(body.len().min(usize::from(*length)));
                if *number == LEFT {
                    MEMORY.write_slice(body, GuestAddress(REGION)).expect("it is memory");
                    rest = after;
                    continue;
                }
                let descriptors: Vec<BorrowedFd<'_>> = match number {
                    5 | 32 => vec![file.file().as_fd()],
                    12..=14 => vec![event.as_fd()],
                    _ => Vec::new(),
                };
                let length = u32::try_from(body.len()).expect("short");
                let header = [u32::from(*number), 1, length].map(u32::to_le_bytes).concat();
                // It may have closed.
                if descriptors::send(&ours, &[&header, body].concat(), &descriptors).is_err() {
                    break;
                }
                let _ = event.write(1);
                rest = after;
            }
            // What it answers is not read: it has room for that in the socket.
            let _ = ours.shutdown(std::net::Shutdown::Both);
        });
        // How it ends does not matter.
        let _ = backend.serve();
    });
}

/// All that a frontend says in its life.
pub fn seeds() -> Vec<Vec<u8>> {
    let message = |number: u8, words: &[u64]| {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        [&[number, u8::try_from(body.len()).expect("short")], &body[..]].concat()
    };
    let features = 1u64 << 32 | 1 << 30 | 1 << 9;
    let all = [
        message(1, &[]),
        message(3, &[]),
        message(15, &[]),
        message(16, &[1 << 12 | 1 << 9 | 1 << 3 | 1]),
        message(17, &[]),
        message(2, &[features]),
        message(5, &[1, 0, MEMORY_BYTES, 0x7000_0000, 0]),
        message(8, &[8 << 32]),
        message(9, &[0, 0x7000_1000, 0x7000_3000, 0x7000_2000, 0]),
        message(10, &[0]),
        message(13, &[0]),
        message(14, &[0]),
        message(12, &[0]),
        message(18, &[1 << 32]),
        message(11, &[0]),
    ];
    // One queue of 8, of which the chain at 0 is in flight, and that at 3 was given back and not unmarked.
    let state = |is_taken: u64, order: u64| [is_taken | 3 << 48, order];
    let left: Vec<u64> = [[0, 1 | 8 << 16 | 3 << 32], state(1, 1), [0, 0], [0, 0], state(1, 2)].concat();
    let resumed = [
        &all[..7],
        &[message(31, &[0, 0, 1 | 8 << 16]), message(LEFT, &left)],
        &[message(32, &[REGION_BYTES as u64, REGION, 1 | 8 << 16])],
        &all[7..],
    ];
    vec![all.concat(), all[5..].concat(), resumed.concat().concat()]
}
