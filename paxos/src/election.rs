//! The candidate: phase 1 over all open slots.
//!
//! A promise counts when all its parts have come. The candidate first fetches the chosen prefix that the promises
//! report (a peer's missing report below its prefix means "chosen", not "nothing accepted"), then takes for each slot
//! above it the value of the highest ballot, no-ops in holes, and a no-op of its own as a barrier above everything.
//! Slots that damage hides from a promise do not count that promise: the candidate waits for others.

use crate::leader::BURST_SLOTS;
use crate::replica::Replica;
use crate::types::*;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Epoch, Lsn, NodeId, NodeSet, Slot};

/// After so many elections in a row in which all members promised, and damage hid what to propose, an operator must decide.
const HOPELESS_ELECTIONS: u32 = 3;

/// The parts of one member's promise.
#[derive(Clone, Debug)]
pub(crate) struct PromiseSet {
    prefix: Slot,
    got: Vec<bool>,
    unknown_all: bool,
    /// The configuration that governed the member.
    epoch: Epoch,
    reports: BTreeMap<Slot, Report>,
}

impl PromiseSet {
    fn complete(&self) -> bool {
        self.got.iter().all(|got| *got) || mutant("partial_promise_counts")
    }

    /// What the member says of `slot`, to a candidate of this epoch: `None` = it accepted nothing there. What was chosen by votes
    /// of an earlier configuration than governs the slot is merely accepted.
    fn report(&self, slot: Slot, epoch: Epoch) -> Option<Report> {
        let unknown = || Report { slot, state: ReportState::Unknown, configures: false };
        let Some(report) = self.reports.get(&slot) else {
            return (self.unknown_all && slot > self.prefix).then(unknown);
        };
        let state = match report.state {
            ReportState::Chosen(ballot) if self.epoch < epoch && !mutant("chosen_above_configuration_is_final") => {
                ReportState::Accepted(ballot)
            }
            state => state,
        };
        Some(Report { state, ..*report })
    }
}

/// What becomes of a slot that phase 1 found open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Propose what is held here.
    Held,
    /// Fetch the value accepted in this ballot from this node, then propose it.
    Fetch(Ballot, NodeId),
    /// Propose a no-op.
    Noop,
    /// Propose a no-op above all: serving starts when it is delivered.
    Barrier,
}

impl Replica {
    /// Stands for election in a ballot above all seen. The prepare waits until the own promise is durable.
    pub(crate) fn stand(&mut self, reason: Reason) {
        if self.role == Role::Candidate {
            self.lost_elections += 1;
            self.hopeless_elections = if self.nobody_can_tell() { self.hopeless_elections + 1 } else { 0 };
        }
        if self.hopeless_elections == HOPELESS_ELECTIONS {
            return self.halt(Halt::BeyondRepair);
        }
        let ballot = self.promised.max(self.highest_seen).next_for(self.settings.me);
        self.promised = ballot;
        self.highest_seen = ballot;
        self.highest_in_ballot = self.prefix;
        self.become_role(Role::Candidate, reason);
        self.promise_lsn = self.persist(Record::Promised);
        self.send_prepare();
    }

    /// Whether this candidate has the promises of all members, and knows no more for it: what they hide stays hidden. It asks more
    /// than once all the same, as a member may learn from another what it has lost.
    fn nobody_can_tell(&self) -> bool {
        let promises = self.counted_promises();
        let all = promises.len() == self.config.voters().len();
        all && promises.iter().all(|(_, set)| set.prefix <= self.prefix) && self.plan(&promises).is_none()
    }

    pub(crate) fn send_prepare(&mut self) {
        let complete = self.promises.iter().filter(|(_, promise)| promise.complete()).map(|(node, _)| *node);
        let heard: NodeSet = complete.collect();
        let silent = NodeSet(self.peers.0 & self.config.voters().0 & !heard.0);
        let prepare = Message::Prepare { ballot: self.promised, prefix: self.prefix };
        let after = if mutant("prepare_before_sync") { Lsn::ZERO } else { self.promise_lsn };
        self.send(silent, prepare, after);
    }

    pub(crate) fn on_refused(&mut self, promised: Ballot) {
        self.highest_seen = self.highest_seen.max(promised);
        if promised > self.promised && (self.role == Role::Candidate || self.leads()) {
            // Its own promise stands; the next election starts above what the refusal names.
            self.leader = None;
            self.become_role(Role::Follower, Reason::HigherBallot);
        }
    }

    pub(crate) fn on_promise(
        &mut self,
        (from, epoch): (NodeId, Epoch),
        ballot: Ballot,
        prefix: Slot,
        (part, parts): (u16, u16),
        unknown_all: bool,
        reports: &[Report],
    ) {
        let of_this_ballot = ballot == self.promised || mutant("old_promise_counted");
        if self.role != Role::Candidate || !of_this_ballot || part >= parts {
            return;
        }
        let fresh =
            || PromiseSet { prefix, got: vec![false; parts.into()], unknown_all, epoch, reports: BTreeMap::new() };
        let set = self.promises.entry(from).or_insert_with(fresh);
        if set.prefix < prefix {
            *set = fresh();
        } else if set.prefix > prefix {
            return;
        }
        if set.got.len() < usize::from(parts) {
            set.got.resize(parts.into(), false);
        }
        set.got[usize::from(part)] = true;
        set.unknown_all |= unknown_all;
        // The least of what its parts may be taken for.
        set.epoch = set.epoch.min(epoch);
        set.reports.extend(reports.iter().map(|report| (report.slot, *report)));
        self.conclude_phase1();
    }

    /// This node's own promise, which counts once it is durable.
    fn own_promise(&self) -> PromiseSet {
        let slots = self.window.iter().filter_map(|(slot, _)| self.report(slot));
        PromiseSet {
            prefix: self.prefix,
            got: Vec::new(),
            unknown_all: self.unknown_all,
            epoch: self.config.epoch,
            reports: slots.map(|report| (report.slot, report)).collect(),
        }
    }

    /// The promises that are whole, and this node's own.
    fn counted_promises(&self) -> Vec<(NodeId, PromiseSet)> {
        let voters = self.config.voters();
        let voted = |node: &NodeId| voters.contains(*node) || mutant("non_voter_counted");
        let whole = self.promises.iter().filter(|(node, set)| voted(node) && set.complete());
        let own = core::iter::once((self.settings.me, self.own_promise()));
        whole.map(|(node, set)| (*node, set.clone())).chain(own).collect()
    }

    /// Becomes leader if the promises allow it, fetches or waits if not.
    pub(crate) fn conclude_phase1(&mut self) {
        if self.role != Role::Candidate || self.durable < self.promise_lsn {
            return;
        }
        let promises = self.counted_promises();
        if promises.len() < self.phase1_quorum() {
            return;
        }
        let (best, target) =
            promises.iter().map(|(node, set)| (*node, set.prefix)).max_by_key(|(_, p)| *p).unwrap_or_default();
        if target > self.prefix && !mutant("prefix_read_as_nothing") {
            self.known_chosen = self.known_chosen.max(target);
            return self.fetch_from(best, target);
        }
        let Some(plan) = self.plan(&promises) else { return };
        self.lead(plan);
    }

    fn phase1_quorum(&self) -> usize {
        let quorums = &self.config.quorums;
        if mutant("phase1_with_phase2_quorum") { quorums.phase2 } else { quorums.phase1 }
    }

    /// What to propose in each open slot; `None` while damage hides too much.
    fn plan(&self, promises: &[(NodeId, PromiseSet)]) -> Option<BTreeMap<Slot, Plan>> {
        let intact = promises.iter().filter(|(_, set)| !set.unknown_all).count();
        if intact < self.phase1_quorum() {
            return None;
        }
        let reported = promises.iter().filter_map(|(_, set)| set.reports.keys().next_back().copied());
        let highest = reported.max().unwrap_or_default().max(self.prefix);
        let mut plan = BTreeMap::new();
        for slot in (self.prefix.0 + 1..=highest.0).map(Slot) {
            if let Some(state) = self.window.get(slot).filter(|state| state.chosen) {
                if state.accepted.is_some_and(|held| held.mark == Mark::Configuration) {
                    return Some(plan);
                }
                continue;
            }
            let (found, configures) = self.plan_slot(slot, promises)?;
            if found != Plan::Noop || !mutant("holes_left_open") {
                plan.insert(slot, found);
            }
            if configures {
                // Others may vote above it: phase 1 again, once it is chosen.
                return Some(plan);
            }
        }
        plan.insert(highest.next(), Plan::Barrier);
        Some(plan)
    }

    /// What becomes of a slot, and whether it is a configuration.
    fn plan_slot(&self, slot: Slot, promises: &[(NodeId, PromiseSet)]) -> Option<(Plan, bool)> {
        let mut known = 0;
        let mut best: Option<(bool, Ballot, NodeId, bool)> = None;
        for (node, set) in promises {
            let report = set.report(slot, self.config.epoch);
            let (chosen, ballot) = match report.map(|report| report.state) {
                Some(ReportState::Unknown) if mutant("unknown_read_as_nothing") => {
                    known += 1;
                    continue;
                }
                Some(ReportState::Unknown) => continue,
                Some(ReportState::Chosen(ballot)) => (true, ballot),
                Some(ReportState::Accepted(ballot)) => (false, ballot),
                None => {
                    known += 1;
                    continue;
                }
            };
            known += 1;
            let found = Some((chosen, ballot, *node, report.is_some_and(|report| report.configures)));
            best = if mutant("lowest_ballot_adopted") && best.is_some() { best.min(found) } else { best.max(found) };
        }
        let chosen = best.is_some_and(|(chosen, ..)| chosen);
        if known < self.phase1_quorum() && !chosen {
            return None;
        }
        Some(match best {
            None => (Plan::Noop, false),
            Some((_, ballot, _, configures)) if self.held(slot) == Some(ballot) => (Plan::Held, configures),
            Some((_, ballot, node, configures)) => (Plan::Fetch(ballot, node), configures),
        })
    }

    /// A value that the plan waits for.
    pub(crate) fn on_value(&mut self, slot: Slot, ballot: Ballot, mark: Mark) {
        if !self.leads() {
            return;
        }
        let wanted = self.leading.plan.get(&slot).copied();
        if matches!(wanted, Some(Plan::Fetch(planned, _)) if planned == ballot) {
            self.leading.plan.remove(&slot);
            self.leading.plan_moved_ns = self.now_ns;
            let mark = if mark == Mark::Configuration { mark } else { Mark::Batch };
            self.offer(slot, mark, Source::Message);
        }
    }

    /// Asks again for the values that the plan waits for.
    pub(crate) fn fetch_planned(&mut self) {
        let wanted = self.leading.plan.iter().filter_map(|(slot, plan)| match plan {
            Plan::Fetch(ballot, node) => Some((*slot, *ballot, *node)),
            _ => None,
        });
        let wanted: Vec<_> = wanted.take(BURST_SLOTS).collect();
        for (slot, ballot, node) in wanted {
            self.send_to(node, Message::FetchValue { slot, ballot }, Lsn::ZERO);
        }
    }
}
