//! `nimbo volume` from outside, and what it serves, used by the tools that people use: qemu's and libnbd's.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::{Folder, GIB, MIB, Serving, bytes_equal, disk_bytes};

#[test]
fn images_go_in_and_out_with_their_holes() {
    let folder = Folder::new();
    let raw = folder.image("disk.raw");
    folder.tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", "disk.raw", "disk.qcow2"]);
    for image in ["disk.raw", "disk.qcow2"] {
        folder.nimbo(&["import", "volume", image]);
        let info: serde_json::Value =
            serde_json::from_str(&folder.nimbo(&["info", "volume", "--json"])).unwrap();
        assert_eq!(info["size_bytes"], 64 * MIB);
        assert_eq!(info["layers"], 1);
        assert!(info["disk_bytes"].as_u64().unwrap() < 6 * MIB, "{info}");
        folder.nimbo(&["export", "volume", "out.raw"]);
        assert!(bytes_equal(&raw, &folder.path("out.raw")));
        assert!(disk_bytes(&folder.path("out.raw")) < MIB);
        for (name, format) in [("out.qcow2", &[][..]), ("out", &["--format", "qcow2"])] {
            folder.nimbo(&[&["export", "volume", name], format].concat());
            folder.tool("qemu-img", &["check", "-f", "qcow2", name]);
            folder.tool("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", "out.raw", name]);
            assert!(disk_bytes(&folder.path(name)) < 2 * MIB);
            fs::remove_file(folder.path(name)).unwrap();
        }
        assert!(folder.nimbo(&["check", "volume"]).contains("sound"));
        fs::remove_file(folder.path("out.raw")).unwrap();
        fs::remove_dir_all(folder.path("volume")).unwrap();
    }
    assert_eq!(folder.names(), ["disk.qcow2", "disk.raw"]);
}

#[test]
fn what_is_wrong_is_told_and_nothing_is_made() {
    let folder = Folder::new();
    folder.image("disk.raw");
    fs::create_dir(folder.path("empty")).unwrap();
    folder.nimbo(&["create", "there", "--size", "1G"]);
    for (arguments, status, hint) in [
        (&["create", "there", "--size", "1G"][..], 1, "is there already"),
        (&["create", "new", "--size", "65T"], 1, "at most 64 TiB"),
        (&["create", "new", "--size", "4097"], 1, "multiple of 4096"),
        (&["create", "new"], 2, "--size"),
        (&["info", "empty"], 1, "holds no volume"),
        (&["info", "missing"], 1, "no folder missing"),
        (&["check", "disk.raw"], 1, "no folder disk.raw"),
        (&["import", "there", "disk.raw"], 1, "choose another name"),
        (&["import", "new", "disk.raw", "--size", "1M"], 1, "too small"),
        (&["import", "new", "missing.raw"], 1, "cannot open the image missing.raw"),
        (&["export", "there", "disk.raw"], 1, "choose another name"),
        (&["export", "there", "new.vmdk", "--format", "vmdk"], 2, "possible values: raw, qcow2"),
        (&["serve", "empty"], 1, "holds no volume"),
        (&["serve", "there", "--nbd", "nowhere"], 2, "unix:PATH or HOST:PORT"),
        (&["serve", "there", "there=there", "--nbd", "unix:s"], 1, "two volumes would be called there"),
    ] {
        let said = folder.nimbo_fails(status, arguments);
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
    assert_eq!(folder.names(), ["disk.raw", "empty", "there"]);
    assert_eq!(fs::read_dir(folder.path("empty")).unwrap().count(), 0);
}

#[test]
fn damage_is_found_and_told_with_its_place() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "1G"]);
    let manifest = File::options().write(true).open(folder.path("volume/volume")).unwrap();
    manifest.write_all_at(&[0xff], 33).unwrap();
    let said = folder.nimbo_fails(3, &["check", "volume", "--repair"]);
    assert!(said.contains("volume: byte ") && said.contains("damaged"), "{said}");
    assert!(folder.nimbo_fails(1, &["serve", "volume"]).contains("is damaged at byte"));
}

/// One process has a volume open; whoever comes meanwhile is told.
#[test]
fn a_served_volume_belongs_to_its_server() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "1G"]);
    let serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    for command in [&["serve", "volume"][..], &["check", "volume"], &["export", "volume", "out.raw"]] {
        let said = folder.nimbo_fails(1, command);
        assert!(said.contains("in use by another process"), "{command:?}: {said}");
    }
    serving.stop(Signal::SIGINT);
    assert!(!folder.path("socket").exists());
    folder.nimbo(&["info", "volume"]);
}

#[test]
fn qemus_tools_write_read_and_convert_what_is_served() {
    let folder = Folder::new();
    let raw = folder.image("disk.raw");
    folder.nimbo(&["import", "volume", "disk.raw", "--size", "1G"]);
    let serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    let info = folder.tool("qemu-img", &["info", "--output=json", serving.url()]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], GIB);
    let requests = [
        "write -P 5 1M 64k",
        "write -f -P 6 100M 4k",
        "aio_write -P 7 200M 1M",
        "aio_write -P 8 300M 31M",
        "aio_flush",
        "write -z 1M 4k",
        "write -z -u 200M 512k",
        "discard 300M 1M",
        "flush",
        "read -P 0 1M 4k",
        "read -P 5 1028k 60k",
        "read -P 6 100M 4k",
        "read -P 0 200M 512k",
        "read -P 7 205312k 512k",
        "read -P 8 301M 30M",
        "read -P 0 900M 1M",
    ];
    // What qemu-io finds otherwise than it should be, it tells and fails by.
    let arguments: Vec<&str> = ["-f", "raw"]
        .into_iter()
        .chain(requests.iter().flat_map(|request| ["-c", request]))
        .chain([serving.url()])
        .collect();
    let said = folder.tool("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
    folder.tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", serving.url(), "copy.qcow2"]);
    let compared = folder.tool("qemu-img", &["compare", "-F", "raw", "copy.qcow2", serving.url()]);
    assert!(compared.contains("identical"), "{compared}");
    // And from an image into the volume.
    folder
        .tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", raw.to_str().unwrap(), serving.url()]);
    serving.stop(Signal::SIGTERM);
    assert!(folder.nimbo(&["check", "volume"]).contains("sound"));
    folder.nimbo(&["export", "volume", "out.raw"]);
    let out = fs::read(folder.path("out.raw")).unwrap();
    assert!(out[..usize::try_from(64 * MIB).unwrap()] == fs::read(raw).unwrap());
}

#[test]
fn libnbds_tools_find_and_copy_what_is_served() {
    let folder = Folder::new();
    let raw = folder.image("disk.raw");
    folder.nimbo(&["import", "one", "disk.raw"]);
    folder.nimbo(&["create", "two", "--size", "64M"]);
    let serving = Serving::start(&folder, &["one", "a name=two"], &["--nbd", "127.0.0.1:0"]);
    let list = folder.tool("nbdinfo", &["--list", serving.url().strip_suffix("/one").unwrap()]);
    assert!(list.contains("export=\"one\"") && list.contains("export=\"a name\""), "{list}");
    let info = folder.tool("nbdinfo", &[serving.url()]);
    for said in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export-size: 67108864 (64M)",
        "can_multi_conn: true",
        "can_fua: true",
        "can_zero: true",
        "can_trim: true",
        "can_fast_zero: false",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(said), "{said}: {info}");
    }
    // Several connections, and many requests in flight on each.
    folder.tool("nbdcopy", &["--flush", &serving.urls[0], &serving.urls[1]]);
    folder.tool("nbdcopy", &["--connections=4", &serving.urls[1], "out.raw"]);
    assert!(bytes_equal(&raw, &folder.path("out.raw")));
    serving.stop(Signal::SIGINT);
}

/// To read all of it would take many minutes.
#[test]
fn tools_and_exports_leave_out_what_a_thin_volume_does_not_hold() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "1T"]);
    let serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    let written = [(0, MIB), (512 * GIB, 8192), (1024 * GIB - MIB, MIB)];
    for (offset, len) in written {
        let command = format!("write -P 7 {offset} {len}");
        folder.tool("qemu-io", &["-f", "raw", "-c", &command, serving.url()]);
    }
    let map = folder.tool("nbdinfo", &["--map", serving.url()]);
    let data = map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let data = data.filter(|fields| fields[2] == "0").map(|fields| [fields[0], fields[1]].map(str::to_owned));
    let expected = written.map(|(offset, len)| [offset.to_string(), len.to_string()]);
    assert_eq!(data.collect::<Vec<_>>(), expected, "{map}");
    let started = Instant::now();
    folder.tool("nbdcopy", &[serving.url(), "copied.raw"]);
    folder.tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", serving.url(), "converted.qcow2"]);
    serving.stop(Signal::SIGTERM);
    folder.nimbo(&["export", "volume", "out.raw"]);
    folder.nimbo(&["export", "volume", "out.qcow2"]);
    for (image, format) in [("copied.raw", "raw"), ("converted.qcow2", "qcow2"), ("out.qcow2", "qcow2")] {
        folder.tool("qemu-img", &["compare", "-f", "raw", "-F", format, "out.raw", image]);
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let out = File::open(folder.path("out.raw")).unwrap();
    for (offset, len) in written {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        out.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7), "at {offset}");
    }
    assert!(disk_bytes(&folder.path("out.raw")) < 4 * MIB);
}

#[test]
fn a_read_only_export_refuses_writes() {
    let folder = Folder::new();
    folder.image("disk.raw");
    folder.nimbo(&["import", "volume", "disk.raw"]);
    let serving = Serving::start(&folder, &["volume"], &["--read-only", "--nbd", "unix:socket"]);
    assert!(folder.tool("nbdinfo", &[serving.url()]).contains("is_read_only: true"));
    let output = folder.run("qemu-io", &["-f", "raw", "-c", "write 0 4k", serving.url()]);
    assert!(!output.status.success(), "{output:?}");
    folder.tool("qemu-io", &["-r", "-f", "raw", "-c", "read -P 1 0 4k", serving.url()]);
    serving.stop(Signal::SIGTERM);
}

/// Clients that end in the middle of something do not end the others; what one was told is durable is there when the server was killed.
#[test]
fn a_server_survives_its_clients_and_a_volume_its_server() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "1G"]);
    let mut serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    for said in [&b""[..], b"\0\0\0\x03IHAVEOPT", &[0xff; 4096]] {
        let mut stream = UnixStream::connect(folder.path("socket")).unwrap();
        // It may have been thrown out already.
        let _ = stream.write_all(said);
    }
    let mut writer = Command::new("qemu-io");
    let mut writer = writer
        .args(["-f", "raw", serving.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .current_dir(folder.0.path())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    let mut output = writer.stdout.take().unwrap();
    // It takes one line at a time, and says when.
    for line in ["write -P 9 0 1M\n", "flush\n", "aio_write 10M 8M\n"] {
        let mut said = Vec::new();
        while !said.ends_with(b"qemu-io> ") {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        input.write_all(line.as_bytes()).unwrap();
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    folder.tool("qemu-io", &["-f", "raw", "-c", "read -P 9 0 1M", serving.url()]);
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    assert!(folder.nimbo(&["check", "volume", "--repair"]).contains("sound"));
    // What a killed server leaves is taken over.
    assert!(folder.path("socket").exists());
    let serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    folder.tool("qemu-io", &["-f", "raw", "-c", "read -P 9 0 1M", serving.url()]);
    serving.stop(Signal::SIGINT);
}

/// Memory is taken for what was sent, not for what was said to come.
#[test]
fn clients_that_claim_much_cost_little() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "1G"]);
    let serving = Serving::start(&folder, &["volume"], &["--nbd", "unix:socket"]);
    let resident_kib = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = resident_kib();
    let clients: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut stream = UnixStream::connect(folder.path("socket")).unwrap();
            stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x06volume").unwrap();
            stream.read_exact(&mut [0; 18 + 10]).unwrap();
            // A flush, which is answered; then a write of 32 MiB, of which nothing comes.
            let flush = b"\x25\x60\x95\x13\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
            let write = b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0";
            stream.write_all(&[&flush[..], write].concat()).unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream
        })
        .collect();
    let each_kib = (resident_kib() - before) / clients.len() as u64;
    assert!(each_kib < 256, "{each_kib} KiB for a client");
    drop(clients);
    serving.stop(Signal::SIGTERM);
}

#[test]
fn an_import_that_is_interrupted_leaves_nothing() {
    let folder = Folder::new();
    // Enough to copy that the signal comes in between: its reading alone takes seconds.
    File::create(folder.path("disk.raw")).unwrap().set_len(200 * GIB).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nimbo"));
    command.args(["volume", "import", "volume", "disk.raw"]).current_dir(folder.0.path());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("importing disk.raw"), "{said}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("it was stopped"), "{said}");
    assert_eq!(folder.names(), ["disk.raw"]);
}

#[test]
fn an_encrypted_volume_is_opened_by_its_key_alone() {
    let folder = Folder::new();
    folder.nimbo(&["key", "new", "web", "--keys", "keys"]);
    assert_eq!(fs::metadata(folder.path("keys")).unwrap().mode() & 0o777, 0o600);
    let said = folder.nimbo_fails(1, &["key", "new", "web", "--keys", "keys"]);
    assert!(said.contains("there is a key web in keys already"), "{said}");
    let said =
        folder.nimbo_fails(1, &["create", "db", "--size", "64M", "--encrypt-with", "db", "--keys", "keys"]);
    assert!(said.contains("there is no key db in keys"), "{said}");
    folder.nimbo(&["create", "db", "--size", "64M", "--encrypt-with", "web", "--keys", "keys"]);
    folder.image("image.raw");
    let serving = Serving::start(&folder, &["db"], &["--nbd", "unix:socket", "--keys", "keys"]);
    folder.tool("nbdcopy", &["image.raw", serving.url()]);
    serving.stop(Signal::SIGTERM);
    let said = folder.nimbo_fails(1, &["export", "db", "copy.raw", "--keys", "nothing"]);
    assert!(said.contains("cannot open the key file nothing"), "{said}");
    folder.nimbo(&["export", "db", "copy.raw", "--keys", "keys"]);
    assert_eq!(fs::read(folder.path("copy.raw")).unwrap(), fs::read(folder.path("image.raw")).unwrap());
    assert!(folder.nimbo(&["info", "db", "--keys", "keys"]).contains("encrypted   with the key web"));
    folder.nimbo(&["import", "imported", "image.raw", "--encrypt-with", "web", "--keys", "keys"]);
    folder.nimbo(&["export", "imported", "again.raw", "--keys", "keys"]);
    assert_eq!(fs::read(folder.path("again.raw")).unwrap(), fs::read(folder.path("image.raw")).unwrap());
    folder.nimbo(&["key", "new", "web-2027", "--keys", "keys"]);
    folder.nimbo(&["key", "change", "db", "web-2027", "--keys", "keys"]);
    assert!(folder.nimbo(&["info", "db", "--keys", "keys"]).contains("with the key web-2027"));
    fs::set_permissions(folder.path("keys"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = folder.nimbo_fails(1, &["info", "db", "--keys", "keys"]);
    assert!(said.contains("chmod 600 keys"), "{said}");
    assert!(folder.nimbo(&["check", "db"]).contains("sound"), "a check needs no key");
}

#[test]
fn a_volume_gives_no_more_than_its_type_does() {
    let folder = Folder::new();
    folder.nimbo(&["create", "volume", "--size", "64M"]);
    let serve = ["serve", "volume", "--nbd", "unix:socket", "--enforce-limits", "--type"];
    for (more, status, hint) in [
        (&["gp3", "--iops", "2999"][..], 1, "has 3000 to 80000 IOPS, not 2999"),
        (&["gp2", "--iops", "3000"], 1, "cannot be chosen"),
        (&["st1"], 1, "has 125 to 16384 GiB, not 1"),
        (&["gp4"], 2, "gp4"),
    ] {
        let said = folder.nimbo_fails(status, &[&serve[..], more].concat());
        assert!(said.contains(hint), "{said}");
    }
    // All of it is there: what is not is not read.
    fs::write(folder.path("image.raw"), vec![7; usize::try_from(64 * MIB).unwrap()]).unwrap();
    let more = ["--nbd", "unix:socket", "--enforce-limits", "--type", "gp3"];
    let serving = Serving::start(&folder, &["volume"], &more);
    folder.tool("nbdcopy", &["image.raw", serving.url()]);
    let started = Instant::now();
    folder.tool("nbdcopy", &[serving.url(), "null:"]);
    // 64 MiB at 125 MiB/s, and 1.25 that were saved up.
    assert!(started.elapsed().as_secs_f64() > 0.49, "{:?}", started.elapsed());
    serving.stop(Signal::SIGTERM);
}
