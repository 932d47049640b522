//! `nimbo logs`: what a guest wrote to its console.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use types::InstanceId;

use crate::client::{self, Which};

const EXAMPLES: &str = "\
The last 64 KiB, as GetConsoleOutput has them, also of an instance that is stopped.

Exit status:
  0  printed, though it be nothing
  1  there is no server or no such instance, or it does not tell; a message tells why

Examples:
  nimbo logs i-0123456789abcdef0
  nimbo logs i-0123456789abcdef0 | grep cloud-init";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    id: InstanceId,
    #[command(flatten)]
    which: Which,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let output = client::run(async {
        let client = args.which.connect(true).await?;
        let region = client.instance(args.id).await?.region;
        let id = args.id.to_string();
        let answer =
            client.ec2(region, "GetConsoleOutput", &[("InstanceId", &id), ("Latest", "true")]).await?;
        let text = answer.text(&["output"]).unwrap_or_default();
        let text: String = text.split_whitespace().collect();
        STANDARD.decode(text).context("the console's output is not what it should be")
    })?;
    if output.is_empty() {
        eprintln!("nimbo: {} has written nothing to its console", args.id);
    }
    match io::stdout().lock().write_all(&output) {
        // Whoever reads it may stop reading.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}
