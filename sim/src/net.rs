//! The network's state: which links pass what, and how long it takes. Decides by the plan and its own stream of chance;
//! delivers nothing itself.

use crate::fault::Fault;
use crate::history::History;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::trace::End;
use std::rc::Rc;

/// What a link does with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost(&'static str),
    /// After so many nanoseconds; `late`: chance made it so.
    Arrives {
        delay_ns: u64,
        late: bool,
    },
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) cut_until_ns: u64,
    pub(crate) clogged_until_ns: u64,
    pub(crate) small_only_until_ns: u64,
}

/// The rates and times that each datagram asks for, taken out of the plan once.
#[derive(Clone, Copy, Debug)]
struct Rates {
    loss: u64,
    duplicate: u64,
    delay: u64,
    bit_flip: u64,
    delay_min_ns: u64,
    delay_mean_ns: u64,
    late_mean_ns: u64,
}

/// See the module.
pub(crate) struct Network {
    links: Vec<Link>,
    nodes: usize,
    ends: usize,
    pub(crate) history: History,
    pub(crate) rng: Rng,
    rates: Rates,
    /// Whether each datagram's own faults (loss and the like) are on.
    pub(crate) chaos: bool,
}

/// What passes an MTU black hole.
const SMALL_BYTES: usize = 300;

impl Network {
    pub(crate) fn new(plan: &Plan) -> Network {
        // The nodes, the clients, and whoever else.
        let ends = plan.machines() + plan.clients + plan.readers + plan.subscribers + 1;
        let rates = Rates {
            loss: plan.rate(Fault::Loss),
            duplicate: plan.rate(Fault::Duplicate),
            delay: plan.rate(Fault::Delay),
            bit_flip: plan.rate(Fault::BitFlip),
            delay_min_ns: plan.timing.delay_min_ns,
            delay_mean_ns: plan.timing.delay_mean_ns,
            late_mean_ns: plan.timing.election_max_ns / 2,
        };
        Network {
            links: vec![Link::default(); ends * ends],
            nodes: plan.machines(),
            ends,
            history: History::new(plan.seed),
            rng: Rng::new(plan.seed, "network"),
            rates,
            chaos: true,
        }
    }

    fn index(&self, from: End, to: End) -> usize {
        let of = |end| match end {
            End::Node(node) => node,
            End::Client(client) => self.nodes + client,
            End::Stranger => self.ends - 1,
        };
        of(from) * self.ends + of(to)
    }

    pub(crate) fn link(&mut self, from: End, to: End) -> &mut Link {
        let at = self.index(from, to);
        &mut self.links[at]
    }

    /// What `from` sends to `to` is lost until then, or for longer if it is so already.
    pub(crate) fn cut(&mut self, from: End, to: End, until_ns: u64) {
        let link = self.link(from, to);
        link.cut_until_ns = link.cut_until_ns.max(until_ns);
    }

    /// All links as they should be.
    pub(crate) fn heal(&mut self) {
        self.links.fill(Link::default());
    }

    /// What becomes of one copy of a datagram.
    pub(crate) fn fate(&mut self, now_ns: u64, from: End, to: End, bytes: usize) -> Fate {
        let (link, rates) = (self.links[self.index(from, to)], self.rates);
        if now_ns < link.cut_until_ns {
            return Fate::Lost("cut");
        }
        if now_ns < link.small_only_until_ns && bytes > SMALL_BYTES {
            return Fate::Lost("mtu");
        }
        if self.chaos && self.rng.ppm(rates.loss) {
            return Fate::Lost("loss");
        }
        let mut delay_ns = rates.delay_min_ns + self.rng.exponential(rates.delay_mean_ns);
        let late = self.chaos && self.rng.ppm(rates.delay);
        if late {
            delay_ns += self.rng.exponential(rates.late_mean_ns);
        }
        if now_ns < link.clogged_until_ns {
            delay_ns += link.clogged_until_ns - now_ns;
        }
        Fate::Arrives { delay_ns, late }
    }

    /// Whether a second copy goes out.
    pub(crate) fn doubles(&mut self) -> bool {
        self.chaos && self.rng.ppm(self.rates.duplicate)
    }

    /// Flips a bit of a copy, if chance wants it.
    pub(crate) fn flip(&mut self, bytes: &Rc<[u8]>) -> Option<Rc<[u8]>> {
        if !self.chaos || bytes.is_empty() || !self.rng.ppm(self.rates.bit_flip) {
            return None;
        }
        let mut copy = bytes.to_vec();
        let bit = self.rng.below(8 * copy.len() as u64);
        copy[(bit / 8) as usize] ^= 1 << (bit % 8);
        Some(copy.into())
    }
}
