//! What is trimmed is trimmed everywhere and for good, nobody is shown it who asks after it was acknowledged, and a leader trims
//! nothing that a member lacks which it hears.
//!
//! Source: SEMANTICS and issue 6: retention is safe by construction, never beyond what a live replica is promised. That every member
//! gives up the same at the same slot is `sessions.rs`'s to compare.

use super::{Checked, violated};
use std::collections::BTreeMap;
use synod_wire::frame::{HEADER_BYTES, Kind};
use synod_wire::trim::TrimReplyBody;
use zerocopy::FromBytes;

const PROPERTY: &str = "trims are safe";
/// A member that is heard again holds back what is proposed from then on: what was under way is applied by then.
const UNDER_WAY_NS: u64 = 5_000_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Trims {
    /// When a trim was acknowledged, and what was the first sequence then; both rise.
    acked: Vec<(u64, u64)>,
    /// By node: the first sequence, and the highest tail that it ever had.
    firsts: Vec<u64>,
    tails: Vec<u64>,
    /// By leader and member: since when the one hears the other, without having lost the leadership since.
    heard_since_ns: BTreeMap<(usize, usize), u64>,
}

impl Trims {
    pub(crate) fn new(nodes: usize) -> Trims {
        Trims { acked: Vec::new(), firsts: vec![1; nodes], tails: vec![0; nodes], heard_since_ns: BTreeMap::new() }
    }

    /// A node has applied entries up to `tail`.
    pub(crate) fn has(&mut self, node: usize, tail: u64) {
        self.tails[node] = self.tails[node].max(tail);
    }

    /// A node's first sequence is this now; whether it has risen.
    pub(crate) fn trimmed(&mut self, node: usize, first: u64) -> bool {
        std::mem::replace(&mut self.firsts[node], first) < first
    }

    /// Whether a leader holds a member for one that is there, after a turn of its own.
    pub(crate) fn hears(&mut self, leader: usize, member: usize, heard: bool, now_ns: u64) {
        match heard {
            true => drop(self.heard_since_ns.entry((leader, member)).or_insert(now_ns)),
            false => drop(self.heard_since_ns.remove(&(leader, member))),
        }
    }

    /// A node does not lead: what it hears from its next election on counts then. What it applies by then, another proposed.
    pub(crate) fn follows(&mut self, node: usize) {
        self.heard_since_ns.retain(|(leader, _), _| *leader != node);
    }

    /// A leader has trimmed.
    pub(crate) fn leaves_to_all(&self, leader: usize, first: u64, now_ns: u64) -> Checked {
        let of_it = self.heard_since_ns.range((leader, 0)..=(leader, usize::MAX));
        let mut heard =
            of_it.filter(|(_, since_ns)| **since_ns + UNDER_WAY_NS < now_ns).map(|((_, member), _)| *member);
        match heard.find(|node| self.tails[*node] + 1 < first) {
            None => Ok(()),
            Some(node) => {
                let tail = self.tails[node];
                violated(
                    PROPERTY,
                    format!("n{leader} trims before {first}, but n{node}, which it hears, has only {tail}"),
                )
            }
        }
    }

    /// A datagram to a client leaves a node, whose state has this first sequence.
    pub(crate) fn sent(&mut self, node: usize, datagram: &[u8], applied: u64, now_ns: u64) -> Checked {
        if datagram.get(17) != Some(&(Kind::TrimReply as u8)) {
            return Ok(());
        }
        let body = datagram.get(HEADER_BYTES..).map(TrimReplyBody::read_from_prefix);
        let Some(Ok((body, _))) = body else {
            return violated(PROPERTY, format!("n{node} acknowledges a trim in a datagram of no use"));
        };
        self.acknowledged(node, body.first.get(), applied, now_ns)
    }

    /// A node acknowledges a trim; `applied` is the first sequence by what it has applied.
    fn acknowledged(&mut self, node: usize, first: u64, applied: u64, now_ns: u64) -> Checked {
        if first > applied {
            return violated(
                PROPERTY,
                format!("n{node} says that all before {first} is trimmed, but {applied} is the first"),
            );
        }
        let highest = self.acked.last().map_or(0, |(_, first)| *first);
        if first > highest {
            self.acked.push((now_ns, first));
        }
        Ok(())
    }

    /// A reader who asked at `asked_ns` for what is fresh was shown an entry.
    pub(crate) fn shown(&self, node: usize, sequence: u64, asked_ns: u64) -> Checked {
        let before = self.acked.partition_point(|(at_ns, _)| *at_ns < asked_ns);
        match before.checked_sub(1).map(|at| self.acked[at].1).filter(|first| sequence < *first) {
            None => Ok(()),
            Some(first) => violated(
                PROPERTY,
                format!(
                    "n{node} showed sequence {sequence} to who asked when all before {first} had been acknowledged as trimmed"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_after_its_trim_and_a_trim_of_what_is_lacked_are_found() {
        let mut trims = Trims::new(3);
        assert!(trims.acknowledged(0, 5, 4, 10).is_err(), "nobody has applied it");
        assert!(trims.acknowledged(0, 5, 5, 10).is_ok() && trims.acknowledged(1, 3, 5, 20).is_ok());
        assert!(trims.shown(1, 4, 10).is_ok(), "asked before");
        assert!(trims.shown(1, 4, 11).is_err() && trims.shown(1, 5, 11).is_ok());
        trims.has(1, 7);
        trims.has(1, 2);
        assert!(trims.trimmed(0, 8) && !trims.trimmed(0, 8));
        assert!(trims.leaves_to_all(0, 9, u64::MAX).is_ok(), "nobody is heard");
        trims.hears(0, 1, true, 5);
        trims.hears(0, 1, true, 9);
        let later_ns = 6 + UNDER_WAY_NS;
        assert!(trims.leaves_to_all(0, 8, later_ns).is_ok() && trims.leaves_to_all(0, 9, later_ns).is_err());
        assert!(trims.leaves_to_all(0, 9, later_ns - 1).is_ok() && trims.leaves_to_all(2, 9, later_ns).is_ok());
        trims.hears(0, 1, false, 10);
        assert!(trims.leaves_to_all(0, 9, later_ns).is_ok());
        // Heard in an earlier time as leader, it was not held to by the one who led between.
        trims.hears(0, 1, true, 5);
        trims.follows(1);
        assert!(trims.leaves_to_all(0, 9, later_ns).is_err());
        trims.follows(0);
        trims.hears(0, 1, true, later_ns - 1);
        assert!(trims.leaves_to_all(0, 9, later_ns).is_ok());
    }
}
