//! The members change as they may: each configuration follows the one before it by one change of one member, and only when a phase 2
//! quorum has had the one before it on disk; its own quorums meet, a learner votes only when it has come near, and what nodes take for the configuration, and tell of it, is one
//! that was chosen (S1, S2). Which configuration governs a slot is looked up here by the other checkers.
//!
//! Source: Lamport, Malkhi and Zhou, "Reconfiguring a State Machine" (2010); Ongaro, "Consensus: Bridging Theory and Practice" (2014),
//! 4.1 and 4.2.1; FAULTS 33, 34, 35 and 37.

use super::{Checked, Violation, violated};
use crate::disk::Logged;
use crate::plan::Plan;
use synod_paxos::Replica;
use synod_wire::batch::Batch;
use synod_wire::frame::{Frame, Kind, flags, parse};
use synod_wire::members::MembersReplyBody;
use synod_wire::{Configuration, Epoch, NodeId, NodeSet, Quorums, Slot};
use zerocopy::FromBytes;

const PROPERTY: &str = "members change one at a time";
const TRUTH: &str = "what is told of the members is true";

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// A node became a learner that was no member.
    Added(NodeId),
    /// A member lost its log, and is a learner under a new life of it.
    Reborn(NodeId),
    /// A learner votes.
    Promoted(NodeId),
    /// A member is none any more.
    Removed(NodeId),
}

/// See the module.
pub(crate) struct Configurations {
    changes: bool,
    window_slots: u64,
    /// In the order of their epochs, from 1; each with the slot above which it governs.
    all: Vec<(Slot, Configuration)>,
    /// By node: the life of the log that it was formatted with first, with which founders founded.
    founding: Vec<u64>,
    /// The highest slot in which a configuration has a vote.
    proposed: Slot,
    /// By node: how far the present life of its log was seen to be.
    furthest: Vec<Slot>,
    /// By node: the last configuration that a life of its log held as chosen, durably.
    held: Vec<Epoch>,
}

/// What became of the members, and of the slots above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangedAt {
    pub(crate) what: Changed,
    /// A slot above, which the members before had chosen out of order, is open again.
    pub(crate) voided: bool,
}

impl Configurations {
    pub(crate) fn new(plan: &Plan) -> Configurations {
        let founders: Vec<NodeId> = (0..plan.nodes).map(|node| NodeId(node as u8)).collect();
        let quorums = Quorums { phase1: plan.phase1, phase2: plan.phase2 };
        Configurations {
            changes: plan.change_mean_ms > 0,
            window_slots: plan.window_slots,
            all: vec![(Slot::ZERO, Configuration::founding(&founders, quorums))],
            founding: vec![0; plan.machines()],
            proposed: Slot::ZERO,
            furthest: vec![Slot::ZERO; plan.machines()],
            held: vec![Epoch(1); plan.machines()],
        }
    }

    /// A node's log is made anew.
    pub(crate) fn born(&mut self, node: usize, incarnation: u64) {
        if self.founding[node] == 0 {
            self.founding[node] = incarnation;
        }
        self.furthest[node] = Slot::ZERO;
    }

    /// A record of a node is durable. `applied`: the furthest that anybody is.
    pub(crate) fn logged(&mut self, record: &Logged, applied: Slot) -> Checked {
        let slot = record.header.slot;
        if record.header.flags & flags::CONFIGURATION == 0 || slot <= self.proposed {
            return Ok(());
        }
        self.proposed = slot;
        if self.changes && slot > applied.next() {
            let what = format!("slot {slot} is to change the members, and nobody has applied more than slot {applied}");
            return violated("a change waits for all below it", what);
        }
        let (above, last) = &self.all[self.all.len() - 1];
        if self.changes && slot > *above && !self.is_known() {
            let what = format!("slot {slot} is to follow {last:?}; on disk as chosen: {:?}", self.held);
            return violated("the next change waits until enough know the last one", what);
        }
        Ok(())
    }

    /// Whether a phase 2 quorum of the last one have had it on disk as chosen.
    pub(crate) fn is_known(&self) -> bool {
        let last = self.latest();
        let hold = last.voters().iter().filter(|node| self.held[usize::from(node.0)] >= last.epoch);
        hold.count() >= last.quorums.phase2
    }

    /// Whether a configuration may still be chosen in a slot that nobody has applied.
    pub(crate) fn is_proposed(&self, applied: Slot) -> bool {
        self.proposed > applied
    }

    /// The last one, as far as anybody has applied.
    pub(crate) fn latest(&self) -> &Configuration {
        &self.all[self.all.len() - 1].1
    }

    /// Whose votes count in a slot, as far as is known.
    pub(crate) fn governing(&self, slot: Slot) -> &Configuration {
        let last = self.all.iter().rev().find(|(above, _)| slot > *above);
        last.map_or(&self.all[0].1, |(_, configuration)| configuration)
    }

    /// The one with this epoch.
    pub(crate) fn of_epoch(&self, epoch: u32) -> Option<&Configuration> {
        self.all.get((epoch as usize).checked_sub(1)?).map(|(_, configuration)| configuration)
    }

    /// Whether the last one means this life of a node's log.
    pub(crate) fn has(&self, node: usize, incarnation: u64) -> bool {
        self.life(self.latest(), NodeId(node as u8)) == Some(incarnation)
    }

    /// Whether any one meant it.
    pub(crate) fn had(&self, node: usize, incarnation: u64) -> bool {
        let node = NodeId(node as u8);
        self.all.iter().any(|(_, configuration)| self.life(configuration, node) == Some(incarnation))
    }

    /// Whether this life of a node's log votes by the last one.
    pub(crate) fn votes(&self, node: usize, incarnation: u64) -> bool {
        self.latest().is_voter(NodeId(node as u8)) && self.has(node, incarnation)
    }

    fn life(&self, configuration: &Configuration, node: NodeId) -> Option<u64> {
        match configuration.member(node)?.incarnation {
            0 => Some(self.founding[usize::from(node.0)]),
            incarnation => Some(incarnation),
        }
    }

    /// A value was applied for the first time: if it is a configuration, what it changed.
    pub(crate) fn applied(&mut self, slot: Slot, value: &[u8]) -> Result<Option<Changed>, Violation> {
        if !self.changes {
            return Ok(None);
        }
        let Some(next) = Batch::parse(value).ok().and_then(|batch| batch.configuration()) else { return Ok(None) };
        let last = *self.latest();
        let wrong = |what: &str| violated(PROPERTY, format!("slot {slot}: {what}: {next:?} follows {last:?}"));
        if next.parent != last.epoch || next.epoch.0 != last.epoch.0 + 1 {
            return wrong("it does not follow the last one");
        }
        let all = NodeSet(last.nodes().0 | next.nodes().0);
        let changed: Vec<NodeId> = all.iter().filter(|node| self.differs(&last, &next, *node)).collect();
        let [node] = changed[..] else { return wrong("more or less than one member changes") };
        if !next.is_sound() {
            return wrong("quorums do not meet");
        }
        let what = match (self.life(&last, node), self.life(&next, node)) {
            (None, _) => Changed::Added(node),
            (_, None) => Changed::Removed(node),
            (was, is) if was != is => Changed::Reborn(node),
            _ => Changed::Promoted(node),
        };
        let voted = last.is_voter(node);
        let votes = next.is_voter(node);
        match what {
            Changed::Added(_) | Changed::Reborn(_) if votes => return wrong("who is new votes"),
            Changed::Promoted(_) if voted || !votes => return wrong("a voter became a learner"),
            // What is open, and as much as it may have been behind when the change was planned.
            Changed::Promoted(_) if self.furthest[usize::from(node.0)].0 + 2 * self.window_slots + 1 < slot.0 => {
                let has = self.furthest[usize::from(node.0)];
                return violated(
                    "a learner votes when it has caught up",
                    format!("slot {slot} promotes n{node}, which has {has}"),
                );
            }
            _ => {}
        }
        self.all.push((slot, next));
        Ok(Some(what))
    }

    fn differs(&self, last: &Configuration, next: &Configuration, node: NodeId) -> bool {
        self.life(last, node) != self.life(next, node) || last.is_voter(node) != next.is_voter(node)
    }

    /// A node has taken a turn.
    pub(crate) fn turned(&mut self, node: usize, core: &Replica, applied: Slot) -> Checked {
        self.furthest[node] = self.furthest[node].max(applied);
        if !self.changes {
            return Ok(());
        }
        let believed = core.configuration();
        if core.knows_configuration_for_good() {
            self.held[node] = self.held[node].max(believed.epoch);
        }
        if self.of_epoch(believed.epoch.0) != Some(believed) {
            return violated(
                TRUTH,
                format!("n{node} takes {believed:?} for the configuration, which was never chosen"),
            );
        }
        Ok(())
    }

    /// A datagram to a client leaves a node.
    pub(crate) fn told(&self, node: usize, core: &Replica, datagram: &[u8]) -> Checked {
        if datagram.get(17) != Some(&(Kind::MembersReply as u8)) {
            return Ok(());
        }
        let Some((body, told)) = parse(datagram).ok().and_then(|frame| reply(&frame)) else {
            return violated(TRUTH, format!("n{node} tells who the members are in a datagram of no use"));
        };
        let rows = [
            ("configuration's slot", body.configured_at.get(), core.configured_at().0),
            ("prefix", body.prefix.get(), core.prefix().0),
            ("life", body.incarnation.get(), core.incarnation()),
            ("leading", u64::from(body.leads), u64::from(core.role() == synod_paxos::Role::Leader)),
            ("waiting", u64::from(body.waits), u64::from(core.waits_to_be_added())),
        ];
        match rows.into_iter().find(|(_, said, is)| said != is) {
            Some((what, said, is)) => violated(TRUTH, format!("n{node} says that its {what} is {said}; it is {is}")),
            None if told != *core.configuration() => {
                violated(TRUTH, format!("n{node} tells {told:?}, and goes by {:?}", core.configuration()))
            }
            None => Ok(()),
        }
    }
}

fn reply(frame: &Frame<'_>) -> Option<(MembersReplyBody, Configuration)> {
    let (body, rest) = MembersReplyBody::read_from_prefix(frame.payload).ok()?;
    let configuration = rest.get(..body.configuration_bytes.get().into())?;
    Some((body, Configuration::parse(configuration).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Profile;
    use synod_wire::Member;
    use synod_wire::batch::{MAX_CONFIGURATION_BATCH_BYTES, write_configuration};

    fn configurations() -> Configurations {
        let plan = Plan {
            nodes: 3,
            spares: 2,
            phase1: 2,
            phase2: 2,
            change_mean_ms: 1,
            window_slots: 8,
            ..Plan::of_founders(1, Profile::Calm)
        };
        let mut configurations = Configurations::new(&plan);
        (0..5).for_each(|node| configurations.born(node, 100 + node as u64));
        configurations
    }

    /// What follows of a configuration with these members: node, whether it votes, life.
    fn applied(to: &mut Configurations, slot: u64, members: &[(u8, bool, u64)]) -> Result<Option<Changed>, Violation> {
        let epoch = to.latest().epoch;
        let member = |(node, voter, incarnation): &(u8, bool, u64)| Member {
            voter: *voter,
            incarnation: *incarnation,
            ..Member::founding(NodeId(*node))
        };
        let voters = members.iter().filter(|(_, voter, _)| *voter).count();
        let next = Configuration::new(Epoch(epoch.0 + 1), epoch, Quorums::majority(voters), members.iter().map(member));
        let mut value = [0; MAX_CONFIGURATION_BATCH_BYTES];
        let used = write_configuration(&mut value, 1, &next);
        to.applied(Slot(slot), &value[..used])
    }

    const FOUNDERS: [(u8, bool, u64); 3] = [(0, true, 100), (1, true, 101), (2, true, 102)];

    #[test]
    fn members_come_and_go_one_at_a_time() {
        let mut all = configurations();
        let [a, b, c] = FOUNDERS;
        assert_eq!(applied(&mut all, 10, &[a, b, c, (3, false, 7)]), Ok(Some(Changed::Added(NodeId(3)))));
        assert!(applied(&mut all, 11, &[a, b, c, (3, true, 7)]).is_ok(), "it is near");
        assert_eq!(applied(&mut all, 20, &[a, b, (3, true, 7)]), Ok(Some(Changed::Removed(NodeId(2)))));
        assert_eq!(applied(&mut all, 21, &[a, (1, false, 9), (3, true, 7)]), Ok(Some(Changed::Reborn(NodeId(1)))));
        assert_eq!(all.governing(Slot(10)).epoch, Epoch(1));
        assert_eq!(all.governing(Slot(11)).epoch, Epoch(2));
        assert_eq!(all.governing(Slot(99)).epoch, Epoch(5));
        assert!(all.has(1, 9) && !all.votes(1, 9) && !all.has(1, 101) && all.votes(0, 100));
    }

    #[test]
    fn two_changes_at_once_a_voter_out_of_nowhere_and_a_learner_far_behind_are_found() {
        let [a, b, c] = FOUNDERS;
        assert!(applied(&mut configurations(), 10, &[a, b, (3, false, 7)]).is_err(), "two members");
        assert!(applied(&mut configurations(), 10, &[a, b, c]).is_err(), "nothing changes");
        assert!(applied(&mut configurations(), 10, &[a, b, c, (3, true, 7)]).is_err(), "nobody taught it");
        let mut all = configurations();
        assert!(applied(&mut all, 10, &[a, b, c, (3, false, 7)]).is_ok());
        assert!(applied(&mut all, 200, &[a, b, c, (3, true, 7)]).is_err(), "it has nothing");
    }
}
