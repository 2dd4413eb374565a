//! At most one value is chosen in a slot, and no acceptor votes for another one in a higher ballot (S1).
//!
//! Source: Lamport, "Paxos Made Simple" (2001), P2b: if a proposal with value v is chosen, then every higher-numbered
//! proposal accepted by any acceptor has value v. Votes are counted from what the simulated disks hold, so the order in
//! which nodes talk about them does not matter. (Under memory durability, also from what they hold in memory after each turn.)

use super::configurations::{Changed, Configurations};
use super::{Checked, Violation, violated};
use crate::disk::Logged;
use std::collections::BTreeMap;
use synod_wire::frame::Kind;
use synod_wire::{Ballot, Epoch, NodeId, NodeSet, Slot};

const PROPERTY: &str = "one value per slot";

struct Votes {
    crc: u32,
    nodes: NodeSet,
}

/// See the module.
#[derive(Default)]
pub(crate) struct OneValue {
    votes: BTreeMap<(Slot, Ballot), Votes>,
    chosen: BTreeMap<Slot, (Ballot, u32)>,
    /// Slots that the members before a configuration had chosen out of order, and the epoch of that configuration.
    voided: BTreeMap<Slot, Epoch>,
}

impl OneValue {
    /// A record of `node` is durable.
    pub(crate) fn logged(&mut self, members: &Configurations, node: usize, record: &Logged) -> Checked {
        let (slot, ballot, crc) = (record.header.slot, record.header.ballot, record.payload_crc);
        match record.header.kind {
            Kind::Accept => self.vote(members, node, (slot, ballot, crc)),
            Kind::Learnt => self.same(node, slot, crc, "learnt"),
            _ => Ok(()),
        }
    }

    /// `node` has voted: durably, or, under memory durability, in memory.
    pub(crate) fn vote(
        &mut self,
        members: &Configurations,
        node: usize,
        (slot, ballot, crc): (Slot, Ballot, u32),
    ) -> Checked {
        if let Some((below, chosen)) = self.chosen.get(&slot)
            && ballot > *below
            && crc != *chosen
        {
            let detail = format!(
                "slot {slot} was chosen in ballot {below} with value {chosen:08x}, yet n{node} accepted {crc:08x} in {ballot}"
            );
            return violated(PROPERTY, detail);
        }
        let votes = self.votes.entry((slot, ballot)).or_insert(Votes { crc, nodes: NodeSet::EMPTY });
        if votes.crc != crc {
            return violated(PROPERTY, format!("slot {slot}: two values in ballot {ballot}, one of them at n{node}"));
        }
        votes.nodes.insert(NodeId(node as u8));
        if !is_quorum(members, slot, votes.nodes) {
            return Ok(());
        }
        self.choose(slot, ballot, crc)
    }

    /// A quorum holds a value durably.
    fn choose(&mut self, slot: Slot, ballot: Ballot, crc: u32) -> Checked {
        if let Some((lowest, chosen)) = self.chosen.get_mut(&slot) {
            if *chosen != crc {
                return violated(PROPERTY, format!("slot {slot}: two values are chosen"));
            }
            // A vote in a lower ballot is counted late if its node was frozen when it became durable.
            *lowest = ballot.min(*lowest);
            return Ok(());
        }
        self.chosen.insert(slot, (ballot, crc));
        let above = (slot, Ballot { round: ballot.round, node: NodeId(ballot.node.0 + 1) })..=(slot, HIGHEST);
        match self.votes.range(above).find(|(_, votes)| votes.crc != crc) {
            None => Ok(()),
            Some(((_, higher), _)) => violated(
                PROPERTY,
                format!("slot {slot} is chosen in ballot {ballot}, though another value has votes in {higher}"),
            ),
        }
    }

    /// A configuration governs the slots above this one: what the members of the last one chose there out of order is merely
    /// accepted. Those votes count again, but for those of an earlier life of a log. True: a slot is not chosen any more.
    pub(crate) fn reconfigured(
        &mut self,
        members: &Configurations,
        above: Slot,
        changed: Changed,
    ) -> Result<bool, Violation> {
        let lost = match changed {
            Changed::Added(node) | Changed::Reborn(node) => Some(node),
            Changed::Promoted(_) | Changed::Removed(_) => None,
        };
        let lost: NodeSet = lost.into_iter().collect();
        let were_chosen = self.chosen.split_off(&above.next());
        let mut quorums = Vec::new();
        for ((slot, ballot), votes) in self.votes.range_mut((above.next(), Ballot::ZERO)..) {
            votes.nodes = NodeSet(votes.nodes.0 & !lost.0);
            if is_quorum(members, *slot, votes.nodes) {
                quorums.push((*slot, *ballot, votes.crc));
            }
        }
        quorums.into_iter().try_for_each(|(slot, ballot, crc)| self.choose(slot, ballot, crc))?;
        let epoch = members.governing(above.next()).epoch;
        self.voided.extend(were_chosen.keys().map(|slot| (*slot, epoch)));
        Ok(were_chosen.keys().any(|slot| !self.chosen.contains_key(slot)))
    }

    /// A node acts on a value as chosen.
    fn same(&self, node: usize, slot: Slot, crc: u32, did: &str) -> Checked {
        match self.chosen.get(&slot) {
            Some((_, chosen)) if *chosen == crc => Ok(()),
            Some(_) => violated(PROPERTY, format!("n{node} {did} another value in slot {slot} than was chosen")),
            None => violated(PROPERTY, format!("n{node} {did} a value in slot {slot} that no quorum holds durably")),
        }
    }

    /// A node applies a value.
    pub(crate) fn applied(&self, node: usize, slot: Slot, crc: u32) -> Checked {
        self.same(node, slot, crc, "applied")
    }

    /// Who has durably accepted `slot` in `ballot`.
    pub(crate) fn voted(&self, slot: Slot, ballot: Ballot) -> NodeSet {
        self.votes.get(&(slot, ballot)).map_or(NodeSet::EMPTY, |votes| votes.nodes)
    }

    /// The checksum of the value that has votes for `slot` in `ballot`.
    pub(crate) fn value(&self, slot: Slot, ballot: Ballot) -> Option<u32> {
        self.votes.get(&(slot, ballot)).map(|votes| votes.crc)
    }

    /// The lowest ballot that chose `slot`, and the checksum of what it chose.
    pub(crate) fn chosen(&self, slot: Slot) -> Option<(Ballot, u32)> {
        self.chosen.get(&slot).copied()
    }

    /// Whether a quorum holds a value of `slot` durably.
    pub(crate) fn is_chosen(&self, slot: Slot) -> bool {
        self.chosen.contains_key(&slot)
    }

    /// Whether it is chosen, or was by the members whom one that goes by this epoch knows.
    pub(crate) fn was_chosen(&self, slot: Slot, epoch: Epoch) -> bool {
        self.is_chosen(slot) || self.voided.get(&slot).is_some_and(|by| epoch < *by)
    }

    /// Whether `slot` was chosen in a ballot below this one.
    pub(crate) fn chosen_below(&self, slot: Slot, ballot: Ballot) -> bool {
        self.chosen.get(&slot).is_some_and(|(chosen, _)| *chosen < ballot)
    }

    /// Whether `slot` was chosen, and not in this ballot first.
    pub(crate) fn chosen_in_another(&self, slot: Slot, ballot: Ballot) -> bool {
        self.chosen.get(&slot).is_some_and(|(chosen, _)| *chosen != ballot)
    }

    /// The highest slot chosen, and its ballot.
    pub(crate) fn highest(&self) -> (Slot, Ballot) {
        self.chosen.last_key_value().map_or_else(Default::default, |(slot, (ballot, _))| (*slot, *ballot))
    }
}

/// Whether those who vote in the slot are enough of `nodes`.
fn is_quorum(members: &Configurations, slot: Slot, nodes: NodeSet) -> bool {
    let configuration = members.governing(slot);
    NodeSet(nodes.0 & configuration.voters().0).len() >= configuration.quorums.phase2
}

const HIGHEST: Ballot = Ballot { round: u64::MAX, node: NodeId(u8::MAX) };
