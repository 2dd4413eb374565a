//! The total order respects real time: what a client knew committed before another entry was offered stands before it (S5).
//!
//! Source: Herlihy and Wing, "Linearizability" (1990). Entries are unique and the system gives their total order; so an
//! order that explains the appends is there already, and one backward pass over it (O(n log n) with the look-ups) shows
//! whether it keeps real time. A client knows an entry committed when it is acknowledged, when a session opens with it
//! behind it, or when a node shows it to a reader, by its bytes or by a tail that covers it.

use super::sessions::Entry;
use super::{Checked, violated};
use std::collections::BTreeMap;

/// Moments in an entry's life, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// It was offered first.
    pub(crate) offered_ns: u64,
    /// It was acknowledged first, with its place.
    acked_ns: u64,
    /// Somebody knew first that it is committed, with its place or without.
    known_ns: u64,
}

/// Not yet, or never.
const NEVER: u64 = u64::MAX;

impl Times {
    /// When it was acknowledged first, if it was.
    pub(crate) fn acked_ns(&self) -> Option<u64> {
        Some(self.acked_ns).filter(|at_ns| *at_ns != NEVER)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Order {
    /// Of each session, from client sequence 1.
    sessions: BTreeMap<u128, Vec<Times>>,
    /// From sequence 1: when a reader was shown it first, or a tail that ends with it.
    shown_ns: Vec<u64>,
}

impl Order {
    pub(crate) fn offered(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        let entries = self.sessions.entry(client_id).or_default();
        if client_seq > entries.len() as u64 {
            assert_eq!(client_seq, entries.len() as u64 + 1, "a session's entries are offered in order");
            entries.push(Times { offered_ns: now_ns, acked_ns: NEVER, known_ns: NEVER });
        }
    }

    fn entry(&mut self, client_id: u128, client_seq: u64) -> Option<&mut Times> {
        self.sessions.get_mut(&client_id)?.get_mut((client_seq as usize).checked_sub(1)?)
    }

    pub(crate) fn acked(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        if let Some(times) = self.entry(client_id, client_seq) {
            times.acked_ns = times.acked_ns.min(now_ns);
            times.known_ns = times.known_ns.min(now_ns);
        }
    }

    /// A session says that an entry is committed, not where.
    pub(crate) fn committed(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        if let Some(times) = self.entry(client_id, client_seq) {
            times.known_ns = times.known_ns.min(now_ns);
        }
    }

    /// A reader is shown that the log reaches `sequence`.
    pub(crate) fn shown(&mut self, sequence: u64, now_ns: u64) {
        let Some(at) = (sequence as usize).checked_sub(1) else { return };
        if self.shown_ns.len() <= at {
            self.shown_ns.resize(at + 1, NEVER);
        }
        self.shown_ns[at] = self.shown_ns[at].min(now_ns);
    }

    pub(crate) fn times(&self, entry: &Entry) -> Option<&Times> {
        self.sessions.get(&entry.client_id)?.get((entry.client_seq as usize).checked_sub(1)?)
    }

    /// Checks the whole order.
    pub(crate) fn check(&self, log: &[Entry]) -> Checked {
        if self.shown_ns.len() > log.len() {
            let detail = format!("a reader was shown sequence {}, the log ends at {}", self.shown_ns.len(), log.len());
            return violated("real-time order", detail);
        }
        // The first moment at which anything from here to the end was known committed, and which sequence that was.
        let mut first_known = (NEVER, 0);
        for (at, entry) in log.iter().enumerate().rev() {
            let Some(times) = self.times(entry) else {
                return violated("real-time order", format!("sequence {} was never offered", at + 1));
            };
            let shown_ns = self.shown_ns.get(at).copied().unwrap_or(NEVER);
            first_known = first_known.min((times.known_ns.min(shown_ns), at));
            let (known_ns, later) = first_known;
            if known_ns < times.offered_ns {
                let detail = format!(
                    "sequence {} was known committed at {known_ns} ns, before sequence {} was offered at {} ns",
                    later + 1,
                    at + 1,
                    times.offered_ns
                );
                return violated("real-time order", detail);
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

    /// 1 from 10 to 20, 2 from 30 on, 3 from 5 on.
    fn order() -> Order {
        let mut order = Order::default();
        order.offered(1, 1, 10);
        order.acked(1, 1, 20);
        order.offered(1, 2, 30);
        // Clients offer in order; the checker does not count on it.
        order.offered(1, 3, 5);
        order
    }

    #[test]
    fn an_order_against_real_time_is_found() {
        let order = order();
        assert!(order.check(&[entry(1), entry(2), entry(3)]).is_ok(), "3 overlaps both");
        assert!(order.check(&[entry(3), entry(1), entry(2)]).is_ok());
        assert!(order.check(&[entry(2), entry(1), entry(3)]).is_err());
        assert!(order.check(&[entry(4)]).is_err(), "out of thin air");
    }

    #[test]
    fn what_a_reader_was_shown_is_known_committed() {
        let log = [entry(3), entry(1), entry(2)];
        let mut shown = order();
        shown.shown(2, 25);
        shown.shown(2, 40);
        assert!(shown.check(&log).is_ok());
        shown.shown(3, 29);
        assert!(shown.check(&log).is_err(), "2 was shown before it was offered");
        let mut covered = order();
        covered.shown(3, 29);
        assert!(covered.check(&[entry(1), entry(2), entry(3)]).is_err(), "2 stands before 3, which was shown before 2");
        let mut short = order();
        short.shown(4, 90);
        assert!(short.check(&log).is_err(), "there is no sequence 4");
    }

    #[test]
    fn a_session_that_opens_knows_what_is_behind_it() {
        let log = [entry(1), entry(2), entry(3)];
        let mut order = order();
        order.committed(1, 3, 31);
        assert!(order.check(&log).is_ok());
        order.offered(1, 4, 50);
        assert!(order.check(&[entry(4), entry(1), entry(2), entry(3)]).is_err(), "3 was known at 31");
    }
}
