//! Which member is to lead, where the configuration says so: a leader that has seen one that comes before it, caught up and answering, for
//! long enough hands over to it. So each group goes back to its place when a node that was away is whole again, and leaders spread
//! over the nodes as their groups' lists do.
//!
//! It is a wish and no rule: whoever is elected leads, and a member that is gone, slow to answer or behind is passed over. A hand-over that was
//! not taken is not tried again for a while.

use super::events::EventKind;
use super::jobs::{Done, Job};
use super::{Fatal, Shard};
use synod_paxos::{Input, Role};
use synod_ring::Io;
use synod_wire::{NodeId, NodeSet};

/// A member that comes before this leader must have been near for so long.
const SETTLED_NS: u64 = 3_000_000_000;
/// Between two looks.
const LOOK_NS: u64 = 500_000_000;
/// After a hand-over that was not taken.
const PATIENCE_NS: u64 = 30_000_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Preference {
    /// The first that is there is to lead; who is not named comes last.
    order: Vec<NodeId>,
    look_ns: u64,
    /// Who comes before this leader, and since when it has been near.
    near: Option<(NodeId, u64)>,
}

impl Preference {
    pub(super) fn new(order: Vec<NodeId>) -> Preference {
        let mut preference = Preference { order: Vec::with_capacity(NodeId::LIMIT as usize), look_ns: 0, near: None };
        preference.set(order.into_iter());
        preference
    }

    /// Others are to lead from now on. Of a list that has room for all nodes there are.
    pub(super) fn set(&mut self, order: impl Iterator<Item = NodeId>) {
        self.order.clear();
        self.order.extend(order.take(NodeId::LIMIT as usize));
        self.near = None;
    }

    fn rank(&self, node: NodeId) -> usize {
        self.order.iter().position(|listed| *listed == node).unwrap_or(self.order.len())
    }

    /// The first of the order that comes before `me` and is near; once it has been for long enough, it is handed over to.
    fn look(&mut self, now_ns: u64, me: NodeId, is_near: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        self.look_ns = now_ns + LOOK_NS;
        let first = self.order[..self.rank(me)].iter().copied().find(|node| is_near(*node));
        let Some(first) = first else {
            self.near = None;
            return None;
        };
        match self.near {
            Some((node, since_ns)) if node == first && now_ns >= since_ns + SETTLED_NS => {
                self.near = None;
                self.look_ns = now_ns + PATIENCE_NS;
                Some(first)
            }
            Some((node, _)) if node == first => None,
            _ => {
                self.near = Some((first, now_ns));
                None
            }
        }
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// The other voters that answered this leader of late, and lack a window of slots at most.
    pub(super) fn near_voters(&self) -> NodeSet {
        let (core, window) = (&self.core, self.core.window_slots());
        let heard_since_ns = self.io.now_ns().saturating_sub(core.election_max_ns());
        let is_near = |node: &NodeId| {
            let told = core.prefix_of(*node);
            let lately = told.is_some_and(|(_, heard_ns)| heard_ns >= heard_since_ns);
            lately && core.peer_prefix(*node).0 + window >= core.prefix().0
        };
        core.configuration().voters().iter().filter(is_near).collect()
    }

    /// Hands over to a member that is to lead in this one's place, if it is time.
    pub(super) fn prefer(&mut self) -> Result<(), Fatal> {
        if self.preference.order.is_empty() {
            return Ok(());
        }
        let now_ns = self.io.now_ns();
        if self.core.role() != Role::Leader {
            (self.preference.near, self.preference.look_ns) = (None, 0);
            return Ok(());
        }
        if now_ns < self.preference.look_ns || self.core.hands_over_to().is_some() || self.core.is_changing() {
            return Ok(());
        }
        let near = self.near_voters();
        let Some(to) = self.preference.look(now_ns, self.settings.me, |node| near.contains(node)) else {
            return Ok(());
        };
        self.note(EventKind::Preferred, (0, to.0, 0), [0; 4]);
        self.step(Input::Transfer { to: Some(to) }, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 4] = [NodeId(0), NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn the_first_that_has_been_near_for_long_enough_is_handed_over_to() {
        let mut preference = Preference::new(vec![NODES[2], NODES[0]]);
        let all = |_| true;
        assert_eq!(preference.look(0, NODES[2], all), None, "it leads already");
        assert_eq!(preference.look(0, NODES[1], |node| node == NODES[0]), None, "not for long enough");
        assert_eq!(preference.look(SETTLED_NS - 1, NODES[1], |node| node == NODES[0]), None);
        assert_eq!(preference.look(SETTLED_NS, NODES[1], all), None, "another comes before it now, and begins anew");
        assert_eq!(preference.look(2 * SETTLED_NS, NODES[1], |_| false), None, "nobody is near");
        assert_eq!(preference.look(3 * SETTLED_NS, NODES[1], all), None);
        assert_eq!(preference.look(4 * SETTLED_NS, NODES[1], all), Some(NODES[2]));
        assert_eq!(preference.look_ns, 4 * SETTLED_NS + PATIENCE_NS, "if it does not take over, it is left alone");
        assert_eq!(
            preference.look(9 * SETTLED_NS, NODES[0], |node| node == NODES[3]),
            None,
            "who is not named comes last"
        );
    }
}
