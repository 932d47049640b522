//! The disk as its transport and the control socket see it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use volume::{BlockBackend, SECTOR_BYTES};

use super::handler::BlockHandler;
use super::{ID_BYTES, QUEUE_SIZE, RANGE_SECTORS_MAX, SEGMENTS_MAX, feature};
use crate::virtio::{
    AttachedSignals, DeviceKind, DeviceParts, DeviceSignals, OperationCounters, VirtioDevice, WorkerPart,
};

/// What a disk is to be.
pub struct BlockSpec {
    /// Names the threads: `blk0` gives `blk0-q0`, `blk0-q1` and so on.
    pub name: String,
    /// What the guest sees as the serial number; 20 bytes count. EBS shows the volume's id without its dash.
    pub serial: String,
    pub backend: Arc<dyn BlockBackend>,
    /// How many queues, at least 1: as many as vCPUs, but no more than 4.
    pub queues: u16,
}

/// A disk.
pub struct Block {
    backend: Arc<dyn BlockBackend>,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    signals: AttachedSignals,
}

/// What the workers see too.
pub(super) struct Shared {
    size_bytes: AtomicU64,
    pub(super) id: [u8; ID_BYTES],
    pub(super) is_read_only: bool,
    pub(super) block_bytes: u32,
    pub(super) queues: Vec<QueueCounters>,
}

impl Shared {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }
}

/// The counters of one queue, which its worker writes.
#[derive(Debug, Default)]
pub(super) struct QueueCounters {
    pub(super) read: OperationCounters,
    pub(super) write: OperationCounters,
    pub(super) flush: OperationCounters,
    pub(super) discard: OperationCounters,
    pub(super) write_zeroes: OperationCounters,
    pub(super) other: OperationCounters,
}

impl Block {
    /// A disk and its workers. All that the host must give is taken here.
    ///
    /// # Errors
    /// When the backend cannot open a queue.
    pub fn new(spec: BlockSpec) -> io::Result<(Arc<Self>, DeviceParts)> {
        let BlockSpec { name, serial, backend, queues } = spec;
        let mut id = [0; ID_BYTES];
        for (place, byte) in id.iter_mut().zip(serial.bytes()) {
            *place = byte;
        }
        let queues = queues.max(1);
        let shared = Arc::new(Shared {
            size_bytes: AtomicU64::new(backend.size_bytes()),
            id,
            is_read_only: backend.is_read_only(),
            block_bytes: backend.topology().logical_block_bytes,
            queues: (0..queues).map(|_| QueueCounters::default()).collect(),
        });
        let mut workers = Vec::new();
        for index in 0..queues {
            let disk = backend.open_queue(QUEUE_SIZE)?;
            let handler = Box::new(BlockHandler::new(disk, shared.clone(), index));
            workers.push(WorkerPart { name: format!("{name}-q{index}"), queues: vec![index], handler });
        }
        let queue_sizes = vec![QUEUE_SIZE; usize::from(queues)];
        let device = Arc::new(Block { backend, queue_sizes, shared, signals: AttachedSignals::default() });
        Ok((device.clone(), DeviceParts { device, workers }))
    }

    /// Takes over the size that the backend has now, and tells the guest if it is another.
    pub fn refresh_size(&self) {
        let size = self.backend.size_bytes();
        let before = self.shared.size_bytes.swap(size, Ordering::AcqRel);
        if before != size {
            self.signals.config_changed();
        }
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        use feature::{BLK_SIZE, DISCARD, FLUSH, MQ, RO, SEG_MAX, TOPOLOGY, WRITE_ZEROES};
        let common = SEG_MAX | BLK_SIZE | TOPOLOGY | FLUSH;
        let access = if self.shared.is_read_only { RO } else { DISCARD | WRITE_ZEROES };
        let queues = if self.queue_sizes.len() > 1 { MQ } else { 0 };
        common | access | queues
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// virtio 1.2, 5.2.4.
    fn config(&self) -> Vec<u8> {
        let topology = self.backend.topology();
        let block = topology.logical_block_bytes.max(1);
        let blocks = |bytes: u32| bytes / block;
        let physical_exponent =
            u8::try_from(blocks(topology.physical_block_bytes).max(1).ilog2()).unwrap_or(0);
        let physical_blocks = u16::try_from(blocks(topology.physical_block_bytes)).unwrap_or(u16::MAX);
        let queues = u16::try_from(self.queue_sizes.len()).unwrap_or(u16::MAX);
        let discard_sectors = u64::from(topology.discard_granularity_bytes) / SECTOR_BYTES;
        let discard_sectors = u32::try_from(discard_sectors).unwrap_or(1).max(1);
        let mut config = [0; 60];
        config[0..8].copy_from_slice(&(self.shared.size_bytes() / SECTOR_BYTES).to_le_bytes());
        config[12..16].copy_from_slice(&u32::from(SEGMENTS_MAX).to_le_bytes());
        config[20..24].copy_from_slice(&block.to_le_bytes());
        config[24] = physical_exponent;
        config[26..28].copy_from_slice(&physical_blocks.to_le_bytes());
        config[28..32].copy_from_slice(&blocks(topology.optimal_io_bytes).to_le_bytes());
        config[34..36].copy_from_slice(&queues.to_le_bytes());
        config[36..40].copy_from_slice(&RANGE_SECTORS_MAX.to_le_bytes());
        config[40..44].copy_from_slice(&1u32.to_le_bytes());
        config[44..48].copy_from_slice(&discard_sectors.to_le_bytes());
        config[48..52].copy_from_slice(&RANGE_SECTORS_MAX.to_le_bytes());
        config[52..56].copy_from_slice(&1u32.to_le_bytes());
        config[56] = 1;
        config.to_vec()
    }

    fn attach(&self, signals: Arc<DeviceSignals>) {
        self.signals.attach(signals);
    }

    fn counters(&self) -> Value {
        let sum = |part: fn(&QueueCounters) -> &OperationCounters| {
            OperationCounters::sum(self.shared.queues.iter().map(part))
        };
        json!({
            "read": sum(|queue| &queue.read),
            "write": sum(|queue| &queue.write),
            "flush": sum(|queue| &queue.flush),
            "discard": sum(|queue| &queue.discard),
            "write_zeroes": sum(|queue| &queue.write_zeroes),
            "other": sum(|queue| &queue.other),
        })
    }
}
