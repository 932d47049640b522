use std::time::Instant;

use proptest::prelude::*;

use super::{REQUEST_BYTES_MAX, Rng};
use crate::virtio::DeviceParts;
use crate::virtio::driver::{Driver, NEXT, PATIENCE, Piece, Running, WRITE, memory};

fn bench() -> (DeviceParts, Driver) {
    (Rng::parts("rng"), Driver::new(&memory(), 0, 64))
}

fn run(parts: DeviceParts, driver: &Driver) -> Running {
    Running::start(parts.workers.into_iter().next().unwrap(), &[driver], 0)
}

#[test]
fn buffers_are_filled_with_bytes_that_differ() {
    let (parts, mut driver) = bench();
    let device = parts.device.clone();
    let _running = run(parts, &driver);
    let mut draw = || {
        let added = driver.add(&[Piece::In(40), Piece::In(24)]);
        driver.kick();
        assert_eq!(driver.wait_used(), (added.head, 64));
        [driver.read(added.at[0], 40), driver.read(added.at[1], 24)].concat()
    };
    let (first, second) = (draw(), draw());
    assert_ne!(first, second);
    assert_ne!(first[..24], first[40..]);
    assert_eq!(device.counters()["read"]["bytes"], 128);
}

#[test]
fn a_request_is_given_so_much_and_no_more() {
    let (parts, mut driver) = bench();
    let _running = run(parts, &driver);
    let added = driver.add(&[Piece::In(REQUEST_BYTES_MAX - 8), Piece::In(100)]);
    driver.kick();
    assert_eq!(driver.wait_used(), (added.head, REQUEST_BYTES_MAX));
    let tail = driver.read(added.at[1], 100);
    assert_ne!(tail[..8], [0; 8]);
    assert_eq!(tail[8..], [0; 92]);
}

/// One thing wrong with a request of two buffers of 32 bytes.
#[derive(Debug, Clone)]
enum Breakage {
    Address(u64),
    Length(u32),
    Readable,
    Next(u16),
    Head(u16),
}

/// What the device fills, or nothing if it needs a reset.
fn predict(breakage: &Breakage) -> Option<u32> {
    let is_in_ram = |address: u64| address.checked_add(32).is_some_and(|end| end <= 32 << 20);
    match *breakage {
        Breakage::Address(address) => is_in_ram(address).then_some(64),
        Breakage::Length(length) if length > 16 << 20 => None,
        Breakage::Length(length) => Some((32 + length).min(REQUEST_BYTES_MAX)),
        Breakage::Readable | Breakage::Next(_) | Breakage::Head(_) => None,
    }
}

fn breakages() -> impl Strategy<Value = Breakage> {
    prop_oneof![
        prop_oneof![(32u64 << 20) - 40..32 << 20, 0x20_0000u64..0x30_0000, any::<u64>()]
            .prop_map(Breakage::Address),
        prop_oneof![0u32..1 << 20, (32u32 << 20)..].prop_map(Breakage::Length),
        Just(Breakage::Readable),
        prop_oneof![0u16..2, 64u16..].prop_map(Breakage::Next),
        (64u16..).prop_map(Breakage::Head),
    ]
}

proptest! {
    #[test]
    fn one_broken_field_has_the_outcome_that_the_specification_wants(breakage in breakages()) {
        let (parts, mut driver) = bench();
        let running = run(parts, &driver);
        let added = driver.lay(&[Piece::In(32), Piece::In(32)]);
        let second = driver.table() + 16;
        let mut head = added.head;
        match breakage {
            Breakage::Address(address) => driver.write_descriptor(second, address, 32, WRITE, 0),
            Breakage::Length(length) => driver.write_descriptor(second, 0x20_0000, length, WRITE, 0),
            Breakage::Readable => driver.write_descriptor(driver.table(), added.at[0], 32, NEXT, 1),
            Breakage::Next(next) => driver.write_descriptor(second, added.at[1], 32, WRITE | NEXT, next),
            Breakage::Head(other) => head = other,
        }
        driver.make_available(head);
        driver.kick();
        let deadline = Instant::now() + PATIENCE;
        let outcome = loop {
            if running.needs_reset() {
                break None;
            }
            if let Some((_, written)) = driver.take_used() {
                break Some(written);
            }
            prop_assert!(Instant::now() < deadline, "neither an answer nor a reset");
            std::thread::yield_now();
        };
        prop_assert_eq!(outcome, predict(&breakage));
    }
}
