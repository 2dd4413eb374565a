//! The engine: one thread, one queue of happenings in order of (time, number), and who carries each of them out. Nodes start and end
//! in `lives.rs` and take their turns in `turn.rs`; disks are in `writes.rs`, links in `transit.rs`. Faults that strike are in
//! `chaos.rs`, the phases and the end of a run in `run.rs`.

use crate::checks::{Checked, Checks};
use crate::client::{Learnt, Outgoing};
use crate::coverage::{Coverage, FramesSent};
use crate::crowd::Crowd;
use crate::io::Request;
use crate::load::Client;
use crate::members::Operator;
use crate::net::Network;
use crate::node::Node;
use crate::plan::Plan;
use crate::queue::{Due, NEVER, Queue};
use crate::rng::Rng;
use crate::script::{Catch, Losing};
use crate::trace::{End, Trace, What};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use synod_wire::Slot;

/// Something that is going to happen, besides the nodes' turns and the clients' wakes.
pub(crate) enum Happening {
    Datagram { from: End, to: End, peers: bool, life: u16, bytes: Rc<[u8]> },
    Written { node: usize, life: u64, id: u64 },
    JobDone { node: usize, life: u64, id: u64 },
    Operator { node: usize, life: u64 },
    Start { node: usize },
    Offer { client: usize },
    Read { client: usize },
    Strike,
    Forget { leader: usize, rival: usize },
    AskByLease,
    Transfer,
    Crowd,
    Trim,
    Change,
    Scripted { index: usize },
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Turn(usize),
    Wake(usize),
    Queued,
}

/// See the module.
pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) now_ns: u64,
    pub(crate) queue: Queue<Happening>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    /// When each client acts next by itself.
    pub(crate) wakes: Vec<Due>,
    pub(crate) net: Network,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) rng: Rng,
    pub(crate) chaos: Rng,
    pub(crate) disk_rng: Rng,
    pub(crate) client_rng: Rng,
    pub(crate) trims_rng: Rng,
    /// Who changes the members.
    pub(crate) operator: Operator,
    /// For hand-overs.
    pub(crate) transfers: Rng,
    /// Requests for them so far.
    pub(crate) transfer_id: u64,
    /// Faults strike, and each datagram's own faults are on.
    pub(crate) chaos_on: bool,
    pub(crate) load_on: bool,
    pub(crate) overload_until_ns: u64,
    /// Some node dies in each of the next so many elections.
    pub(crate) kills_at_elections: u64,
    /// Slots whose records were damaged, and where.
    pub(crate) damaged_slots: BTreeSet<(Slot, usize)>,
    pub(crate) operations: u64,
    pub(crate) offered: u64,
    pub(crate) load_ns: u64,
    /// Which release a node starts with, and what that says.
    pub(crate) releases: Rng,
    /// What a scenario takes out of the network.
    pub(crate) losing: Vec<Losing>,
    /// Nodes that a scenario waits to take down.
    pub(crate) catching: Vec<Catch>,
    /// Nodes that a scenario has named.
    pub(crate) called: BTreeMap<String, usize>,
    /// Sessions that open until another is evicted.
    pub(crate) crowd: Option<Crowd>,
    /// Sessions that crowds have opened.
    pub(crate) crowd_opened: u64,
    pub(crate) frames_sent: FramesSent,
    /// Nodes that answered a fresh read since this was emptied.
    pub(crate) answered_fresh: BTreeSet<usize>,
    /// A read was answered by a lease.
    pub(crate) answered_lease: bool,
    /// Kept for their memory between uses.
    pub(crate) scratch: Scratch,
}

/// See [`Sim::scratch`].
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) requests: Vec<Request>,
    pub(crate) outgoing: Vec<Outgoing>,
    pub(crate) learnt: Vec<Learnt>,
}

impl Sim {
    pub(crate) fn new(plan: &Plan, print: bool) -> Sim {
        let seed = plan.seed;
        Sim {
            now_ns: 0,
            queue: Queue::new(),
            nodes: (0..plan.machines()).map(Node::new).collect(),
            clients: Vec::new(),
            wakes: vec![NEVER; plan.clients + plan.readers + plan.subscribers],
            net: Network::new(plan),
            checks: Checks::new(plan),
            trace: Trace::new(print),
            coverage: Coverage::default(),
            rng: Rng::new(seed, "engine"),
            chaos: Rng::new(seed, "chaos"),
            disk_rng: Rng::new(seed, "disk"),
            client_rng: Rng::new(seed, "clients"),
            trims_rng: Rng::new(seed, "operator"),
            operator: Operator::new(seed),
            transfers: Rng::new(seed, "hand-overs"),
            transfer_id: 0,
            chaos_on: true,
            load_on: true,
            overload_until_ns: 0,
            kills_at_elections: 0,
            damaged_slots: BTreeSet::new(),
            operations: 0,
            offered: 0,
            load_ns: 0,
            releases: Rng::new(seed, "what releases say"),
            losing: Vec::new(),
            catching: Vec::new(),
            called: BTreeMap::new(),
            crowd: None,
            crowd_opened: 0,
            frames_sent: FramesSent::default(),
            answered_fresh: BTreeSet::new(),
            answered_lease: false,
            scratch: Scratch::default(),
            plan: plan.clone(),
        }
    }

    pub(crate) fn at(&mut self, at_ns: u64, happening: Happening) {
        self.queue.push(at_ns, happening);
    }

    pub(crate) fn after(&mut self, ns: u64, happening: Happening) {
        self.at(self.now_ns + ns, happening);
    }

    pub(crate) fn note(&mut self, what: What) {
        self.trace.note(self.now_ns, what);
    }

    /// Lets things happen until `until_ns`.
    pub(crate) fn run_until(&mut self, until_ns: u64) -> Checked {
        loop {
            let (due, next) = self.next();
            if due.at_ns > until_ns {
                break;
            }
            self.now_ns = due.at_ns;
            match next {
                Next::Turn(node) => self.on_turn(node)?,
                Next::Wake(client) => {
                    self.wakes[client] = NEVER;
                    self.drive(client)?;
                }
                Next::Queued => {
                    let happening = self.queue.pop().expect("the queue has a first");
                    self.happen(happening)?;
                }
            }
        }
        self.now_ns = until_ns;
        Ok(())
    }

    /// What is due first. Nodes and clients are few: looking at each is cheaper than keeping them in order.
    fn next(&self) -> (Due, Next) {
        let mut first = (self.queue.first(), Next::Queued);
        for (at, node) in self.nodes.iter().enumerate() {
            if node.turn < first.0 {
                first = (node.turn, Next::Turn(at));
            }
        }
        for (at, wake) in self.wakes.iter().enumerate() {
            if *wake < first.0 {
                first = (*wake, Next::Wake(at));
            }
        }
        first
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Datagram { from, to, peers, life, bytes } => self.on_datagram(from, to, peers, life, bytes),
            Happening::Written { node, life, id } => self.on_written(node, life, id),
            Happening::JobDone { node, life, id } => self.on_job(node, life, id),
            Happening::Operator { node, life } => self.on_operator(node, life),
            Happening::Start { node } => self.start(node),
            Happening::Offer { client } => self.on_offer(client),
            Happening::Read { client } => self.on_read(client),
            Happening::Strike => self.strike(),
            Happening::Forget { leader, rival } => self.on_forget(leader, rival),
            Happening::AskByLease => {
                self.on_ask_by_lease();
                Ok(())
            }
            Happening::Transfer => {
                self.on_transfer();
                Ok(())
            }
            Happening::Crowd => self.on_crowd(),
            Happening::Trim => self.on_operators_trim(),
            Happening::Change => self.on_change(),
            Happening::Scripted { index } => self.scripted(index),
        }
    }
}
