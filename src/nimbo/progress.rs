//! How far something long has come: a bar on a terminal, a line when it starts and one when it ends elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::Instant;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// A job of so many bytes.
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Announces the job, for instance `converting debian.qcow2`.
    pub(crate) fn start(what: String, total_bytes: u64) -> Self {
        let bar = if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total_bytes).with_style(style).with_message(what.clone())
        } else {
            eprintln!("nimbo: {what} ({})", HumanBytes(total_bytes));
            ProgressBar::hidden()
        };
        Self { what, bar, started: Instant::now() }
    }

    /// `bytes` of the total are done.
    pub(crate) fn reach(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Says how long it took.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
        eprintln!("nimbo: {}: done in {:.1} s", self.what, self.started.elapsed().as_secs_f64());
    }
}
