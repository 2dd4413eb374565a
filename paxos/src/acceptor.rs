//! The acceptor: what it promises and accepts, and the replies that rest on its log.

use crate::replica::Replica;
use crate::types::*;
use crate::window::Accepted;
use alloc::vec::Vec;
use synod_wire::mutant::mutant;
use synod_wire::peer::ACCEPTED_BITS;
use synod_wire::{Ballot, Lsn, NodeId, Slot};

impl Replica {
    pub(crate) fn on_prepare(&mut self, from: NodeId, ballot: Ballot, _prefix: Slot) {
        if ballot.node != from {
            return;
        }
        if ballot < self.promised {
            return self.send_to(from, Message::Refused { promised: self.promised }, self.promise_lsn);
        }
        if ballot > self.promised {
            if self.is_bound(from) {
                // The candidate asks again, and by then the lease may have run out.
                return;
            }
            self.yield_to(ballot, Reason::HigherBallot);
            self.promise_lsn = self.persist(Record::Promised);
        }
        self.send_promise(from);
    }

    /// Takes a higher ballot as promised (the caller logs it) and follows; the time-out starts anew.
    pub(crate) fn yield_to(&mut self, ballot: Ballot, reason: Reason) {
        assert!(ballot > self.promised, "a promise never regresses");
        self.promised = ballot;
        self.highest_seen = self.highest_seen.max(ballot);
        self.highest_in_ballot = self.prefix;
        self.leader = None;
        self.pre_vote.note_led(self.now_ns);
        if self.role == Role::Follower {
            self.expect_leader();
        } else {
            self.become_role(Role::Follower, reason);
        }
    }

    /// The promise of the current ballot, in parts that each cover a fixed range of slots: parts of two tellings with
    /// the same prefix fit together.
    fn send_promise(&mut self, to: NodeId) {
        let span = self.window.last().0 - self.prefix.0;
        let parts = span.div_ceil(PART_SLOTS).max(1);
        for part in 0..parts {
            let first = self.prefix.0 + 1 + part * PART_SLOTS;
            let reports = (first..first + PART_SLOTS).filter_map(|slot| self.report(Slot(slot))).collect();
            let promise = Message::Promise {
                ballot: self.promised,
                prefix: self.prefix,
                part: part as u16,
                parts: parts as u16,
                unknown_all: self.unknown_all,
                reports,
            };
            // Also what is reported as accepted must be durable before it is said.
            let after = if mutant("promise_before_sync") { Lsn::ZERO } else { self.last_lsn };
            self.send_to(to, promise, after);
        }
    }

    /// What a promise says of a slot.
    pub(crate) fn report(&self, slot: Slot) -> Option<Report> {
        let state = self.window.get(slot)?;
        let configures = state.accepted.is_some_and(|held| held.mark == Mark::Configuration);
        let state = match state.accepted {
            Some(accepted) if state.chosen => ReportState::Chosen(accepted.ballot),
            _ if state.unknown => ReportState::Unknown,
            Some(_) if mutant("one_ballot_variable") => ReportState::Accepted(self.promised),
            Some(accepted) => ReportState::Accepted(accepted.ballot),
            None => return None,
        };
        Some(Report { slot, state, configures })
    }

    pub(crate) fn on_accept(&mut self, from: NodeId, ballot: Ballot, slot: Slot, mark: Mark) {
        if ballot.node != from {
            return;
        }
        if ballot < self.promised && !mutant("accepts_below_promise") {
            return self.send_to(from, Message::Refused { promised: self.promised }, self.promise_lsn);
        }
        if !self.follow(from, ballot) {
            return;
        }
        if slot > self.limit() {
            // Too far behind to take it; the heartbeats say how far, and catch-up closes the distance.
            return;
        }
        if slot <= self.prefix || !self.accept(slot, ballot, mark) {
            // Known chosen, or a duplicate: the leader missed the answer.
            return self.send_accepted();
        }
        if mutant("ack_before_sync") {
            self.send_accepted();
        }
        self.ask_for_gap(from, ballot, slot);
    }

    /// Logs the value; false if nothing is to be logged.
    fn accept(&mut self, slot: Slot, ballot: Ballot, mark: Mark) -> bool {
        let state = self.window.entry(slot);
        let any = mutant("higher_ballot_taken_for_duplicate");
        if state.chosen || state.accepted.is_some_and(|held| any || held.ballot == ballot) {
            return false;
        }
        assert!(state.accepted.is_none_or(|held| held.ballot < ballot), "an accepted ballot never regresses");
        let lsn = self.persist(Record::Accepted { slot, ballot, mark, source: Source::Message });
        let state = self.window.entry(slot);
        state.accepted = Some(Accepted { ballot, lsn, mark });
        state.unknown = false;
        self.undurable.push_back((lsn, slot));
        true
    }

    /// Follows `from` in `ballot`, which is not below the promise; false: a lease forbids it for now.
    pub(crate) fn follow(&mut self, from: NodeId, ballot: Ballot) -> bool {
        if ballot > self.promised {
            if self.is_bound(from) {
                self.highest_seen = self.highest_seen.max(ballot);
                return false;
            }
            self.yield_to(ballot, Reason::HigherBallot);
            self.promise_lsn = self.persist(Record::Promised);
        }
        let is_new = self.leader.replace(from) != Some(from);
        self.lost_elections = 0;
        self.hopeless_elections = 0;
        self.pre_vote.note_led(self.now_ns);
        self.expect_leader();
        if is_new {
            self.ask_leader();
        }
        true
    }

    /// A hole below an accept shows that a datagram was lost (or overtaken): ask at once.
    fn ask_for_gap(&mut self, from: NodeId, ballot: Ballot, slot: Slot) {
        let seen = self.highest_in_ballot.max(self.prefix);
        if slot > seen.next() {
            let missing = Message::Missing { ballot, first: seen.next(), last: Slot(slot.0 - 1) };
            self.send_to(from, missing, Lsn::ZERO);
        }
        self.highest_in_ballot = seen.max(slot);
    }

    /// Tells the leader what is durable here. Open slots that are not durable are left out; what was delivered before it
    /// was durable cannot be, so the reply waits for it.
    pub(crate) fn send_accepted(&mut self) {
        let Some(leader) = self.leader.filter(|leader| *leader != self.settings.me) else { return };
        let unsynced = mutant("ack_before_sync") || mutant("duplicate_ack_unsynced");
        let mut after = Lsn::ZERO;
        let mut asserts = |slot: Slot| -> bool {
            let Some(state) = self.window.get(slot) else { return false };
            let Some(held) = state.accepted.filter(|held| held.lsn <= self.durable || unsynced) else { return false };
            let counts = state.chosen || held.ballot == self.promised || mutant("watermark_of_any_ballot");
            if counts {
                after = after.max(held.lsn);
            }
            counts
        };
        let mut upto = self.prefix;
        while asserts(upto.next()) {
            upto = upto.next();
        }
        if mutant("watermark_over_holes") {
            upto = self.window.last();
        }
        let mut bits = [0u64; 4];
        let last = self.window.last().0.min(upto.0 + ACCEPTED_BITS);
        for slot in upto.0 + 1..=last {
            if asserts(Slot(slot)) {
                let bit = slot - upto.0 - 1;
                bits[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        // The ballot and the delivered prefix are asserted too.
        let after = if unsynced { Lsn::ZERO } else { after.max(self.promise_lsn).max(self.prefix_lsn) };
        self.send_to(leader, Message::Accepted { ballot: self.promised, upto, bits }, after);
    }

    pub(crate) fn on_fetch_value(&mut self, from: NodeId, slot: Slot, ballot: Ballot) {
        let held = self.window.get(slot).and_then(|state| state.accepted);
        if let Some(held) = held.filter(|held| held.ballot == ballot) {
            self.send_to(from, Message::Value { slot, ballot, mark: held.mark }, held.lsn);
        } else if slot <= self.prefix {
            // Chosen and delivered since it was reported.
            self.out.push_back(Output::ServeCatchUp { to: from, first: slot, last: slot });
        }
    }

    /// Slots that damage still hides, for the record of the repair.
    pub(crate) fn note_repair(&mut self) {
        let hidden = self.unknown_all || self.window.iter().any(|(_, state)| state.unknown);
        if !hidden && !self.damaged.is_empty() {
            let repaired = core::mem::take(&mut self.damaged);
            self.persist(Record::Repaired(repaired));
            self.log_lease_again();
            self.out.push_back(Output::Repaired);
        }
    }

    /// The slots above the prefix whose votes damage hides, for the operator.
    pub fn unknown(&self) -> Vec<Slot> {
        self.window.iter().filter(|(_, state)| state.unknown).map(|(slot, _)| slot).collect()
    }
}
