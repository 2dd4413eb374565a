//! A simulated log: what a node has logged, how much of it is synced, what a crash leaves, and what recovery makes of it.

use super::{Value, configuration_of};
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::{Held, LsnRun, Mark, Record, Restart, Unknown};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, Slot};

/// The record that `format` writes has Lsn 1; what the core logs follows.
const FORMATTED: Lsn = Lsn(1);

/// How a record was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A valid trailer still says which slot it was for.
    Named,
    /// Nothing says what it was.
    Nameless,
}

/// A record with the bytes of its value.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) promised: Ballot,
    pub(crate) record: Record,
    pub(crate) value: Option<Value>,
    /// What a record of peers' marks notes.
    pub(crate) marks: Vec<(NodeId, Lsn)>,
    pub(crate) damage: Option<Damage>,
}

/// A value as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) value: Value,
    pub(crate) ballot: Ballot,
    pub(crate) mark: Mark,
}

/// A node's log. Cloned, it is a disk image to roll back to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    records: Vec<Logged>,
    synced: usize,
    /// Every copy that was ever synced: what the node may vouch for.
    stable: BTreeMap<(Slot, Ballot), Value>,
    stable_promise: Ballot,
    /// Up to here every slot has a synced copy of the value that was chosen (a checker's note).
    pub(crate) vouched: Slot,
}

/// What recovery read.
pub(crate) struct Recovered {
    pub(crate) restart: Restart,
    pub(crate) copies: BTreeMap<Slot, Copy>,
}

impl Disk {
    /// The Lsn of the last record.
    pub(crate) fn last(&self) -> Lsn {
        Lsn(FORMATTED.0 + self.records.len() as u64)
    }

    /// The Lsn up to which the log is synced.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn(FORMATTED.0 + self.synced as u64)
    }

    /// The highest promise that is synced.
    pub(crate) fn stable_promise(&self) -> Ballot {
        self.stable_promise
    }

    /// The synced copies of the value at `slot`, by ballot.
    pub(crate) fn stable(&self, slot: Slot) -> impl DoubleEndedIterator<Item = (Ballot, &Value)> {
        let highest = Ballot { round: u64::MAX, node: NodeId(u8::MAX) };
        let copies = self.stable.range((slot, Ballot::ZERO)..=(slot, highest));
        copies.map(|((_, ballot), value)| (*ballot, value))
    }

    /// Whether a copy of `slot` in `ballot` was synced.
    pub(crate) fn is_stable(&self, slot: Slot, ballot: Ballot) -> bool {
        self.stable.contains_key(&(slot, ballot))
    }

    pub(crate) fn append(&mut self, lsn: Lsn, logged: Logged) {
        assert_eq!(lsn, self.last().next(), "Lsns are dense");
        self.records.push(logged);
    }

    /// Syncs up to `upto`; returns what became durable.
    pub(crate) fn sync(&mut self, upto: Lsn) -> Vec<Logged> {
        let synced = (upto.0 - FORMATTED.0) as usize;
        assert!(synced >= self.synced && synced <= self.records.len(), "synced backwards or beyond the end");
        let fresh = self.records[self.synced..synced].to_vec();
        self.synced = synced;
        for logged in &fresh {
            self.stable_promise = self.stable_promise.max(logged.promised);
            if let Some((slot, copy)) = copy_of(logged) {
                self.stable.insert((slot, copy.ballot), copy.value);
            }
        }
        fresh
    }

    /// A crash: what is not synced is gone.
    pub(crate) fn lose_unsynced(&mut self) {
        self.records.truncate(self.synced);
    }

    /// Damages the last synced record of a value at `slot`; false if there is none.
    pub(crate) fn damage_slot(&mut self, slot: Slot, damage: Damage) -> bool {
        let hit = |logged: &&mut Logged| copy_of(logged).is_some_and(|(at, _)| at == slot) && logged.damage.is_none();
        let found = self.records[..self.synced].iter_mut().rev().find(hit);
        found.map(|logged| logged.damage = Some(damage)).is_some()
    }

    /// The slots whose values are in the synced log.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.stable.keys().map(|(slot, _)| *slot).collect();
        slots.dedup();
        slots
    }

    /// What recovery finds (DESIGN, "Damage").
    pub(crate) fn recover(&self) -> Recovered {
        let mut scan = Scan { promised: Ballot::ZERO, ..Scan::default() };
        for (i, logged) in self.records.iter().enumerate() {
            scan.read(Lsn(FORMATTED.0 + 1 + i as u64), logged);
        }
        scan.finish(self.last())
    }
}

/// The value that a record holds.
fn copy_of(logged: &Logged) -> Option<(Slot, Copy)> {
    let (slot, ballot, mark) = match logged.record {
        Record::Accepted { slot, ballot, mark, .. } => (slot, ballot, mark),
        Record::Learnt { slot, ballot, mark, .. } => (slot, ballot, mark),
        _ => return None,
    };
    let value = logged.value.clone().expect("a value's record has its bytes");
    Some((slot, Copy { value, ballot, mark }))
}

/// A recovery scan under way.
#[derive(Default)]
struct Scan {
    promised: Ballot,
    copies: BTreeMap<Slot, (Lsn, Copy)>,
    /// And the epoch in which each was.
    chosen: BTreeMap<Slot, Epoch>,
    chosen_upto: Slot,
    founded: Option<Vec<(NodeId, u64)>>,
    counted: Vec<(NodeId, Lsn)>,
    longest_lease_ns: u64,
    /// Slots that a trailer names as damaged, with the Lsn of the damage.
    named: Vec<(Lsn, Slot)>,
    nameless: Vec<Lsn>,
    damaged: Vec<LsnRun>,
    repaired: Vec<LsnRun>,
}

impl Scan {
    fn read(&mut self, lsn: Lsn, logged: &Logged) {
        // A damaged record's promise stands in its neighbours and in the trailer.
        self.promised = self.promised.max(logged.promised);
        if let Some(damage) = logged.damage {
            self.damaged.push(LsnRun { first: lsn, last: lsn });
            match (damage, copy_of(logged)) {
                (Damage::Named, Some((slot, _))) => self.named.push((lsn, slot)),
                (Damage::Named, None) => {}
                (Damage::Nameless, _) => self.nameless.push(lsn),
            }
            return;
        }
        if let Some((slot, copy)) = copy_of(logged) {
            self.copies.insert(slot, (lsn, copy));
        }
        match &logged.record {
            Record::Learnt { slot, epoch, .. } => {
                self.chosen.insert(*slot, *epoch);
                self.chosen_upto = self.chosen_upto.max(*slot);
            }
            Record::Chosen(ranges) => {
                for range in ranges.iter() {
                    let held = self.copies.range(range.first..=range.last);
                    let same = held.filter(|(_, (_, copy))| copy.ballot == range.ballot).map(|(slot, _)| *slot);
                    for slot in same {
                        let epoch = self.chosen.entry(slot).or_insert(range.epoch);
                        *epoch = range.epoch.max(*epoch);
                    }
                    self.chosen_upto = self.chosen_upto.max(range.last);
                }
            }
            Record::Founded(members) => self.founded = Some(members.clone()),
            Record::PeerMarks => self.counted = logged.marks.clone(),
            Record::Durability { .. } => {}
            Record::Repaired(runs) => self.repaired.extend(runs),
            Record::Lease { longest_ns } => self.longest_lease_ns = (*longest_ns).max(self.longest_lease_ns),
            Record::Accepted { .. } | Record::Promised => {}
        }
    }

    fn finish(self, last_lsn: Lsn) -> Recovered {
        let (mut applied, mut configuration, mut governs) = (Slot::ZERO, None, Epoch(1));
        while self.chosen.get(&applied.next()).is_some_and(|epoch| *epoch >= governs) {
            applied = applied.next();
            if let Some(configured) = configuration_of(&self.copies[&applied].1.value) {
                governs = configured.epoch;
                configuration = Some((applied, configured));
            }
        }
        let fresh = |lsn: Lsn| !self.repaired.iter().any(|run| run.covers(&LsnRun { first: lsn, last: lsn }));
        let named: Vec<_> = self.named.iter().filter(|(lsn, _)| fresh(*lsn)).collect();
        let nameless = self.nameless.iter().copied().filter(|lsn| fresh(*lsn)).max();
        let damaged = self.damaged.iter().copied().filter(|run| fresh(run.first)).collect();
        let after_damage = |slot: Slot, lsn: Lsn| {
            nameless.is_none_or(|at| lsn > at) && !named.iter().any(|(at, hit)| *hit == slot && *at > lsn)
        };
        let above = self.copies.iter().filter(|(slot, _)| **slot > applied);
        let held = above.map(|(slot, (lsn, copy))| Held {
            slot: *slot,
            ballot: copy.ballot,
            chosen: self.chosen.get(slot).copied().filter(|epoch| *epoch >= governs),
            mark: copy.mark,
            unknown: !after_damage(*slot, *lsn),
        });
        let lost: BTreeSet<Slot> = named.iter().map(|(_, slot)| *slot).collect();
        let lost = lost.into_iter().filter(|slot| *slot > applied && !self.copies.contains_key(slot));
        let unknown = match nameless {
            Some(_) => Unknown::All,
            None if named.is_empty() => Unknown::Nothing,
            None => Unknown::Slots(lost.collect()),
        };
        let restart = Restart {
            promised: self.promised,
            last_lsn,
            founded: self.founded,
            applied,
            configuration,
            removed: false,
            held: held.collect(),
            chosen_upto: self.chosen_upto,
            unknown,
            damaged,
            counted: self.counted,
            longest_lease_ns: self.longest_lease_ns,
        };
        let copies = self.copies.into_iter().map(|(slot, (_, copy))| (slot, copy)).collect();
        Recovered { restart, copies }
    }
}
