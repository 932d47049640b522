//! A slot of a session: one request at a time, and its answer kept for who asks again (RFC 8881, section 2.10.6).
//!
//! ```text
//! Idle(sequence n) ──begin(n + 1)──▶ Busy ──end──▶ Idle(sequence n + 1)
//!        └──begin(n)──▶ the answer to n again
//! ```

use crate::proto::Status;

/// One place for a request of a session.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    sequence: u32,
    is_busy: bool,
    /// Empty if it was not to be kept.
    answer: Vec<u8>,
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is a new one.
    New,
    /// It was done, and this was answered.
    Again(Vec<u8>),
    /// It was done, and the client has said that it would not ask what was answered.
    Uncached,
}

impl Slot {
    /// # Errors
    /// `SeqMisordered` if it is neither the next request nor the last one; `Delay` if that is still being done.
    pub(crate) fn begin(&mut self, sequence: u32) -> Result<Begun, Status> {
        let next = self.sequence.wrapping_add(1);
        match sequence {
            _ if sequence == next && !self.is_busy => {
                self.is_busy = true;
                Ok(Begun::New)
            }
            // While it is done, the slot stands at the one before.
            _ if sequence == next => Err(Status::Delay),
            _ if sequence != self.sequence || self.is_busy => Err(Status::SeqMisordered),
            _ if self.answer.is_empty() => Ok(Begun::Uncached),
            _ => Ok(Begun::Again(self.answer.clone())),
        }
    }

    /// The request that was begun is done, and this is answered; nothing, if it is not to be kept.
    pub(crate) fn end(&mut self, answer: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1);
        self.is_busy = false;
        self.answer.clear();
        self.answer.shrink_to(answer.len());
        self.answer.extend_from_slice(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_done_once() {
        let mut slot = Slot::default();
        assert_eq!(slot.begin(2), Err(Status::SeqMisordered));
        assert_eq!(slot.begin(1), Ok(Begun::New));
        assert_eq!(slot.begin(1), Err(Status::Delay), "it is being done");
        assert_eq!(slot.begin(0), Err(Status::SeqMisordered));
        slot.end(b"one");
        assert_eq!(slot.begin(1), Ok(Begun::Again(b"one".to_vec())));
        assert_eq!(slot.begin(2), Ok(Begun::New));
        slot.end(b"");
        assert_eq!(slot.begin(2), Ok(Begun::Uncached));
        assert_eq!(slot.begin(1), Err(Status::SeqMisordered));
    }

    #[test]
    fn sequences_go_on_at_zero() {
        let mut slot = Slot { sequence: u32::MAX, ..Slot::default() };
        assert_eq!(slot.begin(0), Ok(Begun::New));
        slot.end(b"");
        assert_eq!(slot.begin(1), Ok(Begun::New));
    }
}
