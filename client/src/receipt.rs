//! Receipts: where the time of an append went on the leader. Plain data, parsed at the edge by [`crate::reply`]'s caller;
//! asked for with [`crate::Options::receipts`].

use std::time::Duration;
use synod_wire::client::{self, Stage};

/// The time line of the entries that one datagram brought to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The client's sequence of the first entry.
    pub client_seq: u64,
    /// How many entries.
    pub entries: u32,
    /// Nanoseconds since the datagram was reaped, in the order of [`Stage::ALL`]. `None`: not reached when the answer left,
    /// as the leader's own disk where others were faster.
    pub stages_ns: [Option<u64>; Stage::ALL.len()],
}

impl Receipt {
    /// What the wire says; `None` if its numbers are impossible.
    pub(crate) fn parse(wire: &client::Receipt) -> Option<Receipt> {
        let (client_seq, entries) = (wire.first_seq.get(), wire.entries.get());
        client_seq.checked_add(u64::from(entries))?;
        if client_seq == 0 || entries == 0 {
            return None;
        }
        let stages_ns = wire.stages.map(|ns| Some(ns.get()).filter(|ns| *ns != client::Receipt::NOT_YET));
        Some(Receipt { client_seq, entries, stages_ns })
    }

    /// How long after its datagram was reaped the run had reached `stage`.
    pub fn reached(&self, stage: Stage) -> Option<Duration> {
        self.stages_ns[stage as usize].map(Duration::from_nanos)
    }

    /// Whether it is of the entry with this client sequence.
    pub(crate) fn covers(&self, client_seq: u64) -> bool {
        client_seq >= self.client_seq && client_seq - self.client_seq < u64::from(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::little_endian::{U32, U64};

    fn wire(first_seq: u64, entries: u32) -> client::Receipt {
        let stages = [5, 20, client::Receipt::NOT_YET, 300, 400].map(U64::new);
        client::Receipt { first_seq: U64::new(first_seq), entries: U32::new(entries), reserved: U32::ZERO, stages }
    }

    #[test]
    fn a_stage_that_was_not_reached_has_no_time() {
        let receipt = Receipt::parse(&wire(7, 3)).unwrap();
        assert_eq!(receipt.reached(Stage::Replied), Some(Duration::from_nanos(400)));
        assert_eq!(receipt.reached(Stage::Durable), None);
        assert_eq!([6, 7, 9, 10].map(|seq| receipt.covers(seq)), [false, true, true, false]);
    }

    #[test]
    fn impossible_numbers_are_no_receipt() {
        for (first_seq, entries) in [(0, 1), (1, 0), (u64::MAX, 1)] {
            assert_eq!(Receipt::parse(&wire(first_seq, entries)), None);
        }
    }
}
