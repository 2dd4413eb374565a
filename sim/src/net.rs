//! The network's state: which links pass what, and how long it takes. Decides by the plan and its own stream of chance;
//! delivers nothing itself.

use crate::fault::Fault;
use crate::history::History;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::trace::End;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a link does with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost(&'static str),
    /// After so many nanoseconds.
    Arrives(u64),
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) cut_until_ns: u64,
    pub(crate) clogged_until_ns: u64,
    pub(crate) small_only_until_ns: u64,
}

/// See the module.
pub(crate) struct Network {
    pub(crate) links: BTreeMap<(End, End), Link>,
    pub(crate) history: History,
    pub(crate) rng: Rng,
    /// Whether each datagram's own faults (loss and the like) are on.
    pub(crate) chaos: bool,
}

/// What passes an MTU black hole.
const SMALL_BYTES: usize = 300;

impl Network {
    pub(crate) fn new(plan: &Plan) -> Network {
        Network {
            links: BTreeMap::new(),
            history: History::new(plan.seed),
            rng: Rng::new(plan.seed, "network"),
            chaos: true,
        }
    }

    pub(crate) fn link(&mut self, from: End, to: End) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// What `from` sends to `to` is lost until then, or for longer if it is so already.
    pub(crate) fn cut(&mut self, from: End, to: End, until_ns: u64) {
        let link = self.link(from, to);
        link.cut_until_ns = link.cut_until_ns.max(until_ns);
    }

    /// All links as they should be.
    pub(crate) fn heal(&mut self) {
        self.links.clear();
    }

    /// What becomes of one copy of a datagram.
    pub(crate) fn fate(&mut self, plan: &Plan, now_ns: u64, from: End, to: End, bytes: usize) -> Fate {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        if now_ns < link.cut_until_ns {
            return Fate::Lost("cut");
        }
        if now_ns < link.small_only_until_ns && bytes > SMALL_BYTES {
            return Fate::Lost("mtu");
        }
        if self.chaos && self.rng.ppm(plan.rate(Fault::Loss)) {
            return Fate::Lost("loss");
        }
        let mut delay_ns = plan.timing.delay_min_ns + self.rng.exponential(plan.timing.delay_mean_ns);
        if self.chaos && self.rng.ppm(plan.rate(Fault::Delay)) {
            delay_ns += self.rng.exponential(plan.timing.election_max_ns / 2);
        }
        if now_ns < link.clogged_until_ns {
            delay_ns += link.clogged_until_ns - now_ns;
        }
        Fate::Arrives(delay_ns)
    }

    /// Whether a second copy goes out.
    pub(crate) fn doubles(&mut self, plan: &Plan) -> bool {
        self.chaos && self.rng.ppm(plan.rate(Fault::Duplicate))
    }

    /// Flips a bit of a copy, if chance wants it.
    pub(crate) fn flip(&mut self, plan: &Plan, bytes: &Rc<[u8]>) -> Option<Rc<[u8]>> {
        if !self.chaos || bytes.is_empty() || !self.rng.ppm(plan.rate(Fault::BitFlip)) {
            return None;
        }
        let mut copy = bytes.to_vec();
        let bit = self.rng.below(8 * copy.len() as u64);
        copy[(bit / 8) as usize] ^= 1 << (bit % 8);
        Some(copy.into())
    }
}
