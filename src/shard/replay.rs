//! What a log's records say, in their order: applies what they show chosen, and keeps what else a core starts with. Recovery
//! feeds one the whole log, or the part behind a snapshot; the maker of snapshots (`checkpoint.rs`) feeds one what became
//! durable, on its own thread.

use super::governed::Governed;
use crate::index::{Index, SPARE_BLOCKS};
use crate::machine::{StateMachine, apply_run};
use crate::sequencer::Sequencer;
use crate::shard::codec::{decode_founded, decode_marks, decode_ranges, decode_repaired, mark};
use crate::shard::slots::Slots;
use std::collections::BTreeMap;
use synod_paxos::{Evidence, LsnRun, MAX_LEASE_NS, Mark, Restart};
use synod_wal::{Dir, LogError, LogReader, Place};
use synod_wire::batch::Batch;
use synod_wire::client::Durability;
use synod_wire::frame::{Frame, Kind};
use synod_wire::mutant::mutant;
use synod_wire::record::{self, DurabilityMark, LeaseMark};
use synod_wire::{Ballot, Configuration, Epoch, Lsn, NodeId, Quorums, Slot};
use zerocopy::FromBytes;

/// Payloads of slots not yet applied that are kept in memory while the log is read; more are read again when needed.
pub const MAX_KEPT_PAYLOADS: usize = 8_192;

/// A value above what is applied.
pub(super) struct Pending {
    pub(super) place: Place,
    pub(super) ballot: Ballot,
    pub(super) lsn: Lsn,
    /// If it is known chosen: the epoch in which it was.
    pub(super) chosen: Option<Epoch>,
    pub(super) mark: Mark,
    pub(super) payload: Option<Vec<u8>>,
}

impl Pending {
    /// Whether it is chosen for good, where a configuration of this epoch governs.
    fn is_final(&self, epoch: Epoch) -> bool {
        self.chosen.is_some_and(|chosen| chosen >= epoch)
    }
}

/// See the module.
pub(super) struct Replay {
    pub(super) machine: Sequencer,
    pub(super) embedded: Option<Box<dyn StateMachine>>,
    pub(super) index: Index,
    pub(super) slots: Slots,
    /// By slot: what is held above what is applied.
    pub(super) pending: BTreeMap<Slot, Pending>,
    kept: usize,
    pub(super) restart: Restart,
    pub(super) repaired: Vec<LsnRun>,
    /// Who governs the slots above what is applied, and the slot that it stands in.
    pub(super) configuration: Configuration,
    pub(super) configured_at: Slot,
    /// And who did before.
    pub(super) governed: Governed,
    /// This life of the log joined a group that others founded.
    pub(super) joins: bool,
    /// What makes the log one that this node cannot start from.
    pub(super) bad: Option<String>,
    /// The last mark of what the node's word rested on: where, and whether that was the disk.
    pub(super) durability: Option<(Lsn, bool)>,
    /// No slot above it is applied, whatever is known chosen.
    pub(super) limit: Slot,
    /// Of the log that the snapshot is of, if it began with one.
    pub(super) incarnation: Option<u64>,
}

impl Replay {
    /// Before the first record, with a machine that has seen nothing.
    pub(super) fn new(paxos: &synod_paxos::Settings, embedded: Option<Box<dyn StateMachine>>) -> Replay {
        let founding = Configuration::founding(&paxos.members, paxos.quorums);
        Replay {
            machine: Sequencer::new(),
            embedded,
            index: Index::new(SPARE_BLOCKS),
            slots: Slots::new(Slot::ZERO, paxos.window_slots),
            pending: BTreeMap::new(),
            kept: 0,
            restart: Restart::default(),
            repaired: Vec::new(),
            configuration: founding,
            configured_at: Slot::ZERO,
            governed: Governed::new(Slot::ZERO, founding),
            joins: false,
            bad: None,
            durability: None,
            limit: Slot(u64::MAX),
            incarnation: None,
        }
    }

    /// Takes the next record.
    pub(super) fn record(&mut self, place: Place, frame: &Frame<'_>) {
        match frame.header.kind {
            Kind::Accept | Kind::Learnt => self.value(place, frame),
            Kind::Chosen => match decode_ranges(frame.payload, frame.header.epoch) {
                Ok(ranges) => {
                    for range in ranges.iter() {
                        self.chosen(&range);
                    }
                }
                Err(_) => {
                    self.bad = Some(format!("the chosen record with Lsn {} has a body of no use", frame.header.lsn))
                }
            },
            Kind::Configuration => self.check_founding(frame.payload),
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

    /// What `format` wrote: who founded the group, and whether this log joined it.
    fn check_founding(&mut self, payload: &[u8]) {
        let Ok((body, rest)) = record::Configuration::read_from_prefix(payload) else {
            self.bad = Some("its configuration record has a body of no use".to_owned());
            return;
        };
        let members: Vec<NodeId> = rest.iter().take(body.members.into()).map(|node| NodeId(*node)).collect();
        self.joins = body.learners > 0;
        let quorums = Quorums { phase1: body.phase1.into(), phase2: body.phase2.into() };
        self.founded_by(Configuration::founding(&members, quorums));
    }

    /// Founders and quorums are the log's; a configuration file that says otherwise would make quorums that do not meet.
    pub(super) fn founded_by(&mut self, founding: Configuration) {
        if self.configuration.epoch != Epoch(1) || founding == self.configuration {
            return;
        }
        let say = |configuration: &Configuration| {
            let Quorums { phase1, phase2 } = configuration.quorums;
            let members: Vec<u8> = configuration.voters().iter().map(|node| node.0).collect();
            format!("{members:?} with quorums {:?}", (phase1, phase2))
        };
        self.bad = Some(format!(
            "it was formatted for the members {}, but the configuration file names {}; give the file the members and quorums of the \
             log (nodes that were added since have joins = true in it)",
            say(&founding),
            say(&self.configuration)
        ));
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
            chosen: if header.kind == Kind::Learnt {
                Some(header.epoch)
            } else {
                before.and_then(|before| before.chosen)
            },
            mark: mark(header.flags),
            payload: keep.then(|| frame.payload.to_vec()),
        };
        self.pending.insert(header.slot, value);
    }

    /// What is held in the ballot that chose it is chosen.
    fn chosen(&mut self, range: &Evidence) {
        self.restart.chosen_upto = self.restart.chosen_upto.max(range.last);
        let held = self.pending.range_mut(range.first..=range.last);
        for (_, value) in held.filter(|(_, value)| value.ballot == range.ballot) {
            value.chosen = value.chosen.max(Some(range.epoch));
        }
    }

    pub(super) fn apply_ready(&mut self) {
        while let Some(entry) = self.pending.first_entry() {
            let chosen = entry.get().is_final(self.configuration.epoch) || mutant("restart_applies_unchosen");
            let ready = *entry.key() == self.slots.applied().next() && chosen && *entry.key() <= self.limit;
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
    pub(super) fn drain_from_disk(&mut self, dir: &Dir) -> Result<(), LogError> {
        let mut reader = None;
        while let Some(entry) = self.pending.first_entry() {
            let next = *entry.key() == self.slots.applied().next() && *entry.key() <= self.limit;
            if !next || !entry.get().is_final(self.configuration.epoch) {
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
        if let Some(configuration) = batch.configuration() {
            (self.configuration, self.configured_at) = (configuration, slot);
            self.governed.push(slot, configuration);
            // What members of an earlier configuration chose above it is merely accepted.
            let before = |value: &&mut Pending| value.chosen.is_some_and(|epoch| epoch < configuration.epoch);
            self.pending.values_mut().filter(before).for_each(|value| value.chosen = None);
        }
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
}

/// A value's bytes: those that were kept, or else from the log; most recoveries never need the reader.
pub(super) fn payload(
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
