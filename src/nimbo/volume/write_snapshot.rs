//! `nimbo volume write-snapshot`: a snapshot of what a backup program gives, block by block.

use std::io::{self, BufRead, Read};
use std::process::ExitCode;
use std::sync::Arc;

use ::volume::snapshot::{CHUNK_BYTES, SnapshotName, SnapshotWriter};
use anyhow::{Context as _, bail};
use types::ByteSize;

use super::stop::{StopFlag, StopSignals};
use super::store::Access;

/// The longest line that a block's number fits on.
const LINE_BYTES_MAX: u64 = 32;

const EXAMPLES: &str = "\
Standard input is a sequence of blocks: the number of one, in decimal digits, a newline, and its 524,288 bytes; in any order. Blocks that do not come are as
in the parent, or zeroes without one. What is beyond the end of the volume in its last block must be zeroes. The name of the snapshot is printed when
it is complete, and durable. When it fails, or Ctrl-C stops it, nothing is left of it.

Exit status:
  0  the snapshot is complete
  1  there is none; a message tells why

Examples:
  name=0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210
  { echo 7; nimbo volume read-block $name 7; } | nimbo volume write-snapshot --size 10G --objects /srv/copies";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How large the volume is: a whole number and K, M, G or T, at most 64T
    #[arg(long, value_name = "SIZE")]
    size: ByteSize,
    /// The snapshot that it differs from; it has the same key as that
    #[arg(long, value_name = "NAME")]
    parent: Option<SnapshotName>,
    #[command(flatten)]
    access: Access,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = StopSignals::catch()?.into_flag()?;
    let store = args.access.store.create()?;
    let mut writer = SnapshotWriter::begin(Arc::clone(&store.objects), args.parent, args.size.bytes())?;
    let name = writer.name();
    let written = args.access.unlock_writer(&mut writer).and_then(|()| {
        write(&writer, io::stdin().lock(), &stop)?;
        Ok(writer.finish()?)
    });
    if let Err(error) = written {
        let cancelled = store.exclusive()?.snapshots.cancel(name);
        cancelled.context("what there is of the snapshot cannot be removed")?;
        return Err(error.context("cannot make the snapshot"));
    }
    println!("{name}");
    Ok(ExitCode::SUCCESS)
}

fn write(writer: &SnapshotWriter, mut input: impl BufRead, stop: &StopFlag) -> anyhow::Result<()> {
    let mut bytes = vec![0; usize::try_from(CHUNK_BYTES)?];
    while let Some(index) = read_index(&mut input)? {
        input.read_exact(&mut bytes).with_context(|| format!("block {index} is not whole"))?;
        writer.put_chunk(index, &bytes)?;
        if stop.is_up() {
            bail!("it was stopped");
        }
    }
    Ok(())
}

/// The number of the next block; nothing at the end.
fn read_index(input: &mut impl BufRead) -> anyhow::Result<Option<u64>> {
    let mut line = String::new();
    let read = input.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
    if read.context("cannot read the number of a block")? == 0 {
        return Ok(None);
    }
    let Some(number) = line.strip_suffix('\n') else {
        bail!("expected the number of a block and a newline, not {line:?}")
    };
    let index = number.parse().with_context(|| format!("{number:?} is no number of a block"))?;
    Ok(Some(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_on_lines_of_their_own() {
        let read = |text: &str| read_index(&mut text.as_bytes()).map_err(|error| format!("{error:#}"));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("7\nrest"), Ok(Some(7)));
        for bad in ["7", "\n", "-1\n", "seven\n", &"1".repeat(100)] {
            read(bad).unwrap_err();
        }
    }
}
