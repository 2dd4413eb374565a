//! Appends: admission to the open batch, acknowledgements when their slots are applied, and named refusals.
//!
//! The leader admits each entry of a session once and in order, so that a log written by one leader holds no
//! duplicates; what crosses a change of leaders is sorted out at apply. Nothing is queued: what the window, the log or
//! the session's credit cannot take is refused with BUSY.

use super::drain::Drain;
use super::evidence::EvidenceRequest;
use super::jobs::{Done, Job};
use super::meters::Meter;
use super::queries::Query;
use super::reply::{AckWriter, ReadRequest, acks_that_fit};
use super::stages::{MAX_RECEIPT_RUNS, Timeline};
use super::status::{self, Bad};
use super::{Fatal, Shard, mode};
use crate::sequencer::{Answer, BySession, MAX_SESSIONS, SESSION_CREDIT, Verdict, by_session};
use crate::shard::membership::parse_change;
use std::net::SocketAddrV4;
use synod_paxos::Input;
use synod_ring::{Io, RxBuf};
use synod_wire::Sequence;
use synod_wire::batch::{
    BATCH_HEADER_BYTES, Condition, RUN_HEADER_BYTES, Run, max_entry_bytes, write_batch_header, write_trim,
};
use synod_wire::client::{Counter, Decision, ReadBody, Refusal, RefusalBody, SessionBody};
use synod_wire::evidence::EvidenceBody;
use synod_wire::frame::{FrameError, HEADER_BYTES, Header, Kind, checksum, flags, parse, write_header};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::members::outcome;
use synod_wire::mutant::mutant;
use synod_wire::stream::SubscribeBody;
use synod_wire::transfer::TransferBody;
use synod_wire::trim::TrimBody;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, IntoBytes};

/// Sessions, and openings, whose answers a leader can address: those of the state machine's table, and as many that come and go.
const MAX_ADMITTED: usize = 2 * MAX_SESSIONS;

/// Whom an answer is for: a client, and the number that its run carried. An older session of the same client is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) client_id: u128,
    pub(crate) session: u64,
}

impl std::hash::Hash for Key {
    /// By the client alone, which rarely has two: each word costs.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.client_id.hash(state);
    }
}

/// A session as the leader sees it ahead of the state machine.
#[derive(Debug)]
struct Admitted {
    address: SocketAddrV4,
    next_seq: u64,
}

/// A run as its header describes it.
#[derive(Clone, Copy, Debug)]
struct Request {
    key: Key,
    condition: Condition,
    first_seq: u64,
    entries: u64,
    opens_session: bool,
    /// Whether its acknowledgement is to carry a receipt.
    receipt: bool,
    /// Bytes of the run.
    bytes: usize,
}

/// What became of a run, to be told to its client at the end of the turn.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// The answer, and which of [`Admission::receipts`] goes with it.
    Answer(Answer, Option<u32>),
    /// Its number, and its last client sequence.
    Opened(u64, u64),
    Refused(Refusal, u64, u64),
}

/// The leader's view of its clients, and its open batch.
#[derive(Debug)]
pub(super) struct Admission {
    sessions: BySession<Key, Admitted>,
    /// (whom, order, what): sorted by session before they are told, each session's in order.
    outcomes: Vec<(Key, u32, Outcome)>,
    answers: Vec<(Answer, Option<u32>)>,
    /// The times of the answers of this turn that asked for them.
    receipts: Vec<Timeline>,
    batch: Option<OpenBatch>,
    pub(super) drain: Drain,
}

#[derive(Clone, Copy, Debug)]
struct OpenBatch {
    used: usize,
    runs: u16,
    entries: u64,
    /// Bit i: the i-th run asked for a receipt.
    receipts: u64,
}

impl Admission {
    pub(super) fn new() -> Admission {
        Admission {
            sessions: by_session(MAX_ADMITTED + 1),
            outcomes: Vec::with_capacity(1024),
            answers: Vec::with_capacity(128),
            receipts: Vec::with_capacity(1024),
            batch: None,
            drain: Drain::default(),
        }
    }

    /// This node leads no longer: what it admitted says nothing about the next leader's log.
    pub(super) fn clear(&mut self) {
        self.sessions.clear();
    }

    /// The batch that is being sealed: its bytes, its entries, and which of its runs asked for receipts.
    pub(super) fn take_batch(&mut self) -> (usize, u64, u64) {
        let batch = self.batch.take().expect("a batch is open when it is proposed");
        (batch.used, batch.entries, batch.receipts)
    }

    /// What was admitted of a session had no effect: this client sequence comes next.
    fn expect(&mut self, key: Key, next_seq: u64) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.next_seq = next_seq;
        }
    }

    fn push(&mut self, key: Key, outcome: Outcome) {
        self.outcomes.push((key, self.outcomes.len() as u32, outcome));
    }

    /// Notes what apply did with a run; with its times, if it asked for a receipt.
    pub(super) fn outcome(&mut self, run: &Run<'_>, verdict: Verdict, asked: Option<Timeline>) {
        let key = key(run);
        let outcome = match verdict {
            Verdict::Opened { session, last_committed } => Outcome::Opened(session, last_committed),
            Verdict::Decided { answer, .. } => {
                let receipt = asked.map(|timeline| {
                    self.receipts.push(timeline);
                    self.receipts.len() as u32 - 1
                });
                Outcome::Answer(answer, receipt)
            }
            Verdict::Duplicate | Verdict::Trimmed { .. } => return,
            Verdict::Gap { expected } => {
                self.expect(key, expected);
                Outcome::Refused(Refusal::ResendFrom, run.first_seq(), expected)
            }
            Verdict::UnknownSession => {
                self.expect(key, 1);
                Outcome::Refused(Refusal::SessionEvicted, run.first_seq(), run.session())
            }
        };
        self.push(key, outcome);
    }
}

fn key(run: &Run<'_>) -> Key {
    Key { client_id: run.client_id(), session: run.session() }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Takes the clients' datagrams of this turn, then seals the batch that is open.
    pub(super) fn take_clients(&mut self) -> Result<(), Fatal> {
        let mut queue = std::mem::take(&mut self.client_queue);
        if !queue.is_empty() {
            self.meters().record(Meter::ClientQueue, queue.len() as u64);
        }
        for (buf, from) in queue.drain(..) {
            if self.recover_again {
                // What is delivered is not all applied: no request of this turn may be answered from what is.
                self.io.release(buf);
                continue;
            }
            self.counters.add(Counter::ClientDatagrams, 1);
            let taken = self.on_client_datagram(&buf, from);
            self.io.release(buf);
            if let Err(error) = taken? {
                self.count_bad_frame(error);
            }
        }
        self.client_queue = queue;
        self.begin_reads()?;
        self.retain()?;
        self.seal()
    }

    /// The outer error ends the shard, the inner one drops the datagram.
    fn on_client_datagram(&mut self, buf: &RxBuf, from: SocketAddrV4) -> Result<Result<(), Bad>, Fatal> {
        let frame = match parse(self.io.datagram(buf)) {
            // A datagram that was cut may still be told that it was too large, if its header came whole.
            Err(FrameError::Truncated) if buf.cut => {
                self.refuse(from, 0, 0, Refusal::TooLarge, max_entry_bytes(self.settings.max_batch_bytes) as u64);
                self.counters.add(Counter::DroppedOversize, 1);
                return Ok(Ok(()));
            }
            Err(error) => return Ok(Err(error.into())),
            Ok(frame) if frame.header.cluster != self.settings.cluster => return Ok(Err(Bad::ForeignCluster)),
            Ok(frame) if frame.header.group != self.settings.group => return Ok(Err(Bad::ForeignSender)),
            Ok(frame) => frame,
        };
        let request_id = frame.header.slot.0;
        match frame.header.kind {
            Kind::Append | Kind::OpenSession => {
                let run = match Run::parse(frame.payload) {
                    // What it takes to trim is a request of its own.
                    Ok((run, _)) if run.trims_before().is_some() => return Ok(Err(FrameError::Body.into())),
                    Ok((run, [])) => Request {
                        key: key(&run),
                        condition: run.condition(),
                        first_seq: run.first_seq(),
                        entries: run.len(),
                        opens_session: run.opens_session(),
                        receipt: frame.header.flags & flags::RECEIPT != 0,
                        bytes: frame.payload.len(),
                    },
                    Ok(_) => return Ok(Err(FrameError::Body.into())),
                    Err(error) => return Ok(Err(error.into())),
                };
                if let Some((refusal, detail)) = self.append_run(buf, run, from)? {
                    self.refuse(from, run.key.client_id, run.first_seq, refusal, detail);
                }
            }
            Kind::Read => match ReadBody::read_from_bytes(frame.payload) {
                Ok(body) => match body.consistency() {
                    Some(asked) => self.on_read(ReadRequest { to: from, body, recency: Recency::StalePossible }, asked),
                    None => return Ok(Err(FrameError::Body.into())),
                },
                Err(_) => return Ok(Err(FrameError::Body.into())),
            },
            Kind::Query => match Query::parse(from, frame.payload) {
                Ok(query) => self.on_query(&query, buf),
                Err(error) => return Ok(Err(error.into())),
            },
            Kind::Evidence => match EvidenceBody::parse(frame.payload) {
                Ok(body) => self.on_evidence(EvidenceRequest { to: from, body }),
                Err(error) => return Ok(Err(error.into())),
            },
            Kind::Trim => match TrimBody::parse(frame.payload) {
                Some(body) => self.on_trim(from, body)?,
                None => return Ok(Err(FrameError::Body.into())),
            },
            Kind::TransferLeader => match TransferBody::parse(frame.payload) {
                Ok(body) => self.on_transfer(from, body)?,
                Err(error) => return Ok(Err(error.into())),
            },
            Kind::Subscribe => match SubscribeBody::parse(frame.payload) {
                Some(body) => self.on_subscribe(from, &body),
                None => return Ok(Err(FrameError::Body.into())),
            },
            Kind::Status => self.send_status(from, request_id),
            Kind::Members => self.send_members(from, request_id, outcome::TOLD, 0),
            Kind::ChangeMembers => match parse_change(frame.payload) {
                Ok((id, of, change)) => self.on_change(from, id, of, change),
                Err(error) => return Ok(Err(error.into())),
            },
            other => return Ok(Err(FrameError::Kind(other as u8).into())),
        }
        Ok(Ok(()))
    }

    /// Copies the run of a request into the open batch, or says why not. This is the one copy of a payload between
    /// socket and disk.
    fn append_run(&mut self, buf: &RxBuf, run: Request, from: SocketAddrV4) -> Result<Option<(Refusal, u64)>, Fatal> {
        if let Err(refusal) = self.modes.appends(self.core.role(), self.core.leader().is_some()) {
            return Ok(Some((refusal, 0)));
        }
        let max_batch_bytes = self.settings.max_batch_bytes;
        let limit = max_entry_bytes(max_batch_bytes) as u64;
        if BATCH_HEADER_BYTES + run.bytes > max_batch_bytes {
            return Ok(Some((Refusal::TooLarge, limit)));
        }
        if let Some(refused) = self.admit(run, from) {
            return Ok(refused);
        }
        let no_place = |batch: OpenBatch| {
            let receipts_used_up = run.receipt && batch.runs >= MAX_RECEIPT_RUNS;
            batch.used + run.bytes > max_batch_bytes || receipts_used_up
        };
        if self.admission.batch.is_some_and(no_place) {
            self.seal()?;
        }
        if self.admission.batch.is_none() && !self.open_batch() {
            return Ok(Some((Refusal::Busy, 0)));
        }
        let Some(batch) = &mut self.admission.batch else { return Ok(Some((Refusal::Busy, 0))) };
        let payload = &self.io.datagram(buf)[HEADER_BYTES..HEADER_BYTES + run.bytes];
        let area = self.log.batch_payload().expect("the batch is open in the log");
        area[batch.used..batch.used + run.bytes].copy_from_slice(payload);
        batch.used += run.bytes;
        batch.entries += run.entries;
        if run.receipt {
            batch.receipts |= 1 << batch.runs;
        }
        batch.runs += 1;
        if let Some(session) = self.admission.sessions.get_mut(&run.key) {
            session.next_seq = session.next_seq.max(run.first_seq + run.entries);
        }
        Ok(None)
    }

    /// Checks a run against its session: `None` admits it; otherwise what the client is told, if anything.
    fn admit(&mut self, run: Request, from: SocketAddrV4) -> Option<Option<(Refusal, u64)>> {
        let committed = self.committed(run.key);
        if run.opens_session {
            self.remember_session(run.key, from, committed.unwrap_or(0) + 1);
            return None;
        }
        let Some(committed) = committed else {
            // Only apply may say that the session is gone: a leader that was deposed and does not know it yet may lack a
            // session that is alive. What it logs is never chosen, so it never answers.
            self.remember_session(run.key, from, 1);
            return None;
        };
        let next = self.remember_session(run.key, from, committed + 1);
        let last = run.first_seq + run.entries - 1;
        if run.first_seq > next && !mutant("gap_sequenced") {
            return Some(Some((Refusal::ResendFrom, next)));
        }
        if last <= committed && !mutant("duplicate_sequenced_again") {
            self.answer_again(run.key, run.first_seq, run.entries);
            return Some(None);
        }
        if last < next && !mutant("duplicate_sequenced_again") {
            // On its way already; the answer comes when it is chosen.
            return Some(None);
        }
        if mutant("match_at_admission") && self.tail_moved(run) {
            return Some(None);
        }
        self.meters().record(Meter::SessionCredit, last - committed);
        (last - committed > SESSION_CREDIT as u64).then_some(Some((Refusal::Busy, 0)))
    }

    /// A known bug, for [`mutant`]: a run is refused by the tail of the moment at which it is admitted.
    fn tail_moved(&mut self, run: Request) -> bool {
        let tail = self.machine.tail().0;
        let moved = run.condition.matches().is_some_and(|wanted| wanted != tail);
        if moved {
            let (first_seq, entries, timestamp_ns) = (run.first_seq, run.entries, self.machine.last_timestamp_ns());
            let answer = Answer { first_seq, entries, decision: Decision::TailMoved, value: tail, timestamp_ns };
            self.admission.push(run.key, Outcome::Answer(answer, None));
        }
        moved
    }

    /// The last client sequence of a session that the state machine decided on, if it has that session.
    fn committed(&self, key: Key) -> Option<u64> {
        self.machine.session(key.client_id).filter(|(is, _)| *is == key.session).map(|(_, last_seq)| last_seq)
    }

    /// Notes where a session's answers go; returns the client sequence that must come next.
    fn remember_session(&mut self, key: Key, address: SocketAddrV4, next_seq: u64) -> u64 {
        let sessions = &mut self.admission.sessions;
        if sessions.len() >= MAX_ADMITTED && !sessions.contains_key(&key) {
            // Openings, and sessions that the state machine evicted, are the ones to go; it holds half as many as this table.
            let machine = &self.machine;
            sessions.retain(|key, _| machine.session(key.client_id).is_some_and(|(is, _)| is == key.session));
        }
        let session = sessions.entry(key).or_insert(Admitted { address, next_seq });
        session.address = address;
        session.next_seq = session.next_seq.max(next_seq);
        session.next_seq
    }

    fn answer_again(&mut self, key: Key, first_seq: u64, entries: u64) {
        self.counters.add(Counter::DuplicatesAnswered, 1);
        for answer in self.machine.answers(key.client_id, first_seq, entries) {
            self.admission.push(key, Outcome::Answer(answer, None));
        }
    }

    /// Opens a batch at the log's tail; false if the window or the log has no room.
    fn open_batch(&mut self) -> bool {
        let room = self.has_room_for_value();
        if !room || !self.core.can_propose() || self.log.open_batch(self.settings.max_batch_bytes).is_none() {
            return false;
        }
        self.admission.batch = Some(OpenBatch { used: BATCH_HEADER_BYTES, runs: 0, entries: 0, receipts: 0 });
        true
    }

    /// Puts a trim into the open batch; false if the window or the log has no room.
    pub(super) fn log_trim(&mut self, before: Sequence) -> Result<bool, Fatal> {
        let max_batch_bytes = self.settings.max_batch_bytes;
        if self.admission.batch.is_some_and(|batch| batch.used + RUN_HEADER_BYTES > max_batch_bytes) {
            self.seal()?;
        }
        if self.admission.batch.is_none() && !self.open_batch() {
            return Ok(false);
        }
        let Some(batch) = &mut self.admission.batch else { return Ok(false) };
        let area = self.log.batch_payload().expect("the batch is open in the log");
        batch.used += write_trim(&mut area[batch.used..], before);
        batch.runs += 1;
        Ok(true)
    }

    /// Seals the open batch and proposes it.
    pub(super) fn seal(&mut self) -> Result<(), Fatal> {
        let Some(batch) = self.admission.batch else { return Ok(()) };
        let wall_ns = self.io.wall_ns();
        let area = self.log.batch_payload().expect("the batch is open in the log");
        write_batch_header(area, wall_ns, batch.runs);
        self.step(Input::Propose, None)
    }

    /// Tells clients what became of their runs.
    pub(super) fn answer_clients(&mut self) {
        let mut outcomes = std::mem::take(&mut self.admission.outcomes);
        // The answers of one session go out in order, in as few datagrams as they fit.
        outcomes.sort_unstable_by_key(|(key, order, _)| (*key, *order));
        let durability = self.word.of_acknowledgements();
        let mut receipts = std::mem::take(&mut self.admission.receipts);
        // The receipts' clock is read before they are written, the histogram's behind the last answer.
        let replied_ns = if receipts.is_empty() { 0 } else { self.io.stage_ns() };
        let mut answers = std::mem::take(&mut self.admission.answers);
        for chunk in outcomes.chunk_by(|a, b| a.0 == b.0) {
            let key = chunk[0].0;
            let Some(to) = self.admission.sessions.get(&key).map(|session| session.address) else { continue };
            for (_, _, outcome) in chunk {
                match *outcome {
                    Outcome::Answer(answer, receipt) => answers.push((answer, receipt)),
                    Outcome::Opened(session, last_committed) => {
                        self.send_opened(to, Key { session, ..key }, last_committed)
                    }
                    Outcome::Refused(refusal, first_seq, detail) => {
                        self.refuse(to, key.client_id, first_seq, refusal, detail);
                    }
                }
            }
            let mut rest = &answers[..];
            while !rest.is_empty() {
                let (some, later) = rest.split_at(acks_that_fit(rest, self.settings.max_datagram_bytes()));
                rest = later;
                self.counters.add(Counter::RunsAcknowledged, some.len() as u64);
                let ack = AckWriter { key, durability, answers: some, timelines: &receipts, replied_ns };
                self.reply(to, Kind::Appended, |out| ack.write(out));
            }
            answers.clear();
        }
        outcomes.clear();
        receipts.clear();
        self.admission.outcomes = outcomes;
        self.admission.answers = answers;
        self.admission.receipts = receipts;
        if self.stages.awaits_reply() {
            self.stages.replied(self.io.stage_ns());
        }
    }

    fn send_opened(&mut self, to: SocketAddrV4, key: Key, last_committed: u64) {
        let max_batch_bytes = self.settings.max_batch_bytes;
        let body = SessionBody {
            client_id: U128::new(key.client_id),
            session: U64::new(key.session),
            last_committed: U64::new(last_committed),
            credit: U32::new(SESSION_CREDIT as u32),
            max_entry_bytes: U32::new(max_entry_bytes(max_batch_bytes) as u32),
            max_run_bytes: U32::new((max_batch_bytes - BATCH_HEADER_BYTES) as u32),
            guarantee: Guarantee::COMMITTED.encode(),
        };
        self.reply(to, Kind::SessionOpened, |out| put(body.as_bytes(), out));
    }

    /// Says why a request was not taken.
    pub(super) fn refuse(&mut self, to: SocketAddrV4, client_id: u128, reference: u64, refusal: Refusal, detail: u64) {
        self.counters.add(status::refused(refusal), 1);
        let leader = self.core.leader().filter(|_| refusal == Refusal::NotLeader);
        let leader = leader.and_then(|node| self.settings.members.iter().find(|(member, _)| *member == node));
        let retry_after_us = match refusal {
            // Whose request names no session has asked to read.
            Refusal::Busy if client_id != 0 => {
                let now_ns = self.io.now_ns();
                let age_ns = self.stages.oldest_open_ns().map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
                self.admission.drain.retry_after_us(age_ns)
            }
            // Leases are off: they will be when it is asked again.
            Refusal::NoLease if detail == 0 => 0,
            Refusal::NoLeader => self.modes.no_leader_retry_us(self.io.now_ns()),
            other => mode::retry_after_us(other),
        };
        let guarantee = mode::guarantee_of_refusal(refusal, client_id == 0);
        let detail = if refusal == Refusal::ManualIntervention { self.modes.reason() as u64 } else { detail };
        let body = RefusalBody {
            client_id: U128::new(client_id),
            reference: U64::new(reference),
            detail: U64::new(detail),
            retry_after_us: U32::new(retry_after_us),
            refusal: refusal as u8,
            has_leader: u8::from(leader.is_some()),
            leader_port: U16::new(leader.map_or(0, |(_, address)| address.port())),
            leader_ip: leader.map_or([0; 4], |(_, address)| address.ip().octets()),
            leader_node: leader.map_or(0, |(node, _)| node.0),
            mode: self.modes.mode() as u8,
            reserved: [0; 2],
            guarantee: guarantee.encode(),
        };
        self.reply(to, Kind::Rejected, |out| put(body.as_bytes(), out));
    }

    /// Sends one frame to a client; `write` fills its payload.
    pub(super) fn reply(&mut self, to: SocketAddrV4, kind: Kind, write: impl FnOnce(&mut [u8]) -> usize) {
        let header: Header = self.header(kind);
        self.reply_with(to, &header, write);
    }

    /// The same, under a header that says more.
    pub(super) fn reply_with(&mut self, to: SocketAddrV4, header: &Header, write: impl FnOnce(&mut [u8]) -> usize) {
        let Some(out) = self.outbox.room() else { return };
        let bytes = write(&mut out[HEADER_BYTES..]);
        let crc = checksum(&out[HEADER_BYTES..HEADER_BYTES + bytes]);
        write_header(out, header, bytes, crc);
        self.outbox.send_client(&mut self.io, to, HEADER_BYTES + bytes);
    }
}

/// Copies a body to the front of a payload.
pub(super) fn put(body: &[u8], out: &mut [u8]) -> usize {
    out[..body.len()].copy_from_slice(body);
    body.len()
}
