//! `nimbo doctor`: can this machine run guests, and if not, what to do.
//!
//! A check is two functions: one looks and returns facts, one judges them and is pure. Nothing is changed: what has
//! to be tried is tried on threads, in namespaces, files and VMs that end with the check.

mod host;
mod kvm;
mod network;
mod report;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use report::{Check, Status};

use crate::cache;

const EXAMPLES: &str = "\
Exit status:
  0  nimbo run works here
  1  a check failed: its remedy tells what to do

Examples:
  nimbo doctor
  nimbo doctor kvm-speed || echo 'guests run in the lab'
  nimbo doctor --json | jq '.[] | select(.status != \"ok\")'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Run only these checks
    #[arg(value_name = "CHECK", value_parser = NAMES)]
    checks: Vec<String>,
    /// Print JSON: a list of {name, status, finding, remedy}
    #[arg(long)]
    json: bool,
}

type Look = fn(&Path) -> Check;

const CHECKS: [(&str, Look); 12] = [
    ("kvm", |_| kvm::device()),
    ("kvm-speed", |_| kvm::speed()),
    ("privileges", |_| host::privileges()),
    ("namespaces", |_| host::namespaces()),
    ("tun", |_| network::tun()),
    ("nft", |_| network::nft()),
    ("addresses", |_| network::addresses()),
    ("io_uring", |_| host::io_uring()),
    ("disk", host::disk),
    ("cgroups", |_| host::cgroups()),
    ("clock", |_| host::clock()),
    ("landlock", |_| host::landlock()),
];

/// The names in [`CHECKS`], for the command line.
const NAMES: [&str; CHECKS.len()] = {
    let mut names = [""; CHECKS.len()];
    let mut index = 0;
    while index < CHECKS.len() {
        names[index] = CHECKS[index].0;
        index += 1;
    }
    names
};

/// Runs the checks that were asked for and prints what they found.
pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = cache::folder()?;
    let wanted = |name: &str| args.checks.is_empty() || args.checks.iter().any(|check| check == name);
    let selected = CHECKS.iter().filter(|(name, _)| wanted(name));
    let mut checks = Vec::new();
    let mut stdout = io::stdout().lock();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for (_, look) in selected {
        let check = look(&folder);
        if !args.json {
            // Each as it comes: some take a moment.
            stdout.write_all(check.render(colour).as_bytes()).context("cannot write the report")?;
        }
        checks.push(check);
    }
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &checks).context("cannot write the report")?;
        writeln!(stdout).context("cannot write the report")?;
    }
    Ok(ExitCode::from(u8::from(report::worst(&checks) == Status::Failed)))
}
/// What this machine's KVM is good for.
pub(crate) enum Kvm {
    /// Stock kernels run.
    Hardware,
    /// Not to be told before somebody gives permission; the text is finding and remedy.
    Forbidden(String),
    /// Stock kernels do not run; the text tells why.
    Unusable(String),
}

/// Finds out what this machine's KVM is good for. On hardware that takes some ten milliseconds.
pub(crate) fn try_kvm() -> Kvm {
    kvm::try_kvm()
}

/// Whether `/dev/kvm` can be opened; if not, why and what to do.
pub(crate) fn open_kvm() -> anyhow::Result<()> {
    kvm::open()
}
