use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::virtio::driver::{Driver, Piece, memory};
use crate::virtio::{Buffers, Ring, feature};

const SIZE: u16 = 16;
const FEATURES: u64 = feature::EVENT_IDX | feature::INDIRECT_DESC;

fn region(queues: u16) -> Arc<InFlightRegion> {
    let (file, spec) = InFlightRegion::create(queues, SIZE).unwrap();
    Arc::new(InFlightRegion::map(file.into(), &spec).unwrap())
}

/// A ring over the region, as another process finds it.
fn ring(driver: &Driver, region: &Arc<InFlightRegion>) -> Ring {
    use virtio_queue::QueueT;
    let mut active = driver.active();
    let used: u16 = driver.memory.read_obj(vm_memory::GuestAddress(driver.used_ring() + 2)).unwrap();
    active.queue.set_next_used(used);
    active.in_flight = region.queue(0, SIZE);
    Ring::new(active, FEATURES).unwrap()
}

#[test]
fn what_was_taken_and_not_given_back_is_taken_first_and_in_order() {
    let (mut driver, region) = (Driver::new(&memory(), 0, SIZE), region(1));
    let heads: Vec<u16> = (0..5).map(|_| driver.add(&[Piece::In(1)]).head).collect();
    let mut first = ring(&driver, &region);
    for head in &heads[..4] {
        assert_eq!(first.pop().unwrap(), Some(*head));
    }
    first.put_used(heads[2], 0);
    first.notify();
    // Given back, and never shown.
    first.put_used(heads[0], 0);
    drop(first);
    let mut second = ring(&driver, &region);
    for head in [heads[0], heads[1], heads[3], heads[4]] {
        assert_eq!(second.pop().unwrap(), Some(head));
    }
    assert_eq!(second.pop().unwrap(), None);
}

#[test]
fn what_was_shown_and_not_unmarked_is_not_done_again() {
    let (mut driver, region) = (Driver::new(&memory(), 0, SIZE), region(1));
    let heads: Vec<u16> = (0..3).map(|_| driver.add(&[Piece::In(1)]).head).collect();
    let mut first = ring(&driver, &region);
    (0..3).for_each(|_| assert!(first.pop().unwrap().is_some()));
    first.put_used(heads[1], 0);
    first.put_used(heads[2], 0);
    // As far as that goes before the process ends.
    driver.memory.write_obj(2u16, vm_memory::GuestAddress(driver.used_ring() + 2)).unwrap();
    drop(first);
    let mut second = ring(&driver, &region);
    assert_eq!(second.pop().unwrap(), Some(heads[0]));
    assert_eq!(second.pop().unwrap(), None);
}

#[test]
fn writes_are_lost_until_a_flush_that_began_after_them() {
    let region = region(2);
    let [one, other] = [0, 1].map(|index| Tracker::resume(region.queue(index, SIZE).unwrap(), 0).0);
    one.count_write();
    let began = other.written();
    one.count_write();
    assert_eq!(region.unflushed(), 2);
    other.flushed(began);
    assert_eq!(region.unflushed(), 1);
    other.count_write();
    one.flushed(one.written());
    assert_eq!(region.unflushed(), 0);
    other.count_write();
    assert!(one.has_unflushed());
}

#[test]
fn a_region_that_cannot_be_is_refused() {
    let (file, spec) = InFlightRegion::create(2, SIZE).unwrap();
    let map = |spec: RegionSpec| InFlightRegion::map(file.try_clone().unwrap().into(), &spec).map(drop);
    map(spec).unwrap();
    for broken in [
        RegionSpec { bytes: spec.bytes + 1, ..spec },
        RegionSpec { bytes: 0, ..spec },
        RegionSpec { offset: 4096, ..spec },
        RegionSpec { offset: u64::MAX, ..spec },
        RegionSpec { queues: 0, ..spec },
        RegionSpec { queues: u16::MAX, ..spec },
        RegionSpec { queue_size: 0, ..spec },
        RegionSpec { queue_size: u16::MAX, ..spec },
    ] {
        assert!(matches!(map(broken), Err(RegionError::Size { .. })), "{broken:?}");
    }
    let loose = tempfile::tempfile().unwrap();
    loose.set_len(spec.bytes).unwrap();
    assert!(matches!(InFlightRegion::map(loose.into(), &spec), Err(RegionError::NotSealed)));
    let region = InFlightRegion::map(file.try_clone().unwrap().into(), &spec).unwrap();
    region.word(1, VERSION_AT).store(2, Ordering::Relaxed);
    assert!(matches!(map(spec), Err(RegionError::Version { version: 2 })));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add,
    Take,
    /// One of those that were taken.
    GiveBack(usize),
    Notify,
    Die,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Add),
        3 => Just(Step::Take),
        3 => (0usize..16).prop_map(Step::GiveBack),
        2 => Just(Step::Notify),
        1 => Just(Step::Die),
    ]
}

fn take_back(driver: &mut Driver, waiting: &mut Vec<u16>) -> Result<(), TestCaseError> {
    while let Some((head, _)) = driver.take_used() {
        let place = waiting.iter().position(|waiting| *waiting == head);
        prop_assert!(place.is_some(), "chain {head} came back twice");
        waiting.remove(place.unwrap());
    }
    Ok(())
}

proptest! {
    /// Wherever a process ends, the driver gets each chain back exactly once, from that one or the next.
    #[test]
    fn each_chain_is_given_back_once(steps in prop::collection::vec(any_step(), 0..200)) {
        let (mut driver, region) = (Driver::new(&memory(), 0, SIZE), region(1));
        let mut server = ring(&driver, &region);
        // What the driver waits for, and what the server has.
        let (mut waiting, mut taken) = (Vec::new(), Vec::new());
        for step in steps.into_iter().chain([Step::Die]) {
            match step {
                // A driver uses no descriptor that is in flight.
                Step::Add if !waiting.contains(&driver.next_head()) => waiting.push(driver.add(&[Piece::In(1)]).head),
                Step::Take => taken.extend(server.pop().unwrap()),
                Step::GiveBack(index) if !taken.is_empty() => {
                    let head = taken.remove(index % taken.len());
                    server.put_used(head, 0);
                }
                Step::Add | Step::GiveBack(_) => {}
                Step::Notify => server.notify(),
                Step::Die => {
                    server = ring(&driver, &region);
                    taken.clear();
                }
            }
            take_back(&mut driver, &mut waiting)?;
        }
        while let Some(head) = server.pop().unwrap() {
            server.put_used(head, 0);
        }
        server.notify();
        take_back(&mut driver, &mut waiting)?;
        prop_assert!(waiting.is_empty(), "{waiting:?} did not come back");
    }

    /// Whatever stands in a region, whoever takes the queue over comes to an end.
    #[test]
    fn any_region_can_be_taken_over(
        bytes in prop::collection::vec(any::<u8>(), 320),
        used in any::<u16>(),
        places in prop::collection::vec(0usize..320, 0..8),
    ) {
        let region = region(1);
        for (at, byte) in bytes.into_iter().enumerate() {
            // A region of another version is not mapped.
            let is_kept = matches!(at, VERSION_AT | 9) || places.contains(&at);
            region.byte(0, at).store(if is_kept { 0 } else { byte }, Ordering::Relaxed);
        }
        let driver = Driver::new(&memory(), 0, SIZE);
        driver.memory.write_obj(used, vm_memory::GuestAddress(driver.used_ring() + 2)).unwrap();
        let mut server = ring(&driver, &region);
        let mut buffers = Buffers::with_capacity(4);
        for _ in 0..=SIZE {
            let Ok(Some(head)) = server.pop() else { break };
            let _ = server.gather(head, &mut buffers);
            server.put_used(head, 0);
        }
        server.notify();
        let _ = region.unflushed();
    }
}
