//! The front of the log and its removal: what was trimmed leaves the disk as soon as no snapshot needs it. `jobs.rs` has the job,
//! the turn asks for it.
//!
//! | what must stay | why |
//! |---|---|
//! | from where a recovery from the *oldest* kept snapshot begins | the newest may turn out damaged |
//! | every record of a block of the index that holds an entry that was not trimmed, or a slot behind it | reads, lagging members |
//! | what a subscriber of this node was promised, for ten seconds (`streams.rs`) | it goes on past a trim |
//! | the segment of the durable position, and what is prepared behind it | the log goes on there |
//!
//! Housekeeping knows the snapshots, the shard the rest: it names the segment below which all may go, and is told what is left.
//! Only then does the index forget what is gone. A read that was under way meanwhile finds [`LogError::Trimmed`], which is no
//! error of the disk.

use super::Shard;
use super::checkpoint::KEPT_SNAPSHOTS;
use super::jobs::{Done, Job};
use std::collections::BTreeMap;
use synod_ring::Io;
use synod_wal::{Dir, Expect, LogError, LogReader, Removed, remove_front, snapshot};
use synod_wire::client::Counter;
use synod_wire::mutant::mutant;
use synod_wire::{NodeId, Sequence, Slot};

/// Remove the log's segments below one, as far as the kept snapshots allow it.
#[derive(Clone, Debug)]
pub struct FrontRequest {
    /// The group's directory.
    pub dir: Dir,
    /// Everything below this segment may go, as far as readers are concerned; at most that of the durable position.
    pub before_segment: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontRemoved {
    /// What was removed.
    pub removed: Removed,
    /// The first segment that is left.
    pub first_segment: u64,
}

/// Where recoveries from the snapshots of a directory begin, as far as they were looked up.
#[derive(Debug, Default)]
pub(super) struct Starts(BTreeMap<Slot, u64>);

impl Starts {
    /// The segment below which no recovery from a kept snapshot reads. One that cannot be read, and that not as many are there
    /// as are kept, forbids it all: there would be nothing to go back to.
    fn lowest(&mut self, dir: &Dir, expect: &Expect) -> Result<u64, LogError> {
        let slots = snapshot::list(dir)?;
        self.0.retain(|slot, _| slots.contains(slot));
        for slot in &slots {
            if !self.0.contains_key(slot) {
                let Some(segment) = start_of(dir, expect, *slot) else { return Ok(0) };
                self.0.insert(*slot, segment);
            }
        }
        let enough = self.0.len() >= KEPT_SNAPSHOTS;
        Ok(self.0.values().min().copied().filter(|_| enough).unwrap_or(0))
    }
}

/// Where a recovery from a snapshot begins; none if it cannot be read.
fn start_of(dir: &Dir, expect: &Expect, slot: Slot) -> Option<u64> {
    let read = snapshot::read(dir, expect, slot).map_err(|error| error.to_string()).and_then(|read| {
        let facts = synod_wire::snapshot::facts_of(&read.body);
        facts.map(|(facts, _)| facts.from_segment.get()).map_err(|error| error.to_string())
    });
    match read {
        Ok(segment) => Some(segment),
        Err(reason) => {
            tracing::warn!(
                dir = %dir.path().display(), slot = slot.0, reason,
                "a snapshot is of no use; the log's front stays until another takes its place"
            );
            None
        }
    }
}

/// Carries out a request, on the thread that makes snapshots.
pub(super) fn remove(request: &FrontRequest, starts: &mut Starts, expect: &Expect) -> Result<FrontRemoved, LogError> {
    let allowed = starts.lowest(&request.dir, expect)?;
    let allowed = if mutant("removal_ignores_snapshots") { u64::MAX } else { allowed };
    let removed = remove_front(&request.dir, request.before_segment.min(allowed))?;
    let first_segment = LogReader::open(&request.dir)?.first_segment();
    Ok(FrontRemoved { removed, first_segment })
}

/// What the shard knows of its log's front.
#[derive(Debug)]
pub(super) struct Front {
    /// The first segment that is there.
    first_segment: u64,
    segment_bytes: u64,
    /// What may be removed has changed since it was looked at last.
    changed: bool,
    job_out: bool,
    /// What was asked for last.
    asked_segment: u64,
}

impl Front {
    pub(super) fn new(first_segment: u64, segment_bytes: u64) -> Front {
        Front { first_segment, segment_bytes, changed: true, job_out: false, asked_segment: 0 }
    }

    /// A snapshot was written, or entries were trimmed: more may go now.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// Bytes of the log's files that are left, up to a position.
    pub(super) fn bytes_upto(&self, pos: u64) -> u64 {
        pos.saturating_sub(self.first_segment * self.segment_bytes)
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Asks for the removal of what nothing needs any more, when that has become more.
    pub(super) fn remove_front(&mut self) {
        if !self.front.changed || self.front.job_out || self.recover_again {
            return;
        }
        let before_segment = self.removable();
        if before_segment > self.front.first_segment {
            let request = FrontRequest { dir: self.settings.dir.clone(), before_segment };
            if !self.ask(Job::RemoveFront(request)) {
                return;
            }
            (self.front.job_out, self.front.asked_segment) = (true, before_segment);
        }
        self.front.changed = false;
    }

    /// The segment below which no entry or slot lies that is to be kept.
    fn removable(&self) -> u64 {
        let durable = self.log.durable_pos();
        let first = self.machine.first();
        if first == Sequence(1) {
            // A lagging member may need slots that hold no entry.
            return 0;
        }
        let first = self.first_streamed().map_or(first, |next| next.min(first));
        // What holds the first sequence is kept, and all behind it; where all is trimmed, the last block.
        let kept = self.index.block_of_sequence(first).unwrap_or(0);
        let lies_in = |pos: u64| pos / self.front.segment_bytes;
        if self.index.blocks(kept, 1).iter().all(|block| lies_in(block.start_pos) <= self.front.first_segment) {
            return 0;
        }
        let pos = self.index.lowest_pos(kept).map_or(0, |pos| pos.min(durable));
        lies_in(pos)
    }

    pub(super) fn on_front_removed(&mut self, result: Result<FrontRemoved, LogError>) {
        self.front.job_out = false;
        // After an error it is tried again with the next snapshot, or the next trim.
        let Ok(FrontRemoved { removed, first_segment }) = result else { return };
        self.front.first_segment = first_segment;
        if first_segment < self.front.asked_segment {
            self.snapshots.want();
        }
        let kept = self.index.first_slot_from(first_segment * self.front.segment_bytes);
        self.index.drop_front(kept);
        self.counters.add(Counter::SegmentsRemoved, removed.segments);
        if removed.segments > 0 {
            self.noted.fronts.happens([first_segment, self.index.first_slot().0, removed.bytes]);
            // The other thread's reader holds on to what was removed.
            self.ask(Job::CloseReader);
        }
    }

    /// A member lacks slots that lie below what is left of this node's log: no value can be sent to it, but a snapshot.
    pub(super) fn below_the_log(&mut self, to: NodeId) {
        self.counters.add(Counter::CatchUpTrimmed, 1);
        self.offer(to);
    }

    /// The first slot whose value is in the log, for inspection.
    pub fn first_slot(&self) -> Slot {
        self.index.first_slot()
    }
}
