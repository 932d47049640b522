//! Frames that come, and what becomes of them.

use super::flood::Flood;
use super::frame::{self, Code, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX};
use super::hpack;
use super::incoming;
use super::outgoing::Kind;
use super::session::{Block, Fault, Role, STREAMS_MAX, Session};
use super::stream::Stream;
use types::Instant;

/// A block of fields as it comes, and in how many frames.
const BLOCK_BYTES_MAX: usize = hpack::FIELDS_BYTES_MAX;
const BLOCK_FRAMES_MAX: u32 = 32;
/// What must be said, and is not read.
const UNREAD_BYTES_MAX: usize = 512 << 10;
const WINDOW_MAX: i64 = i32::MAX as i64;

const fn broken<T>(code: Code) -> Result<T, Fault> {
    Err(Fault::Broken(code))
}

impl Session {
    /// Takes what came.
    ///
    /// # Errors
    /// Why the connection ends: the other end is told by what is to be sent, and all streams are cut off.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), Fault> {
        self.now = now;
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let read = self.read(bytes);
        if let Err(fault) = read {
            self.fault = Some(fault);
            let code = match fault {
                Fault::Broken(code) => code,
                Fault::Flood(_) => Code::EnhanceYourCalm,
            };
            frame::go_away(self.last, code, &mut self.output);
            self.fail_all();
        }
        read
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut joined = std::mem::take(&mut self.inbox);
        let bytes = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let length = self.preface.len().min(bytes.len());
        let (preface, mut rest) = bytes.split_at(length);
        if preface != &self.preface[..length] {
            return broken(Code::ProtocolError);
        }
        self.preface = &self.preface[length..];
        while let Some(header) = Header::read(rest) {
            if header.length > PAYLOAD_BYTES_MAX {
                return broken(Code::FrameSizeError);
            }
            let Some(payload) = rest.get(HEADER_BYTES..HEADER_BYTES + header.length) else { break };
            self.take_frame(header, payload)?;
            if self.output.len() > UNREAD_BYTES_MAX {
                return Err(Flood::Unread.into());
            }
            rest = &rest[HEADER_BYTES + header.length..];
        }
        self.inbox = rest.to_vec();
        Ok(())
    }

    fn take_frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if !std::mem::replace(&mut self.has_settings, true) && header.kind != frame::SETTINGS {
            return broken(Code::ProtocolError);
        }
        if self.block.is_some() != (header.kind == frame::CONTINUATION) {
            return broken(Code::ProtocolError);
        }
        match header.kind {
            frame::DATA => self.data(&header, payload),
            frame::HEADERS => self.headers(&header, payload),
            frame::CONTINUATION => self.continuation(&header, payload),
            frame::RST_STREAM => self.reset_by_peer(&header, payload),
            frame::SETTINGS => self.settings(&header, payload),
            frame::PING => self.ping(&header, payload),
            frame::GOAWAY => self.go_away_by_peer(&header, payload),
            frame::WINDOW_UPDATE => self.window_update(&header, payload),
            frame::PUSH_PROMISE => broken(Code::ProtocolError),
            frame::PRIORITY if header.stream == 0 => broken(Code::ProtocolError),
            _ => Ok(self.budgets.spend(Flood::IdleFrames, self.now)?),
        }
    }

    /// Streams that were never begun: what is said of them is an error.
    fn is_idle(&self, id: u32) -> bool {
        let is_clients = id % 2 == 1;
        match self.role {
            _ if id == 0 => true,
            Role::Server => !is_clients || id > self.last,
            Role::Client { .. } => !is_clients || id >= self.next,
        }
    }

    fn data(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        let id = header.stream;
        if self.is_idle(id) {
            return broken(Code::ProtocolError);
        }
        let Some(data) = frame::unpadded(header, payload) else { return broken(Code::ProtocolError) };
        // All of it counts, also what is not kept (RFC 9113, 6.9.1). Lengths of frames fit.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.receive_window -= i64::from(length);
        if self.receive_window < 0 {
            return broken(Code::FlowControlError);
        }
        let ends = header.has(frame::END_STREAM);
        if data.is_empty() && !ends {
            self.budgets.spend(Flood::EmptyFrames, self.now)?;
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_dead) else {
            // It was ended here, which the other end did not know yet.
            self.give_back(length);
            return Ok(());
        };
        stream.receive_window -= i64::from(length);
        let problem = if stream.has_received {
            Some(Code::StreamClosed)
        } else if stream.receive_window < 0 {
            Some(Code::FlowControlError)
        } else {
            let Stream { incoming, inbox, .. } = stream;
            let taken = incoming.as_mut().ok_or(incoming::Malformed).and_then(|incoming| {
                incoming.data(data, inbox)?;
                if ends { incoming.end(None, inbox) } else { Ok(()) }
            });
            taken.err().map(|_| Code::ProtocolError)
        };
        if let Some(code) = problem {
            self.give_back(length);
            self.reset(id, code);
            return Ok(());
        }
        stream.held += length;
        stream.has_received = ends;
        self.changed.push(id);
        self.forget(id);
        Ok(())
    }

    fn headers(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        let Some(payload) = frame::unpadded(header, payload) else { return broken(Code::ProtocolError) };
        let skipped = if header.has(frame::HAS_PRIORITY) { 5 } else { 0 };
        let Some(payload) = payload.get(skipped..) else { return broken(Code::FrameSizeError) };
        let (stream, ends) = (header.stream, header.has(frame::END_STREAM));
        match self.role {
            // A client's are odd, and go up (RFC 9113, 5.1.1).
            Role::Server if stream % 2 == 0 => return broken(Code::ProtocolError),
            Role::Client { .. } if self.is_idle(stream) => return broken(Code::ProtocolError),
            _ => {}
        }
        if header.has(frame::END_HEADERS) {
            return self.block_ended(stream, ends, payload);
        }
        self.block = Some(Block { stream, ends, bytes: payload.to_vec(), frames: 1 });
        Ok(())
    }

    fn continuation(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut block) = self.block.take().filter(|block| block.stream == header.stream) else {
            return broken(Code::ProtocolError);
        };
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        if block.bytes.len() > BLOCK_BYTES_MAX || block.frames > BLOCK_FRAMES_MAX {
            return Err(Flood::Continuations.into());
        }
        if header.has(frame::END_HEADERS) {
            return self.block_ended(block.stream, block.ends, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn block_ended(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Fault> {
        // Also that of a stream which nobody knows: the next one builds on it.
        if self.decoder.decode(block, &mut self.fields).is_err() {
            return broken(Code::CompressionError);
        }
        match self.streams.get(&id) {
            Some(stream) if stream.is_dead => Ok(()),
            Some(stream) if stream.incoming.is_some() => {
                self.trailers(id, ends);
                Ok(())
            }
            Some(_) => {
                self.response(id, ends);
                Ok(())
            }
            None if self.role == Role::Server && id > self.last => self.request(id, ends),
            // It has ended.
            None if self.role == Role::Server => broken(Code::StreamClosed),
            None => Ok(()),
        }
    }

    fn request(&mut self, id: u32, ends: bool) -> Result<(), Fault> {
        if self.is_leaving {
            // The client was told that nobody looks at it.
            return Ok(());
        }
        self.last = id;
        if self.streams.len() >= STREAMS_MAX as usize {
            self.budgets.spend(Flood::Resets, self.now)?;
            frame::reset(id, Code::RefusedStream, &mut self.output);
            return Ok(());
        }
        let to_head = self.fields.iter().any(|field| field == (b":method", b"HEAD"));
        let mut stream = Stream::new(Kind::Response { to_head }, self.peer.initial_window);
        let incoming = if self.fields.is_cut() {
            Err(Code::EnhanceYourCalm)
        } else {
            incoming::request(&self.fields, ends, &mut stream.inbox).map_err(|_| Code::ProtocolError)
        };
        match incoming {
            Ok(incoming) => {
                (stream.incoming, stream.has_received) = (Some(incoming), ends);
                self.streams.insert(id, stream);
                self.opened.push(id);
            }
            Err(code) => {
                self.budgets.spend(Flood::Resets, self.now)?;
                frame::reset(id, code, &mut self.output);
            }
        }
        Ok(())
    }

    fn response(&mut self, id: u32, ends: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let read = if self.fields.is_cut() {
            Err(incoming::Malformed)
        } else {
            incoming::response(&self.fields, ends, stream.to_head, &mut stream.inbox)
        };
        match read {
            Ok(incoming) => {
                (stream.incoming, stream.has_received) = (incoming, ends);
                self.changed.push(id);
                self.forget(id);
            }
            Err(incoming::Malformed) => self.reset(id, Code::ProtocolError),
        }
    }

    fn trailers(&mut self, id: u32, ends: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Stream { incoming, inbox, .. } = stream;
        let is_right = ends
            && !stream.has_received
            && !self.fields.is_cut()
            && incoming.is_some_and(|incoming| incoming.end(Some(&self.fields), inbox).is_ok());
        if is_right {
            stream.has_received = true;
            self.changed.push(id);
            self.forget(id);
        } else {
            self.reset(id, Code::ProtocolError);
        }
    }

    fn reset_by_peer(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return broken(Code::FrameSizeError);
        }
        if self.is_idle(header.stream) {
            return broken(Code::ProtocolError);
        }
        let Some(stream) = self.streams.get_mut(&header.stream) else { return Ok(()) };
        match self.role {
            // Whoever has his answer may do so.
            Role::Server if !stream.is_over() => self.budgets.spend(Flood::Resets, self.now)?,
            // A whole answer stays, and no more of the request is wanted (RFC 9113, 8.1).
            Role::Client { .. } if stream.has_received => {
                stream.stop_sending();
                self.changed.push(header.stream);
                self.forget(header.stream);
                return Ok(());
            }
            _ => {}
        }
        self.kill(header.stream);
        Ok(())
    }

    fn settings(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return broken(Code::ProtocolError);
        }
        if header.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { broken(Code::FrameSizeError) };
        }
        if !payload.len().is_multiple_of(6) {
            return broken(Code::FrameSizeError);
        }
        self.budgets.spend(Flood::Settings, self.now)?;
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match name {
                frame::ENABLE_PUSH if value > 1 => return broken(Code::ProtocolError),
                frame::MAX_CONCURRENT_STREAMS => self.peer.streams_max = value,
                frame::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
                frame::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return broken(Code::ProtocolError);
                }
                // Larger frames than these are of no use.
                _ => {}
            }
        }
        frame::write(frame::SETTINGS, frame::ACK, 0, b"", &mut self.output);
        self.pump_all();
        Ok(())
    }

    fn resize_windows(&mut self, value: u32) -> Result<(), Fault> {
        let window = i64::from(value);
        if window > WINDOW_MAX {
            return broken(Code::FlowControlError);
        }
        let by = window - self.peer.initial_window;
        self.peer.initial_window = window;
        for stream in self.streams.values_mut() {
            stream.send_window += by;
            if stream.send_window > WINDOW_MAX {
                return broken(Code::FlowControlError);
            }
        }
        Ok(())
    }

    fn ping(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        match (header.stream, payload.len()) {
            (0, 8) if header.has(frame::ACK) => Ok(()),
            (0, 8) => {
                self.budgets.spend(Flood::Pings, self.now)?;
                frame::write(frame::PING, frame::ACK, 0, payload, &mut self.output);
                Ok(())
            }
            (0, _) => broken(Code::FrameSizeError),
            _ => broken(Code::ProtocolError),
        }
    }

    fn go_away_by_peer(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        let Some(last) = frame::number(payload).filter(|_| header.stream == 0) else {
            return broken(Code::ProtocolError);
        };
        self.is_leaving = true;
        if self.role != Role::Server {
            let unserved: Vec<u32> = self.streams.keys().copied().filter(|id| *id > last).collect();
            unserved.into_iter().for_each(|id| self.kill(id));
        }
        Ok(())
    }

    fn window_update(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        let Some(by) = frame::number(payload).filter(|_| payload.len() == 4) else {
            return broken(Code::FrameSizeError);
        };
        if header.stream == 0 {
            self.send_window += i64::from(by);
            if by == 0 {
                return broken(Code::ProtocolError);
            }
            if self.send_window > WINDOW_MAX {
                return broken(Code::FlowControlError);
            }
            self.pump_all();
            return Ok(());
        }
        if self.is_idle(header.stream) {
            return broken(Code::ProtocolError);
        }
        let Some(stream) = self.streams.get_mut(&header.stream) else { return Ok(()) };
        stream.send_window += i64::from(by);
        if by == 0 {
            self.reset(header.stream, Code::ProtocolError);
        } else if stream.send_window > WINDOW_MAX {
            self.reset(header.stream, Code::FlowControlError);
        } else {
            self.pump(header.stream);
        }
        Ok(())
    }
}
