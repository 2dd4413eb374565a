//! The identifiers of the protocol, each with exactly one order. No I/O, no allocation; used by every crate.

use core::fmt;

/// A node of a cluster. At most [`NodeId::LIMIT`] nodes exist, so that a set of them fits one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

impl NodeId {
    /// Node numbers are below this: [`NodeSet`] is a 64-bit map.
    pub const LIMIT: u8 = 64;
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of nodes: the acceptors that voted, as evidence records carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSet(pub u64);

impl NodeSet {
    /// The empty set.
    pub const EMPTY: NodeSet = NodeSet(0);

    /// Adds `node`; tells whether it was new.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 |= 1 << (node.0 & 63);
        before != self.0
    }

    /// Whether `node` is in the set.
    pub fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << (node.0 & 63)) != 0
    }

    /// How many nodes are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no node is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NodeId::LIMIT).map(NodeId).filter(move |n| self.contains(*n))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<T: IntoIterator<Item = NodeId>>(nodes: T) -> Self {
        let mut set = NodeSet::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

/// A Paxos group: one pipeline on one core of each node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u8);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A configuration of a group (its members and quorums). Epoch 1 is the founding one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// A cluster's identity; a datagram or a directory of another cluster is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u32);

/// A proposal number of Paxos: rounds are ordered first, nodes break ties. `Ballot::ZERO` is below every real one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The round; below 2^56.
    pub round: u64,
    /// The node that leads in this ballot.
    pub node: NodeId,
}

impl Ballot {
    /// No ballot.
    pub const ZERO: Ballot = Ballot { round: 0, node: NodeId(0) };

    /// The ballot in one word, in the same order.
    pub fn pack(self) -> u64 {
        (self.round << 8) | u64::from(self.node.0)
    }

    /// The inverse of [`Ballot::pack`].
    pub fn unpack(word: u64) -> Ballot {
        Ballot { round: word >> 8, node: NodeId((word & 0xff) as u8) }
    }

    /// The lowest ballot of `node` above this one.
    pub fn next_for(self, node: NodeId) -> Ballot {
        Ballot { round: self.round + 1, node }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.node.0)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.node.0)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Before the first one, which is 1.
            pub const ZERO: $name = $name(0);

            /// The one after this.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// A position of the Paxos log. The first is 1; 0 means "none".
    Slot
}
counter! {
    /// A client entry's place in the total order of its group: dense from 1.
    Sequence
}
counter! {
    /// A record's number in one node's write-ahead log: dense from 1, never reused for a record that was durable.
    Lsn
}

/// How many members must answer in each phase (Flexible Paxos: `phase1 + phase2 > members`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// Promises that elect a leader.
    pub phase1: usize,
    /// Durable votes that choose a value.
    pub phase2: usize,
}

impl Quorums {
    /// Majorities of `members` nodes.
    pub fn majority(members: usize) -> Quorums {
        Quorums { phase1: members / 2 + 1, phase2: members / 2 + 1 }
    }

    /// Whether every phase 1 quorum meets every phase 2 quorum.
    pub fn intersect(self, members: usize) -> bool {
        self.phase1 <= members && self.phase2 <= members && self.phase1 + self.phase2 > members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_ballots_keep_their_order() {
        let ballots = [(0, 0), (1, 0), (1, 2), (1, 63), (2, 0), (1 << 40, 1)];
        for (a, b) in ballots.iter().zip(ballots.iter().skip(1)) {
            let (a, b) = (Ballot { round: a.0, node: NodeId(a.1) }, Ballot { round: b.0, node: NodeId(b.1) });
            assert!(a < b && a.pack() < b.pack());
            assert_eq!(Ballot::unpack(b.pack()), b);
        }
        assert!(Ballot { round: 3, node: NodeId(9) }.next_for(NodeId(0)) > Ballot { round: 3, node: NodeId(63) });
    }

    #[test]
    fn majorities_intersect_and_minorities_do_not() {
        for members in 1..=7 {
            assert!(Quorums::majority(members).intersect(members));
        }
        assert!(!Quorums { phase1: 2, phase2: 2 }.intersect(4));
        assert!(!Quorums { phase1: 6, phase2: 1 }.intersect(5));
    }

    #[test]
    fn quorums_intersect_if_any_two_sets_of_those_sizes_share_a_member() {
        let sets_of = |size, members| (0..1_u32 << members).filter(move |set: &u32| set.count_ones() == size);
        for members in 1..=7 {
            for (phase1, phase2) in (0..=8).flat_map(|one| (0..=8).map(move |two| (one, two))) {
                let meet = |one| sets_of(phase2, members).all(|two| one & two != 0);
                let quorums = Quorums { phase1: phase1 as usize, phase2: phase2 as usize };
                // Sets larger than the membership do not exist, and all of none meet.
                let exist = phase1 <= members && phase2 <= members;
                let all_meet = exist && sets_of(phase1, members).all(meet);
                assert_eq!(quorums.intersect(members as usize), all_meet, "{quorums:?} of {members}");
            }
        }
    }
}
