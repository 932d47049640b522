//! A file that is to be a kernel, an initrd and a command line.

use std::cell::RefCell;
use std::io::Write;
use std::sync::LazyLock;

use vmm::boot::{BootError, BootFile, BootImage, load};
use vmm::memory::{self, Memory};

const RAM_BYTES: u64 = 32 << 20;
/// The first byte of an input is the number of the file to begin with; any other means that the rest is the file.
const RAW: u8 = 0xff;
/// What is changed: these parts of a kernel, in units of this size.
const BLOCK_BYTES: usize = 64;

thread_local! {
    static RAM: RefCell<Memory> = RefCell::new(memory::allocate(RAM_BYTES, memory::Backing::Private).expect("there is memory"));
}

static KERNELS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let elf = vmm::testing::pvh_elf(b"\xf4");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&elf).expect("a vector takes everything");
    let gzip = gzip.finish().expect("a vector takes everything");
    let block = lz4_flex::block::compress(&elf);
    let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
    lz4.extend(u32::try_from(block.len()).expect("a few kilobytes").to_le_bytes());
    lz4.extend(block);
    let zstd = zstd::bulk::compress(&elf, 1).expect("there is room");
    let packed = [gzip, lz4, zstd].into_iter().map(|payload| bzimage(&payload, elf.len()));
    let unknown = bzimage(b"packed in a way of its own", elf.len());
    [elf.clone()].into_iter().chain(packed).chain([unknown]).collect()
});

/// A bzImage (Linux, Documentation/arch/x86/boot.rst) of protocol 2.15 with one sector of setup code.
fn bzimage(payload: &[u8], unpacked_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    let length = u32::try_from(payload.len() + 4).expect("a few kilobytes");
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x236, &[1]);
    put(0x24c, &length.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    bytes.extend(payload);
    bytes.extend(u32::try_from(unpacked_bytes).expect("a few kilobytes").to_le_bytes());
    bytes
}

/// Loads the kernel of one input.
fn boot(data: &[u8]) -> Option<Result<(), BootError>> {
    let [which, initrd, rest @ ..] = data else { return None };
    let kernel = match KERNELS.get(usize::from(*which)) {
        None => rest.to_vec(),
        Some(kernel) => {
            let mut kernel = kernel.clone();
            // Headers and notes stand at the start.
            let blocks: Vec<usize> = (0..kernel.len().min(0x300).div_ceil(BLOCK_BYTES)).collect();
            crate::input::patch(&mut kernel, &blocks, BLOCK_BYTES, rest);
            kernel
        }
    };
    let initrd_bytes = usize::from(*initrd) << 13;
    let image = BootImage {
        kernel: Box::new(kernel),
        initrds: vec![Box::new(vec![*initrd; initrd_bytes]) as Box<dyn BootFile>],
        command_line: "x".repeat(usize::from(*initrd) * 9),
    };
    Some(RAM.with_borrow(|ram| {
        memory::clear(ram).expect("RAM is there");
        load(ram, &image).map(drop)
    }))
}

/// Loads one kernel.
pub fn run(data: &[u8]) {
    // Whatever is wrong is told; what is said of it is for the tests beside the code.
    if let Some(Err(error)) = boot(data) {
        assert!(!error.to_string().is_empty());
    }
}

/// Each kind as it is, and one as the file itself.
pub fn seeds() -> Vec<Vec<u8>> {
    let kinds = (0..KERNELS.len()).map(|kind| vec![u8::try_from(kind).expect("a few"), 1]);
    kinds.chain([[&[RAW, 0], KERNELS[0].as_slice()].concat()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_changed_is_loaded() {
        for (index, seed) in seeds().iter().enumerate() {
            assert!(matches!(boot(seed), Some(Ok(()))), "seed {index}");
        }
    }
}
