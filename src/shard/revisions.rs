//! Which revision of the format the members speak (`synod_wire::frame::REVISION`), as their datagrams' headers say it. What all must
//! understand to be of use is sent only at the revision that all have; today there is one, and an operator sees by this when the last
//! node of a rolling upgrade is done.

use synod_wire::frame::REVISION;
use synod_wire::{NodeId, NodeSet};

/// See the module.
#[derive(Debug)]
pub(super) struct Revisions {
    /// By member: what it said last.
    heard: [Option<u8>; NodeId::LIMIT as usize],
}

impl Revisions {
    pub(super) fn new() -> Revisions {
        Revisions { heard: [None; NodeId::LIMIT as usize] }
    }

    /// A datagram of a member came.
    pub(super) fn heard(&mut self, from: NodeId, revision: u8) {
        self.heard[usize::from(from.0)] = Some(revision);
    }

    /// The highest that this node and the others all speak: the first for who has not been heard.
    pub(super) fn agreed(&self, others: NodeSet) -> u8 {
        others.iter().map(|node| self.heard[usize::from(node.0)].unwrap_or(0)).fold(REVISION, u8::min)
    }

    /// Whether one of the others speaks a later one than this node.
    pub(super) fn is_behind(&self, others: NodeSet) -> bool {
        others.iter().any(|node| self.heard[usize::from(node.0)].is_some_and(|revision| revision > REVISION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_speak_is_the_lowest_and_who_is_behind_sees_it() {
        let others: NodeSet = [NodeId(1), NodeId(2)].into_iter().collect();
        let mut revisions = Revisions::new();
        assert_eq!((revisions.agreed(others), revisions.is_behind(others)), (0, false));
        revisions.heard(NodeId(1), REVISION + 1);
        revisions.heard(NodeId(2), REVISION);
        assert_eq!((revisions.agreed(others), revisions.is_behind(others)), (REVISION, true));
        revisions.heard(NodeId(1), REVISION);
        assert!(!revisions.is_behind(others));
    }
}
