//! `nimbo env`: what AWS's clients need to know.

use std::net::SocketAddr;
use std::process::ExitCode;

use types::Region;

const EXAMPLES: &str = "\
Exit status:
  0  told
  2  the command line is wrong

Examples:
  eval \"$(nimbo env)\"
  aws ec2 describe-vpcs";

/// Prints what to export for the AWS CLI, boto3, Terraform and Ansible
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where nimbo serve --simulate listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// The region to work in
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: Region,
}

pub(crate) fn main(args: &Args) -> ExitCode {
    println!("export AWS_ENDPOINT_URL=http://{}", args.listen);
    println!("export AWS_REGION={0} AWS_DEFAULT_REGION={0}", args.region);
    println!("export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test");
    ExitCode::SUCCESS
}
