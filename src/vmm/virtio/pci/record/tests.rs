use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use volume::testing::FakeDisk;

use super::super::{PENDING, TABLE, WorkerThread};
use super::*;
use crate::suspend::format;
use crate::testing::{Board, Device, Driver};
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, BlockSpec};
use crate::virtio::rng::Rng;
use crate::virtio::{DeviceParts, feature};

const SLOT: u8 = 3;
const RAM_BYTES: u64 = 16 << 20;
const BUFFER: u64 = 0x20_0000;

fn board(parts: DeviceParts) -> (Board, Device) {
    let (mut board, device) = (Board::new(RAM_BYTES), Device::new(parts));
    board.plug(SLOT, &device);
    (board, device)
}

fn transport(board: &Board) -> &PciTransport {
    board.transport(SLOT).unwrap()
}

/// The record of a device, its workers paused as a held machine has them, after a file's way.
fn record(board: &Board) -> Result<TransportRecord, TransportError> {
    let transport = transport(board);
    transport.unit.workers.iter().for_each(WorkerThread::pause);
    let record = transport.record()?;
    assert_eq!(format::open::<TransportRecord>(&format::seal(&record)).unwrap(), record);
    Ok(record)
}

/// Another board, on which a like device goes on.
fn moved(from: &Board, parts: DeviceParts) -> (Board, Device) {
    let record = record(from).unwrap();
    let (board, device) = board(parts);
    let mut ram = vec![0; usize::try_from(RAM_BYTES).unwrap()];
    from.memory().read_slice(&mut ram, GuestAddress(0)).unwrap();
    board.memory().write_slice(&ram, GuestAddress(0)).unwrap();
    transport(&board).restore(&record).unwrap();
    transport(&board).go_on();
    (board, device)
}

#[test]
fn a_queue_is_served_on_from_where_it_was() {
    for features in [0, feature::EVENT_IDX] {
        let (first, _device) = board(Rng::parts("rng"));
        let driver = Driver::new(&first, SLOT);
        driver.move_bar(driver.bar() + 0x10_0000);
        driver.start(features);
        // Once round the ring, and more.
        for number in 0..70 {
            driver.receive(0, number, BUFFER, 32);
        }
        let (second, _device) = moved(&first, Rng::parts("rng"));
        let driver = Driver::new(&second, SLOT);
        assert_eq!(driver.status(), 15);
        for number in 70..140 {
            driver.receive(0, number, BUFFER, 32);
        }
    }
}

#[test]
fn what_the_driver_asked_meanwhile_is_done() {
    let (first, _device) = board(Rng::parts("rng"));
    let driver = Driver::new(&first, SLOT);
    driver.start(0);
    driver.receive(0, 0, BUFFER, 32);
    transport(&first).unit.workers.iter().for_each(WorkerThread::pause);
    // Made available and kicked, and not seen by the device any more.
    first.memory().write_obj(2u16, GuestAddress(0x4002)).unwrap();
    driver.kick(0);
    let (second, _device) = moved(&first, Rng::parts("rng"));
    let used = || second.memory().read_obj::<u16>(GuestAddress(0x5002)).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while used() != 2 {
        assert!(std::time::Instant::now() < deadline, "the kick was lost");
        std::thread::yield_now();
    }
}

fn disk(queues: u16) -> DeviceParts {
    let backend = Arc::new(FakeDisk::new(vec![7; 1 << 20]));
    Block::new(BlockSpec { name: "blk0".into(), serial: String::new(), backend, queues }).unwrap().1
}

/// Reads a sector as the `number`th request of `queue`, by a chain of header, data and status.
fn read_sector(driver: &Driver<'_>, board: &Board, queue: u16, number: u16) {
    let rings = u64::from(queue) * crate::testing::RINGS_BYTES;
    let header = BUFFER + 0x1000;
    board.memory().write_slice(&[0; 16], GuestAddress(header)).unwrap();
    board.memory().write_slice(&[0xff; 513], GuestAddress(BUFFER)).unwrap();
    for (index, (address, length, flags)) in
        [(header, 16u32, 1u16), (BUFFER, 512, 3), (BUFFER + 512, 1, 2)].into_iter().enumerate()
    {
        let at = GuestAddress(rings + 16 * index as u64);
        let next = u16::try_from(index + 1).unwrap();
        let descriptor =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        board.memory().write_slice(&descriptor.concat(), at).unwrap();
    }
    driver.select(queue);
    let place = rings + 0x4004 + 2 * u64::from(number % driver.size());
    board.memory().write_obj(0u16, GuestAddress(place)).unwrap();
    board.memory().write_obj(number + 1, GuestAddress(rings + 0x4002)).unwrap();
    driver.kick(queue);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while board.memory().read_obj::<u16>(GuestAddress(rings + 0x5002)).unwrap() != number + 1 {
        assert!(std::time::Instant::now() < deadline, "request {number} is not answered");
        std::thread::yield_now();
    }
    let mut answer = [0; 513];
    board.memory().read_slice(&mut answer, GuestAddress(BUFFER)).unwrap();
    assert_eq!((&answer[..512], answer[512]), (&[7; 512][..], 0));
}

#[test]
fn each_queue_of_a_disk_is_served_on() {
    let (first, _device) = board(disk(2));
    let driver = Driver::new(&first, SLOT);
    driver.start(feature::EVENT_IDX);
    (0..5).for_each(|number| read_sector(&driver, &first, 0, number));
    (0..3).for_each(|number| read_sector(&driver, &first, 1, number));
    let (second, _device) = moved(&first, disk(2));
    let driver = Driver::new(&second, SLOT);
    read_sector(&driver, &second, 0, 5);
    read_sector(&driver, &second, 1, 3);
}

#[test]
fn an_interrupt_that_waits_behind_its_mask_waits_on() {
    let (first, _device) = board(Rng::parts("rng"));
    let driver = Driver::new(&first, SLOT);
    let entry = [&0xfee0_0000u64.to_le_bytes()[..], &0x31u32.to_le_bytes(), &1u32.to_le_bytes()].concat();
    driver.write(TABLE + 16, &entry[..8]);
    driver.write(TABLE + 24, &entry[8..]);
    transport(&first).lock().msix.events()[1].write(1).unwrap();
    assert_eq!(driver.read(PENDING), [2]);
    let (second, _device) = moved(&first, Rng::parts("rng"));
    let driver = Driver::new(&second, SLOT);
    assert_eq!(driver.read(PENDING), [2]);
    assert_eq!(driver.read::<16>(TABLE + 16), *entry);
}

#[test]
fn a_device_that_keeps_more_is_refused_once_a_driver_uses_it() {
    let (board, _device) = board(Balloon::new("balloon").unwrap().1);
    assert!(record(&board).is_ok());
    Driver::new(&board, SLOT).start(0);
    let outcome = record(&board);
    assert!(matches!(outcome, Err(TransportError::Unable { kind: crate::virtio::DeviceKind::Balloon })));
}

#[test]
fn a_record_that_the_device_cannot_have_come_to_is_refused() {
    let (first, _device) = board(Rng::parts("rng"));
    Driver::new(&first, SLOT).start(0);
    let sound = record(&first).unwrap();
    let refused = |change: &dyn Fn(&mut TransportRecord)| {
        let mut broken = sound.clone();
        change(&mut broken);
        let (board, _device) = board(Rng::parts("rng"));
        let outcome = transport(&board).restore(&broken);
        match outcome {
            Err(TransportError::Unlike { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|record| record.driver_features |= 1), "features that it does not offer");
    assert_eq!(refused(&|record| record.driver_features = 0), "features that it does not offer");
    assert_eq!(refused(&|record| record.status = 7), "a driver that agreed to no features");
    assert_eq!(refused(&|record| record.queues.clear()), "another number of queues");
    assert_eq!(refused(&|record| record.vectors.truncate(1)), "another number of interrupt vectors");
    assert_eq!(refused(&|record| record.config[0] ^= 1), "another configuration space");
    assert_eq!(refused(&|record| record.config_vector = 2), "an interrupt vector that it does not have");
    assert_eq!(refused(&|record| record.queues[0].vector = 9), "an interrupt vector that it does not have");
}

#[test]
fn rings_that_are_nowhere_break_the_device_and_nothing_else() {
    let (first, _device) = board(Rng::parts("rng"));
    Driver::new(&first, SLOT).start(0);
    let mut record = record(&first).unwrap();
    record.queues[0].rings[0] = 1 << 40;
    let (second, _device) = board(Rng::parts("rng"));
    transport(&second).restore(&record).unwrap();
    transport(&second).go_on();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while Driver::new(&second, SLOT).status() & 0x40 == 0 {
        assert!(std::time::Instant::now() < deadline, "the device needs a reset and does not say so");
        std::thread::yield_now();
    }
}
