//! Pre-vote: who hears no leader asks whether the others hear one either, before it raises its ballot (Ongaro, "Consensus:
//! Bridging Theory and Practice", 2014, section 9.6). A member that was cut off, or that hears everybody but the leader, would depose
//! a leader whom a quorum follows otherwise.
//!
//! The answers promise nothing, are not logged, and bind nobody: a yes that comes late or twice, or is lost, can cost an election
//! or put one off, and no more. Who was handed the leadership stands without asking (`transfer.rs`).
//!
//! | schedule | closed by |
//! |---|---|
//! | time-outs end at nearly the same time, and one that has waited a little less says no | half the shortest time-out of silence is enough for a yes, and who asks asks again |
//! | one that has promised a ballot above the leader's is told no for ever | the leader hears of that ballot in the answer to its heartbeat, and yields |
//! | the leader lost its quorum, and its followers hear it still | it steps down by itself (check-quorum), and a leader that asks leads no longer |
//! | the ballot that it would stand in is below what the others promised | their answers name that |

use crate::replica::Replica;
use crate::types::*;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn, NodeId, NodeSet};

/// What a replica keeps for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PreVote {
    /// The rounds begun since the start.
    rounds: u64,
    /// Who said yes in the round that is open.
    granted: Option<NodeSet>,
    /// When a leader was last heard, or a candidate promised to, by this node itself.
    led_ns: Option<u64>,
}

impl PreVote {
    /// A leader is heard, or a candidate promised to.
    pub(crate) fn note_led(&mut self, now_ns: u64) {
        self.led_ns = Some(now_ns);
        self.granted = None;
    }

    /// The question is of no use any more.
    pub(crate) fn end(&mut self) {
        self.granted = None;
    }

    /// Whether answers are awaited.
    pub(crate) fn is_open(&self) -> bool {
        self.granted.is_some()
    }
}

impl Replica {
    /// The election time-out is over: asks the voters, and stands if a phase 1 quorum hears no leader.
    pub(crate) fn begin_pre_vote(&mut self) {
        self.leader = None;
        self.pre_vote.rounds += 1;
        self.pre_vote.granted = Some([self.settings.me].into_iter().collect());
        self.tick_at_ns = self.now_ns + self.settings.retransmit_ns;
        self.expect_leader();
        self.send_pre_vote();
        self.conclude_pre_vote();
    }

    /// Asks those who have not said yes.
    pub(crate) fn send_pre_vote(&mut self) {
        let Some(granted) = self.pre_vote.granted else { return };
        let asked = NodeSet(self.peers.0 & self.config.voters().0 & !granted.0);
        let (start, round) = (self.settings.seed, self.pre_vote.rounds);
        self.send(asked, Message::PreVote { start, round }, Lsn::ZERO);
    }

    pub(crate) fn on_pre_vote(&mut self, from: NodeId, start: u64, round: u64) {
        let stepped_down = self.leader == Some(from);
        if stepped_down {
            self.leader = None;
        }
        let granted = self.hears_no_leader(self.now_ns) || stepped_down || mutant("pre_vote_always_yes");
        // A learner that does not know yet that it may vote has a say, too: whose yes counts is for those who ask to know.
        let granted = granted && !self.is_bound(from);
        let ack = Message::PreVoteAck { start, round, granted, promised: self.promised };
        self.send_to(from, ack, Lsn::ZERO);
    }

    pub(crate) fn on_pre_vote_ack(
        &mut self,
        from: NodeId,
        (start, round): (u64, u64),
        granted: bool,
        promised: Ballot,
    ) {
        if start != self.settings.seed || round != self.pre_vote.rounds {
            return;
        }
        self.highest_seen = self.highest_seen.max(promised);
        if let Some(yes) = self.pre_vote.granted.as_mut().filter(|_| granted) {
            yes.insert(from);
            self.conclude_pre_vote();
        }
    }

    fn conclude_pre_vote(&mut self) {
        let Some(granted) = self.pre_vote.granted else { return };
        let granted = NodeSet(granted.0 & self.config.voters().0);
        if granted.len() >= self.config.quorums.phase1 || mutant("pre_vote_not_awaited") {
            self.stand(Reason::ElectionTimeout);
        }
    }

    /// Whether no leader, and no candidate that may become one, was heard for half the shortest time-out before this time.
    pub fn hears_no_leader(&self, now_ns: u64) -> bool {
        let quiet_ns = self.settings.election_min_ns / 2;
        let quiet = self.pre_vote.led_ns.is_none_or(|led_ns| led_ns + quiet_ns <= now_ns);
        match self.role {
            Role::Follower | Role::Candidate => quiet,
            Role::Joining | Role::Preparing | Role::Leader | Role::Halted => false,
        }
    }
}
