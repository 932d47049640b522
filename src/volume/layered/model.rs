//! Any history of a volume, on a storage that may crash at any step, against a model.
//!
//! A history is a list of steps: requests of three queues that are in flight together, calls of theirs that end in any order, rounds of
//! the committer, seals, merges, growth, a full disk, an operation that fails. While the committer or a merge is at work, steps of the queues
//! happen between any two of its operations. Before each operation of the storage, and at the end, it is looked at what a crash would
//! leave: the volume is opened from that, and every sector must be what the model allows.

mod history;
mod sectors;
mod world;

use proptest::prelude::*;

use history::{Config, any_history};
use world::run;

/// How many histories are tried; `NIMBO_HISTORIES` says otherwise.
fn histories() -> u32 {
    std::env::var("NIMBO_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(4000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_was_flushed_is_lost_in_any_crash_of_any_history((config, steps) in any_history()) {
        run(config, steps);
    }
}

/// A history of the plainest kind, to see that the model would notice.
#[test]
fn a_plain_history_is_crashed_at_each_of_its_steps() {
    use history::{Op, Step};
    let write = |first| Step::Push { queue: 0, op: Op::Write { first, count: 8 } };
    let flush = Step::Push { queue: 0, op: Op::Flush };
    let pump = Step::Pump { queue: 0, calls: 3 };
    let steps = vec![
        write(0),
        pump,
        flush,
        Step::Commit,
        pump,
        write(0),
        pump,
        Step::Commit,
        pump,
        flush,
        Step::Commit,
        pump,
    ];
    let crashes = run(Config::default(), steps);
    assert!(crashes > 10, "{crashes} crashes");
}
