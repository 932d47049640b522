//! Loads kernel modules: those that `/etc/nimbo/modules` lists, and others by name when something needs them.
//!
//! A name is looked up under `/lib/modules/RELEASE`, through `modules.dep` when there is one (each line is
//! `PATH: DEPENDENCY…`, where the dependencies are complete and the last one has to be loaded first), else by
//! searching the tree. Names are compared with `-` and `_` being the same, as the kernel does.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::console::say;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel decompresses by itself.
const COMPRESSED: libc::c_uint = 4;

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    /// A file if it has a slash, else a name.
    module: &'a str,
    parameters: String,
}

fn parse_list(text: &str) -> Vec<Request<'_>> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let module = words.next()?;
            Some(Request { module, parameters: words.collect::<Vec<_>>().join(" ") })
        })
        .collect()
}

/// `kernel/drivers/net/virtio-net.ko.xz` is called `virtio_net`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The modules of one kernel release.
pub struct Modules {
    folder: PathBuf,
    /// The text of `modules.dep`, empty if there is none.
    dependencies: String,
    /// The text of `modules.builtin`, empty if there is none.
    builtin: String,
}

impl Modules {
    /// Those of the running kernel.
    pub fn of_kernel() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::in_folder(Path::new("/lib/modules").join(release.trim()))
    }

    fn in_folder(folder: PathBuf) -> Self {
        let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        Modules { dependencies: read("modules.dep"), builtin: read("modules.builtin"), folder }
    }

    /// Loads every module of the list, in its order. One that fails is reported and the next one tried: what
    /// cannot be done without it will say so itself, with more to say.
    pub fn load_list(&self, list: &Path) {
        let Ok(text) = fs::read_to_string(list) else { return };
        for request in parse_list(&text) {
            if let Err(error) = self.load(request.module, &request.parameters) {
                say!("{}: {error:#}", list.display());
            }
        }
    }

    /// Loads one module with what it depends on.
    pub fn load(&self, module: &str, parameters: &str) -> Result<()> {
        let files = self.resolve(module)?;
        let last = files.len().saturating_sub(1);
        for (index, file) in files.iter().enumerate() {
            let parameters = if index == last { parameters } else { "" };
            insert(file, parameters).with_context(|| format!("load module {}", file.display()))?;
        }
        Ok(())
    }

    /// The files to insert, in order; none if the module is part of the kernel.
    fn resolve(&self, module: &str) -> Result<Vec<PathBuf>> {
        if module.contains('/') {
            return Ok(vec![PathBuf::from(module)]);
        }
        let name = module.replace('-', "_");
        for line in self.dependencies.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            if name_of(path) == name {
                let needs = needs.split_whitespace().rev();
                return Ok(needs.chain([path]).map(|path| self.folder.join(path)).collect());
            }
        }
        if self.builtin.lines().any(|path| name_of(path) == name) {
            return Ok(Vec::new());
        }
        match find(&self.folder, &name) {
            Some(file) => Ok(vec![file]),
            None => bail!("no module {module} under {}", self.folder.display()),
        }
    }
}

/// The file of this module, somewhere in the folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(path);
        } else if file.contains(".ko") && name_of(&file) == name {
            return Some(path);
        }
    }
    folders.iter().find_map(|folder| find(folder, name))
}

fn insert(path: &Path, parameters: &str) -> Result<()> {
    let file = File::open(path)?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    let flags = if compressed { COMPRESSED } else { 0 };
    match finit_module(&file, &CString::new(parameters)?, ModuleInitFlags::from_bits_retain(flags)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_comments_and_parameters() {
        let text = "# disks\nvirtio_blk queue_depth=64 x=1 # fast\n\n /lib/extra/a.ko\n";
        let want = [
            Request { module: "virtio_blk", parameters: "queue_depth=64 x=1".into() },
            Request { module: "/lib/extra/a.ko", parameters: String::new() },
        ];
        assert_eq!(parse_list(text), want);
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("kernel/drivers/net")).unwrap();
        fs::write(folder.path().join("kernel/drivers/net/virtio-net.ko.xz"), b"").unwrap();
        folder
    }

    #[test]
    fn dependencies_come_first_and_the_deepest_before_the_others() {
        let folder = tree();
        fs::write(
            folder.path().join("modules.dep"),
            "kernel/fs/nfs/nfsv4.ko: kernel/fs/nfs/nfs.ko kernel/net/sunrpc/sunrpc.ko\nkernel/net/sunrpc/sunrpc.ko:\n",
        )
        .unwrap();
        let files = Modules::in_folder(folder.path().to_owned()).resolve("nfsv4").unwrap();
        let names: Vec<_> = files.iter().map(|file| name_of(&file.to_string_lossy())).collect();
        assert_eq!(names, ["sunrpc", "nfs", "nfsv4"]);
    }

    #[test]
    fn without_an_index_the_tree_is_searched() {
        let folder = tree();
        let modules = Modules::in_folder(folder.path().to_owned());
        let want = folder.path().join("kernel/drivers/net/virtio-net.ko.xz");
        assert_eq!(modules.resolve("virtio_net").unwrap(), [want]);
        let error = modules.resolve("nosuch").unwrap_err().to_string();
        assert!(error.contains("nosuch"), "{error}");
    }

    #[test]
    fn a_built_in_module_needs_no_file() {
        let folder = tree();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        assert!(Modules::in_folder(folder.path().to_owned()).resolve("ext4").unwrap().is_empty());
    }
}
