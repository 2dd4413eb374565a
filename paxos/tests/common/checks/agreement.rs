//! S1 and S4: at most one value is chosen in a slot, and only chosen values are delivered.
//!
//! A value is chosen once a phase 2 quorum has durably accepted it in one ballot (Lamport, "Paxos Made Simple", 2001,
//! section 2.2). The checker counts that itself, from the synced records: a leader that counts a vote which is on no disk
//! delivers a value that is not chosen here.

use crate::common::Value;
use crate::common::disk::Logged;
use std::collections::BTreeMap;
use synod_paxos::Record;
use synod_wire::{Ballot, NodeId, NodeSet, Slot};

/// See the module.
pub(super) struct Agreement {
    phase2: usize,
    proposed: BTreeMap<(Slot, Ballot), Value>,
    votes: BTreeMap<(Slot, Ballot), NodeSet>,
    chosen: BTreeMap<Slot, (Ballot, Value)>,
}

impl Agreement {
    pub(super) fn new(phase2: usize) -> Agreement {
        Agreement { phase2, proposed: BTreeMap::new(), votes: BTreeMap::new(), chosen: BTreeMap::new() }
    }

    /// One ballot proposes one value in a slot, and a learnt value is a chosen one.
    pub(super) fn on_logged(&mut self, node: NodeId, logged: &Logged) {
        match (&logged.record, &logged.value) {
            (Record::Accepted { slot, ballot, .. }, Some(value)) => {
                let first = self.proposed.entry((*slot, *ballot)).or_insert_with(|| value.clone());
                assert_eq!(first, value, "node {node}: two values in slot {slot} in ballot {ballot}");
            }
            (Record::Learnt { slot, .. }, Some(value)) => self.expect_chosen(node, *slot, value, "learnt"),
            (Record::Chosen(ranges), _) => {
                for range in ranges.as_slice() {
                    let unchosen = (range.first.0..=range.last.0).find(|slot| !self.chosen.contains_key(&Slot(*slot)));
                    assert_eq!(unchosen, None, "node {node}: a slot of {range:?} recorded as chosen is not");
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_durable(&mut self, node: NodeId, logged: &Logged) {
        let (Record::Accepted { slot, ballot, .. }, Some(value)) = (&logged.record, &logged.value) else { return };
        let votes = self.votes.entry((*slot, *ballot)).or_default();
        votes.insert(node);
        if votes.len() >= self.phase2 {
            let chosen = self.chosen.entry(*slot).or_insert_with(|| (*ballot, value.clone()));
            assert_eq!(&chosen.1, value, "slot {slot}: chosen in ballot {} and, otherwise, in {ballot}", chosen.0);
        }
    }

    pub(super) fn on_deliver(&mut self, node: NodeId, slot: Slot, value: &Value) {
        self.expect_chosen(node, slot, value, "delivered");
    }

    fn expect_chosen(&self, node: NodeId, slot: Slot, value: &Value, what: &str) {
        match self.chosen.get(&slot) {
            Some((ballot, chosen)) => {
                assert_eq!(chosen, value, "node {node} {what} another value in slot {slot} than ballot {ballot} chose");
            }
            None => panic!("node {node} {what} {value:?} in slot {slot}, which no quorum has on disk"),
        }
    }

    pub(super) fn is_chosen(&self, slot: Slot, value: &Value) -> bool {
        self.chosen.get(&slot).is_some_and(|(_, chosen)| chosen == value)
    }

    pub(super) fn last_chosen(&self) -> Slot {
        self.chosen.last_key_value().map_or(Slot::ZERO, |(slot, _)| *slot)
    }
}
