//! The default state machine: gives each client entry its dense sequence and keeps the sessions' table.
//!
//! Deterministic: the outcome depends on the chosen batches alone, never on a clock, a setting or an address. Every
//! replica, `verify` and the readers of old log run the same code. The limits below are part of the log format:
//! changing one is a new format version.

use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use synod_wire::batch::{Batch, Run};
use synod_wire::mutant::mutant;
use synod_wire::{Sequence, Slot};

/// Sessions in the table; opening one more evicts the least recently used (by slot, then by id).
pub const MAX_SESSIONS: usize = 1_024;
/// Entries that a session may have in flight, and answers that are kept for its duplicates (an answer covers at least
/// one entry, so no entry in flight is without its answer).
pub const SESSION_CREDIT: usize = 1_024;

/// A table by session. Every entry is looked up in it, which SipHash makes 100 instructions each time. What is given up is its
/// strength against ids that are chosen to collide: this hash has a seed of each table's own, but one that a client may find
/// out by its waits. The tables are small, so that even then a look-up compares [`MAX_SESSIONS`] ids and no more.
pub(crate) type BySession<T> = HashMap<u128, T, RandomState>;

/// An empty one with room for so many.
pub(crate) fn by_session<T>(sessions: usize) -> BySession<T> {
    HashMap::with_capacity_and_hasher(sessions, RandomState::default())
}

/// The outcome of entries that were sequenced together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The client's sequence of the first.
    pub first_seq: u64,
    /// How many.
    pub entries: u64,
    /// The place of the first in the total order.
    pub first_sequence: Sequence,
    /// The timestamp of all of them.
    pub timestamp_ns: u64,
}

/// What apply did with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The session exists now (it may have before).
    Opened,
    /// `entries` entries after the first `skip` (duplicates) were sequenced.
    Sequenced {
        /// Entries at the front that had been sequenced before.
        skip: u64,
        /// Entries sequenced now.
        entries: u64,
        /// The sequence of the first of them.
        first_sequence: Sequence,
        /// Their timestamp.
        timestamp_ns: u64,
    },
    /// Every entry had been sequenced before.
    Duplicate,
    /// Entries before this run are missing: it has no effect.
    Gap {
        /// The client sequence that must come next.
        expected: u64,
    },
    /// The session is not in the table: no effect.
    UnknownSession,
}

impl Verdict {
    /// Entries of the run that got a sequence.
    pub fn taken(self) -> u64 {
        match self {
            Verdict::Sequenced { entries, .. } => entries,
            _ => 0,
        }
    }
}

#[derive(Debug)]
struct Session {
    last_seq: u64,
    last_used: Slot,
    answers: VecDeque<Answer>,
}

/// The replicated state: the tail, the last timestamp and the sessions.
#[derive(Debug, Default)]
pub struct Sequencer {
    tail: Sequence,
    timestamp_ns: u64,
    sessions: BySession<Session>,
}

impl Sequencer {
    /// The state before the first slot.
    pub fn new() -> Sequencer {
        Sequencer { sessions: by_session(MAX_SESSIONS + 1), ..Sequencer::default() }
    }

    /// The last sequence given.
    pub fn tail(&self) -> Sequence {
        self.tail
    }

    /// The last timestamp, nanoseconds since the Unix epoch; never decreases.
    pub fn last_timestamp_ns(&self) -> u64 {
        self.timestamp_ns
    }

    /// Sessions in the table.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The sessions in no order: id, last client sequence, and the slot that used it last.
    pub fn table(&self) -> impl Iterator<Item = (u128, u64, Slot)> + '_ {
        self.sessions.iter().map(|(id, session)| (*id, session.last_seq, session.last_used))
    }

    /// The last client sequence committed for a session, if the session exists.
    pub fn last_committed(&self, client_id: u128) -> Option<u64> {
        self.sessions.get(&client_id).map(|session| session.last_seq)
    }

    /// Applies the value of `slot`, the next after the last applied, and tells the outcome of each run in order.
    pub fn apply(&mut self, slot: Slot, batch: &Batch<'_>, visit: &mut dyn FnMut(usize, &Run<'_>, Verdict)) {
        if !batch.is_noop() {
            let stamp_ns = batch.header.timestamp_ns.get();
            let floor_ns = if mutant("timestamp_runs_back") { 0 } else { self.timestamp_ns };
            self.timestamp_ns = floor_ns.max(stamp_ns);
        }
        for (index, run) in batch.runs().enumerate() {
            let verdict = if run.opens_session() { self.open(slot, run.client_id()) } else { self.append(slot, &run) };
            visit(index, &run, verdict);
        }
    }

    fn open(&mut self, slot: Slot, client_id: u128) -> Verdict {
        if let Some(session) = self.sessions.get_mut(&client_id) {
            session.last_used = slot;
            if mutant("reopened_session_forgets") {
                session.last_seq = 0;
            }
            return Verdict::Opened;
        }
        if self.sessions.len() == MAX_SESSIONS {
            let victim = self.sessions.iter().map(|(id, session)| (session.last_used, *id)).min().map(|(_, id)| id);
            if let Some(id) = victim {
                self.sessions.remove(&id);
            }
        }
        self.sessions.insert(client_id, Session { last_seq: 0, last_used: slot, answers: VecDeque::new() });
        Verdict::Opened
    }

    /// In this order (DESIGN, "Applying"): duplicate? then the stored answer; the next in line? else no effect.
    fn append(&mut self, slot: Slot, run: &Run<'_>) -> Verdict {
        if mutant("retry_opens_evicted_session") && !self.sessions.contains_key(&run.client_id()) {
            self.open(slot, run.client_id());
            self.sessions.entry(run.client_id()).and_modify(|session| session.last_seq = run.first_seq() - 1);
        }
        let Some(session) = self.sessions.get_mut(&run.client_id()) else { return Verdict::UnknownSession };
        session.last_used = slot;
        if mutant("duplicate_sequenced_again") {
            session.last_seq = session.last_seq.min(run.first_seq() - 1);
        }
        if mutant("gap_sequenced") {
            session.last_seq = session.last_seq.max(run.first_seq() - 1);
        }
        let expected = session.last_seq + 1;
        let last = run.first_seq() + run.len() - 1;
        if last < expected {
            return Verdict::Duplicate;
        }
        if run.first_seq() > expected {
            return Verdict::Gap { expected };
        }
        let skip = expected - run.first_seq();
        let entries = run.len() - skip;
        let first_sequence = self.tail.next();
        let timestamp_ns = self.timestamp_ns;
        self.tail = Sequence(self.tail.0 + entries);
        session.last_seq = last;
        session.remember(Answer { first_seq: expected, entries, first_sequence, timestamp_ns });
        Verdict::Sequenced { skip, entries, first_sequence, timestamp_ns }
    }

    /// The stored answers for the entries `first_seq..first_seq + entries` of a session, in order; those older than the
    /// window are absent.
    pub fn answers(&self, client_id: u128, first_seq: u64, entries: u64) -> impl Iterator<Item = Answer> + '_ {
        let end = first_seq.saturating_add(entries);
        let answers = self.sessions.get(&client_id).map(|session| &session.answers);
        let start = answers.map_or(0, |all| all.partition_point(|a| a.first_seq + a.entries <= first_seq));
        answers.into_iter().flat_map(move |all| all.range(start..)).take_while(move |a| a.first_seq < end).map(
            move |a| {
                let from = a.first_seq.max(first_seq);
                let to = (a.first_seq + a.entries).min(end);
                let skipped = if mutant("answer_of_the_run") { 0 } else { from - a.first_seq };
                let first_sequence = Sequence(a.first_sequence.0 + skipped);
                Answer { first_seq: from, entries: to - from, first_sequence, timestamp_ns: a.timestamp_ns }
            },
        )
    }
}

impl Session {
    fn remember(&mut self, answer: Answer) {
        if let Some(last) = self.answers.back_mut() {
            let adjacent = last.first_sequence.0 + last.entries == answer.first_sequence.0;
            if adjacent && last.timestamp_ns == answer.timestamp_ns {
                last.entries += answer.entries;
                return;
            }
        }
        if self.answers.len() == SESSION_CREDIT {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::batch::{BATCH_HEADER_BYTES, RunBuilder, RunKind, write_batch_header};

    fn batch(timestamp_ns: u64, runs: &[(u128, u64, &[&[u8]])]) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut at = BATCH_HEADER_BYTES;
        for (client, first, entries) in runs {
            let mut run = RunBuilder::new(&mut bytes[at..], *client, *first);
            for entry in *entries {
                assert!(run.push(entry));
            }
            let kind = if entries.is_empty() { RunKind::OpenSession } else { RunKind::Append };
            at += run.finish(kind).0;
        }
        write_batch_header(&mut bytes, timestamp_ns, runs.len() as u16);
        bytes.truncate(at);
        bytes
    }

    fn apply(machine: &mut Sequencer, slot: u64, bytes: &[u8]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        machine.apply(Slot(slot), &Batch::parse(bytes).unwrap(), &mut |_, _, verdict| verdicts.push(verdict));
        verdicts
    }

    #[test]
    fn entries_are_sequenced_once_in_client_order() {
        let mut machine = Sequencer::new();
        assert_eq!(apply(&mut machine, 1, &batch(10, &[(7, 1, &[b"a"])])), [Verdict::UnknownSession]);
        assert_eq!(apply(&mut machine, 2, &batch(10, &[(7, 0, &[])])), [Verdict::Opened]);
        let first = Verdict::Sequenced { skip: 0, entries: 2, first_sequence: Sequence(1), timestamp_ns: 20 };
        assert_eq!(apply(&mut machine, 3, &batch(20, &[(7, 1, &[b"a", b"b"])])), [first]);
        assert_eq!(apply(&mut machine, 4, &batch(30, &[(7, 4, &[b"d"])])), [Verdict::Gap { expected: 3 }]);
        assert_eq!(apply(&mut machine, 5, &batch(30, &[(7, 1, &[b"a", b"b"])])), [Verdict::Duplicate]);
        let overlap = Verdict::Sequenced { skip: 1, entries: 1, first_sequence: Sequence(3), timestamp_ns: 30 };
        assert_eq!(apply(&mut machine, 6, &batch(5, &[(7, 2, &[b"b", b"c"])])), [overlap], "time never runs backwards");
        let answers: Vec<_> = machine.answers(7, 2, 2).collect();
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].first_seq, answers[0].first_sequence, answers[0].timestamp_ns), (2, Sequence(2), 20));
        assert_eq!((answers[1].first_seq, answers[1].first_sequence, answers[1].timestamp_ns), (3, Sequence(3), 30));
        assert_eq!(machine.last_committed(7), Some(3));
    }

    #[test]
    fn the_least_recently_used_session_is_evicted_and_its_retry_is_told_so() {
        let mut machine = Sequencer::new();
        for client in 0..MAX_SESSIONS as u128 {
            apply(&mut machine, 1 + client as u64, &batch(1, &[(client, 0, &[])]));
        }
        apply(&mut machine, 5_000, &batch(2, &[(0, 1, &[b"keeps 0 alive"])]));
        apply(&mut machine, 5_001, &batch(2, &[(9_999, 0, &[])]));
        assert_eq!(machine.sessions(), MAX_SESSIONS);
        assert_eq!(apply(&mut machine, 5_002, &batch(3, &[(1, 1, &[b"x"])])), [Verdict::UnknownSession]);
        assert_eq!(machine.last_committed(0), Some(1));
    }

    #[test]
    fn answers_are_bounded_by_the_credit() {
        let mut machine = Sequencer::new();
        apply(&mut machine, 1, &batch(1, &[(1, 0, &[])]));
        for seq in 1..=2 * SESSION_CREDIT as u64 {
            apply(&mut machine, 1 + seq, &batch(seq, &[(1, seq, &[b"e"])]));
        }
        assert_eq!(machine.answers(1, 1, u64::MAX).count(), SESSION_CREDIT);
        assert_eq!(machine.answers(1, 1_500, 2).map(|a| a.first_sequence.0).collect::<Vec<_>>(), [1_500, 1_501]);
    }
}
