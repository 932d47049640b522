//! What a load balancer counts, by the names of its metrics
//! (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-cloudwatch-metrics.html>).
//!
//! Each worker counts for itself, in memory that others only read; who asks adds up. Nothing is ever counted down: rates are differences.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::http2::Flood;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Count {
            $($(#[$doc])* $name),+
        }

        impl Count {
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The metric's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text),+
                }
            }
        }
    };
}

counts! {
    /// Connections from clients.
    NewConnections = "NewConnectionCount",
    /// Requests for which there was a target.
    Requests = "RequestCount",
    GrpcRequests = "GrpcRequestCount",
    /// Bytes to and from clients, without what TLS and HTTP/2 add.
    ProcessedBytes = "ProcessedBytes",
    FixedResponses = "HTTP_Fixed_Response_Count",
    Redirects = "HTTP_Redirect_Count",
    /// What the load balancer said by itself.
    Elb3xx = "HTTPCode_ELB_3XX_Count",
    Elb4xx = "HTTPCode_ELB_4XX_Count",
    Elb5xx = "HTTPCode_ELB_5XX_Count",
    Elb500 = "HTTPCode_ELB_500_Count",
    Elb502 = "HTTPCode_ELB_502_Count",
    Elb503 = "HTTPCode_ELB_503_Count",
    Elb504 = "HTTPCode_ELB_504_Count",
    /// What targets answered.
    Target2xx = "HTTPCode_Target_2XX_Count",
    Target3xx = "HTTPCode_Target_3XX_Count",
    Target4xx = "HTTPCode_Target_4XX_Count",
    Target5xx = "HTTPCode_Target_5XX_Count",
    /// Microseconds from a request's way to its target to the head of the answer, all together, and of how many.
    TargetResponseTime = "TargetResponseTimeUs",
    TargetResponses = "TargetResponseCount",
    TargetConnectionErrors = "TargetConnectionErrorCount",
    ClientTlsErrors = "ClientTLSNegotiationErrorCount",
    TargetTlsErrors = "TargetTLSNegotiationErrorCount",
    /// Requests that two servers may understand differently.
    NonCompliant = "DesyncMitigationMode_NonCompliant_Request_Count",
    /// Of the access log, which its disk could not keep up with.
    LostLines = "AccessLogLinesLost",
}

impl Count {
    /// For a status that the load balancer said by itself.
    pub(crate) fn of_elb(status: u16) -> [Option<Self>; 2] {
        let class = match status {
            300..400 => Some(Self::Elb3xx),
            400..500 => Some(Self::Elb4xx),
            500..600 => Some(Self::Elb5xx),
            _ => None,
        };
        let own = match status {
            500 => Some(Self::Elb500),
            502 => Some(Self::Elb502),
            503 => Some(Self::Elb503),
            504 => Some(Self::Elb504),
            _ => None,
        };
        [class, own]
    }

    /// For a status that a target answered.
    pub(crate) fn of_target(status: u16) -> Option<Self> {
        match status {
            200..300 => Some(Self::Target2xx),
            300..400 => Some(Self::Target3xx),
            400..500 => Some(Self::Target4xx),
            500..600 => Some(Self::Target5xx),
            _ => None,
        }
    }
}

/// Numbers that one thread writes and others read.
#[derive(Debug)]
pub(crate) struct Counters {
    cells: [AtomicU64; Count::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { cells: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counters {
    pub(crate) fn add(&self, count: Count, by: u64) {
        add(&self.cells[count as usize], by);
    }

    pub(crate) fn one(&self, count: Count) {
        self.add(count, 1);
    }

    fn sum(&self, into: &mut BTreeMap<&'static str, u64>) {
        for (cell, count) in self.cells.iter().zip(Count::ALL) {
            *into.entry(count.name()).or_default() += cell.load(Ordering::Relaxed);
        }
    }
}

/// Only the thread whose it is writes: there is nobody to be raced with.
fn add(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// All of one worker's.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) all: Counters,
    /// Of target groups, by their names, whether they are still there or not.
    groups: Mutex<BTreeMap<String, Arc<Counters>>>,
    floods: [AtomicU64; Flood::ALL.len()],
    connections: AtomicU64,
}

impl WorkerCounters {
    /// A target group's.
    pub(crate) fn group(&self, name: &str) -> Arc<Counters> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry(name.to_owned()).or_default())
    }

    pub(crate) fn flood(&self, flood: Flood) {
        add(&self.floods[flood as usize], 1);
    }

    /// How many connections there are now, at both ends.
    pub(crate) fn set_connections(&self, count: usize) {
        self.connections.store(count as u64, Ordering::Relaxed);
    }
}

/// What all workers have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub all: BTreeMap<&'static str, u64>,
    pub groups: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Connections of HTTP/2 that were ended, by what there was too much of.
    pub floods: BTreeMap<&'static str, u64>,
    /// Now, at both ends.
    pub active_connections: u64,
}

impl Totals {
    pub(crate) fn of<'a>(workers: impl Iterator<Item = &'a WorkerCounters>) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            worker.all.sum(&mut totals.all);
            for (name, group) in worker.groups.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                group.sum(totals.groups.entry(name.clone()).or_default());
            }
            for (cell, flood) in worker.floods.iter().zip(Flood::ALL) {
                *totals.floods.entry(flood.name()).or_default() += cell.load(Ordering::Relaxed);
            }
            totals.active_connections += worker.connections.load(Ordering::Relaxed);
        }
        totals
    }
}

/// Microseconds, as counters have them.
pub(crate) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
