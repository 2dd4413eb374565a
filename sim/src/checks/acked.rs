//! An acknowledged entry has the place that was acknowledged, in a slot that a quorum holds durably at that moment (S2).
//!
//! Source: SEMANTICS, "Acknowledged = synced on a quorum that the reply can name"; that it is never lost follows from
//! `prefix`, for a slot's value never changes, and from the comparison of all logs at the end.

use super::order::Times;
use super::sessions::Entry;
use super::{Checked, violated};

const PROPERTY: &str = "acknowledged entries survive";

/// See the module.
#[derive(Default)]
pub(crate) struct Acked {
    pub(crate) times: Times,
    count: u64,
}

impl Acked {
    /// A client offers an entry for the first time.
    pub(crate) fn offered(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        self.times.offered(client_id, client_seq, now_ns);
    }

    /// A client was told that `client_seq` has the place `sequence`.
    pub(crate) fn acked(&mut self, log: &[Entry], ack: (u128, u64), sequence: u64, now_ns: u64) -> Checked {
        let (client_id, client_seq) = ack;
        let Some(entry) = log.get(sequence as usize - 1) else {
            return violated(
                PROPERTY,
                format!("{client_seq} of {client_id:x} was acknowledged at {sequence}, which no node applied"),
            );
        };
        if (entry.client_id, entry.client_seq) != (client_id, client_seq) {
            return violated(
                PROPERTY,
                format!(
                    "{client_seq} of {client_id:x} was acknowledged at {sequence}, where {} of {:x} stands",
                    entry.client_seq, entry.client_id
                ),
            );
        }
        self.count += 1;
        self.times.acked(client_id, client_seq, now_ns);
        Ok(())
    }

    /// Entries acknowledged.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
