//! `nimbo zone`: availability zones that fail and recover, to see what becomes of what runs there.

use std::process::ExitCode;

use serde_json::json;
use types::Zone;

use crate::client::{self, Which};

const EXAMPLES: &str = "\
Instances in a zone that has failed are ended at once, and cannot be reached: AWS's API tells of them as `running`, with status checks that
are `impaired`. No others can be launched there. When the zone recovers they boot again, with their volumes and addresses.

Exit status:
  0  it is so
  1  there is no server, or it refuses; a message tells why

Examples:
  nimbo zone fail us-east-1a
  nimbo zone recover us-east-1a";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES, defer = true)]
pub(crate) enum Command {
    /// Has a zone fail, with all that runs in it
    #[command(after_help = EXAMPLES)]
    Fail(Args),
    /// Has a zone that failed recover
    #[command(after_help = EXAMPLES)]
    Recover(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The zone
    #[arg(value_name = "ZONE")]
    zone: Zone,
    #[command(flatten)]
    which: Which,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<ExitCode> {
    let (args, state) = match command {
        Command::Fail(args) => (args, "failed"),
        Command::Recover(args) => (args, "available"),
    };
    client::run(async {
        let client = args.which.connect(true).await?;
        let path = format!("{}{}", crate::serve::ZONES_PATH, args.zone);
        client.ask(&path, &json!({ "state": state })).await
    })?;
    Ok(ExitCode::SUCCESS)
}
