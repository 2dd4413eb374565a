//! Reads that see all that was acknowledged before they arrived, from any replica (read-index).
//!
//! Reads wait together. A replica gathers those that arrive into a *round*, asks the leader for the chosen watermark, and
//! answers the round once it has delivered that far; what arrives meanwhile waits for the next round. The leader notes its
//! delivered prefix, sends a heartbeat with a new number, and answers with that prefix when n - q1 + 1 members, itself
//! included, have answered that heartbeat or a later one: so many leave no phase 1 quorum that had elected another leader
//! before the heartbeat left. Questions that arrive meanwhile wait for the next confirmation.
//!
//! Heartbeats are told apart by numbers within a ballot, never by clocks: a paused process wakes to old answers, and those
//! of an old number count for nothing. A new leader confirms nothing before its barrier is delivered: until then it may not
//! know of what its predecessor acknowledged.
//!
//! A round that was answered also dates the state: all that was chosen when the round began is here. That is what bounded
//! reads rest on, and a node that hears no quorum any more. So a follower asks by itself where no read did for an election
//! time-out, and a leader's regular heartbeats date what it has. The driver keeps the reads; here is one round at most, and one question of each member.

use crate::replica::Replica;
use crate::types::*;
use alloc::vec::Vec;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn, NodeId, Slot};

/// A round of this replica's reads, under way.
#[derive(Clone, Copy, Debug)]
struct Round {
    number: u64,
    began_ns: u64,
    /// The leader's answer: all that was chosen when the round began lies at or below it.
    index: Option<Slot>,
    ask_again_ns: u64,
}

/// A member's question for the watermark. Its newest replaces the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    from: NodeId,
    /// The asker's start: an answer to an earlier life of it must not answer this one.
    start: u64,
    round: u64,
}

/// The leader asks whether it still leads.
#[derive(Clone, Copy, Debug)]
struct Confirmation {
    /// Answers to this heartbeat and to later ones count.
    probe: u64,
    index: Slot,
    probe_again_ns: u64,
}

/// What a replica keeps for reads.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    /// The round that a read joins now.
    next: u64,
    /// A read has joined it.
    wanted: bool,
    round: Option<Round>,
    /// When the last round that was answered began, or, on a leader, the last heartbeat left that confirmed it.
    current_at_ns: Option<u64>,
    /// When the last round began.
    asked_at_ns: u64,

    // As leader, in the ballot that it leads in.
    /// The number of the last heartbeat.
    probe: u64,
    /// The highest number that each member has answered.
    answered: Vec<(NodeId, u64)>,
    confirmation: Option<Confirmation>,
    /// Whom the confirmation under way is for.
    asked: Vec<Question>,
    /// Whom the next one is for.
    waiting: Vec<Question>,
}

impl Reads {
    pub(crate) fn new(members: usize) -> Reads {
        Reads {
            next: 1,
            wanted: false,
            round: None,
            current_at_ns: None,
            asked_at_ns: 0,
            probe: 0,
            answered: Vec::with_capacity(members),
            confirmation: None,
            asked: Vec::with_capacity(members),
            waiting: Vec::with_capacity(members),
        }
    }

    /// A leadership begins or ends: what was answered in another ballot, and whoever asked in it, is forgotten. Askers ask again.
    pub(crate) fn reset_leading(&mut self) {
        self.probe = 0;
        self.answered.clear();
        self.confirmation = None;
        self.asked.clear();
        self.waiting.clear();
    }

    /// Whether something may have to be sent again.
    pub(crate) fn is_open(&self) -> bool {
        self.confirmation.is_some() || self.round.is_some_and(|round| round.index.is_none())
    }

    /// A member answered a heartbeat of this ballot.
    fn note(&mut self, from: NodeId, probe: u64) {
        match self.answered.iter_mut().find(|(node, _)| *node == from) {
            Some((_, highest)) => *highest = probe.max(*highest),
            None => self.answered.push((from, probe)),
        }
    }
}

impl Replica {
    /// The number of the round that a read joins which arrives now. It is answered with the [`Output::ReadsReady`] that
    /// names this round or a later one.
    pub fn read_round(&self) -> u64 {
        self.reads.next
    }

    /// When the last round that was answered began (or the last heartbeat left by which a quorum confirmed this leader), on this
    /// node's clock: all that was acknowledged before that moment is delivered here.
    pub fn current_at_ns(&self) -> Option<u64> {
        self.reads.current_at_ns
    }

    /// Whether the leader has answered the round under way, and only the delivery of what it named is still to come.
    pub fn read_awaits_delivery(&self) -> bool {
        self.reads.round.is_some_and(|round| round.index.is_some())
    }

    // As the one who asks.

    /// Reads have joined the next round.
    pub(crate) fn on_read(&mut self) {
        self.reads.wanted = true;
        self.begin_round();
    }

    /// A heartbeat of the leader came: a node that no read made ask for so long asks now, so that it can say how old its state is
    /// when it hears nobody any more.
    pub(crate) fn date_state(&mut self) {
        if self.now_ns >= self.reads.asked_at_ns + self.settings.election_max_ns {
            self.on_read();
        }
    }

    fn begin_round(&mut self) {
        if self.reads.round.is_some() || !self.reads.wanted {
            return;
        }
        let number = self.reads.next;
        self.reads.next += 1;
        self.reads.wanted = false;
        self.reads.asked_at_ns = self.now_ns;
        self.reads.round = Some(Round { number, began_ns: self.now_ns, index: None, ask_again_ns: self.now_ns });
        self.ask_leader();
    }

    /// Puts the round's question to whoever leads. It stays one question however often it is put: each copy left after
    /// the round's reads had arrived.
    pub(crate) fn ask_leader(&mut self) {
        let (me, start) = (self.settings.me, self.settings.seed);
        let again_ns = self.now_ns + self.settings.retransmit_ns;
        let Some(round) = self.reads.round.as_mut().filter(|round| round.index.is_none()) else { return };
        round.ask_again_ns = again_ns;
        let number = round.number;
        self.tick_at_ns = self.tick_at_ns.min(again_ns).max(self.now_ns);
        match self.leader {
            Some(leader) if leader == me => self.on_read_index(me, start, number),
            Some(leader) => self.send_to(leader, Message::ReadIndex { start, round: number }, Lsn::ZERO),
            None => {}
        }
    }

    pub(crate) fn on_read_index_ack(&mut self, start: u64, number: u64, index: Slot) {
        if start != self.settings.seed {
            return;
        }
        let Some(round) = self.reads.round.as_mut().filter(|round| round.number == number) else { return };
        if round.index.is_none() {
            round.index = Some(index);
            self.known_chosen = self.known_chosen.max(index);
            self.fetch_missing();
        }
    }

    /// Ends the rounds whose watermark is delivered, and begins the next if reads wait for it. Run after each delivery.
    pub(crate) fn settle_reads(&mut self) {
        while let Some(Round { number, began_ns, index: Some(index), .. }) = self.reads.round {
            if self.prefix < index && !mutant("read_before_delivery") {
                return;
            }
            self.reads.round = None;
            self.reads.current_at_ns = Some(if mutant("bounded_from_answer") { self.now_ns } else { began_ns });
            self.out.push_back(Output::ReadsReady { round: number });
            self.begin_round();
        }
    }

    // As leader.

    /// A member, or this node itself, asks for the watermark.
    pub(crate) fn on_read_index(&mut self, from: NodeId, start: u64, round: u64) {
        let question = Question { from, start, round };
        // Who asks one that does not lead asks again, and then perhaps another.
        if !self.leads() || self.reads.asked.contains(&question) {
            return;
        }
        match self.reads.waiting.iter_mut().find(|waiting| waiting.from == from) {
            Some(waiting) if waiting.start == start && waiting.round > round => {}
            Some(waiting) => *waiting = question,
            None => self.reads.waiting.push(question),
        }
        self.begin_confirmation();
    }

    /// Begins to confirm that this node leads, for all who wait; not before it serves.
    pub(crate) fn begin_confirmation(&mut self) {
        let serves = self.role == Role::Leader && self.votes() || mutant("read_before_barrier") && self.leads();
        if !serves || self.reads.confirmation.is_some() || self.reads.waiting.is_empty() {
            return;
        }
        core::mem::swap(&mut self.reads.asked, &mut self.reads.waiting);
        let joins_earlier = mutant("read_joins_earlier_round");
        if !joins_earlier {
            self.probe();
        }
        let probe = if joins_earlier { 1 } else { self.reads.probe };
        let probe_again_ns = self.now_ns + self.settings.retransmit_ns;
        self.reads.confirmation = Some(Confirmation { probe, index: self.prefix, probe_again_ns });
        self.tick_at_ns = self.tick_at_ns.min(probe_again_ns).max(self.now_ns);
        self.conclude_confirmation();
    }

    /// The number of the last heartbeat in this ballot.
    pub(crate) fn last_probe(&self) -> u64 {
        self.reads.probe
    }

    /// A heartbeat to all, with the next number. It does not put off the next regular one, in which a leader that nobody
    /// answers steps down.
    pub(crate) fn probe(&mut self) {
        self.reads.probe += 1;
        let highest = || self.window.iter().filter(|(_, state)| state.chosen).last().map(|(slot, _)| slot);
        let chosen = if mutant("heartbeat_over_holes") { highest().unwrap_or(self.prefix) } else { self.prefix };
        let (probe, lease_ns) = (self.reads.probe, self.lease_asked_ns());
        let beat = Message::Heartbeat { ballot: self.promised, chosen, probe, lease_ns };
        self.leases.leaves(probe, self.now_ns);
        self.send(self.peers, beat, Lsn::ZERO);
    }

    pub(crate) fn on_heartbeat_ack(&mut self, from: NodeId, ballot: Ballot, probe: u64, granted_ns: u64) {
        if self.leads() && ballot == self.promised {
            self.leading.answered_ns.insert(from, self.now_ns);
            if self.config.is_voter(from) || mutant("non_voter_counted") {
                self.count_grant(from, probe, granted_ns);
                self.reads.note(from, probe);
            }
            self.date_by_heartbeat();
            self.conclude_confirmation();
        }
    }

    /// Members of which one at least is in every phase 1 quorum.
    pub(crate) fn confirmation_quorum(&self) -> usize {
        self.config.voters().len() - self.config.quorums.phase1 + 1
    }

    /// Dates a leader's state by the newest heartbeat that enough members have answered.
    fn date_by_heartbeat(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let others = self.confirmation_quorum() - 1;
        let enough = |probe: &u64| self.reads.answered.iter().filter(|(_, highest)| highest >= probe).count() >= others;
        let confirmed = self.reads.answered.iter().map(|(_, highest)| *highest).filter(enough).max();
        if let Some(left_ns) = confirmed.and_then(|probe| self.leases.left_at(probe)) {
            self.reads.current_at_ns = self.reads.current_at_ns.max(Some(left_ns));
        }
    }

    /// Answers all who asked, if enough members have answered.
    fn conclude_confirmation(&mut self) {
        let Some(Confirmation { probe, index, .. }) = self.reads.confirmation else { return };
        let answered = self.reads.answered.iter().filter(|(_, highest)| *highest >= probe).count();
        if answered + 1 < self.confirmation_quorum() && !mutant("read_unconfirmed") {
            return;
        }
        self.reads.confirmation = None;
        // Taken out to be walked, and put back for its memory.
        let mut asked = core::mem::take(&mut self.reads.asked);
        for Question { from, start, round } in asked.drain(..) {
            if from == self.settings.me {
                self.on_read_index_ack(start, round, index);
            } else {
                self.send_to(from, Message::ReadIndexAck { start, round, index }, Lsn::ZERO);
            }
        }
        self.reads.asked = asked;
        self.begin_confirmation();
    }

    /// What stayed unanswered for long is asked again: the question of this node's round, and the leader's heartbeat.
    pub(crate) fn retry_reads(&mut self) {
        let (now_ns, again_ns) = (self.now_ns, self.now_ns + self.settings.retransmit_ns);
        if let Some(confirmation) = self.reads.confirmation.as_mut() {
            let due = confirmation.probe_again_ns <= now_ns;
            confirmation.probe_again_ns = if due { again_ns } else { confirmation.probe_again_ns };
            self.tick_at_ns = self.tick_at_ns.min(confirmation.probe_again_ns);
            if due {
                self.probe();
            }
        }
        let Some(round) = self.reads.round.filter(|round| round.index.is_none()) else { return };
        if round.ask_again_ns <= now_ns {
            self.ask_leader();
        } else {
            self.tick_at_ns = self.tick_at_ns.min(round.ask_again_ns);
        }
    }
}
