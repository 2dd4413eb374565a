//! What one log says about the slots of one window: 64 bytes a slot, so that memory is bounded however long the logs are.
//! Filled by [`super::log`], read by [`super::compare`] and [`super::replay`].

use std::hash::{DefaultHasher, Hasher};
use synod_wal::Place;
use synod_wire::{Ballot, NodeSet, Slot};

/// Slots that are looked at in one pass over the logs: 64 MiB of facts a log. Longer logs take several passes.
pub(super) const WINDOW_SLOTS: u64 = 1 << 20;

/// A value's fingerprint: two SipHashes, for equality among logs that nobody forged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u64; 2]);

impl Fingerprint {
    pub(super) fn of(payload: &[u8]) -> Fingerprint {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(payload);
            hasher.finish()
        };
        Fingerprint([half(0), half(1)])
    }
}

/// What one log says about one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotFacts {
    /// The value held last.
    pub(super) value: Fingerprint,
    /// The ballot it is held in, packed.
    pub(super) ballot: u64,
    /// The ballot of the evidence, packed.
    pub(super) chosen_ballot: u64,
    /// Whose votes the evidence names; empty where it stands in another log.
    pub(super) acceptors: NodeSet,
    /// Where the value's record lies.
    pub(super) pos: u64,
    /// Its Lsn.
    pub(super) lsn: u64,
    /// Its bytes.
    pub(super) bytes: u32,
    flags: u8,
}

const HELD: u8 = 1;
const LEARNT: u8 = 2;
const COVERED: u8 = 4;
const CHOSEN: u8 = 8;

impl SlotFacts {
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A value is held.
    pub(super) fn held(&self) -> bool {
        self.is(HELD)
    }

    /// The value held is a vote of this node.
    pub(super) fn voted(&self) -> bool {
        self.is(HELD) && !self.is(LEARNT)
    }

    /// A chosen record covers the slot.
    pub(super) fn covered(&self) -> bool {
        self.is(COVERED)
    }

    /// The value held is known chosen here: learnt, or accepted in the ballot that a chosen record names.
    pub(super) fn chosen(&self) -> bool {
        self.is(CHOSEN)
    }

    /// Where the value lies.
    pub(super) fn place(&self) -> Place {
        Place { pos: self.pos, bytes: self.bytes }
    }

    /// Takes a value record.
    pub(super) fn hold(&mut self, value: Fingerprint, ballot: Ballot, learnt: bool, place: Place, lsn: u64) {
        self.value = value;
        self.ballot = ballot.pack();
        (self.pos, self.bytes, self.lsn) = (place.pos, place.bytes, lsn);
        self.flags = (self.flags & !LEARNT) | HELD;
        if learnt {
            self.flags |= LEARNT | CHOSEN;
        }
        self.settle();
    }

    /// Takes a chosen record's word. False: it names acceptors, and others are named already.
    pub(super) fn cover(&mut self, ballot: Ballot, acceptors: NodeSet) -> bool {
        let told = (self.chosen_ballot, self.acceptors) == (ballot.pack(), acceptors);
        let takes = !self.is(COVERED) || (self.acceptors.is_empty() && !acceptors.is_empty());
        if takes {
            self.chosen_ballot = ballot.pack();
            self.acceptors = acceptors;
        }
        self.flags |= COVERED;
        self.settle();
        takes || told || acceptors.is_empty()
    }

    /// The value held was learnt from a peer.
    pub(super) fn learnt(&self) -> bool {
        self.is(HELD) && self.is(LEARNT)
    }

    /// What is held in the ballot that was chosen is chosen; so is what was accepted in a later one, which can be no
    /// other value.
    fn settle(&mut self) {
        if self.is(HELD) && self.chosen_ballot != 0 && self.ballot >= self.chosen_ballot {
            self.flags |= CHOSEN;
        }
    }
}

/// A vote that a later record of its slot replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) slot: Slot,
    /// Packed.
    pub(super) ballot: u64,
    pub(super) value: Fingerprint,
}

/// What a chosen record says of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) slot: Slot,
    /// Packed.
    pub(super) ballot: u64,
    pub(super) acceptors: NodeSet,
}

/// Replaced votes, and further claims, that are kept of one log and window: only slots that were open when a leader changed have
/// any. Beyond that many, evidence that they might belie is not held against a log.
const MAX_REPLACED: usize = 1 << 20;

/// The slots looked at in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The first.
    pub(super) first: Slot,
    /// How many.
    pub(super) slots: u64,
}

impl Window {
    /// The window with this number, from 0.
    pub(super) fn number(number: u64, slots: u64) -> Window {
        Window { first: Slot(number * slots + 1), slots }
    }

    /// The last slot.
    pub(super) fn last(self) -> Slot {
        Slot(self.first.0 + self.slots - 1)
    }

    fn index(self, slot: Slot) -> Option<usize> {
        slot.0.checked_sub(self.first.0).filter(|offset| *offset < self.slots).map(|offset| offset as usize)
    }
}

/// The facts of a window, grown as far as the log reaches.
#[derive(Debug)]
pub(super) struct Facts {
    window: Window,
    slots: Vec<SlotFacts>,
    /// In the order of the log, and sorted by slot at its end.
    replaced: Vec<Vote>,
    claims: Vec<Claim>,
}

impl Facts {
    pub(super) fn new(window: Window) -> Facts {
        Facts { window, slots: Vec::new(), replaced: Vec::new(), claims: Vec::new() }
    }

    /// A vote that the next record of its slot replaces.
    pub(super) fn replace(&mut self, slot: Slot, facts: &SlotFacts) {
        if self.replaced.len() < MAX_REPLACED {
            self.replaced.push(Vote { slot, ballot: facts.ballot, value: facts.value });
        }
    }

    /// A chosen record that names other acceptors than an earlier one.
    pub(super) fn claim(&mut self, slot: Slot, ballot: Ballot, acceptors: NodeSet) {
        if self.claims.len() < MAX_REPLACED {
            self.claims.push(Claim { slot, ballot: ballot.pack(), acceptors });
        }
    }

    /// The log has ended.
    pub(super) fn sort(&mut self) {
        self.replaced.sort_by_key(|vote| (vote.slot, vote.ballot));
        self.claims.sort_by_key(|claim| claim.slot);
    }

    /// Whether there was more than can be kept.
    pub(super) fn overflowed(&self) -> bool {
        self.replaced.len() == MAX_REPLACED || self.claims.len() == MAX_REPLACED
    }

    /// Every vote of this log for a slot: those replaced, and the last.
    pub(super) fn votes(&self, slot: Slot) -> impl Iterator<Item = Vote> + '_ {
        let first = self.replaced.partition_point(|vote| vote.slot < slot);
        let replaced = self.replaced[first..].iter().take_while(move |vote| vote.slot == slot).copied();
        let facts = self.get(slot);
        let last = facts.voted().then_some(Vote { slot, ballot: facts.ballot, value: facts.value });
        replaced.chain(last)
    }

    /// Everything that this log's chosen records say of a slot's acceptors.
    pub(super) fn claims(&self, slot: Slot) -> impl Iterator<Item = Claim> + '_ {
        let facts = self.get(slot);
        let named = facts.covered().then_some(Claim { slot, ballot: facts.chosen_ballot, acceptors: facts.acceptors });
        let first = self.claims.partition_point(|claim| claim.slot < slot);
        named.into_iter().chain(self.claims[first..].iter().take_while(move |claim| claim.slot == slot).copied())
    }

    /// What is known of a slot: nothing, if the log does not mention it.
    pub(super) fn get(&self, slot: Slot) -> SlotFacts {
        self.window.index(slot).and_then(|index| self.slots.get(index)).copied().unwrap_or_default()
    }

    /// The facts to be changed; `None` outside the window.
    pub(super) fn entry(&mut self, slot: Slot) -> Option<&mut SlotFacts> {
        let index = self.window.index(slot)?;
        if index >= self.slots.len() {
            self.slots.resize(index + 1, SlotFacts::default());
        }
        Some(&mut self.slots[index])
    }

    /// The part of `first..=last` that lies in the window.
    pub(super) fn clip(&self, first: Slot, last: Slot) -> impl Iterator<Item = Slot> + use<> {
        (first.max(self.window.first).0..=last.min(self.window.last()).0).map(Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::NodeId;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(0) }
    }

    const PLACE: Place = Place { pos: 4096, bytes: 100 };

    #[test]
    fn facts_of_a_slot_fit_a_cache_line() {
        assert_eq!(size_of::<SlotFacts>(), 64);
    }

    #[test]
    fn only_the_chosen_ballots_value_or_a_learnt_one_is_chosen() {
        let value = Fingerprint::of(b"v");
        let mut facts = SlotFacts::default();
        facts.hold(value, ballot(1), false, PLACE, 1);
        assert!(facts.voted() && !facts.chosen());
        assert!(facts.cover(ballot(2), NodeSet(3)));
        assert!(facts.covered() && !facts.chosen(), "an older ballot's value is not the chosen one");
        facts.hold(value, ballot(2), false, PLACE, 3);
        assert!(facts.chosen());
        let mut learnt = SlotFacts::default();
        learnt.hold(value, ballot(1), true, PLACE, 1);
        assert!(learnt.chosen() && !learnt.voted());
    }

    #[test]
    fn windows_follow_each_other_and_clip() {
        let (one, two) = (Window::number(0, 8), Window::number(1, 8));
        assert_eq!((one.first, one.last(), two.first), (Slot(1), Slot(8), Slot(9)));
        let mut facts = Facts::new(two);
        assert!(facts.entry(Slot(8)).is_none() && facts.entry(Slot(17)).is_none());
        assert!(facts.entry(Slot(10)).unwrap().cover(ballot(1), NodeSet::EMPTY));
        assert!(facts.get(Slot(10)).covered() && !facts.get(Slot(9)).covered() && !facts.get(Slot(30)).covered());
        assert_eq!(facts.clip(Slot(5), Slot(10)).collect::<Vec<_>>(), [Slot(9), Slot(10)]);
    }
    #[test]
    fn every_vote_and_every_claim_of_a_slot_is_kept() {
        let (old, new) = (Fingerprint::of(b"old"), Fingerprint::of(b"new"));
        let mut facts = Facts::new(Window::number(0, 8));
        for (slot, value, round) in [(5, old, 1), (4, old, 1), (5, new, 2), (5, new, 3)] {
            let before = facts.get(Slot(slot));
            if before.voted() {
                facts.replace(Slot(slot), &before);
            }
            facts.entry(Slot(slot)).unwrap().hold(value, ballot(round), false, PLACE, 1);
        }
        for (slot, round, acceptors) in [(5, 2, 0), (5, 2, 3), (5, 2, 3), (4, 1, 3), (5, 3, 6)] {
            if !facts.entry(Slot(slot)).unwrap().cover(ballot(round), NodeSet(acceptors)) {
                facts.claim(Slot(slot), ballot(round), NodeSet(acceptors));
            }
        }
        facts.sort();
        let votes: Vec<_> = facts.votes(Slot(5)).map(|vote| (vote.ballot, vote.value)).collect();
        assert_eq!(votes, [(ballot(1).pack(), old), (ballot(2).pack(), new), (ballot(3).pack(), new)]);
        let claims: Vec<_> = facts.claims(Slot(5)).map(|claim| (claim.ballot, claim.acceptors)).collect();
        assert_eq!(claims, [(ballot(2).pack(), NodeSet(3)), (ballot(3).pack(), NodeSet(6))]);
        assert!(facts.votes(Slot(6)).next().is_none() && facts.claims(Slot(6)).next().is_none());
    }
}
