use super::*;
use crate::memory;

fn identity() -> SystemIdentity {
    SystemIdentity {
        uuid: 0xec2a_1b2c_3d4e_5f60_7182_93a4_b5c6_d7e8,
        product: "t3.micro".into(),
        asset: "i-0123456789abcdef0".into(),
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn written(cpus: u8) -> memory::Memory {
    let ram = memory::allocate(64 << 20, memory::Backing::Private).unwrap();
    write(&ram, cpus, &identity(), 7).unwrap();
    ram
}

fn bytes(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    ram.read_slice(&mut data, GuestAddress(address)).unwrap();
    data
}

fn table(ram: &GuestRam, address: u64) -> Vec<u8> {
    let length: u32 = ram.read_obj(GuestAddress(address + 4)).unwrap();
    bytes(ram, address, usize::try_from(length).unwrap())
}

#[test]
fn a_kernel_that_follows_the_rsdp_finds_sound_tables() {
    for cpus in [1, 2, 32] {
        let ram = written(cpus);
        let rsdp = bytes(&ram, RSDP, 36);
        assert_eq!((&rsdp[..8], sum(&rsdp)), (b"RSD PTR ".as_slice(), 0));
        let xsdt = table(&ram, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (b"XSDT".as_slice(), 0));
        let mut names = Vec::new();
        for entry in xsdt[36..].chunks(8) {
            let found = table(&ram, u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!(sum(&found), 0, "checksum of {}", String::from_utf8_lossy(&found[..4]));
            if &found[..4] == b"FACP" {
                let dsdt = table(&ram, u64::from_le_bytes(found[140..148].try_into().unwrap()));
                assert_eq!((&dsdt[..4], sum(&dsdt)), (b"DSDT".as_slice(), 0));
            }
            names.push(found[..4].to_vec());
        }
        assert_eq!(names, [b"FACP".to_vec(), b"APIC".to_vec(), b"MCFG".to_vec()]);
    }
}

#[test]
fn the_uuid_and_the_serial_number_read_alike_and_begin_with_ec2() {
    let ram = written(1);
    let entry = bytes(&ram, SMBIOS, 24);
    assert_eq!((&entry[..5], sum(&entry)), (b"_SM3_".as_slice(), 0));
    let start = u64::from_le_bytes(entry[16..24].try_into().unwrap());
    let structures = bytes(&ram, start, 1024);
    // The BIOS structure is 24 bytes long; the system's follows its strings.
    let system = structures.windows(4).position(|w| w == [1, 27, 1, 0]).unwrap();
    let mut uuid = structures[system + 8..system + 24].to_vec();
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    assert_eq!(u128::from_be_bytes(uuid.try_into().unwrap()), identity().uuid);
    let text = String::from_utf8_lossy(&structures[system + 27..]).into_owned();
    assert_eq!(text.split('\0').nth(3), Some("ec2a1b2c-3d4e-5f60-7182-93a4b5c6d7e8"));
}
