//! `nimbo volume check`

use std::path::PathBuf;
use std::process::ExitCode;

use ::volume::Volume;
use anyhow::Context as _;

/// Something that was written is not there, or is not as it was written.
const DAMAGED: u8 = 3;

const EXAMPLES: &str = "\
All that describes the volume is read and verified: manifest, headers, maps and logs. A crash leaves pages and files that
count for nothing: they are told, and --repair removes them; the next opening would as well. Damage cannot be
repaired: what was there is not there twice.

Exit status:
  0  sound: everything that was flushed is there
  1  it could not be checked; a message tells why
  3  damaged: what is printed tells where

Examples:
  nimbo volume check /srv/volumes/data
  nimbo volume check /srv/volumes/data --repair";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The volume
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Remove what a crash has left
    #[arg(long)]
    repair: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::find(&args.folder)?;
    let report = Volume::check(&args.folder, args.repair)
        .with_context(|| format!("cannot check the volume {}", args.folder.display()))?;
    for finding in &report.findings {
        let kind = match (finding.is_repairable, report.repaired) {
            (false, _) => "damaged",
            (true, false) => "left over",
            (true, true) => "repaired",
        };
        println!("{}: byte {}: {kind}: {}", finding.file, finding.offset, finding.what);
    }
    if !report.is_sound() {
        println!("{}: damaged", args.folder.display());
        return Ok(ExitCode::from(DAMAGED));
    }
    println!(
        "{}: sound; layers: {}, blocks of data: {}",
        args.folder.display(),
        report.layers,
        report.data_blocks
    );
    Ok(ExitCode::SUCCESS)
}
