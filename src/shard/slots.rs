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
    pub(crate) mark: synod_paxos::Mark,
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
    lowest_open: Lowest,
}

/// The lowest log position of an open value. Behind a hole thousands may be open, and each turn asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lowest {
    Known(Option<u64>),
    /// The value that was the lowest is open no longer.
    Gone,
}

impl Slots {
    pub(crate) fn new(applied: Slot, window_slots: u64) -> Slots {
        let capacity = RECENT_SLOTS + 2 * window_slots as usize + 64;
        let values = VecDeque::with_capacity(capacity);
        Slots { base: applied.next(), applied, values, kept: BTreeMap::new(), lowest_open: Lowest::Known(None) }
    }

    /// All up to `slot` was applied, and is not known one by one. Before anything is put.
    pub(crate) fn start_at(&mut self, slot: Slot) {
        assert!(self.values.is_empty(), "a snapshot comes first");
        (self.base, self.applied) = (slot.next(), slot);
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
        self.kept.remove(&slot);
        let value = Value { place, tail_before: Sequence::ZERO, timestamp_before_ns: 0 };
        let before = self.values[at].replace(value);
        self.closed(before);
        if let Lowest::Known(lowest) = &mut self.lowest_open {
            *lowest = Some(lowest.map_or(place.pos, |pos| pos.min(place.pos)));
        }
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

    /// This value is open no longer.
    fn closed(&mut self, value: Option<Value>) {
        if value.is_some_and(|value| self.lowest_open == Lowest::Known(Some(value.place.pos))) {
            self.lowest_open = Lowest::Gone;
        }
    }

    /// The next slot was applied.
    pub(crate) fn apply(&mut self, slot: Slot, tail_before: Sequence, timestamp_before_ns: u64) {
        assert_eq!(slot, self.applied.next(), "slots are applied in order");
        self.applied = slot;
        self.kept.remove(&slot);
        let value = self.values.get_mut((slot.0 - self.base.0) as usize).and_then(Option::as_mut);
        let applied = value.map(|value| {
            value.tail_before = tail_before;
            value.timestamp_before_ns = timestamp_before_ns;
            *value
        });
        self.closed(applied);
        while self.applied.0 + 1 - self.base.0 > RECENT_SLOTS as u64 {
            self.values.pop_front();
            self.base = self.base.next();
        }
    }

    /// The lowest log position of a value above the applied prefix: from there on the arena must keep its bytes.
    pub(crate) fn lowest_open(&mut self) -> Option<u64> {
        if let Lowest::Known(lowest) = self.lowest_open {
            return lowest;
        }
        let open = (self.applied.0 + 1 - self.base.0) as usize;
        let lowest = self.values.iter().skip(open).flatten().map(|value| value.place.pos).min();
        self.lowest_open = Lowest::Known(lowest);
        lowest
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

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pos: u64) -> Place {
        Place { pos, bytes: 64 }
    }

    fn lowest_by_looking(slots: &Slots) -> Option<u64> {
        let open = (slots.applied.0 + 1 - slots.base.0) as usize;
        slots.values.iter().skip(open).flatten().map(|value| value.place.pos).min()
    }

    #[test]
    fn the_lowest_open_position_is_known_through_holes_overwritten_values_and_applying() {
        let mut slots = Slots::new(Slot(10), 64);
        assert_eq!(slots.lowest_open(), None);
        for (slot, pos) in [(12, 100), (13, 200), (11, 300), (12, 400), (15, 500), (12, 600), (13, 50)] {
            slots.put(Slot(slot), place(pos));
            assert_eq!(slots.lowest_open(), lowest_by_looking(&slots), "after {slot} at {pos}");
        }
        for slot in 11..=15 {
            slots.apply(Slot(slot), Sequence::ZERO, 0);
            assert_eq!(slots.lowest_open(), lowest_by_looking(&slots), "after applying {slot}");
        }
        slots.put(Slot(17), place(700));
        assert_eq!(slots.lowest_open(), Some(700));
    }
}
