//! Who chose a slot, as this node's log has it: the answer to `synod evidence`.
//!
//! What a log says of a slot stands in the last record of its value and in the chosen record that covers it. For recent
//! slots both are in memory: the value in the arena, what was chosen in [`RecentChosen`]. For others housekeeping reads
//! the log ([`look_up`]). [`SlotRecords`] gathers it from records in their order; the offline tools use it as well.
//! Called by the turn with a client's datagram, and with housekeeping's answer.

use super::Shard;
use super::clients::put;
use super::jobs::{Done, Job, LogRange, value_records};
use crate::index::{Block, Lacks, Walker};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::ops::ControlFlow;
use synod_paxos::{Evidence, Ranges};
use synod_ring::Io;
use synod_wal::{Damage, Item, LogError, LogReader};
use synod_wire::batch::{Batch, MIN_BATCH_BYTES};
use synod_wire::evidence::{EvidenceBody, EvidenceReplyBody, Held, Told};
use synod_wire::frame::{Header, Kind, parse_header};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::mutant::mutant;
use synod_wire::record::ChosenRange;
use synod_wire::{Ballot, Epoch, Lsn, NodeSet, Sequence, Slot};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

const _: () = assert!(size_of::<EvidenceReplyBody>() <= MIN_BATCH_BYTES);

/// Ranges of chosen slots that are kept in memory: one covers what one turn chose, so these are the last thousand turns.
const RECENT_RANGES: usize = 1_024;
/// The memory that they take.
pub const RECENT_CHOSEN_BYTES: usize = RECENT_RANGES * size_of::<Evidence>();
/// How far behind a value housekeeping looks for the chosen record that covers it. Between the two lie the accepts of
/// at most a window, and what was logged while the evidence lingered.
const LOOK_AHEAD_BYTES: u64 = 16 << 20;

/// A question as it came, with the address to answer.
#[derive(Clone, Copy, Debug)]
pub struct EvidenceRequest {
    /// The kernel's source address of the request.
    pub to: SocketAddrV4,
    /// The request.
    pub body: EvidenceBody,
}

/// The record that holds a slot's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRecord {
    /// Whether a peer told that it was chosen; else it is a vote.
    pub learnt: bool,
    /// The ballot it was accepted in.
    pub ballot: Ballot,
    /// The record's number.
    pub lsn: Lsn,
    /// The epoch that it was logged under.
    pub epoch: Epoch,
    /// The value's checksum.
    pub payload_crc: u32,
    /// The value's bytes.
    pub payload_bytes: u32,
}

impl ValueRecord {
    fn of(header: &Header, payload_crc: u32, payload_bytes: usize) -> ValueRecord {
        ValueRecord {
            learnt: header.kind == Kind::Learnt,
            ballot: header.ballot,
            lsn: header.lsn,
            epoch: header.epoch,
            payload_crc,
            payload_bytes: payload_bytes as u32,
        }
    }
}

/// What a chosen record says: the ballot, and whose votes; none where it repeats another log's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenBy {
    /// The ballot that chose the slot.
    pub ballot: Ballot,
    /// Whose votes.
    pub acceptors: NodeSet,
    /// The configuration in which they were counted.
    pub epoch: Epoch,
}

/// What a log says of one slot. Fed with the log's records in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRecords {
    /// The slot.
    pub slot: Slot,
    /// The last record of its value.
    pub value: Option<ValueRecord>,
    /// The first chosen record that names acceptors, or the first: of those of the latest configuration.
    pub chosen: Option<ChosenBy>,
    /// Damage may have taken a value that no later record replaced.
    pub damaged: bool,
}

impl SlotRecords {
    /// Nothing is known yet.
    pub fn new(slot: Slot) -> SlotRecords {
        SlotRecords { slot, value: None, chosen: None, damaged: false }
    }

    /// Takes the next record.
    pub fn record(&mut self, header: &Header, payload: &[u8], payload_crc: u32) {
        match header.kind {
            Kind::Accept | Kind::Learnt if header.slot == self.slot => {
                self.value = Some(ValueRecord::of(header, payload_crc, payload.len()));
                self.damaged = false;
            }
            Kind::Chosen => {
                let Ok(ranges) = <[ChosenRange]>::ref_from_bytes(payload) else { return };
                for range in ranges.iter().filter(|range| range.ballot.get() > 0) {
                    if (range.first.get()..=range.last.get()).contains(&self.slot.0) {
                        let ballot = Ballot::unpack(range.ballot.get());
                        let acceptors = NodeSet(range.acceptors.get());
                        self.take_chosen(ChosenBy { ballot, acceptors, epoch: header.epoch });
                    }
                }
            }
            _ => {}
        }
    }

    fn take_chosen(&mut self, by: ChosenBy) {
        let says_more = |known: ChosenBy| {
            // What an earlier configuration's members had chosen out of order may be void.
            by.epoch > known.epoch || by.epoch == known.epoch && known.acceptors.is_empty() && !by.acceptors.is_empty()
        };
        if self.chosen.is_none_or(says_more) {
            self.chosen = Some(by);
        }
    }

    /// Takes a damaged place. The record that is lost may be the last of the value: an earlier one must not stand in for it.
    pub fn damage(&mut self, damage: &Damage) {
        if !damage.complete || damage.named.iter().any(|row| row.slot.get() == self.slot.0) {
            self.value = None;
            self.damaged = true;
        }
    }

    /// Whether these records by themselves show the slot chosen.
    pub fn is_chosen(&self) -> bool {
        let Some(value) = self.value else { return false };
        value.learnt || self.chosen.is_some_and(|chosen| chosen.ballot <= value.ballot)
    }

    /// Whether what follows in the log adds nothing.
    fn is_settled(&self) -> bool {
        let told = self.chosen.is_some_and(|chosen| !chosen.acceptors.is_empty());
        self.value.is_some_and(|value| value.learnt || told)
    }
}

/// The evidence that was logged last, kept so that the question about a recent slot needs no disk.
#[derive(Debug)]
pub(super) struct RecentChosen(VecDeque<Evidence>);

impl RecentChosen {
    pub(super) fn new() -> RecentChosen {
        RecentChosen(VecDeque::with_capacity(RECENT_RANGES))
    }

    /// A chosen record was logged.
    pub(super) fn push(&mut self, ranges: &Ranges) {
        for range in ranges.iter() {
            if self.0.len() == RECENT_RANGES {
                self.0.pop_front();
            }
            self.0.push_back(range);
        }
    }

    /// Adds to what is known of a slot.
    fn tell(&self, records: &mut SlotRecords) {
        let slot = records.slot;
        for range in self.0.iter().filter(|range| (range.first..=range.last).contains(&slot)) {
            let Evidence { ballot, acceptors, epoch, .. } = *range;
            records.take_chosen(ChosenBy { ballot, acceptors, epoch });
        }
    }
}

/// Where the answer is to be had.
enum Source {
    Memory(Slot, Option<SlotRecords>),
    /// In this block of the index.
    Log(usize),
    NotApplied,
    /// Neither in memory nor on disk yet.
    Later,
    /// Not in the log any more.
    Trimmed,
}

impl Source {
    fn lacking(lacks: Lacks) -> Source {
        match lacks {
            Lacks::Trimmed => Source::Trimmed,
            Lacks::NotYet => Source::Later,
        }
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    pub(super) fn on_evidence(&mut self, request: EvidenceRequest) {
        match self.source(&request) {
            Source::Memory(slot, records) => self.tell_evidence(&request, Told::Told, slot, records),
            Source::NotApplied => self.tell_evidence(&request, Told::NotYet, Slot::ZERO, None),
            Source::Log(block) => {
                let range = self.range(block, 1);
                let upto_pos = self.log.durable_pos();
                if range.blocks.is_empty() || !self.ask(Job::Evidence { request, range, upto_pos }) {
                    self.tell_evidence(&request, Told::Busy, Slot::ZERO, None);
                }
            }
            Source::Trimmed => self.tell_evidence(&request, Told::Unreadable, Slot::ZERO, None),
            Source::Later => self.tell_evidence(&request, Told::Busy, Slot::ZERO, None),
        }
    }

    fn source(&self, request: &EvidenceRequest) -> Source {
        let (sequence, slot) = (Sequence(request.body.sequence.get()), Slot(request.body.slot.get()));
        if sequence > self.machine.tail() {
            return Source::NotApplied;
        }
        let recent = if slot > Slot::ZERO { Some(slot) } else { self.slots.slot_of(sequence) };
        let in_index = || match slot {
            Slot::ZERO => self.index.block_of_sequence(sequence),
            slot => self.index.block_of_slot(slot),
        };
        let Some(slot) = recent else { return in_index().map_or_else(Source::lacking, Source::Log) };
        let applied = slot <= self.slots.applied();
        let Some(place) = self.slots.place(slot) else {
            let nothing_held = Source::Memory(slot, None);
            return if applied { in_index().map_or_else(Source::lacking, Source::Log) } else { nothing_held };
        };
        let mut records = SlotRecords::new(slot);
        let held = self.log.frame(place).and_then(|frame| parse_header(frame.bytes()).ok());
        if let Some((header, payload_crc, payload_bytes)) = held {
            records.value = Some(ValueRecord::of(&header, payload_crc, payload_bytes));
            self.recent_chosen.tell(&mut records);
        }
        if records.is_settled() || (!applied && records.value.is_some()) {
            return Source::Memory(slot, Some(records));
        }
        // The log may say more, as far as it is on disk.
        match in_index() {
            Ok(block) if place.end() <= self.log.durable_pos() => Source::Log(block),
            _ => Source::Later,
        }
    }

    /// Housekeeping has looked.
    pub(super) fn on_evidence_read(&mut self, request: EvidenceRequest, found: Result<Option<SlotRecords>, LogError>) {
        match found {
            Ok(Some(mut records)) => {
                // What this node logged since may say more than its disk did.
                self.recent_chosen.tell(&mut records);
                self.tell_evidence(&request, Told::Told, records.slot, Some(records));
            }
            Ok(None) | Err(_) => self.tell_evidence(&request, Told::Unreadable, Slot::ZERO, None),
        }
    }

    fn tell_evidence(&mut self, request: &EvidenceRequest, told: Told, slot: Slot, records: Option<SlotRecords>) {
        // Without a slot to speak of it is the present one.
        // Nor can who has not come so far know who governs it.
        let known = slot <= self.core.prefix().next() || mutant("evidence_of_last_known_members");
        let of_slot = self.membership.governing(slot).filter(|_| known);
        let present = (slot == Slot::ZERO).then(|| self.core.configuration());
        let (epoch, members, quorums) = of_slot.or(present).map_or_else(Default::default, |configuration| {
            (configuration.epoch, configuration.voters(), (configuration.quorums.phase1, configuration.quorums.phase2))
        });
        let mut body = EvidenceReplyBody {
            request_id: request.body.request_id,
            slot: U64::new(slot.0),
            tail: U64::new(self.machine.tail().0),
            members: U64::new(members.0),
            epoch: U32::new(epoch.0),
            phase1: quorums.0 as u8,
            phase2: quorums.1 as u8,
            told: told as u8,
            mode: self.modes.mode() as u8,
            // One node's word on itself.
            guarantee: Guarantee::read(Recency::StalePossible).encode(),
            ..EvidenceReplyBody::default()
        };
        if let Some(records) = records {
            self.fill_in(&mut body, &records);
        }
        self.reply(request.to, Kind::EvidenceReply, |out| put(body.as_bytes(), out));
    }

    fn fill_in(&self, body: &mut EvidenceReplyBody, records: &SlotRecords) {
        if let Some(value) = records.value {
            body.held = match value.learnt {
                true => Held::Learnt as u8,
                // A vote that a crash would forget is none; only what this node vouches for may be told.
                false if value.lsn > self.vouched() => Held::Unsynced as u8,
                false => Held::Accepted as u8,
            };
            body.ballot = U64::new(value.ballot.pack());
            body.lsn = U64::new(value.lsn.0);
            body.payload_crc = U32::new(value.payload_crc);
            body.payload_bytes = U32::new(value.payload_bytes);
        }
        if let Some(chosen) = records.chosen {
            let all = mutant("evidence_names_all") && !chosen.acceptors.is_empty();
            body.chosen_ballot = U64::new(chosen.ballot.pack());
            body.acceptors = if all { body.members } else { U64::new(chosen.acceptors.0) };
        }
        let chosen = records.slot <= self.slots.applied() || records.is_chosen();
        body.known_chosen = u8::from(chosen && records.value.is_some());
    }
}

/// What the log has of the slot that is asked for: it lies in `range`, and its evidence behind it, up to the durable
/// position `upto_pos`. None: damage took the value. On the housekeeping thread.
pub(super) fn look_up(
    reader: &mut LogReader,
    request: &EvidenceRequest,
    range: &LogRange,
    upto_pos: u64,
) -> Result<Option<SlotRecords>, LogError> {
    let Some(block) = range.blocks.first() else { return Ok(None) };
    let slot = match Slot(request.body.slot.get()) {
        Slot::ZERO => slot_of(reader, Sequence(request.body.sequence.get()), range)?,
        slot => Some(slot),
    };
    let Some(slot) = slot else { return Ok(None) };
    let records = records_of(reader, slot, block, upto_pos)?;
    Ok(records.value.is_some().then_some(records))
}

/// Who chose a slot whose value damage took: it lies in `range`. None: the log does not say. On the housekeeping thread.
pub(super) fn chosen_by(
    reader: &mut LogReader,
    slot: Slot,
    range: &LogRange,
    upto_pos: u64,
) -> Result<Option<ChosenBy>, LogError> {
    let Some(block) = range.blocks.iter().find(|block| (block.first_slot..=block.last_slot).contains(&slot)) else {
        return Ok(None);
    };
    Ok(records_of(reader, slot, block, upto_pos)?.chosen)
}

/// What the log has of a slot whose value lies in `block`.
fn records_of(reader: &mut LogReader, slot: Slot, block: &Block, upto_pos: u64) -> Result<SlotRecords, LogError> {
    let mut records = SlotRecords::new(slot);
    reader.scan(block.start_pos, Some(upto_pos), &mut |item| {
        match item {
            Item::Record(place, frame) => {
                let behind = place.pos >= block.end_pos;
                if place.pos > block.end_pos.saturating_add(LOOK_AHEAD_BYTES) || (behind && records.is_settled()) {
                    return ControlFlow::Break(());
                }
                records.record(&frame.header, frame.payload, frame.payload_crc);
            }
            Item::Damage(damage) => records.damage(&damage),
            Item::Trailer(_) | Item::TornTail(_) => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(records)
}

/// The slot in which a sequence was given. None: the log has a hole before it.
fn slot_of(reader: &mut LogReader, sequence: Sequence, range: &LogRange) -> Result<Option<Slot>, LogError> {
    let found = value_records(reader, range)?;
    let Some(block) = range.blocks.first() else { return Ok(None) };
    let mut walker = Walker::new(block, &range.exceptions);
    for slot in (block.first_slot.0..=block.last_slot.0).map(Slot) {
        let Some((_, payload)) = found.get(&slot) else { return Ok(None) };
        let Ok(batch) = Batch::parse(payload) else { return Ok(None) };
        walker.slot(slot, &batch, &mut |_, _, _| true);
        if walker.tail() >= sequence {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::{ClusterId, GroupId, NodeId};

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn header(kind: Kind, slot: u64, round: u64, lsn: u64) -> Header {
        Header {
            kind,
            flags: 0,
            from: NodeId(1),
            group: GroupId(0),
            cluster: ClusterId(7),
            epoch: Epoch(1),
            slot: Slot(slot),
            ballot: ballot(round),
            promised: ballot(round),
            lsn: Lsn(lsn),
        }
    }

    fn range(first: u64, last: u64, round: u64, acceptors: u64) -> ChosenRange {
        ChosenRange {
            first: U64::new(first),
            last: U64::new(last),
            ballot: U64::new(ballot(round).pack()),
            acceptors: U64::new(acceptors),
        }
    }

    #[test]
    fn the_last_value_and_the_evidence_that_names_acceptors_count() {
        let mut records = SlotRecords::new(Slot(5));
        records.record(&header(Kind::Accept, 4, 1, 10), b"other", 1);
        records.record(&header(Kind::Accept, 5, 1, 11), b"old", 2);
        records.record(&header(Kind::Accept, 5, 3, 12), b"value", 3);
        assert!(records.value.is_some_and(|value| value.ballot == ballot(3) && value.lsn == Lsn(12)));
        assert!(!records.is_chosen() && !records.is_settled());
        records.record(&header(Kind::Chosen, 0, 0, 13), [range(1, 4, 3, 7), range(6, 9, 3, 7)].as_bytes(), 0);
        assert_eq!(records.chosen, None, "both pass it by");
        records.record(&header(Kind::Chosen, 0, 0, 14), range(1, 9, 3, 0).as_bytes(), 0);
        assert!(records.is_chosen() && !records.is_settled());
        records.record(&header(Kind::Chosen, 0, 0, 15), range(5, 5, 3, 6).as_bytes(), 0);
        records.record(&header(Kind::Chosen, 0, 0, 16), range(5, 5, 4, 7).as_bytes(), 0);
        let first = ChosenBy { ballot: ballot(3), acceptors: NodeSet(6), epoch: Epoch(1) };
        assert_eq!(records.chosen, Some(first));
        assert!(records.is_settled());
        let later = Header { epoch: Epoch(2), ..header(Kind::Chosen, 0, 0, 17) };
        records.record(&later, range(5, 5, 4, 0).as_bytes(), 0);
        let by = ChosenBy { ballot: ballot(4), acceptors: NodeSet(0), epoch: Epoch(2) };
        assert_eq!(records.chosen, Some(by), "a later configuration's members chose it again");
    }

    #[test]
    fn a_value_in_an_older_ballot_than_the_one_that_chose_is_not_shown_chosen() {
        let mut records = SlotRecords::new(Slot(5));
        records.record(&header(Kind::Accept, 5, 1, 11), b"old", 2);
        records.record(&header(Kind::Chosen, 0, 0, 12), range(5, 5, 2, 3).as_bytes(), 0);
        assert!(!records.is_chosen());
        records.record(&header(Kind::Learnt, 5, 2, 13), b"value", 3);
        assert!(records.is_chosen() && records.is_settled());
    }

    #[test]
    fn what_damage_took_is_not_told_from_an_earlier_record() {
        let mut records = SlotRecords::new(Slot(5));
        records.record(&header(Kind::Accept, 5, 1, 11), b"old", 2);
        let damage = |named, complete| Damage {
            segment: "0.seg".into(),
            pos: 0,
            first_lsn: Lsn(12),
            last_lsn: Lsn(12),
            named,
            complete,
        };
        records.damage(&damage(vec![], true));
        assert!(records.value.is_some(), "of nothing that is asked for");
        records.damage(&damage(vec![], false));
        assert!(records.value.is_none() && records.damaged);
        records.record(&header(Kind::Learnt, 5, 1, 14), b"again", 2);
        assert!(records.value.is_some() && !records.damaged);
    }

    #[test]
    fn recent_evidence_is_bounded_and_found() {
        let mut recent = RecentChosen::new();
        for slot in 1..=RECENT_RANGES as u64 + 5 {
            let mut ranges = Ranges::default();
            let (first, last) = (Slot(slot), Slot(slot));
            assert!(ranges.push(Evidence {
                first,
                last,
                ballot: ballot(1),
                acceptors: NodeSet(slot),
                epoch: Epoch(1)
            }));
            recent.push(&ranges);
        }
        assert_eq!(recent.0.len(), RECENT_RANGES);
        let known = |slot| {
            let mut records = SlotRecords::new(Slot(slot));
            recent.tell(&mut records);
            records.chosen.map(|chosen| chosen.acceptors)
        };
        assert_eq!((known(5), known(6), known(500)), (None, Some(NodeSet(6)), Some(NodeSet(500))));
    }
}
