//! Payloads for tests.

/// An ELF file with one segment at 1 MiB and a PVH note that names `entry`.
pub fn pvh_elf(code: &[u8]) -> Vec<u8> {
    let (code_at, note_at) = (0x1000u64, 0x200u64);
    let mut note = Vec::new();
    note.extend([4u32, 4, 18].into_iter().flat_map(u32::to_le_bytes));
    note.extend(b"Xen\0");
    note.extend(0x10_0000u32.to_le_bytes());
    let header = |kind: u32, offset: u64, address: u64, bytes: u64, align: u64| {
        let mut header = Vec::new();
        header.extend([kind, 7].into_iter().flat_map(u32::to_le_bytes));
        header.extend([offset, address, address, bytes, bytes, align].into_iter().flat_map(u64::to_le_bytes));
        header
    };
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2u16, 62].into_iter().flat_map(u16::to_le_bytes));
    elf.extend(1u32.to_le_bytes());
    elf.extend([0x10_0000u64, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 2, 64, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    elf.extend(header(1, code_at, 0x10_0000, code.len() as u64, 0x1000));
    elf.extend(header(4, note_at, 0, note.len() as u64, 4));
    elf.resize(usize::try_from(note_at).expect("a small number"), 0);
    elf.extend(note);
    elf.resize(usize::try_from(code_at).expect("a small number"), 0);
    elf.extend(code);
    elf
}
