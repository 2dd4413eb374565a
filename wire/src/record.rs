//! Bodies of the records of the write-ahead log. The wal crate's documentation is the on-disk contract.

use crate::client::Durability;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Slots `first..=last` were chosen, in one ballot, by these acceptors' votes: the evidence that `verify` reads.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ChosenRange {
    /// The first slot.
    pub first: U64,
    /// The last slot.
    pub last: U64,
    /// The ballot, packed. 0: learnt from a peer, whose evidence stands in its own log.
    pub ballot: U64,
    /// The acceptors, as [`crate::NodeSet`].
    pub acceptors: U64,
}

/// The most ranges in one chosen record.
pub const MAX_CHOSEN_RANGES: usize = 4;

/// Ends a flush. The frame's slot is the durable Lsn when the flush was sealed, its Lsn that of the last record so
/// far; [`TrailerEntry`] follow, one a record of this flush.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Trailer {
    /// Where the flush starts: a byte position of the log.
    pub start: U64,
    /// Where the next flush starts.
    pub next: U64,
    /// Entries that follow.
    pub entries: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// What one record of the flush was, so that a damaged one can still be named.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct TrailerEntry {
    /// Its Lsn.
    pub lsn: U64,
    /// Its slot.
    pub slot: U64,
    /// Its ballot, packed.
    pub ballot: U64,
    /// Its header's CRC, which covers the payload's.
    pub header_crc: U32,
    /// Its payload's length.
    pub length: U16,
    /// Its kind.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
}

/// The most records in one flush.
pub const MAX_FLUSH_RECORDS: usize = 1_024;

/// One member's life of its log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Incarnation {
    /// The node.
    pub node: U64,
    /// Its incarnation.
    pub incarnation: U64,
}

/// The highest Lsn counted from a peer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PeerMark {
    /// The peer.
    pub node: U64,
    /// Its Lsn.
    pub lsn: U64,
}

/// Damage that hides nothing any more: the Lsns that were lost.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct RepairedRun {
    /// The first Lsn.
    pub first: U64,
    /// The last Lsn.
    pub last: U64,
}

/// The most runs in one repaired record; damage beyond them is found, and repaired, once more after the next start.
pub const MAX_REPAIRED_RUNS: usize = 1_024;

/// What the word of this log's node rests on after this record. With [`Durability::Memory`] it may
/// have vouched for records that never reached the disk: a log whose last such mark says so must not vote again.
/// [`Durability::Disk`] ends that: it is written at an orderly stop, when all before it is durable and
/// nothing more is said. A log without marks never vouched for more than its disk held.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct DurabilityMark {
    /// [`Durability`].
    pub durability: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl DurabilityMark {
    /// What it says; `None` for a number that this version does not know.
    pub fn durability(&self) -> Option<Durability> {
        Durability::from_u8(self.durability)
    }
}

impl From<Durability> for DurabilityMark {
    fn from(durability: Durability) -> DurabilityMark {
        DurabilityMark { durability: durability as u8, reserved: [0; 7] }
    }
}

/// The longest lease that this log's node may have granted from here on: its next start waits that long before its promise
/// rises, as the grant itself is forgotten with the process.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct LeaseMark {
    /// Nanoseconds.
    pub longest_ns: U64,
}

/// A configuration; `members` node numbers of one byte follow. The frame's epoch is its own.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Configuration {
    /// The epoch it replaces; 0 for the founding one.
    pub parent_epoch: U32,
    /// The phase 1 quorum.
    pub phase1: u8,
    /// The phase 2 quorum.
    pub phase2: u8,
    /// Voting members.
    pub members: u8,
    /// Learners, which follow the members.
    pub learners: u8,
    /// The writer's incarnation.
    pub incarnation: U64,
}

/// The first bytes of a snapshot's file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SnapshotHeader {
    /// CRC-32C of the rest of this header.
    pub header_crc: U32,
    /// CRC-32C of the body.
    pub body_crc: U32,
    /// [`SNAPSHOT_MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::frame::VERSION`].
    pub version: u8,
    /// The group.
    pub group: u8,
    /// The node that wrote it.
    pub node: u8,
    /// Zero.
    pub reserved: u8,
    /// The cluster.
    pub cluster: U32,
    /// The incarnation of the node's log.
    pub incarnation: U64,
    /// The last slot that it covers.
    pub slot: U64,
    /// Bytes of the body.
    pub body_bytes: U64,
    /// Zero.
    pub reserved_end: [u8; 16],
}

/// What a snapshot's file is told by.
pub const SNAPSHOT_MAGIC: [u8; 8] = *b"SYNODSNP";

/// The start of a block of a state that comes from another node.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PartHeader {
    /// CRC-32C of the rest of the block.
    pub crc: U32,
    /// The checksum of the whole state.
    pub state_crc: U32,
    /// [`PART_MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::frame::VERSION`].
    pub version: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The last slot that the state has.
    pub slot: U64,
    /// Bytes of the whole state.
    pub state_bytes: U64,
    /// The block's number, from 0.
    pub number: U64,
}

/// What such a block is told by.
pub const PART_MAGIC: [u8; 8] = *b"SYNODPRT";

/// The payload of a segment's first frame, whose cluster and group name whose log it is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SegmentHeader {
    /// The segment's number, from 0.
    pub index: U64,
    /// Bytes of the file.
    pub segment_bytes: U64,
    /// Bytes that no record and no flush may cross.
    pub stride_bytes: U64,
    /// The unit of writes.
    pub block_bytes: U32,
    /// The node.
    pub node: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The incarnation of the node's log.
    pub incarnation: U64,
}
