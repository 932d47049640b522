//! SMBIOS 3.0 structures (DSP0134): who made the machine and what it is called.
//!
//! cloud-init takes a machine for EC2's when the system's UUID and serial number are the same text and begin with
//! `ec2`, and then asks the metadata service by itself. Nothing else here pretends: the manufacturer is nimbo.

/// What the guest reads in `/sys/class/dmi/id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The system's UUID as its text reads, also its serial number.
    pub uuid: u128,
    /// The instance type, as `product_name`.
    pub product: String,
    /// The instance id, as the asset tag of the board.
    pub asset: String,
}

/// Structure types.
mod structure {
    pub(super) const BIOS: u8 = 0;
    pub(super) const SYSTEM: u8 = 1;
    pub(super) const BOARD: u8 = 2;
    pub(super) const CHASSIS: u8 = 3;
    pub(super) const END: u8 = 127;
}

/// No structure refers to the chassis or the boards it holds.
const NO_HANDLE: u16 = 0xffff;
const ENTRY_POINT_BYTES: u8 = 24;
const MANUFACTURER: &str = "nimbo";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The entry point, to be placed at `base`, and the structures behind it.
pub(super) fn tables(identity: &SystemIdentity, base: u64) -> Vec<u8> {
    let structures =
        [bios(), system(identity), board(identity), chassis(), Structure::new(structure::END).finish(&[])]
            .concat();
    let start = base + u64::from(ENTRY_POINT_BYTES.next_multiple_of(16));
    let mut all = entry_point(start, structures.len());
    all.resize(usize::from(ENTRY_POINT_BYTES.next_multiple_of(16)), 0);
    all.extend(structures);
    all
}

/// The 64-bit entry point (DSP0134 3.6, 5.2.2): its bytes add up to zero.
fn entry_point(structures: u64, bytes: usize) -> Vec<u8> {
    let mut entry = b"_SM3_".to_vec();
    // Checksum, length, version 3.2.0, entry point revision, reserved.
    entry.extend([0, ENTRY_POINT_BYTES, 3, 2, 0, 1, 0]);
    entry.extend(u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes());
    entry.extend(structures.to_le_bytes());
    entry[5] = entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    entry
}

fn bios() -> Vec<u8> {
    let mut bios = Structure::new(structure::BIOS);
    // Strings 1 vendor and 2 version, no segment, string 3 date, size 64 KiB.
    bios.bytes.extend([1, 2, 0, 0, 3, 0]);
    // Characteristics: not supported. Extension: a virtual machine (bit 4 of the second byte).
    bios.bytes.extend((1u64 << 3).to_le_bytes());
    bios.bytes.extend([0, 1 << 4, 0, 0, 0xff, 0xff]);
    bios.finish(&[MANUFACTURER, VERSION, "01/01/2026"])
}

fn system(identity: &SystemIdentity) -> Vec<u8> {
    let mut system = Structure::new(structure::SYSTEM);
    // Strings 1 manufacturer, 2 product, 3 version, 4 serial number.
    system.bytes.extend([1, 2, 3, 4]);
    system.bytes.extend(uuid_bytes(identity.uuid));
    // Woken by the power switch; no SKU; string 5 family.
    system.bytes.extend([6, 0, 5]);
    system.finish(&[MANUFACTURER, &identity.product, VERSION, &uuid_text(identity.uuid), "microVM"])
}

fn board(identity: &SystemIdentity) -> Vec<u8> {
    let mut board = Structure::new(structure::BOARD);
    // Strings 1 manufacturer and 2 product, no version or serial, string 3 asset tag; hosts others; no location.
    board.bytes.extend([1, 2, 0, 0, 3, 1, 0]);
    board.bytes.extend(NO_HANDLE.to_le_bytes());
    // A motherboard that contains nothing.
    board.bytes.extend([0x0a, 0]);
    board.finish(&[MANUFACTURER, &identity.product, &identity.asset])
}

fn chassis() -> Vec<u8> {
    let mut chassis = Structure::new(structure::CHASSIS);
    // String 1 manufacturer, type other, no version, serial or tag; states safe; security none.
    chassis.bytes.extend([1, 1, 0, 0, 0, 3, 3, 3, 3]);
    // OEM word, height, cords, contained elements and their size, SKU.
    chassis.bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chassis.finish(&[MANUFACTURER])
}

/// A structure under construction: type, length, handle, then its fields, then its strings.
struct Structure {
    bytes: Vec<u8>,
}

impl Structure {
    fn new(kind: u8) -> Self {
        Structure { bytes: vec![kind, 0, kind, 0] }
    }

    fn finish(mut self, strings: &[&str]) -> Vec<u8> {
        self.bytes[1] = u8::try_from(self.bytes.len()).unwrap_or(u8::MAX);
        for string in strings {
            // An empty string would end the list.
            self.bytes.extend(if string.is_empty() { b" " } else { string.as_bytes() });
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.bytes
    }
}

/// Lower-case, as the kernel shows it.
fn uuid_text(uuid: u128) -> String {
    let hex = format!("{uuid:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The first three fields are little-endian (DSP0134 3.6, 7.2.1).
fn uuid_bytes(uuid: u128) -> [u8; 16] {
    let mut bytes = uuid.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}
