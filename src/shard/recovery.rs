//! From a directory to a shard: the log is read once, forward, and what it says is applied as it is known chosen.
//!
//! Nothing accepted is discarded. Slots whose records damage hides become unknown (DESIGN, "Damage"); chosen slots whose
//! values are lost are fetched from peers once the shard runs.

use super::Fatal;
use super::checkpoint::Maker;
use super::governed::Governed;
use super::replay::{Pending, Replay, payload};
use crate::index::Index;
use crate::machine::StateMachine;
use crate::sequencer::Sequencer;
use crate::shard::slots::{Kept, Slots};
use synod_paxos::{Held, LsnRun, Replica, Restart, Unknown};
use synod_wal::{Damage, Dir, Log, LogError, Start, TornTail, long, snapshot};
use synod_wire::frame::Kind;
use synod_wire::mutant::mutant;
use synod_wire::record::MAX_REPAIRED_RUNS;
use synod_wire::{Lsn, Slot};

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
    /// Who the members were.
    pub(crate) governed: Governed,
    /// The first segment of the log.
    pub first_segment: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// In which state the log was.
    pub findings: Findings,
}

/// The state that a log was found in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The slot of the snapshot that it began from.
    pub snapshot: Option<Slot>,
    /// It is another member's: the log has nothing of what it stands for.
    pub installed: bool,
    /// Records that were read behind it.
    pub records: u64,
    /// The torn tail that was cut.
    pub torn: Option<TornTail>,
    /// What was durable once and cannot be read.
    pub damage: Vec<Damage>,
}

/// What the newest snapshot that can be used has, and where the log is to be read from; without one, nothing and the
/// beginning.
pub(super) fn begin(dir: &Dir, maker: &Maker) -> Result<(Replay, Start), LogError> {
    if !dir.exists() {
        return Err(LogError::NotFormatted { dir: dir.path().to_path_buf() });
    }
    for slot in snapshot::list(dir)?.into_iter().rev() {
        let mut replay = Replay::new(&maker.paxos, (maker.make)());
        let read = snapshot::read(dir, &maker.expect, slot).map_err(|error| error.to_string());
        let restored = read.and_then(|read| {
            let restored = replay.restore(&read).map_err(|error| error.to_string());
            long::free(read.body);
            restored
        });
        match restored {
            Ok(start) => return Ok((replay, start)),
            Err(reason) => tracing::warn!(
                dir = %dir.path().display(), slot = slot.0, reason,
                "a snapshot is of no use; going back to the one before it"
            ),
        }
    }
    Ok((Replay::new(&maker.paxos, (maker.make)()), Start::Beginning))
}

/// Reads the log in `dir`, from its newest snapshot on, feeds a machine of the maker's the entries known chosen, and makes the core, whose
/// incarnation is the directory's.
pub fn recover(dir: &Dir, maker: &Maker, wal: &synod_wal::Settings, now_ns: u64) -> Result<Recovered, Fatal> {
    let (mut replay, start) = begin(dir, maker)?;
    let snapshot = (start != Start::Beginning).then(|| replay.slots.applied());
    // The index of one that was installed begins behind it.
    let installed = snapshot.is_some_and(|slot| replay.index.first_slot() > slot);
    let found = synod_wal::recover(dir, &maker.expect, wal, start, &mut |place, frame| replay.record(place, frame))?;
    if replay.incarnation.is_some_and(|incarnation| incarnation != found.identity.incarnation) {
        let what = "its snapshots are of a log that was formatted earlier: remove the .snap files".to_owned();
        return Err(LogError::Malformed { dir: dir.path().to_path_buf(), what }.into());
    }
    if let Some(what) = replay.bad.take() {
        return Err(LogError::Malformed { dir: dir.path().to_path_buf(), what }.into());
    }
    replay.refuse_unsynced(dir, &found.damage)?;
    replay.drain_from_disk(dir)?;
    let votes = replay.pending.values().map(|value| value.ballot).max().unwrap_or_default();
    replay.restart.promised = match installed {
        true if mutant("snapshot_install_lowers_promise") => replay.restart.promised,
        _ if mutant("promise_forgotten") => votes,
        _ => found.promised.max(replay.restart.promised),
    };
    replay.restart.last_lsn = found.last_lsn;
    if let Some(torn) = &found.torn {
        tracing::info!(dir = %dir.path().display(), ?torn, "the log ended in a torn write, which no one was told of; it is cut off");
    }
    replay.unknown(&found.damage);
    replay.lacks_below(found.first_segment * found.segment_bytes);
    let mut restart = replay.finish();
    restart.removed = replay.governed.removed(maker.expect.node, found.identity.incarnation, replay.joins);
    if mutant("fence_lost_at_restart") {
        replay.machine.forget_fence();
    }
    replay.keep_old_votes(dir, &found.log)?;
    let paxos =
        synod_paxos::Settings { incarnation: found.identity.incarnation, joins: replay.joins, ..maker.paxos.clone() };
    let core = Replica::new(paxos, restart, now_ns);
    Ok(Recovered {
        log: found.log,
        core,
        machine: replay.machine,
        embedded: replay.embedded,
        index: replay.index,
        slots: replay.slots,
        governed: replay.governed,
        first_segment: found.first_segment,
        segment_bytes: found.segment_bytes,
        findings: Findings { snapshot, installed, records: found.records, torn: found.torn, damage: found.damage },
    })
}

impl Replay {
    /// A node that vouched for what it held in memory alone, and did not end in order, has forgotten votes (`durability.rs`).
    fn refuse_unsynced(&self, dir: &Dir, damage: &[Damage]) -> Result<(), Fatal> {
        match unsynced_since(self.durability, damage) {
            Some(since) if !mutant("memory_restart_votes") => {
                Err(Fatal::Unsynced { dir: dir.path().to_path_buf(), since })
            }
            _ => Ok(()),
        }
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
            mark: value.mark,
            unknown: value.chosen.is_none() && unknown.binary_search(slot).is_ok(),
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
        for (slot, value) in self.pending.iter_mut().filter(|(_, value)| value.chosen.is_none()) {
            let payload = payload(value.payload.take(), value.place, &mut reader, dir)?;
            self.slots.keep(*slot, Kept { ballot: value.ballot, mark: value.mark, payload });
        }
        Ok(())
    }

    fn finish(&mut self) -> Restart {
        if mutant("restart_discards_accepted") {
            self.pending.retain(|_, value| value.chosen.is_some());
            self.restart.held.retain(|held| held.chosen.is_some());
        }
        self.restart.applied = self.slots.applied();
        self.restart.configuration = Some((self.configured_at, self.configuration));
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
