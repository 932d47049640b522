//! The transport of a device that notes what it is given, on a board whose driver breaks the rules.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::PCI_WINDOW_END;
use crate::testing::{Board, Device, Driver, RINGS_BYTES};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{DeviceParts, QueueHandler, Ring, WorkerPart};

const SLOT: u8 = 5;
const RAM_BYTES: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
const SIZES: [u16; 2] = [8, 4];
const OWN_FEATURE: u64 = 1 << 3;

/// What happened to a handler, and for which worker's first queue.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Started { features: u64, queues: Vec<u16> },
    Kicked(u16),
    Stopped,
}

struct Probe;

impl VirtioDevice for Probe {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }
    fn features(&self) -> u64 {
        OWN_FEATURE
    }
    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }
    fn config(&self) -> Vec<u8> {
        b"probe".to_vec()
    }
    fn counters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Breaks when it finds anything in its queue.
struct ProbeHandler {
    rings: Vec<Ring>,
    told: Sender<Told>,
}

impl QueueHandler for ProbeHandler {
    fn start(&mut self, activation: Activation, _: &WorkerContext) -> Result<(), DeviceError> {
        let (features, queues) = (activation.features, activation.queues);
        let indexes = queues.iter().map(|queue| queue.index).collect();
        self.rings = queues.into_iter().map(|queue| Ring::new(queue, features)).collect::<Result<_, _>>()?;
        let _ = self.told.send(Told::Started { features, queues: indexes });
        Ok(())
    }
    fn kicked(&mut self, index: u16, _: &WorkerContext) -> Result<(), DeviceError> {
        for ring in &mut self.rings {
            if ring.pop()?.is_some() {
                return Err(ring.bad_chain("it is there"));
            }
        }
        let _ = self.told.send(Told::Kicked(index));
        Ok(())
    }
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn resume(&mut self, _: &WorkerContext) -> Result<(), DeviceError> {
        Ok(())
    }
    fn stop(&mut self, _: &WorkerContext) {
        if !self.rings.is_empty() {
            self.rings.clear();
            let _ = self.told.send(Told::Stopped);
        }
    }
}

/// A board with the probe in its slot; each queue has a worker of its own.
fn board() -> (Board, Receiver<Told>) {
    let (told, heard) = channel();
    let workers = (0u16..).zip(SIZES).map(|(index, _)| {
        let handler = Box::new(ProbeHandler { rings: Vec::new(), told: told.clone() });
        WorkerPart { name: format!("probe-q{index}"), queues: vec![index], handler }
    });
    let parts = DeviceParts { device: Arc::new(Probe), workers: workers.collect() };
    let mut board = Board::new(RAM_BYTES);
    board.plug(SLOT, &Device::new(parts));
    (board, heard)
}

fn started(features: u64, queue: u16) -> Told {
    Told::Started { features: features | feature::VERSION_1, queues: vec![queue] }
}

/// The next two things told, the workers being two threads.
fn two(heard: &Receiver<Told>) -> [Told; 2] {
    let mut two = [0; 2].map(|_| heard.recv_timeout(PATIENCE).expect("the workers are told"));
    if let [Told::Started { queues: first, .. }, Told::Started { queues: second, .. }] = &two
        && first > second
    {
        two.reverse();
    }
    two
}

fn wait_needs_reset(driver: &Driver<'_>) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while driver.status() & DEVICE_NEEDS_RESET == 0 {
        assert!(std::time::Instant::now() < deadline, "the device does not ask for a reset");
        std::thread::yield_now();
    }
}

/// MSI-X is off here, so what is signalled stays pending.
fn is_pending(driver: &Driver<'_>, vector: u8) -> bool {
    driver.read::<1>(PENDING)[0] >> vector & 1 != 0
}

#[test]
fn a_driver_that_keeps_to_the_order_gets_a_device_that_runs() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    assert_eq!(board.driver_state(SLOT), DriverState::None);
    let ring_features = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;
    assert_eq!(driver.offered(), OWN_FEATURE | ring_features);
    driver.start(OWN_FEATURE);
    assert_eq!(two(&heard), [started(OWN_FEATURE, 0), started(OWN_FEATURE, 1)]);
    assert_eq!(board.driver_state(SLOT), DriverState::Active);
    driver.kick(1);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Kicked(1)));
    driver.reset();
    assert_eq!(two(&heard), [Told::Stopped, Told::Stopped]);
    assert_eq!(board.driver_state(SLOT), DriverState::None);
}

#[test]
fn features_are_taken_only_if_they_were_offered_and_version_1_is_among_them() {
    let (board, _heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    for wrong in [0, OWN_FEATURE, feature::VERSION_1 | 1 << 4, feature::VERSION_1 | 1 << 63] {
        driver.reset();
        driver.set_status(3);
        driver.set_features(wrong);
        driver.set_status(11);
        assert_eq!(driver.status(), 3, "{wrong:#x} is taken");
        driver.set_status(15);
        assert_eq!(driver.status(), 3, "it runs with {wrong:#x}");
    }
    // There are two halves; what is beyond is nothing.
    driver.write(0x00, &2u32.to_le_bytes());
    assert_eq!(driver.read(0x04), [0; 4]);
    driver.reset();
    driver.negotiate(0);
    driver.set_features(feature::VERSION_1 | OWN_FEATURE);
    driver.write(0x08, &0u32.to_le_bytes());
    assert_eq!(driver.read(0x0c), [0; 4], "features are settled by FEATURES_OK");
}

#[test]
fn a_status_is_added_to_and_only_zero_takes_away() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.set_status(4);
    assert_eq!((driver.status(), board.driver_state(SLOT)), (0, DriverState::None), "nothing was negotiated");
    driver.set_status(DEVICE_NEEDS_RESET);
    assert_eq!(driver.status(), 0, "only the device says that it is broken");
    driver.start(0);
    assert_eq!(two(&heard), [started(0, 0), started(0, 1)]);
    driver.set_status(1);
    assert_eq!(driver.status(), 15, "a driver may not clear bits");
    driver.set_status(15);
    assert!(heard.recv_timeout(Duration::from_millis(20)).is_err(), "it was started once");
    driver.set_status(0x80);
    assert_eq!(driver.status(), 0x8f, "the driver has given up");
    driver.reset();
}

#[test]
fn a_queue_that_is_set_up_wrong_starts_nothing_and_a_reset_mends_it() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    let sizes = [0u16, 3, 16, 0xffff].map(|size| (Some(size), [0, 0x4000, 0x5000]));
    let places = [[8, 0x4000, 0x5000], [0, 0x4001, 0x5000], [0, 0x4000, 0x5002]].map(|rings| (None, rings));
    for (size, rings) in sizes.into_iter().chain(places) {
        driver.reset();
        driver.negotiate(0);
        driver.write(0x10, &[0, 0]);
        driver.place(0, 0);
        driver.enable();
        driver.select(1);
        if let Some(size) = size {
            driver.write(0x18, &size.to_le_bytes());
        }
        for (register, address) in [0x20, 0x28, 0x30].into_iter().zip(rings) {
            driver.write(register, &u32::try_from(address).unwrap().to_le_bytes());
        }
        driver.enable();
        let generation = driver.read::<1>(0x15);
        driver.set_status(15);
        assert_eq!(driver.status(), 15 | DEVICE_NEEDS_RESET, "size {size:?}, rings {rings:x?}");
        assert_eq!(board.driver_state(SLOT), DriverState::NeedsReset);
        assert!(board.was_told_of_failure() && is_pending(&driver, 0));
        assert_ne!(driver.read::<1>(0x15), generation, "the driver is to look at the configuration");
        assert!(heard.try_recv().is_err(), "a worker was started, the other queue being wrong");
        driver.set_status(15);
        assert_eq!(driver.status(), 15 | DEVICE_NEEDS_RESET, "writing mends nothing");
    }
    driver.reset();
    driver.start(0);
    assert_eq!(two(&heard), [started(0, 0), started(0, 1)]);
}

#[test]
fn rings_outside_of_memory_break_the_device_and_no_more() {
    let (board, _heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    for place in [RAM_BYTES - 64, RAM_BYTES, PCI_WINDOW_START, 1 << 40, !0xffff, !0xf] {
        driver.reset();
        driver.negotiate(0);
        driver.select(0);
        for register in [0x20, 0x28, 0x30] {
            driver.write(register, &low_half(place).to_le_bytes());
            driver.write(register + 4, &low_half(place >> 32).to_le_bytes());
        }
        driver.enable();
        driver.set_status(15);
        wait_needs_reset(&driver);
        assert_eq!(board.driver_state(SLOT), DriverState::NeedsReset, "{place:#x}");
    }
    driver.reset();
    driver.start(0);
}

#[test]
fn a_queue_in_use_does_not_change_and_none_comes_later() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.negotiate(0);
    driver.place(0, RINGS_BYTES);
    driver.write(0x18, &[4, 0]);
    driver.enable();
    driver.enable();
    driver.write(0x1c, &[0, 0]);
    driver.place(0, 0);
    driver.write(0x18, &[2, 0]);
    let here = u32::try_from(RINGS_BYTES).unwrap().to_le_bytes();
    assert_eq!((driver.read(0x1c), driver.size(), driver.read(0x20)), ([1, 0], 4, here));
    driver.write(0x1a, &[1, 0]);
    assert_eq!(driver.read(0x1a), [1, 0], "a vector may change");
    driver.set_status(15);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(started(0, 0)));
    driver.select(1);
    driver.enable();
    assert_eq!(driver.read(0x1c), [0, 0], "a queue that nobody serves says that it is enabled");
    assert_eq!(driver.status(), 15);
}

#[test]
fn a_queue_that_is_not_there_is_empty_and_takes_nothing() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.negotiate(0);
    for queue in [2, 511, 0xffff] {
        driver.place(queue, 0x1000);
        driver.enable();
        assert_eq!((driver.size(), driver.read(0x1c), driver.read(0x20)), (0, [0, 0], [0; 4]));
        assert_eq!(driver.read(0x1a), [0xff, 0xff]);
    }
    driver.set_status(15);
    driver.kick(2);
    board.write_port(driver.ports() + KICK_PORTS - 4, &[0; 4]);
    assert_eq!(board.driver_state(SLOT), DriverState::Active);
    assert!(heard.try_recv().is_err());
}

#[test]
fn a_vector_that_does_not_exist_is_none() {
    let (board, _heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.select(1);
    for register in [0x10, 0x1a] {
        for (chosen, seen) in [(2u16, 2u16), (3, 0xffff), (0, 0), (0xffff, 0xffff), (0x8000, 0xffff)] {
            driver.write(register, &chosen.to_le_bytes());
            assert_eq!(driver.read(register), seen.to_le_bytes(), "register {register:#x}");
        }
    }
}

#[test]
fn the_table_of_vectors_is_written_in_dwords_and_ends() {
    let (board, _heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.write(TABLE + 16, &0xfee0_1000u64.to_le_bytes());
    driver.write(TABLE + 24, &0x41u32.to_le_bytes());
    driver.write(TABLE + 24, &[0xff]);
    driver.write(TABLE + 25, &[0xff; 4]);
    assert_eq!(driver.read(TABLE + 16), 0xfee0_1000u64.to_le_bytes());
    assert_eq!(driver.read(TABLE + 24), [0x41, 0, 0, 0, 1, 0, 0, 0]);
    // Three vectors.
    driver.write(TABLE + 48, &[0; 8]);
    assert_eq!(driver.read::<8>(TABLE + 48), [0xff; 8]);
    assert_eq!(driver.read::<8>(PENDING - 8), [0xff; 8]);
    driver.write(PENDING, &[0xff; 8]);
    assert_eq!(driver.read::<8>(PENDING), [0; 8]);
}

#[test]
fn a_broken_queue_shows_with_an_interrupt_and_the_status_stays_until_the_reset() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.start(0);
    let _ = two(&heard);
    driver.write(0x10, &[2, 0]);
    let generation = driver.read::<1>(0x15);
    // More chains than the ring has.
    board.memory().write_obj(100u16, GuestAddress(0x4002)).unwrap();
    driver.kick(0);
    wait_needs_reset(&driver);
    assert_eq!(driver.status(), 15 | DEVICE_NEEDS_RESET);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_pending(&driver, 2) {
        assert!(std::time::Instant::now() < deadline, "the configuration's interrupt was not sent");
        std::thread::yield_now();
    }
    assert_ne!(driver.read::<1>(0x15), generation);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Stopped), "the worker let go of the ring");
    driver.kick(0);
    driver.set_status(15);
    assert_eq!(driver.status(), 15 | DEVICE_NEEDS_RESET);
    driver.reset();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Stopped), "and so does the other");
    driver.start(0);
    assert_eq!(two(&heard), [started(0, 0), started(0, 1)]);
}

#[test]
fn a_reset_in_the_middle_leaves_nothing() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.negotiate(OWN_FEATURE);
    driver.write(0x10, &[0, 0]);
    driver.place(1, RINGS_BYTES);
    driver.write(0x18, &[2, 0]);
    driver.write(0x1a, &[1, 0]);
    driver.enable();
    driver.reset();
    assert_eq!((driver.read(0x08), driver.read(0x0c), driver.read(0x10)), ([0; 4], [0; 4], [0xff; 2]));
    driver.select(1);
    assert_eq!((driver.size(), driver.read(0x1c), driver.read(0x20)), (SIZES[1], [0, 0], [0; 4]));
    assert_eq!(driver.read(0x1a), [0xff; 2]);
    // Feature bits are forgotten too.
    driver.set_status(3);
    driver.set_status(11);
    assert_eq!(driver.status(), 3);
    assert!(heard.try_recv().is_err());
}

#[test]
fn accesses_of_any_width_at_any_place_are_answered() {
    let (board, _heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    for offset in (0..u64::from(BAR_BYTES)).filter(|offset| offset % 0x1000 < 0x48 || offset % 0x1000 > 0xff8)
    {
        for width in [1, 2, 4, 8] {
            let mut data = [0xaa; 8];
            board.read_memory(driver.bar() + offset, &mut data[..width]);
            assert_eq!(data[width..], [0xaa; 8][width..]);
            // The status is left alone here.
            if offset + 8 <= 0x14 || offset > 0x14 {
                driver.write(offset, &[0xff; 8][..width]);
            }
        }
    }
    assert_eq!(driver.read(DEVICE), *b"probe\0\0\0");
    assert_eq!(driver.read(DEVICE + 4), *b"e\0");
    // A register is at most four bytes: eight at once are none of them.
    driver.reset();
    driver.write(0x14, &[0xff; 8]);
    assert_eq!(driver.status(), 0);
    driver.start(0);
}

#[test]
fn the_bar_follows_the_guest_and_its_kicks_with_it() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.start(0);
    let _ = two(&heard);
    let before = driver.bar();
    driver.move_bar(PCI_WINDOW_END - 0x8000);
    let mut status = [0];
    board.read_memory(before + 0x14, &mut status);
    assert_eq!(status, [0], "nothing is where the BAR was");
    assert_eq!(driver.status(), 15);
    driver.kick(0);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Kicked(0)));
    // Over memory, over ECAM, over nothing: it is not seen there, and RAM stays RAM.
    for outside in [0, 0x10_0000, 0xe000_0000, 0xfee0_0000, 0xffff_8000] {
        driver.move_bar(outside);
        assert_eq!(driver.bar(), outside);
        assert_eq!(driver.read::<4>(0x18).len(), 4);
    }
    board.memory().write_obj(0x55aau16, GuestAddress(0x14)).unwrap();
    driver.move_bar(PCI_WINDOW_START);
    assert_eq!(driver.status(), 15);
    driver.write_config(0x04, &[0, 0]);
    assert_eq!(driver.read(0x14), [0], "memory is not decoded");
    driver.write_config(0x04, &[3, 0]);
    driver.kick(1);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Kicked(1)));
}

#[test]
fn registers_are_reached_through_configuration_space() {
    let (board, _heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    let window = {
        let mut at = u16::try_from(driver.read_config(0x34) & 0xfc).unwrap();
        while driver.read_config(at) >> 24 != u32::from(capability::structure::PCI) {
            at = u16::try_from(driver.read_config(at) >> 8 & 0xfc).unwrap();
        }
        at
    };
    let point = |bar: u8, offset: u32, length: u32| {
        driver.write_config(window + 4, &[bar]);
        driver.write_config(window + 8, &offset.to_le_bytes());
        driver.write_config(window + 12, &length.to_le_bytes());
    };
    driver.write_config(0x04, &[0, 0]);
    point(0, 0x14, 1);
    driver.write_config(window + 16, &[3]);
    assert_eq!(driver.read_config(window + 16) & 0xffff_ff00, 0);
    driver.write_config(0x04, &[2, 0]);
    assert_eq!(driver.status(), 3);
    // Another BAR, beyond the end, of no length, of one that does not fit, not aligned.
    for (bar, offset, length) in [
        (1, 0x14, 1),
        (0, BAR_BYTES, 1),
        (0, u32::MAX, 1),
        (0, 0x14, 0),
        (0, 0x14, 3),
        (0, 0x14, 8),
        (0, 0x15, 4),
    ] {
        point(bar, offset, length);
        driver.write_config(window + 16, &[0]);
        driver.write_config(window + 16, &[0; 4]);
        let _ = driver.read_config(window + 16);
        assert_eq!(driver.status(), 3, "BAR {bar}, offset {offset:#x}, length {length}");
    }
}

#[test]
fn kicks_follow_their_ports_and_are_heard_nowhere_else() {
    let (board, heard) = board();
    let driver = Driver::take_over(&board, SLOT);
    driver.start(0);
    let _ = two(&heard);
    let connected = || -> Vec<Option<u16>> {
        board.transport(SLOT).unwrap().lock().queues.iter().map(|queue| queue.connected).collect()
    };
    let before = driver.ports();
    assert_eq!(connected(), [Some(before), Some(before + 4)]);
    driver.move_ports(PORT_WINDOW.end - KICK_PORTS);
    assert_eq!(connected(), [Some(0x1f80), Some(0x1f84)]);
    driver.kick(1);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Kicked(1)));
    board.write_port(before, &[0, 0]);
    // Over the serial port, the registers of PCI and of hot-plug, and beyond the window.
    for outside in [0, 0x380, 0x600, 0xc80, PORT_WINDOW.end, 0xff80] {
        driver.move_ports(outside);
        assert_eq!((driver.ports(), connected()), (outside, vec![None, None]));
        driver.kick(0);
    }
    driver.move_ports(PORT_WINDOW.start);
    driver.write_config(0x04, &[2, 0]);
    assert_eq!(connected(), [None, None]);
    driver.kick(0);
    assert!(heard.try_recv().is_err(), "a kick was heard that was not made");
    driver.write_config(0x04, &[3, 0]);
    driver.kick(0);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Kicked(0)));
}

/// One access of a guest that does not care.
#[derive(Debug, Clone)]
enum Access {
    Config { register: u16, by_port: bool, bytes: Vec<u8> },
    Bar { offset: u64, bytes: Vec<u8> },
    Port { port: u16, bytes: Vec<u8> },
    Status(u8),
    MoveBar(u32),
    MovePorts(u16),
    Start,
}

fn any_access() -> impl Strategy<Value = Access> {
    let bytes = || {
        let width = prop::sample::select(vec![1usize, 2, 4, 8]);
        (width, any::<[u8; 8]>()).prop_map(|(width, bytes)| bytes[..width].to_vec())
    };
    let register = prop_oneof![0u16..0x100, 0u16..0x1000];
    let bar = prop_oneof![0u64..0x40, 0u64..0x8000, 0x3000u64..0x3010, 0x4000u64..0x4040];
    prop_oneof![
        (register, any::<bool>(), bytes()).prop_map(|(register, by_port, bytes)| Access::Config {
            register,
            by_port,
            bytes
        }),
        (bar, bytes()).prop_map(|(offset, bytes)| Access::Bar { offset, bytes }),
        prop::sample::select(vec![0, 1, 3, 4, 8, 11, 15, 64, 128]).prop_map(Access::Status),
        any::<u32>().prop_map(Access::MoveBar),
        prop_oneof![any::<u16>(), 0xf80u16..0x2080].prop_map(Access::MovePorts),
        (0xff0u16..0x2010, bytes()).prop_map(|(port, bytes)| Access::Port { port, bytes }),
        Just(Access::Start),
    ]
}

impl Access {
    fn make(&self, board: &Board) {
        let driver = Driver::new(board, SLOT);
        match self {
            Access::Config { register, by_port: false, bytes } => {
                driver.write_config(*register, bytes);
                driver.read_config(*register);
            }
            Access::Config { register, by_port: true, bytes } => {
                let address = 1 << 31 | u32::from(SLOT) << 11 | u32::from(register & 0xfc);
                board.write_port(0xcf8, &address.to_le_bytes());
                board.write_port(0xcfc + register % 4, bytes);
                board.read_port(0xcfc + register % 4, &mut bytes.clone());
            }
            Access::Bar { offset, bytes } => {
                driver.write(*offset, bytes);
                board.read_memory(driver.bar() + offset, &mut bytes.clone());
            }
            Access::Status(status) => driver.set_status(*status),
            Access::MoveBar(to) => driver.move_bar((*to).into()),
            Access::MovePorts(to) => driver.move_ports(*to),
            Access::Port { port, bytes } => {
                board.write_port(*port, bytes);
                board.read_port(*port, &mut bytes.clone());
            }
            Access::Start => Driver::take_over(board, SLOT).start(0),
        }
    }
}

/// What must hold between any two accesses.
fn check(transport: &PciTransport) {
    let state = transport.lock();
    let decoded = state.config.memory_bar().map_or(NOT_DECODED, u64::from);
    assert_eq!(transport.bar.load(Ordering::Acquire), decoded, "decoded elsewhere than it says");
    let status = transport.signals.status();
    assert!(status & 4 == 0 || state.running, "DRIVER_OK, and nothing runs");
    assert!(status & 4 == 0 || status & 8 != 0, "DRIVER_OK without FEATURES_OK");
    assert!(status & 8 == 0 || transport.accepts(state.driver_features));
    for (index, queue) in (0u16..).zip(&state.queues) {
        if let Some(connected) = queue.connected {
            assert!(state.running && queue.enabled, "a kick that nobody waits for is connected");
            let first = state.config.port_bar().expect("a kick is connected, and no port is decoded");
            assert_eq!(connected, first + 4 * index, "a kick is connected where the ports were");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_accesses_leave_a_device_that_the_next_driver_can_use(accesses in prop::collection::vec(any_access(), 0..60)) {
        let (board, heard) = board();
        for access in &accesses {
            access.make(&board);
            check(board.transport(SLOT).expect("it is plugged in"));
        }
        let driver = Driver::take_over(&board, SLOT);
        while heard.try_recv().is_ok() {}
        driver.start(OWN_FEATURE);
        prop_assert_eq!(two(&heard), [started(OWN_FEATURE, 0), started(OWN_FEATURE, 1)]);
        driver.kick(1);
        prop_assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Kicked(1)));
    }
}
