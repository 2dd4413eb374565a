//! The default state machine: gives each client entry its dense sequence, keeps the sessions' table, and decides about entries
//! that are appended on a condition.
//!
//! Deterministic: the outcome depends on the chosen batches alone, never on a clock, a setting or an address. Every
//! replica, `verify` and the readers of old log run the same code. The limits below are part of the log format:
//! changing one is a new format version.
//!
//! *Sessions.* A client's id names a session only together with the number that its opening was given, counted from 1 over the
//! life of the group: an id that was evicted and opened again is another session, and what was sent to the first is not taken
//! by the second. *Time* is the log's, the timestamps of the batches.

mod snapshot;

use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use synod_wire::batch::{Batch, Condition, Run, open};
use synod_wire::client::Decision;
use synod_wire::mutant::mutant;
use synod_wire::{Sequence, Slot};

/// Sessions in the table; opening one more evicts the least recently used (by slot, then by id).
pub const MAX_SESSIONS: usize = 1_024;
/// Entries that a session may have in flight, and answers that are kept for its duplicates (an answer covers at least
/// one entry, so no entry in flight is without its answer).
pub const SESSION_CREDIT: usize = 1_024;
/// A session that was not used for longer than this, by the timestamps of the log, is evicted: seven days, so that a client that
/// pauses over a weekend goes on.
pub const SESSION_IDLE_NS: u64 = 7 * 24 * 3_600 * 1_000_000_000;

/// A table by session. Every entry is looked up in it, which SipHash makes 100 instructions each time. What is given up is its
/// strength against ids that are chosen to collide: this hash has a seed of each table's own, but one that a client may find
/// out by its waits. The tables are small, so that even then a look-up compares [`MAX_SESSIONS`] ids and no more.
pub(crate) type BySession<K, T> = HashMap<K, T, RandomState>;

/// An empty one with room for so many.
pub(crate) fn by_session<K, T>(sessions: usize) -> BySession<K, T> {
    HashMap::with_capacity_and_hasher(sessions, RandomState::default())
}

/// The outcome of entries that were decided on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The client's sequence of the first.
    pub first_seq: u64,
    /// How many.
    pub entries: u64,
    /// What was decided.
    pub decision: Decision,
    /// Appended: the place of the first in the total order. Refused: the tail that was found, or the highest token seen.
    pub value: u64,
    /// The timestamp of all of them.
    pub timestamp_ns: u64,
}

impl Answer {
    /// The sequence of the first entry, if they have any.
    pub fn first_sequence(&self) -> Option<Sequence> {
        (self.decision == Decision::Appended).then_some(Sequence(self.value))
    }

    /// What the entry `at` places behind the first is told.
    fn value_of(&self, at: u64) -> u64 {
        if self.decision == Decision::Appended { self.value + at } else { self.value }
    }
}

/// What apply did with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The session exists now (it may have before).
    Opened {
        /// Its number.
        session: u64,
        /// Its last client sequence that was decided on.
        last_committed: u64,
    },
    /// `answer.entries` entries after the first `skip` (duplicates) were decided on: sequenced, or refused for good.
    Decided {
        /// Entries at the front that had been decided on before.
        skip: u64,
        /// What the others are told.
        answer: Answer,
    },
    /// Every entry had been decided on before.
    Duplicate,
    /// Entries before this run are missing: it has no effect.
    Gap {
        /// The client sequence that must come next.
        expected: u64,
    },
    /// The session is not in the table: no effect.
    UnknownSession,
    /// A trim was asked for, which has had its effect, or another before it had more.
    Trimmed {
        /// The first sequence that can be read.
        first: Sequence,
    },
}

impl Verdict {
    /// Entries of the run that got a sequence.
    pub fn taken(self) -> u64 {
        match self {
            Verdict::Decided { answer, .. } if answer.decision == Decision::Appended => answer.entries,
            _ => 0,
        }
    }
}

#[derive(Debug)]
struct Session {
    number: u64,
    last_seq: u64,
    last_used: Slot,
    last_used_ns: u64,
    answers: VecDeque<Answer>,
}

/// A session as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The client.
    pub client_id: u128,
    /// The session's number.
    pub number: u64,
    /// The last client sequence that was decided on.
    pub last_seq: u64,
    /// The slot that used it last.
    pub last_used: Slot,
    /// The log's time then, nanoseconds since the Unix epoch.
    pub last_used_ns: u64,
}

/// The replicated state: the tail, the last timestamp, the highest fencing token and the sessions.
#[derive(Debug, Default)]
pub struct Sequencer {
    tail: Sequence,
    timestamp_ns: u64,
    fence: u64,
    /// Sessions ever opened: the number of the last one.
    opened: u64,
    /// Entries below it were trimmed; 0: none was.
    trimmed: Sequence,
    sessions: BySession<u128, Session>,
    /// No session was used last before this: spares a look at the table while none can be idle for too long. It does not
    /// change what is evicted.
    used_since_ns: u64,
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

    /// The highest fencing token seen; 0: none.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The first sequence that can be read, or will be given next: those below were trimmed.
    pub fn first(&self) -> Sequence {
        self.trimmed.max(Sequence(1))
    }

    /// Sessions in the table.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions ever opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// The sessions in no order.
    pub fn table(&self) -> impl Iterator<Item = SessionRow> + '_ {
        self.sessions.iter().map(|(id, session)| SessionRow {
            client_id: *id,
            number: session.number,
            last_seq: session.last_seq,
            last_used: session.last_used,
            last_used_ns: session.last_used_ns,
        })
    }

    /// The number of a client's session and its last client sequence that was decided on, if it has one.
    pub fn session(&self, client_id: u128) -> Option<(u64, u64)> {
        self.sessions.get(&client_id).map(|session| (session.number, session.last_seq))
    }

    /// Applies the value of `slot`, the next after the last applied, and tells the outcome of each run in order.
    pub fn apply(&mut self, slot: Slot, batch: &Batch<'_>, visit: &mut dyn FnMut(usize, &Run<'_>, Verdict)) {
        if !batch.is_noop() {
            let stamp_ns = batch.header.timestamp_ns.get();
            let floor_ns = if mutant("timestamp_runs_back") { 0 } else { self.timestamp_ns };
            self.timestamp_ns = floor_ns.max(stamp_ns);
            if self.timestamp_ns.saturating_sub(self.used_since_ns) > SESSION_IDLE_NS {
                self.evict_idle();
            }
        }
        for (index, run) in batch.runs().enumerate() {
            let verdict = match run.trims_before() {
                Some(before) => self.trim(before),
                None if run.opens_session() => self.open(slot, &run),
                None => self.append(slot, &run),
            };
            visit(index, &run, verdict);
        }
    }

    /// Gives up the entries below a sequence, as far as there are any; what was given up stays so. The entries are not this
    /// state's to remove: members do that with their logs.
    fn trim(&mut self, before: Sequence) -> Verdict {
        let floor = if mutant("trim_runs_back") { Sequence::ZERO } else { self.trimmed };
        self.trimmed = before.min(self.tail.next()).max(floor);
        Verdict::Trimmed { first: self.first() }
    }

    /// Evicts the sessions that were not used for too long by the log's time.
    fn evict_idle(&mut self) {
        let now_ns = self.timestamp_ns;
        self.sessions.retain(|_, session| now_ns.saturating_sub(session.last_used_ns) <= SESSION_IDLE_NS);
        self.used_since_ns = self.sessions.values().map(|session| session.last_used_ns).min().unwrap_or(now_ns);
    }

    fn open(&mut self, slot: Slot, run: &Run<'_>) -> Verdict {
        let (client_id, wanted) = (run.client_id(), run.session());
        let timestamp_ns = self.timestamp_ns;
        let is_wanted = |number| matches!(wanted, open::OR_CREATE | open::EXISTING) || wanted == number;
        if let Some(session) = self.sessions.get_mut(&client_id).filter(|session| is_wanted(session.number)) {
            session.touch(slot, timestamp_ns);
            if mutant("reopened_session_forgets") {
                session.last_seq = 0;
            }
            return Verdict::Opened { session: session.number, last_committed: session.last_seq };
        }
        if wanted != open::OR_CREATE && !mutant("return_opens_evicted_session") {
            return Verdict::UnknownSession;
        }
        self.create(slot, client_id);
        Verdict::Opened { session: self.opened, last_committed: 0 }
    }

    /// A session with an empty past.
    fn create(&mut self, slot: Slot, client_id: u128) {
        if self.sessions.len() >= MAX_SESSIONS {
            let victim = self.sessions.iter().map(|(id, session)| (session.last_used, *id)).min().map(|(_, id)| id);
            if let Some(id) = victim {
                self.sessions.remove(&id);
            }
        }
        self.opened += 1;
        let (number, last_used_ns) = (self.opened, self.timestamp_ns);
        let session = Session { number, last_seq: 0, last_used: slot, last_used_ns, answers: VecDeque::new() };
        self.sessions.insert(client_id, session);
    }

    /// In this order (DESIGN, "Applying"): duplicate? then the stored answer; the next in line? else no effect; then fence and
    /// condition, whose refusal takes the entry's place in its session.
    fn append(&mut self, slot: Slot, run: &Run<'_>) -> Verdict {
        if mutant("retry_opens_evicted_session") && session_of(&mut self.sessions, run).is_none() {
            self.create(slot, run.client_id());
            self.sessions.entry(run.client_id()).and_modify(|session| {
                session.last_seq = run.first_seq() - 1;
                session.number = run.session();
            });
        }
        let timestamp_ns = self.timestamp_ns;
        let Some(session) = session_of(&mut self.sessions, run) else { return Verdict::UnknownSession };
        session.touch(slot, timestamp_ns);
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
        let (decision, value) = decide(&run.condition(), self.tail, &mut self.fence);
        let answer = Answer { first_seq: expected, entries, decision, value, timestamp_ns };
        let appended = decision == Decision::Appended;
        if appended {
            self.tail = Sequence(self.tail.0 + entries);
        }
        if appended || !mutant("refusal_not_stored") {
            session.last_seq = last;
            session.remember(answer);
        }
        Verdict::Decided { skip, answer }
    }

    /// A known bug, for [`mutant`]: the highest token is lost.
    pub(crate) fn forget_fence(&mut self) {
        self.fence = 0;
    }

    /// A known bug, for [`mutant`]: a snapshot without its sessions.
    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
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
                Answer { first_seq: from, entries: to - from, value: a.value_of(skipped), ..*a }
            },
        )
    }
}

/// The session that a run was meant for.
fn session_of<'a>(sessions: &'a mut BySession<u128, Session>, run: &Run<'_>) -> Option<&'a mut Session> {
    let any_number = mutant("session_number_ignored");
    sessions.get_mut(&run.client_id()).filter(|session| any_number || session.number == run.session())
}

/// Whether the next entries are appended, and what they are told. A token counts as seen whatever becomes of the entries.
fn decide(condition: &Condition, tail: Sequence, fence: &mut u64) -> (Decision, u64) {
    if let Some(token) = condition.token() {
        if token < *fence {
            return (Decision::Fenced, *fence);
        }
        *fence = token;
    }
    match condition.matches() {
        Some(wanted) if wanted != tail.0 && !mutant("match_at_admission") => (Decision::TailMoved, tail.0),
        _ => (Decision::Appended, tail.0 + 1),
    }
}

impl Session {
    fn touch(&mut self, slot: Slot, timestamp_ns: u64) {
        self.last_used = slot;
        self.last_used_ns = timestamp_ns;
    }

    fn remember(&mut self, answer: Answer) {
        if let Some(last) = self.answers.back_mut() {
            let follows = last.decision == answer.decision && last.value_of(last.entries) == answer.value;
            if follows && last.timestamp_ns == answer.timestamp_ns {
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
    use synod_wire::batch::{BATCH_HEADER_BYTES, RunBuilder, RunKind, write_batch_header, write_trim};
    use synod_wire::snapshot::{Malformed, Rest};
    use zerocopy::little_endian::U64;

    /// Builds a batch of runs.
    struct Builder {
        bytes: Vec<u8>,
        at: usize,
        runs: u16,
    }

    impl Builder {
        fn new() -> Builder {
            Builder { bytes: vec![0; 8192], at: BATCH_HEADER_BYTES, runs: 0 }
        }

        fn open(mut self, client: u128, wanted: u64) -> Builder {
            self.at += RunBuilder::new(&mut self.bytes[self.at..], client, wanted, 0).finish(RunKind::OpenSession).0;
            self.runs += 1;
            self
        }

        fn trim(mut self, before: u64) -> Builder {
            self.at += write_trim(&mut self.bytes[self.at..], Sequence(before));
            self.runs += 1;
            self
        }

        fn append(mut self, (client, session): (u128, u64), first: u64, entries: &[&[u8]]) -> Builder {
            let mut run = RunBuilder::new(&mut self.bytes[self.at..], client, session, first);
            assert!(entries.iter().all(|entry| run.push(entry)));
            self.at += run.finish(RunKind::Append).0;
            self.runs += 1;
            self
        }

        /// An append on a condition: a tail, or any; a token, or 0.
        fn append_if(mut self, session: u64, first: u64, tail: Option<u64>, fence: u64, entries: usize) -> Builder {
            let match_sequence = U64::new(tail.unwrap_or(Condition::ANY_TAIL));
            let condition = Condition { match_sequence, fence: U64::new(fence) };
            let mut run = RunBuilder::conditional(&mut self.bytes[self.at..], 7, session, first, &condition);
            (0..entries).for_each(|_| assert!(run.push(b"on a condition")));
            self.at += run.finish(RunKind::ConditionalAppend).0;
            self.runs += 1;
            self
        }

        fn apply(mut self, machine: &mut Sequencer, slot: u64, timestamp_ns: u64) -> Vec<Verdict> {
            write_batch_header(&mut self.bytes, timestamp_ns, self.runs);
            let mut verdicts = Vec::new();
            let batch = Batch::parse(&self.bytes[..self.at]).unwrap();
            machine.apply(Slot(slot), &batch, &mut |_, _, verdict| verdicts.push(verdict));
            verdicts
        }
    }

    fn opened(session: u64, last_committed: u64) -> Verdict {
        Verdict::Opened { session, last_committed }
    }

    fn decided(skip: u64, first_seq: u64, entries: u64, decision: Decision, value: u64, timestamp_ns: u64) -> Verdict {
        Verdict::Decided { skip, answer: Answer { first_seq, entries, decision, value, timestamp_ns } }
    }

    #[test]
    fn entries_are_sequenced_once_in_client_order() {
        let mut machine = Sequencer::new();
        let m = &mut machine;
        let of_7 = (7, 1);
        assert_eq!(Builder::new().append(of_7, 1, &[b"a"]).apply(m, 1, 10), [Verdict::UnknownSession]);
        assert_eq!(Builder::new().open(7, open::OR_CREATE).apply(m, 2, 10), [opened(1, 0)]);
        let first = decided(0, 1, 2, Decision::Appended, 1, 20);
        assert_eq!(Builder::new().append(of_7, 1, &[b"a", b"b"]).apply(m, 3, 20), [first]);
        assert_eq!(Builder::new().append(of_7, 4, &[b"d"]).apply(m, 4, 30), [Verdict::Gap { expected: 3 }]);
        assert_eq!(Builder::new().append(of_7, 1, &[b"a", b"b"]).apply(m, 5, 30), [Verdict::Duplicate]);
        let overlap = decided(1, 3, 1, Decision::Appended, 3, 30);
        assert_eq!(
            Builder::new().append(of_7, 2, &[b"b", b"c"]).apply(m, 6, 5),
            [overlap],
            "time never runs backwards"
        );
        let answers: Vec<_> = machine.answers(7, 2, 2).collect();
        assert_eq!(answers.len(), 2);
        assert_eq!(
            (answers[0].first_seq, answers[0].first_sequence(), answers[0].timestamp_ns),
            (2, Some(Sequence(2)), 20)
        );
        assert_eq!(
            (answers[1].first_seq, answers[1].first_sequence(), answers[1].timestamp_ns),
            (3, Some(Sequence(3)), 30)
        );
        assert_eq!(machine.session(7), Some((1, 3)));
    }

    #[test]
    fn a_session_is_known_by_its_number_and_keeps_it_while_it_lasts() {
        let mut machine = Sequencer::new();
        let m = &mut machine;
        assert_eq!(Builder::new().open(7, open::EXISTING).apply(m, 1, 1), [Verdict::UnknownSession]);
        assert_eq!(Builder::new().open(7, 1).apply(m, 2, 1), [Verdict::UnknownSession], "it never was");
        assert_eq!(
            Builder::new().open(8, open::OR_CREATE).open(7, open::OR_CREATE).apply(m, 3, 1),
            [opened(1, 0), opened(2, 0)]
        );
        Builder::new().append((7, 2), 1, &[b"a"]).apply(m, 4, 1);
        for wanted in [open::OR_CREATE, open::EXISTING, 2] {
            assert_eq!(Builder::new().open(7, wanted).apply(m, 5, 1), [opened(2, 1)], "wanted {wanted}");
        }
        assert_eq!(Builder::new().open(7, 1).apply(m, 6, 1), [Verdict::UnknownSession], "that is another client's");
        assert_eq!(Builder::new().append((7, 1), 2, &[b"b"]).apply(m, 7, 1), [Verdict::UnknownSession]);
        assert_eq!((machine.opened(), machine.tail()), (2, Sequence(1)));
    }

    #[test]
    fn the_least_recently_used_session_is_evicted_and_no_retry_revives_it() {
        let mut machine = Sequencer::new();
        let m = &mut machine;
        for client in 0..MAX_SESSIONS as u128 {
            Builder::new().open(client, open::OR_CREATE).apply(m, 1 + client as u64, 1);
        }
        Builder::new().append((1, 2), 1, &[b"once"]).apply(m, 4_000, 2);
        Builder::new().append((0, 1), 1, &[b"keeps 0 alive"]).apply(m, 5_000, 2);
        for client in 10_000..10_000 + MAX_SESSIONS as u128 - 1 {
            Builder::new().open(client, open::OR_CREATE).apply(m, 5_001, 2);
        }
        assert_eq!((m.sessions(), m.session(0)), (MAX_SESSIONS, Some((1, 1))));
        assert_eq!(Builder::new().append((1, 2), 1, &[b"once"]).apply(m, 5_002, 3), [Verdict::UnknownSession]);
        assert_eq!(Builder::new().open(1, 2).apply(m, 5_003, 3), [Verdict::UnknownSession], "the client comes back");
        // A late copy of its first opening: another session, which takes nothing that was meant for the first.
        let number = m.opened() + 1;
        assert_eq!(Builder::new().open(1, open::OR_CREATE).apply(m, 5_004, 3), [opened(number, 0)]);
        assert_eq!(Builder::new().append((1, 2), 1, &[b"once"]).apply(m, 5_005, 3), [Verdict::UnknownSession]);
        assert_eq!(m.tail(), Sequence(2));
    }

    #[test]
    fn sessions_that_rest_too_long_by_the_logs_time_are_evicted() {
        let mut machine = Sequencer::new();
        let m = &mut machine;
        let start_ns = 1_000;
        Builder::new().open(1, open::OR_CREATE).open(2, open::OR_CREATE).apply(m, 1, start_ns);
        Builder::new().append((2, 2), 1, &[b"used"]).apply(m, 2, start_ns + 500);
        let last_ns = start_ns + SESSION_IDLE_NS;
        assert_eq!(Builder::new().open(3, open::OR_CREATE).apply(m, 3, last_ns), [opened(3, 0)]);
        assert_eq!(m.sessions(), 3, "exactly as long as allowed");
        let verdicts =
            Builder::new().append((1, 1), 1, &[b"late"]).append((2, 2), 2, &[b"in time"]).apply(m, 4, last_ns + 1);
        assert_eq!(verdicts, [Verdict::UnknownSession, decided(0, 2, 1, Decision::Appended, 2, last_ns + 1)]);
        // Nobody's clock counts but the log's: a batch that is stamped earlier changes nothing.
        Builder::new().append((2, 2), 3, &[b"early stamp"]).apply(m, 5, start_ns);
        Builder::new().open(9, open::OR_CREATE).apply(m, 6, last_ns + 1 + SESSION_IDLE_NS);
        assert_eq!((m.session(2), m.session(3)), (Some((2, 3)), None));
    }

    #[test]
    fn answers_are_bounded_by_the_credit() {
        let mut machine = Sequencer::new();
        Builder::new().open(1, open::OR_CREATE).apply(&mut machine, 1, 1);
        for seq in 1..=2 * SESSION_CREDIT as u64 {
            Builder::new().append((1, 1), seq, &[b"e"]).apply(&mut machine, 1 + seq, seq);
        }
        assert_eq!(machine.answers(1, 1, u64::MAX).count(), SESSION_CREDIT);
        assert_eq!(machine.answers(1, 1_500, 2).map(|a| a.value).collect::<Vec<_>>(), [1_500, 1_501]);
    }

    #[test]
    fn a_tail_is_matched_when_the_entry_is_applied_and_the_refusal_stands() {
        let mut machine = Sequencer::new();
        let m = &mut machine;
        Builder::new().open(7, open::OR_CREATE).apply(m, 1, 1);
        let verdicts = Builder::new().append_if(1, 1, Some(0), 0, 1).append_if(1, 2, Some(0), 0, 1).apply(m, 2, 5);
        let refused = decided(0, 2, 1, Decision::TailMoved, 1, 5);
        assert_eq!(verdicts, [decided(0, 1, 1, Decision::Appended, 1, 5), refused]);
        // The retry asks for what has come true meanwhile: its first answer stands.
        assert_eq!(Builder::new().append_if(1, 2, Some(1), 0, 1).apply(m, 3, 6), [Verdict::Duplicate]);
        assert_eq!(
            Builder::new().append((7, 1), 3, &[b"plain"]).apply(m, 4, 7),
            [decided(0, 3, 1, Decision::Appended, 2, 7)]
        );
        let stored: Vec<_> = m.answers(7, 1, 3).map(|a| (a.first_seq, a.decision, a.value)).collect();
        let expected = [(1, Decision::Appended, 1), (2, Decision::TailMoved, 1), (3, Decision::Appended, 2)];
        assert_eq!(stored, expected);
        // A gap has no effect, whatever its condition says.
        assert_eq!(Builder::new().append_if(1, 5, Some(2), 0, 1).apply(m, 5, 8), [Verdict::Gap { expected: 4 }]);
    }

    #[test]
    fn a_snapshot_is_the_whole_state_and_nothing_else() {
        let mut machine = Sequencer::new();
        Builder::new().open(7, open::OR_CREATE).open(9, open::OR_CREATE).apply(&mut machine, 1, 100);
        Builder::new()
            .append((7, 1), 1, &[b"a", b"b"])
            .append_if(1, 3, Some(0), 7, 1)
            .append((9, 2), 1, &[b"c"])
            .apply(&mut machine, 2, 200);
        let mut bytes = Vec::new();
        machine.snapshot(&mut bytes);
        let mut rest = Rest(&bytes);
        let mut restored = Sequencer::restore(&mut rest).unwrap();
        assert_eq!(rest.end(), Ok(()));
        let mut again = Vec::new();
        restored.snapshot(&mut again);
        assert_eq!(bytes, again);
        // What comes next is decided alike: duplicates, the fence, the next number.
        let next = || {
            Builder::new().append((7, 1), 2, &[b"b"]).append_if(1, 4, None, 6, 1).open(5, open::OR_CREATE).append(
                (9, 2),
                2,
                &[b"d"],
            )
        };
        assert_eq!(next().apply(&mut machine, 3, 300), next().apply(&mut restored, 3, 300));
        assert_eq!(machine.answers(7, 1, 9).collect::<Vec<_>>(), restored.answers(7, 1, 9).collect::<Vec<_>>());
    }

    #[test]
    fn a_trim_gives_up_what_there_is_and_never_takes_it_back() {
        let mut machine = Sequencer::new();
        Builder::new().open(7, open::OR_CREATE).apply(&mut machine, 1, 100);
        Builder::new().append((7, 1), 1, &[b"a", b"b", b"c"]).apply(&mut machine, 2, 200);
        assert_eq!(machine.first(), Sequence(1));
        for (slot, before, first) in [(3, 2, 2), (4, 2, 2), (5, 1, 2), (6, 99, 4), (7, 3, 4)] {
            let verdicts = Builder::new().trim(before).apply(&mut machine, slot, 300);
            assert_eq!(verdicts, [Verdict::Trimmed { first: Sequence(first) }], "before {before}");
            assert_eq!((machine.first(), machine.tail()), (Sequence(first), Sequence(3)));
        }
        let mut bytes = Vec::new();
        machine.snapshot(&mut bytes);
        assert_eq!(Sequencer::restore(&mut Rest(&bytes)).unwrap().first(), Sequence(4));
        bytes[32..40].copy_from_slice(&5u64.to_le_bytes());
        let beyond = Malformed("it has trimmed entries that it does not have");
        assert_eq!(Sequencer::restore(&mut Rest(&bytes)).unwrap_err(), beyond);
    }

    #[test]
    fn a_snapshot_that_is_cut_or_senseless_is_refused() {
        let mut machine = Sequencer::new();
        Builder::new().open(7, open::OR_CREATE).open(9, open::OR_CREATE).apply(&mut machine, 1, 100);
        Builder::new().append((7, 1), 1, &[b"a"]).apply(&mut machine, 2, 200);
        let mut bytes = Vec::new();
        machine.snapshot(&mut bytes);
        for cut in 0..bytes.len() {
            assert!(Sequencer::restore(&mut Rest(&bytes[..cut])).is_err(), "cut to {cut}");
        }
        let mut many = bytes.clone();
        many[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            Sequencer::restore(&mut Rest(&many)).unwrap_err(),
            Malformed("it has more sessions than a table may")
        );
        let mut backwards = bytes.clone();
        backwards[48..64].fill(0xff);
        assert_eq!(Sequencer::restore(&mut Rest(&backwards)).unwrap_err(), Malformed("its sessions are not in order"));
    }

    #[test]
    fn a_token_below_the_highest_is_refused_and_counts_as_seen_though_the_tail_does_not_match() {
        let mut machine = Sequencer::new();
        let m = &mut machine;
        Builder::new().open(7, open::OR_CREATE).apply(m, 1, 1);
        assert_eq!(
            Builder::new().append_if(1, 1, None, 5, 2).apply(m, 2, 2),
            [decided(0, 1, 2, Decision::Appended, 1, 2)]
        );
        assert_eq!(
            Builder::new().append_if(1, 3, None, 4, 3).apply(m, 3, 3),
            [decided(0, 3, 3, Decision::Fenced, 5, 3)]
        );
        assert_eq!(
            Builder::new().append_if(1, 6, None, 5, 1).apply(m, 4, 4),
            [decided(0, 6, 1, Decision::Appended, 3, 4)]
        );
        assert_eq!(
            Builder::new().append_if(1, 7, Some(9), 8, 1).apply(m, 5, 5),
            [decided(0, 7, 1, Decision::TailMoved, 3, 5)]
        );
        assert_eq!((m.fence(), m.tail()), (8, Sequence(3)));
        assert_eq!(
            Builder::new().append_if(1, 8, Some(3), 7, 1).apply(m, 6, 6),
            [decided(0, 8, 1, Decision::Fenced, 8, 6)]
        );
        // Part of a refused run comes again: each entry is told the same.
        let again: Vec<_> = m.answers(7, 4, 2).map(|a| (a.first_seq, a.entries, a.decision, a.value)).collect();
        assert_eq!(again, [(4, 2, Decision::Fenced, 5)]);
        // Without a token an entry is not fenced.
        assert_eq!(
            Builder::new().append((7, 1), 9, &[b"plain"]).apply(m, 7, 7),
            [decided(0, 9, 1, Decision::Appended, 4, 7)]
        );
    }
}
