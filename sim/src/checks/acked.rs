//! An acknowledged entry has the place that was acknowledged, in a slot that a quorum holds durably at that moment (S2).
//!
//! Source: SEMANTICS, "Acknowledged = synced on a quorum that the reply can name"; that it is never lost follows from
//! `prefix`, for a slot's value never changes, and from the comparison of all logs at the end.

use super::order::Order;
use super::sessions::{Entry, Sessions};
use super::{Checked, violated};

const PROPERTY: &str = "acknowledged entries survive";

/// See the module.
#[derive(Default)]
pub(crate) struct Acked {
    pub(crate) order: Order,
    count: u64,
}

impl Acked {
    /// A client offers an entry for the first time.
    pub(crate) fn offered(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        self.order.offered(client_id, client_seq, now_ns);
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
        self.order.acked(client_id, client_seq, now_ns);
        Ok(())
    }

    /// A session opened for a client that had its first `acked` entries acknowledged: its first `last` are committed.
    pub(crate) fn opened(&mut self, sessions: &Sessions, id: u128, acked: u64, last: u64, now_ns: u64) -> Checked {
        let applied = sessions.last_seq(id).unwrap_or(0);
        if last > applied {
            return violated(
                PROPERTY,
                format!("session {id:x} opened with {last} entries committed; {applied} of them were ever applied"),
            );
        }
        (acked + 1..=last).for_each(|client_seq| self.order.committed(id, client_seq, now_ns));
        Ok(())
    }

    /// Entries acknowledged.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::Slot;

    #[test]
    fn an_acknowledgement_of_what_is_not_there_is_found() {
        let log = [Entry { client_id: 1, client_seq: 1, slot: Slot(1), timestamp_ns: 0 }];
        let mut acked = Acked::default();
        acked.offered(1, 1, 5);
        assert!(acked.acked(&log, (1, 1), 1, 9).is_ok());
        assert!(acked.acked(&log, (1, 1), 2, 9).is_err(), "nothing is there");
        assert!(acked.acked(&log, (1, 2), 1, 9).is_err(), "something else is there");
        assert_eq!(acked.count(), 1);
    }
}
