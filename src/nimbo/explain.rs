//! `nimbo explain`: what is decided about something, and why.

use std::process::ExitCode;

use anyhow::Context as _;
use control::autoscaling::Explanation;
use serde::{Deserialize, Serialize};
use serde_json::json;
use types::Region;

use crate::client::{self, Which};
use crate::table;
use crate::volume::output;

const EXAMPLES: &str = "\
It tells what the decision depends on, what is done now and by which rule, what is held up and by what, and what was done last. The server answers
from its records; nothing is changed.

Exit status:
  0  told
  1  there is no server, or no such group: a message tells why
  2  the command line is wrong

Examples:
  nimbo explain asg web
  nimbo explain asg web --json | jq '.holds[]'";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES, defer = true)]
pub(crate) enum Command {
    /// An Auto Scaling group
    #[command(after_help = EXAMPLES)]
    Asg(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    which: Which,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// The group's name.
    pub(crate) asg: String,
    pub(crate) region: Region,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Asg(args) = command;
    let told = client::run(async {
        let client = args.which.connect(true).await?;
        let question = Question { asg: args.name.clone(), region: client.region };
        client.ask(crate::serve::EXPLAIN_PATH, &json!(question)).await
    })?;
    let told: Explanation = serde_json::from_value(told).context("the server's answer is not understood")?;
    if args.json {
        println!("{}", serde_json::to_string(&told).context("cannot write JSON")?);
    } else {
        output::print(lines(&told).into_iter().map(Ok))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(told: &Explanation) -> Vec<String> {
    let Explanation { group, min, max, desired, .. } = told;
    let mut lines = vec![format!("{group}: {desired} are desired, {min} to {max} allowed")];
    if told.is_deleting {
        lines.push("It is being deleted.".to_owned());
    }
    for zone in &told.failed_zones {
        lines.push(format!("The zone {zone} has failed."));
    }
    let members = told.members.iter().map(|it| {
        let protected = if it.is_protected { "yes" } else { "" };
        [
            it.instance.to_string(),
            it.zone.to_string(),
            it.state.clone(),
            protected.to_owned(),
            it.condition.clone(),
        ]
    });
    let members: Vec<_> = members.collect();
    append(&mut lines, table::lines(["INSTANCE", "ZONE", "STATE", "PROTECTED", "CONDITION"], &members));
    let steps: Vec<_> = told.steps.iter().map(|step| [step.what.clone(), step.rule.clone()]).collect();
    append(&mut lines, table::lines(["NOW", "BECAUSE"], &steps));
    append(&mut lines, told.holds.iter().map(|hold| format!("Held up: {hold}.")).collect());
    if told.steps.is_empty() && told.holds.is_empty() {
        append(&mut lines, vec!["Nothing is to be done.".to_owned()]);
    }
    if let Some(next) = told.next {
        lines.push(format!("It is decided anew at {next}, or when something changes."));
    }
    let done = told.activities.iter().map(|it| {
        [
            it.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            it.status.clone(),
            it.what.clone(),
            it.cause.clone(),
        ]
    });
    append(&mut lines, table::lines(["DONE", "STATUS", "WHAT", "CAUSE"], &done.collect::<Vec<_>>()));
    lines
}

/// After an empty line, if there is anything.
fn append(lines: &mut Vec<String>, part: Vec<String>) {
    if !part.is_empty() {
        lines.push(String::new());
        lines.extend(part);
    }
}
