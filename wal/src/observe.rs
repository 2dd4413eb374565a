//! What others may see of an open log: its memory, for registration with the reactor, and its numbers.

use crate::{EndedWrite, Log};
use synod_ring::Arena;

impl Log {
    /// The ring of memory that appended frames lie in.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Whether a write is under way.
    pub fn in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether records wait for a flush to be sealed around them.
    pub fn gathers(&self) -> bool {
        !self.open.entries.is_empty() || !self.sealed.is_empty()
    }

    /// Writes started since the log was opened.
    pub fn writes(&self) -> u64 {
        self.next_token
    }

    /// The write that ended last, once: asked after each [`Log::written`], none is missed.
    pub fn take_ended(&mut self) -> Option<EndedWrite> {
        self.ended.take()
    }
}
