//! The slots above the delivered prefix.

use crate::types::Mark;
use alloc::collections::VecDeque;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Epoch, Lsn, NodeSet, Slot};

/// What this node holds at a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) ballot: Ballot,
    pub(crate) lsn: Lsn,
    pub(crate) mark: Mark,
}

/// One slot, as acceptor, learner and proposer see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotState {
    /// The value accepted last (or learnt).
    pub(crate) accepted: Option<Accepted>,
    /// What is held is known chosen.
    pub(crate) chosen: bool,
    /// If it is: the epoch in which its votes were counted, or of the member that had delivered it.
    pub(crate) epoch: Epoch,
    /// Damage hides what was accepted here.
    pub(crate) unknown: bool,
    /// Leader: who has durably accepted in the leader's ballot.
    pub(crate) votes: NodeSet,
    /// Leader: when the accept request goes out again.
    pub(crate) resend_at_ns: u64,
    /// Leader: how often it was sent again.
    pub(crate) resends: u32,
}

/// Slots `base..`, grown on demand; its caller bounds how far.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    base: Slot,
    slots: VecDeque<SlotState>,
}

impl Window {
    pub(crate) fn new(prefix: Slot, capacity: usize) -> Window {
        Window { base: prefix.next(), slots: VecDeque::with_capacity(capacity) }
    }

    /// Becomes a copy of `other`, in the memory that it has.
    pub(crate) fn copy_from(&mut self, other: &Window) {
        self.base = other.base;
        self.slots.clear();
        self.slots.extend(other.slots.iter().copied());
    }

    /// The slot after the delivered prefix.
    pub(crate) fn base(&self) -> Slot {
        self.base
    }

    /// The highest slot with any state, or the prefix.
    pub(crate) fn last(&self) -> Slot {
        Slot(self.base.0 + self.slots.len() as u64 - 1)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&SlotState> {
        self.slots.get(slot.0.checked_sub(self.base.0)? as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.slots.get_mut(slot.0.checked_sub(self.base.0)? as usize)
    }

    /// The slot's state, made if absent. `slot` is not below the base.
    pub(crate) fn entry(&mut self, slot: Slot) -> &mut SlotState {
        let at = (slot.0 - self.base.0) as usize;
        while self.slots.len() <= at {
            self.slots.push_back(SlotState::default());
        }
        &mut self.slots[at]
    }

    /// A configuration of this epoch stands below all slots: what was chosen by votes of earlier ones is merely accepted.
    pub(crate) fn void_chosen_before(&mut self, epoch: Epoch) {
        self.slots.iter_mut().filter(|state| state.epoch < epoch).for_each(|state| state.chosen = false);
    }

    /// Removes the first slot if it is chosen.
    pub(crate) fn pop_chosen(&mut self) -> Option<(Slot, SlotState)> {
        let front = self.slots.front()?;
        let next_is_chosen = || self.slots.get(1).is_some_and(|next| next.chosen);
        let implied = mutant("chosen_implies_all_below") && front.accepted.is_some() && next_is_chosen();
        if !front.chosen && !implied {
            return None;
        }
        let slot = self.base;
        self.base = slot.next();
        self.slots.pop_front().map(|state| (slot, state))
    }

    /// All slots with their states, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &SlotState)> {
        self.slots.iter().enumerate().map(|(i, state)| (Slot(self.base.0 + i as u64), state))
    }
}
