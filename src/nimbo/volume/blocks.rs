//! `nimbo volume blocks`, `changed` and `read-block`: what a backup program asks of snapshots.

use std::io::{self, Write as _};
use std::process::ExitCode;

use ::volume::snapshot::{CHUNK_BYTES, SnapshotError, SnapshotName};
use anyhow::Context as _;
use serde::Serialize;

use super::output;
use super::store::{Access, StoreArgs};

/// How many blocks are asked for at a time.
const STEP: usize = 4096;

const BLOCKS_EXAMPLES: &str = "\
A block has 512 KiB. Each line is its number and its offset in bytes. Those that are not there are zeroes.

Exit status:
  0  printed
  1  the snapshot cannot be read; a message tells why

Examples:
  nimbo volume blocks 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210 --json";

#[derive(Debug, clap::Args)]
#[command(after_help = BLOCKS_EXAMPLES)]
pub(crate) struct BlocksArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    #[command(flatten)]
    store: StoreArgs,
    /// For programs: a JSON object for each line
    #[arg(long)]
    json: bool,
}

pub(super) fn blocks(args: &BlocksArgs) -> anyhow::Result<ExitCode> {
    let snapshot = args.store.open()?.snapshots().open(args.name)?;
    print(args.json, |first| snapshot.chunks(first, STEP))
}

const CHANGED_EXAMPLES: &str = "\
Both must be of one lineage. A block has 512 KiB. Each line is its number and its offset in bytes; one that is only zeroes in one of
the two counts as well.

Exit status:
  0  printed
  1  the snapshots cannot be compared; a message tells why

Examples:
  nimbo volume changed 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210 \\
      0123456789abcdef0123456789abcdef-00112233445566778899aabbccddeeff";

#[derive(Debug, clap::Args)]
#[command(after_help = CHANGED_EXAMPLES)]
pub(crate) struct ChangedArgs {
    /// The snapshot to compare with
    #[arg(value_name = "OLDER")]
    older: SnapshotName,
    /// The snapshot whose blocks are printed
    #[arg(value_name = "NEWER")]
    newer: SnapshotName,
    #[command(flatten)]
    store: StoreArgs,
    /// For programs: a JSON object for each line
    #[arg(long)]
    json: bool,
}

pub(super) fn changed(args: &ChangedArgs) -> anyhow::Result<ExitCode> {
    let snapshots = args.store.open()?.snapshots();
    let (older, newer) = (snapshots.open(args.older)?, snapshots.open(args.newer)?);
    print(args.json, |first| newer.changed(&older, first, STEP))
}

const READ_EXAMPLES: &str = "\
It has 512 KiB, also where the volume ends within it; what it does not hold is zeroes.

Exit status:
  0  written to standard output
  1  the snapshot cannot be read; a message tells why

Examples:
  nimbo volume read-block 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210 7 >block-7";

#[derive(Debug, clap::Args)]
#[command(after_help = READ_EXAMPLES)]
pub(crate) struct ReadArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// The number of the block, as nimbo volume blocks prints it
    #[arg(value_name = "NUMBER")]
    index: u64,
    #[command(flatten)]
    access: Access,
}

pub(super) fn read(args: &ReadArgs) -> anyhow::Result<ExitCode> {
    let chunk = args.access.open_snapshot(args.name)?.chunk(args.index)?;
    let zeroes = || vec![0; usize::try_from(CHUNK_BYTES).expect("far less than memory")];
    io::stdout().write_all(&chunk.unwrap_or_else(zeroes)).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Block {
    index: u64,
    offset_bytes: u64,
}

/// Prints all blocks; `from` gives the next few of them, from a number on.
fn print(json: bool, from: impl Fn(u64) -> Result<Vec<u64>, SnapshotError>) -> anyhow::Result<ExitCode> {
    let mut first = Some(0);
    let steps = std::iter::from_fn(|| {
        let blocks = from(first?);
        first = match &blocks {
            Ok(blocks) if blocks.len() == STEP => blocks.last().map(|last| last + 1),
            _ => None,
        };
        Some(blocks)
    });
    output::print(steps.flat_map(|step| match step {
        Ok(blocks) => blocks.into_iter().map(|index| line(json, index)).collect(),
        Err(error) => vec![Err(error.into())],
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn line(json: bool, index: u64) -> anyhow::Result<String> {
    let block = Block { index, offset_bytes: index * CHUNK_BYTES };
    Ok(if json { serde_json::to_string(&block)? } else { format!("{index} {}", block.offset_bytes) })
}
