//! Carrying out what the core says: log records, messages, deliveries.

use super::events::EventKind;
use super::jobs::{Done, Job, errno};
use super::meters::Meter;
use super::{Attached, Fatal, IDLE_MARK_NS, MAX_PARKED, Parked, Shard, codec};
use crate::machine::apply_run;
use synod_paxos::{Input, Message, Output, Record, Role, Source};
use synod_ring::Io;
use synod_wal::{LogReader, Place};
use synod_wire::batch::{
    BATCH_HEADER_BYTES, Batch, MAX_CONFIGURATION_BATCH_BYTES, write_batch_header, write_configuration,
};
use synod_wire::client::{Counter, Durability};
use synod_wire::frame::{HEADER_BYTES, Header, Kind, checksum, write_header};
use synod_wire::mutant::mutant;
use synod_wire::record::{ChosenRange, DurabilityMark, LeaseMark, MAX_CHOSEN_RANGES};
use synod_wire::{Epoch, Lsn, NodeSet, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    pub(super) fn carry_out(&mut self, output: Output, value: Option<&Attached<'_>>) -> Result<(), Fatal> {
        match output {
            Output::Persist { lsn, promised, record } => {
                let header = Header { promised, lsn, ..self.header(Kind::Promised) };
                self.persist(header, record, value);
            }
            // To the others it is gone, until its log moves; what waits for that is sent then.
            Output::Send { after, .. } if self.is_hung() && after <= self.vouched() => {}
            Output::Send { to, message, after, epoch } if after <= self.vouched() => self.send(to, &message, epoch),
            Output::Send { to, message, after, epoch } => {
                if self.parked.len() == MAX_PARKED {
                    // The oldest is the least useful; like a lost datagram, it is asked for again.
                    self.parked.pop_front();
                    self.counters.add(Counter::SendErrors, 1);
                }
                self.parked.push_back(Parked { after, to, message, epoch });
            }
            Output::Deliver { slot } => self.deliver(slot)?,
            Output::ServeCatchUp { to, first, last } => self.serve_catch_up(to, first, last),
            Output::Became { role, reason } => {
                match (role, reason) {
                    (Role::Candidate, _) => self.counters.add(Counter::ElectionsStarted, 1),
                    (Role::Preparing, _) => self.counters.add(Counter::ElectionsWon, 1),
                    _ => {}
                }
                self.count_role(role, reason);
                self.note_role(role, reason);
            }
            Output::ReadsReady { round } => self.fresh.ready(round),
            Output::Configured(configuration) => self.configured(&configuration)?,
            Output::Transferred(outcome) => self.on_transferred(outcome),
            Output::Repaired => {
                self.note(EventKind::Repaired, (0, 0, 0), [0; 4]);
            }
            Output::Halt(halt) => self.note_halt(halt),
        }
        Ok(())
    }

    fn persist(&mut self, header: Header, record: Record, value: Option<&Attached<'_>>) {
        if matches!(record, Record::Chosen(_) | Record::PeerMarks) {
            self.idle_mark_at_ns = self.idle_mark_at_ns.min(self.io.now_ns() + IDLE_MARK_NS);
        } else {
            self.await_log();
        }
        match record {
            Record::Accepted { slot, ballot, mark, source } => {
                let flags = codec::mark_flags(mark);
                let header = Header { kind: Kind::Accept, flags, slot, ballot, ..header };
                let place = self.persist_value(&header, source, value);
                self.slots.put(slot, place);
            }
            Record::Learnt { slot, ballot, mark, epoch } => {
                let flags = codec::mark_flags(mark);
                let header = Header { kind: Kind::Learnt, flags, epoch, slot, ballot, ..header };
                let place = self.persist_value(&header, Source::Message, value);
                self.slots.put(slot, place);
            }
            Record::Chosen(ranges) => {
                let mut payload = [0; MAX_CHOSEN_RANGES * size_of::<ChosenRange>()];
                let bytes = codec::encode_ranges(&ranges, &mut payload);
                let epoch = ranges.epoch().unwrap_or(header.epoch);
                let place = self.append(&Header { kind: Kind::Chosen, epoch, ..header }, &payload[..bytes]);
                self.last_commit_record = Some(place);
                self.recent_chosen.push(&ranges);
            }
            Record::Promised => {
                self.append(&Header { kind: Kind::Promised, ..header }, &[]);
            }
            Record::Founded(members) => {
                self.append(&Header { kind: Kind::Founded, ..header }, &codec::encode_founded(&members));
            }
            Record::PeerMarks => {
                let mut payload = [0; codec::MAX_MARKS_BYTES];
                let bytes = codec::encode_marks(self.core.peer_marks(), &mut payload);
                self.append(&Header { kind: Kind::PeerMarks, ..header }, &payload[..bytes]);
            }
            Record::Durability { memory } => {
                let mark = DurabilityMark::from(if memory { Durability::Memory } else { Durability::Disk });
                self.append(&Header { kind: Kind::Durability, ..header }, mark.as_bytes());
            }
            Record::Lease { longest_ns } => {
                let mark = LeaseMark { longest_ns: U64::new(longest_ns) };
                self.append(&Header { kind: Kind::Lease, ..header }, mark.as_bytes());
            }
            Record::Repaired(runs) => {
                self.append(&Header { kind: Kind::Repaired, ..header }, &codec::encode_repaired(&runs));
            }
        }
    }

    fn append(&mut self, header: &Header, payload: &[u8]) -> Place {
        // Steps are taken only with room for all they may log (`has_room_for`).
        self.log.append(header, payload, None).expect("room for a step was there before it")
    }

    fn persist_value(&mut self, header: &Header, source: Source, value: Option<&Attached<'_>>) -> Place {
        match source {
            Source::Message => {
                let value = value.expect("a value came with the message of this step");
                let payload = &self.io.datagram(value.buf)[value.start..value.start + value.bytes];
                let place = self.log.append(header, payload, Some(value.payload_crc));
                place.expect("room for a step was there before it")
            }
            Source::Proposal => {
                let (bytes, entries, receipts) = self.admission.take_batch();
                self.meters().record(Meter::BatchEntries, entries);
                self.meters().record(Meter::BatchBytes, bytes as u64);
                let place = self.log.close_batch(header, bytes);
                let (received_ns, now_ns) = (self.io.now_ns(), self.io.stage_ns());
                self.stages.sequenced(header.slot, header.lsn, received_ns, now_ns, receipts);
                place
            }
            Source::Held => {
                if let Some(kept) = self.slots.kept(header.slot) {
                    let place = self.log.append(header, &kept.payload, None);
                    return place.expect("room for a step was there before it");
                }
                let place = self.slots.place(header.slot).expect("the core holds a value at the slot");
                self.log.reappend(header, place).expect("open values stay in the arena, and there is room for a step")
            }
            Source::Configuration => {
                let mut batch = [0; MAX_CONFIGURATION_BATCH_BYTES];
                let configuration = self.membership.proposed();
                let bytes = write_configuration(&mut batch, self.io.wall_ns(), &configuration);
                self.append(header, &batch[..bytes])
            }
            Source::Noop => {
                let mut noop = [0; BATCH_HEADER_BYTES];
                write_batch_header(&mut noop, 0, 0);
                self.append(header, &noop)
            }
        }
    }

    /// Messages whose record is durable now go out.
    pub(super) fn send_parked(&mut self, durable: Lsn) {
        for _ in 0..self.parked.len() {
            let Some(parked) = self.parked.pop_front() else { break };
            if parked.after <= durable || mutant("any_sync_releases_all") {
                self.send(parked.to, &parked.message, parked.epoch);
            } else {
                self.parked.push_back(parked);
            }
        }
    }

    /// Sends a message, as one of the epoch in which it was said.
    pub(super) fn send(&mut self, to: NodeSet, message: &Message, epoch: Epoch) {
        if self.outbox.crowded() {
            self.outbox.send(&mut self.io, &self.log);
        }
        match message {
            Message::Accept { slot, .. } => {
                if let Some(place) = self.slots.place(*slot) {
                    self.outbox.push_record(to, place);
                }
            }
            Message::Commit { .. } => {
                if let Some(place) = self.last_commit_record {
                    self.outbox.push_record(to, place);
                }
            }
            Message::Value { slot, .. } => self.send_value(to, Kind::Value, *slot),
            Message::Learn { slot, .. } => self.send_value(to, Kind::Learnt, *slot),
            other => {
                self.send_small(to, other, epoch);
                self.say_where(to, other);
            }
        }
    }

    fn send_small(&mut self, to: NodeSet, message: &Message, epoch: Epoch) {
        let base = self.header(Kind::Promised);
        let Some(out) = self.outbox.room() else { return };
        let (kind, head, bytes) = codec::encode(message, out);
        let promised = head.promised.unwrap_or(base.promised);
        let flags = self.word.flags();
        let trimmed = kind == Kind::Promise && self.index.first_slot() > Slot(1);
        let slot = if trimmed && mutant("trimmed_prefix_read_as_nothing") { Slot::ZERO } else { head.slot };
        let header = Header { kind, flags, slot, ballot: head.ballot, promised, epoch, ..base };
        let crc = checksum(&out[HEADER_BYTES..HEADER_BYTES + bytes]);
        write_header(out, &header, bytes, crc);
        self.outbox.push(to, HEADER_BYTES + bytes);
        if matches!(message, Message::Missing { .. }) {
            self.counters.add(Counter::MissingSent, 1);
        }
    }

    /// Sends what is held at a slot under another kind; false if its bytes are no longer in memory.
    pub(super) fn send_held(&mut self, to: NodeSet, kind: Kind, slot: Slot) -> bool {
        if self.slots.kept(slot).is_some() {
            return self.send_kept(to, kind, slot);
        }
        let base = self.header(kind);
        let Some(place) = self.slots.place(slot) else { return false };
        let Some(record) = self.log.frame(place) else { return false };
        let Ok((held, payload_crc, bytes)) = synod_wire::frame::parse_header(record.bytes()) else { return false };
        let Some(out) = self.outbox.room() else { return true };
        out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(&record.bytes()[HEADER_BYTES..HEADER_BYTES + bytes]);
        let header = Header { slot, ballot: held.ballot, flags: held.flags, ..base };
        write_header(out, &header, bytes, payload_crc);
        self.outbox.push(to, HEADER_BYTES + bytes);
        true
    }

    /// Sends a value that the arena does not have.
    fn send_kept(&mut self, to: NodeSet, kind: Kind, slot: Slot) -> bool {
        let base = self.header(kind);
        let Some(kept) = self.slots.kept(slot) else { return false };
        let Some(out) = self.outbox.room() else { return true };
        let bytes = kept.payload.len();
        out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(&kept.payload);
        let flags = codec::mark_flags(kept.mark);
        let header = Header { slot, ballot: kept.ballot, flags, ..base };
        write_header(out, &header, bytes, checksum(&kept.payload));
        self.outbox.push(to, HEADER_BYTES + bytes);
        true
    }

    fn send_value(&mut self, to: NodeSet, kind: Kind, slot: Slot) {
        if self.send_held(to, kind, slot) {
            self.counters.add(Counter::CatchUpSent, 1);
            return;
        }
        // Chosen behind a hole that reaches back further than the arena, so that the disk alone holds it. It is read here and
        // now, on the pipeline's core: a candidate waits for it, and until it leads nobody is served.
        let Some(place) = self.slots.place(slot) else { return };
        match LogReader::open(&self.settings.dir).and_then(|mut reader| reader.record_at(place)) {
            Ok((held, payload)) => self.send_read(to, kind, &held, &payload),
            // Who asks goes on to ask, and others than this node.
            Err(error) => self.noted.unreadable.happens([slot.0, errno(&error), 0]),
        }
    }

    /// Hands the queued datagrams of members to the reactor.
    pub(super) fn hand_on(&mut self) {
        self.outbox.send(&mut self.io, &self.log);
    }

    /// Applies the next slot, from the bytes where they lie.
    fn deliver(&mut self, slot: Slot) -> Result<(), Fatal> {
        if self.recover_again {
            return Ok(());
        }
        let place = self.slots.place(slot);
        let Some((place, payload)) = place.and_then(|place| self.log.payload(place).map(|bytes| (place, bytes))) else {
            // Only the disk holds it: recovery applies it from there.
            self.recover_again = true;
            return Ok(());
        };
        let batch = Batch::parse(payload).expect("values are checked before they are logged");
        let configuration = batch.configuration();
        let (tail, timestamp_ns) = (self.machine.tail(), self.machine.last_timestamp_ns());
        self.index.applied(slot, place.pos, place.end(), tail, timestamp_ns);
        self.slots.apply(slot, tail, timestamp_ns);
        let leads = self.core.leads();
        let timeline = self.stages.delivered(slot, self.io.now_ns());
        if let Some(timeline) = &timeline {
            self.admission.drain.delivered(timeline.age_ns(self.io.now_ns()));
        }
        let (index, admission, counters) = (&mut self.index, &mut self.admission, &mut self.counters);
        let embedded = &mut self.embedded;
        let first = self.machine.first();
        self.machine.apply(slot, &batch, &mut |at, run, verdict| {
            index.outcome(slot, at, run.len(), verdict);
            counters.add(Counter::EntriesApplied, verdict.taken());
            if let Some(machine) = embedded {
                apply_run(machine.as_mut(), run, verdict);
            }
            if leads {
                admission.outcome(run, verdict, timeline.filter(|timeline| timeline.asked(at)));
            }
        });
        if self.machine.first() != first {
            self.on_trimmed();
        }
        self.snapshots.applied(slot, self.machine.tail(), place.end());
        if let Some(configuration) = configuration {
            // What it says now is carried out behind what this delivery is part of.
            self.core.step(self.io.now_ns(), Input::Configured(configuration.into()));
        }
        Ok(())
    }
}
