//! One pair of queues in service, and the control queue.

use std::sync::Arc;

use super::device::PairCounters;
use super::experiments::Passage;
use super::receive::Receiver;
use super::request::{self, Ack, Command, Limits};
use super::{FRAME_BYTES_MAX, HEADER_BYTES, LINK_HEADER_BYTES, PIECES_MAX, Tap, feature};
use crate::poll::{Interest, Token};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{Activation, Buffers, DeviceError, QueueHandler, Ring};

const TAP: Token = 0;
const PASSAGE: Token = 1;

/// Frames that one call transmits before others get their turn.
const FRAMES_PER_TURN: usize = 64;

pub(super) struct NetHandler {
    /// All queues of the tap; `pair` is this worker's.
    taps: Arc<[Tap]>,
    pair: usize,
    mtu: u16,
    counters: Arc<PairCounters>,
    passage: Passage,
    buffers: Buffers,
    receiver: Option<Receiver>,
    transmit: Option<Ring>,
    control: Option<Control>,
}

struct Control {
    ring: Ring,
    limits: Limits,
}

impl NetHandler {
    pub(super) fn new(
        taps: Arc<[Tap]>,
        pair: usize,
        mtu: u16,
        counters: Arc<PairCounters>,
        passage: Passage,
    ) -> Self {
        let buffers = Buffers::with_capacity(PIECES_MAX);
        NetHandler {
            taps,
            pair,
            mtu,
            counters,
            passage,
            buffers,
            receiver: None,
            transmit: None,
            control: None,
        }
    }

    fn tap(&self) -> &Tap {
        &self.taps[self.pair]
    }

    /// The longest frame that the tap has for a driver that negotiated `features`, with its header.
    fn frame_bytes(&self, features: u64) -> usize {
        let has_segments = features & (feature::GUEST_TSO4 | feature::GUEST_TSO6) != 0;
        if has_segments { FRAME_BYTES_MAX } else { HEADER_BYTES + LINK_HEADER_BYTES + usize::from(self.mtu) }
    }

    /// The queues have their roles by their index, which depends on `MQ` (virtio 1.2, 5.1.2).
    fn take_queues(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let features = activation.features;
        let has = |bit: u64| features & bit != 0;
        let pairs_max = u16::try_from(self.taps.len()).unwrap_or(u16::MAX);
        let control = if has(feature::MQ) { 2 * pairs_max } else { 2 };
        for queue in activation.queues {
            let index = queue.index;
            let ring = Ring::new(queue, features)?;
            if index >= control {
                let limits = Limits { pairs_max, features };
                self.control =
                    (index == control && has(feature::CTRL_VQ)).then_some(Control { ring, limits });
            } else if index.is_multiple_of(2) {
                let (longest, counters) = (self.frame_bytes(features), self.counters.clone());
                self.receiver = Some(Receiver::new(ring, has(feature::MRG_RXBUF), longest, counters));
            } else {
                self.transmit = Some(ring);
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), DeviceError> {
        self.passage.heed();
        match &mut self.receiver {
            Some(receiver) => self.passage.receive(&self.taps[self.pair], receiver),
            None => Ok(()),
        }
    }

    fn transmit(&mut self) -> Result<(), DeviceError> {
        self.passage.heed();
        let Some(ring) = &mut self.transmit else { return Ok(()) };
        let tap = &self.taps[self.pair];
        ring.suppress_kicks();
        let mut is_over = false;
        for _ in 0..FRAMES_PER_TURN {
            let Some(head) = ring.pop_or_allow_kicks()? else {
                is_over = true;
                break;
            };
            ring.gather(head, &mut self.buffers)?;
            if self.buffers.writable_bytes() > 0 {
                return Err(ring.bad_chain("a frame to send cannot be read by the device"));
            }
            let bytes = usize::try_from(self.buffers.readable_bytes()).unwrap_or(usize::MAX);
            if bytes < HEADER_BYTES {
                return Err(ring.bad_chain("a frame to send is too short for its header"));
            }
            self.passage.transmit(tap, self.buffers.readable(), bytes);
            ring.put_used(head, 0);
        }
        ring.notify();
        if !self.passage.send_due(tap)? || !is_over {
            ring.kick_self();
        }
        Ok(())
    }

    fn control(&mut self) -> Result<(), DeviceError> {
        let Some(mut control) = self.control.take() else { return Ok(()) };
        let outcome = self.obey(&mut control);
        self.control = Some(control);
        outcome
    }

    fn obey(&mut self, control: &mut Control) -> Result<(), DeviceError> {
        let ring = &mut control.ring;
        ring.suppress_kicks();
        for _ in 0..ring.size() {
            let Some(head) = ring.pop_or_allow_kicks()? else { return Ok(()) };
            ring.gather(head, &mut self.buffers)?;
            let command = request::parse(&mut self.buffers, &control.limits)
                .map_err(|reason| ring.bad_chain(reason))?;
            let ack = command.map_or_else(|refused| refused, |command| self.execute(command));
            self.buffers.fill_front(&[ack.byte()]);
            ring.put_used(head, 1);
        }
        ring.notify();
        ring.kick_self();
        Ok(())
    }

    fn execute(&mut self, command: Command) -> Ack {
        let outcome = match command {
            Command::SetPairs(pairs) => self.attach_pairs(usize::from(pairs)),
            Command::SetOffloads(offloads) => {
                let longest = self.frame_bytes(offloads);
                // The other pairs' receivers keep to what was negotiated, which is never less.
                if let Some(receiver) = &mut self.receiver {
                    receiver.expect(longest);
                }
                self.tap().set_offloads(offloads)
            }
        };
        if outcome.is_ok() { Ack::Ok } else { Ack::Refused }
    }

    /// Has the kernel use the first `pairs` queues of the tap: a frame in another one would never be received.
    fn attach_pairs(&self, pairs: usize) -> std::io::Result<()> {
        if self.taps.len() == 1 {
            return Ok(());
        }
        self.taps.iter().enumerate().try_for_each(|(index, tap)| tap.set_attached(index < pairs))
    }
}

impl QueueHandler for NetHandler {
    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError> {
        let host = |operation| move |source| DeviceError::Host { operation, source };
        let features = activation.features;
        self.take_queues(activation)?;
        if self.pair == 0 {
            self.attach_pairs(1).map_err(host("detach the tap's spare queues"))?;
            self.tap().set_offloads(features).map_err(host("set the tap's offloads"))?;
        }
        if self.receiver.is_some() {
            context.watch(self.tap(), TAP, Interest::ReadEdge).map_err(host("watch the tap"))?;
        }
        self.passage.watch(context, PASSAGE).map_err(host("watch the interface's timer"))?;
        self.resume(context)
    }

    fn kicked(&mut self, index: u16, _context: &WorkerContext) -> Result<(), DeviceError> {
        match &self.control {
            Some(control) if control.ring.index() == index => self.control(),
            _ if index.is_multiple_of(2) => self.receive(),
            _ => self.transmit(),
        }
    }

    fn ready(&mut self, token: Token, _context: &WorkerContext) -> Result<(), DeviceError> {
        if token == PASSAGE {
            self.transmit()?;
        }
        self.receive()
    }

    /// Nothing of the guest's memory is ever in use between two calls.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.control()?;
        self.transmit()?;
        self.receive()
    }

    fn stop(&mut self, context: &WorkerContext) {
        (self.receiver, self.transmit, self.control) = (None, None, None);
        // It is not watched when nothing was started.
        let _ = context.unwatch(self.tap());
        self.passage.stop(context);
    }
}
