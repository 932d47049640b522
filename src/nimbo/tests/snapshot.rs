//! Snapshots from outside: made, interrupted, restored, served, copied and deleted, in a folder and in a bucket.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use objects::testing::S3Server;
use support::{Folder, MIB, Serving, bytes_equal, signal};

const CHUNK: u64 = 512 << 10;
const OBJECTS: [&str; 2] = ["--objects", "objects"];

/// What a command prints, with the store in the folder `objects`.
fn nimbo(folder: &Folder, arguments: &[&str]) -> String {
    folder.nimbo(&[arguments, &OBJECTS].concat()).trim_end().to_owned()
}

fn nimbo_fails(folder: &Folder, arguments: &[&str]) -> String {
    folder.nimbo_fails(1, &[arguments, &OBJECTS].concat())
}

fn list(folder: &Folder) -> Vec<serde_json::Value> {
    serde_json::from_str(&nimbo(folder, &["snapshots", "--json"])).unwrap()
}

/// Changes a volume as a client does.
fn change(folder: &Folder, volume: &str, requests: &[&str]) {
    let serving = Serving::start(folder, &[volume], &["--nbd", "unix:socket"]);
    let arguments = ["-f", "raw"].into_iter().chain(requests.iter().flat_map(|request| ["-c", request]));
    let said = folder.tool("qemu-io", &arguments.chain([serving.url()]).collect::<Vec<_>>());
    assert!(!said.contains("failed"), "{said}");
    serving.stop(Signal::SIGTERM);
}

/// All files below a folder, with their numbers.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    // What goes meanwhile is not there.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&entry.path())),
            Ok(metadata) => drop(found.insert(entry.path(), metadata.ino())),
            Err(_) => {}
        }
    }
    found
}

/// The objects of a store that are chunks.
fn chunks(folder: &Folder) -> BTreeMap<PathBuf, u64> {
    let is_chunk = |path: &Path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('c'))
    };
    files(&folder.path("objects/data")).into_iter().filter(|(path, _)| is_chunk(path)).collect()
}

/// Nothing but the lock is left of a store.
fn assert_empty(folder: &Folder) {
    let left: Vec<PathBuf> = files(&folder.path("objects")).into_keys().collect();
    assert_eq!(left, [folder.path("objects/.lock")]);
}

fn assert_holds(folder: &Folder, volume: &str, expected: &str) {
    nimbo(folder, &["export", volume, "out.raw"]);
    assert!(bytes_equal(&folder.path("out.raw"), &folder.path(expected)), "{volume} is not {expected}");
    fs::remove_file(folder.path("out.raw")).unwrap();
}

/// A volume that holds nothing that compresses.
fn noise(folder: &Folder, volume: &str, mib: u64) {
    let (mut random, mut image) =
        (File::open("/dev/urandom").unwrap(), File::create(folder.path("noise.raw")).unwrap());
    std::io::copy(&mut (&mut random).take(mib * MIB), &mut image).unwrap();
    folder.nimbo(&["import", volume, "noise.raw"]);
}

#[test]
fn every_snapshot_gives_back_what_the_volume_was() {
    let folder = Folder::new();
    folder.image("disk.raw");
    folder.nimbo(&["import", "volume", "disk.raw"]);
    assert!(nimbo_fails(&folder, &["snapshots"]).contains("no object store objects"));
    let mut names = Vec::new();
    for (round, requests) in [
        &[][..],
        &["write -P 5 1M 64k", "write -P 6 40M 1M"],
        &["discard 0 1M", "write -z 20M 4k", "write -P 7 63M 1M"],
    ]
    .into_iter()
    .enumerate()
    {
        change(&folder, "volume", requests);
        names.push(nimbo(&folder, &["snapshot", "volume"]));
        folder.nimbo(&["export", "volume", &format!("{round}.raw")]);
    }
    let listed = list(&folder);
    for (index, name) in names.iter().enumerate() {
        let snapshot = listed.iter().find(|snapshot| snapshot["name"] == **name).unwrap();
        assert_eq!(snapshot["size_bytes"], 64 * MIB);
        assert_eq!(snapshot["parent"].as_str(), index.checked_sub(1).map(|index| names[index].as_str()));
        assert!(snapshot["own_bytes"].as_u64().unwrap() > 0);
    }
    let table = nimbo(&folder, &["snapshots"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(names.iter().all(|name| table.contains(&format!("\n{name}  "))), "{table}");
    assert_eq!(
        nimbo(&folder, &["changed", &names[0], &names[1]]),
        format!("2 {}\n80 {}\n81 {}", MIB, 40 * MIB, 80 * CHUNK + CHUNK)
    );
    let blocks = nimbo(&folder, &["blocks", &names[0], "--json"]);
    let first: serde_json::Value = serde_json::from_str(blocks.lines().nth(1).unwrap()).unwrap();
    assert_eq!(first, serde_json::json!({ "index": 39, "offset_bytes": 39 * CHUNK }));
    for (round, name) in names.iter().enumerate() {
        let (lazy, filled, expected) =
            (format!("lazy-{round}"), format!("filled-{round}"), format!("{round}.raw"));
        nimbo(&folder, &["restore", name, &lazy]);
        assert!(
            folder
                .nimbo_fails(1, &["export", &lazy, "x.raw", "--objects", "elsewhere"])
                .contains("no object store elsewhere")
        );
        nimbo(&folder, &["restore", name, &filled, "--fill"]);
        folder.nimbo(&["export", &filled, "filled.raw", "--objects", "elsewhere"]);
        assert!(bytes_equal(&folder.path("filled.raw"), &folder.path(&expected)));
        fs::remove_file(folder.path("filled.raw")).unwrap();
    }
    // A snapshot of what was made from a snapshot is of the same lineage.
    change(&folder, "filled-1", &["write -P 9 3M 4k"]);
    let branch = nimbo(&folder, &["snapshot", "filled-1"]);
    assert_eq!(nimbo(&folder, &["changed", &names[1], &branch]), format!("6 {}", 3 * MIB));
    nimbo(&folder, &["delete-snapshot", &branch]);
    deletion_leaves_what_is_needed(&folder, &names);
}

/// The rest of the test above: three volumes have yet to fetch all of three snapshots, which are deleted in another order.
fn deletion_leaves_what_is_needed(folder: &Folder, names: &[String]) {
    for index in [1, 0, 2] {
        nimbo(folder, &["delete-snapshot", &names[index]]);
        assert!(nimbo_fails(folder, &["restore", &names[index], "new"]).contains("no snapshot"));
        // All of it is fetched only now.
        assert_holds(folder, &format!("lazy-{index}"), &format!("{index}.raw"));
    }
    assert!(list(folder).is_empty());
    for (round, more) in [&[][..], &["--limit", "1G"], &[]].into_iter().enumerate() {
        let lazy = format!("lazy-{round}");
        nimbo(folder, &[&["fill", &lazy], more].concat());
        folder.nimbo(&["info", &lazy, "--objects", "elsewhere"]);
    }
    assert_empty(folder);
}

#[test]
fn a_snapshot_is_served_as_a_disk_that_can_only_be_read() {
    let folder = Folder::new();
    let raw = folder.image("disk.raw");
    folder.nimbo(&["import", "volume", "disk.raw"]);
    let name = nimbo(&folder, &["snapshot", "volume"]);
    change(&folder, "volume", &["write -P 5 0 1M"]);
    let then = format!("then={name}");
    let serving = Serving::start(&folder, &[&then, &name], &["--nbd", "unix:socket", "--objects", "objects"]);
    assert!(folder.tool("nbdinfo", &[serving.url()]).contains("is_read_only: true"));
    folder.tool("nbdcopy", &["--connections=4", &serving.urls[1], "out.raw"]);
    assert!(bytes_equal(&raw, &folder.path("out.raw")));
    let output = folder.run("qemu-io", &["-f", "raw", "-c", "write 0 4k", serving.url()]);
    assert!(!output.status.success(), "{output:?}");
    serving.stop(Signal::SIGTERM);
}

/// `nimbo volume snapshot volume`, some chunks of which are in the store.
fn half_a_snapshot(folder: &Folder) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nimbo"));
    command.args(["volume", "snapshot", "volume"]).args(OBJECTS).current_dir(folder.0.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while chunks(folder).is_empty() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "it puts nothing");
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_snapshot_that_was_interrupted_goes_on_or_is_given_up() {
    let folder = Folder::new();
    noise(&folder, "volume", 256);
    for how in [Signal::SIGINT, Signal::SIGKILL] {
        let mut child = half_a_snapshot(&folder);
        signal(&child, how);
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), (how == Signal::SIGINT).then_some(1), "{said}");
        assert_eq!(said.contains("begun again, it goes on"), how == Signal::SIGINT, "{said}");
        assert!(list(&folder).is_empty());
        let there = chunks(&folder);
        assert!((1..512).contains(&there.len()), "{}", there.len());
        // What is written meanwhile is not in it.
        change(&folder, "volume", &["write -P 1 0 4k"]);
        let name = nimbo(&folder, &["snapshot", "volume"]);
        let after = chunks(&folder);
        assert!(there.iter().all(|(path, id)| after.get(path) == Some(id)), "some were put again");
        nimbo(&folder, &["restore", &name, "restored"]);
        assert_holds(&folder, "restored", "noise.raw");
        nimbo(&folder, &["fill", "restored"]);
        nimbo(&folder, &["delete-snapshot", &name]);
        assert_empty(&folder);
        for volume in ["restored", "volume"] {
            fs::remove_dir_all(folder.path(volume)).unwrap();
        }
        folder.nimbo(&["import", "volume", "noise.raw"]);
    }
    let mut child = half_a_snapshot(&folder);
    signal(&child, Signal::SIGTERM);
    child.wait().unwrap();
    nimbo(&folder, &["snapshot", "volume", "--cancel"]);
    assert_empty(&folder);
    nimbo(&folder, &["snapshot", "volume", "--cancel"]);
}

/// While a snapshot is made its parent is deleted: what they share stays, and the rest goes when it is complete.
#[test]
fn a_parent_that_is_deleted_meanwhile_is_collected() {
    let folder = Folder::new();
    noise(&folder, "volume", 64);
    let parent = nimbo(&folder, &["snapshot", "volume"]);
    let noise = fs::read(folder.path("noise.raw")).unwrap();
    let changed: Vec<u8> = noise.iter().rev().copied().collect();
    fs::write(
        folder.path("changed.raw"),
        [&changed[..changed.len() / 2], &noise[noise.len() / 2..]].concat(),
    )
    .unwrap();
    let serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    folder.tool("nbdcopy", &["changed.raw", serving.url()]);
    serving.stop(Signal::SIGTERM);
    let before = chunks(&folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nimbo"));
    command.args(["volume", "snapshot", "volume"]).args(OBJECTS).current_dir(folder.0.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while chunks(&folder).len() == before.len() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "it puts nothing");
        std::thread::yield_now();
    }
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    nimbo(&folder, &["delete-snapshot", &parent]);
    assert!(before.keys().all(|path| chunks(&folder).contains_key(path)), "it removed what is shared");
    let name = nimbo(&folder, &["snapshot", "volume"]);
    let left = chunks(&folder);
    assert_eq!(left.len(), 128, "the parent's chunks that nobody shares are gone");
    nimbo(&folder, &["restore", &name, "restored", "--fill"]);
    assert_holds(&folder, "restored", "changed.raw");
    nimbo(&folder, &["delete-snapshot", &name]);
    assert_empty(&folder);
}

#[test]
fn what_is_damaged_is_named_and_never_served() {
    let folder = Folder::new();
    noise(&folder, "volume", 4);
    let name = nimbo(&folder, &["snapshot", "volume"]);
    nimbo(&folder, &["restore", &name, "restored"]);
    let (path, _) =
        chunks(&folder).into_iter().find(|(path, _)| path.to_str().unwrap().contains("/c3-")).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    let key = path.strip_prefix(folder.path("objects")).unwrap().to_str().unwrap().to_owned();
    for arguments in [&["fill", "restored"][..], &["restore", &name, "other", "--fill"]] {
        let said = nimbo_fails(&folder, arguments);
        assert!(said.contains(&key) && said.contains("is damaged at byte"), "{arguments:?}: {said}");
    }
    for disk in [&name, "restored"] {
        let serving = Serving::start(&folder, &[disk], &["--nbd", "unix:socket", "--objects", "objects"]);
        folder.tool("qemu-io", &["-r", "-f", "raw", "-c", "read 1M 512k", serving.url()]);
        let output = folder.run("qemu-io", &["-r", "-f", "raw", "-c", "read 1600k 4k", serving.url()]);
        assert!(!output.status.success(), "{output:?}");
        let said = serving.stop(Signal::SIGTERM);
        assert!(said.contains(&key) && said.contains("is damaged at byte"), "{disk}: {said}");
    }
    // A good copy mends it.
    file.write_all_at(&byte, 5000).unwrap();
    nimbo(&folder, &["fill", "restored"]);
    assert_holds(&folder, "restored", "noise.raw");
}

#[test]
fn what_cannot_be_is_told() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "1M"]);
    folder.nimbo(&["create", "other", "--size", "1M"]);
    let (name, other) = (nimbo(&folder, &["snapshot", "volume"]), nimbo(&folder, &["snapshot", "other"]));
    let missing = "0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210";
    for (arguments, hint) in [
        (&["restore", missing, "new"][..], "there is no snapshot"),
        (&["restore", &name, "volume"], "is there already"),
        (&["restore", &name, "new", "--size", "512K"], "does not fit"),
        (&["delete-snapshot", missing], "there is no snapshot"),
        (&["changed", &name, &other], "of different volumes"),
        (&["blocks", missing], "there is no snapshot"),
        (&["serve", missing], "there is no snapshot"),
        (&["snapshot", "missing"], "no folder missing"),
        (&["fill", "missing"], "no folder missing"),
    ] {
        let said = nimbo_fails(&folder, arguments);
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
    assert!(folder.nimbo_fails(2, &["restore", "friday", "new"]).contains("names no snapshot"));
    assert!(folder.nimbo_fails(2, &["restore", &name, "new", "--limit", "1M"]).contains("--fill"));
    assert!(!folder.path("new").exists());
    // Nobody is left relying on what could not be restored.
    nimbo(&folder, &["delete-snapshot", &name]);
    nimbo(&folder, &["delete-snapshot", &other]);
    assert_empty(&folder);
}

#[test]
fn whoever_reads_a_list_may_stop_reading() {
    let folder = Folder::new();
    noise(&folder, "volume", 4);
    let name = nimbo(&folder, &["snapshot", "volume"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nimbo"));
    command.args(["volume", "blocks", &name]).args(OBJECTS).current_dir(folder.0.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(command.stdout(writer).status().unwrap().success());
}

#[test]
fn a_bucket_does_as_well_and_snapshots_move_between_stores() {
    let folder = Folder::new();
    let server = S3Server::start();
    let bucket = "s3://bucket/deep/prefix";
    let nimbo_s3 = |arguments: &[&str]| {
        let mut command = folder.command(env!("CARGO_BIN_EXE_nimbo"), &[&["volume"], arguments].concat());
        let output = command.envs(server.variables()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    noise(&folder, "volume", 4);
    let first = nimbo_s3(&["snapshot", "volume", "--objects", bucket]);
    change(&folder, "volume", &["write -P 5 1M 64k"]);
    folder.nimbo(&["export", "volume", "second.raw"]);
    let second = nimbo_s3(&["snapshot", "volume", "--objects", bucket]);
    assert_eq!(nimbo_s3(&["snapshots", "--objects", bucket]).lines().count(), 3);
    nimbo_s3(&["restore", &first, "restored", "--fill", "--objects", bucket]);
    assert_holds(&folder, "restored", "noise.raw");
    let older = nimbo_s3(&["copy-snapshot", &first, "--from", bucket, "--to", "objects"]);
    let newer =
        nimbo_s3(&["copy-snapshot", &second, "--from", bucket, "--to", "objects", "--parent", &older]);
    assert_eq!(chunks(&folder).len(), 9, "the second one shares all chunks but one");
    assert_eq!(nimbo(&folder, &["changed", &older, &newer]), format!("2 {MIB}"));
    nimbo(&folder, &["restore", &newer, "moved"]);
    assert_holds(&folder, "moved", "second.raw");
    for name in [&first, &second] {
        nimbo_s3(&["delete-snapshot", name, "--objects", bucket]);
    }
    assert_eq!(nimbo_s3(&["snapshots", "--objects", bucket, "--json"]), "[]");
}

/// What a backup program does: the blocks of one snapshot, and later those that changed, become snapshots of another store.
#[test]
fn a_snapshot_is_written_block_by_block() {
    let folder = Folder::new();
    folder.image("disk.raw");
    folder.nimbo(&["import", "volume", "disk.raw"]);
    let first = nimbo(&folder, &["snapshot", "volume"]);
    change(&folder, "volume", &["write -P 5 1M 1M", "discard 20M 1M"]);
    let second = nimbo(&folder, &["snapshot", "volume"]);
    folder.nimbo(&["export", "volume", "second.raw"]);
    let numbers = |listed: String| {
        listed.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let stream = |name: &str, numbers: &[String]| {
        let mut stream = Vec::new();
        for number in numbers {
            stream.extend(format!("{number}\n").into_bytes());
            let read = [&["volume", "read-block", name, number], &OBJECTS[..]].concat();
            let read = folder.run(env!("CARGO_BIN_EXE_nimbo"), &read);
            assert!(read.status.success() && read.stdout.len() as u64 == CHUNK, "{read:?}");
            stream.extend(read.stdout);
        }
        stream
    };
    let copy = ["--objects", "copies"];
    let write = |arguments: &[&str], stream: &[u8]| {
        let arguments = [&["volume", "write-snapshot"], arguments, &copy].concat();
        let mut command = folder.command(env!("CARGO_BIN_EXE_nimbo"), &arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end before it has read all.
        let _ = stdin.write_all(stream);
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.success(),
            said.trim_end().to_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let all = stream(&first, &numbers(nimbo(&folder, &["blocks", &first])));
    let (succeeded, first_copy, said) = write(&["--size", "64M"], &all);
    assert!(succeeded, "{said}");
    let changed = stream(&second, &numbers(nimbo(&folder, &["changed", &first, &second])));
    let (succeeded, second_copy, said) = write(&["--size", "64M", "--parent", &first_copy], &changed);
    assert!(succeeded, "{said}");
    for (name, expected) in [(&first_copy, "disk.raw"), (&second_copy, "second.raw")] {
        folder.nimbo(&[&["restore", name, "copy"], &copy[..]].concat());
        folder.nimbo(&[&["export", "copy", "copy.raw"], &copy[..]].concat());
        assert!(bytes_equal(&folder.path("copy.raw"), &folder.path(expected)));
        folder.nimbo(&[&["fill", "copy"], &copy[..]].concat());
        fs::remove_dir_all(folder.path("copy")).unwrap();
        fs::remove_file(folder.path("copy.raw")).unwrap();
    }
    let before = files(&folder.path("copies"));
    for (arguments, stream, hint) in [
        (&["--size", "64M"][..], &all[..1000], "block 0 is not whole"),
        (&["--size", "64M"], b"x\n", "\"x\" is no number"),
        (&["--size", "64M"], b"1", "a newline"),
        (&["--size", "1M"], &all, "block"),
        (&["--size", "1M", "--parent", &first_copy], b"", "67108864"),
        (&["--size", "64M", "--parent", &first], b"", "no snapshot"),
    ] {
        let (succeeded, _, said) = write(arguments, stream);
        assert!(!succeeded && said.contains(hint), "{arguments:?}: {said}");
        assert_eq!(files(&folder.path("copies")), before, "{arguments:?} left something");
    }
}
