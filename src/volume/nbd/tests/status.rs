//! Which parts of a disk hold anything, asked by a client.

use super::super::client::{allocation_flag, context_request, contexts};
use super::*;

const HOLE: u32 = allocation_flag::HOLE | allocation_flag::ZERO;
const ALLOCATION: &str = "base:allocation";

/// A disk with one sector of data among holes, whose client may ask for that.
fn with_contexts(disk: &FakeDisk) -> Served {
    let mut served = Served::greeted(vec![export("disk", disk)]);
    served.client.ask_for_structured_replies().unwrap();
    let chosen = served.client.choose_contexts("disk", &["x-other:all", ALLOCATION]).unwrap();
    assert_eq!(chosen, [(1, ALLOCATION.to_owned())]);
    served.client.go("disk").unwrap();
    served
}

fn descriptors(data: &[u8]) -> Vec<(usize, u32)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    data.chunks(8).map(|pair| (number(&pair[..4]) as usize, number(&pair[4..]))).collect()
}

#[test]
fn what_is_not_there_is_told() {
    let mut bytes = vec![0; DISK_BYTES];
    bytes[3 * SECTOR] = 1;
    let disk = FakeDisk::new(bytes);
    let mut served = with_contexts(&disk);
    let mut ask = |flags, offset, len| served.request(command::BLOCK_STATUS, flags, offset, len, &[]);
    let all = ask(0, 0, DISK_BYTES).unwrap();
    assert_eq!(descriptors(&all), [(3 * SECTOR, HOLE), (SECTOR, 0), (DISK_BYTES - 4 * SECTOR, HOLE)]);
    let one = ask(command_flag::REQ_ONE, 2 * SECTOR, 2 * SECTOR).unwrap();
    assert_eq!(descriptors(&one), [(SECTOR, HOLE)]);
    disk.fail(5 * SECTOR as u64..6 * SECTOR as u64, libc::EIO);
    let known = ask(0, 0, DISK_BYTES).unwrap();
    assert_eq!(descriptors(&known), [(3 * SECTOR, HOLE), (SECTOR, 0), (SECTOR, HOLE)]);
    assert_eq!(ask(0, 5 * SECTOR, SECTOR), Err(5));
    for (flags, offset, len) in [
        (0, 0, 0),
        (0, 1, SECTOR),
        (0, 0, SECTOR - 1),
        (0, 0, DISK_BYTES + SECTOR),
        (0, DISK_BYTES, SECTOR),
        (command_flag::DF, 0, SECTOR),
        (command_flag::NO_HOLE, 0, SECTOR),
    ] {
        assert_eq!(ask(flags, offset, len), Err(INVALID), "{flags} {offset} {len}");
    }
    served.disconnect();
}

/// A disk of more parts than one reply tells, of which every second sector holds something.
#[test]
fn as_many_parts_are_told_as_a_reply_has_room_for() {
    const SECTORS: usize = 20_000;
    let mut bytes = vec![0; SECTORS * SECTOR];
    bytes.iter_mut().step_by(2 * SECTOR).for_each(|byte| *byte = 1);
    let mut served = with_contexts(&FakeDisk::new(bytes));
    let mut at = 0;
    while at < SECTORS {
        let (offset, len) = (at * SECTOR, (SECTORS - at) * SECTOR);
        let told = descriptors(&served.request(command::BLOCK_STATUS, 0, offset, len, &[]).unwrap());
        assert_eq!(told.len(), (SECTORS - at).min(8192));
        for (len, flags) in told {
            assert_eq!((len, flags), (SECTOR, if at % 2 == 0 { 0 } else { HOLE }));
            at += 1;
        }
    }
    served.disconnect();
}

#[test]
fn contexts_are_listed_and_chosen_as_the_protocol_says() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let (list, set) = (option::LIST_META_CONTEXT, option::SET_META_CONTEXT);
    let mut served = Served::greeted(vec![export("disk", &disk), export("other", &disk)]);
    let told = |served: &mut Served, option, name, queries: &[&str]| {
        let mut replies = served.client.option(option, &context_request(name, queries)).unwrap();
        (replies.pop().unwrap().0, contexts(&replies))
    };
    let there = |id: u32| vec![(id, ALLOCATION.to_owned())];
    assert_eq!(told(&mut served, set, "disk", &[ALLOCATION]), (option_reply::ERR_INVALID, vec![]));
    served.client.ask_for_structured_replies().unwrap();
    for (option, name, queries, expected) in [
        (list, "disk", &[][..], (option_reply::ACK, there(0))),
        (list, "disk", &["base:"], (option_reply::ACK, there(0))),
        (list, "disk", &[ALLOCATION, ALLOCATION], (option_reply::ACK, there(0))),
        (list, "disk", &["qemu:", "base:alloc", ""], (option_reply::ACK, vec![])),
        (list, "none", &[], (option_reply::ERR_UNKNOWN, vec![])),
        (set, "disk", &[], (option_reply::ACK, vec![])),
        (set, "disk", &["base:"], (option_reply::ACK, vec![])),
        (set, "disk", &[ALLOCATION], (option_reply::ACK, there(1))),
        (set, "none", &[ALLOCATION], (option_reply::ERR_UNKNOWN, vec![])),
    ] {
        assert_eq!(told(&mut served, option, name, queries), expected, "{option} {name} {queries:?}");
    }
    let request = context_request("disk", &[ALLOCATION]);
    for wrong in [&request[..request.len() - 1], &request[..3], &[&request[..], b"x"].concat()] {
        let replies = served.client.option(set, wrong).unwrap();
        assert!(matches!(replies.as_slice(), [(option_reply::ERR_INVALID, _)]), "{wrong:?}");
    }
    // Chosen for another export, or not at all after all.
    assert_eq!(told(&mut served, set, "other", &[ALLOCATION]), (option_reply::ACK, there(1)));
    served.client.go("disk").unwrap();
    assert_eq!(served.request(command::BLOCK_STATUS, 0, 0, SECTOR, &[]), Err(INVALID));
    served.disconnect();
    for chosen in [false, true] {
        let mut served = Served::greeted(vec![export("disk", &disk)]);
        served.client.ask_for_structured_replies().unwrap();
        assert_eq!(told(&mut served, set, "", &[ALLOCATION]), (option_reply::ACK, there(1)));
        if !chosen {
            assert_eq!(told(&mut served, set, "none", &[]), (option_reply::ERR_UNKNOWN, vec![]));
        }
        served.client.go("disk").unwrap();
        let status = served.request(command::BLOCK_STATUS, 0, 0, SECTOR, &[]);
        assert_eq!(status.is_ok(), chosen, "a choice that failed replaces the one before");
        served.disconnect();
    }
}
