//! Load for a server of NFSv4.1, ours or another one:
//!
//! ```text
//! load ADDRESS PATH mixed|read|write SECONDS CONNECTIONS
//! ```
//!
//! PATH is a folder on the server, such as `/` or `/export`, in which each connection makes a file. `mixed` is GETATTR, LOOKUP, OPEN, READ and
//! WRITE of 4 KiB, and CLOSE, one after the other; `read` and `write` are of 1 MiB. Prints how many were answered, in how many seconds, and
//! the median and the 99th percentile of their times in microseconds.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nfs::client::{Compound, Open, Owner, Session};
use nfs::fs::Identity;
use nfs::proto::{Attribute, Bitmap, Stateid};

const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;
const FILE_BYTES: usize = 64 << 20;
const ATTRIBUTES: Bitmap = Bitmap::of(&[
    Attribute::Type,
    Attribute::Change,
    Attribute::Size,
    Attribute::FsId,
    Attribute::FileId,
    Attribute::Mode,
    Attribute::NumLinks,
    Attribute::Owner,
    Attribute::OwnerGroup,
    Attribute::SpaceUsed,
    Attribute::TimeAccess,
    Attribute::TimeMetadata,
    Attribute::TimeModify,
]);

/// One connection, with its file.
struct Load {
    session: Session,
    folder: Vec<u8>,
    name: Vec<u8>,
    file: Vec<u8>,
    stateid: Stateid,
    times: Vec<Duration>,
}

impl Load {
    fn new(address: SocketAddr, path: &str, number: usize) -> Self {
        let owner = format!("load-{number}");
        let owner = Owner {
            name: owner.as_bytes(),
            verifier: std::process::id().to_be_bytes().repeat(2).try_into().unwrap(),
        };
        let mut session = Session::open(address, owner, Identity::new(0, 0, &[]), 1).unwrap();
        let parts = path.split('/').filter(|part| !part.is_empty());
        let to_folder =
            parts.fold(Compound::new().put_root(), |compound, part| compound.look_up(part.as_bytes()));
        let folder = session.call(to_folder.get_handle()).unwrap().ok().unwrap().handle().unwrap();
        let name = format!("file-{number}").into_bytes();
        let open = Compound::new().put_handle(&folder).open(&Open::to_write(&name)).get_handle();
        let answer = session.call(open).unwrap().ok().unwrap();
        let (file, stateid) = (answer.handle().unwrap(), answer.opened().unwrap().stateid);
        let mut load = Self { session, folder, name, file, stateid, times: Vec::new() };
        for piece in 0..FILE_BYTES / LARGE {
            load.write(piece * LARGE, LARGE);
        }
        let commit = Compound::new().put_handle(&load.file).commit();
        load.ask(commit);
        load.times.clear();
        load
    }

    fn ask(&mut self, compound: Compound) {
        let started = Instant::now();
        let answer = self.session.call(compound).unwrap();
        self.times.push(started.elapsed());
        answer.ok().unwrap();
    }

    fn write(&mut self, place: usize, count: usize) {
        let offset = u64::try_from(place % FILE_BYTES).unwrap();
        let bytes = vec![7; count];
        self.ask(Compound::new().put_handle(&self.file).write_bytes(&self.stateid, offset, 0, &bytes));
    }

    fn read(&mut self, place: usize, count: usize) {
        let (offset, count) = (u64::try_from(place % FILE_BYTES).unwrap(), u32::try_from(count).unwrap());
        self.ask(Compound::new().put_handle(&self.file).read(&self.stateid, offset, count));
    }

    fn mixed(&mut self, place: usize) {
        self.ask(Compound::new().put_handle(&self.file).get_attributes(ATTRIBUTES));
        let look_up = Compound::new().put_handle(&self.folder).look_up(&self.name).get_handle();
        self.ask(look_up.get_attributes(ATTRIBUTES));
        let open = Open { owner: b"again", ..Open::to_write(&self.name) };
        let open =
            Compound::new().put_handle(&self.folder).open(&open).get_handle().get_attributes(ATTRIBUTES);
        let started = Instant::now();
        let opened = self.session.call(open).unwrap().ok().unwrap().opened().unwrap().stateid;
        self.times.push(started.elapsed());
        self.read(place * SMALL, SMALL);
        self.write(place * SMALL, SMALL);
        self.ask(Compound::new().put_handle(&self.file).close(&opened));
    }
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, address, path, kind, seconds, connections] = arguments.as_slice() else {
        panic!("usage: load ADDRESS PATH mixed|read|write SECONDS CONNECTIONS")
    };
    let address: SocketAddr = address.parse().unwrap();
    let time = Duration::from_secs(seconds.parse().unwrap());
    let loads: Vec<_> =
        (0..connections.parse().unwrap()).map(|number| Load::new(address, path, number)).collect();
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let started = Instant::now();
    let threads = loads.into_iter().map(|mut load| {
        let kind = kind.clone();
        std::thread::spawn(move || {
            for place in 0.. {
                match kind.as_str() {
                    "mixed" => load.mixed(place),
                    "read" => load.read(place * LARGE, LARGE),
                    _ => load.write(place * LARGE, LARGE),
                }
                if started.elapsed() >= time {
                    break;
                }
            }
            load.times
        })
    });
    let threads: Vec<_> = threads.collect();
    let mut times: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
    println!("{} {:.3} {} {}", times.len(), started.elapsed().as_secs_f64(), at(50), at(99));
}
