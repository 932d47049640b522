//! What is between the guest's memory and an encrypted layer: the bounce memory of each request.
//!
//! A guest's memory never holds ciphertext. What a guest writes is copied and then encrypted, for it must not see its buffer change. What
//! it reads is decrypted before it is copied to the guest: were it decrypted in the guest's memory, a guest that put other bytes there in
//! between would be given their decryption, of whatever sector it liked.
//!
//! A part of a request stands in the bounce memory from its place within its first block on, so that what is aligned in the file is there.

use super::request::Request;
use super::{BLOCK_BYTES, Queue, Storage};
use crate::backend::IoBuffer;
use crate::queue::Cursor;

impl<F> Request<F> {
    /// Where a place of the volume that is in the part stands in the bounce memory.
    fn bounced_at(&self, at: u64) -> usize {
        let first = self.at - self.at % BLOCK_BYTES;
        usize::try_from(at - first).expect("a part is small")
    }

    /// Makes room for a part that is to be read.
    pub(super) fn begin_bounced(&mut self) {
        self.reserve_bounce(self.bounced_at(self.part_end));
        self.list.clear();
        self.runs.clear();
    }

    /// Puts the bounce memory in place of the guest's buffers, which are kept.
    pub(super) fn bounce_run(&mut self, at: u64, len: u64, buffers: &mut Vec<IoBuffer>) {
        self.list.append(buffers);
        self.runs.push((at, len));
        let len = usize::try_from(len).expect("a part is small");
        buffers.push(self.bounce.buffer().part(self.bounced_at(at), len));
    }

    /// Copies what the guest writes in this part to the bounce memory.
    pub(super) fn fill_bounce(&mut self) {
        let (from, to) = (self.bounced_at(self.at), self.bounced_at(self.part_end));
        let mut target = &mut self.bounce.bytes_mut()[from..to];
        let mut guest = Cursor::new(&self.buffers);
        guest.skip(self.at - self.start);
        for buffer in guest.take(self.part_end - self.at) {
            let copied = buffer.copy_to(target);
            target = &mut target[copied..];
        }
    }
}

impl<S: Storage> Queue<S> {
    /// Gives the guest what was read of a part, in the clear.
    pub(super) fn decrypt(&mut self, index: u32) {
        let Some(cipher) = &self.engine.cipher else { return };
        let request = &mut self.requests[index as usize];
        if request.error.is_some() {
            return;
        }
        let mut guest = Cursor::new(&request.list);
        for (at, len) in &request.runs {
            let (from, to) = (request.bounced_at(*at), request.bounced_at(at + len));
            let mut bytes = &mut request.bounce.bytes_mut()[from..to];
            cipher.decrypt(*at, bytes);
            for buffer in guest.take(*len) {
                let copied = buffer.copy_from(bytes);
                bytes = &mut bytes[copied..];
            }
        }
    }

    /// Makes the ciphertext of a part that is to be written in place, and `list` the buffer that it is in.
    pub(super) fn encrypt(&mut self, index: u32) {
        let Some(cipher) = &self.engine.cipher else { return };
        let request = &mut self.requests[index as usize];
        let (from, to) = (request.bounced_at(request.at), request.bounced_at(request.part_end));
        request.reserve_bounce(to);
        request.fill_bounce();
        cipher.encrypt(request.at, &mut request.bounce.bytes_mut()[from..to]);
        request.list.clear();
        request.list.push(request.bounce.buffer().part(from, to - from));
    }
}
