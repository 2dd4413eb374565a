//! The total order respects real time: an entry that was acknowledged before another was offered stands before it (S5).
//!
//! Source: Herlihy and Wing, "Linearizability" (1990). With unique entries and one total order given by the system, one
//! backward pass over it is enough.

use super::sessions::Entry;
use super::{Checked, violated};
use std::collections::BTreeMap;

/// When entries were offered first, and acknowledged first.
#[derive(Default)]
pub(crate) struct Times {
    all: BTreeMap<(u128, u64), (u64, Option<u64>)>,
}

impl Times {
    pub(crate) fn offered(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        self.all.entry((client_id, client_seq)).or_insert((now_ns, None));
    }

    pub(crate) fn acked(&mut self, client_id: u128, client_seq: u64, now_ns: u64) {
        if let Some((_, acked)) = self.all.get_mut(&(client_id, client_seq)) {
            acked.get_or_insert(now_ns);
        }
    }

    /// Checks the whole order.
    pub(crate) fn check(&self, log: &[Entry]) -> Checked {
        let mut earliest_ack: Option<(u64, usize)> = None;
        for (at, entry) in log.iter().enumerate().rev() {
            let Some((offered, acked)) = self.all.get(&(entry.client_id, entry.client_seq)) else {
                return violated("real-time order", format!("sequence {} was never offered", at + 1));
            };
            if let Some((ack, later)) = earliest_ack.filter(|(ack, _)| ack < offered) {
                let detail = format!(
                    "sequence {} was acknowledged at {ack} ns, before sequence {} was offered at {offered} ns",
                    later + 1,
                    at + 1
                );
                return violated("real-time order", detail);
            }
            if let Some(ack) = acked
                && earliest_ack.is_none_or(|(earliest, _)| *ack < earliest)
            {
                earliest_ack = Some((*ack, at));
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
