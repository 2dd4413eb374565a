//! The acceptors that a leader names as those who chose a slot hold its value durably.
//!
//! Source: DESIGN, "Applying": chosen records and commit messages carry slot range, ballot, epoch and the bitmap of acceptors:
//! that is the evidence which `verify` and `evidence` read. An acceptor may be named for a slot that it knew chosen
//! already, in a lower ballot ("Votes and ballots": both count only slots accepted in that reply's ballot or known chosen).

use super::one_value::OneValue;
use super::{Checked, violated};
use synod_wire::frame::{Header, Kind};
use synod_wire::record::ChosenRange;
use synod_wire::{Ballot, NodeSet, Slot};
use zerocopy::FromBytes;

/// See the module.
#[derive(Default)]
pub(crate) struct Evidence {
    /// Told in this turn, by whom; what the turn made durable is not yet known when it is told.
    told: Vec<(usize, ChosenRange)>,
}

impl Evidence {
    /// A frame leaves a node.
    pub(crate) fn sent(&mut self, node: usize, header: &Header, payload: &[u8]) {
        if header.kind == Kind::Chosen
            && let Ok(rows) = <[ChosenRange]>::ref_from_bytes(payload)
        {
            // Without acceptors it repeats what another leader's log says.
            self.told.extend(rows.iter().filter(|row| row.acceptors.get() != 0).map(|row| (node, *row)));
        }
    }

    /// The turn is over, and what it made durable is counted.
    pub(crate) fn check(&mut self, one_value: &OneValue) -> Checked {
        for (node, row) in self.told.drain(..) {
            let (ballot, acceptors) = (Ballot::unpack(row.ballot.get()), NodeSet(row.acceptors.get()));
            for slot in (row.first.get()..=row.last.get()).map(Slot) {
                let voted = one_value.voted(slot, ballot);
                if acceptors.0 & !voted.0 != 0 && !one_value.chosen_below(slot, ballot) {
                    let detail = format!(
                        "n{node} says that {acceptors:?} chose slot {slot} in ballot {ballot}; on disk it is at {voted:?}"
                    );
                    return violated("evidence is true", detail);
                }
            }
        }
        Ok(())
    }
}
