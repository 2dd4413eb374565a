//! From a directory to a shard: the log is read once, forward, and what it says is applied as it is known chosen.
//!
//! Nothing accepted is discarded. Slots whose records damage hides become unknown (DESIGN, "Damage"); chosen slots whose
//! values are lost are fetched from peers once the shard runs.

use super::Fatal;
use crate::index::Index;
use crate::machine::{StateMachine, apply_run};
use crate::sequencer::Sequencer;
use crate::shard::codec::{decode_founded, decode_marks, decode_ranges, decode_repaired};
use crate::shard::slots::{Kept, Slots};
use std::collections::BTreeMap;
use synod_paxos::{Held, LsnRun, MAX_LEASE_NS, Replica, Restart, Unknown};
use synod_wal::{Damage, Dir, Expect, Log, LogError, LogReader, Place, TornTail};
use synod_wire::batch::Batch;
use synod_wire::client::Durability;
use synod_wire::frame::{Frame, Kind, flags};
use synod_wire::mutant::mutant;
use synod_wire::record::{Configuration, DurabilityMark, LeaseMark, MAX_REPAIRED_RUNS};
use synod_wire::{Ballot, Epoch, Lsn, Quorums, Slot};
use zerocopy::FromBytes;

/// Payloads of slots not yet applied that are kept in memory while the log is read; more are read again when needed.
const MAX_KEPT_PAYLOADS: usize = 8_192;
/// Blocks of the index that it has room for before it must grow: 4 million slots.
const INDEX_BLOCKS: usize = 1 << 16;

/// A shard's state, as its log tells it.
pub struct Recovered {
    /// The log, ready to be appended to.
    pub log: Log,
    /// The protocol core.
    pub core: Replica,
    /// The state machine, with everything known chosen applied.
    pub machine: Sequencer,
    /// What was given to be fed the entries, fed with them.
    pub embedded: Option<Box<dyn StateMachine>>,
    /// Where old entries lie.
    pub index: Index,
    pub(crate) slots: Slots,
    /// The configuration's epoch.
    pub epoch: Epoch,
    /// In which state the log was.
    pub findings: Findings,
}

/// The state that a log was found in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The torn tail that was cut.
    pub torn: Option<TornTail>,
    /// What was durable once and cannot be read.
    pub damage: Vec<Damage>,
}

struct Pending {
    place: Place,
    ballot: Ballot,
    lsn: Lsn,
    chosen: bool,
    barrier: bool,
    payload: Option<Vec<u8>>,
}

struct Replay {
    machine: Sequencer,
    embedded: Option<Box<dyn StateMachine>>,
    index: Index,
    slots: Slots,
    pending: BTreeMap<Slot, Pending>,
    kept: usize,
    restart: Restart,
    repaired: Vec<LsnRun>,
    epoch: Epoch,
    members: Vec<u8>,
    quorums: Quorums,
    bad: Option<String>,
    /// The last mark of what the node's word rested on: where, and whether that was the disk.
    durability: Option<(Lsn, bool)>,
}

/// Reads the log in `dir`, feeds `embedded` the entries known chosen, and makes the core from `paxos`, whose incarnation is taken
/// from the directory.
pub fn recover(
    dir: &Dir,
    expect: &Expect,
    wal: &synod_wal::Settings,
    mut paxos: synod_paxos::Settings,
    embedded: Option<Box<dyn StateMachine>>,
    now_ns: u64,
) -> Result<Recovered, Fatal> {
    let mut replay = Replay {
        machine: Sequencer::new(),
        embedded,
        index: Index::new(INDEX_BLOCKS),
        slots: Slots::new(Slot::ZERO, paxos.window_slots),
        pending: BTreeMap::new(),
        kept: 0,
        restart: Restart::default(),
        repaired: Vec::new(),
        epoch: Epoch(1),
        members: paxos.members.iter().map(|node| node.0).collect(),
        quorums: paxos.quorums,
        bad: None,
        durability: None,
    };
    let found = synod_wal::recover(dir, expect, wal, &mut |place, frame| replay.record(place, frame))?;
    if let Some(what) = replay.bad.take() {
        return Err(LogError::Malformed { dir: dir.path().to_path_buf(), what }.into());
    }
    replay.refuse_unsynced(dir, &found.damage)?;
    replay.drain_from_disk(dir)?;
    let votes = replay.pending.values().map(|value| value.ballot).max().unwrap_or_default();
    replay.restart.promised = if mutant("promise_forgotten") { votes } else { found.promised };
    replay.restart.last_lsn = found.last_lsn;
    if let Some(torn) = &found.torn {
        tracing::info!(dir = %dir.path().display(), ?torn, "the log ended in a torn write, which no one was told of; it is cut off");
    }
    replay.unknown(&found.damage);
    let restart = replay.finish();
    if mutant("fence_lost_at_restart") {
        replay.machine.forget_fence();
    }
    replay.keep_old_votes(dir, &found.log)?;
    paxos.incarnation = found.identity.incarnation;
    let core = Replica::new(paxos, restart, now_ns);
    Ok(Recovered {
        log: found.log,
        core,
        machine: replay.machine,
        embedded: replay.embedded,
        index: replay.index,
        slots: replay.slots,
        epoch: replay.epoch,
        findings: Findings { torn: found.torn, damage: found.damage },
    })
}

impl Replay {
    fn record(&mut self, place: Place, frame: &Frame<'_>) {
        match frame.header.kind {
            Kind::Accept | Kind::Learnt => self.value(place, frame),
            Kind::Chosen => match decode_ranges(frame.payload) {
                Ok(ranges) => {
                    for range in ranges.as_slice() {
                        self.chosen(range.first, range.last, range.ballot);
                    }
                }
                Err(_) => {
                    self.bad = Some(format!("the chosen record with Lsn {} has a body of no use", frame.header.lsn))
                }
            },
            Kind::Configuration => {
                self.epoch = frame.header.epoch;
                self.check_configuration(frame.payload);
            }
            Kind::Founded => self.restart.founded = decode_founded(frame.payload).ok(),
            Kind::PeerMarks => self.restart.counted = decode_marks(frame.payload).unwrap_or_default(),
            Kind::Durability => {
                // What cannot be read says the worse.
                let mark = DurabilityMark::read_from_bytes(frame.payload);
                let synced = mark.is_ok_and(|mark| mark.durability() == Some(Durability::Disk));
                self.durability = Some((frame.header.lsn, synced));
            }
            // It was the core's to write; one that cannot be read names no length, and no configuration allows a longer one.
            Kind::Lease => {
                let mark = LeaseMark::read_from_bytes(frame.payload);
                let longest_ns = mark.map_or(MAX_LEASE_NS, |mark| mark.longest_ns.get().min(MAX_LEASE_NS));
                self.restart.longest_lease_ns = self.restart.longest_lease_ns.max(longest_ns);
            }
            // What cannot be read repairs nothing: that damage is taken for fresh.
            Kind::Repaired => self.repaired.extend(decode_repaired(frame.payload).unwrap_or_default()),
            _ => {}
        }
        self.apply_ready();
    }

    /// A node that vouched for what it held in memory alone, and did not end in order, has forgotten votes (`durability.rs`).
    fn refuse_unsynced(&self, dir: &Dir, damage: &[Damage]) -> Result<(), Fatal> {
        match unsynced_since(self.durability, damage) {
            Some(since) if !mutant("memory_restart_votes") => {
                Err(Fatal::Unsynced { dir: dir.path().to_path_buf(), since })
            }
            _ => Ok(()),
        }
    }

    /// Members and quorums are the log's; a configuration file that says otherwise would make quorums that do not meet.
    fn check_configuration(&mut self, payload: &[u8]) {
        let Ok((body, rest)) = Configuration::read_from_prefix(payload) else {
            self.bad = Some("its configuration record has a body of no use".to_owned());
            return;
        };
        let members: Vec<u8> = rest.iter().take(body.members.into()).copied().collect();
        let quorums = (usize::from(body.phase1), usize::from(body.phase2));
        let (wanted, wanted_quorums) = (&self.members, (self.quorums.phase1, self.quorums.phase2));
        if &members != wanted || quorums != wanted_quorums {
            self.bad = Some(format!(
                "it was formatted for the members {members:?} with quorums {quorums:?}, but the configuration file names \
                 {wanted:?} with {wanted_quorums:?}; give the file the members and quorums of the log"
            ));
        }
    }

    fn value(&mut self, place: Place, frame: &Frame<'_>) {
        let header = &frame.header;
        if header.slot <= self.slots.applied() {
            return;
        }
        let before = self.pending.remove(&header.slot);
        if before.as_ref().is_some_and(|before| before.payload.is_some()) {
            self.kept -= 1;
        }
        let keep = self.kept < MAX_KEPT_PAYLOADS;
        self.kept += usize::from(keep);
        let value = Pending {
            place,
            ballot: header.ballot,
            lsn: header.lsn,
            chosen: header.kind == Kind::Learnt || before.is_some_and(|before| before.chosen),
            barrier: header.flags & flags::BARRIER != 0,
            payload: keep.then(|| frame.payload.to_vec()),
        };
        self.pending.insert(header.slot, value);
    }

    /// What is held in the ballot that chose it is chosen.
    fn chosen(&mut self, first: Slot, last: Slot, ballot: Ballot) {
        self.restart.chosen_upto = self.restart.chosen_upto.max(last);
        for (_, value) in self.pending.range_mut(first..=last) {
            value.chosen |= value.ballot == ballot;
        }
    }

    fn apply_ready(&mut self) {
        while let Some(entry) = self.pending.first_entry() {
            let chosen = entry.get().chosen || mutant("restart_applies_unchosen");
            let ready = *entry.key() == self.slots.applied().next() && chosen;
            if !ready || entry.get().payload.is_none() {
                return;
            }
            let (slot, value) = entry.remove_entry();
            self.kept -= 1;
            let payload = value.payload.unwrap_or_default();
            self.apply(slot, value.place, &payload);
        }
    }

    /// Applies what became deliverable after its payload was let go: after a hole that was filled later in the log.
    fn drain_from_disk(&mut self, dir: &Dir) -> Result<(), LogError> {
        let mut reader = None;
        while let Some(entry) = self.pending.first_entry() {
            if *entry.key() != self.slots.applied().next() || !entry.get().chosen {
                break;
            }
            let (slot, value) = entry.remove_entry();
            let payload = payload(value.payload, value.place, &mut reader, dir)?;
            self.apply(slot, value.place, &payload);
        }
        Ok(())
    }

    fn apply(&mut self, slot: Slot, place: Place, payload: &[u8]) {
        let Ok(batch) = Batch::parse(payload) else {
            self.bad = Some(format!("the value of slot {slot} is no batch"));
            return;
        };
        let (tail, timestamp_ns) = (self.machine.tail(), self.machine.last_timestamp_ns());
        self.slots.put(slot, place);
        self.slots.apply(slot, tail, timestamp_ns);
        self.index.applied(slot, place.pos, place.end(), tail, timestamp_ns);
        let (index, embedded) = (&mut self.index, &mut self.embedded);
        self.machine.apply(slot, &batch, &mut |at, run, verdict| {
            index.outcome(slot, at, run.len(), verdict);
            if let Some(machine) = embedded.as_deref_mut().filter(|_| !mutant("kv_forgets_at_restart")) {
                apply_run(machine, run, verdict);
                if mutant("kv_applies_twice") {
                    apply_run(machine, run, verdict);
                }
            }
        });
    }

    /// Turns damage into unknown slots: those without a valid record after it.
    fn unknown(&mut self, damage: &[Damage]) {
        let mut slots = Vec::new();
        let ignored = mutant("damage_reads_as_nothing");
        for damage in damage.iter().filter(|_| !ignored) {
            if self.is_repaired(damage) {
                continue;
            }
            if damage.lost() > 0 && self.restart.damaged.len() < MAX_REPAIRED_RUNS {
                self.restart.damaged.push(run(damage));
            }
            let after = |value: &Pending| value.lsn > damage.last_lsn;
            let values =
                damage.named.iter().filter(|row| row.kind == Kind::Accept as u8 || row.kind == Kind::Learnt as u8);
            let named: Vec<Slot> = values.map(|row| Slot(row.slot.get())).collect();
            if damage.complete {
                let open = named.iter().filter(|slot| **slot > self.slots.applied());
                let lost = open.filter(|slot| !self.pending.get(*slot).is_some_and(after));
                slots.extend(lost.copied());
            } else {
                self.restart.unknown = Unknown::All;
                let hidden = self.pending.iter().filter(|(_, value)| !after(value));
                slots.extend(hidden.map(|(slot, _)| *slot));
            }
            let hidden =
                if damage.complete { format!("{:?}", slot_ranges(&named)) } else { "any open slot".to_owned() };
            tracing::warn!(
                segment = %damage.segment.display(), position = damage.pos,
                first_lsn = damage.first_lsn.0, last_lsn = damage.last_lsn.0, unknown_slots = hidden,
                "the log is damaged; what it held there is unknown and is repaired from the peers"
            );
        }
        slots.sort_unstable();
        slots.dedup();
        if self.restart.unknown != Unknown::All && !slots.is_empty() {
            self.restart.unknown = Unknown::Slots(slots.clone());
        }
        self.restart.held = self.held(&slots);
    }

    /// Whether what it took was made good. Only the very Lsns that a repair names count: what lies below them in the log may
    /// have been whole then, and be damaged now.
    fn is_repaired(&self, damage: &Damage) -> bool {
        self.repaired.iter().any(|repaired| repaired.covers(&run(damage)))
    }

    fn held(&self, unknown: &[Slot]) -> Vec<Held> {
        let held = self.pending.iter().map(|(slot, value)| Held {
            slot: *slot,
            ballot: value.ballot,
            chosen: value.chosen,
            barrier: value.barrier,
            unknown: !value.chosen && unknown.binary_search(slot).is_ok(),
        });
        held.collect()
    }

    /// A candidate proposes again what is held and not known chosen. Where open slots reach further back than the arena does
    /// (behind damage), the log cannot hold on to their bytes, so they stay in memory.
    fn keep_old_votes(&mut self, dir: &Dir, log: &Log) -> Result<(), LogError> {
        if self.pending.values().all(|value| log.frame(value.place).is_some()) {
            return Ok(());
        }
        let mut reader = None;
        for (slot, value) in self.pending.iter_mut().filter(|(_, value)| !value.chosen) {
            let payload = payload(value.payload.take(), value.place, &mut reader, dir)?;
            self.slots.keep(*slot, Kept { ballot: value.ballot, barrier: value.barrier, payload });
        }
        Ok(())
    }

    fn finish(&mut self) -> Restart {
        if mutant("restart_discards_accepted") {
            self.pending.retain(|_, value| value.chosen);
            self.restart.held.retain(|held| held.chosen);
        }
        self.restart.applied = self.slots.applied();
        for (slot, value) in &self.pending {
            self.slots.put(*slot, value.place);
        }
        std::mem::take(&mut self.restart)
    }
}

/// From where on a log may lack what its node vouched for, going by the last durability mark that could be read: its Lsn, and
/// whether it was an orderly end. Damage behind it may hide a later one: where a trailer names one, or where nothing names
/// what is lost and the log is known to have such marks.
fn unsynced_since(mark: Option<(Lsn, bool)>, damage: &[Damage]) -> Option<Lsn> {
    let (last, synced) = mark.unwrap_or((Lsn::ZERO, true));
    if !synced {
        return Some(last);
    }
    let hides = |damage: &&Damage| {
        let named = damage.named.iter().any(|row| row.kind == Kind::Durability as u8);
        damage.last_lsn > last && (named || (!damage.complete && mark.is_some()))
    };
    damage.iter().find(hides).map(|damage| damage.first_lsn)
}

/// A value's bytes: those that were kept, or else from the log; most recoveries never need the reader.
fn payload(
    kept: Option<Vec<u8>>,
    place: Place,
    reader: &mut Option<LogReader>,
    dir: &Dir,
) -> Result<Vec<u8>, LogError> {
    if let Some(payload) = kept {
        return Ok(payload);
    }
    let reader = match reader {
        Some(reader) => reader,
        none => none.insert(LogReader::open(dir)?),
    };
    Ok(reader.record_at(place)?.1)
}

fn run(damage: &Damage) -> LsnRun {
    LsnRun { first: damage.first_lsn, last: damage.last_lsn }
}

/// Slots as ranges, for people.
fn slot_ranges(slots: &[Slot]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut sorted: Vec<u64> = slots.iter().map(|slot| slot.0).collect();
    sorted.sort_unstable();
    sorted.dedup();
    for slot in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wal::TrailerEntry;
    use zerocopy::FromZeros;

    fn damage(first: u64, last: u64, complete: bool, kinds: &[Kind]) -> Damage {
        let named = kinds.iter().map(|kind| TrailerEntry { kind: *kind as u8, ..TrailerEntry::new_zeroed() });
        Damage {
            segment: "s".into(),
            pos: 0,
            first_lsn: Lsn(first),
            last_lsn: Lsn(last),
            named: named.collect(),
            complete,
        }
    }

    #[test]
    fn a_log_is_refused_from_its_open_mark_or_from_damage_that_may_hide_one() {
        let (open, closed) = (Some((Lsn(10), false)), Some((Lsn(10), true)));
        assert_eq!(unsynced_since(None, &[]), None, "it never vouched for more than its disk held");
        assert_eq!(unsynced_since(closed, &[]), None);
        assert_eq!(unsynced_since(open, &[]), Some(Lsn(10)));
        let mark = [damage(12, 13, true, &[Kind::Accept, Kind::Durability])];
        assert_eq!((unsynced_since(None, &mark), unsynced_since(closed, &mark)), (Some(Lsn(12)), Some(Lsn(12))));
        let value = [damage(12, 13, true, &[Kind::Accept, Kind::Accept])];
        assert_eq!((unsynced_since(None, &value), unsynced_since(closed, &value)), (None, None));
        let anything = [damage(12, 13, false, &[])];
        assert_eq!(unsynced_since(closed, &anything), Some(Lsn(12)));
        assert_eq!(unsynced_since(None, &anything), None, "a log without marks: the peers' memory guards against that");
        assert_eq!(unsynced_since(closed, &[damage(2, 9, false, &[])]), None, "what is older than the mark hides none");
    }
}
