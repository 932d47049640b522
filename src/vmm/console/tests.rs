//! The console from outside: streams on one side, a serial port's two halves on the other.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

/// How long a test waits for what should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

fn console(ring_bytes: usize) -> (ConsoleOutput, Console) {
    Console::new(ConsoleSpec { ring_bytes, log_file: None }).unwrap()
}

fn attach(console: &mut Console, spec: ViewerSpec) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    console.attach(theirs, spec).unwrap();
    ours.set_nonblocking(true).unwrap();
    ours
}

/// Waits for the console as its owner does, and serves it, until `done`.
fn serve_until(console: &mut Console, mut done: impl FnMut() -> bool) {
    let owner = Poller::new().unwrap();
    owner.watch(&*console, 0, Interest::Read).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "the console did not get there");
        let mut ready = Vec::new();
        owner.wait(&mut ready, Some(20)).unwrap();
        if !ready.is_empty() {
            console.serve().unwrap();
        }
    }
}

/// Reads what is there into `seen`; true once that ends with `end`.
fn seen_up_to(stream: &mut UnixStream, seen: &mut Vec<u8>, end: &[u8]) -> bool {
    let mut chunk = [0; 4096];
    while let Ok(count) = stream.read(&mut chunk) {
        assert_ne!(count, 0, "the console hung up");
        seen.extend_from_slice(&chunk[..count]);
    }
    seen.ends_with(end)
}

/// A FIFO that the test empties.
struct Fifo {
    bytes: Mutex<Vec<u8>>,
    room: AtomicUsize,
    drained: EventFd,
}

impl Fifo {
    fn connect(console: &mut Console, room: usize) -> Arc<Fifo> {
        let drained = EventFd::new(EFD_NONBLOCK).unwrap();
        let fifo = Arc::new(Fifo {
            bytes: Mutex::default(),
            room: AtomicUsize::new(room),
            drained: drained.try_clone().unwrap(),
        });
        console.connect_input(fifo.clone(), drained).unwrap();
        fifo
    }

    /// The guest reads what came: there is room for as much again.
    fn drain(&self) {
        let taken = std::mem::take(&mut *self.bytes.lock().unwrap());
        self.room.fetch_add(taken.len(), Ordering::SeqCst);
        self.drained.write(1).unwrap();
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        *self.bytes.lock().unwrap() == bytes
    }
}

impl SerialInput for Fifo {
    fn room(&self) -> usize {
        self.room.load(Ordering::SeqCst)
    }

    fn push(&self, bytes: &[u8]) {
        let room = self.room();
        assert!(bytes.len() <= room, "{} bytes pushed into room for {room}", bytes.len());
        self.room.store(room - bytes.len(), Ordering::SeqCst);
        self.bytes.lock().unwrap().extend_from_slice(bytes);
    }
}

#[test]
fn every_viewer_sees_the_output_from_where_it_asked() {
    let (output, mut console) = console(100);
    output.write(b"early ");
    let mut from_start = attach(&mut console, ViewerSpec { offset: Some(0), ..Default::default() });
    let mut from_now = attach(&mut console, ViewerSpec::default());
    output.write(b"late");
    let (mut all, mut rest) = (Vec::new(), Vec::new());
    serve_until(&mut console, || {
        seen_up_to(&mut from_start, &mut all, b"late") & seen_up_to(&mut from_now, &mut rest, b"late")
    });
    assert_eq!(all, b"early late");
    assert_eq!(rest, b"late");
}

#[test]
fn output_that_comes_byte_by_byte_arrives_whole_and_in_order() {
    let (output, mut console) = console(1 << 20);
    let mut viewer = attach(&mut console, ViewerSpec::default());
    let printer = std::thread::spawn(move || {
        for number in 0..20_000u32 {
            for byte in format!("{number}\n").bytes() {
                output.write(&[byte]);
            }
        }
    });
    let mut seen = Vec::new();
    serve_until(&mut console, || seen_up_to(&mut viewer, &mut seen, b"\n19999\n"));
    printer.join().unwrap();
    let expected: String = (0..20_000u32).map(|number| format!("{number}\n")).collect();
    assert!(seen == expected.as_bytes(), "{} bytes came of {}", seen.len(), expected.len());
}

#[test]
fn a_viewer_that_is_too_slow_reads_how_much_it_lost() {
    let (output, mut console) = console(1000);
    let mut viewer = attach(&mut console, ViewerSpec::default());
    let line = [b'x'; 999];
    // More than any socket buffers, while the viewer does not read.
    let mut written = 0;
    while console.viewers.values().all(|viewer| !viewer.is_blocked()) {
        output.write(&line);
        written += line.len();
        console.offer().unwrap();
    }
    for _ in 0..5 {
        output.write(&line);
        written += line.len();
    }
    output.write(b"end");
    let mut seen = Vec::new();
    serve_until(&mut console, || seen_up_to(&mut viewer, &mut seen, b"end"));

    let text = String::from_utf8(seen).unwrap();
    let notice = text.split_once("\r\n[… ").expect("a notice").1;
    let lost: usize = notice.split_once(" bytes lost …]\r\n").unwrap().0.parse().unwrap();
    let shown = text.bytes().filter(|&b| b == b'x').count();
    assert_eq!(shown + lost, written);
    assert!(lost > 0);
}

#[test]
fn one_viewer_types_and_the_next_may_when_it_has_left() {
    let (_output, mut console) = console(100);
    let fifo = Fifo::connect(&mut console, 16);
    let typing = || ViewerSpec { input: true, ..Default::default() };
    let mut first = attach(&mut console, typing());
    let mut watching = attach(&mut console, ViewerSpec::default());
    let (_, stream) = UnixStream::pair().unwrap();
    assert!(matches!(console.attach(stream, typing()), Err(AttachError::InputTaken)));

    watching.write_all(b"nobody hears this").unwrap();
    first.write_all(b"ls\n").unwrap();
    serve_until(&mut console, || fifo.holds(b"ls\n"));

    drop(first);
    serve_until_free(&mut console);
    let mut second = attach(&mut console, ViewerSpec { early_input: b"w".to_vec(), ..typing() });
    second.write_all(b"ho\n").unwrap();
    serve_until(&mut console, || fifo.holds(b"ls\nwho\n"));
}

fn serve_until_free(console: &mut Console) {
    let deadline = Instant::now() + PATIENCE;
    while console.holder.is_some() {
        assert!(Instant::now() < deadline, "the input is still held");
        console.serve().unwrap();
    }
}

#[test]
fn input_waits_in_the_stream_until_the_fifo_has_room() {
    let (_output, mut console) = console(100);
    let fifo = Fifo::connect(&mut console, 4);
    let mut typist = attach(&mut console, ViewerSpec { input: true, ..Default::default() });
    typist.write_all(b"abcdefghij").unwrap();
    serve_until(&mut console, || fifo.holds(b"abcd"));
    // Nothing is ready now: a full FIFO is no reason to spin.
    console.serve().unwrap();
    let mut ready = Vec::new();
    console.poller.wait(&mut ready, Some(0)).unwrap();
    assert!(ready.is_empty(), "the console is busy with a full FIFO");
    fifo.drain();
    serve_until(&mut console, || fifo.holds(b"efgh"));
    fifo.drain();
    serve_until(&mut console, || fifo.holds(b"ij"));
}

#[test]
fn a_preface_comes_before_the_output() {
    let (output, mut console) = console(100);
    output.write(b"out");
    let spec = ViewerSpec { offset: Some(0), preface: b"head\n".to_vec(), ..Default::default() };
    let mut viewer = attach(&mut console, spec);
    let mut seen = Vec::new();
    serve_until(&mut console, || seen_up_to(&mut viewer, &mut seen, b"out"));
    assert_eq!(seen, b"head\nout");
}

#[test]
fn the_writer_wakes_the_loop_once_for_all_that_it_writes_meanwhile() {
    let (output, mut console) = console(100);
    output.write(b"nobody watches");
    assert!(console.output.shared.wake.read().is_err(), "woken for nobody");
    let _viewer = attach(&mut console, ViewerSpec::default());
    serve_until(&mut console, || output.lock().awaited);
    for _ in 0..50 {
        output.write(b".");
    }
    assert_eq!(console.output.shared.wake.read().unwrap(), 1);
}

#[test]
fn the_log_file_has_all_output_until_it_is_full_and_then_the_newest() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let bytes_max: u64 = 100 * 1024;
    let log_file = Some(LogFileSpec { file: path.reopen().unwrap(), bytes_max });
    let (output, mut console) = Console::new(ConsoleSpec { ring_bytes: 64 * 1024, log_file }).unwrap();
    let mut all = String::new();
    let mut number = 0;
    while all.len() < 300 * 1024 {
        let line = format!("line {number}\n");
        output.write(line.as_bytes());
        all.push_str(&line);
        number += 1;
        if number % 1000 == 0 {
            let whole = all.len() <= 64 * 1024;
            serve_until(&mut console, || {
                let kept = std::fs::read_to_string(path.path()).unwrap();
                assert!(kept.len() <= 100 * 1024, "the log grew to {} bytes", kept.len());
                if whole { kept == all } else { !kept.is_empty() && all.ends_with(&kept) }
            });
        }
    }
}
