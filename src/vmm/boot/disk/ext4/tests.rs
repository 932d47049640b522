use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::super::testing::{MIB, ext4, open, tool, window, write_files};
use super::*;

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from((index * 31 + index / 509) % 251).unwrap()).collect()
}

fn read(fs: &Ext4, path: &str) -> Vec<u8> {
    fs.read(&fs.lookup(path).unwrap(), 64 << 20).unwrap()
}

/// Files of all shapes: none, small, large, with holes, behind links, in a large directory.
fn fill(root: &Path) {
    write_files(root, &[("/etc/os-release", "ID=test\n"), ("/boot/empty", "")]);
    std::fs::write(root.join("boot/vmlinuz-1"), pattern(2_000_123)).unwrap();
    symlink("vmlinuz-1", root.join("boot/vmlinuz")).unwrap();
    symlink("/boot/../boot/./vmlinuz", root.join("kernel")).unwrap();
    symlink("boot/", root.join("folder")).unwrap();
    symlink("loop-b", root.join("loop-a")).unwrap();
    symlink("loop-a", root.join("loop-b")).unwrap();
    symlink(format!("/{}boot/vmlinuz-1", "./".repeat(100)), root.join("long")).unwrap();
    let sparse = std::fs::File::create(root.join("boot/sparse")).unwrap();
    sparse.set_len(2_510_000).unwrap();
    for offset in [0, 1_000_000, 2_500_000] {
        sparse.write_all_at(&pattern(10_000), offset).unwrap();
    }
    std::fs::create_dir(root.join("many")).unwrap();
    for number in 0..400 {
        std::fs::write(root.join(format!("many/file-{number:04}")), number.to_string()).unwrap();
    }
}

fn check(fs: &Ext4) {
    assert_eq!(read(fs, "/etc/os-release"), b"ID=test\n");
    assert_eq!(read(fs, "/boot/empty"), b"");
    let kernel = pattern(2_000_123);
    for path in
        ["/boot/vmlinuz-1", "/boot/vmlinuz", "/kernel", "/folder/vmlinuz", "/long", "boot//./vmlinuz-1"]
    {
        assert!(read(fs, path) == kernel, "{path}");
    }
    let mut sparse = vec![0; 2_510_000];
    for offset in [0, 1_000_000, 2_500_000] {
        sparse[offset..offset + 10_000].copy_from_slice(&pattern(10_000));
    }
    let found = read(fs, "/boot/sparse");
    let first_wrong = found.iter().zip(&sparse).position(|(found, expected)| found != expected);
    assert_eq!((found.len(), first_wrong), (sparse.len(), None));
    assert_eq!(read(fs, "/many/file-0234"), b"234");
    let mut names = fs.names(&fs.lookup("/many").unwrap()).unwrap();
    names.sort();
    assert_eq!((names.len(), names[399].as_str()), (400, "file-0399"));

    assert!(matches!(fs.lookup("/boot/none"), Err(Ext4Error::NotFound)));
    assert!(matches!(fs.lookup("/boot/vmlinuz/more"), Err(Ext4Error::NotFound)));
    assert!(matches!(fs.lookup("/loop-a"), Err(Ext4Error::LinkLoop)));
    let inode = fs.lookup("/boot/vmlinuz").unwrap();
    assert!(matches!(fs.read(&inode, 2_000_122), Err(Ext4Error::TooLarge { .. })));
    let mut part = vec![0; 70_000];
    fs.read_at(&inode, 12_345, &mut part).unwrap();
    assert!(part == kernel[12_345..82_345]);
}

#[test]
fn files_are_read_from_every_form_of_the_file_system() {
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-O", "^metadata_csum,^64bit"],
        &["-t", "ext4", "-O", "inline_data", "-I", "256"],
        &["-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"],
        &["-t", "ext4", "-O", "bigalloc"],
        &["-t", "ext4", "-O", "casefold,encrypt,ea_inode,large_dir,mmp"],
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext2", "-b", "1024", "-I", "128"],
        &["-t", "ext2", "-b", "4096"],
    ] {
        eprintln!("{options:?}");
        check(&open(ext4(64, options, fill)));
    }
}

#[test]
fn inline_files_and_folders_are_read_whole() {
    let image = ext4(8, &["-t", "ext4", "-O", "inline_data", "-I", "512"], |root| {
        for len in [1, 59, 60, 61, 100, 160] {
            std::fs::write(root.join(format!("f{len}")), pattern(len)).unwrap();
        }
        std::fs::create_dir(root.join("d")).unwrap();
        for number in 0..8 {
            std::fs::write(root.join(format!("d/name-{number}")), "x").unwrap();
        }
    });
    let fs = open(image);
    for len in [1, 59, 60, 61, 100, 160] {
        let inode = fs.lookup(&format!("/f{len}")).unwrap();
        assert_ne!(inode.flags & inode_flags::INLINE_DATA, 0, "{len} bytes are not inline");
        assert_eq!(read(&fs, &format!("/f{len}")), pattern(len));
    }
    for number in 0..8 {
        assert_eq!(read(&fs, &format!("/d/name-{number}")), b"x");
    }
}

/// An image with a file `/f` of one block, and that block's number.
fn one_block(options: &[&str]) -> (Vec<u8>, u64) {
    let image = ext4(16, options, |root| std::fs::write(root.join("f"), vec![b'o'; 4096]).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, &image).unwrap();
    let block = tool("debugfs", &["-R", "blocks /f", path.to_str().unwrap()], "");
    (image, block.trim().parse().unwrap())
}

/// Adds transactions to the image's journal: copies of the block, or its revocation.
fn journal(image: &[u8], block: u64, transactions: &[Option<&[u8]>]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, image).unwrap();
    let mut script = String::from("jo\n");
    for (index, transaction) in transactions.iter().enumerate() {
        match transaction {
            Some(content) => {
                let copy = folder.path().join(index.to_string());
                std::fs::write(&copy, content).unwrap();
                script += &format!("jw -b {block} {}\n", copy.display());
            }
            None => script += &format!("jw -r {block} /dev/null\n"),
        }
    }
    script += "jc\n";
    let script_path = folder.path().join("script");
    std::fs::write(&script_path, script).unwrap();
    let paths = (script_path.to_str().unwrap(), path.to_str().unwrap());
    tool("debugfs", &["-w", "-f", paths.0, paths.1], "");
    std::fs::read(path).unwrap()
}

#[test]
fn a_journal_that_was_not_replayed_has_the_newest_blocks() {
    for options in [
        &["-t", "ext4", "-b", "4096"][..],
        &["-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum"],
        &["-t", "ext3", "-b", "4096"],
    ] {
        eprintln!("{options:?}");
        let (image, block) = one_block(options);
        assert_eq!(read(&open(image.clone()), "/f"), [b'o'; 4096]);
        let (first, second) = (vec![b'1'; 4096], vec![b'2'; 4096]);
        // A block that begins as a journal block does is stored in disguise.
        let mut escaped = vec![b'3'; 4096];
        escaped[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);

        let dirty = open(journal(&image, block, &[Some(&first), Some(&second)]));
        assert_eq!(read(&dirty, "/f"), second);
        assert_eq!(read(&open(journal(&image, block, &[Some(&escaped)])), "/f"), escaped);
        let revoked = journal(&image, block, &[Some(&first), None]);
        assert_eq!(read(&open(revoked), "/f"), [b'o'; 4096]);
        let written_again = journal(&image, block, &[Some(&first), None, Some(&second)]);
        assert_eq!(read(&open(written_again), "/f"), second);
    }
}

#[test]
fn what_is_no_ext4_is_told_from_what_is_an_unknown_one() {
    assert!(Ext4::open(window(vec![0; MIB])).unwrap().is_none());
    assert!(Ext4::open(window(vec![0; 512])).unwrap().is_none());
    let mut image = ext4(8, &["-t", "ext4"], |_| {});
    image[1024 + 0x63] |= 0x80;
    let error = Ext4::open(window(image)).err().unwrap();
    assert!(matches!(error, Ext4Error::Unsupported { bits: 0x8000_0000 }), "{error}");
}

#[test]
fn an_extent_tree_that_contains_itself_is_an_error() {
    let (mut image, block) = one_block(&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"]);
    let node = |max: u16| {
        let mut node = Vec::new();
        for field in [0xf30a, 1, max, 1, 0, 0, 0, 0] {
            node.extend_from_slice(&u16::to_le_bytes(field));
        }
        node.extend_from_slice(&u32::try_from(block).unwrap().to_le_bytes());
        node.extend_from_slice(&[0; 4]);
        node
    };
    let at = usize::try_from(block).unwrap() * 4096;
    image[at..at + 24].copy_from_slice(&node(340));
    // The inode's root points to that block, which points to itself.
    let fs = open(image.clone());
    let inode = fs.lookup("/f").unwrap();
    let root_at = image.windows(60).position(|bytes| bytes == inode.root).unwrap();
    image[root_at..root_at + 24].copy_from_slice(&node(4));
    let fs = open(image);
    let inode = fs.lookup("/f").unwrap();
    assert!(matches!(fs.read(&inode, 4096), Err(Ext4Error::Corrupt { .. })));
}

/// Tries all that can be asked of a file system; only panics and hangs are wrong.
fn exercise(bytes: Vec<u8>) {
    let Ok(Some(fs)) = Ext4::open(window(bytes)) else { return };
    for path in ["/boot/vmlinuz", "/kernel", "/boot/sparse", "/many/file-0001", "/loop-a", "/long"] {
        if let Ok(inode) = fs.lookup(path) {
            let _ = fs.read(&inode, 8 << 20);
        }
    }
    if let Ok(inode) = fs.lookup("/many") {
        let _ = fs.names(&inode);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damage_never_panics(
        choice in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
    ) {
        use std::sync::OnceLock;
        static IMAGES: OnceLock<Vec<(Vec<u8>, Vec<usize>)>> = OnceLock::new();
        let images = IMAGES.get_or_init(|| {
            let (plain, block) = one_block(&["-t", "ext4", "-b", "4096"]);
            let dirty = journal(&plain, block, &[Some(&pattern(4096)), None, Some(&pattern(4096))]);
            [
                ext4(16, &["-t", "ext4", "-O", "^metadata_csum"], fill),
                ext4(16, &["-t", "ext2", "-b", "1024"], fill),
                dirty,
            ]
            .into_iter()
            // Zeroes are mostly free space: damage where something is.
            .map(|image| {
                let used = (0..image.len()).filter(|at| image[*at] != 0 && !is_content(&image, *at)).collect();
                (image, used)
            })
            .collect()
        });
        let (image, used) = &images[choice];
        let mut image = image.clone();
        for (place, value, in_superblock) in damage {
            let at = if in_superblock { 1024 + place.index(1024) } else { used[place.index(used.len())] };
            image[at] = value;
        }
        exercise(image);
    }
}

/// Whether a byte is most likely of a file's content, as made by `pattern`.
fn is_content(image: &[u8], at: usize) -> bool {
    at + 1 < image.len() && image[at + 1].wrapping_sub(image[at]) == 31
}
