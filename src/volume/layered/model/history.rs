//! What can happen to a volume in a test.

use proptest::prelude::*;

use super::sectors::{REGION_SECTORS, REGIONS};
use crate::layered::format::BLOCKS_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Read { first: usize, count: usize },
    Write { first: usize, count: usize },
    Zero { first: usize, count: usize, may_unmap: bool },
    Discard { first: usize, count: usize },
    Flush,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Push {
        queue: usize,
        op: Op,
    },
    /// Up to so many calls of a queue end.
    Pump {
        queue: usize,
        calls: usize,
    },
    /// The committer does a round if one is wanted.
    Commit,
    BeginSeal,
    FinishSeal,
    /// Two layers become one, if there are two that can.
    Merge {
        lower: usize,
    },
    Grow,
    /// The process ends, the machine does not.
    Reopen,
    /// The disk is full from now on, or has room again.
    Full(bool),
    /// The storage fails in so many steps.
    Fail {
        after: u64,
        no_space: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    pub(super) seed: u64,
    pub(super) log_pages: u32,
    pub(super) segment_blocks: u64,
    pub(super) is_encrypted: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { seed: 1, log_pages: 4, segment_blocks: BLOCKS_MAX, is_encrypted: false }
    }
}

fn any_range() -> impl Strategy<Value = (usize, usize)> {
    // Whole blocks often, as file systems do; few blocks, so that requests meet.
    let aligned = (0..REGION_SECTORS / 8, 1usize..4).prop_map(|(first, count)| (first * 8, count * 8));
    let any = (0..REGION_SECTORS, 1usize..24);
    (0..REGIONS, prop_oneof![2 => aligned, 1 => any]).prop_map(|(region, (first, count))| {
        (region * REGION_SECTORS + first, count.min(REGION_SECTORS - first))
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any_range().prop_map(|(first, count)| Op::Read { first, count }),
        10 => any_range().prop_map(|(first, count)| Op::Write { first, count }),
        2 => (any_range(), any::<bool>())
            .prop_map(|((first, count), may_unmap)| Op::Zero { first, count, may_unmap }),
        1 => any_range().prop_map(|(first, count)| Op::Discard { first, count }),
        5 => Just(Op::Flush),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => (0usize..3, any_op()).prop_map(|(queue, op)| Step::Push { queue, op }),
        20 => (0usize..3, 1usize..6).prop_map(|(queue, calls)| Step::Pump { queue, calls }),
        8 => Just(Step::Commit),
        2 => Just(Step::BeginSeal),
        2 => Just(Step::FinishSeal),
        2 => (0usize..4).prop_map(|lower| Step::Merge { lower }),
        1 => Just(Step::Grow),
        1 => Just(Step::Reopen),
    ]
}

/// Things that go wrong, in one history of three.
fn any_trouble() -> impl Strategy<Value = Option<(usize, Step)>> {
    let step = prop_oneof![
        2 => any::<bool>().prop_map(Step::Full),
        1 => (1u64..30, any::<bool>()).prop_map(|(after, no_space)| Step::Fail { after, no_space }),
    ];
    prop_oneof![2 => Just(None), 1 => (0usize..40, step).prop_map(Some)]
}

pub(super) fn any_history() -> impl Strategy<Value = (Config, Vec<Step>)> {
    let segment_blocks = prop_oneof![2 => Just(BLOCKS_MAX), 1 => Just(super::sectors::SPLIT_BLOCK)];
    let config = (any::<u64>(), 4u32..9, segment_blocks, any::<bool>()).prop_map(
        |(seed, log_pages, segment_blocks, is_encrypted)| Config {
            seed,
            log_pages,
            segment_blocks,
            is_encrypted,
        },
    );
    (config, prop::collection::vec(any_step(), 1..50), any_trouble()).prop_map(
        |(config, mut steps, trouble)| {
            if let Some((at, step)) = trouble {
                steps.insert(at.min(steps.len()), step);
            }
            (config, steps)
        },
    )
}
