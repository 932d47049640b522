//! Kernels of a few instructions, made by hand: an ELF file that a PVH loader starts in 32-bit protected mode.
//!
//! ```text
//! 0x000  ELF header    0x040  two program headers    0x0b0  note: PHYS32_ENTRY (Xen's number 18)
//! 0x100  code and the text that it prints, loaded at 1 MiB + 0x100
//! ```

#[allow(dead_code, reason = "not every test boots from a disk")]
pub mod disk;

/// What a payload does, one after the other.
#[derive(Debug, Clone, Copy)]
pub enum Instruction {
    /// Writes the text to the serial port, byte by byte.
    Print(&'static str),
    /// Writes back what comes in by the serial port, up to the end of a line.
    EchoLine,
    /// Sleep type 5 with the enable bit, to the sleep control register.
    PowerOff,
    /// To the reset register.
    Reset,
    /// For ever.
    Spin,
}

const SERIAL_PORT: u16 = 0x3f8;
const SLEEP_CONTROL_PORT: u16 = 0x600;
const SLEEP_OFF: u8 = 1 << 5 | 5 << 2;
const RESET_PORT: u16 = 0x602;
const RESET: u8 = 1;

const LOAD_ADDRESS: u64 = 1 << 20;
const NOTE_OFFSET: u64 = 0xb0;
const CODE_OFFSET: u64 = 0x100;
const XEN_PHYS32_ENTRY: u32 = 18;

const ECHO_LINE: [u8; 19] = [
    0x66, 0xba, 0xfd, 0x03, // start: mov  $0x3fd, %dx   the line status register
    0xec, //                          in   (%dx), %al
    0xa8, 0x01, //                    test $1, %al       a byte is there
    0x74, 0xf7, //                    jz   start
    0x66, 0xba, 0xf8, 0x03, //        mov  $0x3f8, %dx
    0xec, //                          in   (%dx), %al
    0xee, //                          out  %al, (%dx)
    0x3c, b'\n', //                   cmp  $'\n', %al
    0x75, 0xed, //                    jnz  start
];

/// The ELF file of a program.
pub fn build(program: &[Instruction]) -> Vec<u8> {
    let code: Vec<u8> = program.iter().flat_map(|instruction| encode(*instruction)).collect();
    let size = CODE_OFFSET + code.len() as u64;
    let entry = LOAD_ADDRESS + CODE_OFFSET;
    let note = [
        4u32.to_le_bytes().as_slice(),
        &4u32.to_le_bytes(),
        &XEN_PHYS32_ENTRY.to_le_bytes(),
        b"Xen\0",
        &u32::try_from(entry).unwrap().to_le_bytes(),
    ]
    .concat();
    let mut file = elf_header(entry);
    // PT_LOAD of the whole file, readable, writable and executable; then PT_NOTE.
    file.extend(program_header(1, 7, 0, size));
    file.extend(program_header(4, 4, NOTE_OFFSET, note.len() as u64));
    file.resize(usize::try_from(NOTE_OFFSET).unwrap(), 0);
    file.extend(note);
    file.resize(usize::try_from(CODE_OFFSET).unwrap(), 0);
    file.extend(code);
    file
}

fn encode(instruction: Instruction) -> Vec<u8> {
    match instruction {
        Instruction::Print(text) => text.bytes().flat_map(|byte| write_port(SERIAL_PORT, byte)).collect(),
        Instruction::EchoLine => ECHO_LINE.to_vec(),
        Instruction::PowerOff => write_port(SLEEP_CONTROL_PORT, SLEEP_OFF),
        Instruction::Reset => write_port(RESET_PORT, RESET),
        // jmp to itself
        Instruction::Spin => vec![0xeb, 0xfe],
    }
}

/// `mov $port, %dx; mov $value, %al; out %al, (%dx)`
fn write_port(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// ELF64, little-endian, an executable for x86-64, with two program headers behind it.
fn elf_header(entry: u64) -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    header.resize(16, 0);
    header.extend([2u16, 62].map(u16::to_le_bytes).concat());
    header.extend(1u32.to_le_bytes());
    header.extend([entry, 64, 0].map(u64::to_le_bytes).concat());
    header.extend(0u32.to_le_bytes());
    header.extend([64u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    header
}

fn program_header(kind: u32, flags: u32, offset: u64, size: u64) -> Vec<u8> {
    let address = LOAD_ADDRESS + offset;
    let words = [offset, address, address, size, size, 4];
    [[kind, flags].map(u32::to_le_bytes).concat(), words.map(u64::to_le_bytes).concat()].concat()
}
