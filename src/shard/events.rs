//! What happened at a shard that is worth a line in its log: changes of mode and role, elections, slow syncs, members and subscribers that are
//! dropped, overruns, changes of the members, stalls, snapshots, what housekeeping could not do. The pipeline's core stores each as a [`Record`] of eight words in a ring in memory,
//! without a system call or an allocation; another thread ([`crate::events`]) follows the ring, logs a line and keeps the record
//! in a file that outlives the process.
//!
//! No line leaves a core in another way. What has a text, an error of the disk, its thread of housekeeping logs, which has it in hand
//! (`jobs.rs`); the core notes what failed, and the number of the error.
//!
//! One thread writes, any reads. A record that is overwritten while it is read is told from a whole one by the count of records,
//! as with a sequence lock.

use super::Shard;
use super::board::role_number;
use super::jobs::{Done, FAILURES, Failure, Job};
use super::mode::cause;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use synod_paxos::{Halt, Reason, Role};
use synod_ring::Io;

/// Records that a ring holds: far more than happen between two looks of who follows it.
pub const RING_RECORDS: usize = 256;
/// Figures of a record.
pub const FIGURES: usize = 4;
/// Why roles change. The places are part of the format: new ones come behind.
pub const ROLE_REASONS: [(Reason, &str); 9] = [
    (Reason::Joined, "enough peers answered after the start"),
    (Reason::ElectionTimeout, "no word of a leader in time"),
    (Reason::HandedOver, "the leader handed over"),
    (Reason::HigherBallot, "a higher ballot"),
    (Reason::Elected, "a quorum promised"),
    (Reason::BarrierChosen, "all that was found is chosen"),
    (Reason::QuorumLost, "too few members answer"),
    (Reason::Reconfigured, "the members changed"),
    (Reason::Halted, "halted"),
];
/// What may happen many times a second (stalls, slow syncs, overruns) is noted once in so long, with how often it was.
const OFTEN_NS: u64 = 1_000_000_000;
/// What may go on for days (snapshots, removals of the front, a disk that is full) is noted once in so long: a file that holds the last
/// thousand records is to reach back hours.
const SELDOM_NS: u64 = 60_000_000_000;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What happened. Figures are in the order in which they are listed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum EventKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl EventKind {
            /// Every one.
            pub const ALL: &[EventKind] = &[$(EventKind::$name,)*];
        }
    };
}

kinds! {
    /// The shard came to be. Slot applied, last sequence.
    Started = 1,
    /// It ended in order. Slot applied, last sequence.
    Stopped = 2,
    /// The mode changed; from, to, reason ([`synod_wire::mode`]). Ballot (packed), slot applied.
    Mode = 3,
    /// The node stands for election; to: its role, reason: its place in [`ROLE_REASONS`]. Ballot (packed), slot chosen.
    Election = 4,
    /// Another change of role; to: the role, reason: its place in [`ROLE_REASONS`]. Ballot (packed), slot chosen.
    Role = 5,
    /// A log write was slow. Nanoseconds of the slowest, bytes of it, its records, how many were slow since the last such record.
    SlowSync = 6,
    /// A log write hangs (to 1), or moves again (to 0). Nanoseconds that count as hung.
    DiskHung = 7,
    /// A subscriber was dropped; reason: [`synod_wire::stream::StreamEnd`]. Its address (IPv4) and port, its next sequence.
    SubscriberDropped = 8,
    /// A member is silent (to 1) or heard again (to 0); from: the member. Nanoseconds of silence.
    PeerSilent = 9,
    /// Receive buffers ran out. Times since the last such record.
    Overrun = 10,
    /// A configuration governs. Epoch, voters and members as sets of nodes.
    Configuration = 11,
    /// A change of the members was asked for; from: the node, to: 1 add, 2 promote, 3 remove, reason: [`synod_wire::members::outcome`]. Epoch.
    ChangeAsked = 12,
    /// A turn stalled. Nanoseconds of the longest, how many stalled since the last such record.
    Stall = 13,
    /// The leader hands over as its disk is slow; to: whom. Nanoseconds of its log and of the others' quorum.
    YieldedDisk = 14,
    /// A hand-over ended; reason: [`synod_wire::transfer::TransferOutcome`]. Ballot (packed), the leader's number and 1.
    HandedOver = 15,
    /// The node votes no longer; reason: [`synod_wire::mode::ModeReason`], from: the peer that knows. Slot applied; what that peer counted
    /// and the last Lsn here, or the epoch, or a slot, this state's checksum and the others', and the set of them.
    Halted = 16,
    /// Damage was repaired: no vote is unknown.
    Repaired = 17,
    /// The leader hands over to a member that comes before it in `leader_priority`; to: whom.
    Preferred = 18,
    /// A snapshot was written. Slot, bytes and checksum of the state of the newest, how many were since the last such record.
    SnapshotWritten = 19,
    /// The log's front was removed. First segment and slot that are left, bytes that went last, how often since the last such record.
    FrontRemoved = 20,
    /// A snapshot is fetched; from: the member. Slot, bytes, bytes that are there of an earlier life.
    SnapshotFetched = 21,
    /// A member's snapshot is installed. Slot, bytes.
    SnapshotInstalled = 22,
    /// Housekeeping failed; to: its place in [`FAILURES`]. The system's number of the error, slot, how often since the last such record.
    JobFailed = 23,
    /// A value that a member asks for cannot be read. Slot, the system's number of the error, how often since the last such record.
    Unreadable = 24,
}

/// One thing that happened. `from`, `to` and `reason` mean what the kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970, by the node's wall clock.
    pub wall_ns: u64,
    /// Nanoseconds of its monotonic clock.
    pub monotonic_ns: u64,
    /// What: [`EventKind`], or a later version's.
    pub kind: u8,
    /// From what.
    pub from: u8,
    /// To what.
    pub to: u8,
    /// Why.
    pub reason: u8,
    /// See the kind.
    pub figures: [u64; FIGURES],
}

/// Words of a record.
pub(crate) const WORDS: usize = 3 + FIGURES;

impl Record {
    pub(crate) fn words(&self) -> [u64; WORDS] {
        let small = u64::from_le_bytes([self.kind, self.from, self.to, self.reason, 0, 0, 0, 0]);
        let [a, b, c, d] = self.figures;
        [self.wall_ns, self.monotonic_ns, small, a, b, c, d]
    }

    pub(crate) fn of_words([wall_ns, monotonic_ns, small, figures @ ..]: [u64; WORDS]) -> Record {
        let [kind, from, to, reason, ..] = small.to_le_bytes();
        Record { wall_ns, monotonic_ns, kind, from, to, reason, figures }
    }
}

/// See the module.
#[derive(Debug)]
pub struct EventRing {
    /// Records written so far: number n lies at n modulo the length.
    written: AtomicU64,
    slots: Box<[[AtomicU64; WORDS]]>,
}

impl Default for EventRing {
    fn default() -> EventRing {
        let slots = (0..RING_RECORDS).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect();
        EventRing { written: AtomicU64::new(0), slots }
    }
}

impl EventRing {
    /// Records that were ever written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Record number `at`, if it was written and is not overwritten.
    pub fn get(&self, at: u64) -> Option<Record> {
        if at >= self.written() {
            return None;
        }
        let words = std::array::from_fn(|word| self.slots[at as usize % RING_RECORDS][word].load(Ordering::Relaxed));
        // If a word of a later record was read, that record's number is seen to be taken.
        fence(Ordering::Acquire);
        let overwritten = self.written.load(Ordering::Relaxed) >= at + RING_RECORDS as u64;
        (!overwritten).then(|| Record::of_words(words))
    }

    /// By the only writer.
    pub(super) fn push(&self, record: &Record) {
        let at = self.written.load(Ordering::Relaxed);
        // The count is out before the words change.
        fence(Ordering::Release);
        for (cell, word) in self.slots[at as usize % RING_RECORDS].iter().zip(record.words()) {
            cell.store(word, Ordering::Relaxed);
        }
        self.written.store(at + 1, Ordering::Release);
    }
}

/// What may happen often: the worst, or the latest, of it since it was noted last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Often {
    next_ns: u64,
    count: u64,
    worst: [u64; 3],
}

impl Often {
    /// It happened; `figures` begin with how bad it was, or with what grows.
    pub(super) fn happens(&mut self, figures: [u64; 3]) {
        self.count += 1;
        self.worst = self.worst.max(figures);
    }

    /// The worst and how many there were, if there were any and it is time to note them; the next not before this pause.
    fn due(&mut self, now_ns: u64, pause_ns: u64) -> Option<([u64; 3], u64)> {
        if self.count == 0 || now_ns < self.next_ns {
            return None;
        }
        let told = (self.worst, self.count);
        *self = Often { next_ns: now_ns + pause_ns, ..Often::default() };
        Some(told)
    }
}

/// What a shard remembers for its events.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) slow_syncs: Often,
    pub(super) stalls: Often,
    pub(super) overruns: Often,
    pub(super) snapshots: Often,
    pub(super) fronts: Often,
    pub(super) unreadable: Often,
    /// As [`FAILURES`].
    failures: [Often; FAILURES.len()],
    /// Members that are silent, as a set.
    silent: u64,
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Notes what happened.
    pub(super) fn note(&self, kind: EventKind, (from, to, reason): (u8, u8, u8), figures: [u64; FIGURES]) {
        let (wall_ns, monotonic_ns) = (self.io.wall_ns(), self.io.now_ns());
        let record = Record { wall_ns, monotonic_ns, kind: kind as u8, from, to, reason, figures };
        self.settings.board.events().push(&record);
    }

    /// The core came to another role.
    pub(super) fn note_role(&self, role: Role, reason: Reason) {
        let kind = if role == Role::Candidate { EventKind::Election } else { EventKind::Role };
        let place = ROLE_REASONS.iter().position(|(one, _)| *one == reason).unwrap_or(usize::from(u8::MAX));
        let figures = [self.core.promised().pack(), self.core.prefix().0, 0, 0];
        self.note(kind, (0, role_number(role), place as u8), figures);
    }

    /// The shard begins, or ends in order.
    pub(super) fn note_life(&self, kind: EventKind) {
        self.note(kind, (0, 0, 0), [self.slots.applied().0, self.machine.tail().0, 0, 0]);
    }

    /// The core votes no longer: the figures are all that its line tells.
    pub(super) fn note_halt(&self, halt: Halt) {
        let (peer, [a, b, c]) = match halt {
            Halt::Behind { peer, counted, durable } => (peer.0, [counted.0, durable.0, 0]),
            Halt::FormattedAnew { peer } => (peer.0, [0; 3]),
            Halt::Removed { epoch } => (0, [epoch.0.into(), 0, 0]),
            Halt::Diverged { slot, mine, theirs, agree } => {
                (0, [slot.0, u64::from(mine) << 32 | u64::from(theirs), agree.0])
            }
            Halt::Ordered | Halt::BeyondRepair => (0, [0; 3]),
        };
        self.note(EventKind::Halted, (peer, 0, cause(halt) as u8), [self.slots.applied().0, a, b, c]);
    }

    /// Housekeeping answered: it has logged what it could not do.
    pub(super) fn note_failure(&mut self, done: &Done) {
        if let Some(Failure { what, slot, errno, .. }) = done.failure() {
            self.noted.failures[what as usize].happens([errno, slot.0, 0]);
        }
    }

    /// What happens often, and who is silent. Run when the board is written.
    pub(super) fn note_often(&mut self) {
        let now_ns = self.io.now_ns();
        if let Some(([took_ns, bytes, records], count)) = self.noted.slow_syncs.due(now_ns, OFTEN_NS) {
            self.note(EventKind::SlowSync, (0, 0, 0), [took_ns, bytes, records, count]);
        }
        if let Some(([took_ns, ..], count)) = self.noted.stalls.due(now_ns, OFTEN_NS) {
            self.note(EventKind::Stall, (0, 0, 0), [took_ns, count, 0, 0]);
        }
        if let Some((_, count)) = self.noted.overruns.due(now_ns, OFTEN_NS) {
            self.note(EventKind::Overrun, (0, 0, 0), [count, 0, 0, 0]);
        }
        if let Some(([slot, errno, _], count)) = self.noted.unreadable.due(now_ns, OFTEN_NS) {
            self.note(EventKind::Unreadable, (0, 0, 0), [slot, errno, count, 0]);
        }
        self.note_seldom(now_ns);
        self.note_silent(now_ns);
    }

    fn note_seldom(&mut self, now_ns: u64) {
        if let Some(([slot, bytes, crc], count)) = self.noted.snapshots.due(now_ns, SELDOM_NS) {
            self.note(EventKind::SnapshotWritten, (0, 0, 0), [slot, bytes, crc, count]);
        }
        if let Some(([segment, slot, bytes], count)) = self.noted.fronts.due(now_ns, SELDOM_NS) {
            self.note(EventKind::FrontRemoved, (0, 0, 0), [segment, slot, bytes, count]);
        }
        for place in 0..FAILURES.len() {
            if let Some(([errno, slot, _], count)) = self.noted.failures[place].due(now_ns, SELDOM_NS) {
                self.note(EventKind::JobFailed, (0, place as u8, 0), [errno, slot, count, 0]);
            }
        }
    }

    /// A leader drops who is not heard for longer than the longest election time-out: it waits for that member no more.
    fn note_silent(&mut self, now_ns: u64) {
        if !self.core.leads() {
            self.noted.silent = 0;
            return;
        }
        let others = self.core.configuration().nodes().iter().filter(|node| *node != self.settings.me);
        for member in others {
            let silent_ns = now_ns.saturating_sub(self.core.heard_ns(member).unwrap_or(self.started_ns));
            let (is, bit) = (silent_ns > self.core.election_max_ns(), 1 << member.0);
            let was = self.noted.silent & bit != 0;
            if is != was {
                self.noted.silent ^= bit;
                self.note(EventKind::PeerSilent, (member.0, is.into(), 0), [silent_ns, 0, 0, 0]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        let kind = EventKind::Stall as u8;
        Record { wall_ns: number, monotonic_ns: 2, kind, from: 3, to: 4, reason: 5, figures: [number, 7, 8, u64::MAX] }
    }

    #[test]
    fn the_last_records_are_there_and_what_is_overwritten_is_not() {
        let ring = EventRing::default();
        assert_eq!(ring.get(0), None);
        for number in 0..RING_RECORDS as u64 + 10 {
            ring.push(&record(number));
        }
        assert_eq!((ring.written(), ring.get(10)), (RING_RECORDS as u64 + 10, None), "its place is the next one's");
        assert_eq!((ring.get(11), ring.get(9)), (Some(record(11)), None));
        assert_eq!(ring.get(RING_RECORDS as u64 + 9), Some(record(RING_RECORDS as u64 + 9)));
    }

    #[test]
    fn who_reads_beside_the_writer_sees_whole_records() {
        let ring = EventRing::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000).for_each(|number| ring.push(&record(number))));
            let mut seen = 0;
            while seen < 199_999 {
                let Some(last) = ring.written().checked_sub(1) else { continue };
                if let Some(read) = ring.get(last) {
                    assert_eq!(read, record(last));
                }
                seen = last;
            }
        });
    }

    #[test]
    fn what_happens_often_is_noted_once_in_a_while_with_the_worst_and_the_count() {
        let mut often = Often::default();
        assert_eq!(often.due(5, OFTEN_NS), None);
        often.happens([7, 1, 1]);
        assert_eq!(often.due(5, OFTEN_NS), Some(([7, 1, 1], 1)));
        often.happens([3, 2, 2]);
        often.happens([9, 0, 0]);
        assert_eq!(often.due(5 + OFTEN_NS - 1, OFTEN_NS), None);
        assert_eq!(often.due(5 + OFTEN_NS, OFTEN_NS), Some(([9, 0, 0], 2)));
    }
}
