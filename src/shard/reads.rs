//! Reads and catch-up: recent slots from the arena, older ones by housekeeping, readers at the tail held until it moves.
//!
//! A read says how recent the state must be (SEMANTICS, "Reads"). A local one is answered from what is applied here. A fresh
//! one joins a round of the core, and is answered when the round is. A bounded one is answered at once where the last round
//! began recently enough on this node's clock, drift allowed for; else it joins a round, too. The clock is the turn's, read after
//! the request was reaped: what was current so many milliseconds before that reading was so no longer before the request was
//! sent. One by lease is answered at once, by the leader, while its clock says that the lease lasts. What cannot be shown in time
//! is refused by name.

use super::clients::put;
use super::jobs::{Done, Job, LogRange, MAX_JOB_BLOCKS, MAX_JOBS};
use super::offers::BURST_VALUES;
use super::reply::{Label, ReadRequest, ReadWriter};
use super::streams::{HEAD_BYTES, Sending};
use super::{Fatal, Shard};
use crate::index::{Block, Walker};
use std::collections::VecDeque;
use synod_paxos::{Input, Role};
use synod_ring::Io;
use synod_wal::LogError;
use synod_wire::batch::Batch;
use synod_wire::client::{Consistency, Counter, Refusal};
use synod_wire::frame::{HEADER_BYTES, Header, Kind, checksum, write_header};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::mutant::mutant;
use synod_wire::{NodeId, NodeSet, Sequence, Slot};

/// Reads held at the tail by default; one more is answered at once, with nothing.
pub(super) const MAX_WAITERS: usize = 256;
/// The longest that a read is held by default.
pub(super) const MAX_WAIT_NS: u64 = 10_000_000_000;
/// Parts in a million.
const PPM: u64 = 1_000_000;
/// Datagrams of one read that are served from memory; the reader asks again for more.
const MAX_READ_DATAGRAMS: u16 = 64;

/// Reads that wait for a round; one more is refused with BUSY.
pub const MAX_FRESH: usize = 1_024;
/// The longest that a read waits for its round: past it no quorum answers, or this node does not catch up.
const MAX_ROUND_NS: u64 = 500_000_000;

/// A read that waits for a round.
#[derive(Debug)]
struct Pending {
    round: u64,
    due_ns: u64,
    asked: Consistency,
    request: ReadRequest,
    /// What the state machine is asked; `None`: entries are.
    question: Option<Vec<u8>>,
}

/// Bytes of one of them.
pub const FRESH_READ_BYTES: usize = size_of::<Pending>();

/// Reads that must not be stale, in the order in which they came: so their rounds and their due times are in order, too.
#[derive(Debug)]
pub(super) struct Fresh {
    waiting: VecDeque<Pending>,
    /// Some of them have joined a round of which the core does not know yet.
    joined: bool,
    /// The last round that was answered.
    ready: u64,
    /// Memory of questions that were answered: no more of them than questions may wait.
    pub(super) spare: Vec<Vec<u8>>,
    /// Where an answer is built: kept for its memory.
    pub(super) answer: Vec<u8>,
}

impl Fresh {
    pub(super) fn new() -> Fresh {
        Fresh {
            waiting: VecDeque::with_capacity(MAX_FRESH),
            joined: false,
            ready: 0,
            spare: Vec::new(),
            answer: Vec::new(),
        }
    }

    /// Reads of this round, and of those before it, may be answered.
    pub(super) fn ready(&mut self, round: u64) {
        self.ready = round;
    }

    /// When the first one must be refused.
    pub(super) fn next_ns(&self) -> u64 {
        self.waiting.front().map_or(u64::MAX, |pending| pending.due_ns)
    }
}

/// Reads that wait for the tail to move.
#[derive(Debug)]
pub(super) struct Waiters {
    all: Vec<(u64, ReadRequest)>,
    served_tail: Sequence,
    /// Where the reply that is served is built: kept, so that a read does not begin with clearing memory.
    body: Box<[u8]>,
}

impl Waiters {
    pub(super) fn new(max_datagram_bytes: usize, most: usize) -> Waiters {
        let body = vec![0; max_datagram_bytes].into();
        Waiters { all: Vec::with_capacity(most), served_tail: Sequence::ZERO, body }
    }

    /// When the first one must be answered.
    pub(super) fn next_ns(&self) -> u64 {
        self.all.iter().map(|(due, _)| *due).min().unwrap_or(u64::MAX)
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// A read came: it is answered, refused, or joins a round.
    pub(super) fn on_read(&mut self, mut request: ReadRequest, asked: Consistency) {
        match (self.recency_now(asked), asked) {
            (Some(recency), _) => {
                request.recency = recency;
                self.answer_read(request);
            }
            (None, Consistency::Lease) => {
                self.refuse_lease(&request);
            }
            (None, _) => self.join_round(request, asked, None),
        }
    }

    /// A read by lease that this node cannot answer.
    pub(super) fn refuse_lease(&mut self, request: &ReadRequest) {
        let (refusal, detail) = self.why_no_lease();
        self.refuse(request.to, 0, request.body.request_id.get(), refusal, detail);
    }

    /// How recent what is applied here can be shown to be, if that is what was asked for.
    pub(super) fn recency_now(&self, asked: Consistency) -> Option<Recency> {
        match asked {
            Consistency::Local => Some(Recency::StalePossible),
            Consistency::Bounded(bound_ms) => {
                let age_ms = self.age_ms()?;
                (age_ms <= u64::from(bound_ms)).then_some(Recency::bounded_ms(age_ms))
            }
            Consistency::ReadIndex => None,
            Consistency::Lease | Consistency::LeaseOrReadIndex => self.holds_lease().then_some(Recency::FreshLease),
        }
    }

    /// Whether this node leads and its lease lasts. What is applied here is then all that was acknowledged when the clock was
    /// read, which was after the request had come. It is read once more, here: a process that stood still within this turn is
    /// to find out before it answers.
    fn holds_lease(&self) -> bool {
        self.lease_left_ns() > 0
    }

    /// For how long it holds its lease still.
    pub(super) fn lease_left_ns(&self) -> u64 {
        let until_ns = self.core.lease_until_ns();
        if until_ns == 0 || self.modes.rounds().is_err() { 0 } else { until_ns.saturating_sub(self.lease_clock_ns()) }
    }

    fn lease_clock_ns(&self) -> u64 {
        if mutant("lease_on_wall_clock") {
            return self.started_ns.saturating_add_signed(self.io.wall_ns() as i64 - self.started_wall_ns as i64);
        }
        if mutant("lease_checked_before_pause") {
            return self.turn_before_ns;
        }
        if mutant("lease_checked_once") {
            return self.io.now_ns();
        }
        self.io.now_ns().max(self.io.stage_ns())
    }

    /// Why a read by lease is refused, and the refusal's detail.
    fn why_no_lease(&self) -> (Refusal, u64) {
        let length_us = self.core.lease_length_ns().map_or(0, |length_ns| length_ns / 1_000);
        match self.modes.rounds() {
            Err(refusal) => (refusal, 0),
            Ok(()) if self.core.role() == Role::Leader => (Refusal::NoLease, length_us),
            Ok(()) if self.core.leader().is_some() => (Refusal::NotLeader, 0),
            Ok(()) => (Refusal::NoLeader, 0),
        }
    }

    /// For how long this node may not have heard of what was chosen: true milliseconds, rounded up, whatever its clock's drift.
    fn age_ms(&self) -> Option<u64> {
        let age_ns = self.io.now_ns() - self.core.current_at_ns()?;
        let ppm = u64::from(self.settings.max_clock_drift_ppm);
        // A clock that is slow by the whole drift shows (1 - drift) of what has passed.
        let true_ns = u128::from(age_ns) * u128::from(PPM) / u128::from(PPM - ppm) + 1;
        Some(u64::try_from(true_ns).unwrap_or(u64::MAX).div_ceil(1_000_000))
    }

    pub(super) fn join_round(&mut self, request: ReadRequest, asked: Consistency, question: Option<Vec<u8>>) {
        let refusal = match self.modes.rounds().err() {
            None if self.fresh.waiting.len() == MAX_FRESH => Some(Refusal::Busy),
            refusal => refusal,
        };
        if let Some(refusal) = refusal {
            self.fresh.spare.extend(question);
            return self.refuse_read(&request, refusal);
        }
        let (round, due_ns) = (self.core.read_round(), self.io.now_ns() + MAX_ROUND_NS);
        self.fresh.joined = true;
        self.fresh.waiting.push_back(Pending { round, due_ns, asked, request, question });
    }

    pub(super) fn refuse_read(&mut self, request: &ReadRequest, refusal: Refusal) {
        self.refuse(request.to, 0, request.body.request_id.get(), refusal, 0);
    }

    /// Tells the core of the turn's reads, once for all of them. A leader without room for its log confirms nothing: that
    /// would take heartbeats, and it is to be replaced.
    pub(super) fn begin_reads(&mut self) -> Result<(), Fatal> {
        if !std::mem::take(&mut self.fresh.joined) || self.core.leads() && self.is_full() {
            return Ok(());
        }
        self.step(Input::Read, None)
    }

    /// Answers the reads whose round is answered, and refuses those that waited too long.
    pub(super) fn answer_fresh(&mut self) {
        let now_ns = self.io.now_ns();
        // What a round named may be delivered, but not applied: the recovery that is about to come applies it.
        while let Some(first) = self.fresh.waiting.front().filter(|_| !self.recover_again) {
            let ready = first.round <= self.fresh.ready;
            if !ready && now_ns < first.due_ns {
                return;
            }
            let Some(Pending { asked, mut request, question, .. }) = self.fresh.waiting.pop_front() else { return };
            let recency = if ready { self.recency_of_round(asked) } else { None };
            match recency {
                Some(recency) => {
                    request.recency = recency;
                    match question {
                        None => self.answer_read(request),
                        Some(question) => self.answer_query(request, question),
                    }
                }
                None => {
                    self.fresh.spare.extend(question);
                    let refusal = self.modes.rounds().err().unwrap_or_else(|| self.why_no_answer(ready));
                    self.refuse_read(&request, refusal);
                }
            }
        }
    }

    /// How recent a read is whose round was answered; `None`: the round took longer than its bound.
    fn recency_of_round(&self, asked: Consistency) -> Option<Recency> {
        match asked {
            Consistency::ReadIndex | Consistency::LeaseOrReadIndex => Some(Recency::FreshReadIndex),
            asked => self.recency_now(asked),
        }
    }

    /// Why a read had no answer in time though the mode allows it: confirmed, but not as current as was asked for, or what was
    /// confirmed is not delivered yet; or nobody confirmed it.
    fn why_no_answer(&self, confirmed: bool) -> Refusal {
        if confirmed || self.core.read_awaits_delivery() { Refusal::Busy } else { Refusal::NoLeader }
    }

    /// Answers a read from what is applied, or holds it until there is something to answer.
    fn answer_read(&mut self, mut request: ReadRequest) {
        let datagrams = request.body.max_datagrams.get().clamp(1, MAX_READ_DATAGRAMS);
        request.body.max_datagrams.set(datagrams);
        if let Err(refusal) = self.read_label(request.recency) {
            return self.refuse(request.to, 0, request.body.request_id.get(), refusal, 0);
        }
        let tail = self.machine.tail();
        let clients = &self.settings.clients;
        let wait_ns = (u64::from(request.body.wait_ms.get()) * 1_000_000).min(clients.max_read_wait_ns);
        if request.from() == Sequence::ZERO || request.from() > tail {
            if request.from() > tail && wait_ns > 0 && self.waiters.all.len() < clients.max_waiting_reads {
                self.waiters.all.push((self.io.now_ns() + wait_ns, request));
            } else {
                self.answer_empty(&request);
            }
            return;
        }
        self.serve(request);
    }

    /// What a reply to a read that leaves now says of itself, or why there is none: what the mode allows to be said, or more
    /// where the read was shown to be that recent. Fresh is a word of TARGET: a read that waited, and finds its node in another
    /// mode, is refused as one that comes now.
    pub(super) fn read_label(&self, shown: Recency) -> Result<Label, Refusal> {
        if shown.is_fresh() {
            self.modes.rounds()?;
        }
        let recency = self.modes.reads(self.age_ms())?.max(shown);
        Ok(Label { mode: self.modes.mode(), guarantee: Guarantee::read(recency) })
    }

    fn answer_empty(&mut self, request: &ReadRequest) {
        let label = match self.read_label(request.recency) {
            Ok(label) => label,
            Err(refusal) => return self.refuse(request.to, 0, request.body.request_id.get(), refusal, 0),
        };
        let mut writer = ReadWriter::new(request, self.machine.tail().0, Some(label));
        let mut body = [0; 128];
        let mut bytes = 0;
        let mut copy = [0; 128];
        writer.finish(&mut body, &mut |built| bytes = put(built, &mut copy));
        self.reply(request.to, Kind::ReadReply, |out| put(&copy[..bytes], out));
    }

    /// Answers the reads whose sequence exists now, and those that waited long enough.
    pub(super) fn wake_waiters(&mut self) {
        let (tail, now_ns) = (self.machine.tail(), self.io.now_ns());
        if self.waiters.all.is_empty() || (tail == self.waiters.served_tail && now_ns < self.waiters.next_ns()) {
            return;
        }
        self.waiters.served_tail = tail;
        let mut at = 0;
        while at < self.waiters.all.len() {
            let (due, request) = self.waiters.all[at];
            if request.from() <= tail {
                self.waiters.all.swap_remove(at);
                self.serve(request);
            } else if due <= now_ns {
                self.waiters.all.swap_remove(at);
                self.answer_empty(&request);
            } else {
                at += 1;
            }
        }
    }

    fn serve(&mut self, request: ReadRequest) {
        let label = match self.read_label(request.recency) {
            Ok(label) => label,
            // It was held meanwhile, and the mode has changed.
            Err(refusal) => return self.refuse(request.to, 0, request.body.request_id.get(), refusal, 0),
        };
        let first = self.machine.first();
        if request.from() < first && !mutant("trimmed_entries_read") {
            return self.refuse(request.to, 0, request.body.request_id.get(), Refusal::Trimmed, first.0);
        }
        if !self.serve_from_memory(&request, label, None) && !self.serve_from_log(request) {
            // Housekeeping is busy, or this node began behind it with another's snapshot: the reader asks again, and elsewhere.
            self.answer_empty(&request);
        }
    }

    /// Serves a read, or a subscriber, from the arena; false if its first slot is not there any more.
    pub(super) fn serve_from_memory(
        &mut self,
        request: &ReadRequest,
        label: Label,
        mut stream: Option<&mut Sending>,
    ) -> bool {
        let Some(first) = self.slots.slot_of(request.from()) else { return false };
        let Some(value) = self.slots.get(first) else { return false };
        if self.log.payload(value.place).is_none() {
            return false;
        }
        let applied = self.slots.applied();
        let start = Block {
            first_slot: first,
            last_slot: applied,
            tail_before: value.tail_before,
            timestamp_before_ns: value.timestamp_before_ns,
            start_pos: 0,
            end_pos: 0,
        };
        let header = match &stream {
            None => self.header(Kind::ReadReply),
            Some(sending) => sending.header(self.header(Kind::StreamData)),
        };
        let pushes = stream.is_some();
        let (io, outbox, log, slots) = (&mut self.io, &mut self.outbox, &self.log, &self.slots);
        // A stream's datagrams have a head in front of the body.
        let body_bytes = self.waiters.body.len() - if pushes { HEAD_BYTES } else { 0 };
        let out = &mut self.waiters.body[..body_bytes];
        let mut emit = |body: &[u8]| {
            let Some(out) = outbox.room() else { return };
            let payload = &mut out[HEADER_BYTES..];
            let bytes = match &mut stream {
                None => put(body, payload),
                Some(sending) => match sending.put(body, payload) {
                    Some(bytes) => bytes,
                    None => return,
                },
            };
            let crc = checksum(&payload[..bytes]);
            write_header(out, &header, bytes, crc);
            outbox.send_client(io, request.to, HEADER_BYTES + bytes);
        };
        let mut walker = Walker::new(&start, self.index.exceptions(first, applied));
        let mut writer = ReadWriter::new(request, self.machine.tail().0, Some(label));
        let beyond = mutant("reads_beyond_applied") || pushes && mutant("stream_beyond_applied");
        let last = if beyond { self.core.highest_held() } else { applied };
        for slot in (first.0..=last.0).map(Slot) {
            let Some(payload) = slots.place(slot).and_then(|place| log.payload(place)) else { break };
            let Ok(batch) = Batch::parse(payload) else { break };
            let mut going = true;
            walker.slot(slot, &batch, &mut |sequence, timestamp_ns, entry| {
                going = writer.entry(sequence, timestamp_ns, entry, out, &mut emit);
                going
            });
            if !going {
                break;
            }
        }
        writer.finish(out, &mut emit);
        true
    }

    /// Blocks of the index from `first` on, `count` of them at most, as far as they are durable.
    pub(super) fn range(&self, first: usize, count: usize) -> LogRange {
        // What is applied but not durable here yet is not on disk yet; it is young enough to be served from memory.
        let durable = self.log.durable_pos();
        // Below its record the disk may have another, of a lower ballot, which must not stand in for it.
        let is_young = |slot: &Slot| self.slots.place(*slot).is_some_and(|place| place.end() > durable);
        let mut blocks: Vec<Block> = Vec::new();
        for block in self.index.blocks(first, count) {
            let young = (block.first_slot.0..=block.last_slot.0).map(Slot).find(is_young);
            let last_slot = young.map_or(block.last_slot, |young| Slot(young.0 - 1));
            if last_slot >= block.first_slot && block.start_pos < durable {
                blocks.push(Block { last_slot, end_pos: block.end_pos.min(durable), ..*block });
            }
            if young.is_some() {
                break;
            }
        }
        let slots = blocks.first().zip(blocks.last());
        let exceptions = slots.map_or(&[][..], |(a, b)| self.index.exceptions(a.first_slot, b.last_slot)).to_vec();
        LogRange {
            dir: self.settings.dir.clone(),
            blocks,
            exceptions,
            tail: self.machine.tail().0,
            max_datagram_bytes: self.settings.max_datagram_bytes(),
        }
    }

    fn serve_from_log(&mut self, request: ReadRequest) -> bool {
        let Ok(block) = self.index.block_of_sequence(request.from()) else { return false };
        self.ask(Job::Read(request, self.range(block, MAX_JOB_BLOCKS)))
    }

    /// Sends chosen values to a lagging peer.
    pub(super) fn serve_catch_up(&mut self, to: NodeId, first: Slot, last: Slot) {
        let now_ns = self.io.now_ns();
        let throttled = !self.offers.throttle.allows(now_ns);
        if throttled || self.offers.has_waiting(to) {
            self.offers.wait(to, first, last);
            return self.counters.add(Counter::CatchUpThrottled, throttled.into());
        }
        let peer: NodeSet = [to].into_iter().collect();
        let mut slot = first;
        while slot <= last && self.send_held(peer, Kind::Learnt, slot) {
            self.counters.add(Counter::CatchUpSent, 1);
            let bytes = self.slots.place(slot).map_or(0, |place| place.bytes);
            self.offers.throttle.spend(now_ns, bytes.into());
            if self.outbox.crowded() {
                self.hand_on();
            }
            slot = slot.next();
            if slot.0 - first.0 == BURST_VALUES && slot <= last {
                return self.offers.wait(to, slot, last);
            }
        }
        if slot > last {
            return;
        }
        if slot < self.index.first_slot() {
            return self.below_the_log(to);
        }
        // All that was asked for, as what is left out looks lost; and no more of the log, as reading it is most of the work.
        while slot <= last
            && let Ok(at) = self.index.block_of_slot(slot)
        {
            let blocks = self.index.blocks(at, MAX_JOB_BLOCKS).iter().take_while(|block| block.first_slot <= last);
            let (count, end) = blocks.fold((0, slot), |(count, _), block| (count + 1, block.last_slot.min(last)));
            let range = self.range(at, count);
            let upto_pos = self.log.durable_pos();
            if !self.ask(Job::CatchUp { to, first: slot, last: end, range, upto_pos }) {
                return;
            }
            slot = end.next();
        }
    }

    pub(super) fn ask(&mut self, job: Job) -> bool {
        if self.jobs_out >= MAX_JOBS - 1 || self.io.request(job).is_err() {
            self.counters.add(Counter::HousekeepingFull, 1);
            return false;
        }
        self.jobs_out += 1;
        true
    }

    pub(super) fn on_done(&mut self, done: Done) -> Result<(), Fatal> {
        self.note_failure(&done);
        match done {
            Done::Segment(Ok(segment)) => {
                self.segment_retry_ns = 0;
                self.log.segment_ready(&mut self.io, segment)?;
            }
            Done::Segment(Err(_)) => {
                // The log goes on in the segment it has; any turn after the pause asks again.
                self.log.segment_failed();
                self.segment_retry_ns = self.io.now_ns() + super::SEGMENT_RETRY_NS;
            }
            Done::Read(request, Ok(bodies)) => {
                self.jobs_out -= 1;
                let label = match self.read_label(request.recency) {
                    Ok(label) => label,
                    Err(refusal) => {
                        self.refuse(request.to, 0, request.body.request_id.get(), refusal, 0);
                        return Ok(());
                    }
                };
                for mut body in bodies {
                    label.stamp(&mut body);
                    self.reply(request.to, Kind::ReadReply, |out| put(&body, out));
                }
            }
            // What it asked for was removed meanwhile; it says so itself if it comes again.
            Done::Read(request, Err(LogError::Trimmed { .. })) => {
                self.jobs_out -= 1;
                self.answer_empty(&request);
            }
            Done::CatchUp { to, first, values: Ok(values), chosen } => {
                if let Some(chosen) = chosen {
                    self.tell_chosen(to, first, chosen);
                }
                self.on_values_read(to, values);
            }
            Done::CatchUp { to, values: Err(LogError::Trimmed { .. }), .. } => {
                self.jobs_out -= 1;
                self.below_the_log(to);
            }
            Done::Read(_, Err(_)) | Done::CatchUp { values: Err(_), .. } => self.jobs_out -= 1,
            Done::Stream(ticket, found) => self.on_stream_read(ticket, found),
            Done::Evidence(request, found) => {
                self.jobs_out -= 1;
                self.on_evidence_read(request, found);
            }
            Done::Checkpoint(result) => {
                self.jobs_out -= 1;
                self.on_checkpoint(result)?;
            }
            Done::FrontRemoved(result) => {
                self.jobs_out -= 1;
                self.on_front_removed(result);
            }
            Done::Transfer(done) => {
                self.jobs_out -= 1;
                self.on_pull_done(done)?;
            }
            Done::ReaderClosed => self.jobs_out -= 1,
        }
        Ok(())
    }

    /// Sends a value that was read from the log.
    pub(super) fn send_read(&mut self, to: NodeSet, kind: Kind, held: &Header, payload: &[u8]) {
        let base = self.header(kind);
        if self.outbox.crowded() {
            self.hand_on();
        }
        let Some(out) = self.outbox.room() else { return };
        let bytes = put(payload, &mut out[HEADER_BYTES..]);
        let header = Header { slot: held.slot, ballot: held.ballot, flags: held.flags, ..base };
        write_header(out, &header, bytes, checksum(payload));
        self.outbox.push(to, HEADER_BYTES + bytes);
        self.counters.add(Counter::CatchUpSent, 1);
    }
}
