//! Old datagrams that may be sent again. Some are kept of each kind of message: else the many would leave no trace of the few
//! (a promise among ten thousand accept requests), whose late copies matter most. Called by the engine and by faults.

use crate::rng::Rng;
use crate::trace::End;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How many of a kind are kept.
const KEPT: usize = 32;
/// Once they are, one of so many takes the place of an earlier one.
const TAKEN_OF: u64 = 8;
/// Where a frame says its kind.
const KIND_OFFSET: usize = 17;

/// A datagram that was sent once.
#[derive(Clone)]
pub(crate) struct Old {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) peers: bool,
    pub(crate) bytes: Rc<[u8]>,
}

/// See the module.
pub(crate) struct History {
    kinds: BTreeMap<u8, Vec<Old>>,
    rng: Rng,
}

impl History {
    pub(crate) fn new(seed: u64) -> History {
        History { kinds: BTreeMap::new(), rng: Rng::new(seed, "history") }
    }

    /// Keeps a datagram, perhaps.
    pub(crate) fn remember(&mut self, from: End, to: End, peers: bool, bytes: &Rc<[u8]>) {
        let Some(kind) = bytes.get(KIND_OFFSET) else { return };
        let kept = self.kinds.entry(*kind).or_default();
        let old = || Old { from, to, peers, bytes: bytes.clone() };
        if kept.len() < KEPT {
            kept.push(old());
        } else if self.rng.below(TAKEN_OF) == 0 {
            let at = self.rng.below(KEPT as u64) as usize;
            kept[at] = old();
        }
    }

    /// One of those kept: of any kind, then any of it.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Option<&Old> {
        let kind = rng.pick_index(self.kinds.len())?;
        let kept = self.kinds.values().nth(kind)?;
        kept.get(rng.pick_index(kept.len())?)
    }

    /// One of those kept that members sent to `node`.
    pub(crate) fn pick_for(&self, node: usize, rng: &mut Rng) -> Option<&Old> {
        let to_node = |old: &&Old| old.peers && old.to == End::Node(node);
        let kinds: Vec<&Vec<Old>> = self.kinds.values().filter(|kept| kept.iter().any(|old| to_node(&old))).collect();
        let kept: Vec<&Old> = kinds.get(rng.pick_index(kinds.len())?)?.iter().filter(to_node).collect();
        kept.get(rng.pick_index(kept.len())?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u8, mark: u8) -> Rc<[u8]> {
        let mut bytes = [mark; 64];
        bytes[KIND_OFFSET] = kind;
        bytes.as_slice().into()
    }

    #[test]
    fn the_rare_are_picked_as_often_as_the_many() {
        let mut history = History::new(1);
        history.remember(End::Node(0), End::Node(1), true, &datagram(1, 7));
        for mark in 0..200 {
            history.remember(End::Node(0), End::Node(2), true, &datagram(2, mark));
        }
        let mut rng = Rng::new(2, "test");
        let rare = (0..1_000).filter(|_| history.pick(&mut rng).is_some_and(|old| old.bytes[KIND_OFFSET] == 1)).count();
        assert!((400..600).contains(&rare), "{rare}");
        assert!((0..50).all(|_| history.pick_for(1, &mut rng).is_some_and(|old| old.bytes[0] == 7)));
        assert!(history.pick_for(3, &mut rng).is_none());
    }
}
