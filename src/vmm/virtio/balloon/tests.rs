use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{Balloon, feature};
use crate::memory::Memory;
use crate::virtio::VirtioDevice;
use crate::virtio::driver::{Driver, NEXT, PATIENCE, Piece, Running, WRITE, memory};

const ALL: u64 = feature::STATS_VQ | feature::PAGE_REPORTING;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORTING: usize = 3;

struct Bench {
    balloon: Arc<Balloon>,
    memory: Memory,
    drivers: Vec<Driver>,
    running: Running,
}

impl Bench {
    fn new(features: u64) -> Self {
        let (balloon, parts) = Balloon::new("balloon").unwrap();
        let memory = memory();
        let drivers: Vec<Driver> = (0..4).map(|index| Driver::new(&memory, index, 128)).collect();
        let active: Vec<&Driver> = drivers.iter().collect();
        let running = Running::start(parts.workers.into_iter().next().unwrap(), &active, features);
        Bench { balloon, memory, drivers, running }
    }

    fn ask(&mut self, queue: usize, pieces: &[Piece]) {
        let added = self.drivers[queue].add(pieces);
        self.drivers[queue].kick();
        assert_eq!(self.drivers[queue].wait_used(), (added.head, 0));
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn counter(&self, name: &str) -> u64 {
        self.balloon.counters()[name].as_u64().unwrap()
    }
}

fn list(pages: &[u32]) -> Piece {
    Piece::Out(pages.iter().flat_map(|page| page.to_le_bytes()).collect())
}

fn numbers(numbers: &[(u16, u64)]) -> Piece {
    Piece::Out(
        numbers
            .iter()
            .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
            .collect(),
    )
}

#[test]
fn pages_in_the_balloon_are_the_hosts_and_their_neighbours_are_not() {
    let mut bench = Bench::new(ALL);
    bench.write(0x180_0000, &[7; 5 * 4096]);
    bench.ask(INFLATE, &[list(&[0x1803, 0x1802, 0x1801])]);
    let read = |page: u64| bench.drivers[0].read(0x180_0000 + page * 4096, 4096);
    assert_eq!(read(0), [7; 4096]);
    assert_eq!((1..4).map(|page| read(page)[0]).collect::<Vec<_>>(), [0; 3]);
    assert_eq!(read(4), [7; 4096]);
    assert_eq!(bench.counter("inflated_bytes"), 3 * 4096);
    bench.ask(DEFLATE, &[list(&[0x1801])]);
    assert_eq!(bench.counter("deflated_bytes"), 4096);
}

#[test]
fn pages_that_are_not_ram_are_left_alone_and_counted() {
    let mut bench = Bench::new(ALL);
    bench.write(0x180_0000, &[7; 4096]);
    bench.ask(INFLATE, &[list(&[0x2000, u32::MAX, 0x1800])]);
    assert_eq!(bench.counter("errors"), 2);
    assert_eq!(bench.drivers[0].read(0x180_0000, 1), [0]);
    assert!(!bench.running.needs_reset());
}

#[test]
fn free_pages_go_to_the_host_and_cut_ones_stay() {
    for (features, queue) in [(ALL, REPORTING), (feature::PAGE_REPORTING, STATISTICS)] {
        let mut bench = Bench::new(features);
        bench.write(0x180_0000, &[7; 4 * 4096]);
        let driver = &mut bench.drivers[queue];
        driver.write_descriptor(driver.table(), 0x180_0800, 2 * 4096, WRITE, 0);
        driver.make_available(0);
        driver.kick();
        driver.wait_used();
        let read = |at: u64| bench.drivers[0].read(at, 1)[0];
        assert_eq!([0x180_0fff, 0x180_1000, 0x180_1fff, 0x180_2000].map(read), [7, 0, 0, 7]);
        assert_eq!(bench.counter("reported_bytes"), 4096);
    }
}

#[test]
fn statistics_are_renewed_on_demand() {
    let mut bench = Bench::new(ALL);
    assert_eq!(bench.balloon.statistics(), None);
    let deadline = Instant::now() + PATIENCE;
    for free in [100, 200] {
        let added = bench.drivers[STATISTICS].add(&[numbers(&[(4, free), (5, 1000), (77, 1)])]);
        bench.drivers[STATISTICS].kick();
        while bench.balloon.statistics().and_then(|statistics| statistics.free) != Some(free) {
            assert!(Instant::now() < deadline, "the statistics do not arrive");
            std::thread::yield_now();
        }
        bench.balloon.statistics();
        assert_eq!(bench.drivers[STATISTICS].wait_used(), (added.head, 0));
    }
    assert_eq!(bench.balloon.statistics().unwrap().total, Some(1000));
    bench.running.worker.stop();
    assert_eq!(bench.balloon.statistics(), None);
}

#[test]
fn a_driver_that_is_gone_has_given_nothing_up() {
    let bench = Bench::new(ALL);
    bench.balloon.write_config(4, &7u32.to_le_bytes());
    assert_eq!(bench.balloon.actual_bytes(), 7 * 4096);
    bench.running.worker.stop();
    assert_eq!(bench.balloon.actual_bytes(), 0);
}

#[test]
fn target_and_actual_size_are_in_the_configuration() {
    let (balloon, _parts) = Balloon::new("balloon").unwrap();
    balloon.set_target_bytes(10 * 4096 + 5);
    balloon.write_config(4, &3u32.to_le_bytes());
    balloon.write_config(0, &99u32.to_le_bytes());
    balloon.write_config(4, &[1]);
    let mut config = [0; 8];
    balloon.read_config(0, &mut config);
    assert_eq!(config, [10, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!((balloon.target_bytes(), balloon.actual_bytes()), (10 * 4096, 3 * 4096));
}

/// One thing wrong with a good request.
#[derive(Debug, Clone)]
enum Breakage {
    ListWritable,
    ListAddress(u64),
    ListLength(u32),
    ListNext(u16),
    NumbersLength(u32),
    ReportReadable,
    ReportAddress(u64),
    ReportLength(u32),
}

fn is_answered(breakage: &Breakage) -> bool {
    let is_in_ram = |at: u64, length: u64| at.checked_add(length).is_some_and(|end| end <= 32 << 20);
    match *breakage {
        Breakage::ListWritable | Breakage::ListNext(_) | Breakage::ReportReadable => false,
        Breakage::ListAddress(at) => is_in_ram(at, 8),
        Breakage::ListLength(length) => length.is_multiple_of(4) && length <= 65536,
        Breakage::NumbersLength(length) => matches!(length % 10, 0 | 1),
        Breakage::ReportAddress(at) => is_in_ram(at, 4096),
        Breakage::ReportLength(length) => is_in_ram(0x100_0000, u64::from(length)),
    }
}

fn breakages() -> impl Strategy<Value = Breakage> {
    let address = || prop_oneof![0x100_0000u64..0x110_0000, (32u64 << 20) - 5000..32 << 20, any::<u64>()];
    prop_oneof![
        Just(Breakage::ListWritable),
        address().prop_map(Breakage::ListAddress),
        prop_oneof![0u32..100, 65530u32..65550].prop_map(Breakage::ListLength),
        prop_oneof![0u16..2, 128u16..].prop_map(Breakage::ListNext),
        (0u32..200).prop_map(Breakage::NumbersLength),
        Just(Breakage::ReportReadable),
        address().prop_map(Breakage::ReportAddress),
        any::<u32>().prop_map(Breakage::ReportLength),
    ]
}

proptest! {
    #[test]
    fn one_broken_field_has_the_outcome_that_the_specification_wants(breakage in breakages()) {
        let mut bench = Bench::new(ALL);
        let (queue, address, length, flags, next) = match breakage {
            Breakage::ListWritable => (INFLATE, 0x100_0000, 8, WRITE, 0),
            Breakage::ListAddress(address) => (INFLATE, address, 8, 0, 0),
            Breakage::ListLength(length) => (DEFLATE, 0x100_0000, length, 0, 0),
            Breakage::ListNext(next) => (INFLATE, 0x100_0000, 8, NEXT, next),
            Breakage::NumbersLength(length) => (STATISTICS, 0x100_0000, length, 0, 0),
            Breakage::ReportReadable => (REPORTING, 0x100_0000, 4096, 0, 0),
            Breakage::ReportAddress(address) => (REPORTING, address, 4096, WRITE, 0),
            Breakage::ReportLength(length) => (REPORTING, 0x100_0000, length, WRITE, 0),
        };
        let driver = &mut bench.drivers[queue];
        // Whatever follows the broken descriptor is one with no flags and no bytes, or itself.
        driver.write_descriptor(driver.table(), address, length, flags, next);
        if next == 1 {
            driver.write_descriptor(driver.table() + 16, address, length, NEXT, 0);
        }
        driver.make_available(0);
        driver.kick();
        let deadline = Instant::now() + PATIENCE;
        let outcome = loop {
            if bench.running.needs_reset() {
                break false;
            }
            // Lent statistics come back when they are asked for.
            if bench.balloon.statistics().is_some() || bench.drivers[queue].take_used().is_some() {
                break true;
            }
            prop_assert!(Instant::now() < deadline, "neither an answer nor a reset");
            std::thread::yield_now();
        };
        prop_assert_eq!(outcome, is_answered(&breakage));
    }
}
