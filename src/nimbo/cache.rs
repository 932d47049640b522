//! Where files go that can be made again, and layers that end with their machine.
//!
//! ```text
//! $XDG_CACHE_HOME/nimbo/               or ~/.cache/nimbo/
//!   images/BLAKE3-OF-THE-SOURCE.raw    a converted image
//! ```
//!
//! A converted image is known by the content of its source, so that a source which was moved is found again, and one
//! which was replaced under its name is not mistaken for the old one. Anything here may be deleted while no guest runs.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use volume::import::{self, Format};

use crate::progress::Progress;

/// The folder of it all. It may not exist yet.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = absolute("XDG_CACHE_HOME") {
        return Ok(folder.join("nimbo"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/nimbo")),
        None => bail!("neither XDG_CACHE_HOME nor HOME is set: set one, it is where images are kept"),
    }
}

/// The image in `file` as a raw one: itself, or the conversion of it, made now unless it is there already.
///
/// # Errors
/// When it cannot be read, is damaged, or is of a kind that we do not read.
pub(crate) fn raw_image(file: &Path) -> anyhow::Result<PathBuf> {
    match import::detect(file)? {
        Format::Raw => {
            file.canonicalize().with_context(|| format!("cannot find the image {}", file.display()))
        }
        Format::Qcow2 => converted(file, &folder()?.join("images")),
    }
}

fn converted(file: &Path, images: &Path) -> anyhow::Result<PathBuf> {
    let hash = hash(file).with_context(|| format!("cannot read the image {}", file.display()))?;
    let raw = images.join(format!("{hash}.raw"));
    if raw.exists() {
        return Ok(raw);
    }
    fs::create_dir_all(images).with_context(|| format!("cannot make the folder {}", images.display()))?;
    let progress = Progress::start(format!("converting {}", file.display()));
    // It gets its name when it is whole, so two at once do no harm but to do the work twice.
    volume::import(file, &raw, &|reached| progress.reach(reached.done_bytes, reached.total_bytes))?;
    progress.finish();
    Ok(raw)
}

fn hash(file: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_image_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        fs::write(&image, [0; 512]).unwrap();
        assert_eq!(raw_image(&image).unwrap(), image.canonicalize().unwrap());
    }

    /// An image of one cluster size, 64 KiB, in which nothing is allocated: header, one refcount table of one block,
    /// an empty L1 table (qcow2 specification, version 2).
    fn empty_qcow2(size_bytes: u64) -> Vec<u8> {
        const CLUSTER: usize = 1 << 16;
        let mut image = vec![0; 4 * CLUSTER];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb");
        put(4, &2u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &size_bytes.to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &(3 * CLUSTER as u64).to_be_bytes());
        put(48, &(CLUSTER as u64).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
        for cluster in 0..4 {
            put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
        }
        image
    }

    #[test]
    fn a_qcow2_image_is_converted_once_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a.qcow2"), folder.path().join("b.qcow2"));
        fs::write(&first, empty_qcow2(8 << 20)).unwrap();
        fs::copy(&first, &second).unwrap();
        let images = folder.path().join("cache/images");
        let raw = converted(&first, &images).unwrap();
        assert_eq!(fs::metadata(&raw).unwrap().len(), 8 << 20);
        let made = fs::metadata(&raw).unwrap().modified().unwrap();
        assert_eq!(converted(&second, &images).unwrap(), raw);
        assert_eq!(fs::metadata(&raw).unwrap().modified().unwrap(), made);

        fs::write(&second, empty_qcow2(16 << 20)).unwrap();
        assert_ne!(converted(&second, &images).unwrap(), raw);
        assert_eq!(fs::read_dir(&images).unwrap().count(), 2);
    }
}
