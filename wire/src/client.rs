//! Bodies of the messages between clients and nodes.
//!
//! A client sends one run a datagram ([`crate::batch::RunBuilder`]); replies go to the address that the kernel gave
//! for the request. `request_id` is the client's and comes back as it went. The header's `slot` carries
//! `request_id` where a request has no body of its own (Status).

use crate::guarantee::{GuaranteeBytes, Recency};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Asks for entries from `from_sequence` on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ReadBody {
    /// Comes back in the reply.
    pub request_id: U64,
    /// The first sequence wanted, from 1. 0 asks for the tail's number alone.
    pub from_sequence: U64,
    /// Entries wanted; the replies carry at most this many and at most `max_datagrams` datagrams.
    pub max_entries: U32,
    /// Datagrams that the client can take at once.
    pub max_datagrams: U16,
    /// How long the node may hold the request until `from_sequence` exists, milliseconds.
    pub wait_ms: U16,
    /// For [`Consistency::Bounded`]: how old the state may be, milliseconds. Else zero.
    pub bound_ms: U32,
    /// [`Consistency`].
    pub consistency: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl ReadBody {
    /// What the reader asks for; `None`: a number that this version does not know, or a bound where none belongs.
    pub fn consistency(&self) -> Option<Consistency> {
        match (self.consistency, self.bound_ms.get()) {
            (0, 0) => Some(Consistency::Local),
            (1, ms) => Some(Consistency::Bounded(ms)),
            (2, 0) => Some(Consistency::ReadIndex),
            (3, 0) => Some(Consistency::Lease),
            (4, 0) => Some(Consistency::LeaseOrReadIndex),
            _ => None,
        }
    }

    /// Sets the two fields that say what is asked for.
    #[must_use]
    pub fn with(mut self, consistency: Consistency) -> ReadBody {
        let (number, bound_ms) = match consistency {
            Consistency::Local => (0, 0),
            Consistency::Bounded(ms) => (1, ms),
            Consistency::ReadIndex => (2, 0),
            Consistency::Lease => (3, 0),
            Consistency::LeaseOrReadIndex => (4, 0),
        };
        self.consistency = number;
        self.bound_ms = U32::new(bound_ms);
        self
    }
}

/// How recent the state must be that a read shows. The numbers in [`ReadBody`] are part of the format: 0 local, 1 bounded,
/// 2 read-index, 3 lease, 4 lease or read-index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// The committed prefix of the node that is asked, however old.
    #[default]
    Local,
    /// All that was acknowledged until so many milliseconds before the request was sent. Refused where that cannot be shown.
    Bounded(u32),
    /// All that was acknowledged before the request was sent: linearizable. A quorum confirms the leader for it.
    ReadIndex,
    /// The same, of the leader alone, without a message to anybody: as long as its lease lasts by the clocks' stated drift.
    /// Refused with [`Refusal::NoLease`] when it has none.
    Lease,
    /// The leader answers by its lease if it has one; else, and any other member, as [`Consistency::ReadIndex`]. The reply
    /// says which.
    LeaseOrReadIndex,
}

impl Consistency {
    /// Whether a reply that is so recent is an answer to a read that asks for this.
    pub fn is_met_by(self, recency: Recency) -> bool {
        match self {
            Consistency::Local => true,
            Consistency::Bounded(bound_ms) => recency >= Recency::BoundedStale(bound_ms),
            Consistency::ReadIndex | Consistency::Lease | Consistency::LeaseOrReadIndex => recency.is_fresh(),
        }
    }
}

impl core::fmt::Display for Consistency {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Consistency::Local => f.write_str("local"),
            Consistency::Bounded(ms) => write!(f, "bounded:{ms}"),
            Consistency::ReadIndex => f.write_str("read_index"),
            Consistency::Lease => f.write_str("lease"),
            Consistency::LeaseOrReadIndex => f.write_str("lease_or_read_index"),
        }
    }
}

/// One datagram of entries; [`ReadEntry`] and bytes follow, `entries` times. Sequences are consecutive.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ReadReplyBody {
    /// The request's.
    pub request_id: U64,
    /// The sequence of the first entry here.
    pub first_sequence: U64,
    /// The last sequence that this node has applied.
    pub tail: U64,
    /// Entries in this datagram; 0: the node has none from here on (yet).
    pub entries: U16,
    /// 1 in the last datagram of a reply.
    pub last: u8,
    /// [`crate::mode::Mode`] of the node.
    pub mode: u8,
    /// What the reply promises; its recency is what the node could show, not only what was asked for.
    pub guarantee: GuaranteeBytes,
}

/// Before each entry of a read reply; the payload follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ReadEntry {
    /// The leader's timestamp, nanoseconds since the Unix epoch.
    pub timestamp_ns: U64,
    /// Bytes of the payload.
    pub length: U16,
}

/// Starts an [`crate::frame::Kind::Appended`]; [`AckRun`]s follow, then [`Receipt`]s.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct AckHeader {
    /// The client.
    pub client_id: U128,
    /// Runs that follow.
    pub runs: U16,
    /// [`Durability`].
    pub durability: u8,
    /// Receipts that follow the runs; 0 unless an Append asked.
    pub receipts: u8,
    /// The most entries that the session may have in flight.
    pub credit: U32,
    /// The session's number.
    pub session: U64,
}

/// What an acknowledgement rests on; what a node's word rests on. The numbers are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Durability {
    /// Synced to the disks of a phase 2 quorum.
    #[default]
    Disk = 1,
    /// Held by a phase 2 quorum, by some of it perhaps in memory only.
    Memory = 2,
}

impl Durability {
    /// What has this number.
    pub fn from_u8(byte: u8) -> Option<Durability> {
        [Durability::Disk, Durability::Memory].into_iter().find(|durability| *durability as u8 == byte)
    }

    /// As the documentation and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Disk => "disk",
            Durability::Memory => "memory",
        }
    }
}

/// What became of the entries `first_seq..first_seq + entries` of the session.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct AckRun {
    /// The client's sequence of the first.
    pub first_seq: U64,
    /// [`Decision::Appended`]: its place in the total order, the others' follow. Else the same number for all: the tail that
    /// was found, or the highest token that was seen.
    pub first_sequence: U64,
    /// The timestamp of all of them.
    pub timestamp_ns: U64,
    /// How many.
    pub entries: U16,
    /// [`Decision`].
    pub decision: u8,
    /// Zero.
    pub reserved: u8,
    /// What the acknowledgement promises.
    pub guarantee: GuaranteeBytes,
}

/// What apply decided about an entry, once and for all: it is stored under the entry's client sequence, and a retry is told the
/// same. The numbers are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Decision {
    /// It has a sequence.
    #[default]
    Appended = 0,
    /// The tail was another than it asked for: it has none, and never will.
    TailMoved = 1,
    /// The group had seen a higher fencing token: the same.
    Fenced = 2,
}

impl Decision {
    /// What has this number.
    pub fn from_u8(byte: u8) -> Option<Decision> {
        [Decision::Appended, Decision::TailMoved, Decision::Fenced].into_iter().find(|one| *one as u8 == byte)
    }
}

/// A stage of a commit on its leader; each is told as the time since the client's datagram was reaped. The order is part of
/// the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Stage {
    /// Its batch was sealed.
    Sequenced,
    /// Its log write was submitted.
    Written,
    /// The leader's own log write was durable. May come after the others: a commit needs a quorum's disks, not this one's.
    Durable,
    /// It, and all slots below it, were chosen.
    Quorum,
    /// The acknowledgement was handed to the socket.
    Replied,
}

impl Stage {
    /// Every stage in order.
    pub const ALL: [Stage; 5] = [Stage::Sequenced, Stage::Written, Stage::Durable, Stage::Quorum, Stage::Replied];

    /// As `status -o json` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Sequenced => "sequenced",
            Stage::Written => "written",
            Stage::Durable => "durable",
            Stage::Quorum => "quorum",
            Stage::Replied => "replied",
        }
    }
}

/// The time line of a run whose Append asked for it ([`crate::frame::flags::RECEIPT`]). Receipts follow the [`AckRun`]s of
/// an [`AckHeader`]. What is answered from the session table, a duplicate, has none.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Receipt {
    /// The client's sequence of the first entry.
    pub first_seq: U64,
    /// How many.
    pub entries: U32,
    /// Zero.
    pub reserved: U32,
    /// Nanoseconds since the run's datagram was reaped, in the order of [`Stage`]; [`Receipt::NOT_YET`] for a stage that had
    /// not been reached when this was written.
    pub stages: [U64; Stage::ALL.len()],
}

impl Receipt {
    /// The stage was not reached yet.
    pub const NOT_YET: u64 = u64::MAX;
}

/// How long commits took to reach a stage since the node started, as its leader.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct StageRow {
    /// Slots counted.
    pub count: U64,
    /// The median, nanoseconds; `u32::MAX`: that or more.
    pub p50_ns: U32,
    /// The 99th percentile, nanoseconds; `u32::MAX`: that or more.
    pub p99_ns: U32,
    /// The longest, microseconds; `u32::MAX`: that or more.
    pub max_us: U32,
}

/// The session is open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SessionBody {
    /// The client.
    pub client_id: U128,
    /// The last client sequence that has been committed (0 for a new session).
    pub last_committed: U64,
    /// The most entries in flight.
    pub credit: U32,
    /// The longest entry in bytes.
    pub max_entry_bytes: U32,
    /// The largest payload of an Append datagram in bytes.
    pub max_run_bytes: U32,
    /// What `last_committed` rests on.
    pub guarantee: GuaranteeBytes,
    /// The session's number: every append carries it.
    pub session: U64,
}

/// Why a request was refused. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// Too much in flight; try again after `retry_after_us`.
    Busy = 1,
    /// This node follows; the leader is at `leader`.
    NotLeader = 2,
    /// No leader is known.
    NoLeader = 3,
    /// The entry or run is longer than the configuration allows; `detail` is the limit of an entry in bytes.
    TooLarge = 4,
    /// Fewer than a quorum of members answer.
    QuorumUnavailable = 5,
    /// The session is unknown: never opened, or evicted, or another one took its id since; `detail` is the number asked for.
    SessionEvicted = 6,
    /// A gap: resend from the client sequence in `detail`.
    ResendFrom = 7,
    /// The node is catching up.
    Recovering = 8,
    /// The node cannot go on without an operator.
    ManualIntervention = 9,
    /// A read by lease came to a leader that has none now. `detail`: how long a lease is configured, microseconds; 0: leases
    /// are off there, and the same request would be refused again.
    NoLease = 10,
    /// The group's state machine does not take this question; a group that keeps the log alone takes none.
    BadQuestion = 13,
    /// The entries asked for were trimmed, in the whole group; `detail` is the first sequence that can be read.
    Trimmed = 14,
}

/// The longest question to a state machine: the node keeps it while it waits until it may be answered.
pub const MAX_QUESTION_BYTES: usize = 384;

impl Refusal {
    /// Every refusal.
    pub const ALL: [Refusal; 12] = [
        Refusal::Busy,
        Refusal::NotLeader,
        Refusal::NoLeader,
        Refusal::TooLarge,
        Refusal::QuorumUnavailable,
        Refusal::SessionEvicted,
        Refusal::ResendFrom,
        Refusal::Recovering,
        Refusal::ManualIntervention,
        Refusal::NoLease,
        Refusal::BadQuestion,
        Refusal::Trimmed,
    ];

    /// The refusal with this number.
    pub fn from_u8(byte: u8) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == byte)
    }

    /// As the documentation and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Busy => "BUSY",
            Refusal::NotLeader => "NOT_LEADER",
            Refusal::NoLeader => "NO_LEADER",
            Refusal::TooLarge => "TOO_LARGE",
            Refusal::QuorumUnavailable => "QUORUM_UNAVAILABLE",
            Refusal::SessionEvicted => "SESSION_EVICTED",
            Refusal::ResendFrom => "RESEND_FROM",
            Refusal::Recovering => "RECOVERING",
            Refusal::ManualIntervention => "MANUAL_INTERVENTION",
            Refusal::NoLease => "NO_LEASE",
            Refusal::BadQuestion => "BAD_QUESTION",
            Refusal::Trimmed => "TRIMMED",
        }
    }
}

/// A request was refused.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct RefusalBody {
    /// The session, or 0.
    pub client_id: U128,
    /// The first client sequence of the refused run, or the request id of a read.
    pub reference: U64,
    /// What the refusal says: a limit, a sequence; for MANUAL_INTERVENTION the [`crate::mode::ModeReason`].
    pub detail: U64,
    /// When to try again, microseconds; 0: the same request would be refused again.
    pub retry_after_us: U32,
    /// [`Refusal`].
    pub refusal: u8,
    /// Whether `leader_*` is set.
    pub has_leader: u8,
    /// The leader's client port.
    pub leader_port: U16,
    /// The leader's IPv4 address.
    pub leader_ip: [u8; 4],
    /// The leader's node number.
    pub leader_node: u8,
    /// [`crate::mode::Mode`] of the node.
    pub mode: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// What the refusal promises.
    pub guarantee: GuaranteeBytes,
}

/// A replica's role, as [`StatusBody::role`] has it.
pub mod role {
    /// Follows, or waits for a leader.
    pub const FOLLOWER: u8 = 0;
    /// Asks for promises.
    pub const CANDIDATE: u8 = 1;
    /// Leads, but does not serve yet: what phase 1 reported is being chosen.
    pub const PREPARING: u8 = 2;
    /// Leads and serves.
    pub const LEADER: u8 = 3;
    /// Presents itself to its peers and does not vote yet.
    pub const JOINING: u8 = 4;
    /// Stopped for good; an operator must look.
    pub const HALTED: u8 = 5;
    /// Every one.
    pub const ALL: [u8; 6] = [FOLLOWER, CANDIDATE, PREPARING, LEADER, JOINING, HALTED];

    /// As people write it.
    pub fn name(role: u8) -> &'static str {
        match role {
            FOLLOWER => "follower",
            CANDIDATE => "candidate",
            PREPARING => "preparing",
            LEADER => "leader",
            JOINING => "joining",
            HALTED => "halted",
            _ => "unknown",
        }
    }
}

/// A node's state of one group; [`StatusBody::counters`] values of 8 bytes follow, in [`Counter`]'s order, then
/// [`StatusBody::stages`] [`StageRow`]s, then a [`crate::picture::PictureBody`] or nothing.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct StatusBody {
    /// The request's.
    pub request_id: U64,
    /// The promised ballot, packed.
    pub promised: U64,
    /// The prefix that is held and known chosen.
    pub chosen: U64,
    /// The last slot applied.
    pub applied: U64,
    /// The highest slot accepted.
    pub accepted: U64,
    /// The durable Lsn.
    pub durable_lsn: U64,
    /// The durable byte position in the log.
    pub durable_bytes: U64,
    /// The last sequence.
    pub tail: U64,
    /// Sessions in the table.
    pub sessions: U64,
    /// Monotonic nanoseconds since the shard started.
    pub uptime_ns: U64,
    /// The core that the pipeline is pinned to, or -1 as `u32::MAX`.
    pub core: U32,
    /// [`role`].
    pub role: u8,
    /// Whether `leader` is set.
    pub has_leader: u8,
    /// The leader's node number.
    pub leader: u8,
    /// Counters that follow.
    pub counters: u8,
    /// Slots whose vote is unknown after damage: 0 none, `u32::MAX` all above the prefix.
    pub unknown_slots: U32,
    /// Stages that follow the counters, in [`Stage`]'s order; 0 where the group's largest datagram has no room for them.
    pub stages: u8,
    /// [`Durability`]: what this node's word rests on.
    pub durability: u8,
    /// [`crate::mode::Mode`].
    pub mode: u8,
    /// [`crate::mode::ModeReason`] that it was entered for.
    pub mode_reason: u8,
    /// How long it has been in its mode, milliseconds.
    pub mode_ms: U32,
    /// How often each mode was entered since the start, in the order of [`crate::mode::Mode::ALL`].
    pub modes_entered: [U32; crate::mode::Mode::ALL.len()],
    /// How long leases are, microseconds; 0: they are off.
    pub lease_us: U32,
    /// For how long the leader may still answer reads by its lease, microseconds; 0: it holds none, or does not lead.
    pub lease_left_us: U32,
    /// For how long this node promises to nobody but the holder of a lease that it granted, microseconds; 0: to anybody.
    pub bound_left_us: U32,
    /// What the status promises.
    pub guarantee: GuaranteeBytes,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What a shard counts, in the order of the wire format. New ones are added at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            /// Every counter in order.
            pub const ALL: &[Counter] = &[$(Counter::$name,)*];

            /// As `status -o json` writes it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Counter::$name => $label,)*
                }
            }
        }
    };
}

counters! {
    /// Turns of the core's loop.
    Turns = "turns",
    /// Client entries sequenced (applied).
    EntriesApplied = "entries_applied",
    /// Acknowledged runs.
    RunsAcknowledged = "runs_acknowledged",
    /// Log writes (group commits).
    Flushes = "flushes",
    /// Bytes written to the log.
    FlushedBytes = "flushed_bytes",
    /// Datagrams received from members.
    PeerDatagrams = "peer_datagrams",
    /// Datagrams received from clients.
    ClientDatagrams = "client_datagrams",
    /// Datagrams sent.
    DatagramsSent = "datagrams_sent",
    /// Sends that the kernel refused.
    SendErrors = "send_errors",
    /// Dropped: shorter than they say.
    DroppedTruncated = "dropped_truncated",
    /// Dropped: another format version.
    DroppedVersion = "dropped_version",
    /// Dropped: unknown kind, or a kind that this socket does not take.
    DroppedKind = "dropped_kind",
    /// Dropped: checksum.
    DroppedChecksum = "dropped_checksum",
    /// Dropped: malformed body.
    DroppedBody = "dropped_body",
    /// Dropped: another cluster.
    DroppedCluster = "dropped_foreign_cluster",
    /// Dropped: another group, or not from a member.
    DroppedSender = "dropped_foreign_sender",
    /// Dropped: larger than the configured maximum.
    DroppedOversize = "dropped_oversize",
    /// Dropped: no room in the log's arena or the window.
    DroppedNoRoom = "dropped_no_room",
    /// Receive buffers ran out.
    ReceiveOverruns = "receive_overruns",
    /// Refused: BUSY.
    RefusedBusy = "refused_busy",
    /// Refused: NOT_LEADER, NO_LEADER, RECOVERING or MANUAL_INTERVENTION.
    RefusedNotLeader = "refused_not_leader",
    /// Refused: TOO_LARGE.
    RefusedTooLarge = "refused_too_large",
    /// Refused: QUORUM_UNAVAILABLE.
    RefusedQuorum = "refused_quorum_unavailable",
    /// Refused: SESSION_EVICTED or RESEND_FROM.
    RefusedSession = "refused_session",
    /// Elections that this node started.
    ElectionsStarted = "elections_started",
    /// Elections that this node won.
    ElectionsWon = "elections_won",
    /// Accept requests sent again.
    Retransmitted = "retransmitted_accepts",
    /// Gaps asked for.
    MissingSent = "missing_requests_sent",
    /// Chosen values sent to lagging replicas.
    CatchUpSent = "catch_up_values_sent",
    /// Values learnt from peers.
    CatchUpLearnt = "catch_up_values_learnt",
    /// Requests to the housekeeping thread that found its queue full.
    HousekeepingFull = "housekeeping_queue_full",
    /// Duplicate runs answered from the session table.
    DuplicatesAnswered = "duplicates_answered",
    /// Datagrams not built because one turn had filled the outbox.
    OutboxFull = "outbox_full",
    /// System calls of the reactor: entries of the kernel that submit and reap.
    RingEnters = "ring_enters",
    /// Those of them that could sleep.
    RingBlocks = "ring_blocks",
    /// `sched_yield` calls.
    Yields = "yields",
    /// Yields that came back after a millisecond or more.
    YieldsLate = "yields_late",
    /// Times that the automatic wait mode slept because a yield had come back late.
    BlocksBackedOff = "blocks_backed_off",
    /// Log writes that the log-writer thread carried out.
    WritesByThread = "writes_by_thread",
    /// Submissions that carried several datagrams.
    Trains = "trains_sent",
    /// Receives that brought several datagrams.
    TrainsReceived = "trains_received",
    /// Refused: BAD_QUESTION.
    RefusedBadQuestion = "refused_bad_question",
    /// Snapshots that were written.
    SnapshotsWritten = "snapshots_written",
    /// Tries to make one that failed.
    SnapshotsFailed = "snapshots_failed",
    /// Subscribers now.
    Subscribers = "subscribers",
    /// Bytes of datagrams with entries sent to subscribers.
    StreamBytes = "stream_bytes",
    /// Subscribers dropped: SLOW.
    StreamsSlow = "streams_slow",
    /// Subscribers dropped: TIMED_OUT.
    StreamsTimedOut = "streams_timed_out",
    /// Configurations that came to govern.
    Configurations = "configurations",
    /// The first sequence that can be read: entries below it were trimmed.
    FirstSequence = "first_sequence",
    /// Bytes of the log's files that are on disk.
    LogBytes = "log_bytes",
    /// Segments removed from the log's front.
    SegmentsRemoved = "segments_removed",
    /// Members that asked for slots below what is left of the log.
    CatchUpTrimmed = "catch_up_below_the_log",
    /// Refused: TRIMMED.
    RefusedTrimmed = "refused_trimmed",
    /// Requests for chosen values or chunks that came faster than `catchup.max_bytes_per_s` allows, or than they could be read: they
    /// wait, or come again.
    CatchUpThrottled = "catch_up_throttled",
    /// Bytes of others' snapshots received.
    SnapshotBytesReceived = "snapshot_bytes_received",
    /// Bytes of the snapshot that is being received; 0: none is.
    SnapshotBytesWanted = "snapshot_bytes_wanted",
    /// Bytes of own snapshots sent.
    SnapshotBytesSent = "snapshot_bytes_sent",
    /// Others' snapshots installed, by this process.
    SnapshotsInstalled = "snapshots_installed",
    /// Others' snapshots thrown away: the whole did not have its checksum, or was not to be understood.
    SnapshotsRefused = "snapshots_refused",
    /// Times that this node gave up the leadership, as its disk was much slower than the others'.
    SlowDiskYields = "slow_disk_yields",
    /// Times that a log write hung, and the node fell silent.
    DiskHung = "disk_hung",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_counters_keep_their_numbers() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_u8(refusal as u8), Some(refusal));
        }
        assert_eq!(Refusal::from_u8(0), None);
        for (i, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, i);
        }
    }
}
