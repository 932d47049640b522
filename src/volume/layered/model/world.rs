//! A volume, its queues and its storage, and the steps of a history done to them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::history::{Config, Op, Step};
use super::sectors::{Model, SECTOR, SECTORS, VOLUME_BLOCKS, content, offset};
use crate::backend::{BlockQueue, BlockRequest};
use crate::layered::check::check;
use crate::layered::encrypted_tests::{create_encrypted, open};
use crate::layered::engine::Engine;
use crate::layered::folder;
use crate::layered::layer::Geometry;
use crate::layered::queue::Queue;
use crate::layered::storage::fake::{FakeStorage, Numbers, with_hook};
use crate::testing::Memory;

const DEPTH: u16 = 16;

/// A request in flight.
struct InFlight {
    op: Op,
    /// Its number, if it is a write.
    write: u32,
    pushed: u64,
    memory: Memory,
}

struct World {
    storage: RefCell<FakeStorage>,
    engine: RefCell<Option<Arc<Engine<FakeStorage>>>>,
    queues: Vec<RefCell<Option<Queue<FakeStorage>>>>,
    model: RefCell<Model>,
    steps: RefCell<VecDeque<Step>>,
    in_flight: RefCell<HashMap<u64, InFlight>>,
    next_token: Cell<u64>,
    numbers: RefCell<Numbers>,
    crashes: Cell<usize>,
}

/// Does a history, with a crash before each operation; says how many crashes there were.
pub(super) fn run(config: Config, steps: Vec<Step>) -> usize {
    let storage = FakeStorage::new();
    let geometry = Geometry { segment_blocks: config.segment_blocks, log_pages: config.log_pages };
    if config.is_encrypted {
        create_encrypted(&storage, VOLUME_BLOCKS * 4096, geometry);
    } else {
        folder::create(&storage, VOLUME_BLOCKS * 4096, geometry).unwrap();
    }
    let world = Rc::new(World {
        storage: RefCell::new(storage),
        engine: RefCell::new(None),
        queues: (0..3).map(|_| RefCell::new(None)).collect(),
        model: RefCell::new(Model::new()),
        steps: RefCell::new(steps.into()),
        in_flight: RefCell::default(),
        next_token: Cell::new(0),
        numbers: RefCell::new(Numbers::new(config.seed)),
        crashes: Cell::new(0),
    });
    world.open();
    let hook = {
        let world = Rc::clone(&world);
        Rc::new(move |_: &FakeStorage, _: &'static str| world.between_operations())
    };
    with_hook(hook, || {
        while let Some(step) = world.next_step(|_| true) {
            world.do_step(step);
        }
        world.end_all();
    });
    world.crash();
    world.reopen();
    let crashes = world.crashes.get();
    world.close();
    crashes
}

impl World {
    fn below(&self, end: usize) -> usize {
        self.numbers.borrow_mut().below(end)
    }

    fn storage(&self) -> FakeStorage {
        self.storage.borrow().clone()
    }

    fn engine(&self) -> Arc<Engine<FakeStorage>> {
        Arc::clone(self.engine.borrow().as_ref().unwrap())
    }

    fn open(&self) {
        let engine = Arc::new(open(self.storage()));
        for queue in &self.queues {
            *queue.borrow_mut() = Some(Queue::new(Arc::clone(&engine), DEPTH).unwrap());
        }
        *self.engine.borrow_mut() = Some(engine);
    }

    fn close(&self) {
        self.queues.iter().for_each(|queue| drop(queue.borrow_mut().take()));
        // What was not acknowledged may have happened or not, now and for ever.
        self.in_flight.borrow_mut().clear();
        self.engine.borrow_mut().take();
    }

    fn reopen(&self) {
        self.close();
        // After a failed sync only a restart of the machine tells what there is.
        if self.storage().has_failed() {
            let left = self.storage().crash(&mut self.numbers.borrow_mut());
            *self.storage.borrow_mut() = left;
        }
        self.storage().set_full(false);
        self.storage().forget_failure();
        self.open();
        let mut model = self.model.borrow_mut();
        for_sectors(&self.engine(), |sector, bytes| model.reopened(sector, bytes));
    }

    fn next_step(&self, fits: impl Fn(&Step) -> bool) -> Option<Step> {
        let mut steps = self.steps.borrow_mut();
        if fits(steps.front()?) { steps.pop_front() } else { None }
    }

    /// Before an operation of the storage: a crash, and what the queues do meanwhile.
    fn between_operations(&self) {
        self.crash();
        let is_queues = |step: &Step| matches!(step, Step::Push { .. } | Step::Pump { .. });
        while self.below(3) == 0 {
            // A queue that is at work itself cannot do anything else.
            if self.queues.iter().any(|queue| queue.try_borrow_mut().is_err()) {
                return;
            }
            let Some(step) = self.next_step(is_queues) else { return };
            self.do_step(step);
            self.crash();
        }
    }

    fn do_step(&self, step: Step) {
        match step {
            Step::Push { queue, op } => self.push(queue, op),
            Step::Pump { queue, calls } => self.pump(queue, calls),
            Step::Commit => {
                if self.engine().state().wants_round() {
                    self.engine().round();
                }
            }
            // These may fail where the storage does, and then everything stays as it was.
            Step::BeginSeal => {
                if self.engine().state().sealing().is_none() {
                    let _ = self.engine().begin_seal();
                }
            }
            Step::FinishSeal => {
                if self.engine().state().sealing().is_some_and(|(_, is_written)| !is_written) {
                    let _ = self.engine().finish_seal();
                }
            }
            Step::Merge { lower } => {
                let layers: Vec<_> = self.engine().stack().iter().map(|layer| layer.id).collect();
                if let Some(pair) = layers.get(lower..lower + 2) {
                    let _ = self.engine().merge(pair[0], pair[1], &|| self.below(20) == 0);
                }
            }
            Step::Grow => {
                let size = self.engine().size_bytes();
                let _ = self.engine().grow(size + 4096);
            }
            Step::Reopen => self.reopen(),
            Step::Full(full) => self.storage().set_full(full),
            Step::Fail { after, no_space } => {
                let errno = if no_space { libc::ENOSPC } else { libc::EIO };
                self.storage().fail_at(self.storage().steps() + after, errno);
            }
        }
    }

    fn push(&self, queue: usize, op: Op) {
        let mut queue = self.queues[queue].borrow_mut();
        let Some(queue) = queue.as_mut() else { return };
        if queue.in_flight() >= usize::from(DEPTH) {
            return;
        }
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let mut model = self.model.borrow_mut();
        let (write, pushed) = match op {
            Op::Write { first, count } => (model.push_write(first..first + count, false), 0),
            Op::Zero { first, count, .. } => (model.push_write(first..first + count, true), 0),
            Op::Discard { first, count } => {
                let (start, end) = (first.next_multiple_of(8), (first + count) / 8 * 8);
                (model.push_write(start..end.max(start), true), 0)
            }
            Op::Read { .. } | Op::Flush => (0, model.now()),
        };
        drop(model);
        let memory = match op {
            Op::Write { first, count } => {
                let sectors: Vec<_> = (first..first + count).map(|sector| content(write, sector)).collect();
                Memory::from_bytes(&sectors.concat())
            }
            Op::Read { count, .. } => Memory::from_bytes(&vec![0xee; count * SECTOR]),
            _ => Memory::new(0),
        };
        let len = |count: usize| (count * SECTOR) as u64;
        let pieces = memory.pieces(700);
        let request = match op {
            Op::Write { first, .. } => BlockRequest::Write { offset: offset(first), buffers: &pieces },
            Op::Read { first, .. } => BlockRequest::Read { offset: offset(first), buffers: &pieces },
            Op::Zero { first, count, may_unmap } => {
                BlockRequest::WriteZeroes { offset: offset(first), len: len(count), may_unmap }
            }
            Op::Discard { first, count } => BlockRequest::Discard { offset: offset(first), len: len(count) },
            Op::Flush => BlockRequest::Flush,
        };
        queue.push(token, request).unwrap();
        if self.below(4) > 0 {
            queue.submit().unwrap();
        }
        self.in_flight.borrow_mut().insert(token, InFlight { op, write, pushed, memory });
        self.take_ended(queue);
    }

    fn pump(&self, queue: usize, calls: usize) {
        let mut queue = self.queues[queue].borrow_mut();
        let Some(queue) = queue.as_mut() else { return };
        for _ in 0..calls {
            queue.step();
            self.take_ended(queue);
        }
    }

    fn take_ended(&self, queue: &mut Queue<FakeStorage>) {
        while let Some(completion) = queue.take_ended() {
            let ended =
                self.in_flight.borrow_mut().remove(&completion.token).expect("each request ends once");
            let mut model = self.model.borrow_mut();
            // What failed may have been done in part: it replaces nothing.
            if completion.result.is_err() {
                continue;
            }
            match ended.op {
                Op::Flush => model.end_flush(ended.pushed),
                Op::Read { first, .. } => {
                    for (index, bytes) in ended.memory.to_vec().chunks(SECTOR).enumerate() {
                        model.check_read(first + index, bytes, ended.pushed);
                    }
                }
                Op::Write { .. } | Op::Zero { .. } | Op::Discard { .. } => model.end_write(ended.write),
            }
        }
    }

    /// Lets all that is in flight end: nothing waits for ever.
    fn end_all(&self) {
        for _ in 0..2000 {
            if self.in_flight.borrow().is_empty() {
                return;
            }
            (0..self.queues.len()).for_each(|queue| self.pump(queue, 4));
            self.do_step(Step::Commit);
        }
        panic!(
            "requests wait for ever: {:?}",
            self.in_flight.borrow().values().map(|one| one.op).collect::<Vec<_>>()
        );
    }

    /// Looks at what a crash would leave now.
    fn crash(&self) {
        self.crashes.set(self.crashes.get() + 1);
        let left = self.storage().crash(&mut self.numbers.borrow_mut());
        // A crash while the volume is opened again, at one of the first steps of that.
        if self.below(4) == 0 {
            let at = self.below(12);
            let steps = Cell::new(0);
            let again = Rc::new(RefCell::new(None));
            let hook = {
                let again = Rc::clone(&again);
                let mut numbers = self.numbers.borrow().clone();
                let crash = RefCell::new(move |storage: &FakeStorage| storage.crash(&mut numbers));
                Rc::new(move |storage: &FakeStorage, _: &'static str| {
                    steps.set(steps.get() + 1);
                    if steps.get() == at {
                        *again.borrow_mut() = Some((crash.borrow_mut())(storage));
                    }
                })
            };
            with_hook(hook, || drop(open(left.clone())));
            let again = again.take();
            if let Some(again) = again {
                self.check_left(again);
            }
        }
        self.check_left(left);
    }

    fn check_left(&self, left: FakeStorage) {
        let found = check(&left, false).unwrap();
        assert!(found.is_sound(), "{found:?}");
        let engine = open(left);
        let model = self.model.borrow();
        for_sectors(&engine, |sector, bytes| model.check_crash(sector, bytes));
    }
}

fn for_sectors(engine: &Engine<FakeStorage>, mut each: impl FnMut(usize, &[u8])) {
    // A block at a time.
    for first in (0..SECTORS).step_by(8) {
        let mut bytes = [0; 8 * SECTOR];
        engine.read_at(offset(first), &mut bytes).unwrap();
        bytes.chunks(SECTOR).enumerate().for_each(|(index, bytes)| each(first + index, bytes));
    }
}
