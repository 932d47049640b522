//! Clients of a file server: records of any form, and compounds in a session, of operations with any arguments. Whatever is asked, the
//! answer can be decoded.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use nfs::client::{Answer, Claim, Compound, LockKind, Open, Session, Values, write_call};
use nfs::fs::Identity;
use nfs::proto::{Bitmap, Operation, Stateid, exchange};
use nfs::service::{Connection, Service};
use nfs::xdr::Writer;
use tempfile::TempDir;
use types::SystemClock;

use crate::input::{Bytes, steps};

/// What is made is removed after so many inputs.
const INPUTS: u32 = 256;
/// How many kinds of steps there are.
const STEPS: u64 = 18;
/// As many as a session allows.
const OPERATIONS_MAX: usize = 15;

struct World {
    folder: TempDir,
    service: Service,
    session: [u8; 16],
    sequence: u32,
}

fn root() -> Identity {
    Identity::new(0, 0, &[])
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = folder.path().join("files");
        std::fs::create_dir(&files).expect("a folder");
        let (state, lease) = (folder.path().join("state"), Duration::from_secs(3600));
        let service = Service::open(&files, &state, Arc::new(SystemClock), lease).expect("root's privileges");
        let mut world = Self { folder, service, session: [0; 16], sequence: 0 };
        let exchange = Compound::new().exchange_id([1; 8], b"fuzz", exchange::USE_NON_PNFS);
        let answer = world.ask(&mut Connection::default(), &exchange);
        let client = answer.result(0).u64().expect("a client");
        let create = Compound::new().create_session(client, 1, &Session::channel(1));
        let answer = world.ask(&mut Connection::default(), &create);
        world.session = answer.result(0).fixed().expect("a session");
        world.in_session(&mut Connection::default(), false, Compound::new().reclaim_complete(false));
        world
    }

    fn ask(&self, connection: &mut Connection, compound: &Compound) -> Answer {
        let mut record = Writer::new();
        write_call(&mut record, 1, Some(&root()), Some(compound));
        let answer = self.service.answer_bytes(connection, record.as_bytes()).expect("it is a call");
        Answer::read(answer).expect("the answer to a compound that can be decoded can be decoded")
    }

    fn in_session(&mut self, connection: &mut Connection, is_kept: bool, compound: Compound) {
        self.sequence = self.sequence.wrapping_add(1);
        let compound = compound.after_sequence(self.session, self.sequence, 0, is_kept);
        let first = self.ask(connection, &compound);
        if is_kept && !first.is_empty() {
            let again = self.ask(connection, &compound);
            assert_eq!(again.record(), first.record(), "it is not done twice");
        }
    }
}

/// An operation with arguments, which are anything or what somebody might say.
#[derive(Debug, Arbitrary)]
enum Step {
    Raw(u8, Bytes),
    Root,
    Look(u8),
    Open(u8, bool),
    Here,
    Read(u64, u16),
    Write(u64, Bytes),
    Close,
    Make(u8),
    Remove(u8),
    Rename(u8, u8),
    List(u64, u16, [u32; 3]),
    Attributes([u32; 3]),
    Size(u64),
    Lock(u64, u64),
    Unlock(u64, u64),
    Save,
    Restore,
}

impl Step {
    fn add(&self, compound: Compound) -> Compound {
        let current = &Stateid::CURRENT;
        match self {
            Self::Raw(number, Bytes(arguments)) => {
                let number = Operation::ALL[usize::from(*number) % Operation::ALL.len()].number();
                // A session that is over would end all inputs.
                if number == Operation::DestroySession.number() {
                    compound
                } else {
                    compound.raw(number, arguments)
                }
            }
            Self::Root => compound.put_root(),
            Self::Look(name) => compound.look_up(&[b'a' + name % 4]),
            Self::Open(name, true) => compound.open(&Open::to_write(&[b'a' + name % 4])),
            Self::Open(name, false) => compound.open(&Open::to_read(&[b'a' + name % 4])),
            Self::Here => compound.open(&Open { claim: Claim::Handle, ..Open::to_read(b"") }),
            Self::Read(offset, count) => compound.read(current, *offset, u32::from(*count) * 16),
            Self::Write(offset, Bytes(bytes)) => compound.write_bytes(current, *offset, 0, bytes),
            Self::Close => compound.close(current),
            Self::Make(name) => compound.create(2, &[b'a' + name % 4], &Values::default()),
            Self::Remove(name) => compound.remove(&[b'a' + name % 4]),
            Self::Rename(old, new) => compound.rename(&[b'a' + old % 4], &[b'a' + new % 4]),
            Self::List(cookie, bytes_max, wanted) => {
                compound.read_directory(*cookie, [0; 8], u32::from(*bytes_max), Bitmap::from_words(*wanted))
            }
            Self::Attributes(wanted) => compound.get_attributes(Bitmap::from_words(*wanted)),
            Self::Size(size) => {
                compound.set_attributes(current, &Values { size: Some(*size), ..Values::default() })
            }
            Self::Lock(offset, length) => {
                compound.lock_first(LockKind::Write, false, (*offset, *length), current, b"p")
            }
            Self::Unlock(offset, length) => compound.unlock((*offset, *length), current),
            Self::Save => compound.save(),
            Self::Restore => compound.restore(),
        }
    }
}

pub fn run(data: &[u8]) {
    static WORLD: OnceLock<Mutex<(World, u32)>> = OnceLock::new();
    let world = WORLD.get_or_init(|| Mutex::new((World::new(), 0)));
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    let (world, inputs) = &mut *world;
    *inputs += 1;
    if *inputs % INPUTS == 0 {
        let files = world.folder.path().join("files");
        for entry in std::fs::read_dir(files).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
    }
    let Some((&how, data)) = data.split_first() else { return };
    // A thread that serves is whoever it served; this one stays root.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = Connection::default();
            if how & 1 != 0 {
                let _ = world.service.answer_bytes(&mut connection, data);
                return;
            }
            let mut data = Unstructured::new(data);
            let steps = steps::<Step>(&mut data).take(OPERATIONS_MAX);
            let compound = steps.fold(Compound::new(), |compound, step| step.add(compound));
            world.in_session(&mut connection, how & 2 != 0, compound);
        });
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut call = Writer::new();
    let exchange = Compound::new().exchange_id([1; 8], b"seed", exchange::USE_NON_PNFS);
    write_call(&mut call, 1, Some(&root()), Some(&exchange));
    let mut null = Writer::new();
    write_call(&mut null, 1, None, None);
    let record = |call: &Writer| [&[1], call.as_bytes()].concat();
    let mut seeds = vec![record(&call), record(&null)];
    // A step is told by where in its range a number of four bytes lies.
    let step = |number: u64, fields: &[u8]| {
        let place = u32::try_from((number << 32) / STEPS + 1).expect("it is below 2³²");
        [&place.to_le_bytes(), fields].concat()
    };
    let (top, open) = (step(1, &[]), step(3, &[0, 1]));
    let write = step(6, &[0, 0, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c']);
    let read = step(5, &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    let lock = step(14, &[0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    let list = step(11, &[&[0; 8][..], &[0xff; 2], &[0xff; 12]].concat());
    for after in [
        [write, read].concat(),
        [lock, step(15, &[0xff; 16]), step(7, &[])].concat(),
        [step(13, &[0xff; 6]), step(12, &[0xff; 12])].concat(),
        [top.clone(), step(8, &[1]), step(16, &[]), step(9, &[1])].concat(),
        [top.clone(), step(16, &[]), step(10, &[0, 2]), step(17, &[]), list].concat(),
        [step(4, &[]), step(0, &[20, 4, 1, 2, 3, 4])].concat(),
    ] {
        for how in [0, 2] {
            seeds.push([&[how][..], &top, &open, &after].concat());
        }
    }
    seeds
}
