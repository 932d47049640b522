//! What can be done with a volume while it is served, from outside: snapshots, another size, other limits, and what its control socket says.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Folder, GIB, MIB, Serving, bytes_equal};
use vmm::control::client::{Client, ClientError};
use vmm::testing::manual::Manual;
use volume::nbd::client::{Client as NbdClient, command};

const OBJECTS: [&str; 2] = ["--objects", "objects"];
const NBD: [&str; 2] = ["--nbd", "unix:socket"];

fn nimbo(folder: &Folder, arguments: &[&str]) -> String {
    folder.nimbo(&[arguments, &OBJECTS].concat()).trim_end().to_owned()
}

fn control(folder: &Folder, volume: &str) -> Client {
    Client::connect(&folder.path(volume).join("control")).unwrap()
}

fn info(folder: &Folder, volume: &str) -> Value {
    serde_json::from_str(&nimbo(folder, &["info", volume, "--json"])).unwrap()
}

/// Writes numbers that grow by one to two places by turns, until it is told to stop. `acknowledged` is the last that both places have.
fn count(folder: &Folder, stop: &AtomicBool, acknowledged: &AtomicU64) {
    let mut client = NbdClient::greet(UnixStream::connect(folder.path("socket")).unwrap()).unwrap();
    client.go("volume").unwrap();
    for number in 1u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for place in [0, 32 * MIB] {
            client
                .send(command::WRITE, 0, number, place, 4096, &[number.to_le_bytes(); 512].concat())
                .unwrap();
            client.reply().unwrap().result.unwrap();
        }
        acknowledged.store(number, Ordering::Release);
    }
}

#[test]
fn a_snapshot_of_a_volume_that_is_written_to_is_of_one_moment() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "64M"]);
    let serving = Serving::start(&folder, &["volume"], &NBD);
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let names = std::thread::scope(|scope| {
        let _stop_also_after_a_panic = Raised(&stop);
        scope.spawn(|| count(&folder, &stop, &acknowledged));
        [0; 5].map(|_| {
            let before = acknowledged.load(Ordering::Acquire);
            let name = nimbo(&folder, &["snapshot", "volume"]);
            let after = acknowledged.load(Ordering::Acquire) + 1;
            (name, before..=after)
        })
    });
    serving.stop(Signal::SIGTERM);
    for (name, possible) in names {
        nimbo(&folder, &["restore", &name, "then"]);
        nimbo(&folder, &["export", "then", "then.raw"]);
        let file = File::open(folder.path("then.raw")).unwrap();
        let [first, second] = [0, 32 * MIB].map(|place| {
            let mut number = [0; 8];
            file.read_exact_at(&mut number, place).unwrap();
            u64::from_le_bytes(number)
        });
        assert!(first == second || first == second + 1, "{first} and {second} were never there together");
        assert!(possible.contains(&first), "{first} was not there then: {possible:?}");
        fs::remove_dir_all(folder.path("then")).unwrap();
        fs::remove_file(folder.path("then.raw")).unwrap();
    }
}

/// Writes numbers that grow by one to one volume and then to the other, until it is told to stop.
fn count_on(folder: &Folder, volumes: [&str; 2], stop: &AtomicBool) {
    let mut clients = volumes.map(|volume| {
        let stream = UnixStream::connect(folder.path(&format!("{volume}.sock"))).unwrap();
        let mut client = NbdClient::greet(stream).unwrap();
        client.go(volume).unwrap();
        client
    });
    for number in 1u64.. {
        for client in &mut clients {
            client.send(command::WRITE, 0, number, 0, 4096, &[number.to_le_bytes(); 512].concat()).unwrap();
            client.reply().unwrap().result.unwrap();
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Begins snapshots of volumes that are paused meanwhile, and waits for their ends. Gives their names.
fn of_one_moment(folder: &Folder, volumes: [&str; 2]) -> [String; 2] {
    let mut clients = volumes.map(|volume| control(folder, volume));
    for client in &mut clients {
        client.put::<Value>("/v1/pause", &json!({ "at_most_ms": 10_000 })).unwrap();
    }
    let spec = json!({ "objects": folder.path("objects") });
    // The first one last, when without a pause the second would be far behind.
    for client in clients.iter_mut().rev() {
        client.post::<Value>("/v1/snapshot", &spec, &[]).unwrap();
    }
    for client in &mut clients {
        let resumed = client.delete("/v1/pause").unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&resumed.body).unwrap(), json!({ "was_paused": true }));
    }
    clients.map(|mut client| {
        let made: Value = client.get("/v1/snapshot?wait_ms=60000").unwrap();
        assert_eq!(made["state"], "done", "{made}");
        made["snapshot"].as_str().unwrap().to_owned()
    })
}

#[test]
fn snapshots_of_volumes_that_are_paused_are_of_one_moment() {
    let folder = Folder::new();
    let volumes = ["one", "other"];
    let serving = volumes.map(|volume| {
        folder.nimbo(&["create", volume, "--size", "64M"]);
        Serving::start(&folder, &[volume], &["--nbd", &format!("unix:{volume}.sock")])
    });
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        let _stop_also_after_a_panic = Raised(&stop);
        scope.spawn(|| count_on(&folder, volumes, &stop));
        [0; 5].map(|_| of_one_moment(&folder, volumes))
    });
    for serving in serving {
        serving.stop(Signal::SIGTERM);
    }
    for names in made {
        let [first, second] = names.map(|name| {
            nimbo(&folder, &["restore", &name, "then"]);
            nimbo(&folder, &["export", "then", "then.raw"]);
            let mut number = [0; 8];
            File::open(folder.path("then.raw")).unwrap().read_exact_at(&mut number, 0).unwrap();
            fs::remove_dir_all(folder.path("then")).unwrap();
            fs::remove_file(folder.path("then.raw")).unwrap();
            u64::from_le_bytes(number)
        });
        assert!(first == second || first == second + 1, "{first} and {second} were never there together");
    }
}

/// Raised when it is dropped.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// 256 MiB that do not compress.
fn noise(folder: &Folder) {
    let mut image = File::create(folder.path("noise.raw")).unwrap();
    std::io::copy(&mut File::open("/dev/urandom").unwrap().take(256 * MIB), &mut image).unwrap();
    folder.nimbo(&["import", "volume", "noise.raw"]);
}

#[test]
fn a_snapshot_that_was_stopped_goes_on_or_is_given_up_while_the_volume_is_served() {
    let folder = Folder::new();
    noise(&folder);
    let serving = Serving::start(&folder, &["volume"], &NBD);
    let mut snapshot = folder
        .command(env!("CARGO_BIN_EXE_nimbo"), &[&["volume", "snapshot", "volume"], &OBJECTS[..]].concat());
    let mut snapshot = snapshot.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut client = control(&folder, "volume");
    let deadline = Instant::now() + Duration::from_secs(60);
    let begun = loop {
        assert!(Instant::now() < deadline, "it puts nothing");
        match client.get::<Value>("/v1/snapshot") {
            Ok(status) if status["done_bytes"] != 0 => break status,
            Ok(_) | Err(ClientError::Refused { status: 404, .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    let error = client.post::<Value>("/v1/snapshot", &json!({ "objects": "elsewhere" }), &[]).unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status: 409, .. }), "{error}");
    assert!(error.to_string().contains("is being made already"), "{error}");
    support::signal(&snapshot, Signal::SIGINT);
    let mut said = String::new();
    snapshot.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(snapshot.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("the same again goes on"), "{said}");
    let pending = info(&folder, "volume")["pending_snapshot"].clone();
    assert_eq!(pending, begun["snapshot"]);
    // What is written now is not in it.
    folder.tool("qemu-io", &["-f", "raw", "-c", "write -P 1 0 1M", serving.url()]);
    let name = nimbo(&folder, &["snapshot", "volume"]);
    assert_eq!(pending, name);
    nimbo(&folder, &["restore", &name, "then"]);
    nimbo(&folder, &["export", "then", "then.raw"]);
    assert!(bytes_equal(&folder.path("then.raw"), &folder.path("noise.raw")));
    // One that was stopped half-way, and given up; a connection is not kept for so long.
    let mut client = control(&folder, "volume");
    folder.tool("qemu-io", &["-f", "raw", "-c", "write -P 2 0 100M", serving.url()]);
    let begun: Value =
        client.post("/v1/snapshot", &json!({ "objects": folder.path("objects") }), &[]).unwrap();
    let _: Value = client.post("/v1/snapshot/stop", &json!({}), &[]).unwrap();
    assert_ne!(begun["snapshot"], name);
    nimbo(&folder, &["snapshot", "volume", "--cancel"]);
    assert_eq!(info(&folder, "volume")["pending_snapshot"], Value::Null);
    let left: Vec<Value> = serde_json::from_str(&nimbo(&folder, &["snapshots", "--json"])).unwrap();
    assert_eq!(left.len(), 1);
    serving.stop(Signal::SIGTERM);
}

#[test]
fn snapshots_are_of_the_moments_when_they_are_begun_though_others_are_being_made() {
    let folder = Folder::new();
    noise(&folder);
    let serving = Serving::start(&folder, &["volume"], &NBD);
    let mut client = control(&folder, "volume");
    let objects = folder.path("objects");
    let mut names = Vec::new();
    for number in 1..=3 {
        let write = format!("write -P {number} 0 1M");
        folder.tool("qemu-io", &["-f", "raw", "-c", &write, serving.url()]);
        let name = client.get::<Value>("/v1/volume").unwrap()["next_snapshot"].as_str().unwrap().to_owned();
        let spec = json!({ "objects": objects, "name": name });
        for _ in 0..2 {
            let begun: Value = client.post("/v1/snapshot", &spec, &[]).unwrap();
            assert_eq!((begun["snapshot"].as_str(), &begun["state"]), (Some(&*name), &json!("running")));
        }
        names.push(name);
    }
    folder.tool("qemu-io", &["-f", "raw", "-c", "write -P 9 0 1M", serving.url()]);
    let status: Value = client.get("/v1/volume").unwrap();
    assert_eq!(status["pending_snapshot"], names[0]);
    assert_eq!(status["queued_snapshots"], json!(names[1..]));
    let cancelled = serde_json::to_vec(&json!({ "objects": objects, "name": names[1] })).unwrap();
    client.request("DELETE", "/v1/snapshot", &cancelled, &[]).unwrap();
    for (number, name) in [(1, &names[0]), (3, &names[2])] {
        // A connection is not kept for as long as what was done before may take.
        let mut client = control(&folder, "volume");
        let status: Value = client.get(&format!("/v1/snapshot?name={name}&wait_ms=60000")).unwrap();
        assert_eq!(status["state"], "done", "{status}");
        nimbo(&folder, &["restore", name, "then"]);
        nimbo(&folder, &["export", "then", "then.raw"]);
        let mut begin = vec![0; 1 << 20];
        File::open(folder.path("then.raw")).unwrap().read_exact(&mut begin).unwrap();
        assert!(begin.iter().all(|byte| *byte == number), "{name} is not of its moment");
        fs::remove_file(folder.path("then.raw")).unwrap();
        fs::remove_dir_all(folder.path("then")).unwrap();
    }
    let left: Vec<Value> = serde_json::from_str(&nimbo(&folder, &["snapshots", "--json"])).unwrap();
    assert_eq!(left.len(), 2);
    serving.stop(Signal::SIGTERM);
}

#[test]
fn a_volume_from_a_snapshot_is_filled_while_it_is_served() {
    let folder = Folder::new();
    noise(&folder);
    let name = nimbo(&folder, &["snapshot", "volume"]);
    nimbo(&folder, &["restore", &name, "then"]);
    let serving = Serving::start(&folder, &["then"], &[&NBD[..], &OBJECTS].concat());
    assert_eq!(info(&folder, "then")["origin"], name);
    nimbo(&folder, &["delete-snapshot", &name]);
    nimbo(&folder, &["fill", "then", "--limit", "1G"]);
    assert_eq!(info(&folder, "then")["origin"], Value::Null);
    // The snapshot was deleted, and what was kept for this volume is gone.
    let data: Vec<_> = fs::read_dir(folder.path("objects/data")).into_iter().flatten().collect();
    assert!(data.is_empty(), "{data:?}");
    let said = folder.nimbo_fails(1, &["fill", "then"]);
    assert!(said.contains("the volume has all that it holds"), "{said}");
    folder.tool("nbdcopy", &[serving.url(), "then.raw"]);
    assert!(bytes_equal(&folder.path("then.raw"), &folder.path("noise.raw")));
    serving.stop(Signal::SIGTERM);
}

#[test]
fn size_and_limits_change_while_the_volume_is_served() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "64M"]);
    let said = folder.nimbo_fails(1, &["modify", "volume", "--type", "gp3"]);
    assert!(said.contains("nobody serves volume"), "{said}");
    assert!(folder.nimbo_fails(2, &["modify", "volume"]).contains("--size"));
    let said = folder.nimbo_fails(1, &["serve", "volume", "--type", "gp3"]);
    assert!(said.contains("--enforce-limits"), "{said}");
    let limits = ["--enforce-limits", "--type", "gp2"];
    let serving = Serving::start(&folder, &["volume"], &[&NBD[..], &limits].concat());
    assert_eq!(info(&folder, "volume")["limits"], json!({ "type": "gp2" }));
    folder.nimbo(&["modify", "volume", "--size", "2G"]);
    assert_eq!(info(&folder, "volume")["size_bytes"], 2 * GIB);
    assert!(folder.tool("nbdinfo", &["--size", serving.url()]).trim() == (2 * GIB).to_string());
    folder.tool("qemu-io", &["-f", "raw", "-c", "write -P 1 2047M 1M", serving.url()]);
    // More than 2 GiB may have is refused, and what they had stays.
    let said = folder.nimbo_fails(1, &["modify", "volume", "--type", "gp3", "--iops", "7000"]);
    assert!(said.contains("500 for each GiB"), "{said}");
    // The size comes first.
    folder.nimbo(&["modify", "volume", "--size", "20G", "--type", "gp3", "--iops", "7000"]);
    assert_eq!(info(&folder, "volume")["limits"], json!({ "type": "gp3", "iops": 7000 }));
    assert!(folder.nimbo(&["info", "volume"]).contains("limits      gp3, 7000 IOPS\n"));
    // A standard volume has at most 1 TiB: it cannot become larger than that, nor lose what it is.
    folder.nimbo(&["modify", "volume", "--type", "standard"]);
    let said = folder.nimbo_fails(1, &["modify", "volume", "--size", "2T"]);
    assert!(said.contains("1 to 1024 GiB"), "{said}");
    assert!(folder.nimbo_fails(1, &["modify", "volume", "--size", "1G"]).contains("can only grow"));
    assert_eq!(info(&folder, "volume")["size_bytes"], 20 * GIB);
    folder.nimbo(&["modify", "volume", "--no-limits"]);
    assert_eq!(info(&folder, "volume")["limits"], Value::Null);
    serving.stop(Signal::SIGTERM);
    assert_eq!(info(&folder, "volume")["size_bytes"], 20 * GIB);
    folder.nimbo(&["modify", "volume", "--size", "21G"]);
    assert_eq!(info(&folder, "volume")["size_bytes"], 21 * GIB);
}

/// A file system of 24 MiB, for as long as it lives.
struct SmallFileSystem<'a>(&'a Folder);

impl<'a> SmallFileSystem<'a> {
    fn mount(folder: &'a Folder) -> Self {
        fs::create_dir(folder.path("small")).unwrap();
        File::create(folder.path("small.ext4")).unwrap().set_len(24 * MIB).unwrap();
        folder.tool("mkfs.ext4", &["-q", "-m", "0", "small.ext4"]);
        folder.tool("mount", &["-o", "loop", "small.ext4", "small"]);
        Self(folder)
    }
}

impl Drop for SmallFileSystem<'_> {
    fn drop(&mut self) {
        let _ = self.0.command("umount", &["small"]).status();
    }
}

#[test]
fn a_full_disk_fails_writes_or_lets_them_wait() {
    let folder = Folder::new();
    let _mounted = SmallFileSystem::mount(&folder);
    folder.nimbo(&["create", "small/volume", "--size", "1G"]);
    let fill = ["-f", "raw", "-c", "write -P 1 0 16M", "-c", "write -P 2 16M 16M", "-c", "flush"];
    let serving = Serving::start(&folder, &["small/volume"], &NBD);
    let output = folder.run("qemu-io", &[&fill[..], &[serving.url()]].concat());
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("No space left on device"), "{said}");
    // What could not be written harms nothing else.
    folder.tool("qemu-io", &["-f", "raw", "-c", "read -P 1 0 16M", "-c", "discard 16M 16M", serving.url()]);
    serving.stop(Signal::SIGTERM);
    folder.nimbo(&["check", "small/volume"]);

    let serving = Serving::start(&folder, &["small/volume"], &[&NBD[..], &["--when-full", "wait"]].concat());
    let write =
        ["-f", "raw", "-c", "write -P 2 16M 16M", "-c", "flush", "-c", "read -P 2 16M 16M", serving.url()];
    let mut writer = folder.command("qemu-io", &write).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while info(&folder, "small/volume")["waiting_for_room"] == 0 {
        assert!(Instant::now() < deadline && writer.try_wait().unwrap().is_none(), "nothing waits");
        std::thread::yield_now();
    }
    assert!(folder.nimbo(&["info", "small/volume"]).contains("wait for room in small/volume"));
    folder.tool("qemu-io", &["-f", "raw", "-c", "read -P 1 0 16M", "-c", "discard 0 16M", serving.url()]);
    let ended = writer.wait_with_output().unwrap();
    assert!(
        ended.status.success() && !String::from_utf8_lossy(&ended.stdout).contains("failed"),
        "{ended:?}"
    );
    assert_eq!(info(&folder, "small/volume")["waiting_for_room"], 0);
    serving.stop(Signal::SIGTERM);
    folder.nimbo(&["check", "small/volume"]);
}

#[test]
fn the_manual_of_the_control_socket_tells_the_truth() {
    let folder = Folder::new();
    folder.image("disk.raw");
    folder.nimbo(&["import", "volume", "disk.raw"]);
    let serving = Serving::start(&folder, &["volume"], &NBD);
    let socket = folder.path("volume/control");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let objects = folder.path("objects");
    let manual = Manual {
        text: include_str!("../../../docs/volume-control-api.md"),
        folder: folder.0.path(),
        environment: &[("S", socket.to_str().unwrap()), ("OBJECTS", objects.to_str().unwrap())],
        free_members: &[
            "snapshot",
            "next_snapshot",
            "state",
            "disk_bytes",
            "map_bytes",
            "done_bytes",
            "total_bytes",
        ],
    };
    assert!(manual.check() > 10);
    serving.stop(Signal::SIGTERM);
    assert!(!socket.exists());
}

#[test]
fn a_request_that_makes_no_sense_is_told_why() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "64M"]);
    let serving = Serving::start(&folder, &["volume"], &NBD);
    for (method, path, body, status, hint) in [
        ("GET", "/", "", 404, "nothing at this path"),
        ("GET", "/v2/volume", "", 404, "nothing at this path"),
        ("DELETE", "/v1/volume", "", 405, "answers to GET"),
        ("GET", "/v1/volume?verbose=1", "", 400, "has no query"),
        ("GET", "/v1/fill", "", 404, "nothing of this kind"),
        ("PUT", "/v1/volume/size", "{", 400, "not what this path wants"),
        ("PUT", "/v1/volume/size", "{}", 400, "size_bytes"),
        ("PUT", "/v1/volume/size", r#"{"size_bytes":1,"x":1}"#, 400, "unknown field `x`"),
        ("PUT", "/v1/volume/size", r#"{"size_bytes":67108865}"#, 409, "multiple of 4096"),
        ("PUT", "/v1/volume/limits", r#"{"type":"gp4"}"#, 400, "gp4"),
        ("PUT", "/v1/pause", r#"{"at_most_ms":60000}"#, 409, "1 to 10000 ms"),
        ("POST", "/v1/pause", "", 405, "answers to PUT, DELETE"),
        ("POST", "/v1/snapshot", "{}", 400, "objects"),
        ("POST", "/v1/snapshot", r#"{"objects":"/dev/null/x"}"#, 500, "/dev/null"),
        ("POST", "/v1/snapshot/stop", "", 404, "nothing of this kind"),
    ] {
        let error = control(&folder, "volume").request(method, path, body.as_bytes(), &[]).unwrap_err();
        let ClientError::Refused { status: found, detail } = error else { panic!("{path}: {error}") };
        assert_eq!(found, status, "{method} {path}: {detail:?}");
        assert!(detail.message.contains(hint), "{method} {path}: {detail:?}");
    }
    // Too much, and what is no HTTP: the connection ends, and the next one is served.
    let mut client = control(&folder, "volume");
    client.request("PUT", "/v1/volume/size", &vec![b' '; 1 << 20], &[]).unwrap_err();
    let mut stream = UnixStream::connect(folder.path("volume/control")).unwrap();
    stream.write_all(&[0xff; 4096]).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(info(&folder, "volume")["size_bytes"], 64 * MIB);
    serving.stop(Signal::SIGTERM);
}
