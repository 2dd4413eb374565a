//! Snapshots, made off the core: a second state machine, on the housekeeping thread, is fed the log as it becomes durable, and is
//! what a snapshot is taken of. The pipeline is not asked for a copy of anything, so that no commit waits for one, and the
//! log's bytes on disk are read and checked once more on the way.
//!
//! | | |
//! |---|---|
//! | which slot | the last whose entries made the tail pass a multiple of `snapshot.every_entries`: the same slot at every member |
//! | how fast | [`PIECE_BYTES`] of the log a job, and more when the thread comes behind; the shard paces the jobs, and the writing (`snapshot.max_bytes_per_s`) |
//! | what for | a restart reads the log from [`Facts::from_segment`] on |
//! | how many are kept | [`KEPT_SNAPSHOTS`]: should the newest be damaged, recovery goes back one |
//!
//! A log with damage that is not repaired yet gets no snapshot: it would hide what recovery must know.

use super::governed::Governed;
use super::replay::{Pending, Replay};
use crate::index::Index;
use crate::machine::StateMachine;
use crate::shard::codec::encode_founded;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use synod_paxos::LsnRun;
use synod_wal::snapshot::{self, Snapshot};
use synod_wal::{Dir, Expect, Item, LogError, LogReader, Start, long, partial};
use synod_wire::configuration::MAX_CONFIGURATION_BYTES;
use synod_wire::mutant::mutant;
use synod_wire::record::PeerMark;
use synod_wire::snapshot::{Facts, Head, Malformed, Rest, State};
use synod_wire::{Ballot, Configuration, Epoch, Lsn, NodeId, Slot};
use zerocopy::IntoBytes;

/// Bytes of the log that one job reads.
pub const PIECE_BYTES: u64 = 256 << 10;
/// The same of one that comes late, at most.
pub const MAX_PIECE_BYTES: u64 = 8 * PIECE_BYTES;
/// Snapshots that a directory keeps.
pub const KEPT_SNAPSHOTS: usize = 2;

/// Go on towards the snapshot of a slot.
#[derive(Clone, Debug)]
pub struct CheckpointRequest {
    /// The group's directory.
    pub dir: Dir,
    /// The slot.
    pub slot: Slot,
    /// The log is durable up to here.
    pub upto_pos: u64,
    /// How much of it is read now.
    pub piece_bytes: u64,
    /// The pause after each [`snapshot::PIECE_BYTES`] that are written.
    pub pause_ns: u64,
    /// A snapshot that a member is being sent: it is kept, too.
    pub held: Option<Slot>,
}

/// How far a job came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It read a piece, up to this position; more is there.
    Read(u64),
    /// The log up to the position given does not show all of the slot's prefix chosen, or has damage to be repaired.
    Waits,
    /// The snapshot is durable.
    Written(Checkpoint),
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last slot that it has.
    pub slot: Slot,
    /// The checksum of what every member has after it.
    pub state_crc: u32,
    /// Its size.
    pub bytes: u64,
    /// The size of what every member has.
    pub state_bytes: u64,
    /// How far the log was read for it.
    pub read_pos: u64,
}

/// What the maker of snapshots is told at its start: what recovery is told, too.
pub struct Maker {
    /// Whose log it is.
    pub expect: Expect,
    /// The core's settings.
    pub paxos: synod_paxos::Settings,
    /// Makes the machine that is fed the entries.
    pub make: Box<dyn Fn() -> Option<Box<dyn StateMachine>> + Send + Sync>,
    /// Lets so many nanoseconds pass between two pieces of a snapshot that is written, or fewer if the node is told to stop.
    pub pause: Box<dyn Fn(u64) + Send + Sync>,
}

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maker").field("expect", &self.expect).finish_non_exhaustive()
    }
}

/// The second state machine, and how far it has read.
pub(super) struct Shadow {
    replay: Replay,
    /// The start of the next flush to read.
    pos: u64,
    last_lsn: Lsn,
    promised: Ballot,
    /// By segment: the Lsn of its first record.
    firsts: BTreeMap<u64, Lsn>,
    /// What could not be read.
    lost: Vec<LsnRun>,
    segment_bytes: u64,
    /// Of the last snapshot that was made.
    body_bytes: usize,
}

impl Shadow {
    /// From the newest snapshot that can be used, or from the log's first record.
    pub(super) fn begin(maker: &Maker, dir: &Dir, reader: &LogReader) -> Result<Shadow, LogError> {
        let (replay, start) = super::recovery::begin(dir, maker)?;
        Ok(Shadow::over(replay, start, reader))
    }

    /// From what a snapshot has, whose log goes on at `start`.
    pub(super) fn over(replay: Replay, start: Start, reader: &LogReader) -> Shadow {
        let (segment, first_lsn) = start.place();
        let mut shadow = Shadow {
            promised: replay.restart.promised,
            replay,
            pos: reader.first_flush(segment),
            last_lsn: Lsn(first_lsn.0 - 1),
            firsts: [(segment, first_lsn)].into(),
            lost: Vec::new(),
            segment_bytes: reader.segment_bytes(),
            body_bytes: 0,
        };
        shadow.drop_front(reader.first_segment());
        shadow
    }

    /// Reads the log up to here and applies nothing of it: what a recovery would know from it in front of where it may then begin. None:
    /// what cannot be read is not made good yet, and a recovery must find it.
    pub(super) fn facts_upto(&mut self, upto_pos: u64, reader: &mut LogReader) -> Result<Option<Vec<u8>>, LogError> {
        self.replay.limit = self.replay.slots.applied();
        while self.pos < upto_pos {
            let begun = self.pos;
            self.read_piece(MAX_PIECE_BYTES, upto_pos, reader)?;
            if self.pos == begun {
                break;
            }
        }
        if self.replay.bad.is_some() || !self.is_repaired() {
            return Ok(None);
        }
        let start = self.start_of_recovery(reader);
        Ok(Some(self.replay.facts(start, self.promised, &self.replay.index)))
    }

    /// The log has no segments below this one any more: what lies there leaves the index.
    pub(super) fn drop_front(&mut self, first_segment: u64) {
        self.replay.lacks_below(first_segment * self.segment_bytes);
    }

    /// Goes on towards a slot, a piece at most; `pause` as in [`Maker`].
    pub(super) fn advance(
        &mut self,
        request: &CheckpointRequest,
        reader: &mut LogReader,
        pause: &dyn Fn(u64),
    ) -> Result<Progress, LogError> {
        self.replay.limit = request.slot;
        self.replay.apply_ready();
        if self.replay.slots.applied() < request.slot && self.pos < request.upto_pos {
            self.read_piece(request.piece_bytes, request.upto_pos, reader)?;
            if self.replay.slots.applied() < request.slot && self.pos < request.upto_pos {
                return Ok(Progress::Read(self.pos));
            }
        }
        self.replay.drain_from_disk(&request.dir)?;
        if let Some(what) = self.replay.bad.clone() {
            return Err(LogError::Malformed { dir: request.dir.path().to_path_buf(), what });
        }
        if self.replay.slots.applied() < request.slot || !self.is_repaired() {
            return Ok(Progress::Waits);
        }
        self.write(request, reader, pause)
    }

    /// Reads whole flushes.
    fn read_piece(&mut self, piece_bytes: u64, upto_pos: u64, reader: &mut LogReader) -> Result<(), LogError> {
        let (begun, segment_bytes) = (self.pos, reader.segment_bytes());
        let Shadow { replay, last_lsn, lost, firsts, .. } = self;
        let end = reader.scan(begun, Some(upto_pos), &mut |item| {
            match item {
                Item::Record(place, frame) => {
                    let lsn = frame.header.lsn;
                    if lsn > last_lsn.next() {
                        lost.push(LsnRun { first: last_lsn.next(), last: Lsn(lsn.0 - 1) });
                    }
                    *last_lsn = lsn.max(*last_lsn);
                    replay.record(place, &frame);
                }
                Item::Damage(damage) if damage.lost() > 0 => {
                    lost.push(LsnRun { first: damage.first_lsn, last: damage.last_lsn });
                    *last_lsn = damage.last_lsn.max(*last_lsn);
                }
                Item::Trailer(mark) => {
                    if mark.next / segment_bytes != mark.start / segment_bytes {
                        firsts.insert(mark.next / segment_bytes, mark.lsn.next());
                    }
                    if mark.next - begun >= piece_bytes {
                        return ControlFlow::Break(());
                    }
                }
                Item::Damage(_) | Item::TornTail(_) => {}
            }
            ControlFlow::Continue(())
        })?;
        self.pos = end.pos;
        self.promised = self.promised.max(end.promised);
        Ok(())
    }

    /// Whether every Lsn that could not be read was made good since.
    fn is_repaired(&self) -> bool {
        self.lost.iter().all(|lost| {
            let mut next = lost.first;
            while let Some(repaired) = self.replay.repaired.iter().find(|run| (run.first..=run.last).contains(&next)) {
                next = repaired.last.next();
            }
            next > lost.last
        })
    }

    fn write(
        &mut self,
        request: &CheckpointRequest,
        reader: &LogReader,
        pause: &dyn Fn(u64),
    ) -> Result<Progress, LogError> {
        let dir = &request.dir;
        let slot = self.replay.slots.applied();
        let (from_segment, first_lsn) = self.start_of_recovery(reader);
        let facts = self.replay.facts((from_segment, first_lsn), self.promised, &self.replay.index);
        // The state is made where it is written from: it may be most of this machine's memory.
        // As large as the last one, and a little more: one that grows is copied, all of it at once.
        let mut body = Vec::with_capacity(self.body_bytes + self.body_bytes / 16);
        body.resize(size_of::<Head>(), 0);
        self.replay.state(&mut body);
        let state_bytes = (body.len() - size_of::<Head>()) as u64;
        let state_crc = long::checksum(&body[size_of::<Head>()..]);
        let head = Head { state_bytes: state_bytes.into(), facts_bytes: (facts.len() as u64).into() };
        body[..size_of::<Head>()].copy_from_slice(head.as_bytes());
        body.extend_from_slice(&facts);
        // One that is there already was of no use, or this node would have begun with it.
        if snapshot::list(dir)?.contains(&slot) {
            snapshot::remove(dir, slot)?;
        }
        snapshot::write(dir, reader.identity(), slot, &body, &mut || pause(request.pause_ns))?;
        remove_older(dir, request.held)?;
        partial::remove_upto(dir, slot)?;
        self.firsts = self.firsts.split_off(&from_segment);
        self.body_bytes = body.len();
        let bytes = body.len() as u64;
        long::free(body);
        Ok(Progress::Written(Checkpoint { slot, state_crc, bytes, state_bytes, read_pos: self.pos }))
    }

    /// The highest segment from whose start on the log has every value above the slot, and at least one record.
    fn start_of_recovery(&self, reader: &LogReader) -> (u64, Lsn) {
        let lowest = self.replay.pending.values().map(|value: &Pending| value.place.pos).min();
        let lowest = if mutant("snapshot_drops_later_votes") { None } else { lowest };
        let highest = lowest.unwrap_or(u64::MAX).min(self.pos) / reader.segment_bytes();
        let fits = self.firsts.iter().rev().find(|(segment, lsn)| **segment <= highest && **lsn <= self.last_lsn);
        let first = || self.firsts.first_key_value();
        fits.or_else(first).map(|(segment, lsn)| (*segment, *lsn)).expect("where it began itself is one")
    }
}

/// Removes what is older than the kept snapshots, but for one that a member is being sent.
pub(super) fn remove_older(dir: &Dir, held: Option<Slot>) -> Result<(), LogError> {
    let all = snapshot::list(dir)?;
    let old = all.iter().rev().skip(KEPT_SNAPSHOTS).filter(|slot| Some(**slot) != held);
    old.rev().try_for_each(|slot| snapshot::remove(dir, *slot))
}

impl Replay {
    /// The log has nothing below this position any more.
    pub(super) fn lacks_below(&mut self, pos: u64) {
        let kept = self.index.first_slot_from(pos);
        self.index.drop_front(kept);
    }

    /// What else a recovery would know from the log in front of this record; `index`: where the state's slots lie, if they do.
    pub(super) fn facts(&self, (from_segment, first_lsn): (u64, Lsn), promised: Ballot, index: &Index) -> Vec<u8> {
        let Replay { restart, durability, .. } = self;
        let (blocks, exceptions) = index.rows();
        let (durability_lsn, synced) = durability.unwrap_or((Lsn::ZERO, true));
        let founded = restart.founded.as_deref().unwrap_or_default();
        let facts = Facts {
            from_segment: from_segment.into(),
            first_lsn: first_lsn.0.into(),
            promised: promised.pack().into(),
            chosen_upto: restart.chosen_upto.0.into(),
            longest_lease_ns: restart.longest_lease_ns.into(),
            durability_lsn: durability_lsn.0.into(),
            durability_synced: synced.into(),
            founded: restart.founded.is_some().into(),
            joins: self.joins.into(),
            reserved: 0,
            incarnations: (founded.len() as u32).into(),
            marks: (restart.counted.len() as u32).into(),
            reserved2: 0.into(),
            blocks: (blocks.len() as u64).into(),
            exceptions: (exceptions.len() as u64).into(),
        };
        let mut out = facts.as_bytes().to_vec();
        out.extend(encode_founded(founded));
        for (node, lsn) in &restart.counted {
            out.extend_from_slice(PeerMark { node: u64::from(node.0).into(), lsn: lsn.0.into() }.as_bytes());
        }
        blocks.for_each(|row| out.extend_from_slice(row.as_bytes()));
        exceptions.for_each(|row| out.extend_from_slice(row.as_bytes()));
        out
    }

    /// Appends what every member has after the last slot applied.
    fn state(&self, out: &mut Vec<u8>) {
        let mut configuration = [0; MAX_CONFIGURATION_BYTES];
        let bytes = self.configuration.encode(&mut configuration);
        let state = State {
            slot: self.slots.applied().0.into(),
            configured_at: self.configured_at.0.into(),
            configuration_bytes: (bytes as u32).into(),
            embedded: self.embedded.is_some().into(),
            reserved: [0; 3],
        };
        out.extend_from_slice(state.as_bytes());
        out.extend_from_slice(&configuration[..bytes]);
        self.machine.snapshot(out);
        if let Some(embedded) = &self.embedded {
            embedded.snapshot(out);
        }
    }

    /// Takes a snapshot in place of all slots up to its own; where the log is to be read from.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) -> Result<Start, Malformed> {
        let (state, facts) = synod_wire::snapshot::parts(&snapshot.body)?;
        self.restore_state(state)?;
        self.restore_facts(snapshot.incarnation, facts)
    }

    /// The part of it that is this node's alone, behind the state; where the log is to be read from.
    pub(super) fn restore_facts(&mut self, incarnation: u64, facts: &[u8]) -> Result<Start, Malformed> {
        self.incarnation = Some(incarnation);
        let (facts, rows) = synod_wire::snapshot::facts(facts)?;
        self.index = Index::restore(self.slots.applied(), rows.blocks, rows.exceptions)?;
        if self.index.last_slot() != self.slots.applied() && !mutant("restored_state_applied_again") {
            return Err(Malformed("its index does not end where it does"));
        }
        let incarnations = rows.incarnations.iter().map(|row| (NodeId(row.node.get() as u8), row.incarnation.get()));
        self.joins = facts.joins == 1;
        self.restart.founded = (facts.founded == 1).then(|| incarnations.collect());
        self.restart.counted =
            rows.marks.iter().map(|row| (NodeId(row.node.get() as u8), Lsn(row.lsn.get()))).collect();
        self.restart.longest_lease_ns = facts.longest_lease_ns.get();
        self.restart.chosen_upto = Slot(facts.chosen_upto.get());
        self.restart.promised = Ballot::unpack(facts.promised.get());
        let durability = (Lsn(facts.durability_lsn.get()), facts.durability_synced == 1);
        self.durability = (durability.0 > Lsn::ZERO).then_some(durability);
        Ok(Start::At { segment: facts.from_segment.get(), first_lsn: Lsn(facts.first_lsn.get()) })
    }

    pub(super) fn restore_state(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut rest = Rest(bytes);
        let state: &State = rest.take()?;
        let configuration = Configuration::parse(rest.bytes(state.configuration_bytes.get().into())?)
            .map_err(|_| Malformed("its configuration cannot be read"))?;
        if configuration.epoch == Epoch(1) {
            self.founded_by(configuration);
        }
        (self.configuration, self.configured_at) = (configuration, Slot(state.configured_at.get()));
        self.governed = Governed::new(self.configured_at, configuration);
        self.machine = crate::sequencer::Sequencer::restore(&mut rest)?;
        if mutant("sessions_missing_from_snapshot") {
            self.machine.forget_sessions();
        }
        match (&mut self.embedded, state.embedded) {
            (Some(machine), 1) => {
                machine.restore(rest.0).map_err(|_| Malformed("its machine does not take its part of it"))?;
            }
            (None, 0) => rest.end()?,
            _ => return Err(Malformed("it is of a group with another state machine")),
        }
        let again = u64::from(mutant("restored_state_applied_again"));
        self.slots.start_at(Slot(state.slot.get() - again));
        Ok(())
    }
}
