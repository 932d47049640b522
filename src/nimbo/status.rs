//! `nimbo status`: what a server is, and what there is.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use types::Region;

use crate::client::instance::ShownInstance;
use crate::client::{self, Client, Which};
use crate::table;
use crate::volume::output;

const EXAMPLES: &str = "\
Of the account that is asked for: what others have is theirs to see. Instances that are terminated are counted, and not listed.

Exit status:
  0  told
  1  there is no server, or it does not answer; a message tells what to do

Examples:
  nimbo status
  nimbo status --json | jq '.instances[] | select(.state == \"running\").id'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Status {
    endpoint: String,
    version: String,
    is_simulated: bool,
    state: Option<String>,
    regions: Vec<RegionStatus>,
    instances: Vec<ShownInstance>,
}

#[derive(Debug, Serialize)]
struct RegionStatus {
    region: Region,
    /// How many are in each state.
    instances: BTreeMap<String, usize>,
    volumes: usize,
    volumes_gib: u64,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let status = client::run(async { look(&args.which.connect(true).await?).await })?;
    if args.json {
        println!("{}", serde_json::to_string(&status).context("cannot write JSON")?);
    } else {
        output::print(lines(&status).into_iter().map(Ok))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(client: &Client) -> anyhow::Result<Status> {
    let mut status = Status {
        endpoint: client.endpoint.to_string(),
        version: client.about.version.clone(),
        is_simulated: client.about.is_simulated,
        state: client.about.state.as_ref().map(|state| state.display().to_string()),
        regions: Vec::new(),
        instances: Vec::new(),
    };
    for &region in &client.about.regions {
        let instances = client.instances(region).await?;
        let volumes = client.ec2(region, "DescribeVolumes", &[]).await?;
        let sizes = volumes
            .items(&["volumeSet"])
            .iter()
            .filter_map(|volume| volume.text(&["size"])?.parse::<u64>().ok());
        let mut states = BTreeMap::new();
        for instance in &instances {
            *states.entry(instance.state.clone()).or_default() += 1;
        }
        status.regions.push(RegionStatus {
            region,
            instances: states,
            volumes: volumes.items(&["volumeSet"]).len(),
            volumes_gib: sizes.sum(),
        });
        status.instances.extend(instances);
    }
    Ok(status)
}

fn lines(status: &Status) -> Vec<String> {
    let kept = match &status.state {
        Some(state) => format!("keeps what it knows in {state}"),
        None => "keeps nothing".to_owned(),
    };
    let simulated = if status.is_simulated { ", simulated" } else { "" };
    let mut lines = vec![format!("nimbo {} at {}{simulated}; {kept}", status.version, status.endpoint)];
    let regions: Vec<_> = status.regions.iter().map(region_row).collect();
    let instances = status.instances.iter().filter(|instance| instance.state != "terminated");
    let instances: Vec<_> = instances.map(instance_row).collect();
    for table in [
        table::lines(["REGION", "INSTANCES", "VOLUMES", "GIB"], &regions),
        table::lines(["INSTANCE", "REGION", "NAME", "TYPE", "STATE", "PUBLIC", "PRIVATE"], &instances),
    ] {
        if !table.is_empty() {
            lines.push(String::new());
            lines.extend(table);
        }
    }
    lines
}

fn region_row(region: &RegionStatus) -> [String; 4] {
    let states = region.instances.iter().map(|(state, count)| format!("{count} {state}"));
    let states = states.collect::<Vec<_>>().join(", ");
    [region.region.to_string(), states, region.volumes.to_string(), region.volumes_gib.to_string()]
}

fn instance_row(instance: &ShownInstance) -> [String; 7] {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        instance.id.clone(),
        instance.region.to_string(),
        or_none(&instance.name),
        instance.instance_type.clone(),
        instance.state.clone(),
        or_none(&instance.public_address),
        or_none(&instance.private_address),
    ]
}
