//! The frame: a 64-byte header (one cache line) and a payload, the same on the wire and on disk.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of header bytes 4..64 |
//! | 4 | 4 | CRC-32C of the payload |
//! | 8 | 8 | zero; with `key_id` ≠ 0 bytes 0..16 are the datagram's MAC (not yet in use) |
//! | 16 | 1 | low four bits: [`VERSION`]; high four: [`REVISION`] |
//! | 17 | 1 | [`Kind`] |
//! | 18 | 1 | flags |
//! | 19 | 1 | key id; 0 = checksums only |
//! | 20 | 1 | the node that wrote this frame |
//! | 21 | 1 | group |
//! | 22 | 2 | payload length in bytes |
//! | 24 | 4 | cluster id |
//! | 28 | 4 | configuration epoch |
//! | 32 | 8 | slot (or what the kind says) |
//! | 40 | 8 | ballot, packed |
//! | 48 | 8 | the writer's promised ballot, packed (or what the kind says) |
//! | 56 | 8 | Lsn of the record; in a message the Lsn up to which the sender vouches for its log |

use crate::ids::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Slot};
#[cfg(feature = "checksum")]
use crate::mutant::mutant;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The format of frames, records and segments: what is there means the same in all releases of it, and no body grows or shrinks. A
/// release of another format is not understood: its frames are dropped and counted, its files stop the start.
pub const VERSION: u8 = 1;
/// The revision of the format: a later one has more kinds of frames and more flags. Who knows an earlier one skips such frames, goes on
/// with those behind them, and ignores such flags; so releases of one format may be mixed, and upgraded node by node. The sender's is
/// in each header ([`revision_of`]). Records of the log carry it too, as they are sent
/// from where they lie, and are read whatever it is: a release that writes what an earlier one cannot recover from writes another format.
pub const REVISION: u8 = 0;
/// The bits of a header's version byte that are the format.
pub const VERSION_BITS: u8 = 0x0f;
/// Where that byte stands in a header.
pub const VERSION_OFFSET: usize = 16;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// Frames start at multiples of this, in a datagram, an arena and a log.
pub const ALIGN: usize = 64;
/// The longest payload that a header can describe, a multiple of [`ALIGN`].
pub const MAX_PAYLOAD_BYTES: usize = 65_472;

/// What a frame is. Records (below 32) may also travel as messages; 32..64 pass between members, 64.. to and from clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// On the wire: an accept request. On disk: a value accepted in `ballot` at `slot`. Payload: a batch.
    Accept = 1,
    /// A value learnt as chosen from a peer, at `slot`. Payload: a batch.
    Learnt = 2,
    /// Slots known chosen, with the evidence. Payload: [`crate::record::ChosenRange`]s. On the wire: the commit message.
    Chosen = 3,
    /// A promise (`promised` says what). No payload.
    Promised = 4,
    /// A configuration: members, quorums. Payload: [`crate::record::Configuration`].
    Configuration = 5,
    /// Every founding member confirmed that the group is new. Payload: [`crate::record::Incarnation`]s.
    Founded = 6,
    /// The prefix below `slot` was removed (room for retention).
    Truncated = 7,
    /// A retention limit agreed through the log (room for retention).
    Retention = 8,
    /// A snapshot covers the slots up to `slot` (room for snapshots).
    SnapshotMark = 9,
    /// The highest Lsn counted from each peer. Payload: [`crate::record::PeerMark`]s.
    PeerMarks = 10,
    /// Damage no longer hides anything. Payload: [`crate::record::RepairedRun`]s, which Lsns it had taken.
    Repaired = 11,
    /// The end of a flush. Payload: [`crate::record::Trailer`] and its entries.
    Trailer = 12,
    /// The session table's state (room for snapshots in the log).
    Session = 13,
    /// The first block of a segment file. Payload: [`crate::record::SegmentHeader`].
    Segment = 14,
    /// What the writer's word rests on from here on. Payload: [`crate::record::DurabilityMark`].
    Durability = 15,
    /// From here on the writer may have granted leases as long as this. Payload: [`crate::record::LeaseMark`].
    Lease = 18,

    /// Phase 1a. `slot`: the candidate's chosen prefix.
    Prepare = 32,
    /// Phase 1b, one part. Payload: [`crate::peer::PromiseBody`] and its reports.
    Promise = 33,
    /// The sender has promised the higher ballot in `promised`.
    Refused = 34,
    /// Phase 2b. Payload: [`crate::peer::AcceptedBody`].
    Accepted = 35,
    /// Slots that the sender misses in this ballot. Payload: [`crate::peer::SlotRange`].
    Missing = 36,
    /// The leader lives. `slot`: its chosen prefix. Payload: [`crate::peer::Probe`].
    Heartbeat = 37,
    /// The answer, with the probe. `slot`: the sender's prefix.
    HeartbeatAck = 38,
    /// Asks for chosen values. Payload: [`crate::peer::SlotRange`].
    FetchChosen = 39,
    /// Asks for the value accepted in `ballot` at `slot`.
    FetchValue = 40,
    /// The value accepted in `ballot` at `slot`. Payload: a batch.
    Value = 41,
    /// A node presents itself. `slot`: its prefix. Payload: [`crate::peer::HelloBody`].
    Hello = 42,
    /// The answer. Payload: [`crate::peer::HelloAckBody`].
    HelloAck = 43,
    /// Asks the leader for the chosen watermark. Payload: [`crate::peer::Round`].
    ReadIndex = 44,
    /// The answer, with the round. `slot`: the watermark.
    ReadIndexAck = 45,
    /// The leader of `ballot` holds no lease any more that rests on a heartbeat up to this one. Payload: [`crate::peer::ReleaseBody`].
    Release = 46,
    /// The leader of `ballot` hands over to the receiver, if that holds all slots up to `slot`. No payload.
    TakeOver = 47,
    /// Would the receiver promise to the sender, who hears no leader? Payload: [`crate::peer::Round`].
    PreVote = 48,
    /// The answer; `promised` is the sender's. Payload: [`crate::peer::PreVoteAckBody`].
    PreVoteAck = 49,
    /// What the sender's state is after some slots. Payload: [`crate::peer::StateRow`]s.
    StateMarks = 50,
    /// A snapshot that whoever lags behind may have. Payload: [`crate::peer::SnapshotId`].
    SnapshotOffer = 51,
    /// Asks for chunks of a snapshot's state. Payload: [`crate::peer::FetchChunks`].
    FetchChunks = 52,
    /// One of them. Payload: [`crate::peer::ChunkHead`] and its bytes.
    Chunk = 53,
    /// Beside a question: where the members of the sender's configuration are reached. Payload: a [`crate::configuration`].
    Whereabouts = 54,
    /// The one who is told is no member, going by the sender's epoch. No payload.
    NotMember = 55,

    /// A run of entries. Payload: [`crate::batch::RunHeader`] and entries.
    Append = 64,
    /// Opens a session. Payload: a run without entries.
    OpenSession = 65,
    /// Asks for entries. Payload: [`crate::client::ReadBody`].
    Read = 66,
    /// Asks for [`crate::client::StatusBody`].
    Status = 67,
    /// Asks who chose a slot, and in which ballot. Payload: [`crate::evidence::EvidenceBody`].
    Evidence = 70,
    /// Asks the group's state machine. Payload: [`crate::client::ReadBody`], whose `from_sequence` is how far at least must have
    /// been applied, and the question.
    Query = 72,
    /// Asks for the entries below a sequence to be given up. Payload: [`crate::trim::TrimBody`].
    Trim = 74,
    /// Asks the leader to hand over to another member. Payload: [`crate::transfer::TransferBody`].
    TransferLeader = 73,
    /// Begins a stream, or goes on with it. Payload: [`crate::stream::SubscribeBody`].
    Subscribe = 76,
    /// Who are the members? No payload.
    Members = 75,
    /// A change of the members. Payload: [`crate::members::ChangeBody`].
    ChangeMembers = 77,
    /// Entries were sequenced. Payload: [`crate::client::AckHeader`], [`crate::client::AckRun`]s and receipts.
    Appended = 80,
    /// A request was refused. Payload: [`crate::client::RefusalBody`].
    Rejected = 81,
    /// The session is open. Payload: [`crate::client::SessionBody`].
    SessionOpened = 82,
    /// Entries read. Payload: [`crate::client::ReadReplyBody`] and entries.
    ReadReply = 83,
    /// Payload: [`crate::client::StatusBody`], counters, stages and a [`crate::picture::PictureBody`], if there is room.
    StatusReply = 84,
    /// Payload: [`crate::evidence::EvidenceReplyBody`].
    EvidenceReply = 90,
    /// A state machine's answer. Payload: [`crate::client::ReadReplyBody`] without entries, and the answer.
    QueryReply = 92,
    /// Entries are given up. Payload: [`crate::trim::TrimReplyBody`].
    TrimReply = 94,
    /// What became of a hand-over. Payload: [`crate::transfer::TransferReplyBody`].
    TransferReply = 93,
    /// Entries of a stream. Payload: [`crate::stream::StreamHead`], [`crate::client::ReadReplyBody`] and entries.
    StreamData = 96,
    /// A stream is over. Payload: [`crate::stream::StreamEndBody`].
    StreamEnd = 97,
    /// The members. Payload: [`crate::members::MembersReplyBody`] and what it says.
    MembersReply = 98,
}

/// The kinds by number: parsing looks one up for every frame.
const KINDS: [Option<Kind>; 256] = {
    let mut kinds = [None; 256];
    let mut i = 0;
    while i < Kind::ALL.len() {
        kinds[Kind::ALL[i] as usize] = Some(Kind::ALL[i]);
        i += 1;
    }
    kinds
};

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Kind; 63] = [
        Kind::Accept,
        Kind::Learnt,
        Kind::Chosen,
        Kind::Promised,
        Kind::Configuration,
        Kind::Founded,
        Kind::Truncated,
        Kind::Retention,
        Kind::SnapshotMark,
        Kind::PeerMarks,
        Kind::Repaired,
        Kind::Trailer,
        Kind::Session,
        Kind::Segment,
        Kind::Durability,
        Kind::Lease,
        Kind::Prepare,
        Kind::Promise,
        Kind::Refused,
        Kind::Accepted,
        Kind::Missing,
        Kind::Heartbeat,
        Kind::HeartbeatAck,
        Kind::FetchChosen,
        Kind::FetchValue,
        Kind::Value,
        Kind::Hello,
        Kind::HelloAck,
        Kind::ReadIndex,
        Kind::ReadIndexAck,
        Kind::Release,
        Kind::TakeOver,
        Kind::PreVote,
        Kind::PreVoteAck,
        Kind::StateMarks,
        Kind::SnapshotOffer,
        Kind::FetchChunks,
        Kind::Chunk,
        Kind::Whereabouts,
        Kind::NotMember,
        Kind::Append,
        Kind::OpenSession,
        Kind::Read,
        Kind::Status,
        Kind::Evidence,
        Kind::Query,
        Kind::TransferLeader,
        Kind::Trim,
        Kind::Members,
        Kind::Subscribe,
        Kind::ChangeMembers,
        Kind::Appended,
        Kind::Rejected,
        Kind::SessionOpened,
        Kind::ReadReply,
        Kind::StatusReply,
        Kind::EvidenceReply,
        Kind::QueryReply,
        Kind::TransferReply,
        Kind::TrimReply,
        Kind::StreamData,
        Kind::StreamEnd,
        Kind::MembersReply,
    ];

    /// The kind with this number.
    pub fn from_u8(byte: u8) -> Option<Kind> {
        KINDS[usize::from(byte)]
    }
}

/// Frame flags.
pub mod flags {
    /// An accepted record: the leader of its ballot proposed it as the barrier above all that phase 1 reported.
    pub const BARRIER: u8 = 1;
    /// A member's message: the sender vouches for records that it holds in memory only (memory durability).
    pub const MEMORY: u8 = 2;
    /// A client's Append: the acknowledgement is to carry a [`crate::client::Receipt`].
    pub const RECEIPT: u8 = 4;
    /// A value: it is a configuration ([`crate::batch::RunKind::Configuration`]).
    pub const CONFIGURATION: u8 = 8;
    /// A log's trailer: it ends no flush, but keeps a mark while a torn tail is cut.
    pub const CUT_MARK: u8 = 16;
}

/// The header as it lies in memory; see the module's table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct RawHeader {
    header_crc: U32,
    payload_crc: U32,
    mac_rest: U64,
    version: u8,
    kind: u8,
    flags: u8,
    key_id: u8,
    from: u8,
    group: u8,
    length: U16,
    cluster: U32,
    epoch: U32,
    slot: U64,
    ballot: U64,
    promised: U64,
    lsn: U64,
}

/// A header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// See [`flags`].
    pub flags: u8,
    /// The writer.
    pub from: NodeId,
    /// The group.
    pub group: GroupId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The configuration that governed the writer.
    pub epoch: Epoch,
    /// The slot, or what the kind says.
    pub slot: Slot,
    /// The ballot, or zero.
    pub ballot: Ballot,
    /// The writer's promise, or what the kind says.
    pub promised: Ballot,
    /// The record's number; in a message the Lsn up to which the sender vouches for its log: its durable Lsn, but under
    /// memory durability.
    pub lsn: Lsn,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than the header or its length field demand.
    Truncated,
    /// Another format version.
    Version(u8),
    /// An unknown kind or key id.
    Kind(u8),
    /// A checksum of header or payload does not match.
    Checksum,
    /// A body that its kind does not allow.
    Body,
}

/// A frame whose checksums hold, borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// The payload's checksum, kept so that the payload can be framed again without reading it.
    pub payload_crc: u32,
    /// The payload.
    pub payload: &'a [u8],
}

/// `bytes` rounded up to where the next frame may start.
pub const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// The bytes that a frame with this payload occupies, with padding.
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    aligned(HEADER_BYTES + payload_bytes)
}

#[cfg(feature = "checksum")]
pub use crate::crc::{checksum, checksum_on};

/// Writes `header` for a payload with this length and checksum into the first 64 bytes of `out`.
///
/// # Panics
/// If `out` is shorter than a header or the payload longer than [`MAX_PAYLOAD_BYTES`]: a bug of the caller.
#[cfg(feature = "checksum")]
pub fn write_header(out: &mut [u8], header: &Header, payload_bytes: usize, payload_crc: u32) -> u32 {
    assert!(payload_bytes <= MAX_PAYLOAD_BYTES, "a payload of {payload_bytes} bytes does not fit a frame");
    let mut raw = RawHeader {
        header_crc: U32::ZERO,
        payload_crc: U32::new(payload_crc),
        mac_rest: U64::ZERO,
        version: VERSION | REVISION << VERSION_BITS.count_ones(),
        kind: header.kind as u8,
        flags: header.flags,
        key_id: 0,
        from: header.from.0,
        group: header.group.0,
        length: U16::new(payload_bytes as u16),
        cluster: U32::new(header.cluster.0),
        epoch: U32::new(header.epoch.0),
        slot: U64::new(header.slot.0),
        ballot: U64::new(header.ballot.pack()),
        promised: U64::new(header.promised.pack()),
        lsn: U64::new(header.lsn.0),
    };
    let crc = checksum(&raw.as_bytes()[4..]);
    raw.header_crc = U32::new(crc);
    out[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    crc
}

/// Writes a whole frame into `out`, padding included; returns the bytes used (a multiple of [`ALIGN`]).
///
/// # Panics
/// As [`write_header`], and if the frame does not fit `out`.
#[cfg(feature = "checksum")]
pub fn write_frame(out: &mut [u8], header: &Header, payload: &[u8]) -> usize {
    let end = HEADER_BYTES + payload.len();
    out[HEADER_BYTES..end].copy_from_slice(payload);
    write_header(out, header, payload.len(), checksum(payload));
    let total = aligned(end);
    out[end..total].fill(0);
    total
}

/// Parses the frame at the start of `bytes`: version, kind, length and both checksums are verified.
#[cfg(feature = "checksum")]
pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (header, payload_crc, payload_bytes) = parse_header(bytes)?;
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + payload_bytes).ok_or(FrameError::Truncated)?;
    if checksum(payload) != payload_crc && !mutant("payload_checksum_ignored") {
        return Err(FrameError::Checksum);
    }
    Ok(Frame { header, payload_crc, payload })
}

/// Parses and verifies the header alone: (header, the payload's checksum, the payload's length).
#[cfg(feature = "checksum")]
pub fn parse_header(bytes: &[u8]) -> Result<(Header, u32, usize), FrameError> {
    let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
    let is_read = raw.version & VERSION_BITS == VERSION;
    if !is_read || (raw.version != VERSION && mutant("later_revision_refused")) {
        return Err(FrameError::Version(raw.version & VERSION_BITS));
    }
    if checksum(&raw.as_bytes()[4..]) != raw.header_crc.get() {
        return Err(FrameError::Checksum);
    }
    let kind = Kind::from_u8(raw.kind).filter(|_| raw.key_id == 0).ok_or(FrameError::Kind(raw.kind))?;
    if usize::from(raw.length.get()) > MAX_PAYLOAD_BYTES || raw.from >= NodeId::LIMIT {
        return Err(FrameError::Body);
    }
    let header = Header {
        kind,
        flags: raw.flags,
        from: NodeId(raw.from),
        group: GroupId(raw.group),
        cluster: ClusterId(raw.cluster.get()),
        epoch: Epoch(raw.epoch.get()),
        slot: Slot(raw.slot.get()),
        ballot: Ballot::unpack(raw.ballot.get()),
        promised: Ballot::unpack(raw.promised.get()),
        lsn: Lsn(raw.lsn.get()),
    };
    Ok((header, raw.payload_crc.get(), usize::from(raw.length.get())))
}

/// The revision that a datagram's sender speaks, going by its first frame.
pub fn revision_of(datagram: &[u8]) -> u8 {
    datagram.get(VERSION_OFFSET).map_or(REVISION, |version| version >> VERSION_BITS.count_ones())
}

/// The bytes of a frame whose kind is not known here, but whose header is whole: where the next one starts.
#[cfg(feature = "checksum")]
pub fn unknown_frame_bytes(bytes: &[u8], error: FrameError) -> Option<usize> {
    let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
    matches!(error, FrameError::Kind(_)).then(|| frame_bytes(raw.length.get().into()))
}

/// The frames of one datagram. Ends after the first error, but for kinds that are not known.
#[cfg(feature = "checksum")]
pub struct Frames<'a> {
    rest: &'a [u8],
}

#[cfg(feature = "checksum")]
impl<'a> Frames<'a> {
    /// Over the frames in `datagram`.
    pub fn new(datagram: &'a [u8]) -> Frames<'a> {
        Frames { rest: datagram }
    }
}

#[cfg(feature = "checksum")]
impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = parse(self.rest);
        let bytes = match &parsed {
            Ok(frame) => Some(frame_bytes(frame.payload.len())),
            Err(error) => unknown_frame_bytes(self.rest, *error),
        };
        self.rest = bytes.and_then(|bytes| self.rest.get(bytes..)).unwrap_or(&[]);
        Some(parsed)
    }
}
