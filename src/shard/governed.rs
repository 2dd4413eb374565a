//! Which configuration governed a slot: the last few that this node has delivered, or found in its log or snapshot when it
//! started. What is told of who chose a slot names the members of that time, not those of now.

use std::collections::VecDeque;
use synod_wire::{Configuration, NodeId, Slot};

/// Configurations that are remembered.
const MAX_REMEMBERED: usize = 32;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Governed {
    /// In their order; each with the slot above which it governs.
    all: VecDeque<(Slot, Configuration)>,
}

impl Governed {
    /// Nothing is known of what was before this one.
    pub(super) fn new(above: Slot, configuration: Configuration) -> Governed {
        let mut all = VecDeque::with_capacity(MAX_REMEMBERED);
        all.push_back((above, configuration));
        Governed { all }
    }

    /// Another one governs from here on.
    pub(super) fn push(&mut self, above: Slot, configuration: Configuration) {
        if self.all.len() == MAX_REMEMBERED {
            self.all.pop_front();
        }
        self.all.push_back((above, configuration));
    }

    /// Whether one of them had this life of a node's log, and the last has it no more. A life of 0 is a founder's.
    pub(super) fn removed(&self, node: NodeId, life: u64, joins: bool) -> bool {
        let has = |configuration: &Configuration| {
            configuration.member(node).is_some_and(|member| match member.incarnation {
                0 => !joins,
                incarnation => incarnation == life,
            })
        };
        self.all.iter().any(|(_, one)| has(one)) && self.all.back().is_some_and(|(_, last)| !has(last))
    }

    /// The one that governs a slot, if it is still known.
    pub(super) fn of(&self, slot: Slot) -> Option<&Configuration> {
        self.all.iter().rev().find(|(above, _)| *above < slot).map(|(_, configuration)| configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::{Epoch, Member, Quorums};

    fn configuration(epoch: u32) -> Configuration {
        let members = std::iter::once(Member::founding(NodeId(1)));
        Configuration::new(Epoch(epoch), Epoch(epoch - 1), Quorums::majority(1), members)
    }

    #[test]
    fn a_slot_is_governed_by_the_last_configuration_below_it() {
        let mut governed = Governed::new(Slot(10), configuration(1));
        governed.push(Slot(20), configuration(2));
        let epoch = |governed: &Governed, slot| governed.of(Slot(slot)).map(|found| found.epoch.0);
        assert_eq!((epoch(&governed, 10), epoch(&governed, 11)), (None, Some(1)));
        assert_eq!((epoch(&governed, 20), epoch(&governed, 21)), (Some(1), Some(2)));
        assert!(!governed.removed(NodeId(1), 7, false) && !governed.removed(NodeId(2), 7, false));
        let without = std::iter::once(Member { incarnation: 5, ..Member::founding(NodeId(2)) });
        governed.push(Slot(25), Configuration::new(Epoch(3), Epoch(2), Quorums::majority(1), without));
        assert!(
            governed.removed(NodeId(1), 7, false) && !governed.removed(NodeId(1), 7, true),
            "a life that joins founded nothing"
        );
        assert!(!governed.removed(NodeId(2), 5, true) && !governed.removed(NodeId(2), 6, true));
        (3..3 + MAX_REMEMBERED as u32).for_each(|at| governed.push(Slot(10 * u64::from(at)), configuration(at)));
        assert_eq!((epoch(&governed, 30), epoch(&governed, 31)), (None, Some(3)), "the oldest are forgotten");
    }
}
