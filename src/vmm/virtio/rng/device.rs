//! The source of randomness as its transport and the control socket see it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::QUEUE_SIZE;
use super::handler::RngHandler;
use crate::virtio::{DeviceKind, DeviceParts, OperationCounters, VirtioDevice, WorkerPart};

/// A source of randomness.
pub struct Rng {
    read: Arc<OperationCounters>,
}

impl Rng {
    /// A source of randomness and its worker, whose thread is named `name`.
    pub fn parts(name: &str) -> DeviceParts {
        let read = Arc::new(OperationCounters::default());
        let handler = Box::new(RngHandler::new(read.clone()));
        let workers = vec![WorkerPart { name: name.to_owned(), queues: vec![0], handler }];
        DeviceParts { device: Arc::new(Rng { read }), workers }
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn counters(&self) -> Value {
        json!({ "read": OperationCounters::sum(std::iter::once(&*self.read)) })
    }
}
