//! Bodies of the messages between members. Ballot, slot, promise and Lsn travel in the frame header.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Starts a [`crate::frame::Kind::Promise`]; [`PromiseReport`]s follow. The header's slot is the sender's prefix: all
/// slots up to it are held and known chosen.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PromiseBody {
    /// This part, from 0.
    pub part: U16,
    /// Parts in all; the promise counts only when each has come.
    pub parts: U16,
    /// Reports in this part.
    pub reports: U16,
    /// 1: damage hides what was accepted at every slot above the prefix that is not reported.
    pub unknown: u8,
    /// Zero.
    pub reserved: u8,
}

/// A slot above the prefix in which the sender accepted (or learnt) a value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PromiseReport {
    /// The slot.
    pub slot: U64,
    /// The ballot it was accepted in, packed.
    pub ballot: U64,
    /// [`report_state`].
    pub state: u8,
    /// 1: the value is a configuration.
    pub configures: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// What a [`PromiseReport`] says.
pub mod report_state {
    /// Accepted in `ballot`.
    pub const ACCEPTED: u8 = 0;
    /// Known chosen; the value is the one held in `ballot`.
    pub const CHOSEN: u8 = 1;
    /// Damage hides what was accepted here.
    pub const UNKNOWN: u8 = 2;
}

/// Slots above the watermark that one [`AcceptedBody`] can name.
pub const ACCEPTED_BITS: u64 = 256;

/// Starts and ends an [`crate::frame::Kind::Accepted`]. The header's slot is the contiguous watermark: every slot up to
/// it was accepted in the header's ballot or is known chosen by the sender.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct AcceptedBody {
    /// Bit i: the slot watermark + 1 + i too.
    pub bits: [U64; 4],
}

/// Slots `first..=last`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SlotRange {
    /// The first slot.
    pub first: U64,
    /// The last slot.
    pub last: U64,
}

/// A heartbeat's own number, given back in the answer. What proves that a leader still leads is an answer to a heartbeat that
/// left late enough, and a number tells which it was; a clock reading would not survive a pause.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Probe {
    /// Counted from 1 in each ballot.
    pub number: U64,
    /// In a heartbeat the lease that it asks for, in its answer what was granted when it came; nanoseconds, 0: none.
    pub lease_ns: U64,
}

/// The lease that a leader gave up.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ReleaseBody {
    /// The last heartbeat that asked for a lease in this ballot.
    pub probe: U64,
}

/// Which of the asker's rounds of questions a [`crate::frame::Kind::ReadIndex`] or [`crate::frame::Kind::PreVote`] is of, given
/// back in the answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Round {
    /// The number that the asker drew at its start: an answer to an earlier life of it must not answer this one.
    pub start: U64,
    /// The asker's round.
    pub round: U64,
}

/// The answer to a pre-vote.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PreVoteAckBody {
    /// As in the question.
    pub asked: Round,
    /// 1: the sender hears no leader either, and may promise to the asker.
    pub granted: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// A node presents itself after its start. The header's Lsn is its durable Lsn.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct HelloBody {
    /// Which life of the sender's log this is; drawn when the directory was formatted.
    pub incarnation: U64,
    /// 1: the sender's group is not founded: it has never voted.
    pub fresh: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// A number drawn at the sender's start.
    pub start: U64,
}

/// What the receiver of a [`HelloBody`] knows. The header's `from` is the one who answers.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct HelloAckBody {
    /// The incarnation of the one who answers.
    pub incarnation: U64,
    /// The incarnation of the asker that the answer speaks to.
    pub to_incarnation: U64,
    /// The start of the asker that the answer speaks to: an old answer, come late, must not confirm a later start.
    pub to_start: U64,
    /// The asker's incarnation in the answerer's founding record; 0 if the answerer is fresh too.
    pub founded_with: U64,
    /// The highest Lsn that the answerer has counted from the asker.
    pub counted: U64,
}

/// What the sender's state is after a slot: as many follow one another as the frame holds, [`MAX_STATE_ROWS`] at most, the
/// newest last.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct StateRow {
    /// The slot, from 1.
    pub slot: U64,
    /// The checksum of the state, as a snapshot has it.
    pub crc: U32,
    /// Zero.
    pub reserved: U32,
}

/// The most rows in one message.
pub const MAX_STATE_ROWS: usize = 4;

/// What a member offers to one that lags: the state that its snapshot of a slot has ([`crate::snapshot`]). Members' states after
/// the same slot are the same bytes, so that what names them names no member, and chunks of several fit together.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SnapshotId {
    /// The last slot that it has, from 1.
    pub slot: U64,
    /// Bytes of the state.
    pub state_bytes: U64,
    /// Their checksum.
    pub state_crc: U32,
    /// Zero.
    pub reserved: U32,
}

/// Bytes of a chunk, but for the last: one fits the smallest datagram that may be configured, and the outbox packs several into a
/// larger one.
pub const CHUNK_BYTES: usize = 512;

/// Asks for chunks of a state.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct FetchChunks {
    /// Of which one.
    pub id: SnapshotId,
    /// A chunk's number, from 0.
    pub first: U64,
    /// Bit i: the chunk `first + i` is wanted.
    pub wanted: U64,
}

/// Starts a [`crate::frame::Kind::Chunk`]; the bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ChunkHead {
    /// Of which state.
    pub id: SnapshotId,
    /// The chunk's number.
    pub number: U64,
}
