//! How far something long has come: a bar on a terminal, a line when it starts and one when it ends elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// A job that is counted in bytes.
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Announces the job, for instance `converting debian.qcow2`.
    pub(crate) fn start(what: String) -> Self {
        let bar = if io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {percent}% {bytes}/{total_bytes} {eta}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style).with_message(what.clone())
        } else {
            eprintln!("nimbo: {what}");
            ProgressBar::hidden()
        };
        Self { what, bar, started: Instant::now() }
    }

    /// So much is done of so much. May be told out of order, and by several threads.
    pub(crate) fn reach(&self, done_bytes: u64, total_bytes: u64) {
        self.bar.set_length(total_bytes);
        self.bar.set_position(self.bar.position().max(done_bytes));
    }

    /// Says how long it took.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
        eprintln!("nimbo: {}: done in {:.1} s", self.what, self.started.elapsed().as_secs_f64());
    }
}
