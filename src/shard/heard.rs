//! What members' frames say that the core never sees: transfers of state, and where later members are reached.

use super::install::Chunks;
use super::jobs::{Done, Job};
use super::{Fatal, Shard, codec};
use synod_ring::{Io, RxBuf};
use synod_wal::partial::Whole;
use synod_wire::NodeId;
use synod_wire::frame::{Frame, FrameError, Kind};

/// See the module. Small, for each frame is looked at: longer bodies are parsed where they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A snapshot may be had.
    Offer(Whole),
    /// Chunks are wanted.
    Fetch(Chunks),
    /// A chunk came: its number; its bytes are behind the head.
    Chunk(Whole, u64),
    /// Where the members of the sender's configuration are reached.
    Whereabouts,
}

impl Heard {
    /// Of a frame, if it is none for the core.
    pub(super) fn parse(frame: &Frame<'_>) -> Option<Result<Heard, FrameError>> {
        match frame.header.kind {
            Kind::SnapshotOffer => Some(codec::decode_offer(frame.payload).map(Heard::Offer)),
            Kind::FetchChunks => Some(codec::decode_fetch(frame.header.from, frame.payload).map(Heard::Fetch)),
            Kind::Chunk => Some(codec::decode_chunk(frame.payload).map(|(whole, number)| Heard::Chunk(whole, number))),
            Kind::Whereabouts => Some(Ok(Heard::Whereabouts)),
            _ => None,
        }
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Such a frame; where its payload starts in the datagram, and its bytes.
    pub(super) fn on_heard(
        &mut self,
        from: NodeId,
        heard: Heard,
        buf: &RxBuf,
        (start, bytes): (usize, usize),
    ) -> Result<(), Fatal> {
        match heard {
            Heard::Offer(whole) => self.on_offer(from, whole),
            Heard::Fetch(chunks) => self.on_fetch_chunks(chunks),
            Heard::Chunk(whole, number) => self.on_chunk(from, (whole, number), buf, (start, bytes)),
            Heard::Whereabouts => return self.on_whereabouts(from, buf, (start, bytes)),
        }
        Ok(())
    }
}
