//! What a shard measures beside its counters and the stages of a commit: histograms of what each turn, log write and batch took, what
//! happened for which reason, and what a leader knows of each member. Part of its [board](super::Board); written by the shard alone.
//!
//! A record is a few instructions: a bucket and a sum in memory that is there, with relaxed stores. The one reading of the clock that this
//! adds to a turn is made only in turns in which something happened.

use super::Shard;
use super::histogram::Histogram;
use super::jobs::{Done, Job};
use std::sync::atomic::{AtomicU64, Ordering};
use synod_paxos::{ChangeError, Message, Reason, Role};
use synod_ring::Io;
use synod_wire::{Ballot, NodeId};

/// A turn that takes longer than this is a stall: a quarter of the default heartbeat. Nothing of the group goes on meanwhile.
pub const STALL_NS: u64 = 5_000_000;
/// A log write that takes longer than this is slow: on a disk made for this, it takes a hundredth.
pub const SLOW_SYNC_NS: u64 = 20_000_000;
/// Members that can be told apart.
const MEMBERS: usize = NodeId::LIMIT as usize;

macro_rules! named {
    ($(#[$outer:meta])* $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum $type {
            $($(#[$doc])* $name,)*
        }

        impl $type {
            /// Every one in order.
            pub const ALL: &[$type] = &[$($type::$name,)*];
        }
    };
}

named! {
    /// What is measured into a histogram.
    Meter {
        /// From the start of a log write to its end, durable; nanoseconds.
        LogSync,
        /// What a turn took in which something happened: from the clock that it read to its end; nanoseconds.
        Turn,
        /// On a leader: from a heartbeat's leaving to a member's answer, which waits for the records that it vouches for; nanoseconds.
        Heartbeat,
        /// Entries of a batch that this leader proposed: of one slot.
        BatchEntries,
        /// Its bytes.
        BatchBytes,
        /// Records of a log write (group commit).
        GroupRecords,
        /// Its bytes, with what pads it to blocks.
        GroupBytes,
        /// Bytes of the datagrams that a turn built, of turns that built any.
        OutboxBytes,
        /// Datagrams of clients that a turn found waiting, of turns that found any.
        ClientQueue,
        /// How much of its session's credit was in use when a run was admitted, entries.
        SessionCredit,
    }
}

named! {
    /// What is counted, for the metrics alone.
    Tally {
        /// Turns of [`STALL_NS`] and more.
        Stalls,
        /// Log writes of [`SLOW_SYNC_NS`] and more.
        SlowSyncs,
        /// Elections begun as no leader was heard in time.
        ElectionLeaderSilent,
        /// Elections begun as the leader handed over to this node.
        ElectionHandedOver,
        /// Elections begun again under a new configuration.
        ElectionReconfigured,
        /// Elections begun again as what the last one found could not be completed.
        ElectionStuck,
        /// Times that this leader stepped down, or began phase 1 anew, for want of a quorum.
        QuorumFailures,
        /// Leaders that this node came to know, each in its ballot.
        LeaderChanges,
        /// Changes of the configuration that an operator asked this node for.
        ChangesAsked,
        /// Refused: this node does not lead.
        ChangeNotLeader,
        /// Refused: another one is under way.
        ChangePending,
        /// Refused: asked for of a configuration that governs no more.
        ChangeStale,
        /// Refused: it is a member.
        ChangeAlready,
        /// Refused: it is none.
        ChangeNotMember,
        /// Refused: it lacks too much to vote.
        ChangeNotCaughtUp,
        /// Refused: as many are members as may.
        ChangeTooMany,
        /// Refused: nobody would vote.
        ChangeLastVoter,
        /// Begun, and given up as this node leads no more.
        ChangesAbandoned,
    }
}

/// What is known of one member. Numbers of a node that does not lead stay as they were.
#[derive(Debug, Default)]
struct MemberCells {
    lag_bytes: AtomicU64,
    heard_ns: AtomicU64,
    answered: AtomicU64,
    unanswered: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Meters {
    histograms: [Histogram; Meter::ALL.len()],
    tallies: [AtomicU64; Tally::ALL.len()],
    members: [MemberCells; MEMBERS],
}

fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

/// By the only writer.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(get(cell).wrapping_add(count), Ordering::Relaxed);
}

impl Default for Meters {
    fn default() -> Meters {
        Meters {
            histograms: std::array::from_fn(|_| Histogram::new()),
            tallies: std::array::from_fn(|_| AtomicU64::new(0)),
            members: std::array::from_fn(|_| MemberCells::default()),
        }
    }
}

impl Meters {
    /// What was measured of it.
    pub fn histogram(&self, meter: Meter) -> &Histogram {
        &self.histograms[meter as usize]
    }

    /// How often it happened.
    pub fn tally(&self, tally: Tally) -> u64 {
        get(&self.tallies[tally as usize])
    }

    /// On a leader: bytes of its log from the first slot that the member has not delivered, to the last that is chosen.
    pub fn lag_bytes(&self, member: NodeId) -> u64 {
        self.member(member, |cells| &cells.lag_bytes)
    }

    /// When the member was heard last, nanoseconds of the monotonic clock; 0: never.
    pub fn heard_ns(&self, member: NodeId) -> u64 {
        self.member(member, |cells| &cells.heard_ns)
    }

    /// Heartbeats of this node that the member answered, and those that stayed unanswered when it answered a later one.
    pub fn heartbeats(&self, member: NodeId) -> (u64, u64) {
        (self.member(member, |cells| &cells.answered), self.member(member, |cells| &cells.unanswered))
    }

    fn member(&self, member: NodeId, cell: impl Fn(&MemberCells) -> &AtomicU64) -> u64 {
        self.members.get(usize::from(member.0)).map_or(0, |cells| get(cell(cells)))
    }

    pub(super) fn record(&self, meter: Meter, value: u64) {
        self.histograms[meter as usize].record(value);
    }

    pub(super) fn count(&self, tally: Tally) {
        add(&self.tallies[tally as usize], 1);
    }
}

/// What a leader remembers of a member's answers.
#[derive(Clone, Copy, Debug, Default)]
struct Beat {
    ballot: Ballot,
    /// The last heartbeat that it answered.
    probe: u64,
    at_ns: u64,
}

/// A leader's heartbeats, as its members answer them.
#[derive(Debug)]
pub(super) struct Beats([Beat; MEMBERS]);

impl Beats {
    pub(super) fn new() -> Beats {
        Beats([Beat::default(); MEMBERS])
    }

    /// A member answers heartbeat number `probe` of this ballot: how many before it are unanswered. `None`: it answered this or a later one
    /// before. Whoever was silent for longer than `away_ns` was away: it lost nothing on the way.
    fn answers(&mut self, from: NodeId, ballot: Ballot, probe: u64, now_ns: u64, away_ns: u64) -> Option<u64> {
        let last = self.0.get_mut(usize::from(from.0))?;
        let before = std::mem::replace(last, Beat { ballot, probe, at_ns: now_ns });
        if before.ballot != ballot {
            return Some(0);
        }
        if probe <= before.probe {
            *last = before;
            return None;
        }
        let away = now_ns.saturating_sub(before.at_ns) > away_ns;
        Some(if away { 0 } else { probe - before.probe - 1 })
    }
}

/// Which leader this node knew last, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    leader: Option<(NodeId, Ballot)>,
    since_ns: u64,
}

impl Known {
    /// Whether this is another leader than the last one that was known. Between two, there may be none.
    fn sees(&mut self, leader: Option<NodeId>, ballot: Ballot, now_ns: u64) -> bool {
        let Some(leader) = leader else { return false };
        let is_new = self.leader != Some((leader, ballot));
        if is_new {
            *self = Known { leader: Some((leader, ballot)), since_ns: now_ns };
        }
        is_new
    }
}

/// What a refusal of a change counts as.
fn refused(error: &ChangeError) -> Tally {
    match error {
        ChangeError::NotLeader => Tally::ChangeNotLeader,
        ChangeError::Pending => Tally::ChangePending,
        ChangeError::Stale { .. } => Tally::ChangeStale,
        ChangeError::AlreadyMember => Tally::ChangeAlready,
        ChangeError::NotMember => Tally::ChangeNotMember,
        ChangeError::NotCaughtUp { .. } => Tally::ChangeNotCaughtUp,
        ChangeError::TooMany => Tally::ChangeTooMany,
        ChangeError::LastVoter => Tally::ChangeLastVoter,
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    pub(super) fn meters(&self) -> &Meters {
        self.settings.board.meters()
    }

    /// A log write may have ended: what it took, and what it wrote.
    pub(super) fn measure_write(&mut self) {
        let Some(write) = self.log.take_ended() else { return };
        let meters = self.settings.board.meters();
        meters.record(Meter::LogSync, write.took_ns);
        if write.records > 0 {
            meters.record(Meter::GroupRecords, write.records);
            meters.record(Meter::GroupBytes, write.bytes);
        }
        if write.took_ns >= SLOW_SYNC_NS {
            meters.count(Tally::SlowSyncs);
            self.noted.slow_syncs.happens([write.took_ns, write.bytes, write.records]);
        }
    }

    /// At the end of a turn in which something happened.
    pub(super) fn measure_turn(&mut self) {
        let took_ns = self.io.stage_ns().saturating_sub(self.io.now_ns());
        let (built, meters) = (self.outbox.built_bytes(), self.settings.board.meters());
        meters.record(Meter::Turn, took_ns);
        if built > 0 {
            meters.record(Meter::OutboxBytes, built as u64);
        }
        if took_ns >= STALL_NS {
            meters.count(Tally::Stalls);
            self.noted.stalls.happens([took_ns, 0, 0]);
        }
    }

    /// Before the core hears a member's message.
    pub(super) fn measure_answer(&mut self, from: NodeId, message: &Message) {
        let Message::HeartbeatAck { ballot, probe, .. } = *message else { return };
        if !self.core.leads() || ballot != self.core.promised() || probe > self.core.last_heartbeat() {
            return;
        }
        let (now_ns, away_ns) = (self.io.now_ns(), self.core.election_max_ns());
        let Some(unanswered) = self.beats.answers(from, ballot, probe, now_ns, away_ns) else { return };
        let meters = self.meters();
        if let Some(cells) = meters.members.get(usize::from(from.0)) {
            add(&cells.answered, 1);
            add(&cells.unanswered, unanswered);
        }
        if let Some(left_ns) = self.core.heartbeat_left_ns(probe) {
            meters.record(Meter::Heartbeat, now_ns.saturating_sub(left_ns));
        }
    }

    /// The core came to another role.
    pub(super) fn count_role(&self, role: Role, reason: Reason) {
        let meters = self.meters();
        if role == Role::Candidate {
            meters.count(match reason {
                Reason::HandedOver => Tally::ElectionHandedOver,
                Reason::Reconfigured => Tally::ElectionReconfigured,
                Reason::QuorumLost => Tally::ElectionStuck,
                _ => Tally::ElectionLeaderSilent,
            });
        }
        if reason == Reason::QuorumLost {
            meters.count(Tally::QuorumFailures);
        }
    }

    /// An operator asked for a change.
    pub(super) fn count_change(&self, refusal: Option<&ChangeError>) {
        self.meters().count(Tally::ChangesAsked);
        if let Some(error) = refusal {
            self.meters().count(refused(error));
        }
    }

    /// Since when the leader that is known leads; 0: none is known. Run when the board is written.
    pub(super) fn note_leader(&mut self, now_ns: u64) -> u64 {
        let (leader, ballot) = (self.core.leader(), self.core.promised());
        if self.known.sees(leader, ballot, now_ns) {
            self.meters().count(Tally::LeaderChanges);
        }
        leader.map_or(0, |_| self.known.since_ns)
    }

    /// Writes what is known of each other member.
    pub(super) fn write_members(&self) {
        let others = self.core.configuration().nodes().iter().filter(|node| *node != self.settings.me);
        for member in others {
            let Some(cells) = self.meters().members.get(usize::from(member.0)) else { continue };
            cells.heard_ns.store(self.core.heard_ns(member).unwrap_or(0), Ordering::Relaxed);
            cells.lag_bytes.store(self.lag_bytes_of(member), Ordering::Relaxed);
        }
    }

    /// See [`Meters::lag_bytes`]: to the block of the index, where the slot is not a recent one.
    fn lag_bytes_of(&self, member: NodeId) -> u64 {
        let Some((delivered, _)) = self.core.prefix_of(member).filter(|_| self.core.leads()) else { return 0 };
        let chosen = self.core.prefix();
        if delivered >= chosen {
            return 0;
        }
        let Some(end) = self.slots.place(chosen).map(|place| place.end()) else { return 0 };
        let in_block = || {
            let block = self.index.block_of_slot(delivered.next()).ok()?;
            self.index.blocks(block, 1).first().map(|block| block.start_pos)
        };
        let start = self.slots.place(delivered.next()).map(|place| place.pos).or_else(in_block);
        // Below what is left of the log: as much as there is.
        end.saturating_sub(start.unwrap_or_else(|| self.log.durable_pos().min(self.front_pos())))
    }

    fn front_pos(&self) -> u64 {
        self.index.blocks(0, 1).first().map_or(0, |block| block.start_pos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_a_member_leaves_unanswered_is_counted_when_it_answers_again() {
        let (mut beats, node, ballot) = (Beats::new(), NodeId(1), Ballot { round: 3, node: NodeId(0) });
        let mut answers = |ballot, probe, at_ms| beats.answers(node, ballot, probe, at_ms * MS, 300 * MS);
        assert_eq!(answers(ballot, 7, 1_000), Some(0), "what was before it is not known");
        assert_eq!(answers(ballot, 8, 1_020), Some(0));
        assert_eq!(answers(ballot, 11, 1_080), Some(2));
        assert_eq!(answers(ballot, 11, 1_081), None, "a duplicate");
        assert_eq!(answers(ballot, 10, 1_082), None, "it was late");
        assert_eq!(answers(ballot, 12, 1_100), Some(0), "the late one changed nothing");
        assert_eq!(answers(ballot, 40, 1_701), Some(0), "it was away");
        assert_eq!(answers(Ballot { round: 4, ..ballot }, 9, 1_720), Some(0), "another ballot counts from its first");
    }

    #[test]
    fn a_leader_is_counted_once_in_each_ballot() {
        let mut known = Known::default();
        let ballot = |round| Ballot { round, node: NodeId(2) };
        assert!(!known.sees(None, ballot(1), 5));
        assert!(known.sees(Some(NodeId(2)), ballot(1), 10) && !known.sees(Some(NodeId(2)), ballot(1), 20));
        assert!(!known.sees(None, ballot(2), 30) && known.sees(Some(NodeId(2)), ballot(2), 40));
        assert_eq!(known.since_ns, 40);
    }
}
