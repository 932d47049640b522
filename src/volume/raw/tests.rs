use std::os::unix::fs::MetadataExt;

use super::*;
use crate::backend::BlockRequest;
use crate::testing::{Memory, execute};

const MIB: usize = 1 << 20;
const WRITABLE: RawOptions = RawOptions { read_only: false, direct: false };
const READ_ONLY: RawOptions = RawOptions { read_only: true, direct: false };

fn file(parent: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn one_writer_or_many_readers_share_a_file() {
    let (_folder, path) = file("/dev/shm", &[0; 512]);
    let reader = RawFile::open(&path, READ_ONLY).unwrap();
    let other_reader = RawFile::open(&path, READ_ONLY).unwrap();
    let error = RawFile::open(&path, WRITABLE).unwrap_err();
    assert!(matches!(error, RawError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop((reader, other_reader));
    let writer = RawFile::open(&path, WRITABLE).unwrap();
    assert!(matches!(RawFile::open(&path, READ_ONLY), Err(RawError::InUse { .. })));
    assert!(matches!(RawFile::open(&path, WRITABLE), Err(RawError::InUse { .. })));
    drop(writer);
    RawFile::open(&path, WRITABLE).unwrap();
}

#[test]
fn a_disk_that_was_used_and_closed_can_be_opened_at_once() {
    let (_folder, path) = file("/var/tmp", &[0; 4096]);
    for _ in 0..20 {
        let disk = RawFile::open(&path, WRITABLE).unwrap();
        let memory = Memory::new(4096);
        let mut queue = disk.open_queue(8).unwrap();
        execute(&mut *queue, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
    }
}

#[test]
fn a_file_that_ends_within_a_sector_reads_as_zeroes_up_to_the_next_and_can_be_written_there() {
    for (parent, direct) in [("/dev/shm", false), ("/var/tmp", false), ("/var/tmp", true)] {
        let (_folder, path) = file(parent, &[7; 1000]);
        let disk = match RawFile::open(&path, RawOptions { read_only: false, direct }) {
            Err(RawError::NoDirect { .. }) if direct => continue,
            opened => opened.unwrap(),
        };
        assert_eq!(disk.size_bytes(), 1024);
        let mut expected = vec![7; 1000];
        expected.resize(1024, 0);
        let mut queue = disk.open_queue(1).unwrap();
        let memory = Memory::from_bytes(&[9; 1024]);
        execute(&mut *queue, BlockRequest::Read { offset: 0, buffers: &memory.pieces(512) }).unwrap();
        assert_eq!(memory.to_vec(), expected);
        let mut bytes = vec![9; 1024];
        disk.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, expected);
        let last = Memory::from_bytes(&[5; 512]);
        execute(&mut *queue, BlockRequest::Write { offset: 512, buffers: &[last.all()] }).unwrap();
        disk.read_at(512, &mut bytes[512..]).unwrap();
        assert_eq!(bytes[512..], [5; 512]);
    }
}

#[test]
fn discards_and_zeroes_give_space_back_where_they_may() {
    for parent in ["/dev/shm", "/var/tmp"] {
        let (_folder, path) = file(parent, &vec![1; 4 * MIB]);
        let disk = RawFile::open(&path, WRITABLE).unwrap();
        let mut queue = disk.open_queue(4).unwrap();
        let used = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let mib = MIB as u64;
        execute(&mut *queue, BlockRequest::Discard { offset: 0, len: mib }).unwrap();
        execute(&mut *queue, BlockRequest::WriteZeroes { offset: mib, len: mib, may_unmap: true }).unwrap();
        assert!(used() <= 2 * mib + 65536, "{parent}: {} bytes are used", used());
        execute(&mut *queue, BlockRequest::WriteZeroes { offset: 2 * mib, len: mib, may_unmap: false })
            .unwrap();
        execute(&mut *queue, BlockRequest::Flush).unwrap();
        assert!(used() >= 2 * mib, "{parent}: {} bytes are used", used());
        let mut bytes = vec![9; 4 * MIB];
        disk.read_at(0, &mut bytes).unwrap();
        assert!(bytes[MIB..3 * MIB].iter().all(|byte| *byte == 0));
        assert!(bytes[3 * MIB..].iter().all(|byte| *byte == 1));
    }
}

#[test]
fn zeroes_are_written_in_steps_where_a_file_system_cannot_make_them() {
    // tmpfs has no FALLOC_FL_ZERO_RANGE; more than one step's worth.
    let len = 40 * MIB;
    let (_folder, path) = file("/dev/shm", &vec![1; len + 512]);
    let disk = RawFile::open(&path, WRITABLE).unwrap();
    let mut queue = disk.open_queue(1).unwrap();
    let request = BlockRequest::WriteZeroes { offset: 0, len: len as u64, may_unmap: false };
    execute(&mut *queue, request).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes[..len].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[len..], [1; 512]);
}

#[test]
fn what_cannot_be_a_disk_is_refused_by_name() {
    let (folder, path) = file("/dev/shm", &[]);
    let refused = |path: &Path| RawFile::open(path, READ_ONLY).unwrap_err();
    assert!(matches!(refused(&path), RawError::Empty { .. }));
    assert!(matches!(refused(folder.path()), RawError::NotADisk { .. }));
    assert!(matches!(refused(Path::new("/dev/null")), RawError::NotADisk { .. }));
    let missing = refused(&folder.path().join("none"));
    assert!(matches!(missing, RawError::Open { .. }) && missing.to_string().contains("none"));
}

#[test]
fn a_read_only_disk_refuses_writes_and_flushes() {
    let (_folder, path) = file("/dev/shm", &[3; 512]);
    let disk = RawFile::open(&path, READ_ONLY).unwrap();
    assert!(disk.is_read_only());
    let mut queue = disk.open_queue(1).unwrap();
    let memory = Memory::new(512);
    for request in [
        BlockRequest::Write { offset: 0, buffers: &[memory.all()] },
        BlockRequest::Discard { offset: 0, len: 512 },
        BlockRequest::WriteZeroes { offset: 0, len: 512, may_unmap: true },
    ] {
        let error = execute(&mut *queue, request).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
    execute(&mut *queue, BlockRequest::Flush).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [3; 512]);
}
