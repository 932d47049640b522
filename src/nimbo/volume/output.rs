//! Standard output of commands that may print much.

use std::io::{self, BufWriter, ErrorKind, Write as _};

use anyhow::Context as _;

/// Prints lines. Whoever reads them may stop reading; that ends it, and is no failure.
///
/// # Errors
/// The first one among the lines, or when they cannot be written.
pub(crate) fn print(lines: impl IntoIterator<Item = anyhow::Result<String>>) -> anyhow::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    for line in lines {
        match writeln!(output, "{}", line?) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot write to standard output")?,
        }
    }
    match output.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
