//! The log on disk of one group: segments, group commit, recovery. Used by the shard (one [`Log`] a core, driven through
//! [`Io`](synod_ring::Io)), by housekeeping threads ([`SegmentSpec::prepare`], [`LogReader`]) and by offline tools. Knows frames
//! and Lsns; knows nothing of the protocol.
//!
//! # The contract on disk (format 1)
//!
//! **Address space.** The log is an unbounded space of byte positions (`u64`). Segment file `k`, named `{k:016x}.seg`, holds
//! positions `[k * segment_bytes, (k + 1) * segment_bytes)`. Nothing (record or flush) crosses a multiple of the stride
//! ([`STRIDE_BYTES`], unless the segments' headers say otherwise); `segment_bytes` is a multiple of it. In memory byte `pos` lies at `pos % arena_bytes` of a ring (`arena_bytes` is a
//! multiple of the stride too), so what is appended, what is written and what is sent are the same bytes.
//!
//! | where | what |
//! |---|---|
//! | `lock` | held with flock(2) by the process that owns the directory |
//! | `{k:016x}.seg.tmp` | a segment in preparation; worthless until it is renamed |
//! | `{k:016x}.seg`, first block | one frame of kind `Segment`: whose log it is, and its geometry |
//! | `{k:016x}.seg`, the rest | flushes; zeros where nothing was written yet |
//! | `{slot:016x}.snap.tmp`, `{slot:016x}.snap` | a [`snapshot`], in preparation and whole |
//!
//! **A segment file** appears under its name only when it is whole: zeroed, its header (and in segment 0 the first flush, with
//! Lsn 1) written, synced, then renamed, then the directory synced.
//!
//! **A flush** starts at a multiple of `block_bytes`, is the unit of writing, and is
//!
//! | part | layout |
//! |---|---|
//! | records | one [frame](synod_wire::frame) each, at multiples of 64, without gaps; zeros pad a frame to 64 |
//! | trailer | one frame of kind `Trailer`: [`Trailer`](synod_wire::record::Trailer), one [`TrailerEntry`] a record |
//! | padding | zeros to the next multiple of `block_bytes` |
//!
//! A record's Lsn is its predecessor's + 1, from 1. In a trailer's frame `lsn` is the Lsn of the last record so far, `slot` the
//! *mark*: the durable Lsn when the flush was sealed, `promised` the promise at that time. A flush without records is an *idle mark*.
//! The next flush starts where this one ends, or, if fewer than [`MIN_FLUSH_BYTES`] are left in the stride, at the next
//! stride (behind the header block if a segment starts there); the trailer's `next` says so. Behind its last record's block a
//! flush leaves room for a trailer in blocks of its own (see *Recovery*). A durable block is never written again. So where a
//! flush is being written there are only zeros before: the next section relies on it. (Segments are
//! removed, not recycled: one that gets a new name must be zeroed first, or a torn flush in it will look like damage.)
//!
//! **The front** of the log, once a snapshot stands for it, is removed ([`remove_front`]): segments `f..n` without a gap are left,
//! `f >= 0`. They go one by one from the lowest, so that a crash in between leaves a log too. A segment's start is always where
//! a flush starts, so a segment and the Lsn of the first record behind its start say where a scan can begin ([`Start::At`]).
//!
//! # Recovery
//!
//! Forward from segment 0, or from the one that a snapshot names with the Lsn that comes next; what lies before that may be gone,
//! and is not looked at. (A start whose first flush says another Lsn is refused: what follows would look like an older
//! generation, and be cut.) At each flush start the frames are followed as long as each is whole (both checksums), is of this
//! cluster and group, and has exactly the next Lsn. A trailer there that names this start and these records closes the flush.
//! Anything else at position `p` is resolved by searching forward, line by line, to the end of the last segment, for whole
//! trailers. A trailer counts only at the place that it names, so a copy of it elsewhere (misdirected, or inside a payload) is
//! nothing. From its flush's start on it is the authority: records walked before that with the same Lsns are misdirected
//! copies, and are read at their own place instead.
//!
//! | found | meaning | then |
//! |---|---|---|
//! | a trailer of the flush that holds `p`, over records that were *not reached* (below), and no mark, its own included, at or above the first of them | a **torn tail**: as the last line, though its trailer is whole | |
//! | a trailer of the flush that holds `p` | its records that are whole and match are taken; the others are **damage**, named; none missing: the gap that an earlier recovery left | on at its `next` |
//! | a later flush that follows without a missing Lsn | a trailer was lost, no record. **Damage** (of no record) if that flush's mark proves it durable (below), else nothing | on at that flush |
//! | a later flush, and some later mark at or above the first missing Lsn | **damage**; records are named as far as their headers are whole | on at that flush |
//! | nothing of these, all zeros from `p`, `p` starts a flush | the end | |
//! | nothing of these | a **torn tail**: whole records before `p` are kept, the rest is cut | |
//!
//! **Not reached.** The sectors of one write reach the disk in any order, so a crash can leave a whole trailer over a bad record.
//! To call that damage would be safe for one node, but a power cut tears the flushes of several, at the same slots: once
//! those are unknown on so many that no phase 1 quorum reports them, no candidate can conclude, and the group stands still for
//! good though nothing acknowledged was lost. A sector (512 bytes of the file) that a torn write did not reach holds only
//! zeros; rot and stray writes leave other bytes. A bad record was *not reached* if one of its sectors is all zeros and
//! its header (which lies in one sector) is zeros or the one that the trailer names. Each bad record of the flush must be
//! such a one, the first where the walk stopped, and no Lsn may be missing before the flush. Later flushes in flight at the
//! crash, whole or not, have lower marks, and are cut with it. A bounded scan takes nothing for torn: all below its bound was
//! durable.
//!
//! What this cannot tell: a last flush that was durable, that no mark covers yet, and whose record lost a sector to zeros, or has a
//! payload with a sector of zeros and rot elsewhere in that payload, is cut as if torn. An idle mark ends that time, and the
//! peers' memory of the highest Lsn counted halts a node that comes back behind it, as with a last flush that vanished whole.
//!
//! **A trailer that a crash took.** A flush can lose its trailer alone while the next one, in flight with it, is on disk in full
//! or in part: its records are taken, nothing is written in its place, and each later recovery comes by the same gap. A mark
//! at the gap's last whole record, in the flush right behind, proves that the trailer was durable, since a flush becomes so
//! whole. But a cut there says of records only that they are durable: its mark is its own last Lsn (as that of an idle mark may be,
//! which looks the same). Behind such a mark the trailer counts as never written if it was *not reached*: if its header is zeros or
//! whole, and one of its sectors is all zeros. What this cannot tell, a durable trailer that lost a sector to zeros there, costs no
//! record and no mark or promise that the next trailer does not repeat. A bounded scan tells any such gap as damage of no record.
//!
//! Frames with a lower Lsn than expected (an older generation) never match and count as empty.
//!
//! **The cut** (`cut.rs`) is durable before anything is appended, and may itself be interrupted at any point:
//! 1. all segments are synced: what was read is durable, kept records included;
//! 2. a *cut mark* is written behind the last block that is not zero, in a new segment if the last one ends there, and synced: a
//!    trailer without records whose mark is the last kept Lsn, with the flag [`CUT_MARK`](synod_wire::frame::flags::CUT_MARK);
//! 3. from the next block boundary `b >= p` on, every other block that is not zero is zeroed, in all segments; synced. The block with
//!    the last kept record is not touched, but where the torn flush's own trailer is whole and begins in it: then it is written
//!    once more with zeros from `p` on, and synced, before the others. Else that trailer would stay beside the one of step 4, and
//!    name the lost records again once marks have grown beyond their Lsns. (Should a device tear more than a sector then, kept
//!    records are lost that nobody was told of.)
//! 4. a flush of only a trailer is written at `b`, and synced. It names as its start the torn flush's, as its records the kept
//!    ones, as its mark the last kept Lsn;
//! 5. the cut mark is zeroed, and synced.
//!
//! The trailers that step 3 takes may hold the only marks that tell damage of the last durable flushes from a torn tail. From 2 to
//! 4 the cut mark does. It ends no flush: a scan that lacks no record at or below its mark goes on as if it were any other bytes that
//! are not zero, and the cut is done again; one that does goes on at it, as behind any later flush that proves damage.
//! Until 4 is whole on disk, the next recovery finds the same kept records, and cuts
//! again: zeros only add to what a torn write did not reach, so a trailer that is still whole gets the same verdict.
//! Afterwards it finds a trailer that holds `p` and misses nothing, and goes on behind it. Where 5 was not reached the cut mark is left:
//! right behind it is as good as an idle mark, farther on it is cut as a torn tail without records.
//!
//! Unreadable pages are bytes that are not whole, not a reason to stop. A missing segment, another format, another owner
//! are errors. Segment 0 whose first record is gone with nothing behind it is an error too: it was whole when it was named.
//!
//! # Reading through maps
//! Segments are read through `memmap2`, a stride at a time, by recovery, housekeeping and tools, never by a pipeline's core; what
//! snapshots are made of, and what members lack that lag, is read around the page cache (`direct.rs`), and through maps where that
//! fails. An unreadable page under a map raises SIGBUS when touched, so no page is touched before MADV_POPULATE_READ (Linux 5.14)
//! has brought it in: that call returns the error instead. Then the stride is locked in memory (as far as RLIMIT_MEMLOCK
//! allows), so that it is not evicted and read again behind our back. Lengths are checked before mapping; nothing in this crate shortens
//! a segment that has a name, or that anybody still has open (`synod_ring::remove_file`). What is left (a foreign process truncates a
//! file under the map; a page is evicted in spite of all and then fails) ends the process, which is what a broken log disk does anyway.

mod cut;
mod depth;
mod direct;
mod directory;
mod error;
mod flush;
mod layout;
mod log;
pub mod long;
mod observe;
pub mod partial;
mod reader;
mod recover;
mod retention;
mod scan;
mod segment;
pub mod snapshot;
mod trailer;
mod window;

pub use directory::{Dir, Directory, Lock, Opening};
pub use error::LogError;
pub use log::{EndedWrite, Log};
pub use reader::{LogReader, ScanEnd};
pub use recover::{Recovered, Start, recover};
pub use retention::{Removed, remove_front};
pub use scan::{Damage, FlushMark, Item, TornTail};
pub use segment::{PreparedSegment, SegmentSpec, format};
pub use synod_wire::record::TrailerEntry;

use synod_wire::{ClusterId, GroupId, NodeId};

/// What no record and no flush crosses, unless a log is formatted otherwise: large enough that skipping its end wastes little,
/// small enough to map and read at once.
pub const STRIDE_BYTES: u64 = 4 << 20;
/// The smallest stride, with room for a turn of a shard whose batches fit one datagram: its log enters strides and segments often,
/// which is what a simulator wants.
pub const MIN_STRIDE_BYTES: u64 = 8 * MIN_FLUSH_BYTES;
/// A flush does not start with fewer bytes than this before its stride's end: any single record and its trailer fit.
pub const MIN_FLUSH_BYTES: u64 = 128 << 10;
/// The smallest unit of writes, even on devices that accept less: a page, so that flushes share no page of the page cache.
pub const MIN_BLOCK_BYTES: u32 = 4096;
/// The largest unit of writes: any record in blocks of its own and a trailer in a block of its own fit [`MIN_FLUSH_BYTES`].
pub const MAX_BLOCK_BYTES: u32 = 16 << 10;
/// The largest segment: a bound for what a header may claim.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 40;
/// The largest ring in memory.
pub const MAX_ARENA_BYTES: u64 = 1 << 30;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
    /// The node's life: another number for each log that was formatted for it.
    pub incarnation: u64,
}

/// Whose log the caller takes it to be; the incarnation is learnt from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
}

/// Where a frame lies in the log: header and payload, without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its position.
    pub pos: u64,
    /// Bytes of header and payload.
    pub bytes: u32,
}

impl Place {
    /// Where the frame behind it would start.
    pub fn end(self) -> u64 {
        self.pos + synod_wire::frame::aligned(self.bytes as usize) as u64
    }
}

/// Sizes that the configuration sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a segment file: a multiple of the stride. Fixed when the log is formatted.
    pub segment_bytes: u64,
    /// Bytes of a stride: a power of two from [`MIN_STRIDE_BYTES`] to [`STRIDE_BYTES`]. Fixed when the log is formatted. A turn
    /// appends no more than this.
    pub stride_bytes: u64,
    /// Bytes of the ring in memory: a multiple of the stride, at least two, [`MAX_ARENA_BYTES`] at most.
    pub arena_bytes: usize,
    /// Log writes in flight at once, from 1. More than one pays on devices with parallel synced writes only.
    pub max_in_flight: usize,
    /// Find out how many of them pay, while the log is written, instead of having as many always.
    pub adapts: bool,
    /// A flush is closed before it grows beyond this: [`MIN_FLUSH_BYTES`] to half a stride.
    pub max_flush_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            segment_bytes: 256 << 20,
            stride_bytes: STRIDE_BYTES,
            arena_bytes: 64 << 20,
            max_in_flight: 1,
            adapts: false,
            max_flush_bytes: 256 << 10,
        }
    }
}

impl Settings {
    /// Whether the sizes fit together.
    pub fn check(&self) -> Result<(), LogError> {
        let bad = |field, value, rule| Err(LogError::Setting { field, value, rule });
        let (stride, segment, arena) = (self.stride_bytes, self.segment_bytes, self.arena_bytes as u64);
        if !is_stride(stride) {
            return bad("stride_bytes", stride, "a power of two from 1 MiB to 4 MiB");
        }
        if segment == 0 || !segment.is_multiple_of(stride) || segment > MAX_SEGMENT_BYTES {
            return bad("segment_bytes", segment, "a multiple of the stride (4 MiB), at most 1 TiB");
        }
        if !(2 * stride..=MAX_ARENA_BYTES).contains(&arena) || !arena.is_multiple_of(stride) {
            return bad("arena_bytes", arena, "a multiple of the stride (4 MiB), at least two of them, at most 1 GiB");
        }
        if !(1..=64).contains(&self.max_in_flight) {
            return bad("max_in_flight", self.max_in_flight as u64, "1 to 64");
        }
        if !(MIN_FLUSH_BYTES..=stride / 2).contains(&(self.max_flush_bytes as u64)) {
            return bad("max_flush_bytes", self.max_flush_bytes as u64, "128 KiB to half a stride (2 MiB)");
        }
        Ok(())
    }
}

/// Whether a log may have such strides.
fn is_stride(bytes: u64) -> bool {
    bytes.is_power_of_two() && (MIN_STRIDE_BYTES..=STRIDE_BYTES).contains(&bytes)
}
