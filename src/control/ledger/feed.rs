//! What transactions change, told to who works on it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::AsOf;
use crate::records::Former;
use crate::state::Space;

/// What a transaction changed: what is there now is read in the state, which may be later already.
#[derive(Clone)]
pub struct Written {
    /// The state as of this transaction, or later, has it.
    pub as_of: AsOf,
    /// What stood where something was changed, in order.
    pub former: Arc<[(Space, Former)]>,
}

/// Hears of each transaction from its beginning on.
pub type Feed = mpsc::UnboundedReceiver<Written>;

/// Those who are told.
#[derive(Default)]
pub(super) struct Followers(Mutex<Vec<mpsc::UnboundedSender<Written>>>);

impl Followers {
    pub(super) fn follow(&self) -> Feed {
        let (sender, feed) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        feed
    }

    /// Tells all; who does not listen any more is forgotten.
    pub(super) fn tell(&self, as_of: AsOf, former: Vec<(Space, Former)>) {
        let mut followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if followers.is_empty() {
            return;
        }
        let written = Written { as_of, former: former.into() };
        followers.retain(|follower| follower.send(written.clone()).is_ok());
    }
}
