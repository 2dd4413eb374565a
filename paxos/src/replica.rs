//! The replica's state, its inputs and outputs, its timers, and the one function that changes its role.

use crate::election::PromiseSet;
use crate::leader::Leading;
use crate::learner::Fetch;
use crate::leases::Leases;
use crate::membership::others;
use crate::prevote::PreVote;
use crate::reads::Reads;
use crate::rng::Rng;
use crate::states::States;
use crate::transfer::Transfer;
use crate::types::*;
use crate::window::{Accepted, SlotState, Window};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Configuration, Epoch, Lsn, NodeId, NodeSet, Quorums, Slot};

/// How often an election time-out is doubled at most.
const MOST_BACK_OFF: u32 = 3;
/// And how often at least by a node with damage to repair.
const DAMAGED_BACK_OFF: u32 = 1;

/// One group on one node. See the crate's documentation.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) settings: Settings,
    /// Who governs the slots above the prefix.
    pub(crate) config: Configuration,
    /// Whether this life of this node's log votes in it.
    pub(crate) is_voter: bool,
    /// The slot that it stands in.
    pub(crate) config_slot: Slot,
    /// Its record: who says that it knows of it waits for this.
    pub(crate) config_lsn: Lsn,
    /// A configuration was delivered, and the driver has yet to say what it holds.
    pub(crate) awaited: Option<Slot>,
    /// The other members.
    pub(crate) peers: NodeSet,
    pub(crate) rng: Rng,
    pub(crate) now_ns: u64,
    pub(crate) role: Role,
    pub(crate) halted: Option<Halt>,
    pub(crate) out: VecDeque<Output>,

    // What this node has said, and what of it is durable.
    pub(crate) promised: Ballot,
    pub(crate) promise_lsn: Lsn,
    pub(crate) last_lsn: Lsn,
    pub(crate) durable: Lsn,
    /// Accepted values in log order whose records are not known durable. At most one a record in flight.
    pub(crate) undurable: VecDeque<(Lsn, Slot)>,

    // The log.
    pub(crate) window: Window,
    pub(crate) prefix: Slot,
    /// The highest Lsn of what was delivered: a reply that asserts the prefix waits for it.
    pub(crate) prefix_lsn: Lsn,
    /// The highest slot accepted in the promised ballot: a higher accept with a hole below it shows a loss.
    pub(crate) highest_in_ballot: Slot,
    /// The highest slot that anyone called chosen.
    pub(crate) known_chosen: Slot,
    pub(crate) fetch: Option<Fetch>,
    /// Members of a later configuration than the one known here, as far as they were heard since this one governs; or a leader whom
    /// it leaves out.
    pub(crate) strangers: NodeSet,
    pub(crate) chosen_pending: Ranges,
    pub(crate) chosen_due_ns: Option<u64>,

    // Elections.
    pub(crate) leader: Option<NodeId>,
    pub(crate) highest_seen: Ballot,
    pub(crate) election_at_ns: u64,
    pub(crate) lost_elections: u32,
    /// Elections in a row in which all members promised, and none of it led to a plan.
    pub(crate) hopeless_elections: u32,
    pub(crate) pre_vote: PreVote,
    /// It was a member, by a configuration that it knew, and is none by the one that it knows.
    pub(crate) removed: bool,
    pub(crate) promises: BTreeMap<NodeId, PromiseSet>,
    pub(crate) leading: Leading,
    pub(crate) resent: u64,
    /// When each member was last heard, by node number.
    pub(crate) heard_ns: BTreeMap<NodeId, u64>,
    /// By member: the highest prefix that an answer of its to a heartbeat named, and when the last one came.
    pub(crate) prefixes: BTreeMap<NodeId, (Slot, u64)>,
    /// The chosen watermark that a leader told last, and its ballot.
    pub(crate) watermark: Option<(Ballot, Slot)>,
    pub(crate) tick_at_ns: u64,
    pub(crate) reads: Reads,
    pub(crate) states: States,
    pub(crate) leases: Leases,
    pub(crate) transfer: Option<Transfer>,

    // Who may vote.
    pub(crate) founded: Option<Vec<(NodeId, u64)>>,
    pub(crate) founded_lsn: Lsn,
    /// The last record of its log when this life began.
    pub(crate) found_lsn: Lsn,
    pub(crate) confirmed: BTreeMap<NodeId, u64>,
    pub(crate) counted: BTreeMap<NodeId, Lsn>,
    pub(crate) marked: BTreeMap<NodeId, Lsn>,

    // Damage.
    pub(crate) unknown_all: bool,
    /// What damage took, while that may hide something.
    pub(crate) damaged: Vec<LsnRun>,
    pub(crate) recovered_promise: Ballot,
}

impl Replica {
    /// A replica as recovery found it. It presents itself to its peers before it votes.
    ///
    /// # Panics
    /// If the quorums do not intersect: the configuration was not checked.
    pub fn new(settings: Settings, restart: Restart, now_ns: u64) -> Replica {
        assert!(settings.quorums.intersect(settings.members.len()), "quorums that do not intersect");
        let founding = (Slot::ZERO, Configuration::founding(&settings.members, settings.quorums));
        let (config_slot, config) = restart.configuration.unwrap_or(founding);
        let mut replica = Replica {
            config,
            is_voter: false,
            config_slot,
            config_lsn: Lsn::ZERO,
            awaited: None,
            peers: others(&config, settings.me),
            rng: Rng::new(settings.seed),
            now_ns,
            role: Role::Joining,
            halted: None,
            out: VecDeque::with_capacity(256),
            promised: restart.promised,
            promise_lsn: restart.last_lsn,
            last_lsn: restart.last_lsn,
            durable: restart.last_lsn,
            undurable: VecDeque::with_capacity(2 * settings.window_slots as usize),
            window: Window::new(restart.applied, 2 * settings.window_slots as usize + 2),
            prefix: restart.applied,
            prefix_lsn: restart.last_lsn,
            highest_in_ballot: restart.applied,
            known_chosen: restart.chosen_upto.max(restart.applied),
            fetch: None,
            strangers: NodeSet::EMPTY,
            chosen_pending: Ranges::default(),
            chosen_due_ns: None,
            leader: None,
            highest_seen: restart.promised,
            election_at_ns: u64::MAX,
            lost_elections: 0,
            hopeless_elections: 0,
            pre_vote: PreVote::default(),
            removed: restart.removed,
            promises: BTreeMap::new(),
            leading: Leading::default(),
            resent: 0,
            heard_ns: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            watermark: None,
            tick_at_ns: now_ns,
            reads: Reads::new(settings.members.len()),
            states: States::default(),
            leases: Leases::new(&settings, &restart, now_ns),
            transfer: None,
            founded: restart.founded,
            founded_lsn: Lsn::ZERO,
            found_lsn: restart.last_lsn,
            confirmed: BTreeMap::new(),
            counted: restart.counted.iter().copied().collect(),
            marked: restart.counted.iter().copied().collect(),
            unknown_all: false,
            damaged: Vec::new(),
            recovered_promise: restart.promised,
            settings,
        };
        replica.note_standing();
        replica.take_over(&restart.held, restart.unknown, restart.damaged);
        replica.out.clear();
        replica
    }

    /// Puts what recovery found above the prefix into the window.
    fn take_over(&mut self, held: &[Held], unknown: Unknown, damaged: Vec<LsnRun>) {
        for value in held.iter().filter(|value| value.slot > self.prefix) {
            let state = self.window.entry(value.slot);
            state.accepted = Some(Accepted { ballot: value.ballot, lsn: self.durable, mark: value.mark });
            state.chosen = value.chosen.is_some();
            state.epoch = value.chosen.unwrap_or_default();
            state.unknown = value.unknown && !state.chosen;
        }
        if unknown != Unknown::Nothing {
            self.damaged = damaged;
        }
        match unknown {
            Unknown::Nothing => {}
            Unknown::All => self.unknown_all = true,
            Unknown::Slots(slots) => {
                for slot in slots.into_iter().filter(|slot| *slot > self.prefix) {
                    // What is held and known chosen stands, whatever else the log had of that slot.
                    let state = self.window.entry(slot);
                    state.unknown = !state.chosen;
                }
            }
        }
    }

    /// Something happened at `now_ns`, monotonic nanoseconds that never decrease. Outputs are then in
    /// [`Replica::poll_output`], to be carried out in order.
    pub fn step(&mut self, now_ns: u64, input: Input) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.role == Role::Halted {
            return;
        }
        match input {
            Input::Message { from, epoch, lsn, message } => self.on_message(from, epoch, lsn, message),
            Input::Propose => self.propose(),
            Input::BeginChange => self.begin_change(),
            Input::ProposeConfiguration => self.propose_configuration(),
            Input::Configured(configuration) => self.on_configured(*configuration),
            Input::Read => self.on_read(),
            Input::Checkpoint(mark) => self.on_checkpoint(mark),
            Input::Transfer { to } => self.transfer(to),
            Input::Persisted { upto } => self.on_persisted(upto),
            Input::Timeout => self.on_timeout(),
        }
        if self.role != Role::Halted {
            self.deliver();
            self.settle_reads();
            self.settle_transfer();
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Timeout`] is due next.
    pub fn poll_timeout(&self) -> u64 {
        if self.role == Role::Halted {
            return u64::MAX;
        }
        let mut due = self.election_at_ns.min(self.chosen_due_ns.unwrap_or(u64::MAX)).min(self.transfer_due_ns());
        if self.leads() {
            due = due.min(self.leading.heartbeat_at_ns);
        }
        if self.ticking() {
            due = due.min(self.tick_at_ns);
        }
        due
    }

    /// Whether something is outstanding that may have to be sent again.
    fn ticking(&self) -> bool {
        match self.role {
            // A plan may hold more than one burst, or wait for a value, with nothing open in the window.
            Role::Joining | Role::Candidate | Role::Preparing => true,
            Role::Leader => self.window.last() > self.prefix || self.fetch.is_some() || self.reads.is_open(),
            Role::Follower => self.fetch.is_some() || self.reads.is_open() || self.pre_vote.is_open(),
            Role::Halted => false,
        }
    }

    fn on_message(&mut self, from: NodeId, epoch: Epoch, lsn: Lsn, message: Message) {
        if !self.peers.contains(from) {
            if !self.hear_stranger(from, epoch, &message) {
                return;
            }
            self.strangers.insert(from);
        }
        self.heard_ns.insert(from, self.now_ns);
        match message {
            Message::Hello { incarnation, fresh: _, start, prefix } => {
                self.on_hello((from, epoch), incarnation, start, prefix);
            }
            Message::HelloAck { incarnation, to_incarnation, to_start, founded_with, counted, prefix } => {
                let to = (to_incarnation, to_start);
                self.on_hello_ack((from, epoch), incarnation, to, founded_with, counted, prefix);
            }
            Message::NotMember => self.on_not_member(epoch),
            Message::FetchChosen { first, last } => self.on_fetch_chosen(from, first, last),
            Message::Learn { slot, ballot, mark } => self.on_learn(slot, ballot, mark, epoch),
            Message::FetchValue { slot, ballot } => self.on_fetch_value(from, slot, ballot),
            _ if self.role == Role::Joining => self.greet(from),
            Message::Prepare { ballot, prefix } => self.on_prepare(from, ballot, prefix),
            Message::Accept { ballot, slot, mark } => self.on_accept(from, ballot, slot, mark),
            Message::Heartbeat { ballot, chosen, probe, lease_ns } => {
                self.on_heartbeat(from, lsn, ballot, chosen, (probe, lease_ns), epoch);
            }
            Message::Commit { ballot, ranges } => self.on_commit(from, ballot, &ranges),
            Message::PreVote { start, round } => self.on_pre_vote(from, start, round),
            Message::PreVoteAck { start, round, granted, promised } => {
                self.on_pre_vote_ack(from, (start, round), granted, promised);
            }
            Message::Refused { promised } => self.on_refused(promised),
            Message::Promise { ballot, prefix, part, parts, unknown_all, reports } => {
                if self.count_lsn(from, epoch, lsn) {
                    self.on_promise((from, epoch), ballot, prefix, (part, parts), unknown_all, &reports);
                }
            }
            Message::Accepted { ballot, upto, bits } => {
                if self.count_lsn(from, epoch, lsn) {
                    self.on_accepted(from, ballot, upto, bits);
                }
            }
            Message::HeartbeatAck { ballot, prefix, probe, lease_ns } => {
                if self.count_lsn(from, epoch, lsn) {
                    self.hear_prefix(from, prefix);
                    self.on_heartbeat_ack(from, ballot, probe, lease_ns);
                }
            }
            Message::Release { ballot, probe } => self.on_release(from, ballot, probe),
            Message::TakeOver { ballot, upto } => self.on_take_over(from, ballot, upto),
            Message::StateMarks { marks } => self.on_state_marks(from, marks),
            Message::ReadIndex { start, round } => self.on_read_index(from, start, round),
            Message::ReadIndexAck { start, round, index } => self.on_read_index_ack(start, round, index),
            Message::Missing { ballot, first, last } => self.on_missing(from, ballot, first, last),
            Message::Value { slot, ballot, mark } => self.on_value(slot, ballot, mark),
        }
    }

    /// Remembers a peer's durable Lsn. False: it is behind what was counted before, so its word must not count (it
    /// lost state, or the datagram is an old one).
    pub(crate) fn count_lsn(&mut self, from: NodeId, epoch: Epoch, lsn: Lsn) -> bool {
        if !self.is_of_this_life(from, epoch) {
            return false;
        }
        let counted = self.counted.entry(from).or_default();
        let unguarded = mutant("old_reply_counted") || mutant("old_promise_counted");
        if lsn < *counted && !unguarded {
            return false;
        }
        *counted = lsn.max(*counted);
        true
    }

    fn on_persisted(&mut self, upto: Lsn) {
        assert!(upto >= self.durable && upto <= self.last_lsn, "durable beyond what was logged, or backwards");
        self.durable = upto;
        let mut voted = false;
        while let Some((lsn, slot)) = self.undurable.front().copied() {
            if lsn > upto {
                break;
            }
            self.undurable.pop_front();
            if self.leads() {
                self.vote(slot, self.settings.me);
            }
            voted = true;
        }
        if self.role == Role::Joining {
            self.finish_joining();
        }
        if self.role == Role::Candidate {
            self.conclude_phase1();
        }
        if voted && self.role == Role::Follower {
            self.send_accepted();
        }
    }

    fn on_timeout(&mut self) {
        if self.chosen_due_ns.is_some_and(|due| self.now_ns >= due) {
            self.emit_chosen();
        }
        if self.ticking() && self.now_ns >= self.tick_at_ns {
            self.tick_at_ns = self.now_ns + self.settings.retransmit_ns;
            match self.role {
                Role::Joining => self.say_hello(),
                Role::Candidate if mutant("stands_again_each_tick") => self.stand(Reason::ElectionTimeout),
                Role::Follower | Role::Candidate if self.pre_vote.is_open() => self.send_pre_vote(),
                Role::Candidate => self.send_prepare(),
                Role::Preparing | Role::Leader => self.resend_open(),
                Role::Follower | Role::Halted => {}
            }
            self.retry_fetch();
            self.retry_reads();
        }
        if self.leads() && self.now_ns >= self.leading.heartbeat_at_ns {
            self.beat();
        }
        if self.now_ns >= self.election_at_ns {
            self.stand_if_free();
        }
    }

    /// Stands for election, or, within a lease that it granted, puts it off until a little after the lease's end: by chance, so
    /// that those who granted the same lease do not stand together, and by so much that a leader who was elected meanwhile
    /// is heard before. Less than the shortest election time-out goes by, and what is between it and the longest.
    fn stand_if_free(&mut self) {
        if !self.votes() {
            self.ask_whether_member();
        } else if self.is_bound(self.settings.me) {
            let Settings { election_min_ns, election_max_ns, heartbeat_ns, .. } = self.settings;
            let spread_ns = self.rng.between(0, election_max_ns - election_min_ns);
            self.election_at_ns = self.bound_until_ns() + 2 * heartbeat_ns + spread_ns;
        } else {
            self.begin_pre_vote();
        }
    }

    /// The only place where the role changes.
    pub(crate) fn become_role(&mut self, role: Role, reason: Reason) {
        self.role = role;
        self.pre_vote.end();
        match role {
            Role::Follower => {
                if mutant("step_down_clears_promise") && reason == Reason::QuorumLost {
                    self.promised = Ballot::ZERO;
                }
                self.emit_chosen();
                self.promises.clear();
                self.leading.reset();
                self.reads.reset_leading();
                self.leases.reset_leading();
                self.chosen_due_ns = None;
                self.expect_leader();
            }
            Role::Candidate => {
                self.leader = None;
                self.leading.reset();
                self.reads.reset_leading();
                self.leases.reset_leading();
                self.promises.clear();
                self.tick_at_ns = self.now_ns + self.settings.retransmit_ns;
                self.expect_leader();
            }
            Role::Preparing => {
                self.leader = Some(self.settings.me);
                self.election_at_ns = u64::MAX;
                self.lost_elections = 0;
                self.hopeless_elections = 0;
                self.tick_at_ns = self.now_ns + self.settings.retransmit_ns;
            }
            Role::Leader | Role::Joining => {}
            Role::Halted => self.election_at_ns = u64::MAX,
        }
        self.out.push_back(Output::Became { role, reason });
    }

    pub(crate) fn halt(&mut self, halt: Halt) {
        self.halted = Some(halt);
        self.become_role(Role::Halted, Reason::Halted);
        self.out.push_back(Output::Halt(halt));
    }

    /// An operator's order: it never votes again, and what it has delivered can be read.
    pub fn halt_by_order(&mut self) {
        self.halt(Halt::Ordered);
    }

    /// Starts the time-out after which this node stands for election.
    pub(crate) fn expect_leader(&mut self) {
        if !self.votes() {
            // Not to stand then, but to ask whether it is a member still.
            self.election_at_ns = self.now_ns + self.settings.election_max_ns;
            return;
        }
        let settings = &self.settings;
        let spread = self.rng.between(settings.election_min_ns, settings.election_max_ns);
        self.election_at_ns = self.now_ns + (spread << self.back_off());
    }

    /// How often the election time-out is doubled: for each election lost in a row, and once by a node with damage to repair,
    /// which lets the others stand first: it may lack what phase 1 needs, and its recovery would end its candidacy.
    fn back_off(&self) -> u32 {
        let least = if self.damaged.is_empty() { 0 } else { DAMAGED_BACK_OFF };
        self.lost_elections.clamp(least, MOST_BACK_OFF)
    }

    /// Logs a record under the current promise.
    pub(crate) fn persist(&mut self, record: Record) -> Lsn {
        self.last_lsn = self.last_lsn.next();
        self.out.push_back(Output::Persist { lsn: self.last_lsn, promised: self.promised, record });
        self.last_lsn
    }

    pub(crate) fn send(&mut self, to: NodeSet, message: Message, after: Lsn) {
        if !to.is_empty() {
            self.out.push_back(Output::Send { to, message, after, epoch: self.config.epoch });
        }
    }

    pub(crate) fn send_to(&mut self, to: NodeId, message: Message, after: Lsn) {
        self.send([to].into_iter().collect(), message, after);
    }

    /// Whether this node leads in the ballot that it promised.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Preparing | Role::Leader)
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Why it halted, if it did.
    pub fn halted(&self) -> Option<Halt> {
        self.halted
    }

    /// Who governs the slots above the delivered ones.
    pub fn configuration(&self) -> &Configuration {
        &self.config
    }

    /// How many must answer.
    pub fn quorums(&self) -> Quorums {
        self.config.quorums
    }

    /// Slots that a leader may have open.
    pub fn window_slots(&self) -> u64 {
        self.settings.window_slots
    }

    /// The promise.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The node that leads, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Slots up to here are held, known chosen and delivered.
    pub fn prefix(&self) -> Slot {
        self.prefix
    }

    /// The highest slot that is known to be chosen by anyone.
    pub fn known_chosen(&self) -> Slot {
        self.known_chosen.max(self.prefix)
    }

    /// The highest slot that something is held at.
    pub fn highest_held(&self) -> Slot {
        self.window.last()
    }

    /// As a leader: what it proposed that is not chosen yet, and whose votes for it are counted.
    pub fn votes_counted(&self) -> impl Iterator<Item = (Slot, NodeSet)> {
        let ballot = self.promised;
        let open = move |state: &SlotState| !state.chosen && state.accepted.is_some_and(|held| held.ballot == ballot);
        self.window
            .iter()
            .filter(move |(_, state)| self.leads() && open(state))
            .map(|(slot, state)| (slot, state.votes))
    }

    /// The last record's Lsn.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// The ballot in which a value is held above the prefix.
    pub fn held(&self, slot: Slot) -> Option<Ballot> {
        self.window.get(slot)?.accepted.map(|accepted| accepted.ballot)
    }

    /// How many slots damage hides; `None`: all above the prefix.
    pub fn unknown_slots(&self) -> Option<usize> {
        (!self.unknown_all).then(|| self.window.iter().filter(|(_, state)| state.unknown).count())
    }

    /// The highest Lsn counted from a peer.
    pub fn counted(&self, peer: NodeId) -> Lsn {
        self.counted.get(&peer).copied().unwrap_or_default()
    }

    /// Whether the group is founded, as far as this node knows.
    pub fn is_founded(&self) -> bool {
        self.founded.is_some()
    }

    /// Accept requests that were sent again.
    pub fn resent(&self) -> u64 {
        self.resent
    }
}
