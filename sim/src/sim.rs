//! The engine: one thread, one queue of happenings in order of (time, number), and what each of them does. Faults that
//! strike are in `chaos.rs`, the phases and the end of a run in `run.rs`.

use crate::checks::{
    Checked, Checks, Turn, has_a_cause, hung_is_silent, leaves_within_lease, overwritten, status_told, violated,
};
use crate::client::{Learnt, Outgoing, client_at};
use crate::coverage::{self, Coverage, FramesSent};
use crate::crowd::Crowd;
use crate::disk::{Crash, InFlight, Logged};
use crate::fault::Fault;
use crate::history::KIND_OFFSET;
use crate::io::{Arrival, MAX_EVENTS, RX_BUFFERS, Request, socket_index};
use crate::load::Client;
use crate::members::{Operator, change_marks};
use crate::net::{Fate, Network};
use crate::node::{Health, Node, node_address, node_at};
use crate::plan::Plan;
use crate::queue::{Due, NEVER, Queue};
use crate::rng::Rng;
use crate::script::Losing;
use crate::trace::{End, Glance, Trace, What};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use synod::shard::checkpoint::Progress;
use synod::shard::install::{TransferDone, TransferJob};
use synod::shard::jobs::{Done, Job};
use synod::shard::{Exit, Fatal};
use synod_paxos::Role;
use synod_ring::Socket;
use synod_wal::LogError;
use synod_wire::Slot;
use synod_wire::client::Counter;
use synod_wire::frame::{HEADER_BYTES, Kind, frame_bytes, parse_header};

/// A turn does not follow the last one sooner than this.
const TURN_NS: u64 = 2_000;
/// A due time that a node does not act on is looked at again after this.
const RETRY_NS: u64 = 20_000;
/// How long a halted node waits for its operator.
const OPERATOR_MEAN_NS: u64 = 300_000_000;
/// How long a stopped node stays down.
const DOWN_MEAN_NS: u64 = 700_000_000;
/// How much longer a slow disk takes.
const SLOW_DISK: u64 = 50;
/// EIO.
const EIO: i32 = 5;

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

/// A slot's value at any node that has applied it and still has its bytes.
fn held_elsewhere(nodes: [&[Node]; 2], slot: Slot) -> Option<&[u8]> {
    let applied = |shard: &&synod::shard::Shard<crate::io::SimIo>| shard.applied() >= slot;
    nodes
        .into_iter()
        .flatten()
        .filter_map(|node| node.shard.as_ref())
        .filter(applied)
        .find_map(|shard| shard.value(slot))
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
    disk_rng: Rng,
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
    requests: Vec<Request>,
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

    // Nodes.

    /// Starts a node's process, unless it runs or has ended for good.
    pub(crate) fn start(&mut self, node: usize) -> Checked {
        if self.nodes[node].health != Health::Down {
            return Ok(());
        }
        let seed = self.rng.word();
        let now_ns = self.now_ns;
        let excused = self.nodes[node].robbed;
        match self.recover(node, seed) {
            Ok(Some(findings)) => has_a_cause(node, &findings, excused || self.nodes[node].damaged)?,
            Ok(None) => return Ok(()),
            Err(fatal) => return self.ended(node, fatal),
        }
        self.trace.note(now_ns, What::Node(node, "starts".to_owned()));
        self.coverage.mark("a process started");
        let this = &mut self.nodes[node];
        let shard = this.shard.as_ref().expect("the process runs");
        this.open_at_start = shard.core().highest_held().0.saturating_sub(shard.core().prefix().0);
        let survived = this.disk.recovered(shard.core().last_lsn(), |record| {
            // Beside a page that cannot be read the arena has no bytes; then the ballot tells.
            let (slot, ballot) = (record.header.slot, record.header.ballot);
            let value = shard.value(slot);
            value.is_some_and(|value| synod_wire::frame::checksum(value) == record.payload_crc)
                || shard.core().held(slot) == Some(ballot)
        });
        let seen = shard.applied().min(self.checks.prefix.end());
        self.checks.restarted(node, shard.core(), seen, excused, now_ns)?;
        self.checks.modes.restarted(node, shard.modes())?;
        self.checks.survived(node, &survived, shard.log().durable_lsn())?;
        if shard.applied() > seen {
            self.coverage.mark("recovery: it applies what nobody applied before");
        }
        // A recovery may be the first to apply what was chosen behind a hole.
        for slot in (seen.0 + 1..=shard.applied().0).map(Slot) {
            if let Some(Some(changed)) = self.checks.applied(node, slot, &this.value_on_disk(slot)?)? {
                change_marks(changed).for_each(|mark| self.coverage.mark(mark));
            }
        }
        self.checks.sessions.agrees(node, shard.applied(), shard.machine())?;
        self.checks.sessions.answers_are_true(node, shard.machine())?;
        self.checks.kv.agrees(node, shard.applied(), shard.embedded())?;
        if self.checks.prefix.end().0 > shard.applied().0 + self.plan.window_slots {
            self.coverage.mark("a member came back more than a window behind");
        }
        if excused && !self.only_who_remembers(node) {
            self.stop(node, false)?;
            self.nodes[node].health = Health::Dead("it lost its state, and nobody up remembers it");
            return Ok(());
        }
        if excused {
            self.robbed_node_starts(node);
        }
        self.wake_node(node);
        self.kill_after_recovery(node)
    }

    /// The process ends here and now; it is started again later.
    pub(crate) fn kill(&mut self, node: usize, power: bool) -> Checked {
        if self.nodes[node].health != Health::Up {
            return Ok(());
        }
        self.stop(node, power)?;
        let down_ns = 1_000_000 + self.chaos.exponential(DOWN_MEAN_NS);
        self.after(down_ns, Happening::Start { node });
        Ok(())
    }

    pub(crate) fn stop(&mut self, node: usize, power: bool) -> Checked {
        if let Some(shard) = &self.nodes[node].shard {
            self.coverage.board(shard.board());
        }
        let this = &mut self.nodes[node];
        this.stop();
        let how = Crash { chaos: self.chaos_on, power };
        let tally = this.disk.crash(&self.plan, how, &mut self.disk_rng).expect("memory takes writes");
        if power {
            this.store.lose_names(&mut self.disk_rng);
        }
        this.robbed |= tally.undone > 0;
        this.before.torn |= tally.torn > 0;
        if tally.trailers > 0 {
            this.before.trailer_over_torn = true;
            self.coverage.mark("a crash left a whole trailer over a torn record");
        }
        for (fault, count) in
            [(Fault::TornWrite, tally.torn), (Fault::LostWrite, tally.lost), (Fault::Rollback, tally.undone)]
        {
            if count > 0 {
                self.coverage.fault(fault);
            }
        }
        self.note(What::Node(node, format!("stops: writes in flight {tally:?}")));
        self.stop_who_hears_only(node)
    }

    /// A peer's memory of others is written down now and then only: what a stopped node remembered of one that was robbed may
    /// be lost, and then nothing protects the group from that one.
    fn stop_who_hears_only(&mut self, node: usize) -> Checked {
        let hears_it = |other: &usize| {
            let other = &self.nodes[*other];
            other.index != node && other.witness == Some(node) && other.health == Health::Up
        };
        let orphans: Vec<usize> = (0..self.plan.machines()).filter(hears_it).collect();
        for orphan in orphans {
            self.stop(orphan, false)?;
            self.nodes[orphan].health = Health::Dead("it lost its state, and nobody up remembers it");
        }
        Ok(())
    }

    /// A shard could not start, or could not go on.
    fn ended(&mut self, node: usize, fatal: Fatal) -> Checked {
        let (robbed, damaged) = (self.nodes[node].robbed, self.nodes[node].damaged);
        let failed = std::mem::take(&mut self.nodes[node].write_failed);
        // Paths differ from run to run: only the kind goes into the trace.
        let kind = match &fatal {
            Fatal::Log(LogError::WriteFailed { .. }) => "a write failed",
            Fatal::Log(_) => "its log cannot be read",
            Fatal::Io(_) => "its reactor failed",
            Fatal::Unsynced { .. } => "it had vouched for what was in memory only",
            Fatal::NotSettled => "the disk did not take its log in time",
        };
        self.note(What::Node(node, format!("ends: {kind}")));
        self.stop(node, false)?;
        match fatal {
            Fatal::Log(LogError::WriteFailed { .. }) if failed => {
                self.coverage.mark("a failed write ended the shard");
                self.after(DOWN_MEAN_NS, Happening::Start { node });
                Ok(())
            }
            Fatal::Unsynced { .. } if self.plan.memory_durability => {
                self.coverage.mark("a node that forgot what it vouched for was refused");
                self.nodes[node].health = Health::Dead("it vouched for what lay in memory only");
                Ok(())
            }
            Fatal::Log(_) if damaged || robbed => {
                self.coverage.mark("a log too damaged to be read");
                self.nodes[node].health = Health::Dead("its log is damaged");
                Ok(())
            }
            other => violated("no end without a cause", format!("n{node} ended: {other}")),
        }
    }

    /// A node is in FLOOR: it serves stale reads until its operator comes.
    fn halted(&mut self, node: usize) -> Checked {
        if self.was_removed(node) {
            self.coverage.mark("a removed node halted");
        } else if !self.nodes[node].robbed {
            return violated("no end without a cause", format!("n{node} halted, and has lost nothing"));
        }
        if self.nodes[node].robbed {
            self.coverage.mark("a node that lost its state halted");
        }
        let (life, after_ns) = (self.nodes[node].life, self.chaos.exponential(OPERATOR_MEAN_NS));
        self.after(after_ns, Happening::Operator { node, life });
        Ok(())
    }

    /// The operator ends a halted node: for good, unless it was removed, or is made a new member.
    fn on_operator(&mut self, node: usize, life: u64) -> Checked {
        if self.nodes[node].life != life || self.nodes[node].health != Health::Up {
            return Ok(());
        }
        self.note(What::Node(node, "ends: it halted".to_owned()));
        self.stop(node, false)?;
        if self.nodes[node].robbed {
            self.nodes[node].health = Health::Dead("it lost its state");
        }
        Ok(())
    }

    /// Sees to it that a node takes a turn soon.
    pub(crate) fn wake_node(&mut self, node: usize) {
        let slow = self.now_ns < self.nodes[node].slow_until_ns;
        let lag_ns = if slow { self.rng.exponential(3_000_000) } else { self.rng.below(20_000) };
        self.turn_at(node, self.now_ns + TURN_NS + lag_ns);
    }

    fn turn_at(&mut self, node: usize, at_ns: u64) {
        let this = &mut self.nodes[node];
        if at_ns < this.turn.at_ns {
            this.turn = self.queue.due(at_ns);
        }
    }

    /// Under memory durability a vote counts when it lies in memory: what the node holds above its prefix after a turn.
    fn observe_memory(&mut self, node: usize) -> Checked {
        let Some(shard) = self.nodes[node].shard.as_ref().filter(|_| self.plan.memory_durability) else {
            return Ok(());
        };
        let core = shard.core();
        for slot in (core.prefix().0 + 1..=core.highest_held().0).map(Slot) {
            if let (Some(ballot), Some(value)) = (core.held(slot), shard.value(slot)) {
                let crc = synod_wire::frame::checksum(value);
                self.checks.one_value.vote(&self.checks.configurations, node, (slot, ballot, crc))?;
            }
        }
        Ok(())
    }

    fn on_turn(&mut self, node: usize) -> Checked {
        let this = &mut self.nodes[node];
        this.turn = NEVER;
        if this.health != Health::Up {
            return Ok(());
        }
        if self.now_ns < this.paused_until_ns {
            let until_ns = this.paused_until_ns;
            self.checks.slow.interrupted(node);
            self.turn_at(node, until_ns);
            return Ok(());
        }
        let (local_ns, wall_ns) = (this.clock.monotonic_ns(self.now_ns), this.clock.wall_ns(self.now_ns));
        let withheld = self.now_ns < this.withheld_until_ns;
        let asked = !withheld && this.port.borrow().waiting[socket_index(Socket::Clients)] > 0;
        let stalled_ns = if asked { std::mem::take(&mut this.stalls_ns) } else { 0 };
        if stalled_ns > 0 {
            this.paused_until_ns = self.now_ns + stalled_ns;
            self.coverage.mark("a process stood still between reading the clock and using it");
        }
        {
            let mut port = this.port.borrow_mut();
            (port.now_ns, port.wall_ns, port.withheld) = (local_ns, wall_ns, withheld);
            port.stalled_ns = this.clock.monotonic_ns(self.now_ns + stalled_ns) - local_ns;
            if !withheld && std::mem::take(&mut this.withheld_until_ns) > 0 && port.inbox.len() > MAX_EVENTS {
                self.coverage.mark("a bunch of completions took more than one turn");
            }
        }
        let shard = this.shard.as_ref().expect("the process runs");
        let latest_ns = local_ns + this.port.borrow().stalled_ns;
        self.checks.prevotes.begins(node, shard.core(), latest_ns);
        let lease_until_ns = shard.core().lease_until_ns();
        let result = this.shard.as_mut().expect("the process runs").turn();
        let sent = self.carry_out(node, lease_until_ns)?;
        self.observe_memory(node)?;
        // What the turn found durable counts, even if it was the last: replies that rest on it have left.
        self.observe_log(node)?;
        let exit = match result {
            Err(fatal) => return self.ended(node, fatal),
            Ok(exit) => exit,
        };
        let role = self.nodes[node].role;
        self.observe(node, sent)?;
        let shard = self.nodes[node].shard.as_ref().expect("the process runs");
        self.checks.prevotes.turned(node, shard.core(), local_ns)?;
        self.checks.slow.turned(node, shard.core(), shard.counter(Counter::SlowDiskYields), local_ns)?;
        self.observe_trims(node)?;
        if exit == Some(Exit::Recover) {
            return self.recover_anew(node);
        }
        if self.nodes[node].role != role {
            if self.nodes[node].role == Role::Leader {
                self.hurry(node);
            }
            if self.nodes[node].role == Role::Preparing {
                self.nobody_else_holds_a_lease(node)?;
            }
            self.role_changed(node);
        }
        if self.nodes[node].role == Role::Halted && role != Role::Halted {
            if role == Role::Leader && self.was_removed(node) {
                self.coverage.mark("a leader was removed");
            }
            self.halted(node)?;
        }
        if self.nodes[node].effects_left == Some(0) {
            self.coverage.mark("a process was killed in the middle of a turn");
            return self.kill(node, false);
        }
        let this = &self.nodes[node];
        let due = this.shard.as_ref().expect("the process runs").deadline_ns();
        let held_until_ns = this.withheld_until_ns;
        if withheld {
            self.turn_at(node, held_until_ns);
        }
        let this = &self.nodes[node];
        if !withheld && !this.port.borrow().inbox.is_empty() {
            self.wake_node(node);
        } else if due != u64::MAX {
            let at_ns = this.clock.when(self.now_ns, due).max(self.now_ns + RETRY_NS);
            self.turn_at(node, at_ns);
        }
        Ok(())
    }

    /// A shard cannot deliver from memory; a recovery in the same process does it from the log, which must get it further.
    fn recover_anew(&mut self, node: usize) -> Checked {
        let applied = |sim: &Sim| sim.nodes[node].shard.as_ref().map(|shard| shard.applied());
        // What rotted meanwhile may be what was to be delivered.
        let before = applied(self).filter(|_| !self.nodes[node].damaged_since_start);
        self.coverage.mark("a shard asked to be recovered anew");
        self.note(What::Node(node, "recovers anew".to_owned()));
        self.stop(node, false)?;
        self.start(node)?;
        match applied(self) {
            Some(after) if Some(after) <= before => violated(
                "a recovery makes progress",
                format!("n{node} recovered anew to deliver more than slot {after}, and applied no more"),
            ),
            _ => Ok(()),
        }
    }

    /// Carries out what a turn asked for: datagrams sent, and the longest. `lease_until_ns`: as it was before the turn.
    fn carry_out(&mut self, node: usize, lease_until_ns: u64) -> Result<Turn, crate::checks::Violation> {
        let mut requests = std::mem::take(&mut self.scratch.requests);
        std::mem::swap(&mut requests, &mut self.nodes[node].port.borrow_mut().requests);
        let mut turn = Turn::default();
        for request in requests.drain(..) {
            if let Some(left) = &mut self.nodes[node].effects_left {
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
            match request {
                Request::Peer { peer, bytes } => {
                    (turn.datagrams, turn.longest) = (turn.datagrams + 1, turn.longest.max(bytes.len()));
                    self.check_sent((node, peer), &bytes)?;
                    self.transmit(End::Node(node), End::Node(peer), true, 0, bytes);
                }
                Request::Client { to, bytes } => {
                    (turn.datagrams, turn.longest) = (turn.datagrams + 1, turn.longest.max(bytes.len()));
                    self.frames_sent.message(&bytes);
                    match bytes.get(KIND_OFFSET).copied() {
                        Some(kind) if kind == Kind::TransferReply as u8 => self.transfer_told(&bytes),
                        Some(kind) if kind == Kind::MembersReply as u8 => self.change_told(&bytes),
                        _ => {}
                    }
                    let shard = self.nodes[node].shard.as_ref().expect("the process runs");
                    // What this turn delivered is counted when it is over.
                    let delivered = self.checks.prefix.end().max(shard.applied());
                    status_told(node, self.plan.memory_durability, shard, delivered, &bytes)?;
                    self.checks.configurations.told(node, shard.core(), &bytes)?;
                    self.checks.modes.told(node, shard.modes(), &bytes)?;
                    self.checks.streams.sent(node, shard.machine().tail().0, &bytes)?;
                    self.checks.trims.sent(node, &bytes, shard.machine().first().0, self.now_ns)?;
                    let this = &self.nodes[node];
                    let local_ns = this.clock.monotonic_ns(self.now_ns) + this.port.borrow().stalled_ns;
                    // What was answered by it leaves, though the turn went on to give it up, or to win more of it.
                    let lease_until_ns = lease_until_ns.max(shard.core().lease_until_ns());
                    leaves_within_lease(node, (local_ns, lease_until_ns), &bytes)?;
                    if let Some((client, life)) = client_at(to) {
                        self.transmit(End::Node(node), End::Client(client), false, life, bytes);
                    }
                }
                Request::Write { file, offset, bytes, token } => {
                    overwritten(node, &*file, offset, bytes.len())?;
                    let since_ns = self.nodes[node].clock.monotonic_ns(self.now_ns);
                    self.begin_write(node, InFlight { file, offset, bytes, token, since_ns })
                }
                Request::Job(job) => self.begin_job(node, job),
            }
        }
        self.scratch.requests = requests;
        Ok(turn)
    }

    fn check_sent(&mut self, (node, peer): (usize, usize), bytes: &[u8]) -> Checked {
        let mut at = 0;
        while let Ok((header, _, payload_bytes)) = parse_header(bytes.get(at..).unwrap_or(&[])) {
            self.frames_sent.kind(header.kind);
            self.checks.ballots.sent(node, &header)?;
            let payload = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + payload_bytes).unwrap_or(&[]);
            self.checks.evidence.sent(node, &header, payload);
            self.checks.prevotes.sent((node, peer), &header, payload);
            if header.kind == Kind::Accept {
                let local_ns = self.nodes[node].clock.monotonic_ns(self.now_ns);
                self.checks.slow.sent(node, header.slot, header.ballot, local_ns);
            }
            if !self.plan.memory_durability {
                let this = &self.nodes[node];
                hung_is_silent(node, self.plan.hung_ns, this.clock.monotonic_ns(self.now_ns), &this.disk, &header)?;
            }
            if !self.plan.memory_durability {
                self.checks.told.sent(node, &header, payload);
            }
            at += frame_bytes(payload_bytes);
        }
        Ok(())
    }

    /// Lets the checkers see what became durable in a node's turn.
    fn observe_log(&mut self, node: usize) -> Checked {
        let this = &mut self.nodes[node];
        let durable = this.shard.as_ref().expect("the process runs").log().durable_lsn();
        let records = this.disk.reported(durable);
        let local_ns = this.clock.monotonic_ns(self.now_ns);
        for Logged { header, .. } in records.iter().filter(|record| record.header.kind == Kind::Accept) {
            self.checks.slow.durable(node, header.slot, header.ballot, local_ns);
        }
        self.checks.logged(node, &records, durable)
    }

    /// Lets the checkers see a node after its turn.
    fn observe(&mut self, node: usize, mut turn: Turn) -> Checked {
        let (before, after) = self.nodes.split_at_mut(node);
        let (this, after) = after.split_first_mut().expect("the node exists");
        let others: [&[Node]; 2] = [before, after];
        let shard = this.shard.as_ref().expect("the process runs");
        let core = shard.core();
        let role = core.role();
        if role != this.role {
            self.coverage.role(this.role, role);
            let reconfigured = this.epoch != core.configuration().epoch;
            if !coverage::is_legal(this.role, role, reconfigured) {
                return violated("roles change as they may", format!("n{node}: {:?} -> {role:?}", this.role));
            }
            self.trace
                .note(self.now_ns, What::Node(node, format!("{:?} -> {role:?} in {}", this.role, core.promised())));
            this.role = role;
        }
        this.epoch = core.configuration().epoch;
        for change in self.checks.modes.turned(node, shard.modes())? {
            let text = format!("{} -> {}: {}", change.from.name(), change.to.name(), change.reason.name());
            self.coverage.mode(change.from, change.to);
            self.trace.note(self.now_ns, What::Node(node, text));
        }
        if this.robbed && !matches!(role, Role::Joining | Role::Halted) {
            // Source: FAULTS 21 and 22, "S3 or H".
            return violated(
                "who lost its state does not vote",
                format!("n{node} is a {role:?} after its disk was taken"),
            );
        }
        this.founded |= role != Role::Joining;
        self.checks.stepped(node, core);
        self.checks.evidence.counted(&self.checks.one_value, node, core)?;
        let applied = shard.applied();
        let from = self.checks.prefix.last_of(node).next();
        for slot in (from.0..=applied.0).map(Slot) {
            // Behind a hole that was open for long the bytes may have left memory since.
            let held = shard.value(slot).or_else(|| held_elsewhere(others, slot));
            if held.is_none() && slot <= self.checks.prefix.end() {
                self.checks.prefix.unseen(node, slot);
                continue;
            }
            let value = held.map_or_else(|| this.value_on_disk(slot).map(Cow::from), |value| Ok(Cow::from(value)))?;
            if let Some(changed) = self.checks.applied(node, slot, &value)? {
                self.trace.note(self.now_ns, What::Applied(node, slot.0));
                changed.into_iter().flat_map(change_marks).for_each(|mark| self.coverage.mark(mark));
            }
        }
        self.checks.configurations.turned(node, core, applied)?;
        if from <= applied {
            self.checks.sessions.agrees(node, applied, shard.machine())?;
            self.checks.kv.agrees(node, applied, shard.embedded())?;
        }
        turn.writes_in_flight = this.disk.in_flight.len();
        turn.jobs_out = this.port.borrow().jobs_out;
        turn.sessions = shard.machine().sessions();
        // A process that dies within its turn says no more, whatever it was about to say.
        if self.plan.subscribers > 0 && this.effects_left != Some(0) {
            let reads_all = this.port.borrow().waiting[socket_index(Socket::Clients)] == 0;
            self.checks.streams.turned(node, shard.streams(), reads_all, self.now_ns)?;
        }
        // A recovery may hold more above the prefix than a window: what was chosen there is not known chosen yet. Damage
        // makes this happen to others, too, which take it over.
        let open_slots = core.highest_held().0.saturating_sub(core.prefix().0);
        this.open_at_start = this.open_at_start.min(open_slots);
        let damaged = this.damaged || others.iter().flat_map(|nodes| nodes.iter()).any(|node| node.damaged);
        turn.open_slots = if damaged { 0 } else { open_slots - this.open_at_start };
        self.checks.bounds.turn(node, &turn)
    }

    // Disks.

    fn begin_write(&mut self, node: usize, write: InFlight) {
        self.note(What::Write(node, write.offset, write.bytes.len()));
        let disk = &mut self.nodes[node].disk;
        let mean_ns = self.plan.timing.sync_mean_ns;
        let slow = if self.now_ns < disk.slow_until_ns { SLOW_DISK } else { 1 };
        let mut took_ns = (mean_ns / 2 + self.disk_rng.exponential(mean_ns / 2)) * slow;
        took_ns += disk.stalled_until_ns.saturating_sub(self.now_ns);
        let id = disk.begin(write);
        let life = self.nodes[node].life;
        self.after(took_ns, Happening::Written { node, life, id });
    }

    fn on_written(&mut self, node: usize, life: u64, id: u64) -> Checked {
        let this = &mut self.nodes[node];
        if this.life != life || this.health != Health::Up {
            return Ok(());
        }
        if self.now_ns < this.disk.stalled_until_ns {
            let until_ns = this.disk.stalled_until_ns;
            self.at(until_ns, Happening::Written { node, life, id });
            return Ok(());
        }
        let Some(write) = this.disk.in_flight.remove(&id) else { return Ok(()) };
        this.disk.written_ns = this.clock.monotonic_ns(self.now_ns);
        let token = write.token;
        let result = if std::mem::take(&mut this.disk.fail_next) {
            this.write_failed = true;
            self.coverage.fault(Fault::SyncError);
            // What such a write leaves behind is anybody's guess.
            this.disk.fail(write, &mut self.disk_rng).expect("memory takes writes");
            Err(EIO)
        } else {
            let all = write.bytes.len();
            let blocks = (all / crate::disk::BLOCK_BYTES) as u64;
            let short = self.chaos_on && blocks > 1 && self.disk_rng.ppm(self.plan.rate(Fault::ShortWrite));
            let bytes =
                if short { crate::disk::BLOCK_BYTES * self.disk_rng.between(1, blocks - 1) as usize } else { all };
            if short {
                self.coverage.fault(Fault::ShortWrite);
            }
            this.disk.complete(write, bytes).expect("memory takes writes");
            Ok(bytes)
        };
        this.port.borrow_mut().inbox.push_back(Arrival::Written { token, result });
        self.note(What::Written(node, result));
        self.wake_node(node);
        Ok(())
    }

    fn begin_job(&mut self, node: usize, job: Job) {
        let this = &mut self.nodes[node];
        this.next_job += 1;
        let (life, id) = (this.life, this.next_job);
        this.jobs.insert(id, job);
        let took_ns = 100_000 + self.disk_rng.exponential(4 * self.plan.timing.sync_mean_ns);
        self.after(took_ns, Happening::JobDone { node, life, id });
    }

    fn on_job(&mut self, node: usize, life: u64, id: u64) -> Checked {
        let this = &mut self.nodes[node];
        if this.life != life || this.health != Health::Up {
            return Ok(());
        }
        let Some(job) = this.jobs.remove(&id) else { return Ok(()) };
        let fails = self.chaos_on && self.disk_rng.ppm(self.plan.rate(Fault::ReadError));
        let unreadable = || LogError::NotFormatted { dir: this.dir.path().to_path_buf() };
        let (name, done) = match job {
            Job::PrepareSegment(_) if self.now_ns < this.disk.no_space_until_ns => {
                let error =
                    LogError::NoSpace { path: this.dir.path().to_path_buf(), bytes: crate::node::SEGMENT_BYTES };
                ("no space for a segment", Done::Segment(Err(error)))
            }
            Job::Read(request, _) if fails => ("a read fails", Done::Read(request, Err(unreadable()))),
            Job::Stream(ticket, ..) if fails => {
                ("a read for a subscriber fails", Done::Stream(ticket, Err(unreadable())))
            }
            Job::CatchUp { to, first, .. } if fails => {
                ("a read for a peer fails", Done::CatchUp { to, first, values: Err(unreadable()) })
            }
            // What it reads was never written, and its own file would be lost with it.
            Job::Checkpoint(_) if fails || this.disk.lying => {
                ("a read for a snapshot fails", Done::Checkpoint(Err(unreadable())))
            }
            Job::Transfer(TransferJob::Read(_, chunks)) if fails => {
                ("a read of chunks fails", Done::Transfer(TransferDone::Read(chunks, Err(unreadable()))))
            }
            // What it rests on was never written, and its own file would be lost with it.
            Job::Transfer(TransferJob::Install(_, whole, _)) if this.disk.lying => {
                ("a snapshot cannot be installed", Done::Transfer(TransferDone::Installed(whole, Err(unreadable()))))
            }
            Job::Evidence { request, .. } if fails => {
                ("a look for evidence fails", Done::Evidence(request, Err(unreadable())))
            }
            job => {
                let name = match job {
                    Job::PrepareSegment(_) => "a segment is prepared",
                    Job::Read(..) => "a read is served from disk",
                    Job::Stream(..) => "a subscriber is served from disk",
                    Job::CatchUp { .. } => "catch-up is served from disk",
                    Job::Evidence { .. } => "evidence is looked up on disk",
                    Job::Checkpoint(_) => "a piece of the log is read for a snapshot",
                    Job::RemoveFront(_) => "the log's front is removed",
                    Job::Transfer(TransferJob::Describe(_)) => "a node looks up its snapshots for a member",
                    Job::Transfer(TransferJob::Read(..)) => "chunks of a snapshot are read for a member",
                    Job::Transfer(TransferJob::Open(..)) => "a transfer begins",
                    Job::Transfer(TransferJob::Store(..)) => "chunks of a snapshot are stored",
                    Job::Transfer(TransferJob::Install(..)) => "a snapshot is to be installed",
                    Job::CloseReader => "a reader lets go of removed files",
                };
                let Some(done) = self.perform(node, job)? else { return Ok(()) };
                if let Done::Checkpoint(Ok(Progress::Written(made))) = &done {
                    let compared = self.checks.snapshots.written(node, made)?;
                    self.coverage.mark(if compared { "two snapshots were compared" } else { "a snapshot was made" });
                }
                (name, done)
            }
        };
        if name.ends_with("fails") {
            self.coverage.fault(Fault::ReadError);
        }
        self.coverage.mark(name);
        self.nodes[node].port.borrow_mut().inbox.push_back(Arrival::Done(done));
        self.note(What::JobDone(node, name));
        self.wake_node(node);
        Ok(())
    }

    // The network.

    /// A datagram goes on its way: lost, late, twice, damaged, or just so. `life` is the receiving client's.
    pub(crate) fn transmit(&mut self, from: End, to: End, peers: bool, life: u16, bytes: Rc<[u8]>) {
        let bytes = self.as_released(from, bytes);
        let glance = Glance::of(&bytes);
        self.note(What::Sent(from, to, glance));
        self.net.history.remember(from, to, peers, &bytes);
        if self.losing.iter().any(|losing| losing.takes(self.now_ns, from, to, &bytes)) {
            return self.note(What::Lost(from, to, glance, "script"));
        }
        let copies = 1 + u64::from(self.net.doubles());
        if copies > 1 {
            self.coverage.fault(Fault::Duplicate);
        }
        for _ in 0..copies {
            match self.net.fate(self.now_ns, from, to, bytes.len()) {
                Fate::Lost(why) => {
                    if why == "loss" {
                        self.coverage.fault(Fault::Loss);
                    }
                    self.note(What::Lost(from, to, glance, why));
                }
                Fate::Arrives { delay_ns, late } => {
                    if late {
                        self.coverage.fault(Fault::Delay);
                    }
                    let flipped = self.net.flip(&bytes);
                    if flipped.is_some() {
                        self.coverage.fault(Fault::BitFlip);
                    }
                    let bytes = flipped.unwrap_or_else(|| bytes.clone());
                    self.after(delay_ns, Happening::Datagram { from, to, peers, life, bytes });
                }
            }
        }
    }

    fn on_datagram(&mut self, from: End, to: End, peers: bool, life: u16, bytes: Rc<[u8]>) -> Checked {
        let glance = Glance::of(&bytes);
        match to {
            End::Node(node) => {
                if self.nodes[node].health != Health::Up {
                    self.note(What::Lost(from, to, glance, "down"));
                    return Ok(());
                }
                self.note(What::Arrived(from, to, glance));
                let socket = if peers { Socket::Peers } else { Socket::Clients };
                let address = self.address_of(from);
                let mut port = self.nodes[node].port.borrow_mut();
                if port.waiting[socket_index(socket)] >= RX_BUFFERS {
                    port.inbox.push_back(Arrival::Overrun(socket));
                    self.coverage.fault(Fault::Overrun);
                } else {
                    port.waiting[socket_index(socket)] += 1;
                    self.checks.streams.arrived(node, &bytes);
                    port.inbox.push_back(Arrival::Datagram { socket, from: (!peers).then_some(address), bytes });
                }
                drop(port);
                self.wake_node(node);
                Ok(())
            }
            End::Client(client) => {
                let now_ns = self.now_ns;
                let address = self.address_of(from);
                match &mut self.clients[client] {
                    Client::Appender(appender) if appender.life() != life => {
                        self.note(What::Lost(from, to, glance, "closed"));
                        return Ok(());
                    }
                    Client::Appender(appender) => appender.handle(now_ns, address, &bytes),
                    Client::Reader(reader) => reader.handle(now_ns, address, &bytes),
                    Client::Subscriber(subscriber) => subscriber.handle(now_ns, address, &bytes),
                }
                self.note(What::Arrived(from, to, glance));
                if let Some(node) = node_at(address) {
                    self.hear(client, node, &bytes)?;
                }
                self.drive(client)
            }
            End::Stranger => Ok(()),
        }
    }

    fn address_of(&self, end: End) -> std::net::SocketAddrV4 {
        match end {
            End::Node(node) => node_address(node),
            End::Client(client) => match &self.clients[client] {
                Client::Appender(appender) => appender.address(),
                Client::Reader(reader) => reader.address(),
                Client::Subscriber(subscriber) => subscriber.address(),
            },
            End::Stranger => std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 9, 9, 9), 9),
        }
    }
}
