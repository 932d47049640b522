//! Counting without locks: each counter has one writer, its worker, and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only ever called by the counter's one writer, so a load and a store do, and no locked instruction.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// As [`Counter::add`], by one writer.
    pub fn raise_to(&self, value: u64) {
        if value > self.0.load(Ordering::Relaxed) {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bucket `i` counts what took less than 2^i µs and not less than half of it; the last, all that took longer.
const BUCKETS: usize = 24;

/// Operations of one kind.
#[derive(Debug, Default)]
pub struct OperationCounters {
    operations: Counter,
    bytes: Counter,
    errors: Counter,
    latency_ns_sum: Counter,
    latency_ns_max: Counter,
    latency_us_log2: [Counter; BUCKETS],
}

impl OperationCounters {
    /// An operation that was done.
    pub fn done(&self, bytes: u64, latency_ns: u64) {
        self.operations.add(1);
        self.bytes.add(bytes);
        self.latency_ns_sum.add(latency_ns);
        self.latency_ns_max.raise_to(latency_ns);
        let magnitude = u64::BITS - (latency_ns / 1000).leading_zeros();
        let bucket = usize::try_from(magnitude).map_or(BUCKETS - 1, |m| m.min(BUCKETS - 1));
        self.latency_us_log2[bucket].add(1);
    }

    /// An operation that was refused or failed.
    pub fn failed(&self) {
        self.operations.add(1);
        self.errors.add(1);
    }

    /// One object for all `parts`, which are the same kind of operation in several queues.
    pub fn sum<'a>(parts: impl Iterator<Item = &'a OperationCounters>) -> Value {
        let (mut operations, mut bytes, mut errors, mut sum, mut max) = (0u64, 0u64, 0u64, 0u64, 0u64);
        let mut buckets = [0u64; BUCKETS];
        for part in parts {
            operations = operations.wrapping_add(part.operations.get());
            bytes = bytes.wrapping_add(part.bytes.get());
            errors = errors.wrapping_add(part.errors.get());
            sum = sum.wrapping_add(part.latency_ns_sum.get());
            max = max.max(part.latency_ns_max.get());
            for (bucket, counter) in buckets.iter_mut().zip(&part.latency_us_log2) {
                *bucket = bucket.wrapping_add(counter.get());
            }
        }
        json!({
            "operations": operations, "bytes": bytes, "errors": errors,
            "latency_ns_sum": sum, "latency_ns_max": max, "latency_us_log2": buckets,
        })
    }
}

/// Nanoseconds since `epoch`. Workers read it once for each batch, not for each request: in a virtual machine whose
/// host's clock is slow, reading it costs more than the request.
pub fn nanoseconds_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
