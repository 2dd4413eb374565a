//! Where the log holds what was applied: one entry for each [`BLOCK_SLOTS`] slots, and the runs that had no effect.
//!
//! A reader that wants sequence s looks up the block that holds it, takes the last record of each slot between the
//! block's log positions, and walks its batches with [`Walker`], which needs no session table: only the runs listed as
//! exceptions (duplicates, gaps, refused conditions) differ from "every entry is sequenced".
//!
//! An index may begin behind a slot: where the log's front was removed, and where a node began with another's snapshot. What
//! lies below is [`Lacks::Trimmed`].

use crate::sequencer::Verdict;
use synod_wire::batch::Batch;
use synod_wire::snapshot::{BlockRow, ExceptionRow, Malformed};
use synod_wire::{Sequence, Slot};

/// Slots in one block of the index.
pub const BLOCK_SLOTS: u64 = 64;

/// Blocks that there is room for before it must grow: 4 million slots.
pub const SPARE_BLOCKS: usize = 1 << 16;

/// Some consecutive slots, starting at a multiple of [`BLOCK_SLOTS`] plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first slot.
    pub first_slot: Slot,
    /// The last slot applied so far.
    pub last_slot: Slot,
    /// The tail before the first slot.
    pub tail_before: Sequence,
    /// The timestamp before the first slot.
    pub timestamp_before_ns: u64,
    /// The lowest log position of a record of these slots.
    pub start_pos: u64,
    /// The end of the highest.
    pub end_pos: u64,
}

/// A run of which not every entry was sequenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its slot.
    pub slot: Slot,
    /// Its place in the batch.
    pub run: u32,
    /// Entries at its front without a sequence from this run.
    pub skip: u64,
    /// Entries after those that were sequenced.
    pub taken: u64,
}

/// Why the index has no block of a slot or a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// It lies below the first block: this node's log does not have it any more.
    Trimmed,
    /// It was not applied yet.
    NotYet,
}

/// The index of one group's log on one node. Rebuilt when the node starts.
#[derive(Debug)]
pub struct Index {
    /// The last slot below the first block.
    after: Slot,
    blocks: Vec<Block>,
    exceptions: Vec<Exception>,
}

impl Index {
    /// An empty index with room for `blocks` blocks before it must grow.
    pub fn new(blocks: usize) -> Index {
        Index { after: Slot::ZERO, blocks: Vec::with_capacity(blocks), exceptions: Vec::with_capacity(256) }
    }

    /// An empty index that goes on behind `slot`, with nothing of what lies before: for a snapshot that came from another node,
    /// whose log positions are not this log's.
    pub fn starting_after(slot: Slot) -> Index {
        Index { after: slot, ..Index::new(SPARE_BLOCKS) }
    }

    /// The index of a snapshot of `slot`; one without blocks begins behind it.
    pub fn restore(slot: Slot, blocks: &[BlockRow], exceptions: &[ExceptionRow]) -> Result<Index, Malformed> {
        let after = blocks.first().map_or(slot, |row| Slot(row.first_slot.get().saturating_sub(1)));
        let mut index = Index { after, ..Index::new(blocks.len() + SPARE_BLOCKS) };
        for row in blocks {
            let block = Block {
                first_slot: Slot(row.first_slot.get()),
                last_slot: Slot(row.last_slot.get()),
                tail_before: Sequence(row.tail_before.get()),
                timestamp_before_ns: row.timestamp_before_ns.get(),
                start_pos: row.start_pos.get(),
                end_pos: row.end_pos.get(),
            };
            let follows = index.last_slot().next() == block.first_slot;
            if !follows || block.last_slot < block.first_slot {
                return Err(Malformed("the blocks of its index do not follow one another"));
            }
            index.blocks.push(block);
        }
        index.exceptions.extend(exceptions.iter().map(|row| Exception {
            slot: Slot(row.slot.get()),
            run: row.run.get(),
            skip: row.skip.get(),
            taken: row.taken.get(),
        }));
        if !index.exceptions.is_sorted_by_key(|exception| (exception.slot, exception.run)) {
            return Err(Malformed("the exceptions of its index are not in order"));
        }
        Ok(index)
    }

    /// The last slot applied.
    pub fn last_slot(&self) -> Slot {
        self.blocks.last().map_or(self.after, |block| block.last_slot)
    }

    /// The first slot that it has, or will have next.
    pub fn first_slot(&self) -> Slot {
        self.after.next()
    }

    /// The tail before the first slot that it has; none while it has none.
    pub fn tail_before(&self) -> Option<Sequence> {
        self.blocks.first().map(|block| block.tail_before)
    }

    /// Forgets the blocks that lie below `before` whole; one that holds it is kept whole.
    pub fn drop_front(&mut self, before: Slot) {
        let gone = self.blocks.partition_point(|block| block.last_slot < before);
        let Some(last) = gone.checked_sub(1) else { return };
        self.after = self.blocks[last].last_slot;
        self.blocks.drain(..gone);
        let exceptions = self.exceptions.partition_point(|exception| exception.slot <= self.after);
        self.exceptions.drain(..exceptions);
    }

    /// The first slot from which on every block lies at or above log position `pos`.
    pub fn first_slot_from(&self, pos: u64) -> Slot {
        let lost = self.blocks.iter().rev().find(|block| block.start_pos < pos);
        lost.map_or(self.first_slot(), |block| block.last_slot.next())
    }

    /// The first sequence of the block that has entries younger than this timestamp; none of an earlier block is.
    pub fn first_sequence_since(&self, timestamp_ns: u64) -> Option<Sequence> {
        let behind = self.blocks.partition_point(|block| block.timestamp_before_ns <= timestamp_ns);
        behind.checked_sub(1).map(|at| self.blocks[at].tail_before.next())
    }

    /// The lowest log position of a record of block number `first` or one behind it; none if there is no such block. Records
    /// lie in the order of their arrival, not quite that of their slots.
    pub fn lowest_pos(&self, first: usize) -> Option<u64> {
        self.blocks.iter().skip(first).map(|block| block.start_pos).min()
    }

    /// What a snapshot keeps of it.
    pub fn rows(
        &self,
    ) -> (impl ExactSizeIterator<Item = BlockRow> + '_, impl ExactSizeIterator<Item = ExceptionRow> + '_) {
        let blocks = self.blocks.iter().map(|block| BlockRow {
            first_slot: block.first_slot.0.into(),
            last_slot: block.last_slot.0.into(),
            tail_before: block.tail_before.0.into(),
            timestamp_before_ns: block.timestamp_before_ns.into(),
            start_pos: block.start_pos.into(),
            end_pos: block.end_pos.into(),
        });
        let exceptions = self.exceptions.iter().map(|exception| ExceptionRow {
            slot: exception.slot.0.into(),
            run: exception.run.into(),
            reserved: 0.into(),
            skip: exception.skip.into(),
            taken: exception.taken.into(),
        });
        (blocks, exceptions)
    }

    /// Notes that `slot` is applied next, and where its record lies.
    pub fn applied(&mut self, slot: Slot, pos: u64, end_pos: u64, tail_before: Sequence, timestamp_before_ns: u64) {
        assert_eq!(slot, self.last_slot().next(), "slots are applied in order");
        if let Some(block) = self.blocks.last_mut()
            && slot.0 - block.first_slot.0 < BLOCK_SLOTS
        {
            block.last_slot = slot;
            block.start_pos = block.start_pos.min(pos);
            block.end_pos = block.end_pos.max(end_pos);
            return;
        }
        let block =
            Block { first_slot: slot, last_slot: slot, tail_before, timestamp_before_ns, start_pos: pos, end_pos };
        self.blocks.push(block);
    }

    /// Notes what apply did with run number `at`, of `entries` entries, in the slot applied last.
    pub fn outcome(&mut self, slot: Slot, at: usize, entries: u64, verdict: Verdict) {
        if verdict.taken() != entries {
            let skip = if let Verdict::Decided { skip, .. } = verdict { skip } else { 0 };
            self.exceptions.push(Exception { slot, run: at as u32, skip, taken: verdict.taken() });
        }
    }

    /// The block in which `sequence` was given, if it was; the caller knows the tail.
    pub fn block_of_sequence(&self, sequence: Sequence) -> Result<usize, Lacks> {
        // The last block whose tail before it is below the sequence.
        let behind = self.blocks.partition_point(|block| block.tail_before < sequence);
        behind.checked_sub(1).ok_or(Lacks::Trimmed)
    }

    /// The block of an applied slot.
    pub fn block_of_slot(&self, slot: Slot) -> Result<usize, Lacks> {
        if slot > self.last_slot() {
            return Err(Lacks::NotYet);
        }
        self.blocks.partition_point(|block| block.first_slot <= slot).checked_sub(1).ok_or(Lacks::Trimmed)
    }

    /// Blocks from `first`, at most `count`.
    pub fn blocks(&self, first: usize, count: usize) -> &[Block] {
        let end = first.saturating_add(count).min(self.blocks.len());
        &self.blocks[first.min(end)..end]
    }

    /// The exceptions of the slots `first..=last`.
    pub fn exceptions(&self, first: Slot, last: Slot) -> &[Exception] {
        let start = self.exceptions.partition_point(|e| e.slot < first);
        let end = self.exceptions.partition_point(|e| e.slot <= last);
        &self.exceptions[start..end]
    }
}

/// Gives the entries of consecutive slots their sequences again.
#[derive(Debug)]
pub struct Walker<'a> {
    tail: Sequence,
    timestamp_ns: u64,
    exceptions: &'a [Exception],
}

impl<'a> Walker<'a> {
    /// Before the first slot of `block`; `exceptions` are those of the slots to be walked.
    pub fn new(block: &Block, exceptions: &'a [Exception]) -> Walker<'a> {
        Walker { tail: block.tail_before, timestamp_ns: block.timestamp_before_ns, exceptions }
    }

    /// The last sequence walked over.
    pub fn tail(&self) -> Sequence {
        self.tail
    }

    /// Walks the next slot. `visit` gets each sequenced entry and stops the walk of this slot with `false`.
    pub fn slot<'b>(&mut self, slot: Slot, batch: &Batch<'b>, visit: &mut dyn FnMut(Sequence, u64, &'b [u8]) -> bool) {
        if !batch.is_noop() {
            self.timestamp_ns = self.timestamp_ns.max(batch.header.timestamp_ns.get());
        }
        for (index, run) in batch.runs().enumerate() {
            let exception = self.exceptions.iter().find(|e| e.slot == slot && e.run == index as u32);
            let (skip, taken) = exception.map_or((0, run.len()), |e| (e.skip, e.taken));
            for entry in run.entries().skip(skip as usize).take(taken as usize) {
                self.tail = self.tail.next();
                if !visit(self.tail, self.timestamp_ns, entry) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequencer::Sequencer;
    use synod_wire::batch::{BATCH_HEADER_BYTES, Condition, RunBuilder, RunKind, open, write_batch_header};

    #[test]
    fn runs_that_were_refused_or_came_again_are_passed_over() {
        let condition = Condition { match_sequence: 9.into(), fence: 0.into() };
        let mut bytes = vec![0; 512];
        let mut at = BATCH_HEADER_BYTES;
        at += RunBuilder::new(&mut bytes[at..], 7, open::OR_CREATE, 0).finish(RunKind::OpenSession).0;
        for (first_seq, entry) in [(1, b"a"), (1, b"a"), (3, b"c")] {
            let mut run = RunBuilder::new(&mut bytes[at..], 7, 1, first_seq);
            assert!(run.push(entry));
            at += run.finish(RunKind::Append).0;
            if first_seq == 1 {
                let mut run = RunBuilder::conditional(&mut bytes[at..], 7, 1, 2, &condition);
                assert!(run.push(b"refused"));
                at += run.finish(RunKind::ConditionalAppend).0;
            }
        }
        write_batch_header(&mut bytes, 42, 6);
        let batch = Batch::parse(&bytes[..at]).unwrap();
        let (mut machine, mut index) = (Sequencer::new(), Index::new(1));
        index.applied(Slot(1), 0, 1, Sequence::ZERO, 0);
        machine.apply(Slot(1), &batch, &mut |at, run, verdict| index.outcome(Slot(1), at, run.len(), verdict));
        let block = index.blocks(0, 1)[0];
        let mut walker = Walker::new(&block, index.exceptions(Slot(1), Slot(1)));
        let mut walked = Vec::new();
        walker.slot(Slot(1), &batch, &mut |sequence, timestamp_ns, entry| {
            walked.push((sequence.0, timestamp_ns, entry.to_vec()));
            true
        });
        assert_eq!(walked, [(1, 42, b"a".to_vec()), (2, 42, b"c".to_vec())]);
        assert_eq!((walker.tail(), machine.tail()), (Sequence(2), Sequence(2)));
    }

    #[test]
    fn blocks_are_found_by_sequence_and_by_slot() {
        let mut index = Index::new(4);
        for slot in 1..=200u64 {
            index.applied(Slot(slot), slot * 1000, slot * 1000 + 500, Sequence((slot - 1) * 10), slot);
        }
        assert_eq!(index.block_of_sequence(Sequence(0)), Err(Lacks::Trimmed));
        for (sequence, first_slot) in [(1, 1), (640, 1), (641, 65), (1999, 193)] {
            let at = index.block_of_sequence(Sequence(sequence)).unwrap();
            assert_eq!(index.blocks(at, 1)[0].first_slot, Slot(first_slot), "sequence {sequence}");
        }
        assert_eq!(index.block_of_slot(Slot(64)), Ok(0));
        assert_eq!(index.block_of_slot(Slot(65)), Ok(1));
        assert_eq!(index.block_of_slot(Slot(201)), Err(Lacks::NotYet));
        let last = index.blocks(3, 9);
        assert_eq!((last.len(), last[0].start_pos, last[0].end_pos), (1, 193_000, 200_500));
    }

    #[test]
    fn an_index_without_its_front_goes_on_and_names_what_it_lacks() {
        let mut index = Index::new(4);
        for slot in 1..=200u64 {
            index.applied(Slot(slot), slot * 1000, slot * 1000 + 500, Sequence((slot - 1) * 10), slot);
            index.outcome(Slot(slot), 0, 10, Verdict::Duplicate);
        }
        // A record of the third block lies below the second.
        index.blocks[2].start_pos = 64_000;
        assert_eq!(
            (index.lowest_pos(1), index.lowest_pos(3), index.lowest_pos(4)),
            (Some(64_000), Some(193_000), None)
        );
        assert_eq!((index.first_slot_from(1_000), index.first_slot_from(64_001)), (Slot(1), Slot(193)));
        index.drop_front(Slot(64));
        assert_eq!(index.first_slot(), Slot(1), "a block is kept whole");
        index.drop_front(Slot(130));
        assert_eq!((index.first_slot(), index.tail_before()), (Slot(129), Some(Sequence(1_280))));
        assert_eq!((index.block_of_slot(Slot(128)), index.block_of_slot(Slot(129))), (Err(Lacks::Trimmed), Ok(0)));
        assert_eq!(index.block_of_sequence(Sequence(1_280)), Err(Lacks::Trimmed));
        assert_eq!(index.block_of_sequence(Sequence(1_281)), Ok(0));
        assert_eq!(index.exceptions(Slot(1), Slot(200)).len(), 72);
        index.drop_front(Slot(9_999));
        assert_eq!((index.first_slot(), index.last_slot(), index.tail_before()), (Slot(201), Slot(200), None));
        let (blocks, exceptions) = index.rows();
        assert_eq!((blocks.len(), exceptions.len()), (0, 0));
        let mut index = Index::restore(Slot(200), &[], &[]).unwrap();
        assert_eq!(index.first_slot(), Index::starting_after(Slot(200)).first_slot());
        assert_eq!(index.block_of_sequence(Sequence(1)), Err(Lacks::Trimmed));
        index.applied(Slot(201), 7, 9, Sequence(2_000), 1);
        assert_eq!(index.block_of_slot(Slot(201)), Ok(0));
        let rows: Vec<BlockRow> = index.rows().0.collect();
        let restored = Index::restore(Slot(201), &rows, &[]).unwrap();
        assert_eq!((restored.first_slot(), restored.last_slot()), (Slot(201), Slot(201)));
    }
}
