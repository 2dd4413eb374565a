//! The leader: phase 2, pipelined, with selective acknowledgement, and the signs of life around it.

use crate::election::Plan;
use crate::replica::Replica;
use crate::types::*;
use crate::window::{Accepted, SlotState};
use alloc::collections::BTreeMap;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn, NodeId, NodeSet, Slot};

/// Slots proposed, fetched or sent again in one step, so that a step's outputs are bounded.
pub const BURST_SLOTS: usize = 16;
/// An accept request goes out again after `retransmit_ns << resends`, at most this far.
const MAX_BACKOFF_SHIFT: u32 = 4;

/// What only a leader keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leading {
    /// The next free slot.
    pub(crate) next_slot: Slot,
    /// Serving starts when this slot is delivered.
    pub(crate) barrier: Slot,
    /// What phase 1 found and is not proposed yet.
    pub(crate) plan: BTreeMap<Slot, Plan>,
    /// When a value that the plan waited for came last.
    pub(crate) plan_moved_ns: u64,
    pub(crate) heartbeat_at_ns: u64,
    /// The members are to change: batches wait.
    pub(crate) changing: bool,
    /// The slot of a configuration that this leader has proposed.
    pub(crate) proposed: Option<Slot>,
    /// When each peer last answered in this ballot.
    pub(crate) answered_ns: BTreeMap<NodeId, u64>,
}

impl Leading {
    pub(crate) fn reset(&mut self) {
        *self = Leading::default();
    }
}

impl Replica {
    /// Phase 1 is complete: proposes what it found and the barrier above it.
    pub(crate) fn lead(&mut self, plan: BTreeMap<Slot, Plan>) {
        let barrier = plan.keys().next_back().copied().unwrap_or_else(|| self.prefix.next());
        self.leading = Leading {
            next_slot: barrier.next(),
            barrier,
            plan,
            plan_moved_ns: self.now_ns,
            heartbeat_at_ns: self.now_ns,
            changing: false,
            proposed: None,
            answered_ns: self.peers.iter().map(|peer| (peer, self.now_ns)).collect(),
        };
        self.become_role(Role::Preparing, Reason::Elected);
        self.beat();
        self.fetch_planned();
        self.adopt_some();
    }

    /// Proposes some of what phase 1 found; the rest with the next tick.
    pub(crate) fn adopt_some(&mut self) {
        let ready = self.leading.plan.iter().filter(|(_, plan)| !matches!(plan, Plan::Fetch(..)));
        let ready: alloc::vec::Vec<(Slot, Plan)> = ready.map(|(slot, plan)| (*slot, *plan)).take(BURST_SLOTS).collect();
        for (slot, plan) in ready {
            self.leading.plan.remove(&slot);
            let held = self.window.get(slot).and_then(|state| state.accepted).map(|held| held.mark);
            let (mark, source) = match plan {
                Plan::Held if held == Some(Mark::Configuration) => (Mark::Configuration, Source::Held),
                Plan::Held => (Mark::Batch, Source::Held),
                Plan::Barrier => (Mark::Barrier, Source::Noop),
                _ => (Mark::Batch, Source::Noop),
            };
            self.offer(slot, mark, source);
        }
    }

    /// Whether a batch may be proposed now: this node leads, serves, does not hand over, and its window has room.
    pub fn can_propose(&self) -> bool {
        let open = self.leading.next_slot.0 <= self.prefix.0 + self.settings.window_slots;
        let free = !self.leading.changing && !self.is_handing_over() && self.votes();
        self.role == Role::Leader && free && (open || mutant("window_unbounded"))
    }

    /// Proposes the batch of this step in the next slot.
    pub(crate) fn propose(&mut self) {
        assert!(self.can_propose(), "proposed without leave");
        let slot = self.leading.next_slot;
        assert!(slot > self.prefix && self.window.get(slot).is_none(), "another leader's value in the next free slot");
        self.leading.next_slot = slot.next();
        self.offer(slot, Mark::Batch, Source::Proposal);
        if !self.chosen_pending.is_empty() {
            self.emit_chosen();
        }
    }

    /// Logs a value of this ballot and asks all to accept it; the request does not wait for the log, the own vote does.
    pub(crate) fn offer(&mut self, slot: Slot, mark: Mark, source: Source) {
        if slot <= self.prefix || self.window.get(slot).is_some_and(|state| state.chosen) {
            // Learnt as chosen meanwhile.
            return;
        }
        let ballot = self.promised;
        let lsn = self.persist(Record::Accepted { slot, ballot, mark, source });
        let resend_at_ns = self.now_ns + self.settings.retransmit_ns;
        let state = self.window.entry(slot);
        state.accepted = Some(Accepted { ballot, lsn, mark });
        state.unknown = false;
        if !mutant("votes_survive_reelection") {
            state.votes = NodeSet::EMPTY;
        }
        state.resend_at_ns = resend_at_ns;
        state.resends = 0;
        self.undurable.push_back((lsn, slot));
        if mutant("leader_counts_unsynced_vote") {
            self.vote(slot, self.settings.me);
        }
        if mutant("chosen_recorded_when_proposed") {
            let epoch = self.config.epoch;
            self.note_chosen(Evidence { first: slot, last: slot, ballot, acceptors: NodeSet::EMPTY, epoch });
        }
        self.tick_at_ns = self.tick_at_ns.min(resend_at_ns).max(self.now_ns);
        self.send(self.peers, Message::Accept { ballot, slot, mark }, Lsn::ZERO);
    }

    /// Counts a durable vote for what this leader proposed at `slot`.
    pub(crate) fn vote(&mut self, slot: Slot, node: NodeId) {
        let (ballot, quorum, epoch) = (self.promised, self.config.quorums.phase2, self.config.epoch);
        if !self.config.is_voter(node) && !mutant("non_voter_counted") {
            return;
        }
        let Some(state) = self.window.get_mut(slot) else { return };
        if state.chosen || state.accepted.is_none_or(|held| held.ballot != ballot) {
            return;
        }
        state.votes.insert(node);
        if state.votes.len() + usize::from(mutant("own_vote_counted_twice")) < quorum {
            return;
        }
        state.chosen = true;
        state.epoch = epoch;
        let acceptors = state.votes;
        self.note_chosen(Evidence { first: slot, last: slot, ballot, acceptors, epoch });
    }

    /// Keeps evidence until it can travel with an accept request, or its linger ends.
    fn note_chosen(&mut self, evidence: Evidence) {
        if !self.chosen_pending.push(evidence) {
            self.emit_chosen();
            assert!(self.chosen_pending.push(evidence), "an empty list has room");
        }
        let due = self.now_ns + self.settings.commit_linger_ns;
        self.chosen_due_ns.get_or_insert(due);
    }

    pub(crate) fn on_accepted(&mut self, from: NodeId, ballot: Ballot, upto: Slot, bits: [u64; 4]) {
        let of_this_ballot = ballot == self.promised || mutant("old_reply_counted");
        if !self.leads() || !of_this_ballot {
            return;
        }
        self.leading.answered_ns.insert(from, self.now_ns);
        self.note_held(from, upto);
        let last = upto.min(self.window.last());
        for slot in self.prefix.0 + 1..=last.0 {
            self.vote(Slot(slot), from);
        }
        // Mostly there are none: looking at each of 256 places was a third of what an entry cost the leader.
        for (base, mut rest) in (0..).step_by(64).zip(bits) {
            while rest != 0 {
                let bit = base + u64::from(rest.trailing_zeros());
                rest &= rest - 1;
                self.vote(Slot(upto.0.saturating_add(1 + bit)), from);
            }
        }
    }

    /// A peer found a hole: open slots go out again at once, chosen ones as catch-up.
    pub(crate) fn on_missing(&mut self, from: NodeId, ballot: Ballot, first: Slot, last: Slot) {
        if !self.leads() || ballot != self.promised || first > last {
            return;
        }
        if first >= Slot(1) && first <= self.prefix {
            let upto = last.min(self.prefix).min(Slot(first.0.saturating_add(self.settings.fetch_slots - 1)));
            self.out.push_back(Output::ServeCatchUp { to: from, first, last: upto });
        }
        let open = first.max(self.prefix.next());
        for slot in (open.0..=last.min(self.window.last()).0).map(Slot).take(BURST_SLOTS) {
            self.resend(slot, [from].into_iter().collect());
        }
    }

    /// Sends an accept request of this ballot again.
    fn resend(&mut self, slot: Slot, to: NodeSet) {
        let (now_ns, retransmit_ns, ballot) = (self.now_ns, self.settings.retransmit_ns, self.promised);
        let Some(state) = self.window.get_mut(slot) else { return };
        let Some(held) = state.accepted.filter(|held| held.ballot == ballot) else { return };
        state.resends = (state.resends + 1).min(MAX_BACKOFF_SHIFT);
        self.resent += 1;
        state.resend_at_ns = now_ns + (retransmit_ns << state.resends);
        self.send(to, Message::Accept { ballot, slot, mark: held.mark }, Lsn::ZERO);
    }

    /// The timed retransmission: the oldest open slots, to those that have not voted.
    pub(crate) fn resend_open(&mut self) {
        if self.plan_is_stuck() {
            return self.stand(Reason::QuorumLost);
        }
        self.fetch_planned();
        self.adopt_some();
        let (now_ns, peers) = (self.now_ns, self.peers);
        let ballot = self.promised;
        let proposed = |state: &SlotState| state.accepted.is_some_and(|held| held.ballot == ballot);
        let open = self.window.iter().filter(|(_, state)| !state.chosen && proposed(state));
        let due = open.filter(|(_, state)| state.resend_at_ns <= now_ns);
        let due = due.map(|(slot, state)| (slot, NodeSet(peers.0 & !state.votes.0)));
        // Not in a vector: lossy networks retransmit all the time, and the hot path allocates nothing.
        let mut burst = [None; BURST_SLOTS];
        burst.iter_mut().zip(due).for_each(|(place, due)| *place = Some(due));
        for (slot, to) in burst.into_iter().flatten() {
            self.resend(slot, to);
        }
    }

    /// The member that reported a value no longer hands it out, while the heartbeats keep all others waiting: phase 1
    /// again, with those that answer.
    fn plan_is_stuck(&self) -> bool {
        let waits = self.leading.plan.values().any(|plan| matches!(plan, Plan::Fetch(..)));
        waits && self.leading.plan_moved_ns + self.settings.election_max_ns <= self.now_ns
    }

    /// A heartbeat to all; steps down if too few have answered for the longest election time-out.
    pub(crate) fn beat(&mut self) {
        let horizon = self.settings.election_max_ns;
        let voters = self.config.voters();
        let near = |(node, heard): &(&NodeId, &u64)| voters.contains(**node) && **heard + horizon >= self.now_ns;
        let near = self.leading.answered_ns.iter().filter(near).count() + usize::from(self.votes());
        if near < self.config.quorums.phase2 && !mutant("deaf_leader_goes_on") {
            self.leader = None;
            return self.become_role(Role::Follower, Reason::QuorumLost);
        }
        self.leading.heartbeat_at_ns = self.now_ns + self.settings.heartbeat_ns;
        self.probe();
        self.mark_peers();
    }
}
