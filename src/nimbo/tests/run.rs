//! `nimbo run` from outside, on payloads of a few instructions: no guest operating system, no stock kernel, so any
//! KVM will do. They need root, as every guest with a network does.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

mod payload;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use payload::{Instruction, build};
use vmm::control::api::Interfaces;
use vmm::control::client::Client;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn nimbo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nimbo"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `nimbo run` of a payload, without a disk.
fn run_payload(folder: &Path, program: &[Instruction], more: &[&str]) -> Command {
    let kernel = folder.join("payload.elf");
    fs::write(&kernel, build(program)).unwrap();
    let mut command = nimbo();
    command.args(["run", "--here", "--memory", "64M", "--kernel"]).arg(kernel).args(more);
    command
}

/// A process that is killed when its time is over, or when the test is.
struct Running {
    child: Child,
    _watchdog: mpsc::Sender<()>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let child = command.spawn().unwrap();
        let id = pid(&child);
        let (watchdog, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Unreaped until the test has seen it, so the id is still its own.
                let _ = kill(id, Signal::SIGKILL);
            }
        });
        Self { child, _watchdog: watchdog }
    }

    fn finish(mut self) -> Output {
        let stderr = self.child.stderr.take().map(|stderr| std::thread::spawn(move || read_all(stderr)));
        let stdout = self.child.stdout.take().map(read_all).unwrap_or_default();
        let stderr = stderr.map(|reader| reader.join().unwrap()).unwrap_or_default();
        Output { status: self.child.wait().unwrap(), stdout, stderr }
    }

    fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Reads until a line has `text` in it; what was read.
fn wait_for(stream: &mut impl Read, text: &str) -> String {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&read).contains(text) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "no {text:?} in {}", String::from_utf8_lossy(&read));
        read.push(byte[0]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a payload that waits for a line before anything else: so it cannot be over before its console is attached.
fn run_payload_and_type(program: &[Instruction], line: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let program = [&[Instruction::EchoLine], program].concat();
    let mut command = run_payload(folder.path(), &program, more);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    running.child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    running.finish()
}

#[test]
fn a_payload_reads_and_prints_on_the_console_and_powers_off() {
    let program = [Instruction::Print("hello from ring 0\n"), Instruction::PowerOff];
    let output = run_payload_and_type(&program, "there and back again\n", &["--no-network"]);
    assert_eq!(text(&output.stdout), "there and back again\nhello from ring 0\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_reset_starts_the_payload_again() {
    let folder = tempfile::tempdir().unwrap();
    let program = [Instruction::Print("again\n"), Instruction::Reset];
    let mut running = Running::start(run_payload(folder.path(), &program, &["--no-network"]));
    let stdout = running.child.stdout.take().unwrap();
    let lines = BufReader::new(stdout).lines().map(Result::unwrap);
    assert_eq!(lines.filter(|line| line == "again").take(3).count(), 3);
}

#[test]
fn a_guest_that_ignores_the_power_button_is_ended_by_a_second_signal() {
    let folder = tempfile::tempdir().unwrap();
    let program = [Instruction::Print("ready\n"), Instruction::Spin];
    let mut command = run_payload(folder.path(), &program, &["--no-network"]);
    command.process_group(0);
    let mut running = Running::start(command);
    wait_for(running.child.stdout.as_mut().unwrap(), "ready");
    // To the whole process group, as a terminal does it: the microVM's process is none of it.
    let signal_group = |running: &Running| killpg(pid(&running.child), Signal::SIGINT).unwrap();
    signal_group(&running);
    wait_for(running.child.stderr.as_mut().unwrap(), "power button");
    signal_group(&running);
    let output = running.finish();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("the guest was ended"), "{output:?}");
}

#[test]
fn with_a_network_the_payload_runs_as_well() {
    let output = run_payload_and_type(&[Instruction::PowerOff], "hello\n", &["--publish", "0:80"]);
    assert_eq!(text(&output.stdout), "hello\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("publishes 127.0.0.1:") && stderr.contains("the guest is"), "{stderr}");
}

/// No packet passes: a payload has no driver. That they do is tried where there are guests, in tests/lab.
#[test]
fn the_interface_of_a_guest_can_be_captured_and_impaired() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let program = [Instruction::Print("ready\n"), Instruction::EchoLine, Instruction::PowerOff];
    let mut command = run_payload(folder.path(), &program, &["--control"]);
    command.arg(&control).stdin(Stdio::piped());
    let mut running = Running::start(command);
    wait_for(running.child.stdout.as_mut().unwrap(), "ready");
    let ask = |arguments: &[&str]| {
        let mut command = nimbo();
        command.args(arguments).arg("--control").arg(&control);
        let output = Running::start(command).finish();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        (text(&output.stdout), text(&output.stderr))
    };

    ask(&["impair", "--latency", "1.5s", "--jitter", "20ms", "--seed", "7", "--direction", "in"]);
    ask(&["impair", "--rate", "10mbit", "--queue", "256K", "--direction", "out"]);
    let (told, _) = ask(&["impair", "--list"]);
    let rows: Vec<Vec<&str>> = told.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0].join(" "), "net0 - in --latency 1500ms --jitter 20ms --seed 7");
    assert_eq!(rows[1].join(" "), "net0 - out --rate 10mbit --queue 256K");
    ask(&["impair", "--clear", "--direction", "in"]);
    assert_eq!(ask(&["impair", "--list"]).0.lines().count(), 2);
    ask(&["impair", "--clear"]);
    assert_eq!(ask(&["impair", "--list"]).0, "");

    let file = folder.path().join("none.pcapng");
    let (_, told) = ask(&["capture", "--duration", "10ms", "--filter", "tcp", "-w", file.to_str().unwrap()]);
    assert_eq!(told, "nimbo: 0 packets captured, of 0 seen\n");
    assert_eq!(fs::read(&file).unwrap()[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let mut command = nimbo();
    command.arg("capture").arg("--control").arg(&control);
    let capture = Running::start(command);
    let mut client = Client::connect(&control).unwrap();
    let mut is_captured = || {
        let found: Interfaces = client.get("/v1/interfaces").unwrap();
        !found.interfaces[0].captures.is_empty()
    };
    while !is_captured() {
        std::thread::yield_now();
    }
    running.child.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let ended = capture.finish();
    assert!(ended.status.success() && text(&ended.stderr).contains("its microVM has ended"), "{ended:?}");
    assert_eq!(running.finish().status.code(), Some(0));
}

#[test]
fn the_microvm_dies_with_the_command_even_when_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let program = [Instruction::Print("ready\n"), Instruction::Spin];
    let more = ["--no-network", "--control", control.to_str().unwrap()];
    let mut running = Running::start(run_payload(folder.path(), &program, &more));
    wait_for(running.child.stdout.as_mut().unwrap(), "ready");
    // A connection that the microVM's process holds the other end of: it closes when that process ends.
    let mut connection = UnixStream::connect(&control).unwrap();
    connection.write_all(b"GET /v1/machine HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    wait_for(&mut connection, "\"state\"");
    running.signal(Signal::SIGKILL);
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let end = connection.read_to_end(&mut Vec::new());
    assert!(
        end.is_ok() || end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
        "it lives on: {end:?}"
    );
}

#[test]
fn the_microvm_has_nothing_that_somebody_left_open() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "").unwrap();
    let command =
        run_payload(folder.path(), &[Instruction::Print("ready\n"), Instruction::Spin], &["--no-network"]);
    let mut careless = Command::new("sh");
    careless.args(["-c", "exec 9<\"$0\"; exec \"$@\""]).arg(&secret);
    careless.arg(command.get_program()).args(command.get_args());
    careless.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(careless);
    wait_for(running.child.stdout.as_mut().unwrap(), "ready");
    let has_it = |process: &str| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).any(|target| target == secret)
    };
    let run = running.child.id().to_string();
    assert!(has_it(&run), "it was not left open");
    let children = fs::read_to_string(format!("/proc/{run}/task/{run}/children")).unwrap();
    for microvm in children.split_whitespace() {
        assert!(!has_it(microvm), "process {microvm} has it");
    }
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
}

/// The command on a terminal that we can type on, with the terminal's settings printed before it and after it.
fn on_a_terminal(command: &Command) -> Command {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "/dev/null", "--command"]);
    terminal.arg(format!("stty -g; {}; status=$?; stty -g; exit $status", words.join(" ")));
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    terminal
}

#[test]
fn a_terminal_is_not_promised_to_a_guest_that_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, "not a kernel").unwrap();
    let mut command = nimbo();
    command.args(["run", "--here", "--no-network", "--kernel"]).arg(&kernel);
    let mut running = Running::start(on_a_terminal(&command));
    // The end of these would be typed as Ctrl-D.
    let _keys = running.child.stdin.take();
    let output = running.finish();
    let screen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(screen.contains("neither an ELF file nor a Linux bzImage"), "{screen}");
    assert!(!screen.contains("keys go to the guest"), "{screen}");
}

#[test]
fn the_sockets_of_a_guest_are_there_as_long_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let vsock = folder.path().join("vsock");
    let more = ["--no-network", "--vsock", vsock.to_str().unwrap()];
    let program = [Instruction::EchoLine, Instruction::PowerOff];
    let mut command = run_payload(folder.path(), &program, &more);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut keys = running.child.stdin.take().unwrap();
    keys.write_all(b"x").unwrap();
    wait_for(running.child.stdout.as_mut().unwrap(), "x");
    // The payload drives no device, so that nobody answers.
    UnixStream::connect(&vsock).unwrap().write_all(b"CONNECT 1\n").unwrap();
    let second = Running::start(run_payload(folder.path(), &program, &more)).finish();
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(text(&second.stderr).contains("there is a file already"), "{second:?}");
    keys.write_all(b"\n").unwrap();
    assert_eq!(running.finish().status.code(), Some(0));
    assert!(!vsock.exists());
}

#[test]
fn a_terminal_is_raw_for_the_guest_and_as_before_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let command = run_payload(folder.path(), &[Instruction::EchoLine, Instruction::Spin], &["--no-network"]);
    let mut running = Running::start(on_a_terminal(&command));
    let mut keys = running.child.stdin.take().unwrap();
    let screen = running.child.stdout.as_mut().unwrap();

    let before = wait_for(screen, "\n").trim().to_owned();
    wait_for(screen, "twice to end it");
    // Ctrl-C is a key like any other.
    keys.write_all(b"a\x03b\n").unwrap();
    wait_for(screen, "a\x03b\n");
    keys.write_all(b"\x1d\x1d").unwrap();
    wait_for(screen, "the guest was ended");
    let output = running.finish();
    assert_eq!(text(&output.stdout).trim(), before, "the terminal's settings afterwards and before");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn what_is_wrong_with_an_image_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8], length: u64| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        path
    };
    for (image, hint) in [
        (folder.path().join("missing.raw"), "No such file"),
        (file("empty.raw", b"", 0), "is empty"),
        (file("blank.raw", b"", 1 << 20), "kernel"),
        (file("cut.qcow2", b"QFI\xfb\0\0\0\x02", 8), "is damaged"),
        (file("disk.vmdk", b"KDMV", 1 << 20), "qemu-img convert"),
        (file("disk.raw.xz", b"\xfd7zXZ\0", 1 << 20), "compressed with xz"),
    ] {
        let mut command = nimbo();
        command.args(["run", "--here", "--no-network", "--image"]).arg(&image);
        let output = Running::start(command).finish();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{image:?}: {output:?}");
        assert!(stderr.contains("error: ") && stderr.contains(hint), "{image:?}: {stderr}");
    }
}

#[test]
fn what_is_wrong_with_a_kernel_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, "not a kernel").unwrap();
    let mut command = nimbo();
    command.args(["run", "--here", "--no-network", "--kernel"]).arg(&kernel);
    let output = Running::start(command).finish();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("neither an ELF file nor a Linux bzImage"), "{output:?}");
}

#[test]
fn nothing_is_announced_of_a_guest_that_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, "not a kernel").unwrap();
    let mut command = nimbo();
    command.args(["run", "--here", "--publish", "0:80", "--kernel"]).arg(&kernel);
    let output = Running::start(command).finish();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: ") && !stderr.contains("the guest is"), "{stderr}");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let publish = format!("{}:80", listener.local_addr().unwrap());
    let command = run_payload(folder.path(), &[Instruction::PowerOff], &["--publish", &publish]);
    let output = Running::start(command).finish();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("the address is in use; publish on another port"), "{output:?}");
}

#[test]
fn the_doctor_prints_json_that_names_every_check() {
    let mut command = nimbo();
    command.args(["doctor", "--json"]);
    let output = Running::start(command).finish();
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"kvm") && names.contains(&"kvm-speed") && names.contains(&"nft"), "{names:?}");
    let failed = checks.iter().any(|check| check["status"] == "failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
}
