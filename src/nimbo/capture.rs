//! `nimbo capture`: the packets of an instance, as they pass.
//!
//! ```text
//! microVM ──a socket of packets for each interface──▶ filter ──▶ lines, or a file
//! ```
//! The microVM never waits for this process: what it is too slow for is lost, and counted.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use network::capture::{Direction, Filter, Interface, Packet, Writer};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use vmm::control::api::{CaptureSpec, CaptureStatus, Interfaces};
use vmm::control::client::Client as Machine;
use vmm::virtio::net::{self, Record};

use crate::interfaces::{Found, FoundInterface, Place, Target};
use crate::quantity;
use crate::run::terminal::say;
use crate::signals::StopSignals;
use crate::sys;

const EXAMPLES: &str = "\
Packets are told one by one, in lines whose times are UTC, or written as pcapng, which tcpdump and Wireshark read. They are as the guest sends and gets
them: segments of up to 64 KiB that a network card would cut, with checksums that it would make. The guest never waits; what this is too slow for is
lost, and counted. It takes the user that the server runs as, on the server's machine.

A filter has the words of tcpdump's: host ADDRESS, net ADDRESS/LENGTH, port PORT or PORT-PORT, each alone or after src or dst; tcp, udp, icmp, arp, ip,
ip6; in and out, as the guest sees it; and, or, not and parentheses.

Exit status:
  0  it was ended, or got all that was asked for, or the guest ended
  1  there is no server, no such interface or no microVM, or the file cannot be written; a message tells why

Examples:
  nimbo capture i-0123456789abcdef0
  nimbo capture eni-0123456789abcdef0 --filter 'tcp port 80 and not host 10.0.0.9'
  nimbo capture eni-0123456789abcdef0 -w web.pcapng --duration 1m
  nimbo capture i-0123456789abcdef0 -w - | tshark -r -";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// An instance, for all of its interfaces, or one interface
    #[arg(value_name = "INSTANCE|INTERFACE", required_unless_present = "control")]
    target: Option<Target>,
    /// Write the packets to this file, or with - to standard output, instead of telling them
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Which packets [default: all]
    #[arg(long, value_name = "FILTER")]
    filter: Option<Filter>,
    /// How many bytes of each packet [default: all of them]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// End after so many packets
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so long, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

/// Kept for a reader that is slow for a moment, if the kernel lets us.
const QUEUE_BYTES: usize = 32 << 20;
/// A capture of one interface.
struct Capture {
    name: String,
    id: u64,
    device: String,
    /// Of which machine, among those that are captured from.
    machine: usize,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let is_to_stdout = args.write.as_deref() == Some(Path::new("-"));
    if is_to_stdout && io::stdout().is_terminal() {
        bail!(
            "a capture is no text, and standard output is a terminal: name a file, or a program to read it"
        );
    }
    let found = args.place.find(args.target)?;
    // Before the first packet comes, so that none is lost for a file that cannot be made.
    let sink = open(args.write.as_deref())?;
    let (mut captures, mut sockets) = (Vec::new(), Vec::new());
    for (number, found) in found.iter().enumerate() {
        let mut machine = found.connect()?;
        for interface in &found.interfaces {
            let (capture, socket) = begin(&mut machine, number, interface, args.snaplen)?;
            captures.push(capture);
            sockets.push(socket);
        }
    }
    let mut output = Output::new(sink, args, &captures)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the event loop")?;
    let _in_runtime = runtime.enter();
    let source = |(number, socket)| Ok(Source { number, socket: sys::watch(socket)?, has_ended: false });
    let sources = sockets.into_iter().enumerate().map(source).collect::<io::Result<Vec<_>>>();
    // They are open until the microVM has told what was lost: a capture ends with its socket.
    let mut sources = sources.context("cannot watch a socket")?;
    let outcome = runtime.block_on(follow(&mut sources, args, &mut output));
    match outcome {
        // Whoever reads it may stop reading.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        outcome => {
            outcome.context("cannot go on with the capture")?;
            finish(&found, &captures, &mut output).context("cannot end the capture")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: Option<&Path>) -> anyhow::Result<Sink> {
    let Some(path) = path else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("cannot make the file {}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Has a microVM show the packets of an interface.
fn begin(
    machine: &mut Machine,
    number: usize,
    interface: &FoundInterface,
    snaplen: Option<u32>,
) -> anyhow::Result<(Capture, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
    let (ours, theirs) = pair.context("cannot make a pair of sockets")?;
    // Only root may have so large a queue; others get what the kernel gives.
    let _ = setsockopt(&theirs, sockopt::SndBufForce, &QUEUE_BYTES)
        .or_else(|_| setsockopt(&theirs, sockopt::SndBuf, &QUEUE_BYTES));
    let begun: Result<CaptureStatus, _> =
        machine.post(&interface.path("captures"), &CaptureSpec { snaplen }, &[theirs.as_fd()]);
    let status = begun.with_context(|| format!("cannot capture from {}", interface.name))?;
    let device = interface.status.id.to_string();
    Ok((Capture { name: interface.name.clone(), id: status.id, device, machine: number }, ours))
}

/// Takes packets until it is enough.
async fn follow(sources: &mut Vec<Source>, args: &Args, output: &mut Output) -> io::Result<()> {
    let mut signals = StopSignals::catch().map_err(io::Error::other)?;
    let end = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    while !sources.is_empty() {
        let is_last = tokio::select! {
            () = signals.next() => true,
            () = &mut end => true,
            ready = any_ready(sources) => ready.map(|()| false)?,
        };
        for source in sources.iter_mut() {
            source.take(is_last, output)?;
        }
        sources.retain(|source| !source.has_ended);
        output.flush()?;
        if is_last || output.is_enough() {
            return Ok(());
        }
    }
    say("the interface is gone, or its microVM has ended");
    Ok(())
}

/// Returns when there is something to read.
async fn any_ready(sources: &[Source]) -> io::Result<()> {
    std::future::poll_fn(|context| {
        let mut polled = sources.iter().map(|source| source.socket.poll_read_ready(context));
        match polled.find(Poll::is_ready) {
            Some(ready) => ready.map_ok(drop),
            None => Poll::Pending,
        }
    })
    .await
}

/// Where the packets of an interface come from.
struct Source {
    /// Among those that are captured from.
    number: usize,
    socket: AsyncFd<OwnedFd>,
    has_ended: bool,
}

impl Source {
    /// Takes the packets that have passed until now.
    fn take(&mut self, is_last: bool, output: &mut Output) -> io::Result<()> {
        let now = now_ns();
        let mut packet = [0; Record::PACKET_BYTES_MAX];
        while !output.is_enough() {
            let mut read = |socket: &OwnedFd| Ok(nix::unistd::read(socket, &mut packet)?);
            // That there is something, the event loop knows a little later than the kernel.
            let length = if is_last {
                read(self.socket.get_ref())
            } else {
                self.socket.try_io(Interest::READABLE, read)
            };
            match length {
                Ok(0) => {
                    self.has_ended = true;
                    break;
                }
                Ok(length) if output.take(self.number, &packet[..length])? > now => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Nanoseconds since 1970.
fn now_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

type Sink = Box<dyn Write>;

/// Where packets go.
struct Output {
    form: Form,
    filter: Filter,
    /// How long interfaces' names are, if they are told.
    names: Option<Vec<String>>,
    seen: u64,
    taken: u64,
    /// How many packets are enough.
    count: Option<u64>,
}

enum Form {
    Lines(Sink),
    File(Writer<Sink>),
}

impl Output {
    fn new(sink: Sink, args: &Args, captures: &[Capture]) -> anyhow::Result<Self> {
        let form = if args.write.is_some() {
            let snaplen = args.snaplen.unwrap_or(0);
            let interface = |capture: &Capture| Interface { name: capture.name.clone(), snaplen };
            let interfaces: Vec<_> = captures.iter().map(interface).collect();
            let application = concat!("nimbo ", env!("CARGO_PKG_VERSION"));
            let writer = Writer::new(sink, application, &interfaces);
            Form::File(writer.context("cannot begin the file")?)
        } else {
            Form::Lines(sink)
        };
        let names = captures.iter().map(|capture| capture.name.clone()).collect();
        let names = (captures.len() > 1).then_some(names);
        let filter = args.filter.clone().unwrap_or_default();
        Ok(Self { form, filter, names, seen: 0, taken: 0, count: args.count })
    }

    fn is_enough(&self) -> bool {
        self.count.is_some_and(|count| self.taken >= count)
    }

    /// Takes a packet of an interface, if it is wanted, and says when it passed.
    fn take(&mut self, number: usize, packet: &[u8]) -> io::Result<u64> {
        let (record, frame) = Record::decode(packet)
            .ok_or_else(|| io::Error::other("the microVM sends what is no packet of a capture"))?;
        let direction = match record.direction {
            net::Direction::In => Direction::In,
            net::Direction::Out => Direction::Out,
        };
        self.seen += 1;
        let parsed = Packet::parse(frame, record.length);
        if !self.filter.wants(&parsed, direction) {
            return Ok(record.time_ns);
        }
        self.taken += 1;
        match &mut self.form {
            Form::Lines(out) => {
                let name = self.names.as_ref().map(|names| format!("{} ", names[number])).unwrap_or_default();
                writeln!(out, "{} {name}{} {parsed}", TimeOfDay(record.time_ns), way(direction))?;
            }
            Form::File(writer) => {
                let number = u32::try_from(number).map_err(io::Error::other)?;
                writer.packet(number, record.time_ns, direction, record.length, frame)?;
            }
        }
        Ok(record.time_ns)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.form {
            Form::Lines(out) => out.flush(),
            Form::File(writer) => writer.flush(),
        }
    }
}

/// Words of one length.
fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in ",
        Direction::Out => "out",
    }
}

/// The time of day of nanoseconds since 1970, UTC.
struct TimeOfDay(u64);

impl std::fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let microseconds = self.0 / 1_000;
        let seconds = microseconds / 1_000_000 % 86_400;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, microseconds % 1_000_000)
    }
}

/// Tells what was lost, in the file and to the user.
fn finish(found: &[Found], captures: &[Capture], output: &mut Output) -> io::Result<()> {
    let ask = |found: &Found| found.connect().ok()?.get("/v1/interfaces").ok();
    let statuses: Vec<Option<Interfaces>> = found.iter().map(ask).collect();
    let status = |capture: &Capture| {
        let interfaces = statuses[capture.machine].iter().flat_map(|status| &status.interfaces);
        let mut captures = interfaces
            .filter(|interface| interface.id.as_str() == capture.device)
            .flat_map(|interface| &interface.captures);
        captures.find(|found| found.id == capture.id).cloned()
    };
    let statuses: Vec<Option<CaptureStatus>> = captures.iter().map(status).collect();
    if let Form::File(writer) = &mut output.form {
        let now = now_ns();
        for (number, status) in (0..).zip(&statuses) {
            if let Some(CaptureStatus { captured, dropped, .. }) = status {
                writer.statistics(number, now, captured + dropped, *dropped)?;
            }
        }
    }
    output.flush()?;
    let lost: Option<u64> = statuses.iter().map(|status| Some(status.as_ref()?.dropped)).sum();
    let lost = match lost {
        Some(0) => String::new(),
        Some(lost) => format!("; {lost} more were lost, for which this was too slow"),
        None => "; whether some were lost, the microVM does not tell any more".to_owned(),
    };
    say(&format!("{} packets captured, of {} seen{lost}", output.taken, output.seen));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(TimeOfDay(1_764_115_200_123_456_789).to_string(), "00:00:00.123456");
        assert_eq!(TimeOfDay(1_764_115_200_000_000_000 + 45_296_000_001_000).to_string(), "12:34:56.000001");
    }
}
