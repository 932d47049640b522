//! Clients of the NBD server, who say anything, in one piece or cut in two, and hang up.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use volume::nbd::{Export, serve_client};
use volume::testing::FakeDisk;
use volume::{BlockBackend, ReadOnly};

const DISK_BYTES: usize = 64 << 10;
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
/// The client's flags.
const FLAGS: &[u8] = b"\0\0\0\x03";
const STRUCTURED_REPLIES: &[u8] = b"IHAVEOPT\0\0\0\x08\0\0\0\0";
const BASE_ALLOCATION: &[u8] = b"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
const GO: &[u8] = b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0";

/// Serves one client. The first byte says what it says by itself before: nothing, a handshake, or one with structured replies and block status.
pub fn run(data: &[u8]) {
    let Some((&how, said)) = data.split_first() else { return };
    let handshake: &[&[u8]] = match how % 4 {
        0 => &[],
        1 => &[FLAGS],
        2 => &[FLAGS, GO],
        _ => &[FLAGS, STRUCTURED_REPLIES, BASE_ALLOCATION, GO],
    };
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let read_only = how & 4 != 0;
    let served: Arc<dyn BlockBackend> = Arc::new(disk.clone());
    let served = if read_only { Arc::new(ReadOnly(served)) } else { served };
    let exports = [Export { name: "disk".to_owned(), disk: served }];
    let (mut ours, theirs) = UnixStream::pair().expect("there are descriptors");
    let (first, second) = said.split_at(said.len().min(usize::from(how >> 3) * 8));
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        let mut listening = ours.try_clone().expect("there are descriptors");
        let heard = &mut heard;
        scope.spawn(move || {
            // What was not read when the server closed makes it a reset.
            let _ = listening.read_to_end(heard);
        });
        scope.spawn(move || {
            // The server may have closed.
            let _ = handshake.iter().chain([&first, &second]).try_for_each(|part| ours.write_all(part));
            let _ = ours.shutdown(Shutdown::Write);
        });
        serve_client(theirs, &exports);
    });
    assert!(heard.starts_with(GREETING), "{heard:02x?}");
    assert!(!read_only || disk.to_vec().iter().all(|byte| *byte == 0), "written to");
}

/// All options, all requests.
pub fn seeds() -> Vec<Vec<u8>> {
    let option = |number: u32, data: &[u8]| {
        let length = u32::try_from(data.len()).expect("seeds are short");
        [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
    };
    let about = b"\0\0\0\x04disk\0\x02\0\x01\0\x03";
    let contexts = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x05base:\0\0\0\x0fbase:allocation";
    let options = [
        option(3, &[]),
        option(8, &[]),
        option(9, contexts),
        option(10, contexts),
        option(6, about),
        option(7, about),
    ]
    .concat();
    let oldest = [option(5, &[]), option(1, b"disk")].concat();
    let abort = [option(10, b"\0\0\0\0"), option(2, &[])].concat();
    let request = |command: u16, flags: u16, offset: u64, length: u32, data: &[u8]| {
        let cookie = u64::from(command) << 8;
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend([flags, command].map(u16::to_be_bytes).concat());
        request.extend([cookie, offset].map(u64::to_be_bytes).concat());
        request.extend(length.to_be_bytes());
        request.extend(data);
        request
    };
    let session = [
        request(1, 1, 512, 1024, &[7; 1024]),
        request(0, 0, 0, 4096, &[]),
        request(3, 0, 0, 0, &[]),
        request(6, 2, 4096, 8192, &[]),
        request(4, 0, 0, 512, &[]),
        request(1, 0, 65_536, 512, &[8; 512]),
        request(0, 0, 0, 65_536, &[]),
        request(7, 0, 0, 65_536, &[]),
        request(7, 8, 512, 1024, &[]),
        request(2, 0, 0, 0, &[]),
    ]
    .concat();
    let seed = |how: u8, said: &[u8]| [&[how], said].concat();
    vec![
        seed(1, &[options, session.clone()].concat()),
        seed(1, &[oldest, session.clone()].concat()),
        seed(1, &abort),
        seed(2, &session),
        seed(2 + 4, &session),
        seed(3 + (5 << 3), &session),
        seed(0, b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0"),
    ]
}
