//! What is told of who chose a slot is true: the votes that a leader counts, the acceptors that it names to its peers, and all
//! that any node tells a client that asks for evidence (its own vote, the value, the ballot that chose it, the acceptors, the
//! quorums), is borne out by the votes on the simulated disks.
//!
//! Source: DESIGN, "Applying": chosen records and commit messages carry slot range, ballot, epoch and the bitmap of acceptors:
//! that is the evidence which `verify` and `evidence` read. An acceptor may be named for a slot that it knew chosen
//! already, in a lower ballot ("Votes and ballots": both count only slots accepted in that reply's ballot or known chosen).

use super::configurations::Configurations;
use super::one_value::OneValue;
use super::{Checked, violated};
use crate::plan::Plan;
use std::collections::BTreeMap;
use synod_paxos::Replica;
use synod_wire::evidence::{EvidenceReplyBody, Held, Told};
use synod_wire::frame::{Header, Kind};
use synod_wire::record::ChosenRange;
use synod_wire::{Ballot, Configuration, NodeId, NodeSet, Slot};
use zerocopy::FromBytes;

const PROPERTY: &str = "evidence is true";

/// See the module.
pub(crate) struct Evidence {
    /// Told in this turn, by whom; what the turn made durable is not yet known when it is told.
    told: Vec<(usize, ChosenRange)>,
    /// The slot that each question of a client is about, by client and number.
    asked: BTreeMap<(usize, u64), Slot>,
    /// Under memory durability a vote for what is delivered in the same turn is counted nowhere: single votes cannot be held to.
    votes_on_disk: bool,
}

impl Evidence {
    pub(crate) fn new(plan: &Plan) -> Evidence {
        Evidence { told: Vec::new(), asked: BTreeMap::new(), votes_on_disk: !plan.memory_durability }
    }

    /// A client asks who chose a slot; by its number, or by a sequence that was given in it.
    pub(crate) fn asked(&mut self, client: usize, request_id: u64, slot: Slot) {
        self.asked.insert((client, request_id), slot);
    }

    /// A client hears what a node tells. True: it told who chose the slot.
    pub(crate) fn heard(
        &self,
        (one_value, members): (&OneValue, &Configurations),
        (client, node): (usize, usize),
        body: &EvidenceReplyBody,
    ) -> Result<bool, super::Violation> {
        let (Some(Told::Told), Some(held)) = (body.told(), body.held()) else { return Ok(false) };
        let slot = Slot(body.slot.get());
        let asked = self.asked.get(&(client, body.request_id.get())).copied();
        let wrong = |what: String| violated(PROPERTY, format!("n{node} tells c{client} of slot {slot}: {what}"));
        if asked != Some(slot) {
            return wrong(format!("asked for was {asked:?}"));
        }
        let quorums = (usize::from(body.phase1), usize::from(body.phase2));
        // None, from one who has not come so far, or joined too late to know.
        let told = members.of_epoch(body.epoch.get()).filter(|told| told.epoch == members.governing(slot).epoch);
        let is = told.map(|told| (told.voters(), (told.quorums.phase1, told.quorums.phase2)));
        if body.epoch.get() > 0 && is != Some((NodeSet(body.members.get()), quorums)) {
            return wrong(format!("members {:#b} with quorums {quorums:?}", body.members.get()));
        }
        let (ballot, crc) = (Ballot::unpack(body.ballot.get()), body.payload_crc.get());
        let voted = held == Held::Accepted && self.votes_on_disk;
        if voted && !one_value.voted(slot, ballot).contains(NodeId(node as u8)) {
            return wrong(format!("it accepted it in ballot {ballot}, which is not on its disk"));
        }
        if voted && one_value.value(slot, ballot) != Some(crc) {
            return wrong(format!("ballot {ballot} has the value {crc:08x}, which is another one's"));
        }
        let chosen = one_value.chosen(slot);
        let known_chosen = body.known_chosen == 1 || held == Held::Learnt;
        if known_chosen && chosen.is_none_or(|(_, value)| value != crc) {
            return wrong(format!("the value {crc:08x} was chosen; on the disks it is {chosen:?}"));
        }
        self.named(one_value, told, slot, body).or_else(wrong)
    }

    /// Whether acceptors are named, and rightly; in words if not.
    fn named(
        &self,
        one_value: &OneValue,
        told: Option<&Configuration>,
        slot: Slot,
        body: &EvidenceReplyBody,
    ) -> Result<bool, String> {
        let (ballot, acceptors) = (Ballot::unpack(body.chosen_ballot.get()), NodeSet(body.acceptors.get()));
        if ballot == Ballot::ZERO {
            return Ok(false);
        }
        if one_value.chosen(slot).is_none_or(|(lowest, _)| lowest > ballot) {
            return Err(format!("ballot {ballot} chose it, in which no quorum voted"));
        }
        if acceptors.is_empty() {
            return Ok(false);
        }
        let voted = one_value.voted(slot, ballot);
        let no_quorum =
            |told: &Configuration| acceptors.len() < told.quorums.phase2 || acceptors.0 & !told.voters().0 != 0;
        if told.is_some_and(no_quorum) {
            return Err(format!("{acceptors:?} are no quorum"));
        }
        let liars = acceptors.0 & !voted.0 != 0 && self.votes_on_disk;
        if liars && !one_value.chosen_below(slot, ballot) {
            return Err(format!("{acceptors:?} chose it in ballot {ballot}; on disk it is at {voted:?}"));
        }
        Ok(true)
    }

    /// A node has taken a turn: the votes that it counts for what it proposed, and which no quorum has chosen yet. Who was replaced
    /// and does not know it also counts those who know the slot chosen in a higher ballot, and were not asked to promise that ballot.
    /// They make no quorum for another value: one of each phase 1 quorum of that ballot would have to vote below its promise.
    pub(crate) fn counted(&self, one_value: &OneValue, node: usize, core: &Replica) -> Checked {
        if !self.votes_on_disk || !core.leads() {
            return Ok(());
        }
        let ballot = core.promised();
        for (slot, counted) in core.votes_counted().filter(|(_, counted)| !counted.is_empty()) {
            let voted = one_value.voted(slot, ballot);
            if counted.0 & !voted.0 != 0 && !one_value.chosen_in_another(slot, ballot) {
                let detail = format!(
                    "n{node} counts votes of {counted:?} for slot {slot} in ballot {ballot}; on disk it is at {voted:?}"
                );
                return violated(PROPERTY, detail);
            }
        }
        Ok(())
    }

    /// A frame leaves a node.
    pub(crate) fn sent(&mut self, node: usize, header: &Header, payload: &[u8]) {
        if header.kind == Kind::Chosen
            && let Ok(rows) = <[ChosenRange]>::ref_from_bytes(payload)
        {
            // Without acceptors it repeats what another leader's log says.
            self.told.extend(rows.iter().filter(|row| row.acceptors.get() != 0).map(|row| (node, *row)));
        }
    }

    /// The turn is over, and what it made durable is counted.
    pub(crate) fn check(&mut self, one_value: &OneValue) -> Checked {
        for (node, row) in self.told.drain(..) {
            let (ballot, acceptors) = (Ballot::unpack(row.ballot.get()), NodeSet(row.acceptors.get()));
            for slot in (row.first.get()..=row.last.get()).map(Slot) {
                let voted = one_value.voted(slot, ballot);
                if acceptors.0 & !voted.0 != 0 && !one_value.chosen_below(slot, ballot) {
                    let detail = format!(
                        "n{node} says that {acceptors:?} chose slot {slot} in ballot {ballot}; on disk it is at {voted:?}"
                    );
                    return violated(PROPERTY, detail);
                }
            }
        }
        Ok(())
    }
}
