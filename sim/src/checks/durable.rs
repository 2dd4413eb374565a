//! What a node's log calls durable is on its disk (S2).
//!
//! Source: DESIGN, "One turn of a core": completed writes advance the contiguous durable Lsn; and FAULTS 20, short writes and
//! completions out of order. The disk's side is what the simulated one was written, by records.

use super::{Checked, violated};
use crate::disk::Logged;
use synod_wire::Lsn;

/// See the module.
pub(crate) struct Durable {
    /// What each node called durable last, in its present life.
    last: Vec<Lsn>,
}

impl Durable {
    pub(crate) fn new(nodes: usize) -> Durable {
        Durable { last: vec![Lsn::ZERO; nodes] }
    }

    /// A recovery ended: what it read is durable.
    pub(crate) fn restarted(&mut self, node: usize, durable: Lsn) {
        self.last[node] = durable;
    }

    /// A node calls everything up to `durable` so; `records` are those on its disk that it did not before.
    pub(crate) fn advanced(&mut self, node: usize, records: &[Logged], durable: Lsn) -> Checked {
        let last = std::mem::replace(&mut self.last[node], durable);
        let on_disk = records.iter().filter(|record| record.header.lsn > last).count() as u64;
        if durable.0.checked_sub(last.0) == Some(on_disk) {
            return Ok(());
        }
        let detail = format!("n{node} calls records {last} to {durable} durable; {on_disk} of them are on its disk");
        violated("durable means on disk", detail)
    }
}
