//! Every node applies the same values in the same slots, in order and without a gap (S4).
//!
//! Source: Schneider, "Implementing fault-tolerant services using the state machine approach" (1990), agreement and
//! order.

use super::{Violation, violated};
use synod_wire::Slot;

const PROPERTY: &str = "same gap-free prefix";

/// See the module.
pub(crate) struct Prefix {
    /// The checksum of each slot's value, from slot 1.
    values: Vec<u32>,
    /// The last slot seen applied at each node, in its present life.
    last: Vec<Slot>,
}

impl Prefix {
    pub(crate) fn new(nodes: usize) -> Prefix {
        Prefix { values: Vec::new(), last: vec![Slot::ZERO; nodes] }
    }

    /// A recovery has applied up to `applied`; that is compared by the state that it leads to.
    pub(crate) fn restarted(&mut self, node: usize, applied: Slot) {
        self.last[node] = applied;
    }

    /// True: this slot is applied for the first time anywhere.
    pub(crate) fn applied(&mut self, node: usize, slot: Slot, crc: u32) -> Result<bool, Violation> {
        let last = std::mem::replace(&mut self.last[node], slot);
        if slot != last.next() {
            return violated(PROPERTY, format!("n{node} applied slot {slot} after slot {last}"));
        }
        let at = slot.0 as usize - 1;
        if at > self.values.len() {
            return violated(PROPERTY, format!("n{node} applied slot {slot}, but nobody applied slot {}", slot.0 - 1));
        }
        if at == self.values.len() {
            self.values.push(crc);
            return Ok(true);
        }
        if self.values[at] != crc {
            return violated(
                PROPERTY,
                format!("n{node} applied another value in slot {slot} than the first to apply it"),
            );
        }
        Ok(false)
    }

    /// A node applied a slot that another applied before, and its bytes are out of reach: the state that this leads to is
    /// compared instead.
    pub(crate) fn unseen(&mut self, node: usize, slot: Slot) {
        assert!(slot <= self.end(), "a first application is looked at");
        self.last[node] = slot;
    }

    /// The last slot that this node was seen to have applied.
    pub(crate) fn last_of(&self, node: usize) -> Slot {
        self.last[node]
    }

    /// The last slot that anyone applied.
    pub(crate) fn end(&self) -> Slot {
        Slot(self.values.len() as u64)
    }

    /// The checksum of an applied slot's value.
    pub(crate) fn value(&self, slot: Slot) -> Option<u32> {
        self.values.get((slot.0 as usize).checked_sub(1)?).copied()
    }
}
