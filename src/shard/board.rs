//! What a shard shows to the other threads of its process: counters, gauges and histograms in memory that it alone writes and
//! anyone reads, like the counters of Aeron's driver. A scrape therefore asks nothing of a core, and cannot hold it up.
//!
//! Every number is read by itself: two of one reading may be a refresh apart. Written with relaxed stores, which cost what plain
//! ones do; nothing is decided by what is read here.

use super::Shard;
use super::events::EventRing;
use super::histogram::Histogram;
use super::jobs::{Done, Job};
use super::meters::Meters;
use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_paxos::Role;
use synod_ring::Io;
use synod_wire::client::{Counter, Stage, role};
use synod_wire::configuration::MAX_MEMBERS;
use synod_wire::mode::Mode;
use synod_wire::picture::{COMMIT_BUCKETS, PictureBody, commit_bucket_end_ns};
use synod_wire::{NodeId, NodeSet, Slot};
use zerocopy::little_endian::{U32, U64};

/// How often the gauges are written.
const REFRESH_NS: u64 = 5_000_000;
/// Members that can be told apart.
const MEMBERS: usize = NodeId::LIMIT as usize;

macro_rules! gauges {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a shard says of its state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Gauge {
            $($(#[$doc])* $name,)*
        }

        impl Gauge {
            /// Every one in order.
            pub const ALL: &[Gauge] = &[$(Gauge::$name,)*];
        }
    };
}

gauges! {
    /// Its role: [`synod_wire::client::role`].
    Role,
    /// The leader's node number and 1; 0: it knows none.
    Leader,
    /// The round of the ballot that it promised.
    BallotRound,
    /// The epoch of the configuration that governs.
    Epoch,
    /// Voters of it.
    Voters,
    /// Slots up to it are chosen, known and delivered.
    ChosenSlot,
    /// The highest slot that something is held at.
    AcceptedSlot,
    /// Applied up to it.
    AppliedSlot,
    /// Its log is durable up to it.
    DurableLsn,
    /// The last sequence.
    Tail,
    /// Open sessions.
    Sessions,
    /// The mode: [`synod_wire::mode::Mode`].
    Mode,
    /// Why it is in it: [`synod_wire::mode::ModeReason`].
    ModeReason,
    /// When it came to it, nanoseconds of the monotonic clock.
    ModeSinceNs,
    /// How long its lease lasts yet, nanoseconds.
    LeaseLeftNs,
    /// Slots that damage hides; [`u64::MAX`]: all that are open.
    UnknownSlots,
    /// What the host refuses: [`crate::without::Lacks`].
    Lacks,
    /// Slots that it proposed and that are not chosen.
    OpenSlots,
    /// Messages that wait for the log.
    ParkedMessages,
    /// Requests to the housekeeping threads that are not done.
    JobsOut,
    /// The last slot of the newest snapshot that this process wrote or began with.
    SnapshotSlot,
    /// The size of that snapshot.
    SnapshotBytes,
    /// When it was written, nanoseconds of the monotonic clock; 0: none was.
    SnapshotNs,
    /// When the shard started, nanoseconds of the monotonic clock.
    StartedNs,
    /// When these were written last, likewise.
    RefreshedNs,
    /// The node of the ballot that it promised.
    BallotNode,
    /// The members of the configuration that governs, as a [`synod_wire::NodeSet`].
    MemberSet,
    /// Those of them that vote, likewise.
    VoterSet,
    /// Members needed for phase 1.
    Phase1,
    /// Members needed for phase 2.
    Phase2,
    /// The first slot that its log has.
    FirstSlot,
    /// How long leases are configured, nanoseconds; 0: they are off.
    LeaseNs,
    /// For how long it is bound by a lease that it granted yet, nanoseconds.
    BoundLeftNs,
    /// 1: a member speaks a later revision than this node, which is to be upgraded.
    BehindInRevision,
    /// When the leader that it knows came to lead, as far as it saw, nanoseconds of the monotonic clock; 0: it knows none.
    LeaderSinceNs,
    /// Datagrams that its subscribers may be sent before they give more credit, all of them together.
    SubscriberCredit,
    /// The same of the one with the least.
    SubscriberCreditLeast,
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    counters: [AtomicU64; Counter::ALL.len()],
    gauges: [AtomicU64; Gauge::ALL.len()],
    modes_entered: [AtomicU64; Mode::ALL.len()],
    /// By member: the slot that it is known to have delivered everything up to, and 1; 0: it is not known, as this node does not lead.
    delivered: [AtomicU64; MEMBERS],
    stages: [Histogram; Stage::ALL.len()],
    meters: Meters,
    events: EventRing,
}

impl Default for Board {
    fn default() -> Board {
        let zeros = || AtomicU64::new(0);
        Board {
            counters: std::array::from_fn(|_| zeros()),
            gauges: std::array::from_fn(|_| zeros()),
            modes_entered: std::array::from_fn(|_| zeros()),
            delivered: std::array::from_fn(|_| zeros()),
            stages: std::array::from_fn(|_| Histogram::new()),
            meters: Meters::default(),
            events: EventRing::default(),
        }
    }
}

/// A store of the only writer.
fn put(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::Relaxed);
}

fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

impl Board {
    /// A counter's value.
    pub fn counter(&self, counter: Counter) -> u64 {
        get(&self.counters[counter as usize])
    }

    /// A gauge's value.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        get(&self.gauges[gauge as usize])
    }

    /// How often each mode was entered, in the order of [`synod_wire::mode::Mode`].
    pub fn modes_entered(&self) -> [u64; Mode::ALL.len()] {
        std::array::from_fn(|mode| get(&self.modes_entered[mode]))
    }

    /// On a leader: the slot up to which a member is known to have delivered everything.
    pub fn delivered(&self, member: NodeId) -> Option<Slot> {
        get(self.delivered.get(usize::from(member.0))?).checked_sub(1).map(Slot)
    }

    /// How long commits took to each stage.
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }

    /// What it measures beside.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// What happened.
    pub fn events(&self) -> &EventRing {
        &self.events
    }

    /// What a status reply adds for those who draw it.
    pub fn picture(&self) -> PictureBody {
        let members = NodeSet(self.gauge(Gauge::MemberSet));
        let (mut nodes, mut delivered) = ([0; MAX_MEMBERS], [U64::ZERO; MAX_MEMBERS]);
        for ((node, slot), member) in nodes.iter_mut().zip(&mut delivered).zip(members.iter()) {
            *node = member.0;
            *slot = U64::new(self.delivered(member).map_or(0, |slot| slot.0 + 1));
        }
        let replied = self.stage(Stage::Replied);
        let count = replied.count();
        let mut below = 0;
        let commits = replied.at_or_below(array::from_fn::<u64, COMMIT_BUCKETS, _>(commit_bucket_end_ns));
        let commits = commits.map(|upto| U64::new(upto - std::mem::replace(&mut below, upto)));
        let [p999_ns] = replied.quantiles(count, [999]);
        PictureBody {
            first_slot: U64::new(self.gauge(Gauge::FirstSlot)),
            snapshot_slot: U64::new(self.gauge(Gauge::SnapshotSlot)),
            voters: U64::new(self.gauge(Gauge::VoterSet)),
            p999_ns: U32::new(u32::try_from(p999_ns).unwrap_or(u32::MAX)),
            phase1: self.gauge(Gauge::Phase1) as u8,
            phase2: self.gauge(Gauge::Phase2) as u8,
            members: members.len() as u8,
            reserved: 0,
            nodes,
            padding: [0; 7],
            delivered,
            commits,
        }
    }

    pub(super) fn add(&self, counter: Counter, count: u64) {
        let cell = &self.counters[counter as usize];
        put(cell, get(cell) + count);
    }

    pub(super) fn set_counter(&self, counter: Counter, value: u64) {
        put(&self.counters[counter as usize], value);
    }

    pub(crate) fn set(&self, gauge: Gauge, value: u64) {
        put(&self.gauges[gauge as usize], value);
    }
}

/// A role's number, as the status has it.
pub(super) fn role_number(of: Role) -> u8 {
    match of {
        Role::Joining => role::JOINING,
        Role::Follower => role::FOLLOWER,
        Role::Candidate => role::CANDIDATE,
        Role::Preparing => role::PREPARING,
        Role::Leader => role::LEADER,
        Role::Halted => role::HALTED,
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Writes the gauges if they are due. Run at each turn's end.
    pub(super) fn refresh_board(&mut self) {
        let now_ns = self.io.now_ns();
        if now_ns < self.refresh_board_at_ns {
            return;
        }
        self.refresh_board_at_ns = now_ns + REFRESH_NS;
        self.write_board();
    }

    /// Writes all of it.
    pub(super) fn write_board(&mut self) {
        self.refresh_counters();
        let now_ns = self.io.now_ns();
        let leader_since_ns = self.note_leader(now_ns);
        let (credit, least_credit) = self.streams.credit();
        self.write_members();
        self.note_often();
        let (core, board) = (&self.core, &self.settings.board);
        let unknown = core.unknown_slots().map_or(u64::MAX, |count| count as u64);
        let others: NodeSet = core.configuration().nodes().iter().filter(|node| *node != self.settings.me).collect();
        for (gauge, value) in [
            (Gauge::Role, role_number(core.role()).into()),
            (Gauge::Leader, core.leader().map_or(0, |node| u64::from(node.0) + 1)),
            (Gauge::BallotRound, core.promised().round),
            (Gauge::Epoch, core.configuration().epoch.0.into()),
            (Gauge::Voters, core.configuration().voters().len() as u64),
            (Gauge::ChosenSlot, core.prefix().0),
            (Gauge::AcceptedSlot, core.highest_held().0),
            (Gauge::AppliedSlot, self.slots.applied().0),
            (Gauge::DurableLsn, self.log.durable_lsn().0),
            (Gauge::Tail, self.machine.tail().0),
            (Gauge::Sessions, self.machine.sessions() as u64),
            (Gauge::Mode, self.modes.mode() as u64),
            (Gauge::ModeReason, self.modes.reason() as u64),
            (Gauge::ModeSinceNs, self.modes.since_ns()),
            (Gauge::LeaseLeftNs, self.lease_left_ns()),
            (Gauge::UnknownSlots, unknown),
            (Gauge::OpenSlots, self.stages.open() as u64),
            (Gauge::ParkedMessages, self.parked.len() as u64),
            (Gauge::JobsOut, self.jobs_out as u64),
            (Gauge::StartedNs, self.started_ns),
            (Gauge::RefreshedNs, now_ns),
            (Gauge::BallotNode, core.promised().node.0.into()),
            (Gauge::MemberSet, core.configuration().nodes().0),
            (Gauge::VoterSet, core.configuration().voters().0),
            (Gauge::Phase1, core.configuration().quorums.phase1 as u64),
            (Gauge::Phase2, core.configuration().quorums.phase2 as u64),
            (Gauge::FirstSlot, self.index.first_slot().0),
            (Gauge::LeaseNs, core.lease_length_ns().unwrap_or(0)),
            (Gauge::BoundLeftNs, core.bound_until_ns().saturating_sub(now_ns)),
            (Gauge::BehindInRevision, self.revisions.is_behind(others).into()),
            (Gauge::LeaderSinceNs, leader_since_ns),
            (Gauge::SubscriberCredit, credit),
            (Gauge::SubscriberCreditLeast, least_credit),
        ] {
            board.set(gauge, value);
        }
        for (cell, entered) in board.modes_entered.iter().zip(self.modes.entered()) {
            put(cell, entered.into());
        }
        for (member, cell) in (0..).map(NodeId).zip(&board.delivered) {
            let prefix = core.prefix_of(member).filter(|_| core.leads());
            put(cell, prefix.map_or(0, |(prefix, _)| prefix.0 + 1));
        }
    }
}
