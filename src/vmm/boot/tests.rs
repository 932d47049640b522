use proptest::prelude::*;

use super::testing::pvh_elf;
use super::*;
use crate::memory;

fn image(kernel: Vec<u8>, initrds: Vec<Vec<u8>>, command_line: &str) -> BootImage {
    let initrds = initrds.into_iter().map(|initrd| Box::new(initrd) as Box<dyn BootFile>).collect();
    BootImage { kernel: Box::new(kernel), initrds, command_line: command_line.into() }
}

fn load_kernel(kernel: Vec<u8>) -> Result<Entry, BootError> {
    let ram = memory::allocate(64 << 20, memory::Backing::Private).unwrap();
    load(&ram, &image(kernel, Vec::new(), ""))
}

#[test]
fn an_elf_kernel_is_entered_where_its_note_says() {
    let ram = memory::allocate(64 << 20, memory::Backing::Private).unwrap();
    let image = image(pvh_elf(b"\xf4"), vec![vec![7; 5000]], "quiet");
    let entry = load(&ram, &image).unwrap();
    assert_eq!(entry, Entry::Pvh { address: 0x10_0000, start_info: 0x6000 });
    let read = |address| ram.read_obj::<u64>(GuestAddress(address)).unwrap();
    assert_eq!(ram.read_obj::<u32>(GuestAddress(0x6000)).unwrap(), 0x336e_c578);
    let (initrd, bytes) = (read(0x6040), read(0x6048));
    assert_eq!((initrd % PAGE_BYTES, bytes), (0, 5000));
    assert_eq!(ram.read_obj::<u8>(GuestAddress(initrd + 4999)).unwrap(), 7);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 0xf4);
}

#[test]
fn several_initrds_follow_each_other_at_multiples_of_four() {
    let ram = memory::allocate(64 << 20, memory::Backing::Private).unwrap();
    load(&ram, &image(pvh_elf(b"\xf4"), vec![b"12345".to_vec(), b"67".to_vec()], "")).unwrap();
    let (start, bytes): (u64, u64) =
        (ram.read_obj(GuestAddress(0x6040)).unwrap(), ram.read_obj(GuestAddress(0x6048)).unwrap());
    let mut initrd = vec![0xff; usize::try_from(bytes).unwrap()];
    ram.read_slice(&mut initrd, GuestAddress(start)).unwrap();
    assert_eq!(initrd, b"12345\0\0\x0067");
}

#[test]
fn the_memory_map_covers_all_ram_and_spares_the_tables() {
    let ram = memory::allocate(5 << 30, memory::Backing::Private).unwrap();
    let map = memory_map(&ram);
    let usable: u64 = map.iter().filter(|(_, kind)| *kind == MAP_RAM).map(|(extent, _)| extent.bytes).sum();
    assert_eq!(usable, (5 << 30) - (HIGH_RAM_START - LOW_RAM_END));
    assert!(map.windows(2).all(|pair| pair[0].0.address + pair[0].0.bytes <= pair[1].0.address));
}

#[test]
fn what_is_not_a_kernel_for_this_machine_is_refused_with_the_reason() {
    let mut arm = pvh_elf(b"\xf4");
    arm[18] = 183;
    assert!(matches!(load_kernel(arm), Err(BootError::Architecture { found }) if found == "arm64"));
    for packed in [&b"\x1f\x8b\x08\0"[..], b"MZ\0\0zimg\0\0"] {
        assert!(matches!(load_kernel(packed.to_vec()), Err(BootError::Architecture { .. })));
    }
    assert!(matches!(load_kernel(b"#!/bin/sh".to_vec()), Err(BootError::Unknown { .. })));
    assert!(matches!(load_kernel(Vec::new()), Err(BootError::Unknown { .. })));
    let mut short = pvh_elf(&[0xf4; 4096]);
    short.truncate(0x1800);
    assert!(load_kernel(short).is_err());
}

#[test]
fn segments_that_overlap_are_refused() {
    // The note's program header, made one of a segment that is loaded over the code, or right behind it.
    let second = |address: u64| {
        let mut kernel = pvh_elf(&[0xf4; 16]);
        kernel[64 + 56] = 1;
        kernel[64 + 56 + 24..][..8].copy_from_slice(&address.to_le_bytes());
        load_kernel(kernel).unwrap_err()
    };
    assert!(matches!(second(0x10_000f), BootError::Elf { part: "program header" }));
    assert!(matches!(second(0x10_0010), BootError::NoPvh));
}

#[test]
fn an_initrd_that_does_not_fit_is_refused_with_the_sizes() {
    let ram = memory::allocate(16 << 20, memory::Backing::Private).unwrap();
    let too_big = image(pvh_elf(b"\xf4"), vec![vec![0; 16 << 20]], "");
    assert!(matches!(load(&ram, &too_big), Err(BootError::Memory { ram_mib: 16, .. })));
    let long = image(pvh_elf(b"\xf4"), Vec::new(), &"x".repeat(2048));
    assert!(matches!(load(&ram, &long), Err(BootError::CommandLine { bytes: 2048 })));
}

proptest! {
    #[test]
    fn a_kernel_with_any_bytes_changed_is_loaded_or_refused(changes in prop::collection::vec((0usize..0x400, any::<u8>()), 1..8)) {
        let mut kernel = pvh_elf(b"\xf4");
        for (at, value) in changes {
            kernel[at] = value;
        }
        let _ = load_kernel(kernel);
    }

    #[test]
    fn any_setup_header_is_loaded_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0x300..0x3000), small in any::<bool>()) {
        bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        bytes[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        if small {
            bytes[0x1f1] = 1;
            bytes[0x248..0x250].copy_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0]);
        }
        let _ = load_kernel(bytes);
    }
}
