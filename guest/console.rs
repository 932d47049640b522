//! Lines for whoever watches the console: one write each, so that lines of several processes do not mix.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Says one line, `nimbo-init: …`, on standard error: the console, or what goes there and to a log.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// Writes the line. There is nobody to tell of a console that cannot be written to.
pub fn line(message: fmt::Arguments) {
    let text = format!("nimbo-init: {message}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The last line of a boot, which benchmarks look for.
pub fn ready() {
    say!("ready in {} ms", since_boot().as_millis());
}

/// How long ago the kernel started.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
