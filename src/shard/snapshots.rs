//! When a snapshot is due, and how fast it is made: the shard's part of `checkpoint.rs`. One job is out at a time, and the next
//! follows after a pause, so that reading the log and a pipeline's writes do not meet more often than is configured.

use super::board::Gauge;
use super::checkpoint::{CheckpointRequest, MAX_PIECE_BYTES, PIECE_BYTES, Progress};
use super::jobs::{Done, Job};
use super::{Fatal, IDLE_MARK_NS, Shard};
use synod_paxos::{Input, StateMark};
use synod_ring::Io;
use synod_wal::partial::Whole;
use synod_wal::{LogError, snapshot};
use synod_wire::client::Counter;
use synod_wire::{Sequence, Slot};

/// How snapshots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// One is due when the tail passes a multiple of this.
    pub every_entries: u64,
    /// How fast the log is read for it, and how fast it is written.
    pub max_bytes_per_s: u64,
    /// One is due when the log has grown by so much since the last was, too; `u64::MAX`: however much.
    pub every_bytes: u64,
}

impl SnapshotSettings {
    /// How fast to read when so much was not read yet: as evenly as it grows, in the long run, and not in bursts.
    fn bytes_per_s(self, unread_bytes: u64) -> u64 {
        (unread_bytes / BEHIND_S).max(MIN_BYTES_PER_S).min(self.max_bytes_per_s)
    }

    /// The pause after a piece that was written: all at once would stand in front of the pipeline's own writes.
    fn pause_ns(self) -> u64 {
        snapshot::PIECE_BYTES as u64 * 1_000_000_000 / self.max_bytes_per_s
    }
}

/// How far reading comes behind the log's end, seconds, if that grows no faster than it may be read.
const BEHIND_S: u64 = 2;
/// What little there is, is read so fast.
const MIN_BYTES_PER_S: u64 = 4 << 20;
/// After a failure, the next try is not made before this: what fails is logged each time.
const RETRY_NS: u64 = 10_000_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Snapshots {
    settings: SnapshotSettings,
    /// The tail at which the next is due.
    next_tail: Sequence,
    /// The last slot that made one due, and which is not begun.
    due: Option<Slot>,
    /// The slot that one is being made of.
    making: Option<Slot>,
    job_out: bool,
    next_ns: u64,
    /// When a piece was asked for last.
    asked_ns: u64,
    /// How far the log was read, as far as that is known.
    read_pos: u64,
    /// The next slot makes one due.
    wanted: bool,
    /// The log's end when one was due last.
    due_pos: u64,
}

impl Snapshots {
    pub(super) fn new(settings: SnapshotSettings, tail: Sequence) -> Snapshots {
        let mut snapshots = Snapshots {
            settings,
            next_tail: tail,
            due: None,
            making: None,
            job_out: false,
            next_ns: 0,
            asked_ns: 0,
            read_pos: 0,
            wanted: false,
            due_pos: 0,
        };
        snapshots.expect_after(tail);
        snapshots
    }

    /// They are made otherwise from now on.
    pub(super) fn set(&mut self, settings: SnapshotSettings, tail: Sequence) {
        self.settings = settings;
        self.expect_after(tail);
    }

    fn expect_after(&mut self, tail: Sequence) {
        let every = self.settings.every_entries;
        self.next_tail = Sequence((tail.0 / every + 1).saturating_mul(every));
    }

    /// `slot` was applied, the tail is this now, and its record ends here.
    pub(super) fn applied(&mut self, slot: Slot, tail: Sequence, end_pos: u64) {
        let grown = end_pos.saturating_sub(self.due_pos) >= self.settings.every_bytes;
        if tail >= self.next_tail || self.wanted || grown {
            self.due = Some(slot);
            self.wanted = false;
            self.due_pos = self.due_pos.max(end_pos);
            self.expect_after(tail);
        }
    }

    /// The log's front waits for one: the slot that is applied next makes it due, as other slots do too.
    pub(super) fn want(&mut self) {
        self.wanted = self.making.is_none() && self.due.is_none();
    }

    /// The slot to go on with.
    fn wants(&mut self, now_ns: u64) -> Option<Slot> {
        if self.job_out || now_ns < self.next_ns {
            return None;
        }
        if self.making.is_none() && self.due.is_some() {
            (self.making, self.asked_ns) = (self.due.take(), now_ns);
        }
        self.making
    }

    /// A piece is asked for; its bytes. They are counted from when the one before was: a thread that had to wait reads more at once.
    fn asked(&mut self, now_ns: u64, durable_pos: u64, hurried: bool) -> u64 {
        let bytes_per_s = u128::from(self.settings.bytes_per_s(durable_pos.saturating_sub(self.read_pos)));
        let since_ns = u128::from(now_ns.saturating_sub(self.asked_ns));
        let piece_bytes = (since_ns * bytes_per_s / 1_000_000_000).clamp(PIECE_BYTES.into(), MAX_PIECE_BYTES.into());
        let pause_ns = piece_bytes * 1_000_000_000 / bytes_per_s;
        (self.job_out, self.asked_ns) = (true, now_ns);
        if hurried {
            self.next_ns = now_ns;
            return MAX_PIECE_BYTES;
        }
        self.next_ns = now_ns + pause_ns as u64;
        piece_bytes as u64
    }

    /// There was no room for it: it is asked for again, hurried or not, when a piece's time has passed, and not in each turn.
    fn refused(&mut self, now_ns: u64) {
        self.job_out = false;
        self.next_ns = now_ns + PIECE_BYTES * 1_000_000_000 / self.settings.max_bytes_per_s;
    }

    /// When there is something to ask for.
    pub(super) fn next_ns(&self) -> u64 {
        let idle = self.job_out || (self.making.is_none() && self.due.is_none());
        if idle { u64::MAX } else { self.next_ns }
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Asks housekeeping for the next piece, when it is time.
    pub(super) fn make_snapshots(&mut self) {
        let now_ns = self.io.now_ns();
        let Some(slot) = self.snapshots.wants(now_ns).filter(|_| !self.recover_again) else { return };
        let (dir, held) = (self.settings.dir.clone(), self.offers.held(now_ns));
        let upto_pos = self.log.durable_pos();
        // The disk fills up while it is made.
        let hurried = self.retention.presses(self.front.bytes_upto(upto_pos));
        let piece_bytes = self.snapshots.asked(now_ns, upto_pos, hurried);
        let pause_ns = if hurried { 0 } else { self.snapshots.settings.pause_ns() };
        let request = CheckpointRequest { dir, slot, upto_pos, piece_bytes, pause_ns, held };
        if !self.ask(Job::Checkpoint(request)) {
            self.snapshots.refused(now_ns);
        }
    }

    pub(super) fn on_checkpoint(&mut self, result: Result<Progress, LogError>) -> Result<(), Fatal> {
        let now_ns = self.io.now_ns();
        let snapshots = &mut self.snapshots;
        snapshots.job_out = false;
        match result {
            Ok(Progress::Read(pos)) => snapshots.read_pos = pos,
            // What shows the rest chosen goes to disk with the next idle mark at the latest.
            Ok(Progress::Waits) => snapshots.next_ns = now_ns + 2 * IDLE_MARK_NS,
            Ok(Progress::Written(made)) => {
                (snapshots.making, snapshots.read_pos) = (None, made.read_pos);
                self.front.changed();
                self.counters.add(Counter::SnapshotsWritten, 1);
                self.settings.board.set(Gauge::SnapshotSlot, made.slot.0);
                self.settings.board.set(Gauge::SnapshotBytes, made.bytes);
                self.settings.board.set(Gauge::SnapshotNs, now_ns);
                self.offers.made(Whole { slot: made.slot, bytes: made.state_bytes, crc: made.state_crc }, now_ns);
                self.noted.snapshots.happens([made.slot.0, made.bytes, made.state_crc.into()]);
                // The state in memory may have come to its end: then the recovery that is about to come has other things to do.
                if !self.recover_again {
                    let mark = StateMark { slot: made.slot, crc: made.state_crc };
                    self.step(Input::Checkpoint(mark), None)?;
                }
            }
            Err(_) => {
                snapshots.next_ns = now_ns + RETRY_NS;
                self.counters.add(Counter::SnapshotsFailed, 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_as_evenly_as_it_grows_and_at_once_where_it_presses() {
        let settings = SnapshotSettings { every_entries: 10, max_bytes_per_s: 64 << 20, every_bytes: 1_000 };
        let mut snapshots = Snapshots::new(settings, Sequence(7));
        snapshots.applied(Slot(1), Sequence(10), 0);
        let second_ns = 1_000_000_000;
        assert_eq!(snapshots.wants(second_ns), Some(Slot(1)));
        // A piece of what lies 32 MiB behind: at 16 MiB a second.
        assert_eq!(snapshots.asked(second_ns, 32 << 20, false), PIECE_BYTES);
        assert_eq!(snapshots.next_ns, second_ns + second_ns / 64);
        // It came an eighth of a second late: so much more at once, and no more than may be.
        assert_eq!(snapshots.asked(second_ns + second_ns / 8, 32 << 20, false), MAX_PIECE_BYTES);
        assert_eq!(snapshots.next_ns, second_ns + second_ns / 4);
        // However much there is, and however little.
        (snapshots.asked_ns, snapshots.read_pos) = (2 * second_ns, 0);
        assert_eq!(snapshots.asked(2 * second_ns, 1 << 40, false), PIECE_BYTES);
        assert_eq!(snapshots.next_ns, 2 * second_ns + second_ns / 256);
        snapshots.read_pos = 1 << 40;
        assert_eq!(snapshots.asked(2 * second_ns, 1 << 40, false), PIECE_BYTES);
        assert_eq!(snapshots.next_ns, 2 * second_ns + second_ns / 16);
        assert_eq!(settings.pause_ns(), second_ns / 1_024, "written no faster than it is read");
        assert_eq!(snapshots.asked(3 * second_ns, 1 << 40, true), MAX_PIECE_BYTES);
        assert_eq!(snapshots.next_ns, 3 * second_ns, "the next follows at once");
        snapshots.refused(3 * second_ns);
        assert_eq!((snapshots.job_out, snapshots.next_ns), (false, 3 * second_ns + second_ns / 256));
    }

    #[test]
    fn the_last_slot_that_passed_a_multiple_is_taken_when_the_one_before_is_done() {
        let settings = SnapshotSettings { every_entries: 10, max_bytes_per_s: PIECE_BYTES, every_bytes: 1_000 };
        let mut snapshots = Snapshots::new(settings, Sequence(7));
        snapshots.applied(Slot(1), Sequence(9), 0);
        assert_eq!((snapshots.next_ns(), snapshots.wants(5)), (u64::MAX, None));
        snapshots.applied(Slot(2), Sequence(10), 0);
        assert_eq!(snapshots.wants(5), Some(Slot(2)));
        snapshots.job_out = true;
        snapshots.applied(Slot(3), Sequence(25), 0);
        snapshots.applied(Slot(4), Sequence(29), 0);
        snapshots.applied(Slot(5), Sequence(61), 0);
        assert_eq!((snapshots.next_ns(), snapshots.wants(5)), (u64::MAX, None));
        (snapshots.job_out, snapshots.making) = (false, None);
        assert_eq!(snapshots.wants(5), Some(Slot(5)));
        (snapshots.job_out, snapshots.making) = (false, None);
        snapshots.applied(Slot(6), Sequence(62), 999);
        assert_eq!(snapshots.next_ns(), u64::MAX);
        snapshots.applied(Slot(7), Sequence(63), 1_000);
        assert_eq!(snapshots.wants(5), Some(Slot(7)), "the log has grown by so much");
        (snapshots.job_out, snapshots.making) = (false, None);
        snapshots.applied(Slot(8), Sequence(64), 1_999);
        snapshots.want();
        assert_eq!(snapshots.next_ns(), u64::MAX);
        snapshots.applied(Slot(9), Sequence(64), 1_999);
        assert_eq!(snapshots.wants(5), Some(Slot(9)), "the log's front waits for one");
        (snapshots.job_out, snapshots.making) = (false, None);
        snapshots.set(SnapshotSettings { every_entries: 1_000, ..settings }, Sequence(64));
        snapshots.applied(Slot(10), Sequence(999), 1_999);
        assert_eq!(snapshots.next_ns(), u64::MAX, "they come seldomer now");
        snapshots.applied(Slot(11), Sequence(1_000), 1_999);
        assert_eq!(snapshots.wants(5), Some(Slot(11)));
    }
}
