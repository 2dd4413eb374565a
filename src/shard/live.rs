//! Settings of a shard that may change while it runs.

use super::reads::{MAX_WAIT_NS, MAX_WAITERS};
use super::streams::{MAX_SUBSCRIBERS, SILENCE_NS, STARVED_NS};

/// How much of a shard its clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Subscribers; one more is told TOO_MANY.
    pub max_subscribers: usize,
    /// A subscriber that is silent for so long is dropped.
    pub silence_ns: u64,
    /// One that lets entries wait for so long without giving credit for them is dropped.
    pub starved_ns: u64,
    /// Reads held at the tail; one more is answered at once, with nothing.
    pub max_waiting_reads: usize,
    /// The longest that one is held.
    pub max_read_wait_ns: u64,
}

impl Default for ClientSettings {
    fn default() -> ClientSettings {
        ClientSettings {
            max_subscribers: MAX_SUBSCRIBERS,
            silence_ns: SILENCE_NS,
            starved_ns: STARVED_NS,
            max_waiting_reads: MAX_WAITERS,
            max_read_wait_ns: MAX_WAIT_NS,
        }
    }
}
