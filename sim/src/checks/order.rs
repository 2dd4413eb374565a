//! The total order respects real time: an entry that was acknowledged before another was offered stands before it (S5).
//!
//! Source: Herlihy and Wing, "Linearizability" (1990). With unique entries and one total order given by the system, one
//! backward pass over it is enough.

use super::sessions::Entry;
use super::{Checked, violated};
use std::collections::BTreeMap;

/// When an entry was offered first, and when it was acknowledged first.
#[derive(Clone, Copy)]
struct Span {
    offered_ns: u64,
    acked_ns: u64,
}

/// Not yet, or never.
const OPEN: u64 = u64::MAX;

/// When entries were offered first, and acknowledged first.
#[derive(Default)]
pub(crate) struct Times {
    /// By session; a session's entries from client sequence 1 on.
    all: BTreeMap<u128, Vec<Span>>,
}

impl Times {
    pub(crate) fn offered(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        let spans = self.all.entry(client_id).or_default();
        let at = client_seq as usize - 1;
        if spans.len() <= at {
            spans.resize(at + 1, Span { offered_ns: OPEN, acked_ns: OPEN });
        }
        spans[at].offered_ns = spans[at].offered_ns.min(now_ns);
    }

    pub(crate) fn acked(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        let span = self.all.get_mut(&client_id).and_then(|spans| spans.get_mut(client_seq as usize - 1));
        if let Some(span) = span {
            span.acked_ns = span.acked_ns.min(now_ns);
        }
    }

    fn span(&self, entry: &Entry) -> Option<Span> {
        let spans = self.all.get(&entry.client_id)?;
        spans.get(entry.client_seq as usize - 1).copied().filter(|span| span.offered_ns != OPEN)
    }

    /// Checks the whole order.
    pub(crate) fn check(&self, log: &[Entry]) -> Checked {
        let mut earliest_ack: Option<(u64, usize)> = None;
        for (at, entry) in log.iter().enumerate().rev() {
            let Some(Span { offered_ns: offered, acked_ns: acked }) = self.span(entry) else {
                return violated("real-time order", format!("sequence {} was never offered", at + 1));
            };
            if let Some((ack, later)) = earliest_ack.filter(|(ack, _)| *ack < offered) {
                let detail = format!(
                    "sequence {} was acknowledged at {ack} ns, before sequence {} was offered at {offered} ns",
                    later + 1,
                    at + 1
                );
                return violated("real-time order", detail);
            }
            if acked != OPEN && earliest_ack.is_none_or(|(earliest, _)| acked < earliest) {
                earliest_ack = Some((acked, at));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::Slot;

    fn entry(client_seq: u64) -> Entry {
        Entry { client_id: 1, client_seq, slot: Slot(1), timestamp_ns: 0 }
    }

    #[test]
    fn an_order_against_real_time_is_found() {
        let mut times = Times::default();
        times.offered(1, 1, 10);
        times.acked(1, 1, 20);
        times.offered(1, 2, 30);
        times.offered(1, 3, 5);
        assert!(times.check(&[entry(1), entry(2), entry(3)]).is_ok(), "3 overlaps both");
        assert!(times.check(&[entry(3), entry(1), entry(2)]).is_ok());
        assert!(times.check(&[entry(2), entry(1), entry(3)]).is_err());
        assert!(times.check(&[entry(4)]).is_err(), "out of thin air");
    }
}
