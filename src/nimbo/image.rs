//! `nimbo image`: disks to boot from.

mod import;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use anyhow::anyhow;

use crate::{cache, checkout};

const BUILD_EXAMPLES: &str = "\
The image's path is the last line of the output. What was built from the same recipe and the same packages is
taken from .cache in the source.

Exit status:
  0  built, or there already
  1  not built; a message tells why

Examples:
  nimbo image build debian
  nimbo run --image \"$(nimbo image build tiny)\"";

const CONVERT_EXAMPLES: &str = "\
nimbo run does this by itself. An image is known by its content: the same one is converted once, whatever it is
called and wherever it is.

Exit status:
  0  converted, or there already
  1  not converted; a message tells why

Examples:
  nimbo image convert debian-12-genericcloud-amd64.qcow2
  nimbo run --image \"$(nimbo image convert debian.qcow2)\"";

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Builds an image from a recipe in images/ of nimbo's source, and prints its path
    Build(Build),
    /// Converts a qcow2 image to a raw one, and prints its path
    Convert(Convert),
    /// Makes an image (AMI) of a disk image, raw or qcow2, in the region of a server on this machine
    Import(import::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = BUILD_EXAMPLES)]
pub(crate) struct Build {
    /// The recipe: debian, tiny
    #[arg(value_name = "NAME")]
    name: String,
    /// Copy the image to FILE, and print that path
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Look for newer packages first
    #[arg(long)]
    refresh: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub(crate) struct Convert {
    /// The image, qcow2 or raw; a raw one stays where it is
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Does what `command` says.
pub(crate) fn main(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Build(build) => Err(become_script(build)),
        Command::Convert(convert) => {
            println!("{}", cache::raw_image(&convert.file)?.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Import(args) => import::main(args),
    }
}

/// Returns only with an error: the script takes over this process.
fn become_script(build: &Build) -> anyhow::Error {
    let Some(script) = checkout::script("image") else {
        return anyhow!(
            "scripts/image was not found above this binary: recipes are part of nimbo's source; run it there"
        );
    };
    let mut command = process::Command::new(&script);
    command.arg(&build.name);
    if let Some(output) = &build.output {
        command.arg("--output").arg(output);
    }
    if build.refresh {
        command.arg("--refresh");
    }
    anyhow!(command.exec()).context(format!("cannot run {}", script.display()))
}
