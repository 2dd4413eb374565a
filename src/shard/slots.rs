//! Where the values of the recent slots lie in the log: those above the applied prefix, and some below for readers.

use std::collections::{BTreeMap, VecDeque};
use synod_wal::Place;
use synod_wire::{Ballot, Sequence, Slot};

/// Applied slots that are kept findable one by one; older ones are found through the index.
pub const RECENT_SLOTS: usize = 8_192;

/// One slot's value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) place: Place,
    /// The tail before it was applied.
    pub(crate) tail_before: Sequence,
    /// The timestamp before it was applied.
    pub(crate) timestamp_before_ns: u64,
}

/// A value above the applied prefix that recovery found too far back in the log for the arena to have it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) ballot: Ballot,
    pub(crate) barrier: bool,
    pub(crate) payload: Vec<u8>,
}

/// The values of consecutive slots from `base`.
#[derive(Debug)]
pub(crate) struct Slots {
    base: Slot,
    applied: Slot,
    values: VecDeque<Option<Value>>,
    /// Empty unless damage took the evidence of what was chosen.
    kept: BTreeMap<Slot, Kept>,
}

impl Slots {
    pub(crate) fn new(applied: Slot, window_slots: u64) -> Slots {
        let capacity = RECENT_SLOTS + 2 * window_slots as usize + 64;
        Slots { base: applied.next(), applied, values: VecDeque::with_capacity(capacity), kept: BTreeMap::new() }
    }

    /// The last slot applied.
    pub(crate) fn applied(&self) -> Slot {
        self.applied
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<Value> {
        *self.values.get(slot.0.checked_sub(self.base.0)? as usize)?
    }

    pub(crate) fn place(&self, slot: Slot) -> Option<Place> {
        self.get(slot).map(|value| value.place)
    }

    /// The value of a slot above the applied prefix lies here now.
    pub(crate) fn put(&mut self, slot: Slot, place: Place) {
        assert!(slot > self.applied, "an applied value does not move");
        let at = (slot.0 - self.base.0) as usize;
        while self.values.len() <= at {
            self.values.push_back(None);
        }
        self.values[at] = Some(Value { place, tail_before: Sequence::ZERO, timestamp_before_ns: 0 });
        self.kept.remove(&slot);
    }

    /// The value of a slot above the applied prefix, whose place is known, is not in the arena.
    pub(crate) fn keep(&mut self, slot: Slot, value: Kept) {
        assert!(self.place(slot).is_some() && slot > self.applied, "kept for a slot that nothing is held at");
        self.kept.insert(slot, value);
    }

    /// What the arena does not have.
    pub(crate) fn kept(&self, slot: Slot) -> Option<&Kept> {
        self.kept.get(&slot)
    }

    /// The next slot was applied.
    pub(crate) fn apply(&mut self, slot: Slot, tail_before: Sequence, timestamp_before_ns: u64) {
        assert_eq!(slot, self.applied.next(), "slots are applied in order");
        self.applied = slot;
        self.kept.remove(&slot);
        if let Some(Some(value)) = self.values.get_mut((slot.0 - self.base.0) as usize) {
            value.tail_before = tail_before;
            value.timestamp_before_ns = timestamp_before_ns;
        }
        while self.applied.0 + 1 - self.base.0 > RECENT_SLOTS as u64 {
            self.values.pop_front();
            self.base = self.base.next();
        }
    }

    /// The lowest log position of a value above the applied prefix: from there on the arena must keep its bytes.
    pub(crate) fn lowest_open(&self) -> Option<u64> {
        let open = (self.applied.0 + 1 - self.base.0) as usize;
        self.values.iter().skip(open).flatten().map(|value| value.place.pos).min()
    }

    /// The recent applied slot in which `sequence` was given.
    pub(crate) fn slot_of(&self, sequence: Sequence) -> Option<Slot> {
        let applied = (self.applied.0 + 1 - self.base.0) as usize;
        let known = |at: usize| self.values[at].as_ref().map(|value| value.tail_before);
        let (mut low, mut high) = (0, applied);
        while low < high {
            let middle = (low + high) / 2;
            // Slots whose values are not known one by one (at the front) count as too old.
            if known(middle).is_none_or(|before| before < sequence) { low = middle + 1 } else { high = middle }
        }
        let at = low.checked_sub(1)?;
        known(at)?;
        Some(Slot(self.base.0 + at as u64))
    }
}
