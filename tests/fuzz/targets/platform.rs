//! A guest that reads and writes ports as it likes, and whoever types to it.

use std::cell::RefCell;

use arbitrary::{Arbitrary, Unstructured};
use vmm::testing::Board;

use crate::input::{Bytes, steps};

const RAM_BYTES: u64 = 16 << 20;
/// The ports behind which something is: where each group begins.
const PORTS: [u16; 7] = [0x3f8, 0x60, 0x64, 0x70, 0x600, 0x608, 0xcf8];
/// A group has no more.
const PORTS_OF_A_GROUP: u16 = 12;
/// The longest that a string instruction moves at once.
const STRING_BYTES_MAX: usize = 4096;

#[derive(Debug, Arbitrary)]
enum Step {
    Read { port: Port, width: u8 },
    Write { port: Port, bytes: Bytes },
    ReadString { port: Port, length: u16 },
    Type(Bytes),
    AskRemoval { slot: u8 },
}

#[derive(Debug, Arbitrary)]
enum Port {
    Known { group: u8, offset: u8 },
    Any(u16),
}

impl Port {
    fn number(&self) -> u16 {
        match self {
            Port::Known { group, offset } => {
                PORTS[usize::from(*group) % PORTS.len()] + u16::from(*offset) % PORTS_OF_A_GROUP
            }
            Port::Any(port) => *port,
        }
    }
}

thread_local! {
    static BOARD: RefCell<Board> = RefCell::new(Board::new(RAM_BYTES));
}

/// Runs one guest.
pub fn run(data: &[u8]) {
    BOARD.with_borrow_mut(|board| {
        board.reset();
        steps(&mut Unstructured::new(data)).for_each(|step| take(board, &step));
        // The clock, the reset register and the console are as they were.
        let mut value = [0xff];
        board.write_port(0x70, &[0x0d]);
        board.read_port(0x71, &mut value);
        assert_eq!(value, [0x80], "the clock has lost its battery");
        board.reset();
        let before = board.output().end();
        board.write_port(0x3f8, b"x");
        assert_eq!(board.output().end(), before + 1, "the serial port writes nothing after a reset");
    });
}

fn take(board: &Board, step: &Step) {
    match step {
        Step::Read { port, width } => board.read_port(port.number(), &mut [0; 4][..1 << (width % 3)]),
        Step::Write { port, bytes } => {
            board.write_port(port.number(), &bytes.0);
        }
        Step::ReadString { port, length } => {
            board.read_port(port.number(), &mut vec![0; usize::from(*length) % STRING_BYTES_MAX]);
        }
        Step::Type(bytes) => board.type_in(&bytes.0),
        Step::AskRemoval { slot } => board.ask_removal(1 + slot % 31),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
