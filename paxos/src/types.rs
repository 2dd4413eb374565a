//! What goes into the core and what comes out of it. No payload byte appears here: values stay where the shard put them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use synod_wire::record::MAX_CHOSEN_RANGES;
use synod_wire::{Ballot, Configuration, Epoch, Lsn, NodeId, NodeSet, Quorums, Slot};

/// The fixed part of a group, and the protocol's times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub me: NodeId,
    /// The voters of the founding configuration.
    pub members: Vec<NodeId>,
    /// This life of this node's log joins a group that exists, as a learner, whoever founded it.
    pub joins: bool,
    /// How many of them must answer.
    pub quorums: Quorums,
    /// Which life of this node's log this is.
    pub incarnation: u64,
    /// Slots that a leader may have open; an acceptor takes twice that above its prefix, so that one that lags by a
    /// window still votes.
    pub window_slots: u64,
    /// Between heartbeats of a leader.
    pub heartbeat_ns: u64,
    /// A follower waits at least this for its leader.
    pub election_min_ns: u64,
    /// And at most this (times the back-off after lost elections).
    pub election_max_ns: u64,
    /// Before an unanswered message is sent again.
    pub retransmit_ns: u64,
    /// How long news of chosen slots waits for an accept request to travel with.
    pub commit_linger_ns: u64,
    /// Slots asked for in one fetch.
    pub fetch_slots: u64,
    /// Where this node's pseudo-random time-outs start. Drawn anew at each start, which it names to the peers.
    pub seed: u64,
    /// Leases; `None`: this node grants none and holds none.
    pub lease: Option<Lease>,
}

/// The longest lease that may be configured.
pub const MAX_LEASE_NS: u64 = 60_000_000_000;

/// See [`Settings::lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long one lasts on the clock of the acceptor that grants it.
    pub length_ns: u64,
    /// How far any member's clock may run from true time, parts per million.
    pub drift_ppm: u32,
}

/// A value found by recovery above the applied prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its slot.
    pub slot: Slot,
    /// The ballot it was accepted (or learnt) in.
    pub ballot: Ballot,
    /// If it is known chosen: the epoch in which its votes were counted.
    pub chosen: Option<Epoch>,
    /// What it is besides a value.
    pub mark: Mark,
    /// Damage after it in the log may hide a later accept.
    pub unknown: bool,
}

/// What a value is for the protocol, which reads no more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// A batch of clients' entries, or a no-op.
    #[default]
    Batch,
    /// See [`synod_wire::frame::flags::BARRIER`].
    Barrier,
    /// A configuration, which governs the slots above its own. See [`synod_wire::frame::flags::CONFIGURATION`].
    Configuration,
}

/// What damage hides (DESIGN, "Damage").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing.
    #[default]
    Nothing,
    /// What was accepted in these slots, of which nothing is held.
    Slots(Vec<Slot>),
    /// What was accepted in any slot above the prefix that is not held.
    All,
}

/// Lsns without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsnRun {
    /// The first.
    pub first: Lsn,
    /// The last.
    pub last: Lsn,
}

impl LsnRun {
    /// Whether all of `other` is part of it.
    pub fn covers(&self, other: &LsnRun) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// What recovery found. `Restart::default()` is a directory fresh from `format`, but for its Lsn.
#[derive(Clone, Debug, Default)]
pub struct Restart {
    /// The highest promise.
    pub promised: Ballot,
    /// The last record; everything up to it is durable.
    pub last_lsn: Lsn,
    /// The founding members' incarnations, once every one had confirmed that the group is new.
    pub founded: Option<Vec<(NodeId, u64)>>,
    /// The prefix that is held, known chosen and applied.
    pub applied: Slot,
    /// The configuration that governs the slots above it, and the slot that it stands in; `None`: the founding one.
    pub configuration: Option<(Slot, Configuration)>,
    /// An earlier configuration of this log had this node, and the one that governs has it no more.
    pub removed: bool,
    /// What is held above it, in any order, one entry a slot.
    pub held: Vec<Held>,
    /// The highest slot that a chosen record covers.
    pub chosen_upto: Slot,
    /// What damage hides.
    pub unknown: Unknown,
    /// The Lsns that damage took, so that its repair can be recorded.
    pub damaged: Vec<LsnRun>,
    /// The highest Lsn counted from each peer.
    pub counted: Vec<(NodeId, Lsn)>,
    /// The longest lease that was granted, going by [`Record::Lease`].
    pub longest_lease_ns: u64,
}

/// Slots chosen in one ballot by the same acceptors. An empty set: the evidence stands in the leader's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The first slot.
    pub first: Slot,
    /// The last slot.
    pub last: Slot,
    /// The ballot.
    pub ballot: Ballot,
    /// Whose durable votes chose them.
    pub acceptors: NodeSet,
    /// The configuration in which the votes were counted: they are final for slots that it governs, and for none that a
    /// later one does.
    pub epoch: Epoch,
}

/// A few [`Evidence`]s of one epoch, kept in place: it is kept once, as they are copied with every message and output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    len: u8,
    epoch: Epoch,
    all: [Range; MAX_CHOSEN_RANGES],
}

/// An [`Evidence`] but for its epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    first: Slot,
    last: Slot,
    ballot: Ballot,
    acceptors: NodeSet,
}

impl Ranges {
    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Evidence> + '_ {
        let epoch = self.epoch;
        self.all[..self.len.into()].iter().map(move |range| {
            let Range { first, last, ballot, acceptors } = *range;
            Evidence { first, last, ballot, acceptors, epoch }
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The epoch of all of them.
    pub fn epoch(&self) -> Option<Epoch> {
        (!self.is_empty()).then_some(self.epoch)
    }

    /// Adds a range, merged with the last if it continues it; false if there is no room, or the others are of another epoch.
    pub fn push(&mut self, range: Evidence) -> bool {
        let Evidence { first, last, ballot, acceptors, epoch } = range;
        if !self.is_empty() && epoch != self.epoch {
            return false;
        }
        let len = usize::from(self.len);
        if let Some(before) = self.all[..len].last_mut() {
            let same = before.ballot == ballot && before.acceptors == acceptors;
            if same && before.last.next() == first {
                before.last = last;
                return true;
            }
        }
        if len == MAX_CHOSEN_RANGES {
            return false;
        }
        self.epoch = epoch;
        self.all[len] = Range { first, last, ballot, acceptors };
        self.len += 1;
        true
    }
}

impl FromIterator<Evidence> for Ranges {
    /// Ranges past the capacity are left out.
    fn from_iter<T: IntoIterator<Item = Evidence>>(ranges: T) -> Ranges {
        let mut all = Ranges::default();
        for range in ranges {
            all.push(range);
        }
        all
    }
}

/// What a promise says of one slot above its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The slot.
    pub slot: Slot,
    /// What is known of it.
    pub state: ReportState,
    /// Whether the value is a configuration.
    pub configures: bool,
}

/// See [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportState {
    /// A value was accepted in this ballot.
    Accepted(Ballot),
    /// A value is known chosen; it is held in this ballot.
    Chosen(Ballot),
    /// Damage hides what was accepted.
    Unknown,
}

/// Slots that one part of a promise covers: as many as fit the smallest datagram. Parts for the same member travel together
/// in larger ones.
pub const PART_SLOTS: u64 = 20;

/// The checksum of the state after a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateMark {
    /// The slot; 0: none.
    pub slot: Slot,
    /// The checksum.
    pub crc: u32,
}

/// How many checkpoints of late a member tells, so that one datagram that is lost hides none.
pub const STATE_MARKS: usize = synod_wire::peer::MAX_STATE_ROWS;

/// The checkpoints of late, the newest last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateMarks(pub [StateMark; STATE_MARKS]);

/// A message between members. Where a value travels with it, the shard attaches the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Phase 1a.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// Its chosen prefix.
        prefix: Slot,
    },
    /// Phase 1b. Part i covers the slots `prefix + 1 + i * PART_SLOTS ..`.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The prefix that the sender holds and knows chosen.
        prefix: Slot,
        /// This part.
        part: u16,
        /// Parts in all.
        parts: u16,
        /// Damage hides every slot above the prefix that is not reported.
        unknown_all: bool,
        /// What this part's slots hold.
        reports: Vec<Report>,
    },
    /// The sender has promised a higher ballot.
    Refused {
        /// That ballot.
        promised: Ballot,
    },
    /// Phase 2a, with a value.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// What it is besides a value.
        mark: Mark,
    },
    /// Phase 2b.
    Accepted {
        /// The leader's ballot.
        ballot: Ballot,
        /// Every slot up to it was accepted in `ballot` or is known chosen.
        upto: Slot,
        /// Bit i: the slot `upto + 1 + i` too.
        bits: [u64; 4],
    },
    /// The sender hears no leader, and would stand.
    PreVote {
        /// The asker's start: [`Settings::seed`].
        start: u64,
        /// The asker's round.
        round: u64,
    },
    /// The answer.
    PreVoteAck {
        /// As in the question.
        start: u64,
        /// As in the question.
        round: u64,
        /// Whether the sender hears no leader either, and may promise to the asker.
        granted: bool,
        /// What the sender has promised, on disk or not: the asker stands above it.
        promised: Ballot,
    },
    /// Slots that the sender did not get.
    Missing {
        /// The leader's ballot.
        ballot: Ballot,
        /// The first.
        first: Slot,
        /// The last.
        last: Slot,
    },
    /// Slots were chosen.
    Commit {
        /// The leader's ballot.
        ballot: Ballot,
        /// Which, and by whom.
        ranges: Ranges,
    },
    /// The leader lives.
    Heartbeat {
        /// Its ballot.
        ballot: Ballot,
        /// Its chosen prefix.
        chosen: Slot,
        /// Its number, in this ballot.
        probe: u64,
        /// The lease that it asks for; 0: none.
        lease_ns: u64,
    },
    /// The answer.
    HeartbeatAck {
        /// The ballot that the sender follows.
        ballot: Ballot,
        /// The sender's prefix.
        prefix: Slot,
        /// As in the heartbeat.
        probe: u64,
        /// The lease that the sender granted when this heartbeat came; 0: none.
        lease_ns: u64,
    },
    /// The leader holds no lease in this ballot any more.
    Release {
        /// Its ballot.
        ballot: Ballot,
        /// The last heartbeat that asked for one.
        probe: u64,
    },
    /// The leader asks the receiver to stand for election in its place.
    TakeOver {
        /// Its ballot.
        ballot: Ballot,
        /// What the receiver must hold.
        upto: Slot,
    },
    /// Asks the leader for the chosen watermark.
    ReadIndex {
        /// The asker's start: [`Settings::seed`].
        start: u64,
        /// The asker's round.
        round: u64,
    },
    /// The answer: all that was chosen when the question came.
    ReadIndexAck {
        /// As in the question.
        start: u64,
        /// As in the question.
        round: u64,
        /// The watermark.
        index: Slot,
    },
    /// What the sender's state is after some slots.
    StateMarks {
        /// At its checkpoints of late.
        marks: StateMarks,
    },
    /// Asks for chosen values.
    FetchChosen {
        /// The first slot.
        first: Slot,
        /// The last slot.
        last: Slot,
    },
    /// A chosen value.
    Learn {
        /// Its slot.
        slot: Slot,
        /// The ballot that the sender holds it in.
        ballot: Ballot,
        /// See [`Held::mark`].
        mark: Mark,
    },
    /// Asks for an accepted value.
    FetchValue {
        /// Its slot.
        slot: Slot,
        /// Its ballot.
        ballot: Ballot,
    },
    /// The accepted value.
    Value {
        /// Its slot.
        slot: Slot,
        /// Its ballot.
        ballot: Ballot,
        /// See [`Held::mark`].
        mark: Mark,
    },
    /// The sender has started.
    Hello {
        /// Its log's incarnation.
        incarnation: u64,
        /// Whether it has never voted.
        fresh: bool,
        /// Which of its starts this is: [`Settings::seed`].
        start: u64,
        /// The sender's prefix: whoever knows an earlier configuration fetches from here what follows on that.
        prefix: Slot,
    },
    /// What the sender knows of the one who said hello.
    HelloAck {
        /// The sender's incarnation.
        incarnation: u64,
        /// The incarnation it answers.
        to_incarnation: u64,
        /// The start that it answers.
        to_start: u64,
        /// The asker's incarnation in the sender's configuration; 0 if the sender is fresh, [`NOT_A_MEMBER`] if the asker is not
        /// part of it.
        founded_with: u64,
        /// The highest Lsn that the sender counted from the asker.
        counted: Lsn,
        /// The sender's prefix.
        prefix: Slot,
    },
    /// The one who is told is no member (any more), going by the configuration of the sender.
    NotMember,
}

/// What [`Message::HelloAck`] says to one who is no member.
pub const NOT_A_MEMBER: u64 = u64::MAX;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A message of a member. Its sender's durable Lsn and epoch come with it.
    Message {
        /// The sender.
        from: NodeId,
        /// The configuration that governs the sender.
        epoch: Epoch,
        /// Its durable Lsn.
        lsn: Lsn,
        /// The message.
        message: Message,
    },
    /// A batch of client entries is ready. Only when [`crate::Replica::can_propose`].
    Propose,
    /// The members are to change: no batch is proposed any more, so that the slots below the new configuration get chosen. Only
    /// after [`crate::Replica::plan_change`].
    BeginChange,
    /// The new configuration is ready to be proposed. Only when [`crate::Replica::can_propose_configuration`].
    ProposeConfiguration,
    /// What the slot that was delivered last holds, which was marked [`Mark::Configuration`]: the next input after that delivery.
    Configured(Box<Configuration>),
    /// Reads have joined the round [`crate::Replica::read_round`].
    Read,
    /// This node's state after a slot, which it has delivered, has this checksum.
    Checkpoint(StateMark),
    /// This leader is to hand over: to this member, or else to the one that is furthest. [`Output::Transferred`] says what became of
    /// it.
    Transfer {
        /// To whom.
        to: Option<NodeId>,
    },
    /// Every record up to this one is on stable storage. (Or in memory, where the group is to rest on that: then this log must
    /// never be started from again unless all of it reached the disk.)
    Persisted {
        /// The last.
        upto: Lsn,
    },
    /// [`crate::Replica::poll_timeout`] has passed.
    Timeout,
}

/// Where the bytes of a value come from that is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The message of this step.
    Message,
    /// The batch of this step.
    Proposal,
    /// What this node holds at the slot.
    Held,
    /// A batch without runs.
    Noop,
    /// The configuration of this step.
    Configuration,
}

/// What is to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A value, accepted.
    Accepted {
        /// Its slot.
        slot: Slot,
        /// The ballot.
        ballot: Ballot,
        /// See [`Held::mark`].
        mark: Mark,
        /// Its bytes.
        source: Source,
    },
    /// A value, learnt as chosen (from the message of this step).
    Learnt {
        /// Its slot.
        slot: Slot,
        /// The ballot that the sender held it in.
        ballot: Ballot,
        /// See [`Held::mark`].
        mark: Mark,
        /// The epoch of the member that had delivered it.
        epoch: Epoch,
    },
    /// Slots known chosen.
    Chosen(Ranges),
    /// A promise.
    Promised,
    /// The group is founded by these.
    Founded(Vec<(NodeId, u64)>),
    /// The highest Lsn counted from each peer: [`Replica::peer_marks`](crate::Replica::peer_marks), as they are when this is put out.
    PeerMarks,
    /// Records count as persisted from here on when they lie in memory (or, if not, on disk): a note of the driver's, which
    /// decides what it calls persisted ([`Input::Persisted`]).
    Durability {
        /// In memory.
        memory: bool,
    },
    /// From here on this node may have granted leases as long as this.
    Lease {
        /// The longest.
        longest_ns: u64,
    },
    /// The damage of these Lsns hides nothing any more. It names them all: what is damaged later, below them in the log too,
    /// is not repaired by it.
    Repaired(Vec<LsnRun>),
}

/// Why a node cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// A peer counted a higher Lsn from this node than its log holds: its disk was rolled back.
    Behind {
        /// The peer.
        peer: NodeId,
        /// What it counted.
        counted: Lsn,
        /// What is here; of a node that has yet to join, what its log had when it started.
        durable: Lsn,
    },
    /// The group exists, and this directory was formatted after it was founded.
    FormattedAnew {
        /// The peer that knows.
        peer: NodeId,
    },
    /// All members have promised, and damage on too many of them hides what may have been chosen: no leader can ever tell.
    BeyondRepair,
    /// A majority has another state after a slot than this node has.
    Diverged {
        /// The slot.
        slot: Slot,
        /// The checksum of this node's state.
        mine: u32,
        /// That of the others'.
        theirs: u32,
        /// Who has it.
        agree: NodeSet,
    },
    /// An operator said so when the node was started.
    Ordered,
    /// It is no member any more, since this configuration at the latest.
    Removed {
        /// The configuration.
        epoch: Epoch,
    },
}

/// What a replica does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Presents itself; does not vote yet.
    Joining,
    /// Follows, or waits.
    Follower,
    /// Asks for promises.
    Candidate,
    /// Leads; what phase 1 reported is not yet all chosen.
    Preparing,
    /// Leads and serves.
    Leader,
    /// Stopped for good.
    Halted,
}

/// Why a role changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Enough peers answered after the start.
    Joined,
    /// No word of a leader in time.
    ElectionTimeout,
    /// The leader handed over to this node.
    HandedOver,
    /// A higher ballot appeared.
    HigherBallot,
    /// A quorum promised.
    Elected,
    /// All that phase 1 reported is chosen and delivered.
    BarrierChosen,
    /// Too few members answer.
    QuorumLost,
    /// A new configuration governs, and phase 1 has to be run under it.
    Reconfigured,
    /// See [`Output::Halt`].
    Halted,
}

/// What became of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// The target leads, and serves.
    Done,
    /// Another member does.
    Elsewhere,
    /// This node does not lead.
    NotThatLeader,
    /// The target is no other member.
    NoTarget,
    /// The target was not heard of late; without one: nobody was.
    Silent,
    /// The target does not catch up in time.
    Lags,
    /// The target did not take over in time.
    NotTaken,
    /// This node gave way, and nobody leads.
    NoLeader,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Log this record with this Lsn.
    Persist {
        /// Its number.
        lsn: Lsn,
        /// The promise that its header carries.
        promised: Ballot,
        /// The record.
        record: Record,
    },
    /// Send once everything up to `after` is durable.
    Send {
        /// To whom.
        to: NodeSet,
        /// What.
        message: Message,
        /// When.
        after: Lsn,
        /// Of the configuration that the sender went by when it said so: by the time that it leaves, another may govern, under
        /// which what it says of a slot, or of a member, means something else.
        epoch: Epoch,
    },
    /// The next slot is chosen: apply what is held there.
    Deliver {
        /// The slot.
        slot: Slot,
    },
    /// Reads of this round, and of those before it, see all that was acknowledged before they arrived: what was delivered
    /// so far holds it.
    ReadsReady {
        /// The round.
        round: u64,
    },
    /// Send the chosen values of these slots, as [`Message::Learn`], at leisure.
    ServeCatchUp {
        /// To whom.
        to: NodeId,
        /// The first slot.
        first: Slot,
        /// The last slot.
        last: Slot,
    },
    /// The role changed.
    Became {
        /// To what.
        role: Role,
        /// Why.
        reason: Reason,
    },
    /// A configuration governs from here on.
    Configured(Box<Configuration>),
    /// A hand-over has ended so.
    Transferred(Transferred),
    /// Damage hides nothing any more.
    Repaired,
    /// This node must not go on.
    Halt(Halt),
}
