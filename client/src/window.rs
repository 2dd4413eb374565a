//! The entries that a session holds: a ring of slots and a ring of bytes, both allocated once.
//!
//! Pure bookkeeping, called by [`crate::session`] only. Sequences run `base <= first_unacked <= end`; those below
//! `first_unacked` are acknowledged and wait to be reported, those from it on may be acknowledged out of order.

use crate::condition::Condition;
use synod_wire::client::{Decision, Durability};
use synod_wire::guarantee::Guarantee;

/// One entry.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Where its bytes start, counted over the whole life of the byte ring.
    position: u64,
    length: usize,
    deadline_ns: u64,
    /// When it was last sent.
    sent_ns: u64,
    /// How often it was sent; saturates.
    sends: u8,
    acked: bool,
    condition: Condition,
    place: Placed,
}

/// What an acknowledgement says of an entry: that it is decided on, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) decision: Decision,
    /// Its sequence; if it was not appended, what it was told instead.
    pub(crate) value: u64,
    pub(crate) timestamp_ns: u64,
    pub(crate) durability: Durability,
    pub(crate) guarantee: Guarantee,
}

/// Consecutive entries that were sequenced side by side, or refused for one reason, with one timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckedRun {
    pub(crate) client_seq: u64,
    /// What the first one was told.
    pub(crate) first: Placed,
    pub(crate) entries: u32,
}

/// What an acknowledgement did to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is the first one.
    New,
    /// It repeats what is known.
    Known,
    /// It contradicts what is known: a server's fault. The first one stands.
    Conflict,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    slots: Box<[Slot]>,
    bytes: Box<[u8]>,
    /// What [`Window::renumber`] added to the sequences, so that slots keep their places.
    shift: u64,
    base: u64,
    first_unacked: u64,
    end: u64,
    /// Where the next entry's bytes go at the earliest.
    head: u64,
}

impl Window {
    /// For `entries` entries of together `bytes` bytes, numbered from 1.
    pub(crate) fn new(entries: usize, bytes: usize) -> Window {
        assert!(entries > 0 && bytes > 0, "a window holds something");
        Window {
            slots: vec![Slot::default(); entries].into_boxed_slice(),
            bytes: vec![0; bytes].into_boxed_slice(),
            shift: 0,
            base: 1,
            first_unacked: 1,
            end: 1,
            head: 0,
        }
    }

    /// The first sequence not acknowledged; [`Window::end`] if there is none.
    pub(crate) fn first_unacked(&self) -> u64 {
        self.first_unacked
    }

    /// The sequence that the next entry gets.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The entries held, reported or not.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.base
    }

    /// The most entries.
    pub(crate) fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Adds `by` to every sequence, held or to come. Nothing may have been acknowledged yet.
    pub(crate) fn renumber(&mut self, by: u64) {
        assert_eq!(self.base, self.first_unacked, "entries were acknowledged before the session was open");
        self.shift += by;
        self.base += by;
        self.first_unacked += by;
        self.end += by;
    }

    /// Copies `entry` in; `None` if slots or bytes are used up.
    pub(crate) fn push(&mut self, entry: &[u8], condition: Condition, deadline_ns: u64) -> Option<u64> {
        if self.len() == self.capacity() {
            return None;
        }
        let position = self.place(entry.len())?;
        let at = self.offset(position);
        self.bytes[at..at + entry.len()].copy_from_slice(entry);
        self.head = position + entry.len() as u64;
        let client_seq = self.end;
        self.end += 1;
        *self.slot_mut(client_seq) = Slot { position, length: entry.len(), condition, deadline_ns, ..Slot::default() };
        Some(client_seq)
    }

    /// Where `length` bytes in one piece fit behind those held; skips the ring's end if they would straddle it.
    fn place(&self, length: usize) -> Option<u64> {
        let capacity = self.bytes.len() as u64;
        let length = length as u64;
        let to_end = capacity - self.head % capacity;
        let position = if length <= to_end { self.head } else { self.head + to_end };
        let tail = if self.len() == 0 { position } else { self.slot(self.base).position };
        (position + length - tail <= capacity).then_some(position)
    }

    /// The bytes of an entry held.
    pub(crate) fn entry(&self, client_seq: u64) -> &[u8] {
        let slot = self.slot(client_seq);
        let at = self.offset(slot.position);
        &self.bytes[at..at + slot.length]
    }

    /// When an entry held is to be appended.
    pub(crate) fn condition(&self, client_seq: u64) -> Condition {
        self.slot(client_seq).condition
    }

    /// Whether an entry held is acknowledged.
    pub(crate) fn is_acked(&self, client_seq: u64) -> bool {
        client_seq < self.first_unacked || self.slot(client_seq).acked
    }

    /// The longest entry held, with its condition.
    pub(crate) fn longest_entry(&self) -> usize {
        let slots = (self.base..self.end).map(|client_seq| self.slot(client_seq));
        slots.map(|slot| slot.length + slot.condition.bytes()).max().unwrap_or(0)
    }

    /// The deadline of the first entry not acknowledged.
    pub(crate) fn first_deadline_ns(&self) -> Option<u64> {
        (self.first_unacked < self.end).then(|| self.slot(self.first_unacked).deadline_ns)
    }

    /// The entry leaves in a datagram.
    pub(crate) fn sent(&mut self, client_seq: u64, now_ns: u64) {
        let slot = self.slot_mut(client_seq);
        slot.sent_ns = now_ns;
        slot.sends = slot.sends.saturating_add(1);
    }

    /// When the entry was sent last.
    pub(crate) fn sent_ns(&self, client_seq: u64) -> u64 {
        self.slot(client_seq).sent_ns
    }

    /// When the entry was sent, if that was once only: a round trip can be measured by it.
    pub(crate) fn sent_once_ns(&self, client_seq: u64) -> Option<u64> {
        let slot = self.slot(client_seq);
        (slot.sends == 1).then_some(slot.sent_ns)
    }

    /// Records an acknowledgement of an entry held.
    pub(crate) fn acknowledge(&mut self, client_seq: u64, place: Placed) -> Mark {
        let slot = self.slot_mut(client_seq);
        if slot.acked {
            // What is told again may rest on more, or less: the members' settings may have changed meanwhile.
            let same = Placed { durability: slot.place.durability, ..place } == slot.place;
            return if same { Mark::Known } else { Mark::Conflict };
        }
        slot.acked = true;
        slot.place = place;
        while self.first_unacked < self.end && self.slot(self.first_unacked).acked {
            self.first_unacked += 1;
        }
        Mark::New
    }

    /// The first sequence still held.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Takes out the acknowledged entries at the front that were decided on alike and side by side.
    pub(crate) fn take_acked(&mut self) -> Option<AckedRun> {
        if self.len() == 0 || !self.slot(self.base).acked {
            return None;
        }
        let first = self.slot(self.base).place;
        let client_seq = self.base;
        let mut entries = 0;
        while self.base < self.end && entries < u32::MAX {
            let slot = self.slot(self.base);
            let step = if first.decision == Decision::Appended { u64::from(entries) } else { 0 };
            let follows = first.value.checked_add(step) == Some(slot.place.value);
            let same = Placed { value: first.value, ..slot.place } == first;
            if !slot.acked || !follows || !same {
                break;
            }
            entries += 1;
            self.base += 1;
        }
        self.first_unacked = self.first_unacked.max(self.base);
        Some(AckedRun { client_seq, first, entries })
    }

    /// Takes out the entries at the front that are not acknowledged: (first, last).
    pub(crate) fn take_unacked(&mut self) -> Option<(u64, u64)> {
        let first = self.base;
        while self.base < self.end && !self.slot(self.base).acked {
            self.base += 1;
        }
        self.first_unacked = self.first_unacked.max(self.base);
        (first < self.base).then(|| (first, self.base - 1))
    }

    fn offset(&self, position: u64) -> usize {
        (position % self.bytes.len() as u64) as usize
    }

    fn index(&self, client_seq: u64) -> usize {
        assert!((self.base..self.end).contains(&client_seq), "entry {client_seq} is not in the window");
        ((client_seq - self.shift) % self.slots.len() as u64) as usize
    }

    fn slot(&self, client_seq: u64) -> &Slot {
        &self.slots[self.index(client_seq)]
    }

    fn slot_mut(&mut self, client_seq: u64) -> &mut Slot {
        let index = self.index(client_seq);
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn placed(sequence: u64, timestamp_ns: u64) -> Placed {
        Placed { value: sequence, timestamp_ns, ..Placed::default() }
    }

    fn refused(value: u64) -> Placed {
        Placed { decision: Decision::Fenced, ..placed(value, 7) }
    }

    fn run(client_seq: u64, sequence: u64, entries: u32) -> Option<AckedRun> {
        Some(AckedRun { client_seq, first: placed(sequence, 7), entries })
    }

    #[test]
    fn entries_that_were_refused_stand_apart_from_those_that_were_not() {
        let mut window = Window::new(8, 64);
        for entry in [b"a", b"b", b"c", b"d"] {
            window.push(entry, Condition::default(), 0).unwrap();
        }
        window.acknowledge(1, placed(100, 7));
        // The highest token seen: by chance what the next sequence would have been.
        window.acknowledge(2, refused(101));
        window.acknowledge(3, refused(101));
        window.acknowledge(4, placed(101, 7));
        assert_eq!(window.acknowledge(2, placed(101, 7)), Mark::Conflict);
        assert_eq!(window.take_acked(), run(1, 100, 1));
        assert_eq!(window.take_acked(), Some(AckedRun { client_seq: 2, first: refused(101), entries: 2 }));
        assert_eq!(window.take_acked(), run(4, 101, 1));
    }

    #[test]
    fn entries_that_rest_on_other_things_are_told_apart() {
        let mut window = Window::new(8, 64);
        for entry in [b"a", b"b"] {
            window.push(entry, Condition::default(), 0).unwrap();
        }
        window.acknowledge(1, placed(100, 7));
        window.acknowledge(2, Placed { durability: Durability::Memory, ..placed(101, 7) });
        assert_eq!(window.take_acked(), run(1, 100, 1));
        assert_eq!(
            window.take_acked().map(|run| (run.client_seq, run.first.durability)),
            Some((2, Durability::Memory))
        );
    }

    #[test]
    fn acknowledgements_out_of_order_are_taken_in_order_and_in_runs() {
        let mut window = Window::new(8, 64);
        for entry in [&b"a"[..], b"bb", b"ccc", b"d"] {
            window.push(entry, Condition::default(), 0).unwrap();
        }
        assert_eq!(window.acknowledge(2, placed(101, 7)), Mark::New);
        assert_eq!(window.take_acked(), None);
        assert_eq!(window.first_unacked(), 1);
        assert_eq!(window.acknowledge(1, placed(100, 7)), Mark::New);
        assert_eq!(window.acknowledge(1, placed(100, 7)), Mark::Known);
        assert_eq!(window.acknowledge(1, placed(102, 7)), Mark::Conflict);
        assert_eq!(window.acknowledge(4, placed(104, 7)), Mark::New);
        assert_eq!(window.take_acked(), run(1, 100, 2));
        assert_eq!(window.take_acked(), None);
        assert_eq!(window.take_unacked(), Some((3, 3)));
        assert_eq!(window.take_acked(), run(4, 104, 1));
        assert_eq!((window.len(), window.first_unacked()), (0, 5));
    }

    #[test]
    fn renumbering_keeps_the_entries() {
        let mut window = Window::new(3, 64);
        window.push(b"first", Condition::default(), 0).unwrap();
        window.push(b"second", Condition::default(), 0).unwrap();
        window.renumber(1000);
        assert_eq!((window.entry(1001), window.entry(1002)), (&b"first"[..], &b"second"[..]));
        assert_eq!(window.push(b"third", Condition::default(), 0), Some(1003));
        assert_eq!(window.entry(1001), b"first");
    }

    proptest! {
        /// Against a queue of owned entries: nothing is overwritten while held, and nothing that fits is refused.
        #[test]
        fn bytes_survive_until_they_are_taken(
            lengths in proptest::collection::vec(1usize..40, 1..400),
            takes in proptest::collection::vec(0usize..4, 400),
        ) {
            let mut window = Window::new(16, 100);
            let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
            for (i, length) in lengths.into_iter().enumerate() {
                let entry = vec![i as u8; length];
                match window.push(&entry, Condition::default(), 0) {
                    Some(client_seq) => model.push_back((client_seq, entry)),
                    None => {
                        let held: usize = model.iter().map(|(_, held)| held.len()).sum();
                        // A refusal needs a reason: no slot, or fewer bytes free than the entry and one skipped end,
                        // which is shorter than the longest entry.
                        prop_assert!(model.len() == 16 || held + length + 39 > 100);
                    }
                }
                for (client_seq, held) in &model {
                    prop_assert_eq!(window.entry(*client_seq), &held[..]);
                }
                for _ in 0..takes[i].min(model.len()) {
                    let (client_seq, _) = model.pop_front().unwrap();
                    window.acknowledge(client_seq, placed(client_seq * 2, 0));
                    prop_assert_eq!(window.take_acked().map(|run| (run.client_seq, run.entries)), Some((client_seq, 1)));
                }
            }
        }
    }
}
