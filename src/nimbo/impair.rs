//! `nimbo impair`: links that are worse than they are.

use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, ValueEnum};
use types::ByteSize;
use vmm::control::api::{Impairment, Impairments, InterfaceStatus};

use crate::interfaces::{Found, Place, Target};
use crate::quantity::{self, Microseconds, Percent, Rate};
use crate::table;
use crate::volume::output;

const EXAMPLES: &str = "\
What is set takes the place of what was set before, in the direction that is named. It ends with --clear or with the microVM, and outlives a
reboot of the guest and a restart of the server. --latency is that of one direction: with both, an answer takes twice as long. The guest hands over segments of
up to 64 KiB at once: --loss and --duplicate are of those, --rate counts their bytes. With the same --seed the same packets are lost. It takes the user
that the server runs as, on the server's machine.

Exit status:
  0  it is so
  1  there is no server, no such interface or no microVM, or it refuses; a message tells why

Examples:
  nimbo impair eni-0123456789abcdef0 --latency 50ms --jitter 5ms --loss 1%
  nimbo impair i-0123456789abcdef0 --rate 10mbit --direction out
  nimbo impair --list
  nimbo impair eni-0123456789abcdef0 --clear
  nimbo impair --clear --all";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["latency", "loss", "duplicate", "rate", "clear", "list"])))]
pub(crate) struct Args {
    /// An instance, for all of its interfaces, or one interface
    #[arg(value_name = "INSTANCE|INTERFACE", required_unless_present_any = ["control", "list", "all"])]
    target: Option<Target>,
    /// How long each packet is under way, such as 50ms; at most a minute
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    latency: Option<Duration>,
    /// By how much that is more or less, at random; at most the latency
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, requires = "latency")]
    jitter: Option<Duration>,
    /// Let packets overtake each other by the jitter, which they do not otherwise
    #[arg(long, requires = "jitter")]
    reorder: bool,
    /// How many packets are lost, such as 1%
    #[arg(long, value_name = "PERCENTAGE", value_parser = quantity::share_ppm)]
    loss: Option<u32>,
    /// How many packets come twice, such as 0.1%
    #[arg(long, value_name = "PERCENTAGE", value_parser = quantity::share_ppm)]
    duplicate: Option<u32>,
    /// How many bits pass in a second, such as 10mbit
    #[arg(long, value_name = "RATE", value_parser = quantity::rate_bps)]
    rate: Option<u64>,
    /// What waits and is under way at most, 128K to 64M, beyond which packets are dropped [default: 1M with --rate, 16M without]
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["clear", "list"])]
    queue: Option<ByteSize>,
    /// From which it follows what is lost, comes twice, and how late [default: another one each time]
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["clear", "list"])]
    seed: Option<u64>,
    /// Packets to the guest, from it, or both
    #[arg(long, value_enum, default_value_t)]
    direction: Way,
    /// End what is set
    #[arg(long, conflicts_with_all = ["latency", "loss", "duplicate", "rate"])]
    clear: bool,
    /// With --clear: of all interfaces
    #[arg(long, requires = "clear", conflicts_with_all = ["target", "control"])]
    all: bool,
    /// Tell what is set, as the options with which it would be set again
    #[arg(long, conflicts_with_all = ["latency", "loss", "duplicate", "rate", "clear"])]
    list: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Way {
    In,
    Out,
    #[default]
    Both,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let wanted = args.impairments()?;
    let mut found = args.place.find(args.target)?;
    if let Some(wanted) = wanted {
        for found in &mut found {
            let mut machine = found.connect()?;
            for interface in &mut found.interfaces {
                let set: Result<InterfaceStatus, _> = machine.put(&interface.path("impairments"), &wanted);
                interface.status = set.with_context(|| format!("cannot impair {}", interface.name))?;
            }
        }
    }
    let rows: Vec<_> = found.iter().flat_map(rows).collect();
    if !args.clear {
        let lines = table::lines(["INTERFACE", "INSTANCE", "DIRECTION", "IMPAIRMENT"], &rows);
        output::print(lines.into_iter().map(Ok))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// What is to be set; nothing, if it is only to be told.
    fn impairments(&self) -> anyhow::Result<Option<Impairments>> {
        if self.list {
            return Ok(None);
        }
        let wanted = if self.clear { Impairment::default() } else { self.impairment()? };
        let of = |other: Way| (self.direction != other).then(|| wanted.clone());
        Ok(Some(Impairments { inbound: of(Way::Out), outbound: of(Way::In) }))
    }

    /// What the options say.
    fn impairment(&self) -> anyhow::Result<Impairment> {
        let microseconds =
            |time: Option<Duration>| u64::try_from(time.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        let impairment = Impairment {
            latency_us: microseconds(self.latency),
            jitter_us: microseconds(self.jitter),
            loss_ppm: self.loss.unwrap_or(0),
            duplicate_ppm: self.duplicate.unwrap_or(0),
            rate_bps: self.rate,
            queue_bytes: self.queue.map(ByteSize::bytes),
            reorder: self.reorder,
            seed: 0,
        };
        let seed = match self.seed {
            Some(seed) => seed,
            None if is_random(&impairment) => random()?,
            None => 0,
        };
        if impairment.is_nothing() {
            bail!("that is no impairment: --clear ends one");
        }
        impairment.check()?;
        Ok(Impairment { seed, ..impairment })
    }
}

/// A number that is easily typed again.
fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 4];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.context("cannot draw a random number")?;
    Ok(u32::from_le_bytes(bytes).into())
}

fn is_random(impairment: &Impairment) -> bool {
    (impairment.jitter_us, impairment.loss_ppm, impairment.duplicate_ppm) != (0, 0, 0)
}

fn rows(found: &Found) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for interface in &found.interfaces {
        let Impairments { inbound, outbound } = &interface.status.impairments;
        let directions = if inbound == outbound {
            vec![("both", inbound)]
        } else {
            vec![("in", inbound), ("out", outbound)]
        };
        for (direction, impairment) in directions {
            if let Some(impairment) = impairment {
                let instance = found.instance.map(|id| id.to_string()).unwrap_or_default();
                rows.push([interface.name.clone(), instance, direction.to_owned(), options(impairment)]);
            }
        }
    }
    rows
}

/// The options that say this.
fn options(impairment: &Impairment) -> String {
    let Impairment { latency_us, jitter_us, loss_ppm, duplicate_ppm, rate_bps, queue_bytes, reorder, seed } =
        impairment;
    let mut options = Vec::new();
    let mut add = |is_set: bool, option: String| options.extend(is_set.then_some(option));
    add(*latency_us > 0, format!("--latency {}", Microseconds(*latency_us)));
    add(*jitter_us > 0, format!("--jitter {}", Microseconds(*jitter_us)));
    add(*reorder, "--reorder".to_owned());
    add(*loss_ppm > 0, format!("--loss {}", Percent(*loss_ppm)));
    add(*duplicate_ppm > 0, format!("--duplicate {}", Percent(*duplicate_ppm)));
    if let Some(rate) = rate_bps {
        add(true, format!("--rate {}", Rate(*rate)));
    }
    if let Some(bytes) = queue_bytes {
        add(true, format!("--queue {}", ByteSize::from_bytes(*bytes)));
    }
    add(is_random(impairment), format!("--seed {seed}"));
    options.join(" ")
}
