//! Where files go that can be made again, and layers that end with their machine.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::image_format::{self, Format, HEAD_BYTES};

/// `$XDG_CACHE_HOME/nimbo`, or `~/.cache/nimbo`. It may not exist yet.
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
    let shown = file.display();
    let mut image = File::open(file).with_context(|| format!("cannot open the image {shown}"))?;
    let mut head = Vec::new();
    let read = image.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head);
    read.with_context(|| format!("cannot read the image {shown}"))?;
    match image_format::detect(&head) {
        Format::Raw => file.canonicalize().with_context(|| format!("cannot find the image {shown}")),
        Format::Foreign { name, remedy } => {
            bail!("{shown} is {name}, and raw or qcow2 is expected; {remedy}")
        }
        Format::Qcow2 => bail!(
            "{shown} is a qcow2 image, and a raw one is expected: qemu-img convert -O raw FILE IMAGE.raw"
        ),
    }
}
