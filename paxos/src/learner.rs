//! The learner: which slots are chosen, delivery in order, and catch-up.

use crate::replica::Replica;
use crate::types::*;
use crate::window::Accepted;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Epoch, Lsn, NodeId, NodeSet, Slot};

/// A request for chosen values that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub(crate) peer: NodeId,
    pub(crate) last: Slot,
    pub(crate) retry_at_ns: u64,
}

impl Replica {
    /// The highest slot for which anything is kept.
    pub(crate) fn limit(&self) -> Slot {
        Slot(self.prefix.0 + 2 * self.settings.window_slots)
    }

    /// The leader's evidence. Only what is held in the ballot that chose it is taken as chosen; the rest is fetched.
    pub(crate) fn on_commit(&mut self, from: NodeId, ballot: Ballot, ranges: &Ranges) {
        // What is told in no ballot says nothing of who leads.
        if ballot > Ballot::ZERO && ballot.node == from && ballot >= self.promised {
            self.follow(from, ballot);
        }
        for range in ranges.iter() {
            self.known_chosen = self.known_chosen.max(range.last);
            self.take_as_chosen(range);
        }
        self.emit_chosen();
    }

    /// Marks the slots of a range chosen that are held in its ballot.
    fn take_as_chosen(&mut self, range: Evidence) {
        if range.epoch < self.config.epoch && !mutant("chosen_above_configuration_is_final") {
            // Counted among the members of an earlier configuration, which does not govern these slots.
            return;
        }
        let first = range.first.max(self.prefix.next());
        let last = range.last.min(self.window.last());
        for slot in (first.0..=last.0).map(Slot) {
            let Some(state) = self.window.get_mut(slot) else { continue };
            let any = mutant("watermark_over_older_ballot");
            let held = state.accepted.is_some_and(|held| any || held.ballot == range.ballot);
            if !held || state.chosen {
                continue;
            }
            state.chosen = true;
            state.epoch = range.epoch;
            state.unknown = false;
            let evidence = Evidence { first: slot, last: slot, ..range };
            if !self.chosen_pending.push(evidence) {
                self.emit_chosen();
                assert!(self.chosen_pending.push(evidence), "an empty list has room");
            }
        }
    }

    /// Logs the evidence gathered without waiting for its linger: for a driver that is going to read the log again.
    pub fn log_evidence(&mut self) {
        self.emit_chosen();
    }

    /// Logs the evidence gathered, and as leader tells the others. It is a fact already: nothing waits for it.
    pub(crate) fn emit_chosen(&mut self) {
        self.chosen_due_ns = None;
        if self.chosen_pending.is_empty() {
            return;
        }
        let ranges = core::mem::take(&mut self.chosen_pending);
        self.persist(Record::Chosen(ranges));
        if self.leads() {
            self.send(self.peers, Message::Commit { ballot: self.promised, ranges }, Lsn::ZERO);
        }
    }

    /// Logs what the driver calls persisted from here on; gives the record's Lsn.
    pub fn log_durability(&mut self, memory: bool) -> Lsn {
        self.persist(Record::Durability { memory })
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: NodeId,
        lsn: Lsn,
        ballot: Ballot,
        chosen: Slot,
        (probe, asked_ns): (u64, u64),
        epoch: Epoch,
    ) {
        if ballot.node != from {
            return;
        }
        if ballot < self.promised {
            return self.send_to(from, Message::Refused { promised: self.promised }, self.promise_lsn);
        }
        self.count_lsn(from, epoch, lsn);
        if !self.follow(from, ballot) {
            return;
        }
        let lease_ns = self.grant(ballot, probe, asked_ns);
        self.hear_watermark(ballot, chosen);
        // The watermark is good for what was accepted in this leader's ballot; its evidence stands in the leader's log.
        self.take_as_chosen(Evidence {
            first: self.prefix.next(),
            last: chosen,
            ballot,
            acceptors: NodeSet::EMPTY,
            epoch,
        });
        self.emit_chosen();
        self.deliver();
        // Behind the delivery: its prefix says how far this heartbeat got the node.
        let ack = Message::HeartbeatAck { ballot, prefix: self.prefix, probe, lease_ns };
        self.send_to(from, ack, self.promise_lsn.max(self.grant_lsn()).max(self.config_lsn));
        self.fetch_missing();
        self.mark_peers();
        self.date_state();
    }

    /// Delivers what is chosen, in order, and takes what follows from it.
    pub(crate) fn deliver(&mut self) {
        let before = self.prefix;
        while self.awaited.is_none()
            && let Some((slot, state)) = self.window.pop_chosen()
        {
            self.prefix = slot;
            self.out.push_back(Output::Deliver { slot });
            self.prefix_lsn = self.prefix_lsn.max(state.accepted.map_or(Lsn::ZERO, |held| held.lsn));
            let barrier = state.accepted.filter(|held| held.mark == Mark::Barrier);
            if let Some(held) = barrier.filter(|_| self.transfer.is_some()) {
                self.note_successor(held.ballot);
            }
            if barrier.is_some_and(|held| held.ballot > self.recovered_promise) {
                // Phase 1 of that ballot found all that could be chosen without what damage hides here, and this node
                // knows the outcome: above the barrier no older ballot matters.
                self.unknown_all = false;
            }
            if state.accepted.is_some_and(|held| held.mark == Mark::Configuration) {
                // Who governs the next slot, only the driver can read. An answer of this very step names the slot already.
                self.awaited = Some(slot);
                self.config_lsn = self.last_lsn;
            }
        }
        if self.prefix == before || self.awaited.is_some() {
            return;
        }
        self.delivered();
    }

    /// What follows from a longer prefix.
    pub(crate) fn delivered(&mut self) {
        self.note_repair();
        if let Some(fetch) = self.fetch.clone() {
            if self.prefix >= fetch.last {
                self.fetch = None;
            }
            self.fetch_from(fetch.peer, self.known_chosen);
        }
        match self.role {
            Role::Candidate => self.conclude_phase1(),
            Role::Preparing if self.prefix >= self.leading.barrier || mutant("serves_too_early") => {
                self.become_role(Role::Leader, Reason::BarrierChosen);
                self.begin_confirmation();
            }
            Role::Preparing => self.adopt_some(),
            _ => {}
        }
    }

    /// Asks the leader for what is known chosen and not here.
    pub(crate) fn fetch_missing(&mut self) {
        if let Some(leader) = self.leader.filter(|leader| *leader != self.settings.me) {
            self.fetch_from(leader, self.known_chosen);
        }
    }

    /// Asks `peer` for the next slots up to `upto`. While a request is under way, the next one follows when half of what may
    /// be in flight has arrived, so that the answers of one overlap the way of the next.
    pub(crate) fn fetch_from(&mut self, peer: NodeId, upto: Slot) {
        let most = self.settings.fetch_slots;
        let asked = self.fetch.as_ref().map_or(self.prefix, |fetch| fetch.last).max(self.prefix);
        let last = upto.min(Slot(self.prefix.0 + most)).min(self.limit());
        // Under way, only a whole half is worth a request: what is younger comes as accept requests and evidence by itself.
        let least = if self.fetch.is_some() { (most / 2).max(1) } else { 1 };
        if asked.0 - self.prefix.0 > most / 2 || last.0 < asked.0 + least {
            return;
        }
        let retry_at_ns = self.now_ns + self.settings.retransmit_ns;
        self.fetch = Some(Fetch { peer, last, retry_at_ns });
        self.tick_at_ns = self.tick_at_ns.min(retry_at_ns).max(self.now_ns);
        self.send_to(peer, Message::FetchChosen { first: asked.next(), last }, Lsn::ZERO);
    }

    /// An unanswered request goes to the next peer: any that holds the chosen slots can serve.
    pub(crate) fn retry_fetch(&mut self) {
        let Some(fetch) = self.fetch.clone().filter(|fetch| fetch.retry_at_ns <= self.now_ns) else { return };
        // Those who joined later than what is known here may be the only ones left.
        let known = NodeSet(self.peers.0 | self.strangers.0);
        let next = known.iter().find(|peer| *peer > fetch.peer).or(known.iter().next());
        self.fetch = None;
        self.fetch_from(next.unwrap_or(fetch.peer), self.known_chosen);
    }

    pub(crate) fn on_fetch_chosen(&mut self, from: NodeId, first: Slot, last: Slot) {
        let held = if mutant("unchosen_served_as_learnt") { self.window.last() } else { self.prefix };
        let last = last.min(held).min(Slot(first.0.saturating_add(self.settings.fetch_slots - 1)));
        if first.0 >= 1 && first <= last {
            self.out.push_back(Output::ServeCatchUp { to: from, first, last });
        }
    }

    /// A chosen value: logged as learnt, unless it is here already.
    pub(crate) fn on_learn(&mut self, slot: Slot, ballot: Ballot, mark: Mark, epoch: Epoch) {
        // Who had delivered it had delivered the configuration that governs it.
        if slot <= self.prefix || slot > self.limit() || epoch < self.config.epoch {
            return;
        }
        self.highest_seen = self.highest_seen.max(ballot);
        if self.leads() && slot >= self.leading.next_slot {
            // Only the leader of a higher ballot can have proposed where this one has not.
            self.leader = None;
            self.become_role(Role::Follower, Reason::HigherBallot);
        }
        if self.leading.plan.remove(&slot).is_some() {
            self.leading.plan_moved_ns = self.now_ns;
        }
        self.known_chosen = self.known_chosen.max(slot);
        let state = self.window.entry(slot);
        if state.chosen {
            return;
        }
        let lsn = self.persist(Record::Learnt { slot, ballot, mark, epoch });
        let state = self.window.entry(slot);
        state.accepted = Some(Accepted { ballot, lsn, mark });
        state.chosen = true;
        state.epoch = epoch;
        state.unknown = false;
        if let Some(fetch) = &mut self.fetch {
            // It is being answered.
            fetch.retry_at_ns = self.now_ns + self.settings.retransmit_ns;
        }
    }
}
