use super::*;
use crate::RawOptions;
use crate::backend::BlockRequest;
use crate::testing::{Memory, execute};

const READ_ONLY: RawOptions = RawOptions { read_only: true, direct: false };

fn base(parent: &str, bytes: &[u8]) -> (tempfile::TempDir, RawFile) {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, bytes).unwrap();
    let raw = RawFile::open(&path, READ_ONLY).unwrap();
    (folder, raw)
}

fn read(disk: &Overlay, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; len];
    disk.read_at(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn the_base_stays_as_it_was_and_two_overlays_do_not_see_each_other() {
    let (folder, raw) = base("/var/tmp", &[1; 8192]);
    let one = Overlay::create(&raw, folder.path(), None).unwrap();
    let other = Overlay::create(&raw, folder.path(), None).unwrap();
    let memory = Memory::from_bytes(&[2; 512]);
    let mut queue = one.open_queue(4).unwrap();
    execute(&mut *queue, BlockRequest::Write { offset: 1024, buffers: &[memory.all()] }).unwrap();
    execute(&mut *queue, BlockRequest::Discard { offset: 4096, len: 4096 }).unwrap();
    assert_eq!(read(&one, 512, 1536), [[1; 512], [2; 512], [1; 512]].concat());
    assert_eq!(read(&one, 4096, 4096), [0; 4096]);
    assert_eq!(read(&other, 0, 8192), [1; 8192]);
    assert_eq!(std::fs::read(folder.path().join("disk")).unwrap(), [1; 8192]);
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "the layers have no names");
}

#[test]
fn a_larger_overlay_has_zeroes_at_its_end() {
    let (folder, raw) = base("/dev/shm", &[1; 1000]);
    let disk = Overlay::create(&raw, folder.path(), Some(1 << 40)).unwrap();
    assert_eq!(disk.size_bytes(), 1 << 40);
    let mut queue = disk.open_queue(1).unwrap();
    let memory = Memory::from_bytes(&[9; 4096]);
    execute(&mut *queue, BlockRequest::Read { offset: 0, buffers: &memory.pieces(700) }).unwrap();
    assert_eq!(memory.to_vec(), [vec![1; 1000], vec![0; 3096]].concat());
    let last = (1 << 40) - 512;
    let sector = Memory::from_bytes(&[7; 512]);
    execute(&mut *queue, BlockRequest::Write { offset: last, buffers: &[sector.all()] }).unwrap();
    assert_eq!(read(&disk, last - 512, 1024), [[0; 512], [7; 512]].concat());
    assert!(matches!(Overlay::create(&raw, folder.path(), Some(512)), Err(OverlayError::TooSmall { .. })));
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let (folder, raw) = base("/dev/shm", &[1; 8192]);
    let path = folder.path().join("top");
    std::fs::write(&path, []).unwrap();
    let disk =
        Overlay::with_top(&raw, File::options().read(true).write(true).open(&path).unwrap(), None).unwrap();
    // The same layer through a descriptor that cannot write.
    let layers = Layers {
        base: Arc::clone(raw.raw()),
        top: File::open(&path).unwrap(),
        top_in_place: disk.0.top_in_place,
        size_bytes: disk.size_bytes(),
        map: SectorMap::new(16),
        abilities: Abilities::default(),
    };
    let disk = Overlay(Arc::new(layers));
    let memory = Memory::from_bytes(&[2; 4096]);
    let mut queue = disk.open_queue(2).unwrap();
    for request in [
        BlockRequest::Write { offset: 0, buffers: &[memory.all()] },
        BlockRequest::WriteZeroes { offset: 0, len: 4096, may_unmap: true },
        BlockRequest::WriteZeroes { offset: 0, len: 4096, may_unmap: false },
        BlockRequest::Discard { offset: 0, len: 4096 },
    ] {
        assert!(execute(&mut *queue, request).is_err(), "{request:?}");
    }
    assert_eq!(read(&disk, 0, 8192), [1; 8192]);
    execute(&mut *queue, BlockRequest::Read { offset: 0, buffers: &[memory.all()] }).unwrap();
    assert_eq!(memory.to_vec(), [1; 4096]);
}

#[test]
fn a_folder_that_is_not_there_is_told() {
    let (folder, raw) = base("/dev/shm", &[1; 512]);
    let missing = folder.path().join("none");
    let error = Overlay::create(&raw, &missing, None).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_file_system_without_nameless_files_is_used_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = named_for_a_moment(folder.path(), 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4096);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
