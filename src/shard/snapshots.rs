//! When a snapshot is due, and how fast it is made: the shard's part of `checkpoint.rs`. One job is out at a time, and the next
//! follows after a pause, so that reading the log and a pipeline's writes do not meet more often than is configured.

use super::board::Gauge;
use super::checkpoint::{CheckpointRequest, PIECE_BYTES, Progress};
use super::jobs::{Done, Job};
use super::{Fatal, IDLE_MARK_NS, Shard};
use synod_paxos::{Input, StateMark};
use synod_ring::Io;
use synod_wal::LogError;
use synod_wal::partial::Whole;
use synod_wire::client::Counter;
use synod_wire::{Sequence, Slot};

/// How snapshots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// One is due when the tail passes a multiple of this.
    pub every_entries: u64,
    /// How fast the log is read for it.
    pub max_bytes_per_s: u64,
    /// One is due when the log has grown by so much since the last was, too; `u64::MAX`: however much.
    pub every_bytes: u64,
}

impl SnapshotSettings {
    fn pause_ns(self) -> u64 {
        PIECE_BYTES * 1_000_000_000 / self.max_bytes_per_s
    }
}

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
        self.making = self.making.or_else(|| self.due.take());
        self.making
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
        let request = CheckpointRequest { dir, slot, upto_pos: self.log.durable_pos(), held };
        if self.ask(Job::Checkpoint(request)) {
            self.snapshots.job_out = true;
        } else {
            self.snapshots.next_ns = now_ns + self.snapshots.settings.pause_ns();
        }
    }

    pub(super) fn on_checkpoint(&mut self, result: Result<Progress, LogError>) -> Result<(), Fatal> {
        let now_ns = self.io.now_ns();
        let presses = self.retention.presses(self.front.bytes_upto(self.log.durable_pos()));
        let snapshots = &mut self.snapshots;
        snapshots.job_out = false;
        snapshots.next_ns = now_ns + snapshots.settings.pause_ns();
        match result {
            // The disk fills up while it is made.
            Ok(Progress::Read) if presses => snapshots.next_ns = now_ns,
            Ok(Progress::Read) => {}
            // What shows the rest chosen goes to disk with the next idle mark at the latest.
            Ok(Progress::Waits) => snapshots.next_ns = now_ns + 2 * IDLE_MARK_NS,
            Ok(Progress::Written(made)) => {
                snapshots.making = None;
                self.front.changed();
                self.counters.add(Counter::SnapshotsWritten, 1);
                self.settings.board.set(Gauge::SnapshotSlot, made.slot.0);
                self.settings.board.set(Gauge::SnapshotBytes, made.bytes);
                self.settings.board.set(Gauge::SnapshotNs, now_ns);
                self.offers.made(Whole { slot: made.slot, bytes: made.state_bytes, crc: made.state_crc });
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
