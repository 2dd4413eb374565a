//! Compares what the logs of one group say: about the group as a whole, and slot by slot. Pure; called by [`super`] after
//! each pass.

use super::Files;
use super::facts::{Claim, Facts, Fingerprint, SlotFacts};
use super::log::LogFacts;
use super::report::{Fault, Problems};
use std::collections::BTreeMap;
use synod_wire::{Ballot, Slot};

/// A log with its facts of the current window.
pub(super) struct Side<'a> {
    pub(super) log: &'a LogFacts,
    pub(super) facts: &'a Facts,
    pub(super) files: &'a Files,
}

impl Side<'_> {
    pub(super) fn add(&self, problems: &mut Problems, fault: Fault, slot: Slot, facts: &SlotFacts, what: String) {
        let mut problem = self.log.problem(fault, what);
        problem.slot = Some(slot.0);
        if facts.held() {
            problem.file = self.files.at(facts.pos);
            (problem.pos, problem.lsn) = (Some(facts.pos), Some(facts.lsn));
        }
        problems.add(problem);
    }
}

/// What the logs together say about one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The slot is chosen; this side (an index) holds the value.
    Chosen(usize),
    /// No log knows it chosen, and too few of them voted alike.
    Open,
}

/// Members, quorums and foundings must agree, and no log may end before what a peer counted from it.
pub(super) fn whole_logs(logs: &[LogFacts], problems: &mut Problems) {
    for (i, log) in logs.iter().enumerate() {
        for other in &logs[..i] {
            same_group(log, other, problems);
        }
        for other in logs {
            counted(log, other, problems);
        }
    }
}

fn same_group(log: &LogFacts, other: &LogFacts, problems: &mut Problems) {
    // What was proposed and never chosen may differ.
    let both = log.governed.min(other.governed);
    for (epoch, membership) in log.configurations.range(..=both) {
        if let Some(theirs) = other.configurations.get(epoch).filter(|theirs| *theirs != membership) {
            let what = format!("epoch {epoch} is {membership:?}, but {theirs:?} in {}", other.dir.display());
            problems.add(log.problem(Fault::Configuration, what));
        }
    }
    if let (Some(mine), Some(theirs)) = (&log.founded, &other.founded)
        && mine != theirs
        && !log.joined
        && !other.joined
    {
        let what = format!("was founded with other incarnations than {}", other.dir.display());
        problems.add(log.problem(Fault::Configuration, what));
    }
    if log.identity.node == other.identity.node {
        let what = format!("is of the same node as {}: name each log once", other.dir.display());
        problems.add(log.problem(Fault::Duplicate, what));
    }
}

fn counted(log: &LogFacts, other: &LogFacts, problems: &mut Problems) {
    let node = log.identity.node.0;
    let lost_tail = log.unsynced;
    if let Some(counted) = other.counted.get(&node).copied().filter(|counted| *counted > log.last_lsn.0 && !lost_tail) {
        let what = format!("ends at lsn {}, but {} counted up to {counted} from it", log.last_lsn, other.dir.display());
        problems.add(log.problem(Fault::RolledBack, what));
    }
    let founded = other.founded.as_ref().and_then(|founded| founded.get(&node));
    if !log.joined && founded.is_some_and(|incarnation| *incarnation != log.identity.incarnation) {
        let what = format!("has another incarnation than {} was founded with", other.dir.display());
        problems.add(log.problem(Fault::Configuration, what));
    }
}

/// What counts as chosen, and how much these logs can be held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The votes that choose a value; 0: unknown.
    pub(super) quorum: usize,
    /// Every member's log is here, whole: what none of them shows did not happen.
    pub(super) complete: bool,
}

/// Compares one slot; tells what was chosen in it.
pub(super) fn slot(sides: &[Side<'_>], slot: Slot, terms: Terms, problems: &mut Problems) -> Outcome {
    let all: Vec<SlotFacts> = sides.iter().map(|side| side.facts.get(slot)).collect();
    for (side, facts) in sides.iter().zip(&all) {
        if facts.covered() && !facts.chosen() && slot > side.log.base() {
            let ballot = Ballot::unpack(facts.chosen_ballot);
            let what = format!("the slot is known chosen in ballot {ballot}, but its value is not here");
            side.add(problems, Fault::MissingValue, slot, facts, what);
        }
    }
    one_value_a_ballot(sides, slot, &all, problems);
    let Some(holder) = all.iter().position(SlotFacts::chosen).or_else(|| voted_by_quorum(&all, terms.quorum)) else {
        return Outcome::Open;
    };
    agree(sides, slot, &all, holder, problems);
    evidence(sides, slot, &all, (holder, terms), problems);
    Outcome::Chosen(holder)
}

/// The first side of a quorum that voted in one ballot.
fn voted_by_quorum(all: &[SlotFacts], quorum: usize) -> Option<usize> {
    let mut votes: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for (index, facts) in all.iter().enumerate().filter(|(_, facts)| facts.voted()) {
        votes.entry(facts.ballot).or_insert((index, 0)).1 += 1;
    }
    votes.into_values().find(|(_, count)| quorum > 0 && *count >= quorum).map(|(index, _)| index)
}

fn one_value_a_ballot(sides: &[Side<'_>], slot: Slot, all: &[SlotFacts], problems: &mut Problems) {
    for (i, facts) in all.iter().enumerate().filter(|(_, facts)| facts.voted()) {
        let differs = |other: &&SlotFacts| other.voted() && other.ballot == facts.ballot && other.value != facts.value;
        if let Some(other) = all[..i].iter().position(|other| differs(&other)) {
            let ballot = Ballot::unpack(facts.ballot);
            let what = format!("node {} holds another value in ballot {ballot}", sides[other].log.identity.node);
            sides[i].add(problems, Fault::TwoValues, slot, facts, what);
        }
    }
}

/// Whoever knows the slot chosen, or voted in a ballot above the one that chose it, holds the same value.
fn agree(sides: &[Side<'_>], slot: Slot, all: &[SlotFacts], holder: usize, problems: &mut Problems) {
    let value = all[holder].value;
    let chosen_ballot =
        all.iter().filter(|f| f.chosen() && f.covered()).map(|f| f.chosen_ballot).filter(|b| *b > 0).min();
    for (side, facts) in sides.iter().zip(all) {
        let bound = facts.chosen() || (facts.voted() && chosen_ballot.is_some_and(|ballot| facts.ballot >= ballot));
        if bound && facts.value != value {
            let other = &sides[holder];
            let what = format!(
                "node {} holds another value (lsn {}) that was chosen",
                other.log.identity.node, all[holder].lsn
            );
            side.add(problems, Fault::Conflict, slot, facts, what);
        }
    }
}

/// Every acceptor that the evidence names, and whose undamaged log is here, holds the value, accepted in that ballot.
fn evidence(
    sides: &[Side<'_>],
    slot: Slot,
    all: &[SlotFacts],
    (holder, terms): (usize, Terms),
    problems: &mut Problems,
) {
    let value = all[holder].value;
    // A vote that a later record of its slot replaced may have been in a part that was removed.
    let complete = terms.complete && sides.iter().all(|side| slot > side.log.base());
    for (side, facts) in sides.iter().zip(all) {
        for claim in side.facts.claims(slot) {
            let named =
                sides.iter().zip(all).filter(|(acceptor, _)| claim.acceptors.contains(acceptor.log.identity.node));
            for (acceptor, theirs) in
                named.filter(|(acceptor, _)| acceptor.log.is_whole() && slot > acceptor.log.base())
            {
                let (node, ballot) = (acceptor.log.identity.node, Ballot::unpack(claim.ballot));
                if !theirs.held() || theirs.value != value {
                    let what = format!("names node {node} as an acceptor, whose log does not hold the value");
                    side.add(problems, Fault::Evidence, slot, facts, what);
                } else if complete && !borne_out(sides, (acceptor, theirs), claim, value, terms.quorum) {
                    let what =
                        format!("names node {node} as an acceptor in ballot {ballot}, in which it did not accept it");
                    side.add(problems, Fault::Evidence, slot, facts, what);
                }
            }
        }
    }
}

/// Whether an acceptor that holds the value voted for it in the ballot that it is named for. It may also be named for a slot
/// that it knew chosen: it learnt it, or it was chosen in a lower ballot. That knowledge need not be in its own log (nothing
/// waits for evidence to be durable), so it is looked for in all of them.
fn borne_out(
    sides: &[Side<'_>],
    (acceptor, theirs): (&Side<'_>, &SlotFacts),
    claim: Claim,
    value: Fingerprint,
    quorum: usize,
) -> bool {
    let slot = claim.slot;
    let voted = acceptor.facts.votes(slot).any(|vote| vote.ballot == claim.ballot && vote.value == value);
    if voted || theirs.learnt() {
        return true;
    }
    let told = |side: &Side<'_>| side.facts.claims(slot).any(|other| other.ballot > 0 && other.ballot < claim.ballot);
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for vote in sides.iter().flat_map(|side| side.facts.votes(slot)) {
        if vote.ballot < claim.ballot && vote.value == value {
            *votes.entry(vote.ballot).or_default() += 1;
        }
    }
    sides.iter().any(told) || votes.into_values().any(|count| count >= quorum)
}
