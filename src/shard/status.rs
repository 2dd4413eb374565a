//! What a shard counts, and what it tells of itself.

use super::Shard;
use super::board::{Board, role_number};
use super::clients::put;
use super::jobs::{Done, Job};
use std::net::SocketAddrV4;
use std::sync::Arc;
use synod_ring::Io;
use synod_wire::batch::MIN_BATCH_BYTES;
use synod_wire::client::{Counter, Refusal, Stage, StageRow, StatusBody};
use synod_wire::frame::{FrameError, Kind};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::picture::PictureBody;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// The status without its stages and its picture, which are left out where the largest batch leaves no room for them.
const STATUS_BYTES: usize = size_of::<StatusBody>() + 8 * Counter::ALL.len();
const STAGES_BYTES: usize = Stage::ALL.len() * size_of::<StageRow>();
const PICTURE_BYTES: usize = size_of::<PictureBody>();
const _: () = assert!(STATUS_BYTES <= MIN_BATCH_BYTES);

/// Why a datagram, or the rest of it, is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Not a frame, or a body that its kind does not allow.
    Frame(FrameError),
    /// Another cluster's.
    ForeignCluster,
    /// Another group's, or not a member's.
    ForeignSender,
}

impl From<FrameError> for Bad {
    fn from(error: FrameError) -> Bad {
        Bad::Frame(error)
    }
}

/// The counter of a dropped frame.
pub(super) fn dropped(bad: Bad) -> Counter {
    match bad {
        Bad::ForeignCluster => Counter::DroppedCluster,
        Bad::ForeignSender => Counter::DroppedSender,
        Bad::Frame(FrameError::Truncated) => Counter::DroppedTruncated,
        Bad::Frame(FrameError::Version(_)) => Counter::DroppedVersion,
        Bad::Frame(FrameError::Kind(_)) => Counter::DroppedKind,
        Bad::Frame(FrameError::Checksum) => Counter::DroppedChecksum,
        Bad::Frame(FrameError::Body) => Counter::DroppedBody,
    }
}

/// The counter of a refusal.
pub(super) fn refused(refusal: Refusal) -> Counter {
    match refusal {
        Refusal::Busy => Counter::RefusedBusy,
        Refusal::NotLeader
        | Refusal::NoLeader
        | Refusal::NoLease
        | Refusal::Recovering
        | Refusal::ManualIntervention => Counter::RefusedNotLeader,
        Refusal::TooLarge => Counter::RefusedTooLarge,
        Refusal::BadQuestion => Counter::RefusedBadQuestion,
        Refusal::Trimmed => Counter::RefusedTrimmed,
        Refusal::QuorumUnavailable => Counter::RefusedQuorum,
        Refusal::SessionEvicted | Refusal::ResendFrom => Counter::RefusedSession,
    }
}

/// Microseconds of a span; what is longer than the field can say is cut.
fn lasting_us(span_ns: u64) -> U32 {
    U32::new(u32::try_from(span_ns / 1_000).unwrap_or(u32::MAX))
}

/// What a shard counts, on its board.
#[derive(Debug)]
pub(super) struct Counters(Arc<Board>);

impl Counters {
    pub(super) fn new(board: Arc<Board>) -> Counters {
        Counters(board)
    }

    pub(super) fn add(&self, counter: Counter, count: u64) {
        self.0.add(counter, count);
    }

    fn set(&self, counter: Counter, value: u64) {
        self.0.set_counter(counter, value);
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// What others count is copied.
    pub(super) fn refresh_counters(&self) {
        self.counters.set(Counter::SnapshotBytesWanted, self.pulling.wanted_bytes());
        self.counters.set(Counter::Flushes, self.log.writes());
        self.counters.set(Counter::FlushedBytes, self.log.durable_pos());
        self.counters.set(Counter::DatagramsSent, self.outbox.sent);
        self.counters.set(Counter::Subscribers, self.streams.count() as u64);
        self.counters.set(Counter::OutboxFull, self.outbox.full);
        self.counters.set(Counter::Retransmitted, self.core.resent());
        self.counters.set(Counter::FirstSequence, self.machine.first().0);
        self.counters.set(Counter::LogBytes, self.front.bytes_upto(self.log.durable_pos()));
        let reactor = self.io.stats();
        self.counters.set(Counter::Trains, reactor.trains);
        self.counters.set(Counter::TrainsReceived, reactor.trains_received);
        self.counters.set(Counter::WritesByThread, reactor.writes_by_thread);
        self.counters.set(Counter::RingEnters, reactor.enters);
        self.counters.set(Counter::RingBlocks, reactor.blocks);
        self.counters.set(Counter::Yields, reactor.yields);
        self.counters.set(Counter::YieldsLate, reactor.yields_late);
        self.counters.set(Counter::BlocksBackedOff, reactor.blocks_backed_off);
    }

    pub(super) fn send_status(&mut self, to: SocketAddrV4, request_id: u64) {
        self.write_board();
        let body = self.status_body(request_id);
        let board = self.settings.board.clone();
        let stages = if body.stages > 0 { &self.stages.rows()[..] } else { &[] };
        let fits = STATUS_BYTES + STAGES_BYTES + PICTURE_BYTES <= self.settings.max_batch_bytes;
        let picture = fits.then(|| board.picture());
        self.reply(to, Kind::StatusReply, |out| {
            let mut used = put(body.as_bytes(), out);
            for counter in Counter::ALL {
                used += put(&board.counter(*counter).to_le_bytes(), &mut out[used..]);
            }
            for row in stages {
                used += put(row.as_bytes(), &mut out[used..]);
            }
            if let Some(picture) = &picture {
                used += put(picture.as_bytes(), &mut out[used..]);
            }
            used
        });
    }

    fn status_body(&self, request_id: u64) -> StatusBody {
        let core = &self.core;
        let mode_ns = self.io.now_ns().saturating_sub(self.modes.since_ns());
        let unknown = core.unknown_slots().map_or(u32::MAX, |count| count as u32);
        StatusBody {
            request_id: U64::new(request_id),
            promised: U64::new(core.promised().pack()),
            chosen: U64::new(core.prefix().0),
            applied: U64::new(self.slots.applied().0),
            accepted: U64::new(core.highest_held().0),
            durable_lsn: U64::new(self.log.durable_lsn().0),
            durable_bytes: U64::new(self.log.durable_pos()),
            tail: U64::new(self.machine.tail().0),
            sessions: U64::new(self.machine.sessions() as u64),
            uptime_ns: U64::new(self.io.now_ns() - self.started_ns),
            core: U32::new(self.settings.core.map_or(u32::MAX, |core| core as u32)),
            role: role_number(core.role()),
            has_leader: u8::from(core.leader().is_some()),
            leader: core.leader().map_or(0, |node| node.0),
            counters: Counter::ALL.len() as u8,
            unknown_slots: U32::new(unknown),
            stages: if STATUS_BYTES + STAGES_BYTES <= self.settings.max_batch_bytes {
                Stage::ALL.len() as u8
            } else {
                0
            },
            durability: self.settings.durability as u8,
            mode: self.modes.mode() as u8,
            mode_reason: self.modes.reason() as u8,
            mode_ms: U32::new(u32::try_from(mode_ns / 1_000_000).unwrap_or(u32::MAX)),
            modes_entered: self.modes.entered().map(U32::new),
            lease_us: lasting_us(core.lease_length_ns().unwrap_or(0)),
            lease_left_us: lasting_us(self.lease_left_ns()),
            bound_left_us: lasting_us(core.bound_until_ns().saturating_sub(self.io.now_ns())),
            // What a node says of itself is its own word, of this moment.
            guarantee: Guarantee::read(Recency::StalePossible).encode(),
        }
    }
}
