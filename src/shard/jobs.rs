//! What a shard asks of the housekeeping thread, and how that thread does it: prepare the next segment, read old log.

use super::checkpoint::{CheckpointRequest, Maker, Progress, Shadow};
use super::evidence::{self, ChosenBy, EvidenceRequest, SlotRecords};
use super::front::{self, FrontRemoved, FrontRequest, Starts};
use super::install::{self, Installed, TransferDone, TransferJob};
use crate::index::{BLOCK_SLOTS, Block, Exception, Walker};
use crate::shard::reply::{ReadRequest, ReadWriter};
use crate::shard::streams::{StreamRead, Ticket};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::ControlFlow;
use synod_wal::{Dir, Item, LogError, LogReader, PreparedSegment, SegmentSpec};
use synod_wire::batch::Batch;
use synod_wire::frame::{Header, Kind};
use synod_wire::{NodeId, Slot};

/// Blocks of the index that one job reads.
pub const MAX_JOB_BLOCKS: usize = 4;
/// Values that one job can hold.
pub const MAX_JOB_SLOTS: u64 = MAX_JOB_BLOCKS as u64 * BLOCK_SLOTS;
/// Jobs that one shard may have outstanding.
pub const MAX_JOBS: usize = 16;

/// A request.
#[derive(Debug)]
pub enum Job {
    /// Create, zero and sync the next segment.
    PrepareSegment(SegmentSpec),
    /// Read entries for a client.
    Read(ReadRequest, LogRange),
    /// Read chosen values for a peer: slots `first..=last`.
    CatchUp {
        /// The peer.
        to: NodeId,
        /// The first slot.
        first: Slot,
        /// The last slot.
        last: Slot,
        /// Where they lie.
        range: LogRange,
        /// The durable position: what the log says of who chose them lies below.
        upto_pos: u64,
    },
    /// Read entries for a subscriber.
    Stream(Ticket, ReadRequest, LogRange),
    /// Look up who chose a slot.
    Evidence {
        /// What is asked.
        request: EvidenceRequest,
        /// Where the slot's value lies.
        range: LogRange,
        /// The durable position: its evidence lies below.
        upto_pos: u64,
    },
    /// Go on towards a snapshot.
    Checkpoint(CheckpointRequest),
    /// Remove the front of the log: on the thread that makes snapshots.
    RemoveFront(FrontRequest),
    /// Read or write a snapshot that goes to another member, or comes from one.
    Transfer(TransferJob),
    /// Let go of the log's files, which were removed in part.
    CloseReader,
}

/// A stretch of the log with what is needed to number its entries.
#[derive(Debug)]
pub struct LogRange {
    /// The group's directory.
    pub dir: Dir,
    /// Consecutive blocks of the index.
    pub blocks: Vec<Block>,
    /// The exceptions among their slots.
    pub exceptions: Vec<Exception>,
    /// The tail when the job was made.
    pub tail: u64,
    /// The largest datagram.
    pub max_datagram_bytes: usize,
}

/// An answer.
#[derive(Debug)]
pub enum Done {
    /// The segment is ready, or cannot be.
    Segment(Result<PreparedSegment, LogError>),
    /// Bodies of read replies, each to be framed and sent.
    Read(ReadRequest, Result<Vec<Vec<u8>>, LogError>),
    /// Values with the headers of their records.
    CatchUp {
        /// The peer.
        to: NodeId,
        /// The first slot that was asked for.
        first: Slot,
        /// The values.
        values: Result<Vec<(Header, Vec<u8>)>, LogError>,
        /// Where damage took the first one: who chose it, if the log says so.
        chosen: Option<ChosenBy>,
    },
    /// Bodies of a stream's datagrams, each to get its head.
    Stream(Ticket, StreamRead),
    /// What the log has of a slot; none: its value cannot be read.
    Evidence(EvidenceRequest, Result<Option<SlotRecords>, LogError>),
    /// How far it came.
    Checkpoint(Result<Progress, LogError>),
    /// What is left.
    FrontRemoved(Result<FrontRemoved, LogError>),
    /// What became of it.
    Transfer(TransferDone),
    /// They are.
    ReaderClosed,
}

/// What could not be done. Places in [`FAILURES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failed {
    /// [`Job::PrepareSegment`].
    Segment,
    /// [`Job::Read`].
    Read,
    /// [`Job::Stream`].
    Stream,
    /// [`Job::CatchUp`].
    CatchUp,
    /// [`Job::Evidence`].
    Evidence,
    /// [`Job::Checkpoint`].
    Checkpoint,
    /// [`Job::RemoveFront`].
    Front,
    /// [`TransferJob::Describe`].
    Describe,
    /// [`TransferJob::Read`].
    Chunks,
    /// [`TransferJob::Open`], [`TransferJob::Store`], [`TransferJob::Install`].
    Keep,
    /// [`Installed::Refused`].
    Refused,
}

/// What failed, in words. The places are part of the events' format: new ones come behind.
pub const FAILURES: [(Failed, &str); 11] = [
    (Failed::Segment, "the next log segment cannot be prepared; appends stop when this one is full"),
    (Failed::Read, "a read of the log failed"),
    (Failed::Stream, "a read of the log for a subscriber failed"),
    (Failed::CatchUp, "a read of the log for a lagging member failed"),
    (Failed::Evidence, "a look into the log for evidence failed"),
    (Failed::Checkpoint, "no snapshot can be made; a restart reads the log from the one before"),
    (Failed::Front, "the log's front cannot be removed; the disk fills up"),
    (Failed::Describe, "a lagging member cannot be offered a snapshot"),
    (Failed::Chunks, "a snapshot cannot be read for a member"),
    (Failed::Keep, "a member's snapshot cannot be kept; it is fetched again"),
    (Failed::Refused, "a member's snapshot is thrown away"),
];

/// See [`Done::failure`].
pub(super) struct Failure<'a> {
    pub(super) what: Failed,
    /// Of what slot; 0: of none.
    pub(super) slot: Slot,
    /// The system's number of the error; 0: it is none of the system's.
    pub(super) errno: u64,
    why: &'a dyn Display,
}

impl Done {
    /// What failed, if it is for an operator to know: that what was asked for was removed meanwhile is not.
    pub(super) fn failure(&self) -> Option<Failure<'_>> {
        let (what, slot, error) = match self {
            Done::Segment(Err(error)) => (Failed::Segment, Slot::ZERO, error),
            Done::Read(_, Err(error)) => (Failed::Read, Slot::ZERO, error),
            Done::Stream(_, Err(error)) => (Failed::Stream, Slot::ZERO, error),
            Done::CatchUp { first, values: Err(error), .. } => (Failed::CatchUp, *first, error),
            Done::Evidence(_, Err(error)) => (Failed::Evidence, Slot::ZERO, error),
            Done::Checkpoint(Err(error)) => (Failed::Checkpoint, Slot::ZERO, error),
            Done::FrontRemoved(Err(error)) => (Failed::Front, Slot::ZERO, error),
            Done::Transfer(TransferDone::Described(Err(error))) => (Failed::Describe, Slot::ZERO, error),
            Done::Transfer(TransferDone::Read(chunks, Err(error))) => (Failed::Chunks, chunks.whole.slot, error),
            Done::Transfer(TransferDone::Opened(whole, Err(error))) => (Failed::Keep, whole.slot, error),
            Done::Transfer(TransferDone::Stored(whole, Err(error))) => (Failed::Keep, whole.slot, error),
            Done::Transfer(TransferDone::Installed(whole, Err(error))) => (Failed::Keep, whole.slot, error),
            Done::Transfer(TransferDone::Installed(whole, Ok(Installed::Refused(why)))) => {
                return Some(Failure { what: Failed::Refused, slot: whole.slot, errno: 0, why });
            }
            _ => return None,
        };
        let failed = !matches!(error, LogError::Trimmed { .. });
        failed.then(|| Failure { what, slot, errno: errno(error), why: error })
    }
}

/// The system's number of an error; 0: it is none of the system's.
pub(super) fn errno(error: &LogError) -> u64 {
    error.os_error().map_or(0, |errno| errno.unsigned_abs().into())
}

/// What is read of the log at once for snapshots and for members that lag: larger pieces keep log writes on the same disk waiting.
const READ_BYTES: usize = 64 << 10;

/// Who carries out the jobs of one group: the state of its housekeeping thread.
pub struct Housekeeper {
    maker: Maker,
    /// Begun with the first snapshot that is asked for, and anew after an error.
    shadow: Option<Shadow>,
    /// Opening a log reads the header of every segment, which is more work than most reads. Segments are added, and a reader stays
    /// good; after an error, and after some were removed, it is opened anew.
    reader: Option<LogReader>,
    /// The same for what members lack, which is read once.
    once: Option<LogReader>,
    starts: Starts,
}

impl Housekeeper {
    /// One that makes snapshots as it is told here.
    pub fn new(maker: Maker) -> Housekeeper {
        Housekeeper { maker, shadow: None, reader: None, once: None, starts: Starts::default() }
    }

    /// Does one job, and logs why where it cannot: the core, which notes it too, writes no lines and has no place for a text.
    /// Blocking; never on a pipeline's core.
    pub fn perform(&mut self, job: Job) -> Done {
        let done = self.carry_out(job);
        if let Some(Failure { what, slot, why, .. }) = done.failure() {
            let (group, what) = (self.maker.expect.group.0, FAILURES[what as usize].1);
            tracing::error!(group, slot = slot.0, error = %why, "{what}");
        }
        done
    }

    /// A job begins, here or in another thread that this one waits for: what it makes needless is let go of.
    pub fn make_way(&mut self, job: &Job) {
        if matches!(job, Job::Transfer(TransferJob::Install(..))) {
            // It is behind now, and the log does not have what would get it further.
            self.shadow = None;
        }
    }

    fn carry_out(&mut self, job: Job) -> Done {
        self.make_way(&job);
        match job {
            Job::PrepareSegment(spec) => Done::Segment(spec.prepare()),
            Job::Read(request, range) => {
                let open = || LogReader::open(&range.dir);
                let found = with_reader(&mut self.reader, open, |reader| value_records(reader, &range));
                Done::Read(request, found.map(|found| entries(&request, &range, &found)))
            }
            Job::Stream(ticket, request, range) => {
                let open = || LogReader::open(&range.dir);
                let found = with_reader(&mut self.reader, open, |reader| value_records(reader, &range));
                Done::Stream(ticket, found.map(|found| entries(&request, &range, &found)))
            }
            Job::CatchUp { to, first, last, range, upto_pos } => {
                let open = || LogReader::open_to_read_once(&range.dir, READ_BYTES);
                let found = with_reader(&mut self.once, open, |reader| {
                    let found = value_records(reader, &range)?;
                    let is_lost = !found.contains_key(&first);
                    let chosen = if is_lost { evidence::chosen_by(reader, first, &range, upto_pos)? } else { None };
                    Ok((found, chosen))
                });
                let (values, chosen) = match found {
                    Ok((found, chosen)) => {
                        let wanted = found.into_iter().filter(|(slot, _)| (first..=last).contains(slot));
                        (Ok(wanted.map(|(_, record)| record).collect()), chosen)
                    }
                    Err(error) => (Err(error), None),
                };
                Done::CatchUp { to, first, values, chosen }
            }
            Job::Evidence { request, range, upto_pos } => {
                let open = || LogReader::open(&range.dir);
                let look = |reader: &mut LogReader| evidence::look_up(reader, &request, &range, upto_pos);
                Done::Evidence(request, with_reader(&mut self.reader, open, look))
            }
            Job::Checkpoint(request) => Done::Checkpoint(self.checkpoint(&request)),
            Job::RemoveFront(request) => Done::FrontRemoved(self.remove_front(&request)),
            Job::Transfer(job) => Done::Transfer(install::perform(job, &self.maker)),
            Job::CloseReader => {
                (self.reader, self.once) = (None, None);
                Done::ReaderClosed
            }
        }
    }

    fn remove_front(&mut self, request: &FrontRequest) -> Result<FrontRemoved, LogError> {
        (self.reader, self.once) = (None, None);
        let left = front::remove(request, &mut self.starts, &self.maker.expect)?;
        if let Some(shadow) = &mut self.shadow {
            shadow.drop_front(left.first_segment);
        }
        Ok(left)
    }

    fn checkpoint(&mut self, request: &CheckpointRequest) -> Result<Progress, LogError> {
        let shadow = self.shadow.take();
        let maker = &self.maker;
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => LogReader::open_to_read_once(&request.dir, READ_BYTES)?,
        };
        let mut shadow = match shadow {
            Some(shadow) => shadow,
            None => Shadow::begin(maker, &request.dir, &reader)?,
        };
        let progress = shadow.advance(request, &mut reader, &*maker.pause)?;
        (self.shadow, self.reader) = (Some(shadow), Some(reader));
        Ok(progress)
    }
}

/// Reads with a reader that is kept for the next time, unless it fails.
fn with_reader<T>(
    kept: &mut Option<LogReader>,
    open: impl FnOnce() -> Result<LogReader, LogError>,
    read: impl FnOnce(&mut LogReader) -> Result<T, LogError>,
) -> Result<T, LogError> {
    let mut reader = match kept.take() {
        Some(reader) => reader,
        None => open()?,
    };
    let found = read(&mut reader)?;
    *kept = Some(reader);
    Ok(found)
}

/// Values with the headers of their records.
pub(super) type Records = BTreeMap<Slot, (Header, Vec<u8>)>;

/// The last record of each slot in the range: the one that was applied.
pub(super) fn value_records(reader: &mut LogReader, range: &LogRange) -> Result<Records, LogError> {
    let mut found = BTreeMap::new();
    for block in &range.blocks {
        let wanted = block.first_slot..=block.last_slot;
        reader.scan(block.start_pos, Some(block.end_pos), &mut |item| {
            match item {
                Item::Record(_, frame) => {
                    let value = matches!(frame.header.kind, Kind::Accept | Kind::Learnt);
                    if value && wanted.contains(&frame.header.slot) {
                        found.insert(frame.header.slot, (frame.header, frame.payload.to_vec()));
                    }
                }
                // The record that was applied may be the one that is lost: an earlier one must not stand in for it.
                Item::Damage(damage) if damage.complete => {
                    damage.named.iter().for_each(|row| drop(found.remove(&Slot(row.slot.get()))));
                }
                Item::Damage(_) => found.clear(),
                Item::Trailer(_) | Item::TornTail(_) => {}
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(found)
}

/// The bodies of the replies to a read.
fn entries(request: &ReadRequest, range: &LogRange, found: &Records) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut buffer = vec![0; range.max_datagram_bytes];
    let mut writer = ReadWriter::new(request, range.tail, None);
    let mut emit = |body: &[u8]| datagrams.push(body.to_vec());
    if let Some(first) = range.blocks.first() {
        let mut walker = Walker::new(first, &range.exceptions);
        let last = range.blocks[range.blocks.len() - 1].last_slot;
        for slot in (first.first_slot.0..=last.0).map(Slot) {
            // A hole (damage not yet repaired on disk) ends the answer: what follows cannot be numbered.
            let Some((_, payload)) = found.get(&slot) else { break };
            let Ok(batch) = Batch::parse(payload) else { break };
            let mut going = true;
            walker.slot(slot, &batch, &mut |sequence, timestamp_ns, entry| {
                going = writer.entry(sequence, timestamp_ns, entry, &mut buffer, &mut emit);
                going
            });
            if !going {
                break;
            }
        }
    }
    writer.finish(&mut buffer, &mut emit);
    datagrams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_place() {
        for (place, (failed, _)) in FAILURES.iter().enumerate() {
            assert_eq!(*failed as usize, place);
        }
    }

    #[test]
    fn what_was_removed_meanwhile_is_no_failure_and_an_error_of_the_system_has_its_number() {
        let full =
            LogError::File { action: "write", path: "wal".into(), source: std::io::Error::from_raw_os_error(28) };
        assert!(Done::Checkpoint(Err(LogError::Trimmed { first_pos: 1 })).failure().is_none());
        let done = Done::Segment(Err(full));
        let failure = done.failure().expect("a full disk is one");
        assert_eq!((failure.what, failure.errno), (Failed::Segment, 28));
        let other = Done::Checkpoint(Err(LogError::NotFormatted { dir: "wal".into() }));
        assert_eq!(other.failure().expect("it is one").errno, 0);
    }
}
