//! What a node says to a client, parsed at the edge: every length and count is checked here, once, and trusted by the
//! cores. Also the header that every request carries. No state; called by the cores and by [`crate::query`].

use std::net::{Ipv4Addr, SocketAddrV4};
use synod_wire::client::{
    AckHeader, AckRun, ReadEntry, ReadReplyBody, Receipt, Refusal, RefusalBody, SessionBody, StageRow, StatusBody,
};
use synod_wire::evidence::EvidenceReplyBody;
use synod_wire::frame::{Frame, FrameError, HEADER_BYTES, Header, Kind, aligned, checksum, write_header};
use synod_wire::guarantee::{Guarantee, GuaranteeBytes};
use synod_wire::picture::PictureBody;
use synod_wire::stream::{StreamEnd, StreamEndBody, StreamHead};
use synod_wire::transfer::TransferReplyBody;
use synod_wire::trim::{TrimLimit, TrimReplyBody};
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Slot};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A reply, borrowed from its datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply<'a> {
    Appended(AckHeader, &'a [AckRun], &'a [Receipt]),
    Rejected(Rejection),
    SessionOpened(SessionBody),
    Read(ReadReplyBody, ReadEntries<'a>),
    /// Round, head, body, entries.
    Stream(u64, StreamHead, ReadReplyBody, ReadEntries<'a>),
    StreamEnd(StreamEndBody, StreamEnd),
    Query(ReadReplyBody, &'a [u8]),
    Status(StatusBody, &'a [U64], &'a [StageRow], Option<PictureBody>),
    Evidence(EvidenceReplyBody),
    Trimmed(TrimReplyBody, TrimLimit),
    Transfer(TransferReplyBody),
}

/// What a reply promises. What this version has no name for, it does not rely on.
pub(crate) fn told(guarantee: GuaranteeBytes) -> Guarantee {
    guarantee.decode().unwrap_or(Guarantee::NONE)
}

/// A refusal with its fields checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) refusal: Refusal,
    pub(crate) client_id: u128,
    pub(crate) reference: u64,
    pub(crate) detail: u64,
    pub(crate) retry_after_us: u32,
    pub(crate) leader: Option<SocketAddrV4>,
}

/// The entries of a read reply, checked to be complete and as many as the body says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadEntries<'a> {
    rest: &'a [u8],
}

impl<'a> ReadEntries<'a> {
    fn parse(bytes: &'a [u8], entries: u16) -> Result<ReadEntries<'a>, FrameError> {
        let all = ReadEntries { rest: bytes };
        let mut walk = all;
        for _ in 0..entries {
            walk.next().ok_or(FrameError::Truncated)?;
        }
        if walk.rest.is_empty() { Ok(all) } else { Err(FrameError::Body) }
    }

    /// The bytes, to be kept and walked later.
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for ReadEntries<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<(u64, &'a [u8])> {
        let (timestamp_ns, payload, rest) = split_read_entry(self.rest)?;
        self.rest = rest;
        Some((timestamp_ns, payload))
    }
}

/// The entry at the start of `bytes`: timestamp, payload, what follows.
pub(crate) fn split_read_entry(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (head, rest) = ReadEntry::read_from_prefix(bytes).ok()?;
    let (payload, rest) = rest.split_at_checked(usize::from(head.length.get()))?;
    Some((head.timestamp_ns.get(), payload, rest))
}

impl<'a> Reply<'a> {
    /// Parses a frame's payload by its kind; a kind that no client takes is an error.
    pub(crate) fn parse(frame: &Frame<'a>) -> Result<Reply<'a>, FrameError> {
        let payload = frame.payload;
        match frame.header.kind {
            Kind::Appended => {
                let (header, rest) = read::<AckHeader>(payload)?;
                let (runs, rest) = <[AckRun]>::ref_from_prefix_with_elems(rest, usize::from(header.runs.get()))
                    .map_err(|_| FrameError::Truncated)?;
                let (receipts, rest) = rows(rest, header.receipts)?;
                nothing_left(rest)?;
                Ok(Reply::Appended(header, runs, receipts))
            }
            Kind::Rejected => {
                let (body, rest) = read::<RefusalBody>(payload)?;
                nothing_left(rest)?;
                Ok(Reply::Rejected(Rejection::parse(&body)?))
            }
            Kind::SessionOpened => {
                let (body, rest) = read::<SessionBody>(payload)?;
                nothing_left(rest)?;
                Ok(Reply::SessionOpened(body))
            }
            Kind::ReadReply => {
                let (body, entries) = entries(payload)?;
                Ok(Reply::Read(body, entries))
            }
            Kind::StreamData => {
                let (head, rest) = read::<StreamHead>(payload)?;
                let (body, entries) = entries(rest)?;
                Ok(Reply::Stream(frame.header.slot.0, head, body, entries))
            }
            Kind::StreamEnd => {
                let (body, rest) = read::<StreamEndBody>(payload)?;
                nothing_left(rest)?;
                Ok(Reply::StreamEnd(body, StreamEnd::from_u8(body.reason).ok_or(FrameError::Body)?))
            }
            Kind::TrimReply => {
                let (body, rest) = read::<TrimReplyBody>(payload)?;
                nothing_left(rest)?;
                Ok(Reply::Trimmed(body, TrimLimit::from_u8(body.limit).ok_or(FrameError::Body)?))
            }
            Kind::QueryReply => {
                let (body, answer) = read::<ReadReplyBody>(payload)?;
                Ok(Reply::Query(body, answer))
            }
            Kind::StatusReply => {
                let (body, rest) = read::<StatusBody>(payload)?;
                let (counters, rest) = <[U64]>::ref_from_prefix_with_elems(rest, usize::from(body.counters))
                    .map_err(|_| FrameError::Truncated)?;
                let (stages, rest) = rows(rest, body.stages)?;
                let picture = match rest {
                    [] => None,
                    rest => Some(PictureBody::parse(rest).ok_or(FrameError::Body)?),
                };
                Ok(Reply::Status(body, counters, stages, picture))
            }
            Kind::EvidenceReply => Ok(Reply::Evidence(EvidenceReplyBody::parse(payload)?)),
            Kind::TransferReply => Ok(Reply::Transfer(TransferReplyBody::parse(payload)?)),
            other => Err(FrameError::Kind(other as u8)),
        }
    }
}

/// Entries, and what is said of them.
fn entries(payload: &[u8]) -> Result<(ReadReplyBody, ReadEntries<'_>), FrameError> {
    let (body, rest) = read::<ReadReplyBody>(payload)?;
    let entries = ReadEntries::parse(rest, body.entries.get())?;
    let end = body.first_sequence.get().checked_add(u64::from(body.entries.get()));
    end.ok_or(FrameError::Body)?;
    Ok((body, entries))
}

impl Rejection {
    fn parse(body: &RefusalBody) -> Result<Rejection, FrameError> {
        let leader = SocketAddrV4::new(Ipv4Addr::from(body.leader_ip), body.leader_port.get());
        let usable = body.has_leader == 1 && leader.port() != 0 && !leader.ip().is_unspecified();
        Ok(Rejection {
            refusal: Refusal::from_u8(body.refusal).ok_or(FrameError::Body)?,
            client_id: body.client_id.get(),
            reference: body.reference.get(),
            detail: body.detail.get(),
            retry_after_us: body.retry_after_us.get(),
            leader: usable.then_some(leader),
        })
    }
}

fn read<T: FromBytes>(bytes: &[u8]) -> Result<(T, &[u8]), FrameError> {
    T::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)
}

fn rows<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8], count: u8) -> Result<(&[T], &[u8]), FrameError> {
    <[T]>::ref_from_prefix_with_elems(bytes, usize::from(count)).map_err(|_| FrameError::Truncated)
}

fn nothing_left(rest: &[u8]) -> Result<(), FrameError> {
    if rest.is_empty() { Ok(()) } else { Err(FrameError::Body) }
}

/// Frames the payload that already lies in `out` behind the header's place; returns the datagram's length. `request_id`
/// goes into the header's `slot`, for requests that have no body of their own.
pub(crate) fn finish_request(
    out: &mut [u8],
    (kind, flags): (Kind, u8),
    cluster: ClusterId,
    group: GroupId,
    request_id: u64,
    payload_bytes: usize,
) -> usize {
    let header = Header {
        kind,
        flags,
        from: NodeId(0),
        group,
        cluster,
        epoch: Epoch(0),
        slot: Slot(request_id),
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn::ZERO,
    };
    let end = HEADER_BYTES + payload_bytes;
    let crc = checksum(&out[HEADER_BYTES..end]);
    write_header(out, &header, payload_bytes, crc);
    let total = aligned(end);
    out[end..total].fill(0);
    total
}
