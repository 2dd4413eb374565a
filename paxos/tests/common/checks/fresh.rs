//! S5: a read sees all that anybody had delivered when it arrived. What was acknowledged was delivered first.
//!
//! FAULTS, mutants 23 (a read returns before an in-flight proposal that it must order after) and 29 (it joins a round probed
//! before it arrived). The clocks of a run are one clock, so the moment that a node calls its state current at can be checked
//! against what was delivered then.

use std::collections::{BTreeMap, VecDeque};
use synod_wire::{NodeId, Slot};

/// See the module.
#[derive(Default)]
pub(super) struct Fresh {
    /// When the highest slot delivered anywhere grew, and to what.
    delivered: Vec<(u64, Slot)>,
    highest: Slot,
    now_ns: u64,
    /// The reads that wait at each node: their round, and what they must see.
    waiting: BTreeMap<NodeId, VecDeque<(u64, Slot)>>,
}

impl Fresh {
    pub(super) fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    pub(super) fn on_deliver(&mut self, slot: Slot) {
        if slot > self.highest {
            self.highest = slot;
            self.delivered.push((self.now_ns, slot));
        }
    }

    pub(super) fn on_start(&mut self, node: NodeId) {
        self.waiting.remove(&node);
    }

    pub(super) fn on_read(&mut self, node: NodeId, round: u64) {
        self.waiting.entry(node).or_default().push_back((round, self.highest));
    }

    pub(super) fn on_ready(&mut self, node: NodeId, round: u64, delivered: Slot) {
        let waiting = self.waiting.entry(node).or_default();
        while let Some((_, must_see)) = waiting.front().copied().filter(|(joined, _)| *joined <= round) {
            waiting.pop_front();
            assert!(
                delivered >= must_see,
                "node {node} answers a read of round {round} at slot {delivered}; slot {must_see} was delivered before it came"
            );
        }
    }

    pub(super) fn on_current(&self, node: NodeId, at_ns: u64, delivered: Slot) {
        // What was delivered at that very moment may be missing.
        let before = self.delivered.partition_point(|(then_ns, _)| *then_ns < at_ns);
        let must_see = before.checked_sub(1).map_or(Slot::ZERO, |last| self.delivered[last].1);
        assert!(
            delivered >= must_see,
            "node {node} calls its state current at {at_ns} ns with slot {delivered}; slot {must_see} was delivered before"
        );
    }
}
