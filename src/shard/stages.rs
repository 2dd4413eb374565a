//! Where the time of a commit goes on the leader: for each slot that it proposed, when it reached each stage. Always on:
//! histograms in the status reply, and receipts for the appends that ask for one. Pure; called by the turn.
//!
//! | stage | when |
//! |---|---|
//! | received | the turn's clock, read when the client's datagram was reaped; all others count from here |
//! | sequenced | the batch is sealed |
//! | written | its log write is submitted |
//! | durable | the turn's clock when the write's end was reaped |
//! | quorum | the turn's clock when it was delivered: this slot and all below it are chosen |
//! | replied | the acknowledgements are handed to the reactor |
//!
//! Reaped events have the time of their turn. Sequenced, written and replied lie within a turn, so each needs a reading of
//! its own ([`Io::stage_ns`](synod_ring::Io::stage_ns)): one a batch, one a turn that writes, one a turn that answers.
//! Durable and quorum are not in order: a commit may need others' disks alone. A slot is counted when it has come through all.

use super::board::Board;
use super::failslow::Pace;
use super::histogram::Histogram;
use super::meters::Meter;
use std::collections::VecDeque;
use std::sync::Arc;
use synod_wire::client::{Receipt, Stage, StageRow};
use synod_wire::{Lsn, Slot};
use zerocopy::little_endian::{U32, U64};

/// Runs of a batch that may ask for a receipt.
pub(super) const MAX_RECEIPT_RUNS: u16 = u64::BITS as u16;

/// One slot's times, nanoseconds of the monotonic clock; 0: not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    slot: Slot,
    lsn: Lsn,
    received_ns: u64,
    /// In the order of [`Stage`].
    at_ns: [u64; Stage::ALL.len()],
    /// Bit i: the batch's i-th run asked for a receipt.
    receipts: u64,
}

impl Timeline {
    /// Whether the run with this index asked.
    pub(super) fn asked(&self, run: usize) -> bool {
        run < usize::from(MAX_RECEIPT_RUNS) && self.receipts & (1 << run) != 0
    }

    /// How long ago it was received.
    pub(super) fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.received_ns)
    }

    /// What its client is told, when the answer leaves at `replied_ns`.
    pub(super) fn receipt(&self, first_seq: u64, entries: u64, replied_ns: u64) -> Receipt {
        let since = |at_ns: u64| match at_ns {
            0 => U64::new(Receipt::NOT_YET),
            at_ns => U64::new(at_ns.saturating_sub(self.received_ns)),
        };
        let mut stages = self.at_ns.map(since);
        stages[Stage::Replied as usize] = since(replied_ns);
        Receipt { first_seq: U64::new(first_seq), entries: U32::new(entries as u32), reserved: U32::ZERO, stages }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stages {
    /// This leader's proposals in the order of their slots, which is that of their Lsns too.
    open: VecDeque<Timeline>,
    /// How many at the front have been written, are durable, delivered, answered.
    written: usize,
    durable: usize,
    delivered: usize,
    replied: usize,
    board: Arc<Board>,
    pace: Pace,
}

/// Bytes of the histograms of one group.
pub const HISTOGRAM_BYTES: usize = (Stage::ALL.len() + Meter::ALL.len()) * Histogram::BYTES;
/// Bytes of one open slot.
pub const TIMELINE_BYTES: usize = size_of::<Timeline>();

impl Stages {
    /// With room for `slots` slots on their way.
    pub(super) fn new(slots: usize, board: Arc<Board>) -> Stages {
        let (written, durable, delivered, replied) = (0, 0, 0, 0);
        let open = VecDeque::with_capacity(slots.max(1));
        Stages { open, written, durable, delivered, replied, board, pace: Pace::default() }
    }

    /// This node leads no longer.
    pub(super) fn clear(&mut self) {
        self.open.clear();
        self.pace = Pace::default();
        (self.written, self.durable, self.delivered, self.replied) = (0, 0, 0, 0);
    }

    /// A batch was sealed, whose datagrams were reaped at `received_ns`.
    pub(super) fn sequenced(&mut self, slot: Slot, lsn: Lsn, received_ns: u64, now_ns: u64, receipts: u64) {
        if self.open.len() == self.open.capacity() {
            self.give_up_oldest(now_ns);
        }
        let mut at_ns = [0; Stage::ALL.len()];
        at_ns[Stage::Sequenced as usize] = now_ns;
        self.open.push_back(Timeline { slot, lsn, received_ns, at_ns, receipts });
    }

    /// The oldest is followed no longer. If it was answered, and waits for this node's disk alone, it counts with the time so
    /// far: a stall shows in the histograms.
    fn give_up_oldest(&mut self, now_ns: u64) {
        if self.replied > 0 {
            self.written = self.written.max(1);
            self.durable = self.durable.max(1);
            let stall = &mut self.open[0].at_ns;
            for stage in [Stage::Written, Stage::Durable] {
                if stall[stage as usize] == 0 {
                    stall[stage as usize] = now_ns;
                }
            }
            return self.count_done();
        }
        self.open.pop_front();
        for reached in [&mut self.written, &mut self.durable, &mut self.delivered, &mut self.replied] {
            *reached = reached.saturating_sub(1);
        }
    }

    /// Whether a log write up to `submitted` is news.
    pub(super) fn awaits_write(&self, submitted: Lsn) -> bool {
        self.open.get(self.written).is_some_and(|next| next.lsn <= submitted)
    }

    /// The log writes up to `submitted` are submitted.
    pub(super) fn written(&mut self, submitted: Lsn, now_ns: u64) {
        while self.awaits_write(submitted) {
            self.reach(self.written, Stage::Written, now_ns);
            self.written += 1;
        }
    }

    /// The log is durable up to `durable`.
    pub(super) fn durable(&mut self, durable: Lsn, now_ns: u64) {
        // The end of a write can only follow its submission; nothing is durable that was not written.
        self.written(durable, now_ns);
        while self.open.get(self.durable).is_some_and(|next| next.lsn <= durable) {
            self.reach(self.durable, Stage::Durable, now_ns);
            self.durable += 1;
        }
        self.count_done();
    }

    /// `slot` is delivered. Its times, if this leader proposed it.
    pub(super) fn delivered(&mut self, slot: Slot, now_ns: u64) -> Option<Timeline> {
        // Slots that this leader did not propose lie between those it did only if it does not lead any more.
        if self.open.get(self.delivered).is_none_or(|next| next.slot != slot) {
            return None;
        }
        let at = self.delivered;
        self.reach(at, Stage::Quorum, now_ns);
        self.delivered += 1;
        Some(self.open[at])
    }

    /// Whether a slot was delivered that is not answered.
    pub(super) fn awaits_reply(&self) -> bool {
        self.replied < self.delivered
    }

    /// The answers for what was delivered are handed on.
    pub(super) fn replied(&mut self, now_ns: u64) {
        while self.awaits_reply() {
            self.reach(self.replied, Stage::Replied, now_ns);
            self.replied += 1;
        }
        self.count_done();
    }

    /// How fast slots came through since this was asked last.
    pub(super) fn take_pace(&mut self) -> Pace {
        std::mem::take(&mut self.pace)
    }

    /// How long the oldest slot that a quorum has chosen waits for this node's disk; 0: none does.
    pub(super) fn waits_for_own_disk_ns(&self, now_ns: u64) -> u64 {
        let waiting = self.open.get(self.durable).filter(|_| self.delivered > self.durable);
        waiting.map_or(0, |slot| now_ns.saturating_sub(slot.at_ns[Stage::Sequenced as usize]))
    }

    /// Slots on their way.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// When the oldest slot that is not chosen was received.
    pub(super) fn oldest_open_ns(&self) -> Option<u64> {
        self.open.get(self.delivered).map(|timeline| timeline.received_ns)
    }

    /// What the status reply says, in the order of [`Stage`].
    pub(super) fn rows(&self) -> [StageRow; Stage::ALL.len()] {
        let saturated = |value: u64| U32::new(u32::try_from(value).unwrap_or(u32::MAX));
        Stage::ALL.map(|stage| {
            let histogram = self.board.stage(stage);
            let count = histogram.count();
            let [p50_ns, p99_ns] = histogram.quantiles(count, [500, 990]).map(saturated);
            StageRow { count: U64::new(count), p50_ns, p99_ns, max_us: saturated(histogram.max() / 1_000) }
        })
    }

    fn reach(&mut self, index: usize, stage: Stage, now_ns: u64) {
        let timeline = &mut self.open[index];
        // A turn's clock is older than a reading taken within the turn.
        timeline.at_ns[stage as usize] = now_ns.max(timeline.at_ns[Stage::Sequenced as usize]);
    }

    /// Slots that have come through all stages go into the histograms.
    fn count_done(&mut self) {
        let done = self.durable.min(self.replied);
        for _ in 0..done {
            let Some(timeline) = self.open.pop_front() else { break };
            for (stage, at_ns) in Stage::ALL.into_iter().zip(timeline.at_ns) {
                self.board.stage(stage).record(at_ns.saturating_sub(timeline.received_ns));
            }
            let since_sealed =
                |stage: Stage| timeline.at_ns[stage as usize].saturating_sub(timeline.at_ns[Stage::Sequenced as usize]);
            self.pace.add(since_sealed(Stage::Durable), since_sealed(Stage::Quorum));
        }
        for reached in [&mut self.written, &mut self.durable, &mut self.delivered, &mut self.replied] {
            *reached -= done;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slot n under Lsn 10 n, received at 1,000 n and sealed 5 later.
    fn sealed(stages: &mut Stages, n: u64, receipts: u64) {
        stages.sequenced(Slot(n), Lsn(10 * n), 1_000 * n, 1_000 * n + 5, receipts);
    }

    fn counts(stages: &Stages) -> Vec<u64> {
        stages.rows().iter().map(|row| row.count.get()).collect()
    }

    #[test]
    fn every_stage_of_every_slot_is_counted_once_whichever_comes_first() {
        let mut stages = Stages::new(8, Arc::default());
        for n in 1..=3 {
            sealed(&mut stages, n, 0);
        }
        assert!(!stages.awaits_write(Lsn(9)) && stages.awaits_write(Lsn(10)));
        stages.written(Lsn(25), 4_000);
        stages.durable(Lsn(15), 4_100);
        assert_eq!(stages.oldest_open_ns(), Some(1_000));
        // The others' disks were faster for slot 2.
        for slot in 1..=2 {
            assert!(stages.delivered(Slot(slot), 4_200).is_some());
        }
        assert!(stages.awaits_reply());
        stages.replied(4_300);
        assert!(!stages.awaits_reply());
        assert_eq!((stages.open.len(), stages.oldest_open_ns()), (2, Some(3_000)), "slot 2 waits for the disk here");
        assert_eq!(counts(&stages), [1; 5], "slot 1 is through");
        stages.written(Lsn(30), 4_400);
        stages.durable(Lsn(30), 4_500);
        assert!(stages.delivered(Slot(3), 4_600).is_some());
        stages.replied(4_700);
        assert_eq!((counts(&stages), stages.open.len()), (vec![3; 5], 0));
    }

    #[test]
    fn a_receipt_has_the_times_since_the_datagram_came_and_says_what_has_not_happened() {
        let mut stages = Stages::new(8, Arc::default());
        sealed(&mut stages, 1, 0b10);
        stages.written(Lsn(10), 1_020);
        let timeline = stages.delivered(Slot(1), 1_300).unwrap();
        assert!(timeline.asked(1) && !timeline.asked(0) && !timeline.asked(64) && !timeline.asked(1_000));
        let receipt = timeline.receipt(7, 3, 1_400);
        assert_eq!((receipt.first_seq.get(), receipt.entries.get()), (7, 3));
        assert_eq!(receipt.stages.map(U64::get), [5, 20, Receipt::NOT_YET, 300, 400]);
    }

    #[test]
    fn a_turns_older_clock_never_makes_a_stage_earlier_than_the_seal() {
        let mut stages = Stages::new(8, Arc::default());
        sealed(&mut stages, 1, 0);
        let timeline = stages.delivered(Slot(1), 1_000).unwrap();
        assert_eq!(timeline.receipt(1, 1, 1_010).stages[Stage::Quorum as usize].get(), 5);
    }

    #[test]
    fn what_the_disk_holds_up_longer_than_the_table_lasts_still_shows() {
        let mut stages = Stages::new(2, Arc::default());
        let room = stages.open.capacity() as u64;
        for n in 1..=room + 1 {
            sealed(&mut stages, n, 0);
            assert!(stages.delivered(Slot(n), 1_000 * n + 10).is_some());
            stages.replied(1_000 * n + 20);
        }
        assert_eq!(stages.open.len() as u64, room);
        let durable = stages.rows()[Stage::Durable as usize];
        assert_eq!(
            (durable.count.get(), u64::from(durable.p50_ns.get()) / 1_000),
            (1, room),
            "since slot 1 was received"
        );
        stages.durable(Lsn(10 * (room + 1)), 99_000);
        assert_eq!((counts(&stages), stages.open.len()), (vec![room + 1; 5], 0));
    }

    #[test]
    fn what_this_leader_did_not_propose_has_no_times() {
        let mut stages = Stages::new(8, Arc::default());
        assert_eq!(stages.delivered(Slot(1), 5), None);
        sealed(&mut stages, 4, 0);
        assert_eq!(stages.delivered(Slot(3), 4_100), None, "adopted from an older ballot, below it");
        stages.clear();
        assert_eq!(stages.delivered(Slot(4), 4_200), None);
        assert_eq!(counts(&stages), [0; 5]);
    }
}
