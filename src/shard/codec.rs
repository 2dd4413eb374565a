//! Between the core's messages and frames. Parsing checks everything that the core relies on; values stay in the frame.

use super::install::Chunks;
use synod_paxos::{Evidence, LsnRun, Mark, Message, PART_SLOTS, Ranges, Report, ReportState, StateMark, StateMarks};
use synod_wal::partial::Whole;
use synod_wire::batch::{Batch, MIN_BATCH_BYTES};
use synod_wire::frame::{Frame, FrameError, HEADER_BYTES, Header, Kind, flags};
use synod_wire::peer::{
    AcceptedBody, CHUNK_BYTES, ChunkHead, FetchChunks, HelloAckBody, HelloBody, MAX_STATE_ROWS, PreVoteAckBody, Probe,
    PromiseBody, PromiseReport, ReleaseBody, Round, SlotRange, SnapshotId, StateRow, report_state,
};
use synod_wire::record::{ChosenRange, Incarnation, PeerMark, RepairedRun};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, NodeSet, Slot};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The most parts that a promise may have, so that a hostile `parts` cannot make the candidate allocate: enough for two of
/// the largest windows (65,536 slots).
const MAX_PROMISE_PARTS: u16 = 8_192;

const _: () = assert!(2 * 65_536 <= MAX_PROMISE_PARTS as u64 * PART_SLOTS);
const _: () = assert!(size_of::<ChunkHead>() + CHUNK_BYTES <= MIN_BATCH_BYTES);
const _: () = assert!(size_of::<PromiseBody>() + PART_SLOTS as usize * size_of::<PromiseReport>() <= MIN_BATCH_BYTES);

/// Parses a frame that came in on the peers' socket.
pub(crate) fn decode(frame: &Frame<'_>) -> Result<Message, FrameError> {
    let Header { ballot, slot, promised, .. } = frame.header;
    let mark = mark(frame.header.flags);
    Ok(match frame.header.kind {
        Kind::Accept => {
            check_value(frame)?;
            Message::Accept { ballot, slot, mark }
        }
        Kind::Learnt => {
            check_value(frame)?;
            Message::Learn { slot, ballot, mark }
        }
        Kind::Value => {
            check_value(frame)?;
            Message::Value { slot, ballot, mark }
        }
        Kind::Chosen => Message::Commit { ballot: promised, ranges: decode_ranges(frame.payload, frame.header.epoch)? },
        Kind::Prepare => Message::Prepare { ballot, prefix: slot },
        Kind::Promise => decode_promise(frame)?,
        Kind::Refused => Message::Refused { promised },
        Kind::Accepted => {
            let body: AcceptedBody = whole(frame.payload)?;
            Message::Accepted { ballot, upto: slot, bits: body.bits.map(U64::get) }
        }
        Kind::Missing => {
            let range: SlotRange = whole(frame.payload)?;
            Message::Missing { ballot, first: Slot(range.first.get()), last: Slot(range.last.get()) }
        }
        Kind::Heartbeat => {
            let probe: Probe = whole(frame.payload)?;
            Message::Heartbeat { ballot, chosen: slot, probe: probe.number.get(), lease_ns: probe.lease_ns.get() }
        }
        Kind::HeartbeatAck => {
            let probe: Probe = whole(frame.payload)?;
            Message::HeartbeatAck { ballot, prefix: slot, probe: probe.number.get(), lease_ns: probe.lease_ns.get() }
        }
        Kind::Release => {
            let body: ReleaseBody = whole(frame.payload)?;
            Message::Release { ballot, probe: body.probe.get() }
        }
        Kind::TakeOver => Message::TakeOver { ballot, upto: slot },
        Kind::StateMarks => decode_state_marks(frame)?,
        Kind::FetchChosen => {
            let range: SlotRange = whole(frame.payload)?;
            Message::FetchChosen { first: Slot(range.first.get()), last: Slot(range.last.get()) }
        }
        Kind::FetchValue => Message::FetchValue { slot, ballot },
        Kind::ReadIndex => {
            let body: Round = whole(frame.payload)?;
            Message::ReadIndex { start: body.start.get(), round: body.round.get() }
        }
        Kind::ReadIndexAck => {
            let body: Round = whole(frame.payload)?;
            Message::ReadIndexAck { start: body.start.get(), round: body.round.get(), index: slot }
        }
        Kind::PreVote => {
            let body: Round = whole(frame.payload)?;
            Message::PreVote { start: body.start.get(), round: body.round.get() }
        }
        Kind::PreVoteAck => {
            let PreVoteAckBody { asked, granted, .. } = whole(frame.payload)?;
            let (start, round) = (asked.start.get(), asked.round.get());
            Message::PreVoteAck { start, round, granted: granted == 1, promised }
        }
        Kind::Hello => {
            let body: HelloBody = whole(frame.payload)?;
            let (incarnation, start) = (body.incarnation.get(), body.start.get());
            Message::Hello { incarnation, fresh: body.fresh == 1, start, prefix: slot }
        }
        Kind::HelloAck => {
            let body: HelloAckBody = whole(frame.payload)?;
            Message::HelloAck {
                incarnation: body.incarnation.get(),
                to_incarnation: body.to_incarnation.get(),
                to_start: body.to_start.get(),
                founded_with: body.founded_with.get(),
                counted: Lsn(body.counted.get()),
                prefix: slot,
            }
        }
        Kind::NotMember => Message::NotMember,
        other => return Err(FrameError::Kind(other as u8)),
    })
}

/// What names a snapshot's state, on the wire.
pub(crate) fn snapshot_id(whole: &Whole) -> SnapshotId {
    SnapshotId {
        slot: U64::new(whole.slot.0),
        state_bytes: U64::new(whole.bytes),
        state_crc: U32::new(whole.crc),
        reserved: U32::ZERO,
    }
}

fn whole_of(id: &SnapshotId) -> Result<Whole, FrameError> {
    let whole = Whole { slot: Slot(id.slot.get()), bytes: id.state_bytes.get(), crc: id.state_crc.get() };
    let sound = whole.slot > Slot::ZERO && whole.slot.0 <= 1 << 62 && (1..=1 << 62).contains(&whole.bytes);
    if sound { Ok(whole) } else { Err(FrameError::Body) }
}

/// A snapshot that is offered.
pub(crate) fn decode_offer(payload: &[u8]) -> Result<Whole, FrameError> {
    whole_of(&whole(payload)?)
}

/// Chunks that `from` wants: some, and none behind the end.
pub(crate) fn decode_fetch(from: NodeId, payload: &[u8]) -> Result<Chunks, FrameError> {
    let body: FetchChunks = whole(payload)?;
    let chunks = Chunks { to: from, whole: whole_of(&body.id)?, first: body.first.get(), wanted: body.wanted.get() };
    let last = u64::from(u64::BITS - 1).checked_sub(chunks.wanted.leading_zeros().into());
    let last = last.and_then(|last| chunks.first.checked_add(last)).ok_or(FrameError::Body)?;
    chunk_bytes(&chunks.whole, last).map(|_| chunks)
}

/// A chunk's state and number; its bytes are as many as lie there.
pub(crate) fn decode_chunk(payload: &[u8]) -> Result<(Whole, u64), FrameError> {
    let (head, bytes) = ChunkHead::read_from_prefix(payload).map_err(|_| FrameError::Body)?;
    let (whole, number) = (whole_of(&head.id)?, head.number.get());
    if chunk_bytes(&whole, number)? == bytes.len() as u64 { Ok((whole, number)) } else { Err(FrameError::Body) }
}

fn chunk_bytes(whole: &Whole, number: u64) -> Result<u64, FrameError> {
    let begin = number.checked_mul(CHUNK_BYTES as u64).filter(|begin| *begin < whole.bytes).ok_or(FrameError::Body)?;
    Ok((whole.bytes - begin).min(CHUNK_BYTES as u64))
}

/// A value must be a well-formed batch at a real slot in a real ballot before it may be logged.
fn check_value(frame: &Frame<'_>) -> Result<(), FrameError> {
    if frame.header.slot == Slot::ZERO || frame.header.ballot == Ballot::ZERO || frame.header.slot.0 > 1 << 62 {
        return Err(FrameError::Body);
    }
    let configures = Batch::parse(frame.payload)?.configuration().is_some();
    if configures != (mark(frame.header.flags) == Mark::Configuration) {
        return Err(FrameError::Body);
    }
    Ok(())
}

/// What a value's flags say that it is.
pub(crate) fn mark(bits: u8) -> Mark {
    match bits {
        bits if bits & flags::CONFIGURATION != 0 => Mark::Configuration,
        bits if bits & flags::BARRIER != 0 => Mark::Barrier,
        _ => Mark::Batch,
    }
}

/// The flags of a value.
pub(crate) fn mark_flags(mark: Mark) -> u8 {
    match mark {
        Mark::Batch => 0,
        Mark::Barrier => flags::BARRIER,
        Mark::Configuration => flags::CONFIGURATION,
    }
}

fn whole<T: FromBytes + KnownLayout + Immutable + Unaligned>(payload: &[u8]) -> Result<T, FrameError> {
    T::read_from_bytes(payload).map_err(|_| FrameError::Body)
}

fn rows<T: FromBytes + KnownLayout + Immutable + Unaligned>(payload: &[u8]) -> Result<&[T], FrameError> {
    <[T]>::ref_from_bytes(payload).map_err(|_| FrameError::Body)
}

/// The ranges of a chosen record or commit message.
pub(crate) fn decode_ranges(payload: &[u8], epoch: Epoch) -> Result<Ranges, FrameError> {
    let mut ranges = Ranges::default();
    for row in rows::<ChosenRange>(payload)? {
        let (first, last) = (Slot(row.first.get()), Slot(row.last.get()));
        let (ballot, acceptors) = (Ballot::unpack(row.ballot.get()), NodeSet(row.acceptors.get()));
        let range = Evidence { first, last, ballot, acceptors, epoch };
        if first == Slot::ZERO || first > last || last.0 > 1 << 62 || !ranges.push(range) {
            return Err(FrameError::Body);
        }
    }
    Ok(ranges)
}

/// The members of a founding record.
pub(crate) fn decode_founded(payload: &[u8]) -> Result<Vec<(NodeId, u64)>, FrameError> {
    let all = rows::<Incarnation>(payload)?;
    Ok(all.iter().map(|row| (NodeId(row.node.get() as u8), row.incarnation.get())).collect())
}

/// The marks of a peer-marks record.
pub(crate) fn decode_marks(payload: &[u8]) -> Result<Vec<(NodeId, Lsn)>, FrameError> {
    let all = rows::<PeerMark>(payload)?;
    Ok(all.iter().map(|row| (NodeId(row.node.get() as u8), Lsn(row.lsn.get()))).collect())
}

fn decode_state_marks(frame: &Frame<'_>) -> Result<Message, FrameError> {
    let mut marks = StateMarks::default();
    let all = rows::<StateRow>(frame.payload)?;
    if all.is_empty() || all.len() > MAX_STATE_ROWS || all.iter().any(|row| row.slot.get() == 0) {
        return Err(FrameError::Body);
    }
    all.iter().for_each(|row| marks.push(StateMark { slot: Slot(row.slot.get()), crc: row.crc.get() }));
    Ok(Message::StateMarks { marks })
}

fn decode_promise(frame: &Frame<'_>) -> Result<Message, FrameError> {
    let (body, rest) = PromiseBody::read_from_prefix(frame.payload).map_err(|_| FrameError::Body)?;
    let all = rows::<PromiseReport>(rest)?;
    let (part, parts) = (body.part.get(), body.parts.get());
    if all.len() != usize::from(body.reports.get()) || part >= parts || parts > MAX_PROMISE_PARTS {
        return Err(FrameError::Body);
    }
    let first = frame.header.slot.0.saturating_add(1 + u64::from(part) * PART_SLOTS);
    let mut reports = Vec::with_capacity(all.len());
    for row in all {
        let ballot = Ballot::unpack(row.ballot.get());
        let state = match row.state {
            report_state::ACCEPTED => ReportState::Accepted(ballot),
            report_state::CHOSEN => ReportState::Chosen(ballot),
            report_state::UNKNOWN => ReportState::Unknown,
            _ => return Err(FrameError::Body),
        };
        if row.slot.get() < first || row.slot.get() - first >= PART_SLOTS {
            return Err(FrameError::Body);
        }
        reports.push(Report { slot: Slot(row.slot.get()), state, configures: row.configures == 1 });
    }
    let unknown_all = body.unknown == 1;
    Ok(Message::Promise { ballot: frame.header.ballot, prefix: frame.header.slot, part, parts, unknown_all, reports })
}

/// What of a message goes into the frame's header.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) slot: Slot,
    pub(crate) ballot: Ballot,
    /// Replaces the sender's own promise.
    pub(crate) promised: Option<Ballot>,
}

/// Writes a message's body behind the header's place in `out`: (kind, header fields, body bytes). Messages that carry
/// a value or a record are sent from the log and do not come here.
pub(crate) fn encode(message: &Message, out: &mut [u8]) -> (Kind, Head, usize) {
    let body = &mut out[HEADER_BYTES..];
    let put = |bytes: &[u8], body: &mut [u8]| {
        body[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    };
    let range = |first: Slot, last: Slot| SlotRange { first: U64::new(first.0), last: U64::new(last.0) };
    match message {
        Message::Prepare { ballot, prefix } => {
            (Kind::Prepare, Head { slot: *prefix, ballot: *ballot, promised: None }, 0)
        }
        Message::Promise { ballot, prefix, part, parts, unknown_all, reports } => {
            let head = Head { slot: *prefix, ballot: *ballot, promised: None };
            (Kind::Promise, head, encode_promise(body, (*part, *parts), *unknown_all, reports))
        }
        Message::Refused { promised } => (Kind::Refused, Head { promised: Some(*promised), ..Head::default() }, 0),
        Message::Accepted { ballot, upto, bits } => {
            let bytes = put(AcceptedBody { bits: bits.map(U64::new) }.as_bytes(), body);
            (Kind::Accepted, Head { slot: *upto, ballot: *ballot, promised: None }, bytes)
        }
        Message::Missing { ballot, first, last } => {
            let bytes = put(range(*first, *last).as_bytes(), body);
            (Kind::Missing, Head { ballot: *ballot, ..Head::default() }, bytes)
        }
        Message::Heartbeat { ballot, chosen, probe, lease_ns } => {
            let bytes = put(probe_body(*probe, *lease_ns).as_bytes(), body);
            (Kind::Heartbeat, Head { slot: *chosen, ballot: *ballot, promised: None }, bytes)
        }
        Message::HeartbeatAck { ballot, prefix, probe, lease_ns } => {
            let bytes = put(probe_body(*probe, *lease_ns).as_bytes(), body);
            (Kind::HeartbeatAck, Head { slot: *prefix, ballot: *ballot, promised: None }, bytes)
        }
        Message::Release { ballot, probe } => {
            let bytes = put(ReleaseBody { probe: U64::new(*probe) }.as_bytes(), body);
            (Kind::Release, Head { ballot: *ballot, ..Head::default() }, bytes)
        }
        Message::TakeOver { ballot, upto } => {
            (Kind::TakeOver, Head { slot: *upto, ballot: *ballot, promised: None }, 0)
        }
        Message::StateMarks { marks } => {
            let mut bytes = 0;
            for mark in marks.iter() {
                let row = StateRow { slot: U64::new(mark.slot.0), crc: U32::new(mark.crc), reserved: U32::ZERO };
                bytes += put(row.as_bytes(), &mut body[bytes..]);
            }
            (Kind::StateMarks, Head::default(), bytes)
        }
        Message::FetchChosen { first, last } => {
            (Kind::FetchChosen, Head::default(), put(range(*first, *last).as_bytes(), body))
        }
        Message::FetchValue { slot, ballot } => {
            (Kind::FetchValue, Head { slot: *slot, ballot: *ballot, promised: None }, 0)
        }
        Message::ReadIndex { start, round } => {
            (Kind::ReadIndex, Head::default(), put(round_of(*start, *round).as_bytes(), body))
        }
        Message::ReadIndexAck { start, round, index } => {
            let bytes = put(round_of(*start, *round).as_bytes(), body);
            (Kind::ReadIndexAck, Head { slot: *index, ..Head::default() }, bytes)
        }
        Message::PreVote { start, round } => {
            (Kind::PreVote, Head::default(), put(round_of(*start, *round).as_bytes(), body))
        }
        Message::PreVoteAck { start, round, granted, promised } => {
            let (asked, granted) = (round_of(*start, *round), u8::from(*granted));
            let bytes = put(PreVoteAckBody { asked, granted, reserved: [0; 7] }.as_bytes(), body);
            (Kind::PreVoteAck, Head { promised: Some(*promised), ..Head::default() }, bytes)
        }
        Message::Hello { incarnation, fresh, start, prefix } => {
            let hello = HelloBody {
                incarnation: U64::new(*incarnation),
                fresh: u8::from(*fresh),
                reserved: [0; 7],
                start: U64::new(*start),
            };
            (Kind::Hello, Head { slot: *prefix, ..Head::default() }, put(hello.as_bytes(), body))
        }
        Message::NotMember => (Kind::NotMember, Head::default(), 0),
        Message::HelloAck { incarnation, to_incarnation, to_start, founded_with, counted, prefix } => {
            let ack = HelloAckBody {
                incarnation: U64::new(*incarnation),
                to_incarnation: U64::new(*to_incarnation),
                to_start: U64::new(*to_start),
                founded_with: U64::new(*founded_with),
                counted: U64::new(counted.0),
            };
            (Kind::HelloAck, Head { slot: *prefix, ..Head::default() }, put(ack.as_bytes(), body))
        }
        Message::Accept { .. } | Message::Learn { .. } | Message::Value { .. } | Message::Commit { .. } => {
            unreachable!("values and records are sent from the log")
        }
    }
}

fn probe_body(number: u64, lease_ns: u64) -> Probe {
    Probe { number: U64::new(number), lease_ns: U64::new(lease_ns) }
}

fn round_of(start: u64, round: u64) -> Round {
    Round { start: U64::new(start), round: U64::new(round) }
}

fn encode_promise(body: &mut [u8], (part, parts): (u16, u16), unknown_all: bool, reports: &[Report]) -> usize {
    let head = PromiseBody {
        part: U16::new(part),
        parts: U16::new(parts),
        reports: U16::new(reports.len() as u16),
        unknown: u8::from(unknown_all),
        reserved: 0,
    };
    let mut used = size_of::<PromiseBody>();
    body[..used].copy_from_slice(head.as_bytes());
    for report in reports {
        let (state, ballot) = match report.state {
            ReportState::Accepted(ballot) => (report_state::ACCEPTED, ballot),
            ReportState::Chosen(ballot) => (report_state::CHOSEN, ballot),
            ReportState::Unknown => (report_state::UNKNOWN, Ballot::ZERO),
        };
        let row = PromiseReport {
            slot: U64::new(report.slot.0),
            ballot: U64::new(ballot.pack()),
            state,
            configures: report.configures.into(),
            reserved: [0; 6],
        };
        let end = used + size_of::<PromiseReport>();
        body[used..end].copy_from_slice(row.as_bytes());
        used = end;
    }
    used
}

/// The payload of a chosen record.
pub(crate) fn encode_ranges(ranges: &Ranges, out: &mut [u8]) -> usize {
    let mut used = 0;
    for range in ranges.iter() {
        let row = ChosenRange {
            first: U64::new(range.first.0),
            last: U64::new(range.last.0),
            ballot: U64::new(range.ballot.pack()),
            acceptors: U64::new(range.acceptors.0),
        };
        out[used..used + size_of::<ChosenRange>()].copy_from_slice(row.as_bytes());
        used += size_of::<ChosenRange>();
    }
    used
}

/// The runs of a repaired record.
pub(crate) fn decode_repaired(payload: &[u8]) -> Result<Vec<LsnRun>, FrameError> {
    let all = rows::<RepairedRun>(payload)?;
    Ok(all.iter().map(|row| LsnRun { first: Lsn(row.first.get()), last: Lsn(row.last.get()) }).collect())
}

/// The payload of a repaired record.
pub(crate) fn encode_repaired(runs: &[LsnRun]) -> Vec<u8> {
    let row = |run: &LsnRun| RepairedRun { first: U64::new(run.first.0), last: U64::new(run.last.0) };
    runs.iter().map(row).flat_map(|row| row.as_bytes().to_vec()).collect()
}

/// The payload of a founding record.
pub(crate) fn encode_founded(members: &[(NodeId, u64)]) -> Vec<u8> {
    let row = |(node, incarnation): &(NodeId, u64)| Incarnation {
        node: U64::new(node.0.into()),
        incarnation: U64::new(*incarnation),
    };
    members.iter().map(row).flat_map(|row| row.as_bytes().to_vec()).collect()
}

/// Bytes of the longest peer-marks record.
pub(crate) const MAX_MARKS_BYTES: usize = NodeId::LIMIT as usize * size_of::<PeerMark>();

/// The payload of a peer-marks record; the bytes of `out` that it takes.
pub(crate) fn encode_marks(marks: impl Iterator<Item = (NodeId, Lsn)>, out: &mut [u8; MAX_MARKS_BYTES]) -> usize {
    let mut used = 0;
    for (node, lsn) in marks {
        let mark = PeerMark { node: U64::new(node.0.into()), lsn: U64::new(lsn.0) };
        used += super::clients::put(mark.as_bytes(), &mut out[used..]);
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::frame::{parse, write_header};
    use synod_wire::{ClusterId, Epoch, GroupId};

    fn state_marks(count: u32) -> Message {
        let mut marks = StateMarks::default();
        (1..=count).for_each(|crc| marks.push(StateMark { slot: Slot(u64::from(crc)), crc }));
        Message::StateMarks { marks }
    }

    #[test]
    fn a_repair_names_its_lsns() {
        let runs = vec![LsnRun { first: Lsn(7), last: Lsn(9) }, LsnRun { first: Lsn(12), last: Lsn(12) }];
        assert_eq!(decode_repaired(&encode_repaired(&runs)).unwrap(), runs);
        assert!(decode_repaired(&[0; 15]).is_err(), "a row that is cut off");
        assert!(runs[0].covers(&LsnRun { first: Lsn(8), last: Lsn(9) }));
        assert!(!runs[0].covers(&LsnRun { first: Lsn(6), last: Lsn(9) }), "an Lsn below what was repaired");
    }

    #[test]
    fn messages_come_back_as_they_went_in() {
        let ballot = Ballot { round: 7, node: NodeId(2) };
        let messages = [
            Message::Prepare { ballot, prefix: Slot(9) },
            Message::Promise {
                ballot,
                prefix: Slot(100),
                part: 1,
                parts: 3,
                unknown_all: true,
                reports: vec![
                    Report { slot: Slot(122), state: ReportState::Accepted(ballot), configures: false },
                    Report { slot: Slot(123), state: ReportState::Chosen(Ballot::ZERO), configures: false },
                    Report { slot: Slot(140), state: ReportState::Unknown, configures: false },
                ],
            },
            Message::Refused { promised: ballot },
            Message::Accepted { ballot, upto: Slot(5), bits: [1, 2, 3, u64::MAX] },
            Message::Missing { ballot, first: Slot(3), last: Slot(4) },
            Message::Heartbeat { ballot, chosen: Slot(8), probe: 77, lease_ns: u64::MAX },
            Message::HeartbeatAck { ballot, prefix: Slot(8), probe: 77, lease_ns: 1 },
            Message::ReadIndex { start: u64::MAX, round: 5 },
            Message::ReadIndexAck { start: u64::MAX, round: 5, index: Slot(8) },
            Message::PreVote { start: 3, round: u64::MAX },
            Message::PreVoteAck { start: 3, round: 4, granted: true, promised: ballot },
            Message::PreVoteAck { start: 3, round: 4, granted: false, promised: Ballot::ZERO },
            Message::FetchChosen { first: Slot(1), last: Slot(64) },
            state_marks(1),
            state_marks(4),
            Message::FetchValue { slot: Slot(6), ballot },
            Message::Release { ballot, probe: 12 },
            Message::TakeOver { ballot, upto: Slot(7) },
            Message::Hello { incarnation: 5, fresh: true, start: 6, prefix: Slot(7) },
            Message::HelloAck {
                incarnation: 1,
                to_incarnation: 2,
                to_start: 7,
                founded_with: 3,
                counted: Lsn(4),
                prefix: Slot(9),
            },
            Message::NotMember,
        ];
        for message in messages {
            let mut out = vec![0; 2048];
            let (kind, head, bytes) = encode(&message, &mut out);
            let header = Header {
                kind,
                flags: 0,
                from: NodeId(1),
                group: GroupId(0),
                cluster: ClusterId(1),
                epoch: Epoch(1),
                slot: head.slot,
                ballot: head.ballot,
                promised: head.promised.unwrap_or_default(),
                lsn: Lsn(3),
            };
            let crc = synod_wire::frame::checksum(&out[HEADER_BYTES..HEADER_BYTES + bytes]);
            write_header(&mut out, &header, bytes, crc);
            assert_eq!(decode(&parse(&out).unwrap()), Ok(message));
        }
    }
}
