//! S1 and S4: at most one value is chosen in a slot, and only chosen values are delivered.
//!
//! A value is chosen once a phase 2 quorum has durably accepted it in one ballot (Lamport, "Paxos Made Simple", 2001,
//! section 2.2). The checker counts that itself, from the synced records: a leader that counts a vote which is on no disk
//! delivers a value that is not chosen here. A slot's quorum is that of the last configuration below it.

use crate::common::disk::Logged;
use crate::common::{Value, configuration_of, founding_incarnation};
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::Record;
use synod_wire::{Ballot, Configuration, Member, NodeId, Slot};

/// See the module.
pub(super) struct Agreement {
    /// The configurations, each with the slot above which it governs.
    configurations: Vec<(Slot, Configuration)>,
    proposed: BTreeMap<(Slot, Ballot), Value>,
    /// By which life of which node.
    votes: BTreeMap<(Slot, Ballot), BTreeSet<(NodeId, u64)>>,
    /// Up to `last_final` for good, as everything below is chosen; above it only while the last configuration governs.
    chosen: BTreeMap<Slot, (Ballot, Value)>,
    last_final: Slot,
}

impl Agreement {
    pub(super) fn new(founding: Configuration) -> Agreement {
        Agreement {
            configurations: vec![(Slot::ZERO, founding)],
            proposed: BTreeMap::new(),
            votes: BTreeMap::new(),
            chosen: BTreeMap::new(),
            last_final: Slot::ZERO,
        }
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
                for range in ranges.iter() {
                    // What an earlier configuration's members chose above a later one is not final, and not kept here.
                    let later = self.configurations.iter().find(|(_, configuration)| configuration.epoch > range.epoch);
                    let last = later.map_or(range.last, |(slot, _)| range.last.min(*slot));
                    let unchosen = (range.first.0..=last.0).find(|slot| !self.chosen.contains_key(&Slot(*slot)));
                    assert_eq!(unchosen, None, "node {node}: a slot of {range:?} recorded as chosen is not");
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_durable(&mut self, node: NodeId, life: u64, logged: &Logged) {
        let Record::Accepted { slot, ballot, .. } = &logged.record else { return };
        self.votes.entry((*slot, *ballot)).or_default().insert((node, life));
        self.count(*slot, *ballot);
        self.finalize();
    }

    /// Counts the votes among the members that the configuration names which governs the slot, as far as is known.
    fn count(&mut self, slot: Slot, ballot: Ballot) {
        let governs = self.configurations.iter().rev().find(|(above, _)| slot > *above);
        let (_, configuration) = governs.expect("the founding one governs all slots");
        let life = |member: &Member| {
            if member.incarnation == 0 { founding_incarnation(member.node.0) } else { member.incarnation }
        };
        let voters = configuration.members().iter().filter(|member| member.voter);
        let votes = &self.votes[&(slot, ballot)];
        if voters.filter(|voter| votes.contains(&(voter.node, life(voter)))).count() >= configuration.quorums.phase2 {
            let value = &self.proposed[&(slot, ballot)];
            let chosen = self.chosen.entry(slot).or_insert_with(|| (ballot, value.clone()));
            assert_eq!(&chosen.1, value, "slot {slot}: chosen in ballot {} and, otherwise, in {ballot}", chosen.0);
        }
    }

    /// What has everything below it chosen is final; where that is a configuration, the slots above are counted anew.
    fn finalize(&mut self) {
        while let Some((_, value)) = self.chosen.get(&self.last_final.next()) {
            self.last_final = self.last_final.next();
            let Some(configuration) = configuration_of(value) else { continue };
            let last = self.configurations.last().expect("the founding one").1;
            assert_eq!(configuration.parent, last.epoch, "each configuration follows the one before it");
            self.configurations.push((self.last_final, configuration));
            self.chosen.retain(|slot, _| *slot <= self.last_final);
            let above: Vec<_> = self.votes.range((self.last_final.next(), Ballot::ZERO)..).map(|(at, _)| *at).collect();
            above.into_iter().for_each(|(slot, ballot)| self.count(slot, ballot));
        }
    }

    pub(super) fn configuration(&self) -> &Configuration {
        &self.configurations.last().expect("the founding one").1
    }

    pub(super) fn on_deliver(&mut self, node: NodeId, slot: Slot, value: &Value) {
        assert!(slot <= self.last_final, "node {node} delivers slot {slot}; all is chosen up to {}", self.last_final);
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
