//! S3: a ballot is prepared in one life of one node only, and no node votes below what it has promised, across restarts.
//!
//! FAULTS, mutants 4 (ballot not persisted, reused after a restart), 5 and 7 (one variable for promised and accepted).

use std::collections::BTreeMap;
use synod_paxos::Message;
use synod_wire::{Ballot, NodeId};

/// See the module.
#[derive(Default)]
pub(super) struct Ballots {
    /// Which life of its node prepared a ballot.
    prepared: BTreeMap<Ballot, u32>,
    /// The highest ballot that a node has answered in.
    answered: BTreeMap<NodeId, Ballot>,
}

impl Ballots {
    pub(super) fn on_send(&mut self, node: NodeId, life: u32, message: &Message) {
        match message {
            Message::Prepare { ballot, .. } => {
                assert_eq!(ballot.node, node, "prepares another's ballot");
                let first = *self.prepared.entry(*ballot).or_insert(life);
                assert_eq!(first, life, "node {node} prepares ballot {ballot} again after a restart");
                self.answer(node, *ballot);
            }
            Message::Accept { ballot, .. } | Message::Heartbeat { ballot, .. } | Message::Commit { ballot, .. } => {
                // Who needs no other's promise prepares nothing.
                let led = *self.prepared.entry(*ballot).or_insert(life) == life;
                assert!(led && ballot.node == node, "node {node} leads in ballot {ballot}, which it did not prepare");
            }
            Message::Promise { ballot, .. } | Message::Accepted { ballot, .. } => self.answer(node, *ballot),
            Message::HeartbeatAck { ballot, .. } => self.answer(node, *ballot),
            Message::Refused { promised } => self.answer(node, *promised),
            _ => {}
        }
    }

    /// A node lost its log: another life of it begins, which knows nothing.
    pub(super) fn on_lost(&mut self, node: NodeId) {
        self.answered.remove(&node);
        self.prepared.retain(|ballot, _| ballot.node != node);
    }

    fn answer(&mut self, node: NodeId, ballot: Ballot) {
        let answered = self.answered.entry(node).or_default();
        assert!(ballot >= *answered, "node {node} answers in ballot {ballot} after it promised {answered}");
        *answered = ballot;
    }
}
