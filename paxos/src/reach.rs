//! Who is heard, and how lately: what the shard derives its mode from. Changes nothing that the protocol decides by.

use crate::replica::Replica;
use synod_wire::{Ballot, NodeId, Slot};

/// The most others that a quorum may need: there are at most [`NodeId::LIMIT`] members.
const MOST_OTHERS: usize = NodeId::LIMIT as usize;

impl Replica {
    /// A leader tells its chosen watermark.
    pub(crate) fn hear_watermark(&mut self, ballot: Ballot, chosen: Slot) {
        self.known_chosen = self.known_chosen.max(chosen);
        self.watermark = Some((ballot, chosen));
    }

    /// The longest time that a follower waits for its leader, without back-off.
    pub fn election_max_ns(&self) -> u64 {
        self.settings.election_max_ns
    }

    /// When the other node that this one takes for the leader was last heard.
    pub fn leader_heard_ns(&self) -> Option<u64> {
        let leader = self.leader.filter(|leader| *leader != self.settings.me)?;
        self.heard_ns.get(&leader).copied()
    }

    /// The highest prefix that an answer of a member to a heartbeat of this node named, and when the last one came.
    pub fn prefix_of(&self, member: NodeId) -> Option<(Slot, u64)> {
        self.prefixes.get(&member).copied()
    }

    /// On a leader: the number of the last heartbeat that left in its ballot.
    pub fn last_heartbeat(&self) -> u64 {
        self.last_probe()
    }

    /// On a leader: when a heartbeat of its ballot left, if it is one of the last.
    pub fn heartbeat_left_ns(&self, number: u64) -> Option<u64> {
        self.leases.left_at(number)
    }

    /// The chosen watermark that the leader of the promised ballot has told.
    pub fn leader_watermark(&self) -> Option<Slot> {
        self.watermark.filter(|(ballot, _)| *ballot == self.promised).map(|(_, chosen)| chosen)
    }

    /// Since when a quorum of either phase has been heard, this node included: when the last member needed for one was.
    /// Zero: too few ever were.
    pub fn quorum_heard_ns(&self) -> u64 {
        let others = self.config.quorums.phase1.max(self.config.quorums.phase2) - usize::from(self.votes());
        if others == 0 {
            return self.now_ns;
        }
        let mut heard_ns = [0; MOST_OTHERS];
        let voters = self.config.voters();
        let heard = self.heard_ns.iter().filter(|(node, _)| voters.contains(**node)).take(MOST_OTHERS);
        let count = heard_ns.iter_mut().zip(heard).map(|(place, (_, heard))| *place = *heard).count();
        let heard_ns = &mut heard_ns[..count];
        heard_ns.sort_unstable_by(|a, b| b.cmp(a));
        heard_ns.get(others - 1).copied().unwrap_or(0)
    }
}
