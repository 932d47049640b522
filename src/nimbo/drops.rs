//! `nimbo drops`: how many packets networks have dropped, and why.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use network::policy::DropReason;
use serde::{Deserialize, Serialize};
use serde_json::json;
use types::{Region, VpcId};

use crate::client::{self, Which};
use crate::table;
use crate::volume::output;

const EXAMPLES: &str = "\
Packets are counted by VPC and reason, from the time that its rules were last made as a whole, as when a server starts:
  spoofed            from an address that is not its sender's, in IP, Ethernet or ARP
  unanswered         for the VPC's own addresses, where it does not answer such packets
  destination-check  led by a route to an interface that takes only what is for its own addresses
  acl                by an entry of a network ACL, or because none lets it pass
  group              no rule of a security group lets pass what began the flow
  no-flow            of no flow, and beginning none
IPv6, which is not carried, and what no route leads anywhere are not counted. A VPC has a network while an instance is on this machine, and a minute longer. Which rule it is that drops a packet tells nimbo why.

Exit status:
  0  told
  1  there is no server, or it has no networks since it simulates; a message tells

Examples:
  nimbo drops
  nimbo drops --json | jq '.vpcs[] | select(.vpc == \"vpc-0123456789abcdef0\").dropped.group'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// What is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Drops {
    pub(crate) vpcs: Vec<VpcDrops>,
}

/// Packets that a VPC's network has dropped, by reason.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VpcDrops {
    pub(crate) region: Region,
    pub(crate) vpc: VpcId,
    pub(crate) dropped: BTreeMap<String, u64>,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let told = client::run(async {
        let client = args.which.connect(true).await?;
        client.ask(crate::serve::DROPS_PATH, &json!({})).await
    })?;
    let told: Drops = serde_json::from_value(told).context("the server's answer is not understood")?;
    if args.json {
        println!("{}", serde_json::to_string(&told).context("cannot write JSON")?);
    } else {
        output::print(lines(&told).into_iter().map(Ok))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(told: &Drops) -> Vec<String> {
    if told.vpcs.is_empty() {
        return vec!["No VPC has a network on this machine: no instance runs.".to_owned()];
    }
    let rows = told.vpcs.iter().flat_map(|vpc| {
        let reasons = DropReason::ALL.iter().filter_map(|reason| vpc.dropped.get_key_value(reason.name()));
        reasons.map(|(reason, packets)| {
            [vpc.vpc.to_string(), vpc.region.to_string(), reason.clone(), packets.to_string()]
        })
    });
    table::lines(["VPC", "REGION", "REASON", "PACKETS"], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_their_order() {
        let dropped = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), 7)).collect();
        let vpc = VpcDrops {
            region: "us-east-1".parse().unwrap(),
            vpc: "vpc-0123456789abcdef0".parse().unwrap(),
            dropped,
        };
        let shown = lines(&Drops { vpcs: vec![vpc] });
        let reasons: Vec<_> = shown[1..].iter().filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(reasons, DropReason::ALL.map(DropReason::name));
    }
}
