//! Old datagrams that may be sent again. Some are kept of each kind of message: else the many would leave no trace of the few
//! (a promise among ten thousand accept requests), whose late copies matter most. Called by the engine and by faults.

use crate::rng::Rng;
use crate::trace::End;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use synod_wire::frame::Kind;

/// The latest of each kind that are kept.
const LATEST: usize = 16;
/// Earlier ones that are kept.
const EARLIER: usize = 32;
/// Once they are, one of so many takes the place of another.
const TAKEN_OF: u64 = 8;
/// Where a frame says its kind.
pub(crate) const KIND_OFFSET: usize = 17;

/// A datagram that was sent once.
#[derive(Clone)]
pub(crate) struct Old {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) peers: bool,
    pub(crate) bytes: Rc<[u8]>,
}

/// Those of one kind.
#[derive(Default)]
struct Kept {
    latest: VecDeque<Old>,
    earlier: Vec<Old>,
}

impl Kept {
    /// Those wanted: the latest, and the earlier ones.
    fn by_age(&self, wanted: &impl Fn(&Old) -> bool) -> [Vec<&Old>; 2] {
        let latest = self.latest.iter().filter(|old| wanted(old)).collect();
        [latest, self.earlier.iter().filter(|old| wanted(old)).collect()]
    }
}

/// See the module.
pub(crate) struct History {
    kinds: BTreeMap<u8, Kept>,
    rng: Rng,
}

impl History {
    pub(crate) fn new(seed: u64) -> History {
        History { kinds: BTreeMap::new(), rng: Rng::new(seed, "history") }
    }

    /// Keeps a datagram for a while, or for longer.
    pub(crate) fn remember(&mut self, from: End, to: End, peers: bool, bytes: &Rc<[u8]>) {
        let Some(kind) = bytes.get(KIND_OFFSET) else { return };
        let Kept { latest, earlier } = self.kinds.entry(*kind).or_default();
        latest.push_back(Old { from, to, peers, bytes: bytes.clone() });
        if latest.len() <= LATEST {
            return;
        }
        let Some(old) = latest.pop_front() else { return };
        if earlier.len() < EARLIER {
            earlier.push(old);
        } else if self.rng.below(TAKEN_OF) == 0 {
            earlier[self.rng.below(EARLIER as u64) as usize] = old;
        }
    }

    /// One of those kept: of any kind, then one of the latest or an earlier one.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Option<&Old> {
        self.pick_if(rng, |_| true)
    }

    /// One of the answers of this kind kept that members gave to `node`.
    pub(crate) fn pick_answer(&self, node: usize, kind: Kind, rng: &mut Rng) -> Option<&Old> {
        let is_answer = |old: &Old| old.bytes.get(KIND_OFFSET) == Some(&(kind as u8));
        self.pick_if(rng, |old| old.peers && old.to == End::Node(node) && is_answer(old))
    }

    fn pick_if(&self, rng: &mut Rng, wanted: impl Fn(&Old) -> bool) -> Option<&Old> {
        let all: Vec<[Vec<&Old>; 2]> = self.kinds.values().map(|kept| kept.by_age(&wanted)).collect();
        let kinds: Vec<&[Vec<&Old>; 2]> = all.iter().filter(|ages| ages.iter().any(|age| !age.is_empty())).collect();
        let ages = kinds.get(rng.pick_index(kinds.len())?)?;
        let first = rng.below(2) as usize;
        let age = [&ages[first], &ages[1 - first]].into_iter().find(|age| !age.is_empty())?;
        age.get(rng.pick_index(age.len())?).copied()
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
        history.remember(End::Node(0), End::Node(1), true, &datagram(Kind::Promise as u8, 7));
        for mark in 0..200 {
            history.remember(End::Node(0), End::Node(2), true, &datagram(Kind::Accept as u8, mark));
        }
        let mut rng = Rng::new(2, "test");
        let rare = (0..1_000).filter(|_| history.pick(&mut rng).is_some_and(|old| old.bytes[0] == 7)).count();
        assert!((400..600).contains(&rare), "{rare}");
        assert!((0..50).all(|_| history.pick_answer(1, Kind::Promise, &mut rng).is_some_and(|old| old.bytes[0] == 7)));
        assert!(history.pick_answer(2, Kind::Promise, &mut rng).is_none(), "an accept request is no answer");
    }
}
