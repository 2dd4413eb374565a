//! Snapshots of one slot hold the same state, byte for byte, whichever member made them (S4, S6).
//!
//! Source: FAULTS 44 ("nondeterministic apply, state hash differs"), bugs 17 and 18; TigerBeetle's comparison of checkpoints.
//! What a node does with a snapshot after a restart is for the other checkers: its state must be the one that they know.

use super::violated;
use std::collections::{BTreeMap, BTreeSet};
use synod::shard::checkpoint::Checkpoint;
use synod_wire::Slot;

/// See the module.
#[derive(Default)]
pub(crate) struct Snapshots {
    first: BTreeMap<Slot, (usize, u32)>,
    by: BTreeSet<(usize, Slot)>,
}

impl Snapshots {
    /// A node has written one. Whether another had before, of the same slot.
    pub(crate) fn written(&mut self, node: usize, made: &Checkpoint) -> Result<bool, super::Violation> {
        self.by.insert((node, made.slot));
        let (first, crc) = *self.first.entry(made.slot).or_insert((node, made.state_crc));
        if crc != made.state_crc {
            let (slot, is) = (made.slot, made.state_crc);
            return violated(
                "one state at a slot",
                format!("n{node}'s snapshot of slot {slot} has {is:08x}, that of n{first} {crc:08x}"),
            );
        }
        Ok(first != node)
    }

    /// How many a node has made that are newer than that of a slot.
    pub(crate) fn newer(&self, node: usize, than: Slot) -> usize {
        self.by.range((node, than.next())..=(node, Slot(u64::MAX))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_differ_are_found() {
        let made = |slot, state_crc| Checkpoint { slot: Slot(slot), state_crc, bytes: 1, state_bytes: 1, read_pos: 1 };
        let mut snapshots = Snapshots::default();
        assert_eq!(snapshots.written(0, &made(7, 1)), Ok(false));
        assert_eq!(snapshots.written(1, &made(7, 1)), Ok(true));
        assert_eq!(snapshots.written(1, &made(9, 2)), Ok(false));
        assert_eq!(
            [(0, 6), (0, 7), (0, 9), (1, 6)].map(|(node, than)| snapshots.newer(node, Slot(than))),
            [1, 0, 0, 2]
        );
        assert!(snapshots.written(2, &made(7, 2)).is_err());
    }
}
