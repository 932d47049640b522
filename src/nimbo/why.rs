//! `nimbo why`: what passes a packet, or stops it, and the answer to it.

use std::fmt;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use types::{InstanceId, NetworkInterfaceId, VpcId};

use crate::client::{self, Which};
use crate::table;
use crate::volume::output;

const EXAMPLES: &str = "\
An end is an instance (its first interface), an interface, or an address. Without a source the packet comes from this machine; an address that no
interface has is somebody outside. The server answers from its records, by the policy that is in force; nothing is sent.

Exit status:
  0  the packet passes, and so does the answer to it
  1  one of them is stopped; or there is no server, or no such end: a message tells why
  2  the command line is wrong

Examples:
  nimbo why i-0123456789abcdef0 i-0123456789abcdef1 --tcp 443
  nimbo why i-0123456789abcdef1 --tcp 22
  nimbo why eni-0123456789abcdef0 192.0.2.1 --udp 53
  nimbo why 198.51.100.7 i-0123456789abcdef1 --icmp --json | jq .request.stopped";

/// The lowest port that Linux takes for a connection that it opens.
const SOURCE_PORT: u16 = 32_768;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where the packet comes from, and where it goes to: i-…, eni-… or an address; or the latter alone
    #[arg(value_name = "END", required = true, num_args = 1..=2)]
    ends: Vec<EndName>,
    #[command(flatten)]
    packet: PacketArgs,
    /// The port that the packet comes from, and the answer goes to, by TCP or UDP
    #[arg(long, value_name = "PORT", default_value_t = SOURCE_PORT, conflicts_with = "icmp")]
    source_port: u16,
    #[command(flatten)]
    which: Which,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PacketArgs {
    /// A connection to this port
    #[arg(long, value_name = "PORT")]
    tcp: Option<u16>,
    /// A datagram to this port
    #[arg(long, value_name = "PORT")]
    udp: Option<u16>,
    /// An echo request, as ping sends it
    #[arg(long)]
    icmp: bool,
}

/// Who sends a packet, or gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum EndName {
    Instance(InstanceId),
    Interface(NetworkInterfaceId),
    Address(Ipv4Addr),
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// None: this machine.
    pub(crate) source: Option<EndName>,
    pub(crate) destination: EndName,
    pub(crate) packet: PacketKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum PacketKind {
    Tcp {
        port: u16,
        source_port: u16,
    },
    Udp {
        port: u16,
        source_port: u16,
    },
    /// An echo request.
    Icmp,
}

/// What is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) passes: bool,
    pub(crate) source: EndTold,
    pub(crate) destination: EndTold,
    pub(crate) request: PathTold,
    /// None: the request is stopped, so nobody answers.
    pub(crate) answer: Option<PathTold>,
}

/// An end, as far as it is one of the account's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndTold {
    pub(crate) address: Ipv4Addr,
    pub(crate) interface: Option<NetworkInterfaceId>,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) vpc: Option<VpcId>,
}

/// What a packet passed, in this order, and what stopped it at last.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PathTold {
    pub(crate) passed: Vec<StepTold>,
    pub(crate) stopped: Option<StopTold>,
}

/// What looked at a packet, and what that says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepTold {
    /// What kind of thing it is.
    pub(crate) by: By,
    /// Its id.
    pub(crate) id: String,
    /// What of it: a route's destination, an entry's number, a rule's id.
    pub(crate) part: Option<String>,
    /// The subnet, the interface or the VPC for which it looked.
    pub(crate) at: String,
    pub(crate) says: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopTold {
    /// The kind of reason, in one word.
    pub(crate) reason: String,
    #[serde(flatten)]
    pub(crate) step: StepTold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    Instance,
    InternetGateway,
    NatGateway,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    RouteTable,
    SecurityGroup,
    Vpc,
}

impl By {
    fn words(self) -> &'static str {
        match self {
            By::Instance => "instance",
            By::InternetGateway => "internet gateway",
            By::NatGateway => "NAT gateway",
            By::NetworkAcl => "network ACL",
            By::NetworkInterface => "interface",
            By::PeeringConnection => "peering",
            By::RouteTable => "route table",
            By::SecurityGroup => "security group",
            By::Vpc => "VPC",
        }
    }
}

impl FromStr for EndName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let instance = text.parse().map(Self::Instance).ok();
        let end = instance.or_else(|| text.parse().map(Self::Interface).ok());
        let end = end.or_else(|| text.parse().map(Self::Address).ok());
        end.ok_or_else(|| {
            format!("{text:?} is no instance (i-…), no interface (eni-…) and no address (a.b.c.d)")
        })
    }
}

impl fmt::Display for EndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => id.fmt(f),
            Self::Interface(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for EndName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EndName> for String {
    fn from(end: EndName) -> Self {
        end.to_string()
    }
}

impl fmt::Display for PacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port, .. } => write!(f, "tcp {port}"),
            Self::Udp { port, .. } => write!(f, "udp {port}"),
            Self::Icmp => f.write_str("icmp echo"),
        }
    }
}

impl fmt::Display for EndTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = self.instance.map(|id| id.to_string()).or(self.interface.map(|id| id.to_string()));
        match whose {
            Some(whose) => write!(f, "{whose} ({})", self.address),
            None => self.address.fmt(f),
        }
    }
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (source, destination) = match args.ends.as_slice() {
        [source, destination] => (Some(*source), *destination),
        [destination] => (None, *destination),
        _ => unreachable!("one or two are taken"),
    };
    let source_port = args.source_port;
    let packet = match (args.packet.tcp, args.packet.udp) {
        (Some(port), _) => PacketKind::Tcp { port, source_port },
        (None, Some(port)) => PacketKind::Udp { port, source_port },
        (None, None) => PacketKind::Icmp,
    };
    let question = Question { source, destination, packet };
    let told = client::run(async {
        let client = args.which.connect(true).await?;
        client.ask(crate::serve::WHY_PATH, &json!(question)).await
    })?;
    let told: Explanation = serde_json::from_value(told).context("the server's answer is not understood")?;
    if args.json {
        println!("{}", serde_json::to_string(&told).context("cannot write JSON")?);
    } else {
        output::print(lines(&told, packet).into_iter().map(Ok))?;
    }
    Ok(if told.passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(told: &Explanation, packet: PacketKind) -> Vec<String> {
    let mut lines = vec![format!("{packet} from {} to {}", told.source, told.destination)];
    let ways = [("REQUEST", Some(&told.request)), ("ANSWER", told.answer.as_ref())];
    for (head, path) in ways.iter().filter_map(|(head, path)| Some((head, (*path)?))) {
        let stopped = path.stopped.as_ref().map(|stop| row("stopped by ", &stop.step));
        let rows: Vec<_> = path.passed.iter().map(|step| row("", step)).chain(stopped).collect();
        if !rows.is_empty() {
            lines.push(String::new());
            lines.extend(table::lines([head, "NAME", "PART", "AT", "SAYS"], &rows));
        }
    }
    lines.push(String::new());
    let answer = told.answer.as_ref().and_then(|answer| answer.stopped.as_ref());
    lines.push(match (&told.request.stopped, answer) {
        (Some(stop), _) => format!("It is stopped: {}.", stop.step.says),
        (None, Some(stop)) => format!("It arrives, and the answer is stopped: {}.", stop.step.says),
        (None, None) => "It passes, and so does the answer.".to_owned(),
    });
    lines
}

fn row(lead: &str, step: &StepTold) -> [String; 5] {
    let part = step.part.clone().unwrap_or_default();
    [format!("{lead}{}", step.by.words()), step.id.clone(), part, step.at.clone(), step.says.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let read = |text: &str| text.parse::<EndName>();
        assert!(matches!(read("i-0123456789abcdef0"), Ok(EndName::Instance(_))));
        assert!(matches!(read("eni-0123456789abcdef0"), Ok(EndName::Interface(_))));
        assert_eq!(read("10.0.1.4"), Ok(EndName::Address(Ipv4Addr::new(10, 0, 1, 4))));
        for wrong in ["web", "10.0.1", "10.0.1.0/24", "vol-0123456789abcdef0", "::1", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
