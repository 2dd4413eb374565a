//! The body of a snapshot: what its node applied up to a slot, and where its log goes on.
//!
//! | part | what | who has the same |
//! |---|---|---|
//! | [`Head`] | the lengths of what follows | |
//! | state | [`State`], the configuration ([`crate::configuration`]), [`SequencerRow`], the sessions ([`SessionRow`], each with its [`AnswerRow`]s) by client, the embedded machine's bytes | every member at that slot, byte for byte |
//! | facts | [`Facts`], the members' incarnations ([`Incarnation`]), the Lsns counted ([`PeerMark`]), the index ([`BlockRow`], [`ExceptionRow`]) | this node alone |
//!
//! Members are compared, and brought up to date, by the state; the facts are what recovery would know from the part of
//! the log that it need not read any more. The file around it, with its checksum, is the wal crate's.

use crate::record::{Incarnation, PeerMark};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the parts end.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Bytes of the state.
    pub state_bytes: U64,
    /// Bytes of the facts.
    pub facts_bytes: U64,
}

/// What every member has after a slot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// The last slot applied.
    pub slot: U64,
    /// The slot of the configuration; 0: the founding one.
    pub configured_at: U64,
    /// Bytes of the configuration, which follows.
    pub configuration_bytes: U32,
    /// 1: the bytes of an embedded machine end the state.
    pub embedded: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The sequencer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SequencerRow {
    /// The last sequence given.
    pub tail: U64,
    /// The last timestamp, nanoseconds since the Unix epoch.
    pub timestamp_ns: U64,
    /// The highest fencing token seen.
    pub fence: U64,
    /// Sessions ever opened.
    pub opened: U64,
    /// Entries below this sequence were trimmed; 0: none was.
    pub trimmed: U64,
    /// [`SessionRow`]s that follow, each with its answers, in the order of their clients.
    pub sessions: U32,
    /// Zero.
    pub reserved: U32,
}

/// A session; its answers follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SessionRow {
    /// The client.
    pub client_id: U128,
    /// The session's number.
    pub number: U64,
    /// The last client sequence that was decided on.
    pub last_seq: U64,
    /// The slot that used it last.
    pub last_used: U64,
    /// The log's time then.
    pub last_used_ns: U64,
    /// [`AnswerRow`]s that follow.
    pub answers: U32,
    /// Zero.
    pub reserved: U32,
}

/// The outcome of entries that were decided on together.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct AnswerRow {
    /// The client's sequence of the first.
    pub first_seq: U64,
    /// How many.
    pub entries: U64,
    /// The place of the first; or what a refusal tells.
    pub value: U64,
    /// Their timestamp.
    pub timestamp_ns: U64,
    /// [`crate::client::Decision`].
    pub decision: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// What a node knows from the part of its log that need not be read any more.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Facts {
    /// The segment from whose start on the log is to be read.
    pub from_segment: U64,
    /// The Lsn of the first record there.
    pub first_lsn: U64,
    /// The highest promise.
    pub promised: U64,
    /// The highest slot that a chosen record covers.
    pub chosen_upto: U64,
    /// The longest lease that was granted, nanoseconds.
    pub longest_lease_ns: U64,
    /// The last durability mark's Lsn; 0: there is none.
    pub durability_lsn: U64,
    /// 1: that mark says that the node's word rested on its disk.
    pub durability_synced: u8,
    /// 1: the group is founded.
    pub founded: u8,
    /// 1: this life of the log joined a group that others founded.
    pub joins: u8,
    /// Zero.
    pub reserved: u8,
    /// [`Incarnation`]s that follow.
    pub incarnations: U32,
    /// [`PeerMark`]s that follow them.
    pub marks: U32,
    /// Zero.
    pub reserved2: U32,
    /// [`BlockRow`]s that follow them.
    pub blocks: U64,
    /// [`ExceptionRow`]s that follow them.
    pub exceptions: U64,
}

/// A block of the index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct BlockRow {
    /// Its first slot.
    pub first_slot: U64,
    /// Its last slot.
    pub last_slot: U64,
    /// The tail before the first slot.
    pub tail_before: U64,
    /// The timestamp before it.
    pub timestamp_before_ns: U64,
    /// The lowest log position of a record of these slots.
    pub start_pos: U64,
    /// The end of the highest.
    pub end_pos: U64,
}

/// A run of which not every entry was sequenced.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ExceptionRow {
    /// Its slot.
    pub slot: U64,
    /// Its place in the batch.
    pub run: U32,
    /// Zero.
    pub reserved: U32,
    /// Entries at its front without a sequence from it.
    pub skip: U64,
    /// Entries after those that were sequenced.
    pub taken: U64,
}

/// The bytes of a snapshot are not what they should be: whole, but not to be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub struct Rest<'a>(pub &'a [u8]);

impl<'a> Rest<'a> {
    /// The next value.
    pub fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Result<&'a T, Malformed> {
        let (value, rest) = T::ref_from_prefix(self.0).map_err(|_| Malformed("it ends too soon"))?;
        self.0 = rest;
        Ok(value)
    }

    /// The next `count` values. What is claimed must be there: nothing is reserved on the word of a length.
    pub fn rows<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &mut self,
        count: u64,
    ) -> Result<&'a [T], Malformed> {
        let count = usize::try_from(count).map_err(|_| Malformed("a length is beyond reason"))?;
        let (rows, rest) =
            <[T]>::ref_from_prefix_with_elems(self.0, count).map_err(|_| Malformed("it ends too soon"))?;
        self.0 = rest;
        Ok(rows)
    }

    /// The next `bytes` bytes.
    pub fn bytes(&mut self, bytes: u64) -> Result<&'a [u8], Malformed> {
        self.rows::<u8>(bytes)
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

/// The two parts of a body.
pub fn parts(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut rest = Rest(body);
    let head: &Head = rest.take()?;
    let state = rest.bytes(head.state_bytes.get())?;
    let facts = rest.bytes(head.facts_bytes.get())?;
    rest.end()?;
    Ok((state, facts))
}

/// The rows behind [`Facts`].
#[derive(Clone, Copy, Debug)]
pub struct FactRows<'a> {
    /// The members' incarnations.
    pub incarnations: &'a [Incarnation],
    /// The Lsns counted from peers.
    pub marks: &'a [PeerMark],
    /// The index.
    pub blocks: &'a [BlockRow],
    /// Its exceptions.
    pub exceptions: &'a [ExceptionRow],
}

/// The facts of a whole body.
pub fn facts_of(body: &[u8]) -> Result<(&Facts, FactRows<'_>), Malformed> {
    facts(parts(body)?.1)
}

/// Reads the facts of a body.
pub fn facts(bytes: &[u8]) -> Result<(&Facts, FactRows<'_>), Malformed> {
    let mut rest = Rest(bytes);
    let facts: &Facts = rest.take()?;
    let rows = FactRows {
        incarnations: rest.rows(facts.incarnations.get().into())?,
        marks: rest.rows(facts.marks.get().into())?,
        blocks: rest.rows(facts.blocks.get())?,
        exceptions: rest.rows(facts.exceptions.get())?,
    };
    rest.end()?;
    Ok((facts, rows))
}
