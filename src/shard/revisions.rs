//! Which revision of the format the members speak (`synod_wire::frame::REVISION`), as their datagrams' headers say it: an operator sees by
//! this which nodes a rolling upgrade has left behind.

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

    /// Whether one of the others speaks a later one than this node.
    pub(super) fn is_behind(&self, others: NodeSet) -> bool {
        others.iter().any(|node| self.heard[usize::from(node.0)].is_some_and(|revision| revision > REVISION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_sees_it() {
        let others: NodeSet = [NodeId(1), NodeId(2)].into_iter().collect();
        let mut revisions = Revisions::new();
        assert!(!revisions.is_behind(others));
        revisions.heard(NodeId(1), REVISION + 1);
        revisions.heard(NodeId(2), REVISION);
        assert!(revisions.is_behind(others));
        revisions.heard(NodeId(1), REVISION);
        assert!(!revisions.is_behind(others));
    }
}
