//! Bodies of the messages of a stream: a client subscribes from a sequence, and the node pushes what is committed.
//!
//! A [`SubscribeBody`] is cumulative, and says the same however often it comes: what the client has, from where it wants to go
//! on, and how many datagrams it may be sent. A stream goes in rounds. To have lost something, or to come back, is to begin
//! another one at the first sequence that is missing; what belongs to an earlier round is late. Datagrams are numbered through
//! all rounds, so that credit is a number, too.
//!
//! A node answers an address that has not shown that it hears with an empty [`Kind::StreamData`](crate::frame::Kind::StreamData)
//! alone, which is no longer than the question and carries a cookie, and keeps nothing of it: who forges addresses neither
//! amplifies anything nor fills a table.

use crate::batch::{BATCH_HEADER_BYTES, ENTRY_PREFIX_BYTES, RUN_HEADER_BYTES};
use crate::client::{ReadEntry, ReadReplyBody};
use crate::numbered::numbered;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Begins a stream, goes on with it after a gap or elsewhere, gives it credit, keeps it alive, or ends it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SubscribeBody {
    /// The client's random number for the stream; not zero.
    pub stream: U64,
    /// The first sequence that the client does not have, from 1.
    pub next: U64,
    /// What the node's last word carried; 0: none came yet.
    pub cookie: U64,
    /// The highest position of a datagram that came.
    pub received: U64,
    /// The highest position that may be sent.
    pub credit: U64,
    /// The client's count of beginnings. A higher one than the node knows begins at `next`.
    pub round: U32,
    /// 1: the client leaves.
    pub leaves: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl SubscribeBody {
    /// A body as it may come; `None`: it names no stream, no sequence, or says what this version does not know.
    pub fn parse(payload: &[u8]) -> Option<SubscribeBody> {
        let body = SubscribeBody::read_from_bytes(payload).ok()?;
        let named = body.stream.get() != 0 && body.next.get() != 0;
        (named && body.leaves <= 1 && body.reserved == [0; 3]).then_some(body)
    }
}

/// Starts a [`Kind::StreamData`](crate::frame::Kind::StreamData); a [`crate::client::ReadReplyBody`], whose `request_id` is the
/// stream, and its entries follow. Without entries its `first_sequence` is the one that will be sent next. The frame's `slot` is the
/// client's round: the longest entry has to fit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct StreamHead {
    /// What the client is to show when it subscribes.
    pub cookie: U64,
    /// The datagram's number in the stream; without entries that of the last one that had some.
    pub position: U64,
}

// An entry that filled a batch fills such a datagram.
const _: () = assert!(
    size_of::<StreamHead>() + size_of::<ReadReplyBody>() + size_of::<ReadEntry>()
        <= BATCH_HEADER_BYTES + RUN_HEADER_BYTES + ENTRY_PREFIX_BYTES
);

/// The node has ended a stream, or does not begin it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct StreamEndBody {
    /// The stream.
    pub stream: U64,
    /// What would have been sent next; the first sequence that is left, if what would have been was trimmed.
    pub next: U64,
    /// The round that is ended.
    pub round: U32,
    /// [`StreamEnd`].
    pub reason: u8,
    /// [`crate::mode::Mode`] of the node.
    pub mode: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

numbered! {
    /// Why a node ends a stream. The numbers are part of the format.
    StreamEnd {
        /// Entries waited, and the client gave no credit for them.
        Slow = 1, "SLOW";
        /// The client was silent.
        TimedOut = 2, "TIMED_OUT";
        /// The node has as many subscribers as it may have.
        TooMany = 3, "TOO_MANY";
        /// What comes next was trimmed, in the whole group: [`StreamEndBody::next`] is the first sequence that can be read.
        Trimmed = 4, "TRIMMED";
        /// The node catches up, and shows nothing meanwhile.
        Recovering = 5, "RECOVERING";
        /// The node is being stopped.
        Shutdown = 6, "SHUTDOWN";
        /// The client left.
        Closed = 7, "CLOSED";
        /// The node cannot read what comes next: its log is damaged there.
        Unreadable = 8, "UNREADABLE";
        /// The node applies nothing any more: it has halted, was removed from the group, or waits to be added to it.
        Halted = 9, "HALTED";
    }
}
