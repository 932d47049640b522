//! What a session sends of its streams: heads at once, data as the other end has room.

use super::Session;
use super::frame::{self, Code};
use super::hpack;
use super::outgoing::Piece;
use super::stream::{Stream, Tail};

/// So much waits to be sent at most, before streams wait.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

impl Session {
    /// Sends these bytes of the stream's message, in HTTP/1.1. What the other end has no room for waits, and then [`Session::is_drained`] is not yet so.
    pub fn write(&mut self, id: u32, bytes: &[u8]) {
        if self.write_pieces(id, bytes).is_none() {
            self.reset(id, Code::InternalError);
        }
    }

    /// None: it is no message.
    fn write_pieces(&mut self, id: u32, bytes: &[u8]) -> Option<()> {
        let Self { streams, output, send_window, peer, has_written, .. } = self;
        let stream = match streams.get_mut(&id) {
            Some(stream) if !stream.is_dead && !stream.has_sent => stream,
            _ => return Some(()),
        };
        let mut at = 0;
        let mut data = None;
        loop {
            let begin = if *has_written { &[] } else { hpack::BEGIN };
            match stream.outgoing.take(bytes, &mut at, begin).ok()? {
                None => break,
                Some(Piece::Head { block, is_end }) => {
                    *has_written = true;
                    frame::headers(id, is_end, &block, peer.payload_bytes_max, output);
                    stream.has_begun = true;
                    stream.has_sent |= is_end;
                }
                Some(Piece::Data(range)) => {
                    // One piece is sent from where it is; several are put together.
                    if let Some(before) = data.replace(range) {
                        stream.pending.extend_from_slice(&bytes[before]);
                    }
                    if stream.outgoing.ends_here() {
                        stream.tail = Some(Tail::End);
                        break;
                    }
                }
                Some(Piece::End { trailers }) => {
                    stream.tail = Some(trailers.map_or(Tail::End, Tail::Trailers));
                    break;
                }
            }
        }
        let data = data.map_or(&[][..], |range| &bytes[range]);
        if stream.pending.is_empty() {
            let sent = send(id, stream, data, send_window, peer.payload_bytes_max, output);
            stream.pending.extend_from_slice(&data[sent..]);
        } else {
            stream.pending.extend_from_slice(data);
        }
        self.pump(id);
        Some(())
    }

    /// Says that its message ends here, if it may: one that is not whole is cut off. What still comes nobody wants.
    pub fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_dead) else { return };
        if stream.outgoing.is_until_close() {
            stream.tail = Some(Tail::End);
            self.pump(id);
        }
        match self.streams.get(&id) {
            Some(stream) if !stream.has_sent => self.reset(id, Code::InternalError),
            // It is a whole answer (RFC 9113, 8.1).
            Some(stream) if !stream.has_received => self.reset(id, Code::NoError),
            _ => {}
        }
    }

    /// Sends what waits of a stream, as far as there is room.
    pub(super) fn pump(&mut self, id: u32) {
        let Self { streams, output, send_window, peer, waiting, changed, .. } = self;
        let Some(stream) = streams.get_mut(&id).filter(|stream| !stream.is_dead) else { return };
        let was_drained = stream.is_drained();
        let pending = std::mem::take(&mut stream.pending);
        stream.sent += send(id, stream, &pending[stream.sent..], send_window, peer.payload_bytes_max, output);
        stream.pending = pending;
        if stream.sent == stream.pending.len() {
            stream.pending.clear();
            stream.sent = 0;
            match stream.tail.take() {
                Some(Tail::Trailers(block)) => {
                    frame::headers(id, true, &block, peer.payload_bytes_max, output);
                    stream.has_sent = true;
                }
                Some(Tail::End) if !stream.has_sent => {
                    frame::begin(frame::DATA, frame::END_STREAM, id, 0, output);
                    stream.has_sent = true;
                }
                _ => {}
            }
        }
        if !stream.is_drained() && !std::mem::replace(&mut stream.is_waiting, true) {
            waiting.push_back(id);
        }
        // All has its end with what is sent, too.
        if (!was_drained && stream.is_drained()) || stream.has_sent {
            changed.push(id);
        }
        self.forget(id);
    }

    /// Goes on with all streams that wait, each in its turn.
    pub(super) fn pump_all(&mut self) {
        for _ in 0..self.waiting.len() {
            if self.output.len() >= OUTPUT_BYTES_MAX || self.send_window <= 0 {
                return;
            }
            let Some(id) = self.waiting.pop_front() else { return };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.is_waiting = false;
                self.pump(id);
            }
        }
    }
}

/// Sends of `data` what there is room for, the last with the message's end if it follows; says how many bytes that were.
fn send(
    id: u32,
    stream: &mut Stream,
    data: &[u8],
    window: &mut i64,
    payload_bytes_max: usize,
    output: &mut Vec<u8>,
) -> usize {
    let mut sent = 0;
    while sent < data.len() && output.len() < OUTPUT_BYTES_MAX {
        let room = usize::try_from(stream.send_window.min(*window)).unwrap_or(0);
        let piece = (data.len() - sent).min(room).min(payload_bytes_max);
        if piece == 0 {
            break;
        }
        let is_end = sent + piece == data.len() && matches!(stream.tail, Some(Tail::End));
        frame::write(
            frame::DATA,
            if is_end { frame::END_STREAM } else { 0 },
            id,
            &data[sent..sent + piece],
            output,
        );
        stream.has_sent |= is_end;
        // A piece is no longer than the windows.
        let taken = i64::try_from(piece).unwrap_or(i64::MAX);
        stream.send_window -= taken;
        *window -= taken;
        sent += piece;
    }
    sent
}
