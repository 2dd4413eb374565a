//! Who may vote. A freshly formatted node waits until every founding member has confirmed that the group is new; a
//! restarted one until as many peers as a quorum needs have had the chance to say that it is behind what they counted.
//!
//! This closes three schedules: an acceptor that lost its disk votes a second time in a ballot that it forgot (FAULTS 21),
//! one whose disk was rolled back does (22), and one of them is confirmed by an answer that an earlier start was owed (40).

use crate::replica::Replica;
use crate::types::*;
use alloc::vec::Vec;
use synod_wire::mutant::mutant;
use synod_wire::{Epoch, Lsn, NodeId, Slot};

/// Peers' Lsns are noted in the log when one has grown by this many records, so that an idle group does not write.
const MARK_EVERY_RECORDS: u64 = 256;

impl Replica {
    pub(crate) fn say_hello(&mut self) {
        self.send(self.peers, self.hello(), Lsn::ZERO);
        self.finish_joining();
    }

    /// Who does not vote hears no leader: perhaps it is no member any more, and nobody speaks to it. The members tell it, if it asks.
    pub(crate) fn ask_whether_member(&mut self) {
        self.expect_leader();
        if self.founded.is_some() {
            self.send(self.peers, self.hello(), Lsn::ZERO);
        }
    }

    /// A member speaks that this node, which waits to be known, did not know of.
    pub(crate) fn greet(&mut self, from: NodeId) {
        if !self.peers.contains(from) {
            self.send_to(from, self.hello(), Lsn::ZERO);
        }
    }

    fn hello(&self) -> Message {
        let Settings { incarnation, seed: start, .. } = self.settings;
        Message::Hello { incarnation, fresh: self.founded.is_none(), start, prefix: self.prefix }
    }

    pub(crate) fn on_hello(&mut self, (from, epoch): (NodeId, Epoch), incarnation: u64, start: u64, prefix: Slot) {
        if self.joins() && self.config.epoch == Epoch(1) {
            // It has yet to learn who the members are.
            return;
        }
        let founded_with = self.standing_of(from);
        // What was counted from an earlier life of its log says nothing of this one's.
        let same_life = founded_with == incarnation || self.founded.is_none();
        let counted = self.counted.get(&from).copied().filter(|_| same_life).unwrap_or_default();
        let counted = if mutant("counted_lsn_not_told") { Lsn::ZERO } else { counted };
        let ack = Message::HelloAck {
            incarnation: self.settings.incarnation,
            to_incarnation: incarnation,
            to_start: start,
            founded_with,
            counted,
            prefix: self.prefix,
        };
        // A founding record that is not durable yet must not confirm anything.
        self.send_to(from, ack, self.founded_lsn);
        // Whoever knows a later configuration: the one who has to confirm, or to be confirmed, may be known by that one alone.
        if epoch > self.config.epoch {
            self.fetch_upto(from, prefix);
        }
    }

    pub(crate) fn on_hello_ack(
        &mut self,
        (from, epoch): (NodeId, Epoch),
        incarnation: u64,
        (to, to_start): (u64, u64),
        founded_with: u64,
        counted: Lsn,
        prefix: Slot,
    ) {
        if to != self.settings.incarnation {
            return;
        }
        let known = founded_with == self.settings.incarnation;
        if founded_with != 0 && !known && !mutant("amnesiac_votes") {
            return self.reproach(from, epoch, founded_with);
        }
        let held = self.held_when_counted();
        if counted > held && !mutant("amnesiac_votes") && !mutant("rolled_back_votes") {
            return self.halt(Halt::Behind { peer: from, counted, durable: held });
        }
        if self.founded.is_none() && self.joins() {
            if !known && !mutant("amnesiac_votes") {
                return;
            }
            self.founded = Some([(self.settings.me, self.settings.incarnation)].into());
            self.founded_lsn = self.persist(Record::Founded([(self.settings.me, self.settings.incarnation)].into()));
        }
        // Reproach holds however late it comes. Confirmation is for the start that asked: what was said to an earlier one may
        // be older than the votes that are missing now.
        let asked = to_start == self.settings.seed || mutant("old_hello_ack_confirms");
        if self.role == Role::Joining && asked {
            self.confirmed.insert(from, incarnation);
            self.finish_joining();
        }
        // Without a leader nobody else says how far the log goes. An election waits for what its candidate lacks, and damage may be
        // repaired piece by piece, each with a recovery: it is better done before.
        if self.leader.is_none() || epoch > self.config.epoch {
            self.fetch_upto(from, prefix);
        }
    }

    /// How far the log went when anything was said that a peer may have counted. Who has yet to join has said nothing of the kind in
    /// this life; what it fetches meanwhile makes its log as long again as one that it lost.
    fn held_when_counted(&self) -> Lsn {
        if self.role == Role::Joining && !mutant("fetched_taken_for_lost") { self.found_lsn } else { self.durable }
    }

    /// What a member says that it has delivered is chosen.
    fn fetch_upto(&mut self, from: NodeId, prefix: Slot) {
        self.known_chosen = self.known_chosen.max(prefix);
        self.fetch_from(from, self.known_chosen);
    }

    /// A member knows this node under another life of its log, or not at all.
    fn reproach(&mut self, peer: NodeId, epoch: Epoch, founded_with: u64) {
        let fresh = self.founded.is_none();
        if fresh && self.joins() {
            // Its addition is still to come, or to be heard of by that member.
            return;
        }
        if fresh {
            return self.halt(Halt::FormattedAnew { peer });
        }
        // Who is behind in the log may not have heard of this node, or only of an earlier life of it; and who joined and is behind
        // itself has not come to where it was added.
        if self.joins() && !self.is_member() && !self.removed {
            return;
        }
        let agree = epoch == self.config.epoch && !self.is_member();
        if epoch > self.config.epoch || agree {
            self.halt(Halt::Removed { epoch });
        } else if epoch == self.config.epoch && founded_with != NOT_A_MEMBER {
            self.halt(Halt::FormattedAnew { peer });
        }
    }

    /// Begins to vote once enough peers have answered.
    pub(crate) fn finish_joining(&mut self) {
        if self.founded.is_none() && self.joins() && !mutant("amnesiac_votes") {
            // A member that knows it says so first.
            return;
        }
        if self.founded.is_none() {
            let some_suffice = mutant("amnesiac_votes") || mutant("founded_by_some");
            if self.confirmed.len() < self.peers.len() && !some_suffice {
                return;
            }
            let mut members: Vec<(NodeId, u64)> = self.confirmed.iter().map(|(node, inc)| (*node, *inc)).collect();
            members.push((self.settings.me, self.settings.incarnation));
            members.sort_unstable();
            self.founded = Some(members.clone());
            self.founded_lsn = self.persist(Record::Founded(members));
        }
        let others = self.config.quorums.phase1.max(self.config.quorums.phase2) - 1;
        // Who does not know itself a member yet knows no more of the members than that one of them knows it.
        let others = if self.joins() && !self.is_member() { 1 } else { others };
        if self.durable >= self.founded_lsn && self.confirmed.len() >= others && self.role == Role::Joining {
            self.become_role(Role::Follower, Reason::Joined);
        }
    }

    /// Notes in the log what was counted from the peers, now and then.
    pub(crate) fn mark_peers(&mut self) {
        let marked = &self.marked;
        let due = self
            .counted
            .iter()
            .any(|(node, lsn)| lsn.0 >= marked.get(node).copied().unwrap_or_default().0 + MARK_EVERY_RECORDS);
        if due {
            self.marked.extend(self.counted.iter().map(|(node, lsn)| (*node, *lsn)));
            self.persist(Record::PeerMarks);
        }
    }

    /// What [`Record::PeerMarks`] notes: the peers, and the highest Lsn counted from each.
    pub fn peer_marks(&self) -> impl Iterator<Item = (NodeId, Lsn)> + '_ {
        self.marked.iter().map(|(node, lsn)| (*node, *lsn))
    }
}
