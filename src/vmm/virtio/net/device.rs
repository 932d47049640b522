//! The interface as its transport and the control socket see it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use types::MacAddress;

use super::experiments::{Experiments, Passage};
use super::handler::NetHandler;
use super::{
    CONTROL_QUEUE_SIZE, CaptureError, CaptureStatus, Impairments, QUEUE_SIZE, Tap, TapError, feature,
};
use crate::virtio::{
    AttachedSignals, Counter, DeviceKind, DeviceParts, DeviceSignals, VirtioDevice, WorkerPart,
};

/// The specification allows more (5.1.4); no machine of ours has more vCPUs.
const PAIRS_MAX: usize = 32;

/// The status field's bit for a link that is up.
const LINK_UP: u16 = 1;

/// What an interface is to be.
pub struct NetSpec {
    /// Names the threads: `net0` gives `net0-q0`, `net0-q1` and so on.
    pub name: String,
    pub mac: MacAddress,
    pub mtu: u16,
    /// Queues of one tap, one for each pair of virtqueues.
    pub taps: Vec<OwnedFd>,
}

/// A network interface.
pub struct Net {
    mac: MacAddress,
    mtu: u16,
    queue_sizes: Vec<u16>,
    is_up: AtomicBool,
    pairs: Vec<Arc<PairCounters>>,
    experiments: Arc<Experiments>,
    signals: AttachedSignals,
}

/// The counters of one pair of queues, which its worker writes.
#[derive(Debug, Default)]
pub(super) struct PairCounters {
    pub(super) receive: DirectionCounters,
    pub(super) transmit: DirectionCounters,
}

/// Frames in one direction, as the guest sees it.
#[derive(Debug, Default)]
pub(super) struct DirectionCounters {
    pub(super) frames: Counter,
    pub(super) bytes: Counter,
    /// Refused by the tap, or not read from it.
    pub(super) errors: Counter,
    /// Lost because there was no place.
    pub(super) dropped: Counter,
    /// Shown to captures.
    pub(super) captured: Counter,
    /// Not shown, because a capture's reader was too slow.
    pub(super) capture_dropped: Counter,
    /// Put onto an impaired line.
    pub(super) delayed: Counter,
    /// Lost there.
    pub(super) impairment_dropped: Counter,
}

impl DirectionCounters {
    pub(super) fn frame(&self, bytes: usize) {
        self.frames.add(1);
        self.bytes.add(u64::try_from(bytes).unwrap_or(0));
    }
}

impl Net {
    /// An interface and its workers.
    ///
    /// # Errors
    /// [`TapError`] when a descriptor is not a tap's queue of the kind that is needed.
    pub fn new(spec: NetSpec) -> Result<(Arc<Self>, DeviceParts), TapError> {
        let NetSpec { name, mac, mtu, taps } = spec;
        let count = taps.len();
        let pair_count = u16::try_from(count).ok().filter(|_| (1..=PAIRS_MAX).contains(&count));
        let pair_count = pair_count.ok_or(TapError::QueueCount { count, max: PAIRS_MAX })?;
        let taps = taps.into_iter().map(Tap::new).collect::<Result<Arc<[Tap]>, _>>()?;
        if let (true, Some(single)) = (count > 1, taps.iter().find(|tap| !tap.is_multi_queue())) {
            return Err(TapError::SingleQueue { name: single.name().to_owned() });
        }
        let control = 2 * pair_count;
        let mut queue_sizes = vec![QUEUE_SIZE; usize::from(control)];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let no_events = |source| TapError::Events { source };
        let experiments = Arc::new(Experiments::new(pair_count).map_err(no_events)?);
        let mut workers = Vec::new();
        let mut pairs = Vec::new();
        for pair in 0..pair_count {
            let counters = Arc::new(PairCounters::default());
            let mut queues = vec![2 * pair, 2 * pair + 1];
            queues.extend((pair == 0).then_some(control));
            let index = usize::from(pair);
            let passage = Passage::new(experiments.clone(), index, counters.clone()).map_err(no_events)?;
            let handler = Box::new(NetHandler::new(taps.clone(), index, mtu, counters.clone(), passage));
            workers.push(WorkerPart { name: format!("{name}-q{pair}"), queues, handler });
            pairs.push(counters);
        }
        let is_up = AtomicBool::new(true);
        let signals = AttachedSignals::default();
        let device = Arc::new(Net { mac, mtu, queue_sizes, is_up, pairs, experiments, signals });
        Ok((device.clone(), DeviceParts { device, workers }))
    }

    /// Tells the guest that the link is up or down. Frames flow all the same: it is the guest that stops.
    pub fn set_link(&self, up: bool) {
        let was_up = self.is_up.swap(up, Ordering::AcqRel);
        if was_up != up {
            self.signals.config_changed();
        }
    }

    pub fn is_link_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// Has frames shown to who is at the other end of `socket`, the first `snaplen` bytes of each, until that is closed: each is a packet, a
    /// [`Record`](super::Record) and the frame.
    ///
    /// # Errors
    /// [`CaptureError`]
    pub fn capture(&self, socket: OwnedFd, snaplen: usize) -> Result<CaptureStatus, CaptureError> {
        self.experiments.capture(socket, snaplen)
    }

    pub fn captures(&self) -> Vec<CaptureStatus> {
        self.experiments.capture_statuses()
    }

    /// Has frames pass as over such a link from now on, in the directions that are given, and what is under way there arrive at once. They [have
    /// been checked](super::Impairment::check).
    pub fn impair(&self, impairments: Impairments) {
        self.experiments.impair(impairments);
    }

    pub fn impairments(&self) -> Impairments {
        self.experiments.impairments()
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        use feature::{
            CSUM, CTRL_GUEST_OFFLOADS, CTRL_VQ, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, HOST_ECN,
            HOST_TSO4, HOST_TSO6, MAC, MQ, MRG_RXBUF, MTU, STATUS,
        };
        let to_guest = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | CTRL_GUEST_OFFLOADS;
        let to_host = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
        let pairs = if self.pairs.len() > 1 { MQ } else { 0 };
        to_guest | to_host | MAC | MTU | STATUS | MRG_RXBUF | CTRL_VQ | pairs
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// virtio 1.2, 5.1.4.
    fn config(&self) -> Vec<u8> {
        let status = if self.is_link_up() { LINK_UP } else { 0 };
        let pairs = u16::try_from(self.pairs.len()).unwrap_or(u16::MAX);
        let mut config = [0; 12];
        config[0..6].copy_from_slice(&self.mac.octets());
        config[6..8].copy_from_slice(&status.to_le_bytes());
        config[8..10].copy_from_slice(&pairs.to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        config.to_vec()
    }

    fn attach(&self, signals: Arc<DeviceSignals>) {
        self.signals.attach(signals);
    }

    fn as_net(&self) -> Option<&Net> {
        Some(self)
    }

    fn counters(&self) -> Value {
        let direction = |part: fn(&PairCounters) -> &DirectionCounters| {
            let sum = |counter: fn(&DirectionCounters) -> &Counter| {
                self.pairs.iter().map(|pair| counter(part(pair)).get()).fold(0, u64::wrapping_add)
            };
            json!({
                "operations": sum(|counters| &counters.frames),
                "bytes": sum(|counters| &counters.bytes),
                "errors": sum(|counters| &counters.errors),
                "dropped": sum(|counters| &counters.dropped),
                "captured": sum(|counters| &counters.captured),
                "capture_dropped": sum(|counters| &counters.capture_dropped),
                "delayed": sum(|counters| &counters.delayed),
                "impairment_dropped": sum(|counters| &counters.impairment_dropped),
            })
        };
        json!({ "receive": direction(|pair| &pair.receive), "transmit": direction(|pair| &pair.transmit) })
    }
}
