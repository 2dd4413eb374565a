//! One log, read forward once for each window of slots: what must hold within it is checked in the first pass, what it
//! says about the window's slots is kept for the comparison. Called by [`super`] with what the log's scanner finds.

use super::Files;
use super::facts::{Facts, Fingerprint, Window};
use super::report::{Fault, Problem, Problems};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use synod_wal::{Damage, Identity, Place, TornTail};
use synod_wire::batch::Batch;
use synod_wire::client::Durability;
use synod_wire::frame::{Frame, Kind};
use synod_wire::record::{ChosenRange, Configuration, DurabilityMark, Incarnation, LeaseMark, PeerMark, RepairedRun};
use synod_wire::{Ballot, Lsn, NodeId, NodeSet, Quorums, Slot};
use zerocopy::FromBytes;

/// A configuration as a log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    /// The slot above which it governs.
    pub(super) above: Slot,
    pub(super) phase1: u8,
    pub(super) phase2: u8,
    pub(super) members: Vec<u8>,
}

/// Lsns that no record has.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// The record behind them.
    before: Place,
    first: Lsn,
    last: Lsn,
}

/// Where a log begins whose front was removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    /// Its first segment.
    pub(super) segment: u64,
    /// The Lsn of its first record, if that is readable.
    pub(super) lsn: Option<Lsn>,
    /// The slot of the newest snapshot beside it.
    pub(super) snapshot: Option<Slot>,
}

/// What the first pass learns about a log as a whole.
#[derive(Debug)]
pub(super) struct LogFacts {
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) front: Option<Front>,
    /// The lowest slot with a value.
    lowest: Option<Slot>,
    pub(super) records: u64,
    pub(super) last_lsn: Lsn,
    /// The highest slot that any record names.
    pub(super) last_slot: Slot,
    pub(super) configurations: BTreeMap<u32, Membership>,
    /// The highest epoch that governed this node: a later one was proposed to it, at most.
    pub(super) governed: u32,
    /// It joined a group that others founded: its founding record names itself alone.
    pub(super) joined: bool,
    pub(super) founded: Option<BTreeMap<u8, u64>>,
    /// The highest Lsn that this node counted from each peer.
    pub(super) counted: BTreeMap<u8, u64>,
    pub(super) damage: Vec<Damage>,
    pub(super) torn_tail: bool,
    /// Its node vouched for more than it wrote, and did not end orderly: the end of this log may be missing.
    pub(super) unsynced: bool,
    gaps: Vec<Gap>,
    repaired: Vec<(u64, u64)>,
    promised: Ballot,
}

impl LogFacts {
    pub(super) fn new(dir: &Path, identity: Identity, front: Option<Front>) -> LogFacts {
        LogFacts {
            dir: dir.into(),
            identity,
            front,
            lowest: None,
            records: 0,
            last_lsn: front.and_then(|front| front.lsn).map_or(Lsn::ZERO, |first| Lsn(first.0 - 1)),
            last_slot: Slot::ZERO,
            configurations: BTreeMap::new(),
            governed: 0,
            joined: false,
            founded: None,
            counted: BTreeMap::new(),
            damage: Vec::new(),
            torn_tail: false,
            unsynced: false,
            gaps: Vec::new(),
            repaired: Vec::new(),
            promised: Ballot::ZERO,
        }
    }

    /// The last slot that need not be here: it may have been in the part that was removed. Known after the first pass.
    pub(super) fn base(&self) -> Slot {
        let Some(front) = self.front else { return Slot::ZERO };
        let before = self.lowest.map_or(self.last_slot, |lowest| Slot(lowest.0 - 1));
        front.snapshot.map_or(before, |snapshot| snapshot.max(before))
    }

    /// Damaged places that are recorded as repaired.
    pub(super) fn repaired(&self) -> u64 {
        self.damage.iter().filter(|damage| self.is_repaired(damage)).count() as u64
    }

    /// Whether it has all that its node vouched for. What an acceptor vouched for in memory alone, its log need not have.
    pub(super) fn is_whole(&self) -> bool {
        self.damage.is_empty() && !self.unsynced
    }

    /// Whether a record so far into the log can speak of `slot`: each slot up to the prefix has a record before it, and
    /// the window above the prefix is bounded. Keeps a wild slot number from costing a pass for every window below it.
    fn can_reach(&self, slot: Slot) -> bool {
        slot.0 <= self.last_lsn.0 + WINDOW_LIMIT_SLOTS
    }

    fn is_repaired(&self, damage: &Damage) -> bool {
        let (first, last) = (damage.first_lsn.0, damage.last_lsn.0);
        self.repaired.iter().any(|repaired| repaired.0 <= first && last <= repaired.1)
    }

    /// A problem of this log.
    pub(super) fn problem(&self, fault: Fault, what: String) -> Problem {
        let (node, group) = (self.identity.node.0, self.identity.group.0);
        Problem { fault, node, group, file: self.dir.clone(), pos: None, lsn: None, slot: None, what }
    }
}

/// A pass over one log.
pub(super) struct Pass<'a> {
    pub(super) log: &'a mut LogFacts,
    pub(super) facts: Facts,
    pub(super) problems: &'a mut Problems,
    /// Whether this is the first pass, which also checks the log as a whole.
    pub(super) first: bool,
    pub(super) files: &'a Files,
}

impl<'a> Pass<'a> {
    pub(super) fn new(log: &'a mut LogFacts, window: Window, problems: &'a mut Problems, files: &'a Files) -> Pass<'a> {
        let first = window.first == Slot(1);
        Pass { log, facts: Facts::new(window), problems, first, files }
    }

    fn add(&mut self, fault: Fault, place: Place, lsn: Option<Lsn>, slot: Option<Slot>, what: String) {
        let mut problem = self.log.problem(fault, what);
        problem.file = self.files.at(place.pos);
        (problem.pos, problem.lsn, problem.slot) = (Some(place.pos), lsn.map(|l| l.0), slot.map(|s| s.0));
        self.problems.add(problem);
    }

    /// A problem of a record that every pass comes by, told by the first.
    fn add_once(&mut self, fault: Fault, place: Place, lsn: Option<Lsn>, slot: Option<Slot>, what: String) {
        if self.first {
            self.add(fault, place, lsn, slot, what);
        }
    }

    /// Takes one record.
    pub(super) fn record(&mut self, place: Place, frame: &Frame<'_>) {
        if self.first {
            self.sequence(place, frame);
            self.promise(place, frame);
            self.whole(place, frame);
        }
        match frame.header.kind {
            Kind::Accept | Kind::Learnt => self.value(place, frame),
            Kind::Chosen => self.chosen(place, frame),
            _ => {}
        }
    }

    /// Lsns are dense but for what damage took out of them; that is told after the records of its flush.
    fn sequence(&mut self, place: Place, frame: &Frame<'_>) {
        let (lsn, last) = (frame.header.lsn, self.log.last_lsn);
        if self.log.front.is_some() && last == Lsn::ZERO {
            // The first flush did not tell: the log begins with what can be read.
        } else if lsn <= last {
            self.add(Fault::LsnGap, place, Some(lsn), None, format!("comes after lsn {last}"));
        } else if lsn != last.next() {
            self.log.gaps.push(Gap { before: place, first: last.next(), last: Lsn(lsn.0 - 1) });
        }
        self.log.last_lsn = lsn.max(last);
        self.log.records += 1;
    }

    fn promise(&mut self, place: Place, frame: &Frame<'_>) {
        let header = &frame.header;
        let (before, now) = (self.log.promised, header.promised);
        if now < before {
            let what = format!("carries promise {now} after {before}");
            self.add(Fault::PromiseRegressed, place, Some(header.lsn), None, what);
        }
        if header.kind == Kind::Accept && header.ballot < before {
            let what = format!("votes in ballot {} after promise {before}", header.ballot);
            self.add(Fault::PromiseRegressed, place, Some(header.lsn), Some(header.slot), what);
        }
        self.log.promised = before.max(now);
    }

    /// Records that speak of the log or the group as a whole.
    fn whole(&mut self, place: Place, frame: &Frame<'_>) {
        let lsn = frame.header.lsn;
        self.log.governed = self.log.governed.max(frame.header.epoch.0);
        let read = match frame.header.kind {
            Kind::Configuration => self.configuration(frame),
            Kind::Founded => read_all::<Incarnation>(frame.payload).map(|all| {
                self.log.founded = Some(all.iter().map(|i| (i.node.get() as u8, i.incarnation.get())).collect());
            }),
            Kind::PeerMarks => read_all::<PeerMark>(frame.payload).map(|all| {
                // Each says all of it; one that says less forgot an earlier life of a member's log.
                self.log.counted = all.iter().map(|mark| (mark.node.get() as u8, mark.lsn.get())).collect();
            }),
            Kind::Repaired => read_all::<RepairedRun>(frame.payload).map(|all| {
                self.log.repaired.extend(all.iter().map(|run| (run.first.get(), run.last.get())));
            }),
            Kind::Durability => DurabilityMark::read_from_bytes(frame.payload).ok().map(|mark| {
                self.log.unsynced = mark.durability() != Some(Durability::Disk);
            }),
            Kind::Lease => LeaseMark::read_from_bytes(frame.payload).ok().map(drop),
            _ => Some(()),
        };
        if read.is_none() {
            let what = format!("the payload of {:?} does not have its form", frame.header.kind);
            self.add(Fault::Malformed, place, Some(lsn), None, what);
        }
    }

    fn configuration(&mut self, frame: &Frame<'_>) -> Option<()> {
        let (body, members) = Configuration::read_from_prefix(frame.payload).ok()?;
        let members = members.get(..usize::from(body.members))?.to_vec();
        let membership = Membership { above: Slot::ZERO, phase1: body.phase1, phase2: body.phase2, members };
        self.log.configurations.insert(frame.header.epoch.0, membership);
        self.log.joined = body.learners > 0;
        Some(())
    }

    fn value(&mut self, place: Place, frame: &Frame<'_>) {
        let header = &frame.header;
        if header.slot.0 == 0 || !self.log.can_reach(header.slot) {
            let what = "no log of this length reaches this slot".to_string();
            return self.add_once(Fault::Malformed, place, Some(header.lsn), Some(header.slot), what);
        }
        self.log.last_slot = self.log.last_slot.max(header.slot);
        self.log.lowest = Some(self.log.lowest.map_or(header.slot, |lowest| lowest.min(header.slot)));
        if self.facts.entry(header.slot).is_none() {
            return;
        }
        match Batch::parse(frame.payload).map(|batch| batch.configuration()) {
            Ok(Some(configuration)) => {
                let Quorums { phase1, phase2 } = configuration.quorums;
                let members = configuration.voters().iter().map(|node| node.0).collect();
                let (phase1, phase2) = (phase1 as u8, phase2 as u8);
                let membership = Membership { above: header.slot, phase1, phase2, members };
                self.log.configurations.insert(configuration.epoch.0, membership);
            }
            Ok(None) => {}
            Err(error) => {
                let what = format!("the value is no batch: {error:?}");
                self.add(Fault::Malformed, place, Some(header.lsn), Some(header.slot), what);
            }
        }
        let (value, learnt) = (Fingerprint::of(frame.payload), header.kind == Kind::Learnt);
        let before = self.facts.get(header.slot);
        let mut wrong = |fault, what| self.add(fault, place, Some(header.lsn), Some(header.slot), what);
        if before.voted() && !learnt && header.ballot.pack() < before.ballot {
            let (now, then) = (header.ballot, Ballot::unpack(before.ballot));
            wrong(Fault::BallotRegressed, format!("votes in ballot {now} after {then} (lsn {})", before.lsn));
        }
        if before.chosen() && before.value != value {
            wrong(Fault::Conflict, format!("another value was chosen here (lsn {})", before.lsn));
        } else if before.voted() && !learnt && before.ballot == header.ballot.pack() && before.value != value {
            let what = format!("another value in ballot {} stands at lsn {}", header.ballot, before.lsn);
            wrong(Fault::TwoValues, what);
        }
        if before.voted() && (learnt || before.ballot != header.ballot.pack()) {
            self.facts.replace(header.slot, &before);
        }
        if let Some(facts) = self.facts.entry(header.slot) {
            facts.hold(value, header.ballot, learnt, place, header.lsn.0);
        }
    }

    fn chosen(&mut self, place: Place, frame: &Frame<'_>) {
        let header = &frame.header;
        let Some(ranges) = read_all::<ChosenRange>(frame.payload) else {
            let what = "the payload of a chosen record does not have its form".to_string();
            return self.add_once(Fault::Malformed, place, Some(header.lsn), None, what);
        };
        for range in ranges {
            let (first, last) = (Slot(range.first.get()), Slot(range.last.get()));
            let ballot = Ballot::unpack(range.ballot.get());
            let acceptors = NodeSet(range.acceptors.get());
            if first.0 == 0 || last < first || !self.log.can_reach(last) {
                let what = format!("a chosen record covers the slots {first} to {last}");
                self.add_once(Fault::Malformed, place, Some(header.lsn), Some(first), what);
                continue;
            }
            if self.first {
                self.quorum(place, frame, first, acceptors);
                self.ballot(place, frame, first, ballot);
            }
            self.log.last_slot = self.log.last_slot.max(last);
            for slot in self.facts.clip(first, last) {
                let told = self.facts.entry(slot).is_none_or(|facts| facts.cover(ballot, acceptors));
                if !told {
                    self.facts.claim(slot, ballot, acceptors);
                }
            }
        }
    }

    /// Evidence that names acceptors names enough of them, all members.
    fn quorum(&mut self, place: Place, frame: &Frame<'_>, first: Slot, acceptors: NodeSet) {
        let Some(membership) = self.log.configurations.get(&frame.header.epoch.0) else {
            // Who is behind may learn what later members chose before it comes to their configuration.
            let ahead = self.log.configurations.keys().next_back().is_some_and(|last| frame.header.epoch.0 > *last);
            if self.log.front.is_some() || ahead {
                return;
            }
            let what = format!("epoch {} has no configuration record before it", frame.header.epoch.0);
            return self.add(Fault::Configuration, place, Some(frame.header.lsn), Some(first), what);
        };
        let members: NodeSet = membership.members.iter().map(|node| NodeId(*node)).collect();
        let voters = NodeSet(acceptors.0 & members.0);
        if acceptors.is_empty() || (voters == acceptors && voters.len() >= usize::from(membership.phase2)) {
            return;
        }
        let names: Vec<String> = acceptors.iter().map(|node| node.to_string()).collect();
        let what =
            format!("names the acceptors {} where {} members make a quorum", names.join(", "), membership.phase2);
        self.add(Fault::Evidence, place, Some(frame.header.lsn), Some(first), what);
    }

    /// A node takes as chosen what it holds in the ballot that chose it, so it has promised that one; members have ballots.
    fn ballot(&mut self, place: Place, frame: &Frame<'_>, first: Slot, ballot: Ballot) {
        let header = &frame.header;
        let members = self.log.configurations.get(&header.epoch.0).map(|membership| &membership.members);
        let what = if ballot > header.promised {
            format!("says that ballot {ballot} chose it, though no more than {} is promised", header.promised)
        } else if ballot > Ballot::ZERO && members.is_some_and(|members| !members.contains(&ballot.node.0)) {
            format!("says that ballot {ballot} chose it, of a node that is no member of epoch {}", header.epoch.0)
        } else {
            return;
        };
        self.add(Fault::Evidence, place, Some(header.lsn), Some(first), what);
    }

    /// Takes a damaged place.
    pub(super) fn damage(&mut self, damage: &Damage) {
        if self.first {
            self.log.last_lsn = self.log.last_lsn.max(damage.last_lsn);
            self.log.damage.push(damage.clone());
        }
    }

    /// Takes the end of a log that a crash cut.
    pub(super) fn torn(&mut self, _tail: &TornTail) {
        self.log.torn_tail = true;
    }

    /// The end of the log: what damage was not repaired.
    pub(super) fn finish(mut self) -> Facts {
        if self.first {
            let open: Vec<Damage> = self.log.damage.iter().filter(|d| !self.log.is_repaired(d)).cloned().collect();
            for damage in open {
                self.unrepaired(&damage);
            }
            for gap in std::mem::take(&mut self.log.gaps) {
                let told = |damage: &Damage| damage.first_lsn <= gap.first && gap.last <= damage.last_lsn;
                if !self.log.damage.iter().any(told) {
                    let what = format!("the records {} to {} before it are not there", gap.first, gap.last);
                    self.add(Fault::LsnGap, gap.before, Some(gap.last.next()), None, what);
                }
            }
        }
        self.facts.sort();
        self.facts
    }

    fn unrepaired(&mut self, damage: &Damage) {
        let place = Place { pos: damage.pos, bytes: 0 };
        if damage.named.is_empty() {
            let what = format!("the records up to lsn {} are not readable", damage.last_lsn);
            return self.add(Fault::Damage, place, Some(damage.first_lsn), None, what);
        }
        for entry in &damage.named {
            let kind = Kind::from_u8(entry.kind).map_or("unknown".to_string(), |kind| format!("{kind:?}"));
            let slot =
                matches!(Kind::from_u8(entry.kind), Some(Kind::Accept | Kind::Learnt)).then(|| Slot(entry.slot.get()));
            let what = format!("a record of kind {kind} and {} bytes is not readable", entry.length.get());
            self.add(Fault::Damage, place, Some(Lsn(entry.lsn.get())), slot, what);
        }
    }
}

/// More slots than any configuration opens at once above the prefix.
const WINDOW_LIMIT_SLOTS: u64 = 1 << 20;

/// The payload as a list of `T`, if it is one.
fn read_all<T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned>(
    payload: &[u8],
) -> Option<&[T]> {
    <[T]>::ref_from_bytes(payload).ok()
}
